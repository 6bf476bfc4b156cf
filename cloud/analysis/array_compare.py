"""Evidence over arrays: what ``compare`` and ``rare`` compute, for many experiments at once.

Each function is the twin of the one of the same name; tests hold them together to nine digits.
"""

from __future__ import annotations

import typing

import numpy as np

from cloud.analysis.array_contrast import (
    Contrasts,
    Spreads,
    bad_outcomes,
    by_day,
    clustered_spread,
    combine,
    design_effect,
    few_clusters_factor,
    has_data,
    stratum_contrast,
)
from cloud.analysis.array_evidence import (
    Counts,
    log_e_above,
    log_e_below,
    log_e_drop,
    log_e_fewer,
    log_e_more,
    log_mean_exp,
    z_from_t,
)
from cloud.analysis.batch import Array, Mask, PairSums, StratumSums, add_up
from cloud.analysis.compare import CAUTION, MANY, RARE_RATE, UNSEEN
from cloud.analysis.mixture import LEAST_DROP
from cloud.analysis.rare import ONE_ARM, TWO_ARMS
from cloud.analysis.records import Metric

Strata = typing.Sequence[StratumSums]


class Evidences(typing.NamedTuple):
    """Arrays of the two e-values of :class:`cloud.analysis.evidence.Evidence`, as logarithms."""

    log_e_worse: Array
    log_e_fine: Array


def from_strata(
    strata: Strata,
    excess: typing.Sequence[Array],
    metric: Metric,
    margin: float,
    doubt: Array,
    *,
    enlarged: bool = True,
) -> Evidences:
    """Compare two arms over strata; at least one."""
    nothing = np.zeros_like(strata[0].control.n)
    if metric.kind == "continuous":
        return _means(strata, [nothing] * len(strata), metric, margin, nothing, enlarged=enlarged)
    known = [has_data(stratum) for stratum in strata]
    bad0 = add_up(np.where(k, bad_outcomes(s.control, metric), 0.0) for s, k in zip(strata, known, strict=True))
    n0 = add_up(np.where(k, s.control.n, 0.0) for s, k in zip(strata, known, strict=True))
    rare: Mask = bad0 < RARE_RATE * n0
    counted = _rare(strata, excess, metric, margin, doubt, enlarged=enlarged) if rare.any() else None
    if counted is not None and rare.all():
        return counted
    found = _means(strata, excess, metric, margin, doubt, enlarged=enlarged)
    if counted is None:
        return found
    return Evidences(*(np.where(rare, one, other) for one, other in zip(counted, found, strict=True)))


def _means(
    strata: Strata, excess: typing.Sequence[Array], metric: Metric, margin: float, doubt: Array, *, enlarged: bool
) -> Evidences:
    contrasts = combine([stratum_contrast(s, metric, margin, e) for s, e in zip(strata, excess, strict=True)])
    n1 = add_up(np.where(has_data(s), s.candidate.n + e, 0.0) for s, e in zip(strata, excess, strict=True))
    blur = np.where(doubt > 0.0, doubt / n1, 0.0)
    df = contrasts.df if enlarged else np.full_like(contrasts.df, MANY)
    return _from_contrast(contrasts._replace(variance_worse=contrasts.variance_worse + blur * blur, df=df), margin)


def _from_contrast(contrast: Contrasts, margin: float) -> Evidences:
    error, slack, df = np.sqrt(contrast.variance), np.sqrt(contrast.variance_worse), contrast.df
    drop, gain = z_from_t(-contrast.x / error, df), z_from_t((contrast.x + margin) / slack, df)
    worse = log_e_drop(drop, z_from_t(margin / error, df))
    worse = np.where(-contrast.x > LEAST_DROP * margin, worse, np.minimum(worse, 0.0))
    fine = log_e_above(gain, z_from_t(margin / slack, df))
    return _where(contrast.known, Evidences(worse, fine))


