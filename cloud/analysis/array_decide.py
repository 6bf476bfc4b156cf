"""The decision rule over arrays: every look of many experiments at once, to find out what the rule does.

It is the twin of :func:`cloud.analysis.decide.decide`; tests hold them together to nine digits.
"""

from __future__ import annotations

import math
import typing

import numpy as np

from cloud.analysis.array_compare import Evidences, from_pairs, from_strata
from cloud.analysis.array_contrast import design_effect, has_data
from cloud.analysis.array_evidence import Counts, log_e_fewer, log_e_more, log_mean_exp
from cloud.analysis.batch import ArmSums, Array, AssignedSums, Batch, Mask, PairSums, StratumSums, add_up
from cloud.analysis.decide import DOUBT, FAR, FAR_CHANCE, SMALL
from cloud.analysis.missing import SURE, is_split
from cloud.analysis.records import DecideInput

Strata = typing.Sequence[StratumSums]


class Verdicts(typing.NamedTuple):
    """Words and what they rest on, shaped (experiment, look); neither word is ``continue``.

    ``outcomes`` are the candidate's; ``regions`` has the regions whose own word is ``rollback``.
    """

    rollback: Mask
    promote: Mask
    log_e_worse: Array
    log_e_fine: Array
    log_e_missing: Array
    log_e_split: Array
    outcomes: Array
    regions: dict[str, Mask]


class _Missing(typing.NamedTuple):
    excess: tuple[Array, ...]
    error: Array
    log_e: Array


def decide_all(batch: Batch) -> Verdicts:
    """Decide at every look of every experiment.

    Parameters
    ----------
    batch : Batch
        Experiments that ask the same question.

    Returns
    -------
    Verdicts
        What :func:`cloud.analysis.decide.decide` says about each record of the batch.

    Examples
    --------
    >>> from cloud.analysis.records import Metric
    >>> from cloud.analysis.simulate import question, rates
    >>> asked = question(Metric("bernoulli", "higher"), 0.02)
    >>> worse = rates(np.random.default_rng(1), 50, n=(100, 100), p=(0.9, 0.8), asked=asked)
    >>> found = decide_all(worse)
    >>> bool(found.rollback.any(axis=1).all()), bool(found.promote.any())
    (True, False)
    """
    with np.errstate(all="ignore"):  # what is divided by nothing is masked
        return _decide(batch)


def _decide(batch: Batch) -> Verdicts:
    asked = batch.asked
    judged = batch.strata if batch.matured is None else batch.matured
    need_worse = math.log(asked.n_candidates / asked.alpha)
    need_fine = math.log(asked.n_candidates / asked.alpha_promote)
    missing = _find_missing(batch, judged)
    certain = missing.log_e >= need_fine
    blamed = tuple(np.where(certain, excess, 0.0) for excess in missing.excess)
    if batch.pairs is not None and asked.mode != "ab":
        worse, fine = _compare_pairs(batch, batch.pairs, missing, certain)
        amount = _of_pairs(batch.pairs)
    else:
        nothing = np.zeros(batch.shape)
        worse = from_strata(judged, blamed, asked.metric, asked.margin, nothing)
        same = batch.assigned is None
        fine = worse if same else from_strata(judged, missing.excess, asked.metric, asked.margin, missing.error)
        amount = _of_strata(judged)
    split = _log_e_split(batch) if asked.n_candidates == 1.0 else np.zeros(batch.shape)
    regions, doubtful = _bad_regions(asked, judged, blamed, need_worse)
    least = asked.least()
    ready = amount.days >= least.days
    rollback = ready & (worse.log_e_worse >= need_worse)
    clean = np.maximum(missing.log_e, split) < need_fine
    enough = (amount.outcomes >= least.outcomes) & (amount.devices >= least.devices)
    promote = ready & ~rollback & clean & enough & (fine.log_e_fine >= need_fine)
    promote &= ~doubtful & ~np.any([np.zeros(batch.shape, bool), *regions.values()], axis=0)
    if promote.any():
        promote &= ~_unknown_regions(batch, judged, missing)
    e_values = (worse.log_e_worse, fine.log_e_fine, missing.log_e, split)
    return Verdicts(rollback, promote, *e_values, amount.outcomes, regions)


