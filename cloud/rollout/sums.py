"""Turn the fleet's sums into the inputs of a decision. Pure."""

from __future__ import annotations

import collections
import math
import typing

from cloud.analysis.difference import design_effect
from cloud.analysis.records import Arm, Cross, CrossDays, Days, Pairs, Stratum
from cloud.rollout.level import levelled
from shared.summary import restore

Row = typing.Mapping[str, typing.Any]
Totals = dict[typing.Any, tuple[float, float]]


def by(rows: typing.Iterable[Row], key: str, n: str, total: typing.Callable[[Row], float]) -> Totals:
    """Add rows up by a column: value of the column to (n, sum)."""
    out: dict[typing.Any, list[float]] = collections.defaultdict(lambda: [0.0, 0.0])
    for row in rows:
        cell = out[row[key]]
        cell[0] += row[n]
        cell[1] += total(row)
    # In a fixed order, so that the same evidence gives the same decision to the last bit.
    return {name: (cell[0], cell[1]) for name, cell in sorted(out.items()) if cell[0] > 0}


def squares(totals: Totals) -> tuple[float, float, float, float]:
    """Number of clusters, and the sums over them of n^2, n s and s^2."""
    cells = list(totals.values())
    return (
        float(len(cells)),
        sum(n * n for n, _ in cells),
        sum(n * s for n, s in cells),
        sum(s * s for _, s in cells),
    )


def pairs_of(rows: typing.Sequence[Row], *, bernoulli: bool) -> Pairs:
    """Return pairs as one arm over d = good(candidate) - good(incumbent), with devices and days as clusters."""

    def gain(row: Row) -> float:
        return restore(row["sum"])

    g, nn, ns, ss = squares(by(rows, "device", "n", gain))
    return Pairs(
        n=float(sum(row["n"] for row in rows)),
        sum=restore(sum(row["sum"] for row in rows)),
        sumsq=restore(sum(row["sumsq"] for row in rows)),
        g=g,
        g_nn=nn,
        g_ns=ns,
        g_ss=ss,
        days=Days(*squares(by(rows, "day", "n", gain))),
        pos=float(sum(row["pos"] for row in rows)) if bernoulli else None,
        neg=float(sum(row["neg"] for row in rows)) if bernoulli else None,
    )


def chosen(lists: typing.Iterable[Row]) -> list[dict[str, typing.Any]]:
    """Keep of interleaved lists those in which people preferred one version.

    Where few lists are clicked, the rest would put the worst of rankers inside any margin.
    """
    return [{**row, "n": row["pos"] + row["neg"]} for row in lists]


class Measure(typing.NamedTuple):
    """Which columns of the sums make an arm: a count, a sum, the sum of squares, and what the count should be."""

    n: str
    total: typing.Callable[[Row], float]
    square: typing.Callable[[Row], float]
    given: typing.Callable[[Row], float] | None = None


def faults_of(row: Row) -> float:
    """Requests that failed, took too long, or got an approximate answer in place of the model's."""
    return float(min(row["requests"], row["failed"] + row["timed_out"] + row["fallback"]))


FAULTS = Measure("requests", faults_of, faults_of)


def judged_of(row: Row) -> float:
    """Answers whose outcome would judge the arm: those that the model or its table gave."""
    return float(max(row["outcomes"], row["requests"] - row["failed"] - row["fallback"]))


QUALITY = Measure(
    "outcomes", lambda row: restore(row["metric_sum"]), lambda row: restore(row["metric_sumsq"]), judged_of
)

LATENCY = Measure("requests", lambda row: float(row["log2_sum"]), lambda row: float(row["log2_sumsq"]))


LOST = Measure(
    "given", lambda row: float(row["given"] - row["outcomes"]), lambda row: float(row["given"] - row["outcomes"])
)


def strata_of(rows: typing.Sequence[Row], measure: Measure) -> tuple[Stratum, ...]:
    """Return both arms for each (region, epoch), inside each of which the split was constant.

    Where days have more of one arm than of the other, since there is a control group, rows say ``by_day``.
    """
    groups: dict[tuple[str, int], list[Row]] = collections.defaultdict(list)
    for row in rows:
        groups[row["region"], row["epoch"]].append(row)
    strata = []
    for (region, _), seen in sorted(groups.items()):
        group = levelled(seen, measure.n) if seen[0].get("by_day") else seen
        control, candidate = (_side([row for row in group if row["arm"] == arm], measure) for arm in (0, 1))
        strata.append(
            Stratum(
                control=control.arm,
                candidate=candidate.arm,
                cross=Cross(
                    *_products(control.devices, candidate.devices),
                    days=CrossDays(*_products(control.days, candidate.days)),
                ),
                region=region,
            )
        )
    return tuple(strata)


class _Side(typing.NamedTuple):
    """One arm of a stratum, and what each of its devices and days had: both are asked for twice."""

    arm: Arm
    devices: Totals
    days: Totals


def _side(rows: typing.Sequence[Row], measure: Measure) -> _Side:
    devices, days = (by(rows, key, measure.n, measure.total) for key in ("device", "day"))
    g, nn, ns, ss = squares(devices)
    arm = Arm(
        n=float(sum(row[measure.n] for row in rows)),
        sum=sum(map(measure.total, rows)),
        sumsq=sum(map(measure.square, rows)),
        g=g,
        g_nn=nn,
        g_ns=ns,
        g_ss=ss,
        assigned=float(sum(map(measure.given, rows))) if measure.given else None,
        days=Days(*squares(days)),
    )
    return _Side(arm, devices, days)


def lost_alike(rows: typing.Sequence[Row]) -> float:
    """How many outcomes that never came count as one: some devices lose all of theirs, and others none."""
    given = [{**row, "given": judged_of(row)} for row in rows]
    strata = [stratum for stratum in strata_of(given, LOST) if stratum.control.sum + stratum.candidate.sum > 0]
    # As it was seen: to suspect a candidate that loses outcomes a few devices must be enough.
    effect = design_effect(strata, enlarged=False) if strata else 1.0
    return effect if math.isfinite(effect) else float(sum(row["given"] for row in given))


def _products(control: Totals, candidate: Totals) -> tuple[float, float, float, float, float]:
    both = [(control[name], candidate[name]) for name in control if name in candidate]
    return (
        float(len(both)),
        sum(n0 * n1 for (n0, _), (n1, _) in both),
        sum(n0 * s1 for (n0, _), (_, s1) in both),
        sum(s0 * n1 for (_, s0), (n1, _) in both),
        sum(s0 * s1 for (_, s0), (_, s1) in both),
    )
