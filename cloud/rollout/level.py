"""Compare the same days where there is a control group: its days weigh as the candidate's do. Pure."""

from __future__ import annotations

import collections
import typing

Row = typing.Mapping[str, typing.Any]
_PLACE = frozenset({"region", "epoch", "arm", "device", "day", "version", "name", "scale", "by_day"})


def levelled(rows: typing.Sequence[Row], n: str) -> list[Row]:
    """Weigh the incumbent's rows by day, so that each day has the same part of both arms' answers.

    A control group answers from the first day on, the others once they have the candidate: later where it takes long
    to arrive, and where a step grows mostly on its last days. Where days differ, adding up makes differences that are
    none, and hides others. Each device stays one cluster over all of its days.

    Parameters
    ----------
    rows : list of rows
        Of one region and stage.
    n : str
        Column that counts answers.

    Notes
    -----
    Direct standardisation to the candidate's days. Weights add up to the effective sample size (Kish, 1965), so that
    weighing never makes a rate look surer. Days without the candidate weigh nothing.

    Examples
    --------
    >>> rows = [{"arm": 0, "day": 1, "n": 90, "bad": 9}, {"arm": 0, "day": 2, "n": 90, "bad": 45},
    ...         {"arm": 1, "day": 1, "n": 10, "bad": 1}, {"arm": 1, "day": 2, "n": 90, "bad": 45}]
    >>> first, second = levelled(rows, "n")[:2]
    >>> round(first["n"] / second["n"], 6) == round(10 / 90, 6), round(first["bad"] / first["n"], 6)
    (True, 0.1)
    >>> round(first["n"] + second["n"], 1)
    109.8
    """
    counts: dict[int, dict[int, float]] = {0: collections.defaultdict(float), 1: collections.defaultdict(float)}
    for row in rows:
        counts[row["arm"]][row["day"]] += row[n]
    control, candidate = counts[0], counts[1]
    ratios = {day: candidate[day] / control[day] for day in sorted(control) if control[day] and candidate.get(day)}
    if not ratios:
        return list(rows)
    scale = sum(control[day] * ratio for day, ratio in ratios.items())
    scale /= sum(control[day] * ratio * ratio for day, ratio in ratios.items())
    return [
        row if row["arm"] else _weighed(row, ratios[row["day"]] * scale)
        for row in rows
        if row["arm"] or row["day"] in ratios
    ]


def _weighed(row: Row, weight: float) -> Row:
    return {
        key: value if key in _PLACE or not isinstance(value, (int, float)) else value * weight
        for key, value in row.items()
    }
