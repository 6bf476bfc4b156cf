"""Numbers that an application posts with an outcome, and memory that versions take: checked, ready to be recorded."""

from __future__ import annotations

import typing

from edge_agent.records import MemorySeen
from shared.bundle import Manifest
from shared.clock import day_of
from shared.errors import DataError, shown
from shared.summary import LIMIT

if typing.TYPE_CHECKING:
    from edge_agent.predict.engine import Engine

Numbers = tuple[tuple[str, float, float], ...]


def checked(numbers: typing.Mapping[str, object], manifests: typing.Iterable[Manifest]) -> Numbers:
    """Return numbers with their scales.

    Parameters
    ----------
    numbers : mapping
        Name to what was posted.
    manifests : iterable of Manifest
        Those of the versions that run: a name that one of them knows is known, with the scale of the first.

    Raises
    ------
    DataError
        A name is unknown, or a value is no number, not finite, or too large; the field says which.
    """
    scales: dict[str, float] = {}
    for manifest in manifests:
        scales = {one.name: one.scale for one in manifest.numbers} | scales
    found = []
    for name, value in numbers.items():
        field = f"numbers.{shown(name)[1:-1]}"
        if name not in scales:
            known = ", ".join(sorted(scales))
            fix = f"Known are {known:.200}." if known else "They are named in covey.toml, and travel with the model."
            raise DataError("no such number", field=field, fix=fix)
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise DataError(f"{shown(value)} is not a number", field=field)
        limit = LIMIT * scales[name]
        if not -limit <= value <= limit:  # not-a-number is refused too
            raise DataError(
                f"{shown(value)} is not within {limit:g}, {LIMIT:g} times its scale",
                field=field,
                fix="Look at its unit.",
            )
        found.append((name, float(value), scales[name]))
    return tuple(found)


class MemoryMeter:
    """Says once a day how much memory each version takes that is loaded.

    Parameters
    ----------
    engine : Engine
        Holds the versions.
    """

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._said: set[tuple[str, str, int, int, int]] = set()

    def news(self, event_s: float) -> list[MemorySeen]:
        """Return what was not said yet on the day of an event time."""
        day, said, found = day_of(event_s), set(), []
        for name, active in self._engine.models.items():
            for arm, bundle in active.arms.items():
                key = (name, bundle.version, active.epoch, arm, day)
                if bundle.size_bytes:
                    said.add(key)
                    if key not in self._said:
                        found.append(MemorySeen(*key[:-1], int(event_s), bundle.size_bytes))
        self._said = said
        return found
