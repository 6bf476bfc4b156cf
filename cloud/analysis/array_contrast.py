"""Differences between arms over arrays: what ``ratio``, ``difference`` and ``contrast`` compute, for many experiments.

Each function is the twin of the one of the same name; where that returns None, ``known`` is false.
"""

from __future__ import annotations

import typing

import numpy as np

from cloud.analysis import difference, ratio
from cloud.analysis.batch import ArmSums, Array, CrossDaySums, CrossSums, Mask, StratumSums, add_up
from cloud.analysis.records import Metric


class Spreads(typing.NamedTuple):
    """Arrays of :class:`cloud.analysis.ratio.Spread`, and whether there is one."""

    variance: Array
    df: Array
    known: Mask


class Contrasts(typing.NamedTuple):
    """Arrays of :class:`cloud.analysis.contrast.Contrast`, and whether there is one."""

    x: Array
    variance: Array
    variance_worse: Array
    df: Array
    weight: Array
    known: Mask


def has_data(stratum: StratumSums) -> Mask:
    """Tell where both arms have an outcome."""
    found: Mask = (stratum.control.n >= 1.0) & (stratum.candidate.n >= 1.0)
    return found


def bad_outcomes(arm: ArmSums, metric: Metric) -> Array:
    """Count the failures of one arm of a bernoulli metric."""
    return np.maximum(0.0, arm.n - arm.sum) if metric.direction == "higher" else arm.sum


def effective_clusters(n: Array, g: Array, nn: Array) -> Array:
    """Count clusters as if all had the same number of outcomes."""
    return np.where((n > 0.0) & (nn > 0.0), np.maximum(1.0, np.minimum(g, n * n / nn)), 0.0)


def clustered_spread(arm: ArmSums) -> Spreads:
    """Cluster-robust variance of a mean; known where there are two clusters."""
    mean = arm.sum / arm.n
    clusters = effective_clusters(arm.n, arm.g, arm.g_nn)
    several: Mask = clusters > 1.0
    residual = arm.g_ss - 2.0 * mean * arm.g_ns + mean * mean * arm.g_nn
    residual = np.maximum(residual, ratio.ROUNDING * arm.g_ss)
    variance = residual / (arm.n * arm.n) * clusters / (clusters - 1.0)
    return Spreads(np.where(several, variance, 0.0), np.where(several, clusters - 1.0, 0.0), several)


def independent_variance(n: Array, total: Array, sumsq: Array) -> Array:
    """Variance of a mean if all outcomes were independent."""
    mean = total / n
    found: Array = np.maximum(0.0, sumsq / n - mean * mean) / n
    return found


def few_clusters_factor(inverse_df: Array) -> Array:
    """How much to enlarge a variance that was estimated from few clusters."""
    square = ratio.SCORE * ratio.SCORE * inverse_df
    found: Array = np.expm1(np.minimum(square, ratio.MOST)) / square
    return found


def by_day(arm: ArmSums) -> ArmSums | None:
    """Put the arm's days in the place of its devices."""
    days = arm.days
    return days and ArmSums(arm.n, arm.sum, arm.sumsq, days.g, days.nn, days.ns, days.ss)


def clustered_difference(stratum: StratumSums) -> Spreads:
    """Variance of the difference of means, by devices or by days, whichever is larger."""
    cross = stratum.cross
    spread = _difference(stratum.control, stratum.candidate, cross)
    control, candidate = by_day(stratum.control), by_day(stratum.candidate)
    if control is None or candidate is None:
        return spread
    daily = _difference(control, candidate, cross and cross.days)
    larger = spread.known & daily.known & (daily.variance > spread.variance)
    variance, df = (np.where(larger, day, device) for day, device in zip(daily[:2], spread[:2], strict=True))
    return Spreads(variance, df, spread.known)


