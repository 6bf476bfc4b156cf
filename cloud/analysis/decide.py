"""The decision rule: continue, promote or roll back, from cumulative sums alone."""

from __future__ import annotations

import math
import typing

from cloud.analysis.compare import from_pairs, from_strata
from cloud.analysis.evidence import Evidence
from cloud.analysis.explain import numbers_of, reasons_of
from cloud.analysis.findings import Findings
from cloud.analysis.minimums import of_pairs, of_strata
from cloud.analysis.missing import Missing, find_missing, log_e_split
from cloud.analysis.records import DecideInput, Decision, Pairs, Stratum, Word

DOUBT = math.log(1.5)  # odds of three to two that a region suffers: the fleet waits until they are better, or worse
FAR = 5.0  # margins: a region in which the candidate is worse by so much lets the fleet be promoted
FAR_CHANCE = 0.1  # with this chance at most, unless
SMALL = 0.02  # it has less than this share of the outcomes, of which it can take a tenth of a margin from the fleet


def decide(record: DecideInput) -> Decision:
    """Decide on a candidate.

    Parameters
    ----------
    record : DecideInput
        Cumulative sums of an experiment, with strata in any order; checked as
        :func:`cloud.analysis.wire.parse_line` does.

    Returns
    -------
    Decision
        ``rollback`` when the evidence that the candidate is worse than the control reaches ``n_candidates / alpha``;
        ``promote`` when the evidence that it is not worse by the margin reaches ``n_candidates / alpha_promote``, the
        minimums are met, nothing is missing that should be there, no region says roll back or leans to it, and
        enough is known of each; else ``continue``. If both could be said, ``rollback`` is.

    Notes
    -----
    By Ville's inequality equal models are rolled back with a probability of alpha at most over any number of looks,
    and a candidate that is worse by `FAR` margins in a region is promoted with one of `FAR_CHANCE`.

    Examples
    --------
    >>> from cloud.analysis.records import Arm, Metric
    >>> control = Arm(2000.0, 1800.0, 1800.0, 2000.0, 2000.0, 1800.0, 1800.0)
    >>> candidate = Arm(2000.0, 1700.0, 1700.0, 2000.0, 2000.0, 1700.0, 1700.0)
    >>> decide(
    ...     DecideInput(
    ...         schema="covey.decide/1",
    ...         mode="ab",
    ...         alpha=0.05,
    ...         alpha_promote=0.01,
    ...         margin=0.02,
    ...         n_candidates=1,
    ...         metric=Metric("bernoulli", "higher"),
    ...         strata=(Stratum(control, candidate),),
    ...     )
    ... ).word
    'rollback'
    """
    word, found = _judge(record)
    regions = {name: _word_in(name, word, found) for name in _names(record)}
    word = _word_of_all(word, found)
    return Decision(word, reasons_of(word, found, record), numbers_of(found, record), regions)


def word_of(record: DecideInput) -> Word:
    """Decide as :func:`decide` does, and say the word alone, which takes three quarters of the time.

    Examples
    --------
    >>> from cloud.analysis.records import Metric
    >>> from cloud.analysis.simulate import question
    >>> word_of(question(Metric("bernoulli", "higher"), 0.02))
    'continue'
    """
    return _word_of_all(*_judge(record))


def _judge(record: DecideInput) -> tuple[Word, Findings]:
    """Find the word for all regions together, and everything that it rests on."""
    found = _find(record)
    word = _word(found, record)
    if word == "promote":
        found = found._replace(unknown_regions=_unknown_regions(record, found.missing))
    return word, found


def _word_of_all(word: Word, found: Findings) -> Word:
    """Hold a promotion back for the sake of one region."""
    held = found.bad_regions or found.doubtful_regions or found.unknown_regions
    return "continue" if word == "promote" and held else word


def _find(record: DecideInput) -> Findings:
    judged = record.strata if record.matured is None else record.matured
    need_worse = math.log(record.n_candidates / record.alpha)
    need_fine = math.log(record.n_candidates / record.alpha_promote)
    pending = record.matured is not None
    missing = find_missing(record.strata, judged, record.assigned, pending=pending, alike=record.lost_alike)
    certain = missing.log_e >= need_fine
    blamed = missing.excess if certain else (0.0,) * len(judged)
    if record.missing == "alike" and not certain:
        missing = missing._replace(excess=blamed, error=0.0)
    if record.pairs is not None and record.mode != "ab":
        worse, fine = _compare_pairs(record, record.pairs, missing, certain=certain)
        amount = of_pairs(record.pairs)
    else:
        worse = from_strata(judged, blamed, record.metric, record.margin, tolerance=record.tolerance)
        same = missing.excess == blamed and missing.error <= 0.0
        fine = worse if same else from_strata(judged, missing.excess, record.metric, record.margin, doubt=missing.error)
        amount = of_strata(judged)
    split = log_e_split(record.strata, record.assigned) if record.n_candidates == 1.0 else 0.0
    bad, doubtful = _bad_regions(record, judged, blamed, need_worse)
    return Findings(worse, fine, need_worse, need_fine, amount, missing, split, bad, doubtful)


