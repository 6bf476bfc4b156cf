"""Outcomes that never came: a candidate that dies before it reports its failures must not look better for it."""

from __future__ import annotations

import math
import typing

from cloud.analysis.contrast import has_data
from cloud.analysis.counts import Count, log_e_fewer, log_e_more
from cloud.analysis.difference import design_effect
from cloud.analysis.mixture import log_mean_exp
from cloud.analysis.records import Assigned, Stratum

Strata = typing.Sequence[Stratum]
SURE = 3.0  # standard errors that a promotion takes at least
_LEAST_SHARE = 1e-9  # a share this small sends nobody to the candidate


class Missing(typing.NamedTuple):
    """What is missing from the candidate beyond what is missing from the control.

    ``excess`` has one number of outcomes for each stratum, ``error`` the standard error of their sum; ``fraction`` is
    the excess as a share of the candidate's inputs; ``log_e`` is the evidence that it is no accident.
    """

    excess: tuple[float, ...]
    error: float
    fraction: float
    log_e: float


def find_missing(
    all_strata: Strata, judged: Strata, assigned: Assigned | None, *, pending: bool, alike: float | None = None
) -> Missing:
    """Compare the inputs given to each arm with the outcomes that came back.

    Parameters
    ----------
    all_strata : sequence of Stratum
        All outcomes so far.
    judged : sequence of Stratum
        Those to decide on: the same again, or the part whose label window has closed.
    assigned : Assigned or None
        Totals since the start; not used where the arms of `judged` carry their own.
    pending : bool
        Whether outcomes of `all_strata` may still come.
    alike : float, optional
        How many lost outcomes count as one, because a device or a person loses them together. What that explains, up
        to one standard error, is not counted. If it is not known, everything counts; but arms that share no devices
        may have lost whole devices, so that it takes many of those to be no accident, and few of them can hide much.

    Returns
    -------
    Missing
        All zeros when nothing was said about assignment.

    Examples
    --------
    >>> from cloud.analysis.records import Arm
    >>> control = Arm(1000.0, 900.0, 900.0, 1000.0, 1000.0, 900.0, 900.0)
    >>> candidate = Arm(910.0, 850.0, 850.0, 910.0, 910.0, 850.0, 850.0)
    >>> strata = [Stratum(control, candidate)]
    >>> missing = find_missing(strata, strata, Assigned(1000.0, 1000.0), pending=False)
    >>> [round(n) for n in missing.excess], round(missing.fraction, 3), missing.log_e > 4.6
    ([90], 0.09, True)
    """
    own = [_own(stratum) for stratum in judged]
    if judged and None not in own:
        return _by_stratum(judged, [pair for pair in own if pair is not None], alike)
    if assigned is None or min(assigned.control, assigned.candidate) < 1.0:
        return Missing((0.0,) * len(judged), 0.0, 0.0, 0.0)
    return _by_total(all_strata, judged, assigned, pending=pending, alike=alike)


def _by_total(all_strata: Strata, judged: Strata, assigned: Assigned, *, pending: bool, alike: float | None) -> Missing:
    odds = assigned.candidate / assigned.control
    if pending and assigned.share is not None and is_split(assigned.share):
        # What is pending is recent, and recent inputs were split by the newest share.
        odds = max(odds, assigned.share / (1.0 - assigned.share))
    n1 = math.fsum(stratum.candidate.n for stratum in all_strata)
    lost0 = max(0.0, assigned.control - math.fsum(stratum.control.n for stratum in all_strata))
    lost1 = max(0.0, assigned.candidate - n1)
    rows = [(lost0, assigned.control, lost1, assigned.candidate, odds)]
    surplus = max(0.0, lost1 - lost0 * odds - _explained(rows, alike))
    # Closed windows have their share of what is missing, which is all of it where nothing else has come yet.
    excess = tuple(surplus * stratum.candidate.n / n1 if n1 > 0.0 else 0.0 for stratum in judged)
    design = design_effect(all_strata)
    together = max(design, alike or whole_devices(all_strata))
    log_e = log_e_more([_count(rows[0], together)])
    error = _error(rows, together if alike is None else design, surplus)
    return Missing(excess, error, surplus / assigned.candidate, log_e)


def _by_stratum(judged: Strata, own: typing.Sequence[tuple[float, float]], alike: float | None) -> Missing:
    rows: list[_Row] = []
    surplus = []
    for stratum, (given0, given1) in zip(judged, own, strict=True):
        odds = given1 / given0 if min(given0, given1) >= 1.0 else 0.0
        lost0, lost1 = max(0.0, given0 - stratum.control.n), max(0.0, given1 - stratum.candidate.n)
        rows += [(lost0, given0, lost1, given1, odds)] if odds else []
        surplus.append(lost1 - lost0 * odds if odds else 0.0)
    # What one stratum lost by chance another gained: only the balance is held against the candidate.
    total = max(0.0, math.fsum(surplus) - _explained(rows, alike))
    positive = math.fsum(max(0.0, lost) for lost in surplus)
    excess = tuple(total * max(0.0, lost) / positive if positive > 0.0 else 0.0 for lost in surplus)
    given = math.fsum(given1 for _, given1 in own)
    fraction = total / given if given > 0.0 else 0.0
    design = design_effect(judged)
    together = max(design, alike or whole_devices(judged))
    log_e = log_e_more(sorted(_count(row, together) for row in rows))
    return Missing(excess, _error(rows, together if alike is None else design, total), fraction, log_e)


