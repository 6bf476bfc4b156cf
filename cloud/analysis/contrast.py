"""How much better the candidate is than the control inside strata whose split was constant, and how sure that is."""

from __future__ import annotations

import typing

from cloud.analysis.ratio import Spread, clustered_spread, effective_clusters, binomial_variance
from cloud.analysis.records import Arm, Cross, CrossDays, Days, Metric, Stratum

_FEW_CLUSTERS = 20.0


class Contrast(typing.NamedTuple):
    """Candidate minus control, oriented so that higher is better.

    ``variance`` holds if both arms are equal, ``variance_worse`` if the candidate is worse by the margin; both with
    ``df`` degrees of freedom. ``weight`` is the stratum's share of the information.
    """

    x: float
    variance: float
    variance_worse: float
    df: float
    weight: float


def has_data(stratum: Stratum) -> bool:
    """Tell whether both arms have an outcome."""
    return stratum.control.n >= 1.0 and stratum.candidate.n >= 1.0


def stratum_contrast(stratum: Stratum, metric: Metric, margin: float, excess: float) -> Contrast | None:
    """Compare the arms of one stratum.

    Parameters
    ----------
    stratum : Stratum
        Both arms have data.
    metric : Metric
        Kind and direction.
    margin : float
        Non-inferiority margin in metric units, above 0.
    excess : float
        Missing outcomes of the candidate that count as failures; at least 0, and 0 for a continuous metric.

    Returns
    -------
    Contrast or None
        None when there is one device, so that nothing is known about how devices differ.
    """
    control, candidate = stratum.control, stratum.candidate
    spread = _difference(control, candidate, stratum.cross)
    if spread is None:
        return None
    variance, df = spread
    if control.days is not None and candidate.days is not None:
        cross_days = None if stratum.cross is None else stratum.cross.days
        by_day = _difference(_by_day(control, control.days), _by_day(candidate, candidate.days), cross_days)
        if by_day is not None and by_day.variance > variance:
            variance, df = by_day
    n0, n1 = control.n, candidate.n
    weight = n0 * n1 / (n0 + n1)
    sign = 1.0 if metric.direction == "higher" else -1.0
    if metric.kind == "continuous":
        unseen = margin / min(n0, n1)
        variance = max(variance, unseen * unseen)
        q0 = max(0.0, control.sumsq / n0 - (control.sum / n0) ** 2)
        q1 = max(0.0, candidate.sumsq / n1 - (candidate.sum / n1) ** 2)
        rep = q0 / n0 + q1 / n1
        if rep > 0:
            if q0 > 0 and q1 > 0 and not __import__("os").environ.get("AR"):
                lg = n0 / (n0 + n1)
                pooled = q0**lg * q1 ** (1 - lg)
                variance *= pooled ** (2 / 3) * (q0 ** (1 / 3) / n0 + q1 ** (1 / 3) / n1) / rep
            else:
                pooled = (n0 * q0 + n1 * q1) / (n0 + n1)
                variance *= ((2 * pooled + q0) / n0 + (2 * pooled + q1) / n1) / 3 / rep
        return Contrast(sign * (candidate.sum / n1 - control.sum / n0), variance, variance, df, weight)
    bad0 = control.sum if sign < 0.0 else n0 - control.sum
    bad1 = excess + (candidate.sum if sign < 0.0 else n1 - candidate.sum)
    reported = binomial_variance(n0, bad0) + binomial_variance(n1, bad1 - excess)
    design = max(1.0, variance / reported) if reported > 0.0 else 1.0
    n1 += excess
    equal, worse = _null_variances(n0, bad0, n1, bad1, margin)
    return Contrast(bad0 / n0 - bad1 / n1, design * equal, design * worse, df, weight)


def _null_variances(n0: float, bad0: float, n1: float, bad1: float, margin: float) -> tuple[float, float]:
    """Binomial variances of a difference of rates, if the arms are equal and if the candidate is worse by the margin.

    Taken a third of the way from the rate under test to the rate seen, the squared score is twice the logarithm of
    the likelihood ratio up to third order, so that a lucky or unlucky start counts for what it is worth.
    """
    rate0, rate1 = (bad0 + 2.0) / (n0 + 4.0), (bad1 + 2.0) / (n1 + 4.0)
    pooled = (bad0 + bad1 + 2.0) / (n0 + n1 + 4.0)
    equal = _mixed(pooled, rate0) / n0 + _mixed(pooled, rate1) / n1
    worse = rate0 * (1.0 - rate0) / n0 + _mixed(min(1.0, rate0 + margin), rate1) / n1
    return equal, worse