def _compare_pairs(record: DecideInput, pairs: Pairs, missing: Missing, *, certain: bool) -> tuple[Evidence, Evidence]:
    """Judge pairs without what is missing, unless that is no accident; and with all that may be missing."""
    judged = record.strata if record.matured is None else record.matured
    served = math.fsum(stratum.candidate.n for stratum in judged)
    ratio = pairs.n / served if served > 0.0 else 0.0
    surplus = ratio * math.fsum(missing.excess)
    lost = max(surplus, (pairs.assigned or 0.0) - pairs.n)
    if record.assigned is not None and not record.strata and record.matured is None:
        lost = max(lost, record.assigned.candidate - pairs.n)
    worse = from_pairs(pairs, surplus if certain else 0.0, record.metric, record.margin)
    return worse, from_pairs(pairs, lost, record.metric, record.margin, doubt=ratio * missing.error)


def _names(record: DecideInput) -> list[str]:
    strata = (*record.strata, *(record.matured or ()))
    return sorted({stratum.region for stratum in strata if stratum.region is not None})


_Regions = dict[str, tuple[list[Stratum], list[float]]]


def _by_region(judged: typing.Sequence[Stratum], excess: typing.Sequence[float]) -> _Regions:
    """Strata and what is missing from them by named region; nothing if there is one region, which is the pool."""
    names = {stratum.region for stratum in judged}
    if len(names) < 2:  # noqa: PLR2004 -- one region is the pool
        return {}
    regions: _Regions = {name: ([], []) for name in sorted(name for name in names if name is not None)}
    for stratum, lost in zip(judged, excess, strict=True):
        if stratum.region is not None:
            regions[stratum.region][0].append(stratum)
            regions[stratum.region][1].append(lost)
    return regions


def _bad_regions(
    record: DecideInput, judged: typing.Sequence[Stratum], blamed: typing.Sequence[float], need: float
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Regions whose own sums say roll back, at alpha over their number, and those which only lean to it.

    The pool can hide a small region, and is sure of itself long before that region can be.
    """
    bad, doubtful = [], []
    n_regions = len({stratum.region for stratum in judged})
    for name, (strata, lost) in _by_region(judged, blamed).items():
        seen = from_strata(strata, lost, record.metric, record.margin, tolerance=record.tolerance)
        if seen.log_e_worse >= need + math.log(n_regions) and of_strata(strata).days >= record.least().days:
            bad.append(name)
        elif seen.log_e_worse >= DOUBT:
            doubtful.append(name)
    return tuple(bad), tuple(doubtful)


def _unknown_regions(record: DecideInput, missing: Missing) -> tuple[str, ...]:
    """Regions of which too little is known to say that the candidate is not far worse there.

    A few devices are enough, taken as they are: a region may have no more. One says nothing of how devices differ, and
    is no part of the pool either. Pairs know no regions.
    """
    if record.pairs is not None and record.mode != "ab":
        return ()
    judged = record.strata if record.matured is None else record.matured
    least = SMALL * math.fsum(stratum.candidate.n for stratum in judged)
    unknown = []
    for name, (strata, lost) in _by_region(judged, missing.excess).items():
        if math.fsum(stratum.candidate.n for stratum in strata) >= least:
            seen = from_strata(strata, lost, record.metric, FAR * record.margin, enlarged=False)
            if math.isfinite(seen.error) and seen.log_e_fine < -math.log(FAR_CHANCE):
                unknown.append(name)
    return tuple(unknown)


def _word(found: Findings, record: DecideInput) -> Word:
    """Find the word for all regions together."""
    minimum, amount = record.least(), found.amount
    if amount.days < minimum.days:
        return "continue"
    if found.worse.log_e_worse >= found.need_worse:
        return "rollback"
    clean = max(found.missing.log_e, found.split) < found.need_fine
    enough = amount.outcomes >= minimum.outcomes and amount.devices >= minimum.devices
    return "promote" if clean and enough and found.fine.log_e_fine >= found.need_fine else "continue"


def _word_in(name: str, word: Word, found: Findings) -> Word:
    if name in found.bad_regions:
        return "rollback"
    held = name in found.doubtful_regions or name in found.unknown_regions
    return "continue" if word == "promote" and held else word