def _where(known: Mask, found: Evidences) -> Evidences:
    return Evidences(*(np.where(known, one, 0.0) for one in found))


def _rare(
    strata: Strata, excess: typing.Sequence[Array], metric: Metric, margin: float, doubt: Array, *, enlarged: bool
) -> Evidences:
    design = design_effect(strata, enlarged=enlarged)
    rows = [_rates(stratum, e, metric) for stratum, e in zip(strata, excess, strict=True)]
    n, failures = add_up(n1 for _, _, n1, _ in rows), add_up(bad1 for _, _, _, bad1 in rows)
    blurred = design * (1.0 + doubt * doubt / (failures + 1.0))
    worse, fine = [], []
    for n0, bad0, n1, bad1 in rows:
        odds = np.where(n0 > 0.0, n1 / n0, 1.0)
        base = (bad0 + 2.0) / (n0 + 4.0)
        worse.append(Counts(bad0 / design, bad1 / design, odds))
        fine.append(Counts(bad0 / blurred, bad1 / blurred, odds * (base + margin) / base))
    below = log_e_below(n / blurred, failures / blurred, margin)
    not_worse = log_mean_exp(np.stack([log_e_fewer(fine), below]), (TWO_ARMS, ONE_ARM))
    return _where(np.isfinite(design), Evidences(log_e_more(worse), not_worse))


def _rates(stratum: StratumSums, excess: Array, metric: Metric) -> tuple[Array, Array, Array, Array]:
    control, candidate = stratum.control, stratum.candidate
    bad0, bad1 = bad_outcomes(control, metric), bad_outcomes(candidate, metric) + excess
    known = has_data(stratum)
    n0, bad0, n1, bad1 = (np.where(known, x, 0.0) for x in (control.n, bad0, candidate.n + excess, bad1))
    return n0, bad0, n1, bad1


def from_pairs(pairs: PairSums, lost: Array, metric: Metric, margin: float, doubt: Array) -> Evidences:
    """Compare two models that answered the same inputs."""
    arm = pairs.arm
    variance, df, _ = clustered_spread(arm)
    daily = by_day(arm)
    if daily is not None:
        days = clustered_spread(daily)
        larger = (days.variance > variance) | ((days.variance == variance) & (days.df > df))
        variance, df = np.where(larger, days.variance, variance), np.where(larger, days.df, df)
    known = (arm.n >= 1.0) & (df > 0.0)
    if metric.kind == "continuous":
        variance = np.maximum(variance, (UNSEEN * margin / arm.n) ** 2) * (1.0 + CAUTION / arm.n)
        return _from_contrast(Contrasts(arm.sum / arm.n, variance, variance, df, arm.n, known), margin)
    return _from_wins(pairs, Spreads(variance, df, known), lost, margin, doubt)


def _from_wins(pairs: PairSums, spread: Spreads, lost: Array, margin: float, doubt: Array) -> Evidences:
    arm, variance = pairs.arm, spread.variance
    apart = pairs.pos + pairs.neg
    design = np.where(apart > 0.0, np.maximum(1.0, variance * arm.n * arm.n / apart), 1.0)
    n, neg = arm.n + lost, pairs.neg + lost
    design = design * few_clusters_factor(1.0 / spread.df) * (1.0 + doubt * doubt / (neg + 1.0))
    variance = np.maximum(variance, (apart + lost + 1.0) / (n * n))
    worse = np.maximum(variance, margin * (1.0 - margin) / n) + (doubt / n) ** 2
    contrast = Contrasts((arm.sum - lost) / n, variance, worse, spread.df, n, spread.known)
    seen = _from_contrast(contrast, margin)
    never = log_e_below(n / design, neg / design, margin)
    fine = log_mean_exp(np.stack([seen.log_e_fine, never]), (TWO_ARMS, ONE_ARM))
    return _where(spread.known, Evidences(seen.log_e_worse, fine))
