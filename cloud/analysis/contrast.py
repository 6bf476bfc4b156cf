"""How much better the candidate is than the control inside strata whose split was constant, and how sure that is."""

from __future__ import annotations

import typing

from cloud.analysis.difference import clustered_difference
from cloud.analysis.ratio import independent_variance
from cloud.analysis.records import Arm, Metric, Stratum


class Contrast(typing.NamedTuple):
    """Candidate minus control, oriented so that higher is better.

    ``variance`` holds if both arms are equal, ``variance_worse`` if the candidate is worse by the margin; both with
    ``df`` degrees of freedom. ``weight`` says how much information there is.
    """

    x: float
    variance: float
    variance_worse: float
    df: float
    weight: float


def has_data(stratum: Stratum) -> bool:
    """Tell whether both arms have an outcome."""
    return stratum.control.n >= 1.0 and stratum.candidate.n >= 1.0


def bad_outcomes(arm: Arm, metric: Metric) -> float:
    """Count the failures of one arm of a bernoulli metric."""
    return max(0.0, arm.n - arm.sum) if metric.direction == "higher" else arm.sum


def stratum_contrast(stratum: Stratum, metric: Metric, margin: float, excess: float = 0.0) -> Contrast | None:
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
        None when each arm has one device at most, so that nothing is known about how devices differ.

    Notes
    -----
    The design effect, the clustered variance over that of independent outcomes, multiplies a variance which is taken
    a third of the way from the means under test to the means seen. There the squared score is twice the logarithm of
    the likelihood ratio up to third order, so that a lucky or unlucky start counts for what it is worth.

    Examples
    --------
    >>> arm = Arm(100.0, 90.0, 90.0, 100.0, 100.0, 90.0, 90.0)
    >>> stratum_contrast(Stratum(arm, arm), Metric("bernoulli", "higher"), 0.02).x
    0.0
    """
    control, candidate = stratum.control, stratum.candidate
    spread = clustered_difference(stratum)
    if spread is None:
        return None
    n0, n1 = control.n, candidate.n
    weight = n0 * n1 / (n0 + n1)
    if metric.kind == "bernoulli":
        bad0, bad1 = bad_outcomes(control, metric), bad_outcomes(candidate, metric)
        reported = independent_variance(n0, bad0, bad0) + independent_variance(n1, bad1, bad1)
        design = max(1.0, spread.variance / reported) if reported > 0.0 else 1.0
        n1, bad1 = n1 + excess, bad1 + excess
        equal, worse = _rate_variances(n0, bad0, n1, bad1, margin)
        return Contrast(bad0 / n0 - bad1 / n1, design * equal, design * worse, spread.df, weight)
    x = candidate.sum / n1 - control.sum / n0
    unseen = margin / min(n0, n1)  # one more outcome may be a margin away, even if all were alike so far
    variance = max(unseen * unseen, spread.variance * _mean_variance_ratio(control, candidate))
    return Contrast(x if metric.direction == "higher" else -x, variance, variance, spread.df, weight)


def _rate_variances(n0: float, bad0: float, n1: float, bad1: float, margin: float) -> tuple[float, float]:
    """Variances of a difference of rates, if the arms are equal and if the candidate is worse by the margin."""
    # Two failures and two successes more, after Agresti and Coull (1998): no rate is ever certain.
    rate0, rate1 = (bad0 + 2.0) / (n0 + 4.0), (bad1 + 2.0) / (n1 + 4.0)
    pooled = (bad0 + bad1 + 2.0) / (n0 + n1 + 4.0)
    equal = _towards(pooled, rate0, n0) + _towards(pooled, rate1, n1)
    base = min(max(0.0, rate0 + (rate1 - margin - rate0) * n1 / (n0 + n1)), max(0.0, 1.0 - margin))
    worse = _towards(base, rate0, n0) + _towards(min(1.0, base + margin), rate1, n1)
    return equal, worse


def _towards(tested: float, seen: float, n: float) -> float:
    rate = (2.0 * tested + seen) / 3.0
    return max(rate * (1.0 - rate), 0.25 / n) / n  # beyond 2^53 outcomes, four more are lost in rounding


def _mean_variance_ratio(control: Arm, candidate: Arm) -> float:
    """Variance of a difference of means a third of the way from equal arms to those seen, over the one seen."""
    n0, n1 = control.n, candidate.n
    seen0 = independent_variance(n0, control.sum, control.sumsq)
    seen1 = independent_variance(n1, candidate.sum, candidate.sumsq)
    if seen0 + seen1 <= 0.0:
        return 1.0
    pooled = (seen0 * n0 * n0 + seen1 * n1 * n1) / (n0 + n1)
    return ((2.0 * pooled / n0 + seen0) + (2.0 * pooled / n1 + seen1)) / (3.0 * (seen0 + seen1))


def combine(parts: typing.Sequence[Contrast]) -> Contrast | None:
    """Weigh strata together.

    Parameters
    ----------
    parts : sequence of Contrast
        One for each stratum, in any order.

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
    parts = sorted(parts)  # so that the order of strata can not change the last digit
    weight = sum(part.weight for part in parts)
    shares = [part.weight / weight for part in parts]
    x = sum(share * part.x for share, part in zip(shares, parts, strict=True))
    terms = [share * share * part.variance for share, part in zip(shares, parts, strict=True)]
    worse = sum(share * share * part.variance_worse for share, part in zip(shares, parts, strict=True))
    variance = sum(terms)
    inverse_df = sum((term / variance) ** 2 / part.df for term, part in zip(terms, parts, strict=True))
    return Contrast(x, variance, worse, 1.0 / inverse_df, weight)