def _mixed(tested: float, seen: float) -> float:
    rate = (2.0 * tested + seen) / 3.0
    return rate * (1.0 - rate)


def _by_day(arm: Arm, days: Days) -> Arm:
    return Arm(arm.n, arm.sum, arm.sumsq, days.g, days.nn, days.ns, days.ss)


def _difference(control: Arm, candidate: Arm, cross: Cross | CrossDays | None) -> Spread | None:
    """Cluster-robust variance of a difference of means, None if neither arm has two clusters."""
    v0, df0 = clustered_spread(control.n, control.sum, control.g, control.g_nn, control.g_ns, control.g_ss)
    v1, df1 = clustered_spread(candidate.n, candidate.sum, candidate.g, candidate.g_nn, candidate.g_ns, candidate.g_ss)
    if max(df0, df1) <= 0.0:
        return None
    shared = 0.0 if cross is None or cross.g < 1.0 else _covariance(control, candidate, cross)
    if cross is not None and cross.g >= 1.0:
        df = min(df0, df1)
        if df <= 0.0:
            return None
        return Spread(max(0.0, v0 + v1 - 2.0 * shared), df)
    v0, v1, df0, df1 = _borrow(v0, v1, df0, df1)
    total = v0 + v1
    if total <= 0.0:
        return Spread(0.0, min(df0, df1))
    share0, share1 = v0 / total, v1 / total
    return Spread(total, 1.0 / (share0 * share0 / df0 + share1 * share1 / df1))


def _borrow(v0: float, v1: float, df0: float, df1: float) -> tuple[float, float, float, float]:
    """Let an arm with few clusters have at least the other arm's variance per cluster."""
    if df1 < _FEW_CLUSTERS - 1.0 and df1 <= df0:
        other = v0 * (df0 + 1.0) / (df1 + 1.0)
        if df1 <= 0.0 or other > v1:
            v1, df1 = max(v1, other), max(df1, 1.0)
    elif df0 < _FEW_CLUSTERS - 1.0 and df0 < df1:
        other = v1 * (df1 + 1.0) / (df0 + 1.0)
        if df0 <= 0.0 or other > v0:
            v0, df0 = max(v0, other), max(df0, 1.0)
    return v0, v1, df0, df1


def _covariance(control: Arm, candidate: Arm, cross: Cross | CrossDays) -> float:
    """Covariance of the two means that comes from the clusters which have both arms."""
    mean0, mean1 = control.sum / control.n, candidate.sum / candidate.n
    product = cross.ss - mean1 * cross.sn - mean0 * cross.ns + mean0 * mean1 * cross.nn
    clusters = min(
        effective_clusters(control.n, control.g, control.g_nn),
        effective_clusters(candidate.n, candidate.g, candidate.g_nn),
    )
    if clusters <= 1.0:
        return 0.0
    return product / (control.n * candidate.n) * clusters / (clusters - 1.0)


def combine(parts: list[Contrast]) -> Contrast | None:
    """Weigh strata together.

    Parameters
    ----------
    parts : list of Contrast
        One for each stratum.

    Returns
    -------
    Contrast or None
        The weighted mean, its variances, and Satterthwaite's degrees of freedom; None without parts.

    Examples
    --------
    >>> combine([Contrast(0.1, 0.04, 0.04, 9.0, 5.0), Contrast(0.3, 0.04, 0.04, 9.0, 5.0)])
    Contrast(x=0.2, variance=0.02, variance_worse=0.02, df=18.0, weight=10.0)
    """
    if len(parts) <= 1:
        return parts[0] if parts else None
    parts = sorted(parts)
    weight = sum(part.weight for part in parts)
    shares = [part.weight / weight for part in parts]
    x = sum(share * part.x for share, part in zip(shares, parts, strict=True))
    mine = [share * share * part.variance for share, part in zip(shares, parts, strict=True)]
    worse = sum(share * share * part.variance_worse for share, part in zip(shares, parts, strict=True))
    variance = sum(mine)
    inverse_df = sum((v / variance) ** 2 / part.df for v, part in zip(mine, parts, strict=True))
    return Contrast(x, variance, worse, 1.0 / inverse_df, weight)
