"""A sample of precomputed answers, asked of the model too, to see whether the table still says what it says."""

from __future__ import annotations

import typing

from edge_agent.predict.loaded import LoadedBundle
from shared.features.compiled import Codes

EVERY = 256
TOLERANCE = 1e-5


class Checked(typing.NamedTuple):
    """How many answers of a version's table were looked at, and how many differ from the model's."""

    checked: int = 0
    differing: int = 0


class Parity:
    """Looks at one precomputed answer in `EVERY`, once its reply is out.

    Answers of a teacher differ from the model's by intent, and so do those of the standard variant in another one; the
    counts then say how often, and are no fault.
    """

    def __init__(self) -> None:
        self._n = 0
        self._told: set[str] = set()
        self.counts: dict[str, Checked] = {}

    def look(self, bundle: LoadedBundle, codes: Codes, outputs: tuple[float, ...]) -> None:
        """Count an answer from the table, and check it if it is its turn.

        Parameters
        ----------
        outputs : tuple of float
            What the table said.
        """
        self._n += 1
        if self._n % EVERY:
            return
        answer = bundle.ask_model(codes)
        if answer is None:
            return
        differs = any(abs(a - b) > TOLERANCE for a, b in zip(outputs, answer, strict=True))
        name = f"{bundle.manifest.model}@{bundle.version}"
        before = self.counts.get(name, Checked())
        self.counts[name] = Checked(before.checked + 1, before.differing + differs)

    def news(self) -> list[str]:
        """Return what is to be told: each version whose table was found to differ, once."""
        new = [name for name, seen in list(self.counts.items()) if seen.differing and name not in self._told]
        self._told.update(new)
        return [f"{name}: {self.counts[name].differing} of {self.counts[name].checked} looked at" for name in new]