def _compare_pairs(batch: Batch, pairs: PairSums, missing: _Missing, certain: Mask) -> tuple[Evidences, Evidences]:
    asked = batch.asked
    judged = batch.strata if batch.matured is None else batch.matured
    n = pairs.arm.n
    served = add_up([np.zeros_like(n), *(stratum.candidate.n for stratum in judged)])
    ratio = np.where(served > 0.0, n / served, 0.0)
    surplus = ratio * add_up([np.zeros_like(n), *missing.excess])
    lost = np.maximum(surplus, -n)
    if batch.assigned is not None and not batch.strata and batch.matured is None:
        lost = np.maximum(lost, batch.assigned.candidate - n)
    blamed = np.where(certain, surplus, 0.0)
    worse = from_pairs(pairs, blamed, asked.metric, asked.margin, np.zeros_like(n))
    return worse, from_pairs(pairs, lost, asked.metric, asked.margin, ratio * missing.error)


def _find_missing(batch: Batch, judged: Strata) -> _Missing:
    given = batch.assigned
    nothing = np.zeros(batch.shape)
    if given is None:
        return _Missing((nothing,) * len(judged), nothing, nothing)
    used = np.minimum(given.control, given.candidate) >= 1.0
    odds = given.candidate / given.control
    if batch.matured is not None and given.share is not None and is_split(given.share):
        odds = np.maximum(odds, given.share / (1.0 - given.share))
    n0 = add_up([nothing, *(stratum.control.n for stratum in batch.strata)])
    n1 = add_up([nothing, *(stratum.candidate.n for stratum in batch.strata)])
    lost0, lost1 = np.maximum(0.0, given.control - n0), np.maximum(0.0, given.candidate - n1)
    surplus = np.where(used, np.maximum(0.0, lost1 - lost0 * odds), 0.0)
    excess = tuple(np.where(n1 > 0.0, surplus * stratum.candidate.n / n1, 0.0) for stratum in judged)
    design = design_effect(batch.strata) if batch.strata else np.full(batch.shape, np.inf)
    together = np.maximum(design, _whole_devices(batch))
    log_e = np.where(used, log_e_more([Counts(lost0 / together, lost1 / together, np.where(used, odds, 1.0))]), 0.0)
    return _Missing(excess, np.where(used, _error(given, lost0, lost1, odds, together, surplus), 0.0), log_e)


def _whole_devices(batch: Batch) -> Array:
    found = np.ones(batch.shape)
    for stratum in batch.strata:
        apart = has_data(stratum)
        if stratum.cross is not None:
            apart &= stratum.cross.g < 1.0
        for arm in (stratum.control, stratum.candidate):
            found = np.where(apart, np.maximum(found, arm.g_nn / arm.n), found)
    return found


def _error(given: AssignedSums, lost0: Array, lost1: Array, odds: Array, design: Array, surplus: Array) -> Array:
    total = lost1 * np.maximum(0.0, 1.0 - lost1 / given.candidate)
    total = total + odds * odds * lost0 * np.maximum(0.0, 1.0 - lost0 / given.control)
    spread = np.sqrt(total * np.minimum(design, np.maximum(1.0, total)))
    return np.where(total > 0.0, np.minimum(spread, np.maximum(0.0, lost1 - surplus) / SURE), 0.0)


def _log_e_split(batch: Batch) -> Array:
    given = batch.assigned
    if len(batch.strata) != 1 or given is None or given.share is None or not is_split(given.share):
        return np.zeros(batch.shape)
    stratum = batch.strata[0]
    n0, n1 = stratum.control.n, stratum.candidate.n
    theta = n1 / (n0 + n1)
    both = 0.0 if stratum.cross is None else stratum.cross.nn
    uneven = (1.0 - theta) ** 2 * stratum.candidate.g_nn + theta**2 * stratum.control.g_nn
    uneven = uneven - 2.0 * theta * (1.0 - theta) * both
    design = np.maximum(1.0, uneven / ((n0 + n1) * theta * (1.0 - theta)))
    odds = np.full(batch.shape, given.share / (1.0 - given.share))
    count = [Counts(given.control / design, given.candidate / design, odds)]
    found = log_mean_exp(np.stack([log_e_more(count), log_e_fewer(count)]), (0.5, 0.5))
    return np.where(has_data(stratum), found, 0.0)