def is_split(share: float) -> bool:
    """Tell whether a planned share of the candidate lets both arms have inputs."""
    return _LEAST_SHARE < share < 1.0 - _LEAST_SHARE


_Row = tuple[float, float, float, float, float]  # lost and given of the control, of the candidate, and their odds


def _count(row: _Row, design: float) -> Count:
    lost0, _, lost1, _, odds = row
    return Count(lost0 / design, lost1 / design, odds)


def _variance(rows: typing.Sequence[_Row]) -> float:
    """Variance of the excess if each outcome is lost by itself."""
    return math.fsum(
        lost1 * max(0.0, 1.0 - lost1 / given1) + odds * odds * lost0 * max(0.0, 1.0 - lost0 / given0)
        for lost0, given0, lost1, given1, odds in rows
    )


def _explained(rows: typing.Sequence[_Row], alike: float | None) -> float:
    """How many more one arm may lose because few devices, or people, lose all of theirs."""
    return math.sqrt(_variance(rows) * alike) if alike is not None and alike > 1.0 else 0.0


def whole_devices(strata: Strata) -> float:
    """How many outcomes a device loses that is off, where arms share no devices; at least 1.

    Where they do, both arms lose what such a device has.

    Examples
    --------
    >>> from cloud.analysis.records import Arm
    >>> arm = Arm(100.0, 90.0, 90.0, 10.0, 1000.0, 900.0, 830.0)
    >>> whole_devices([Stratum(arm, arm)])
    10.0
    """
    apart = [one for one in strata if has_data(one) and (one.cross is None or one.cross.g < 1.0)]
    return max([1.0, *(arm.g_nn / arm.n for one in apart for arm in (one.control, one.candidate))])


def _error(rows: typing.Sequence[_Row], design: float, surplus: float) -> float:
    """Standard error of the excess: arms that lose much alike can hide much.

    No more can be hidden than the candidate lost and is excused for, and it takes three standard errors to promote.
    """
    total, lost = _variance(rows), math.fsum(row[2] for row in rows)
    if total <= 0.0:
        return 0.0
    spread = math.sqrt(total * min(design, max(1.0, total)))  # at most, all were lost at once
    return min(spread, max(0.0, lost - surplus) / SURE)


def _own(stratum: Stratum) -> tuple[float, float] | None:
    """Inputs of both arms as the stratum itself counts them, if it does."""
    given0, given1 = stratum.control.assigned, stratum.candidate.assigned
    return None if given0 is None or given1 is None else (given0, given1)


def log_e_split(strata: Strata, assigned: Assigned | None) -> float:
    """Evidence that inputs were not split by the planned share.

    Parameters
    ----------
    strata : sequence of Stratum
        All outcomes so far. With more than one stratum there was more than one share, and nothing can be said.
    assigned : Assigned or None
        Totals, and the planned share of the candidate.

    Returns
    -------
    float
        ``ln E`` of a two-sided e-process over the candidate's share of the inputs. Users stick to an arm, so an input
        counts as one only as far as devices agree on the split.

    Examples
    --------
    >>> from cloud.analysis.records import Arm
    >>> arm = Arm(5000.0, 4500.0, 4500.0, 5000.0, 5000.0, 4500.0, 4500.0)
    >>> few = Arm(4000.0, 3600.0, 3600.0, 4000.0, 4000.0, 3600.0, 3600.0)
    >>> log_e_split([Stratum(arm, few)], Assigned(5000.0, 4000.0, 0.5)) > 4.6
    True
    """
    if len(strata) != 1 or assigned is None or assigned.share is None or not is_split(assigned.share):
        return 0.0
    stratum = strata[0]
    if not has_data(stratum):
        return 0.0
    n0, n1 = stratum.control.n, stratum.candidate.n
    theta = n1 / (n0 + n1)
    both = 0.0 if stratum.cross is None else stratum.cross.nn
    uneven = (1.0 - theta) ** 2 * stratum.candidate.g_nn + theta**2 * stratum.control.g_nn
    uneven -= 2.0 * theta * (1.0 - theta) * both
    design = max(1.0, uneven / ((n0 + n1) * theta * (1.0 - theta)))
    count = [Count(assigned.control / design, assigned.candidate / design, assigned.share / (1.0 - assigned.share))]
    return log_mean_exp((log_e_more(count), log_e_fewer(count)), (0.5, 0.5))
