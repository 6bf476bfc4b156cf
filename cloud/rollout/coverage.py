"""Outcomes that come for some answers rather than for others: they can not say which arm is better. Pure."""

from __future__ import annotations

import math
import typing

import msgspec

from cloud.analysis.missing import find_missing
from cloud.analysis.records import Cross, CrossDays, Stratum
from cloud.rollout.sums import QUALITY, Row, lost_alike, strata_of
from shared.metrics import Metric

_ALLOWED = 0.5  # of the margin: as much as a stage may look worse and go on


def answer_decides(
    served: typing.Sequence[Row], metric: Metric, margin: float, alpha: float, *, or_may: bool = False
) -> list[str]:
    """Say so if the candidate's answers get outcomes so much more often than the incumbent's that it matters.

    Where only bad answers are complained about, a worse model has more outcomes, all of them as bad as the other's.
    What the incumbent misses may all have been good. The other way round, `find_missing` counts what the candidate
    misses as bad.

    Parameters
    ----------
    served : list of rows
        Mature sums of both arms' own answers.
    margin : float
        How much worse the candidate may be, in the units of the sums.
    alpha : float
        Chance that it is said of outcomes that come by accident, however often one looks.
    or_may : bool
        Say it also where it may be an accident.
    """
    strata = [_swapped(one) for one in strata_of(served, QUALITY)]
    if not strata:
        return []
    missing = find_missing(strata, strata, None, pending=False, alike=lost_alike(served))
    excess, is_sure = sum(missing.excess), missing.log_e >= math.log(1 / alpha)
    if not excess or not (is_sure or or_may):
        return []
    both = [one for one in strata if one.control.n and one.candidate.n]
    n, total = (sum(getattr(one.candidate, name) for one in both) for name in ("n", "sum"))
    best = 1.0 if metric.direction == "higher" else 0.0
    if abs(best - total / n) * excess / (n + excess) <= margin * _ALLOWED:
        return []
    tried, other = (_share([getattr(one, arm) for one in both]) for arm in ("control", "candidate"))
    said = f"outcomes come for {tried:.1%} of the candidate's answers and {other:.1%} of the incumbent's"
    return [f"{said}: they depend on the answer" if is_sure else f"{said}, perhaps by accident"]


def _share(arms: typing.Sequence[typing.Any]) -> float:
    return float(sum(arm.n for arm in arms) / sum(arm.assigned for arm in arms))


def _swapped(one: Stratum) -> Stratum:
    """Let the arms change places."""
    cross = one.cross
    if cross is not None:
        days = cross.days and CrossDays(cross.days.g, cross.days.nn, cross.days.sn, cross.days.ns, cross.days.ss)
        cross = Cross(cross.g, cross.nn, cross.sn, cross.ns, cross.ss, days=days)
    return msgspec.structs.replace(one, control=one.candidate, candidate=one.control, cross=cross)