def _difference(control: ArmSums, candidate: ArmSums, cross: CrossSums | CrossDaySums | None) -> Spreads:
    apart = _apart(control, candidate)
    if cross is None:
        return apart
    v0, df0, _ = clustered_spread(control)
    v1, df1, _ = clustered_spread(candidate)
    shared, fewer = cross.g >= 1.0, np.minimum(df0, df1)
    together = np.maximum(0.0, v0 + v1 - 2.0 * _covariance(control, candidate, cross))
    return Spreads(
        np.where(shared, together, apart.variance),
        np.where(shared, fewer, apart.df),
        np.where(shared, fewer > 0.0, apart.known),
    )


def _apart(control: ArmSums, candidate: ArmSums) -> Spreads:
    (v0, df0, _), (v1, df1, _) = clustered_spread(control), clustered_spread(candidate)
    within0, within1 = (independent_variance(arm.n, arm.sum, arm.sumsq) for arm in (control, candidate))
    between = (df0 * _between(v0, df0, within0) + df1 * _between(v1, df1, within1)) / (df0 + df1)
    known: Mask = np.maximum(df0, df1) > 0.0
    few = difference.FEW_CLUSTERS - 1.0
    first, second = df0 < df1, (df1 < df0) | ((df0 == df1) & (df1 < few))
    v0 = np.where(first, np.maximum(v0, within0 + between / (df0 + 1.0)), v0)
    v1 = np.where(second, np.maximum(v1, within1 + between / (df1 + 1.0)), v1)
    df0, df1 = np.where(first, np.maximum(df0, 1.0), df0), np.where(second, np.maximum(df1, 1.0), df1)
    total = v0 + v1
    df = np.where(total > 0.0, 1.0 / ((v0 / total) ** 2 / df0 + (v1 / total) ** 2 / df1), np.minimum(df0, df1))
    return Spreads(total, df, known)


def _between(variance: Array, df: Array, within: Array) -> Array:
    found = variance * (df + 1.0) - within * (df + 1.0) * (df + 1.0) / df
    return np.where(df > 0.0, np.maximum(0.0, found), 0.0)


def _covariance(control: ArmSums, candidate: ArmSums, cross: CrossSums | CrossDaySums) -> Array:
    mean0, mean1 = control.sum / control.n, candidate.sum / candidate.n
    product = cross.ss - mean1 * cross.sn - mean0 * cross.ns + mean0 * mean1 * cross.nn
    clusters = np.minimum(*(effective_clusters(arm.n, arm.g, arm.g_nn) for arm in (control, candidate)))
    found: Array = product / (control.n * candidate.n) * clusters / (clusters - 1.0)
    return found


def design_effect(strata: typing.Sequence[StratumSums], *, enlarged: bool = True) -> Array:
    """How many outcomes count as one; infinite where nothing is known about devices."""
    terms = []
    for stratum in strata:
        spread = clustered_difference(stratum)
        n0, n1 = stratum.control.n, stratum.candidate.n
        known = has_data(stratum) & spread.known
        weight = np.where(known, n0 * n1 / (n0 + n1), 0.0)
        terms.append((np.where(known, weight * _raw_effect(stratum, spread), 0.0), spread.df, weight))
    total = add_up(weighted for weighted, _, _ in terms)
    inverse = add_up(np.where(w > 0.0, (weighted / total) ** 2 / df, 0.0) for weighted, df, w in terms)
    weight = add_up(w for _, _, w in terms)
    factor = few_clusters_factor(inverse) if enlarged else 1.0
    return np.where(weight > 0.0, total / weight * factor, np.inf)


def _raw_effect(stratum: StratumSums, spread: Spreads) -> Array:
    arms = stratum.control, stratum.candidate
    seen = [independent_variance(arm.n, arm.sum, arm.sumsq) for arm in arms]
    together = seen[0] + seen[1]
    joint = np.where(together > 0.0, np.maximum(1.0, spread.variance / together), 1.0)
    effect = joint
    for arm, independent in zip(arms, seen, strict=True):
        for clusters in (arm, by_day(arm)):
            if clusters is not None:
                found = np.where(independent > 0.0, clustered_spread(clusters).variance / independent, 1.0)
                effect = np.maximum(effect, found)
    return effect if stratum.cross is None else np.where(stratum.cross.g >= 1.0, joint, effect)


