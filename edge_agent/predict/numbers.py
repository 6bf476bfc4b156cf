"""Numbers that an application posts with an outcome, and memory that versions take: checked, ready to be recorded."""

from __future__ import annotations

import typing

from edge_agent.records import MemorySeen
from shared.bundle import Manifest
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


def memory_of(engine: Engine, event_s: float) -> list[MemorySeen]:
    """Return how much memory each version takes that is loaded."""
    return [
        MemorySeen(name, bundle.version, active.epoch, arm, int(event_s), bundle.size_bytes)
        for name, active in engine.models.items()
        for arm, bundle in active.arms.items()
        if bundle.size_bytes
    ]