def _bad_regions(
    asked: DecideInput, judged: Strata, blamed: typing.Sequence[Array], need: float
) -> tuple[dict[str, Mask], Mask]:
    names = {stratum.region for stratum in judged}
    bad: dict[str, Mask] = {}
    doubtful: Mask = np.zeros(judged[0].control.n.shape if judged else (1, 1), bool)
    if len(names) < 2:  # noqa: PLR2004 -- one region is the pool
        return bad, doubtful
    for name in sorted(name for name in names if name is not None):
        mine = [(stratum, excess) for stratum, excess in zip(judged, blamed, strict=True) if stratum.region == name]
        strata = [stratum for stratum, _ in mine]
        nothing = np.zeros_like(blamed[0])
        seen = from_strata(strata, [excess for _, excess in mine], asked.metric, asked.margin, nothing)
        dated = _of_strata(strata).days >= asked.least().days
        bad[name] = dated & (seen.log_e_worse >= need + math.log(len(names)))
        doubtful |= seen.log_e_worse >= DOUBT
    return bad, doubtful


def _unknown_regions(batch: Batch, judged: Strata, missing: _Missing) -> Mask:
    asked = batch.asked
    unknown: Mask = np.zeros(batch.shape, bool)
    names = {stratum.region for stratum in judged}
    if len(names) < 2 or (batch.pairs is not None and asked.mode != "ab"):  # noqa: PLR2004 -- one region is the pool
        return unknown
    least = SMALL * add_up(stratum.candidate.n for stratum in judged)
    for name in names - {None}:
        mine = [(stratum, lost) for stratum, lost in zip(judged, missing.excess, strict=True) if stratum.region == name]
        strata, excess = [stratum for stratum, _ in mine], [lost for _, lost in mine]
        seen = from_strata(strata, excess, asked.metric, FAR * asked.margin, np.zeros(batch.shape), enlarged=False)
        known = (seen.log_e_worse != 0.0) | (seen.log_e_fine != 0.0)
        large = add_up(stratum.candidate.n for stratum in strata) >= least
        unknown |= known & large & (seen.log_e_fine < -math.log(FAR_CHANCE))
    return unknown


class _Amounts(typing.NamedTuple):
    outcomes: Array
    devices: Array
    days: Array


def _of_pairs(pairs: PairSums) -> _Amounts:
    arm = pairs.arm
    return _Amounts(arm.n, arm.g, np.zeros_like(arm.n) if arm.days is None else arm.days.g)


def _of_strata(strata: Strata) -> _Amounts:
    nothing = np.zeros_like(strata[0].control.n)
    control, candidate, days = nothing, nothing, nothing
    for name in {stratum.region for stratum in strata}:
        stages = [stratum for stratum in strata if stratum.region == name]
        control = control + np.max([np.where(has_data(s), s.control.g, 0.0) for s in stages], axis=0)
        candidate = candidate + np.max([np.where(has_data(s), s.candidate.g, 0.0) for s in stages], axis=0)
        dated = [np.where(has_data(s), _days(s.control, s.candidate), 0.0) for s in stages]
        shared = np.sum([one > 0.0 for one in dated], axis=0) - 1.0
        days = np.maximum(days, np.sum(dated, axis=0) - np.maximum(0.0, shared))
    outcomes = add_up([nothing, *(stratum.candidate.n for stratum in strata)])
    return _Amounts(outcomes, np.minimum(control, candidate), days)


def _days(control: ArmSums, candidate: ArmSums) -> Array:
    if control.days is None or candidate.days is None:
        return np.zeros_like(control.n)
    return np.minimum(control.days.g, candidate.days.g)