def stratum_contrast(stratum: StratumSums, metric: Metric, margin: float, excess: Array) -> Contrasts:
    """Compare the arms of one stratum."""
    control, candidate = stratum.control, stratum.candidate
    spread = clustered_difference(stratum)
    n0, n1 = control.n, candidate.n
    weight = n0 * n1 / (n0 + n1)
    known = spread.known & has_data(stratum)
    if metric.kind == "bernoulli":
        bad0, bad1 = bad_outcomes(control, metric), bad_outcomes(candidate, metric)
        reported = independent_variance(n0, bad0, bad0) + independent_variance(n1, bad1, bad1)
        design = np.where(reported > 0.0, np.maximum(1.0, spread.variance / reported), 1.0)
        n1, bad1 = n1 + excess, bad1 + excess
        equal, worse = _rate_variances(n0, bad0, n1, bad1, margin)
        return Contrasts(bad0 / n0 - bad1 / n1, design * equal, design * worse, spread.df, weight, known)
    x = candidate.sum / n1 - control.sum / n0
    unseen = margin / np.minimum(n0, n1)
    variance = np.maximum(unseen * unseen, spread.variance * _mean_variance_ratio(control, candidate))
    return Contrasts(x if metric.direction == "higher" else -x, variance, variance, spread.df, weight, known)


def _rate_variances(n0: Array, bad0: Array, n1: Array, bad1: Array, margin: float) -> tuple[Array, Array]:
    rate0, rate1 = (bad0 + 2.0) / (n0 + 4.0), (bad1 + 2.0) / (n1 + 4.0)
    pooled = (bad0 + bad1 + 2.0) / (n0 + n1 + 4.0)
    equal = _towards(pooled, rate0, n0) + _towards(pooled, rate1, n1)
    base = np.maximum(0.0, rate0 + (rate1 - margin - rate0) * n1 / (n0 + n1))
    base = np.minimum(base, max(0.0, 1.0 - margin))
    return equal, _towards(base, rate0, n0) + _towards(np.minimum(1.0, base + margin), rate1, n1)


def _towards(tested: Array, seen: Array, n: Array) -> Array:
    rate = (2.0 * tested + seen) / 3.0
    found: Array = np.maximum(rate * (1.0 - rate), 0.25 / n) / n
    return found


def _mean_variance_ratio(control: ArmSums, candidate: ArmSums) -> Array:
    n0, n1 = control.n, candidate.n
    seen0 = independent_variance(n0, control.sum, control.sumsq)
    seen1 = independent_variance(n1, candidate.sum, candidate.sumsq)
    pooled = (seen0 * n0 * n0 + seen1 * n1 * n1) / (n0 + n1)
    changed = ((2.0 * pooled / n0 + seen0) + (2.0 * pooled / n1 + seen1)) / (3.0 * (seen0 + seen1))
    return np.where(seen0 + seen1 > 0.0, changed, 1.0)


def combine(parts: typing.Sequence[Contrasts]) -> Contrasts:
    """Weigh strata together; what is not known has no weight."""
    known = np.any([part.known for part in parts], axis=0)
    weights = [np.where(part.known, part.weight, 0.0) for part in parts]
    total = add_up(weights)
    shares = [weight / total for weight in weights]

    def weighed(values: typing.Iterable[Array], power: int) -> list[Array]:
        pairs = zip(shares, values, parts, strict=True)
        return [np.where(part.known, share**power * value, 0.0) for share, value, part in pairs]

    x = add_up(weighed((part.x for part in parts), 1))
    terms = weighed((part.variance for part in parts), 2)
    worse = add_up(weighed((part.variance_worse for part in parts), 2))
    variance = add_up(terms)
    inverse = add_up(np.where(p.known, (t / variance) ** 2 / p.df, 0.0) for t, p in zip(terms, parts, strict=True))
    return Contrasts(x, variance, worse, 1.0 / inverse, total, known)
