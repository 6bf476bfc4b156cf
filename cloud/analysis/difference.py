"""Cluster-robust variance of the difference between two arms, whose devices and days may be the same."""

from __future__ import annotations

import math
import typing

from cloud.analysis.ratio import Spread, clustered_spread, effective_clusters, few_clusters_factor, independent_variance
from cloud.analysis.records import Arm, Cross, CrossDays, Days, Stratum

FEW_CLUSTERS = 20.0


def clustered_difference(stratum: Stratum) -> Spread | None:
    """Variance of the difference of the means, with devices as clusters or with days where that is larger.

    Parameters
    ----------
    stratum : Stratum
        Both arms have data.

    Returns
    -------
    Spread or None
        None when neither arm has two clusters, or when the one cluster is shared.

    Notes
    -----
    Degrees of freedom after F. E. Satterthwaite, Biometrics Bulletin 2 (1946); where arms share their clusters, those
    of the arm that has fewer. Where they do not, the arm that has fewer is taken to vary between clusters at least as
    both do together, by the method of moments (W. G. Cochran, "Sampling Techniques", 1977, chapter 9): rates of
    devices are skewed, so that a mean which is good by luck comes with a variance which is too small.

    Examples
    --------
    Two devices serve both arms. They differ much from each other and little between the arms:

    >>> control = Arm(20.0, 10.0, 10.0, 2.0, 200.0, 100.0, 82.0)
    >>> candidate = Arm(20.0, 12.0, 12.0, 2.0, 200.0, 120.0, 104.0)
    >>> apart = clustered_difference(Stratum(control, candidate))
    >>> together = clustered_difference(Stratum(control, candidate, Cross(2.0, 200.0, 120.0, 100.0, 92.0)))
    >>> [round(spread.variance, 3) for spread in (apart, together)]
    [0.32, 0.0]
    """
    control, candidate, cross = stratum.control, stratum.candidate, stratum.cross
    spread = _difference(control, candidate, cross)
    if control.days is None or candidate.days is None:
        return spread
    by_day = _difference(_by_day(control, control.days), _by_day(candidate, candidate.days), cross and cross.days)
    if spread is None or by_day is None or by_day.variance <= spread.variance:
        return spread
    return by_day


def _by_day(arm: Arm, days: Days) -> Arm:
    return Arm(arm.n, arm.sum, arm.sumsq, days.g, days.nn, days.ns, days.ss)


def _difference(control: Arm, candidate: Arm, cross: Cross | CrossDays | None) -> Spread | None:
    """Cluster-robust variance of a difference of means, None if neither arm has two clusters."""
    v0, df0 = clustered_spread(control.n, control.sum, control.g, control.g_nn, control.g_ns, control.g_ss)
    v1, df1 = clustered_spread(candidate.n, candidate.sum, candidate.g, candidate.g_nn, candidate.g_ns, candidate.g_ss)
    if cross is not None and cross.g >= 1.0:
        if min(df0, df1) <= 0.0:
            return None
        return Spread(max(0.0, v0 + v1 - 2.0 * _covariance(control, candidate, cross)), min(df0, df1))
    if max(df0, df1) <= 0.0:
        return None
    within0 = independent_variance(control.n, control.sum, control.sumsq)
    within1 = independent_variance(candidate.n, candidate.sum, candidate.sumsq)
    between = (df0 * _between(v0, df0, within0) + df1 * _between(v1, df1, within1)) / (df0 + df1)
    # Few clusters that happen to be good are also alike: they are not believed to differ less than those of the other.
    if df1 < df0 or df0 == df1 < FEW_CLUSTERS - 1.0:
        v1, df1 = max(v1, within1 + between / (df1 + 1.0)), max(df1, 1.0)
    elif df0 < df1:
        v0, df0 = max(v0, within0 + between / (df0 + 1.0)), max(df0, 1.0)
    total = v0 + v1
    if total <= 0.0:
        return Spread(0.0, min(df0, df1))
    return Spread(total, 1.0 / ((v0 / total) ** 2 / df0 + (v1 / total) ** 2 / df1))


def _between(variance: float, df: float, within: float) -> float:
    """Variance between clusters, beyond what outcomes that are independent would show."""
    return max(0.0, variance * (df + 1.0) - within * (df + 1.0) * (df + 1.0) / df) if df > 0.0 else 0.0


def _covariance(control: Arm, candidate: Arm, cross: Cross | CrossDays) -> float:
    """Covariance of the two means that comes from the clusters which have both arms."""
    mean0, mean1 = control.sum / control.n, candidate.sum / candidate.n
    product = cross.ss - mean1 * cross.sn - mean0 * cross.ns + mean0 * mean1 * cross.nn
    clusters = min(
        effective_clusters(control.n, control.g, control.g_nn),
        effective_clusters(candidate.n, candidate.g, candidate.g_nn),
    )
    return product / (control.n * candidate.n) * clusters / (clusters - 1.0)


def design_effect(strata: typing.Sequence[Stratum], *, enlarged: bool = True) -> float:
    """How many outcomes count as one because outcomes of a device resemble each other.

    Parameters
    ----------
    strata : sequence of Stratum
        Those without data in both arms are left out.
    enlarged : bool
        Whether an effect that was estimated from few devices is enlarged as the square of Student's t is over that of
        a normal score of 3.

    Returns
    -------
    float
        At least 1; infinite when nothing is known about how devices differ. In each stratum that of the difference
        where devices hold both arms, otherwise that of the worse arm.

    Examples
    --------
    >>> alike = Arm(100.0, 50.0, 50.0, 10.0, 1000.0, 500.0, 500.0)  # of ten devices, five always fail
    >>> round(design_effect([Stratum(alike, alike)]), 2)
    14.42
    """
    terms = []
    for stratum in strata:
        spread = clustered_difference(stratum) if stratum.control.n >= 1.0 and stratum.candidate.n >= 1.0 else None
        if spread is not None:
            n0, n1 = stratum.control.n, stratum.candidate.n
            terms.append((n0 * n1 / (n0 + n1) * _raw_effect(stratum, spread), spread.df, n0 * n1 / (n0 + n1)))
    if not terms:
        return math.inf
    terms.sort()  # so that the order of strata can not change the last digit
    total = sum(weighted for weighted, _, _ in terms)
    inverse_df = sum((weighted / total) ** 2 / df for weighted, df, _ in terms)
    return total / sum(weight for _, _, weight in terms) * (few_clusters_factor(inverse_df) if enlarged else 1.0)


def _raw_effect(stratum: Stratum, spread: Spread) -> float:
    control, candidate = stratum.control, stratum.candidate
    seen = [independent_variance(arm.n, arm.sum, arm.sumsq) for arm in (control, candidate)]
    joint = max(1.0, spread.variance / sum(seen)) if sum(seen) > 0.0 else 1.0
    if stratum.cross is not None and stratum.cross.g >= 1.0:
        return joint
    effects = [joint]
    for arm, independent in zip((control, candidate), seen, strict=True):
        clusters = [(arm.g, arm.g_nn, arm.g_ns, arm.g_ss)]
        if arm.days is not None:
            clusters.append((arm.days.g, arm.days.nn, arm.days.ns, arm.days.ss))
        if independent > 0.0:
            effects += [clustered_spread(arm.n, arm.sum, *sums).variance / independent for sums in clusters]
    return max(effects)
