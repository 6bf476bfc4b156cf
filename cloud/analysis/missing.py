"""Outcomes that never came: a candidate that dies before it reports its failures must not look better for it."""

from __future__ import annotations

import math
import typing

from cloud.analysis.contrast import has_data
from cloud.analysis.counts import Count, log_e_fewer, log_e_more
from cloud.analysis.mixture import log_mean_exp
from cloud.analysis.ratio import effective_clusters
from cloud.analysis.records import Arm, Assigned, Stratum


class Missing(typing.NamedTuple):
    """What is missing from the candidate beyond what is missing from the control.

    ``excess`` has one number of outcomes for each stratum; ``log_e`` is the evidence that the excess is no accident;
    ``log_e_split`` the evidence that the inputs were not split as planned.
    """

    excess: tuple[float, ...]
    log_e: float
    log_e_split: float


def find_missing(
    strata: tuple[Stratum, ...],
    evidence: tuple[Stratum, ...],
    assigned: Assigned | None,
    *,
    pending: bool,
    one_candidate: bool,
) -> Missing:
    """Compare the inputs given to each arm with the outcomes that came back.

    Parameters
    ----------
    strata : tuple of Stratum
        All outcomes so far.
    evidence : tuple of Stratum
        Those to decide on: ``strata`` again, or the part whose label window has closed.
    assigned : Assigned or None
        Totals; not needed where the arms of ``evidence`` carry their own.
    pending : bool
        Whether outcomes of ``strata`` may still come.
    one_candidate : bool
        Whether the planned share is a share of these two arms alone.

    Returns
    -------
    Missing
        All zeros when nothing was said about assignment.
    """
    own = [_own_missing(stratum) for stratum in evidence]
    if evidence and all(pair is not None for pair in own):
        return _by_stratum(evidence, assigned, one_candidate=one_candidate)
    if assigned is None or assigned.control < 1.0 or assigned.candidate < 1.0:
        return Missing((0.0,) * len(evidence), 0.0, 0.0)
    return _by_total(strata, evidence, assigned, pending=pending, one_candidate=one_candidate)


def _own_missing(stratum: Stratum) -> tuple[float, float] | None:
    a0, a1 = stratum.control.assigned, stratum.candidate.assigned
    if a0 is None or a1 is None:
        return None
    return max(0.0, a0 - stratum.control.n), max(0.0, a1 - stratum.candidate.n)


def _by_stratum(evidence: tuple[Stratum, ...], assigned: Assigned | None, *, one_candidate: bool) -> Missing:
    excess, counts = [], []
    for stratum in evidence:
        a0, a1 = stratum.control.assigned or 0.0, stratum.candidate.assigned or 0.0
        lost = _own_missing(stratum) or (0.0, 0.0)
        if a0 < 1.0 or a1 < 1.0:
            excess.append(0.0)
            continue
        excess.append(lost[1] - lost[0] * a1 / a0)
        counts.append(Count(lost[0], lost[1], a1 / a0))
    total = sum(excess)
    positive = sum(e for e in excess if e > 0.0)
    scale = max(0.0, total) / positive if positive > 0.0 else 0.0
    shrunk = [Count(c.control / d, c.candidate / d, c.odds) for d in [_clustering(evidence)] for c in counts]
    split = 0.0
    if len(evidence) == 1 and assigned is not None and assigned.share is not None and one_candidate:
        a0, a1 = evidence[0].control.assigned or 0.0, evidence[0].candidate.assigned or 0.0
        split = _log_e_split(evidence[0], a0, a1, assigned.share)
    return Missing(tuple(max(0.0, e) * scale for e in excess), log_e_more(shrunk), split)


def _by_total(
    strata: tuple[Stratum, ...],
    evidence: tuple[Stratum, ...],
    assigned: Assigned,
    *,
    pending: bool,
    one_candidate: bool,
) -> Missing:
    n0 = sum(s.control.n for s in strata)
    n1 = sum(s.candidate.n for s in strata)
    lost0, lost1 = max(0.0, assigned.control - n0), max(0.0, assigned.candidate - n1)
    odds = assigned.candidate / assigned.control
    if pending and assigned.share is not None and 0.0 < assigned.share < 1.0:
        # What is pending is recent, and recent traffic was split by the newest share.
        odds = max(odds, assigned.share / (1.0 - assigned.share))
    fraction = min(1.0, max(0.0, lost1 - lost0 * odds) / assigned.candidate)
    clustering = _clustering(strata)
    log_e = log_e_more([Count(lost0 / clustering, lost1 / clustering, odds)])
    split = 0.0
    if len(strata) == 1 and assigned.share is not None and one_candidate:
        split = _log_e_split(strata[0], assigned.control, assigned.candidate, assigned.share)
    per_outcome = fraction / (1.0 - fraction) if fraction < 1.0 else math.inf
    excess = tuple(min(per_outcome * s.candidate.n, assigned.candidate) for s in evidence)
    return Missing(excess, log_e, split)


def _clustering(strata: tuple[Stratum, ...]) -> float:
    return 1.0


def _log_e_split(stratum: Stratum, a0: float, a1: float, share: float) -> float:
    """Evidence that inputs were not split with the planned share; splits are only as independent as devices are."""
    if not 0.0 < share < 1.0 or not has_data(stratum):
        return 0.0
    n0, n1 = stratum.control.n, stratum.candidate.n
    theta = n1 / (n0 + n1)
    both = 0.0 if stratum.cross is None else stratum.cross.nn
    uneven = (
        (1 - theta) ** 2 * stratum.candidate.g_nn - 2 * theta * (1 - theta) * both + theta**2 * stratum.control.g_nn
    )
    design = max(1.0, uneven / ((n0 + n1) * theta * (1.0 - theta)))
    count = [Count(a0 / design, a1 / design, share / (1.0 - share))]
    return log_mean_exp((log_e_more(count), log_e_fewer(count)), (0.5, 0.5))
