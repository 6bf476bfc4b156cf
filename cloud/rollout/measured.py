"""Rows of what was measured beside quality, in the form in which two arms are compared. Pure."""

from __future__ import annotations

import collections
import math
import typing

from cloud.config import NumberSettings
from cloud.rollout.sums import Measure, Row
from shared.summary import restore

VALUES = Measure("n", lambda row: float(row["total"]), lambda row: float(row["square"]))
LEAST_BYTES = 8 << 20
_KEY = ("region", "epoch", "arm", "device", "day")


def rows_of_number(
    name: str, settings: NumberSettings, posted: typing.Sequence[Row], served: typing.Sequence[Row]
) -> list[Row]:
    """Return what was posted of one number, in its own units.

    Parameters
    ----------
    posted : list of rows
        Sums of all numbers (``Measures.numbers``).
    served : list of rows
        What the arms answered on the same days. For a mean over answers these are counted, whether or not anything
        was posted for them; nobody posts more numbers than there were answers, whatever the counts say.

    Examples
    --------
    >>> key = {"region": "north", "epoch": 7, "arm": 1, "device": "till-1", "day": 9}
    >>> sent = [key | {"name": "revenue", "scale": 10.0, "n": 2, "sum": 3 << 20, "sumsq": 5 << 20}]
    >>> (row,) = rows_of_number("revenue", NumberSettings(margin=1.0), sent, [key | {"requests": 50}])
    >>> row["n"], row["total"], row["square"]
    (50.0, 30.0, 500.0)
    """
    by_day = any(row.get("by_day") for row in served)
    cells: dict[tuple[typing.Any, ...], list[float]] = collections.defaultdict(lambda: [0.0, 0.0, 0.0])
    for row in posted:
        if row["name"] == name:
            cell, scale = cells[tuple(row[key] for key in _KEY)], row["scale"]
            cell[0] += row["n"]
            cell[1] += restore(row["sum"]) * scale
            cell[2] += restore(row["sumsq"]) * scale * scale
    if settings.per == "answer":
        for row in served:
            cell = cells[tuple(row[key] for key in _KEY)]
            cell[0] = max(cell[0], float(row["requests"]))
    return [
        place | {"n": n, "total": total, "square": square, "by_day": by_day}
        for key, (n, total, square) in cells.items()
        for place in [dict(zip(_KEY, key, strict=True))]
        if n
    ]


def rows_of_memory(sampled: typing.Sequence[Row]) -> list[Row]:
    """Return memory as one value for each device and day: the logarithm, to the base of 2, of the mean in bytes.

    Less than `LEAST_BYTES` counts as so much: beside what a process takes for itself, nobody can tell how much it is.
    """
    rows: list[Row] = []
    for row in sampled:
        if row["n"] and row["sum"] > 0:
            value = math.log2(max(restore(row["sum"]) / row["n"] * row["scale"], LEAST_BYTES))
            place = {key: row[key] for key in _KEY} | {"by_day": row.get("by_day", False)}
            rows.append(place | {"n": 1.0, "total": value, "square": value * value})
    return rows
