"""Compares a candidate with its control, from strata or from pairs."""

from __future__ import annotations

import math
import typing

from cloud.analysis.contrast import Contrast, bad_outcomes, combine, has_data, stratum_contrast
from cloud.analysis.counts import log_e_below
from cloud.analysis.difference import design_effect
from cloud.analysis.evidence import NOTHING, Evidence
from cloud.analysis.mixture import LEAST_DROP, log_e_above, log_e_drop, log_mean_exp
from cloud.analysis.rare import ONE_ARM, TWO_ARMS, Rates, compare_rare
from cloud.analysis.ratio import clustered_spread, few_clusters_factor
from cloud.analysis.records import Metric, Pairs, Stratum
from cloud.analysis.tails import z_from_t

RARE_RATE = 0.03
UNSEEN = 20.0  # margins that the next pair of a continuous metric may lie away, even if all were alike so far
CAUTION = 100.0  # pairs before their variance is half believed: a rare large difference has mostly not come yet
MANY = 1e9  # degrees of freedom of a variance that is taken as known


def from_strata(
    strata: typing.Sequence[Stratum],
    excess: typing.Sequence[float],
    metric: Metric,
    margin: float,
    *,
    doubt: float = 0.0,
    tolerance: float = 0.0,
    enlarged: bool = True,
) -> Evidence:
    """Compare two arms over strata.

    Parameters
    ----------
    strata : sequence of Stratum
        Those without data in both arms say nothing and are left out.
    excess : sequence of float
        For each stratum, missing outcomes of the candidate that count as failures; ignored for continuous metrics.
    metric : Metric
        Kind and direction.
    margin : float
        Non-inferiority margin in metric units, above 0.
    doubt : float
        Standard error of the sum of `excess`; it weakens the evidence for the candidate alone.
    tolerance : float
        Of a continuous metric, how much worse the candidate may be before that is held against it.
    enlarged : bool
        Whether a variance that was estimated from few devices is enlarged, so that the evidence is not too strong.

    Returns
    -------
    Evidence
        From counts where failures are rare, from the difference of means otherwise.

    Examples
    --------
    >>> from cloud.analysis.records import Arm
    >>> control = Arm(2000.0, 1800.0, 1800.0, 2000.0, 2000.0, 1800.0, 1800.0)
    >>> candidate = Arm(2000.0, 1700.0, 1700.0, 2000.0, 2000.0, 1700.0, 1700.0)
    >>> seen = from_strata([Stratum(control, candidate)], [0.0], Metric("bernoulli", "higher"), 0.02)
    >>> round(seen.difference, 3), seen.log_e_worse > math.log(20.0), seen.log_e_fine > 0.0
    (-0.05, True, False)
    """
    known = [(s, e) for s, e in zip(strata, excess, strict=True) if has_data(s)]
    if metric.kind == "continuous":
        known = [(s, 0.0) for s, _ in known]
    elif known:
        rates = [_rates(s, e, metric) for s, e in known]
        if math.fsum(r.bad0 for r in rates) < RARE_RATE * math.fsum(r.n0 for r in rates):
            return compare_rare(rates, design_effect([s for s, _ in known], enlarged=enlarged), margin, doubt=doubt)
    parts = [stratum_contrast(s, metric, margin, e) for s, e in known]
    contrast = combine([part for part in parts if part is not None])
    if contrast is None:
        return NOTHING
    blur = doubt / math.fsum(s.candidate.n + e for s, e in known) if metric.kind == "bernoulli" else 0.0
    df = contrast.df if enlarged else MANY
    contrast = contrast._replace(variance_worse=contrast.variance_worse + blur * blur, df=df)
    return _from_contrast(contrast, margin, tolerance if metric.kind == "continuous" else 0.0)


def _rates(stratum: Stratum, excess: float, metric: Metric) -> Rates:
    control, candidate = stratum.control, stratum.candidate
    failures = bad_outcomes(control, metric), bad_outcomes(candidate, metric) + excess
    return Rates(control.n, failures[0], candidate.n + excess, failures[1])


def from_pairs(pairs: Pairs, lost: float, metric: Metric, margin: float, *, doubt: float = 0.0) -> Evidence:
    """Compare two models that answered the same inputs.

    Parameters
    ----------
    pairs : Pairs
        Sums of ``good(candidate) - good(control)``.
    lost : float
        Pairs that never came and count as lost by the candidate; ignored for continuous metrics.
    metric : Metric
        Only the kind matters: pairs are oriented already.
    margin : float
        Non-inferiority margin in metric units, above 0.
    doubt : float
        Standard error of `lost`; it weakens the evidence for the candidate alone.

    Returns
    -------
    Evidence
        For rates a device-robust McNemar test; for other metrics the mean difference, whose variance is enlarged
        while there are few pairs.

    Examples
    --------
    >>> pairs = Pairs(500.0, -25.0, 45.0, 500.0, 500.0, -25.0, 45.0, pos=10.0, neg=35.0)
    >>> seen = from_pairs(pairs, 0.0, Metric("bernoulli", "higher"), 0.02)
    >>> round(seen.difference, 3), round(seen.error, 4), seen.log_e_worse > math.log(20.0)
    (-0.05, 0.0136, True)
    """
    if pairs.n < 1.0:
        return NOTHING
    spread = clustered_spread(pairs.n, pairs.sum, pairs.g, pairs.g_nn, pairs.g_ns, pairs.g_ss)
    if pairs.days is not None:
        days = pairs.days
        spread = max(spread, clustered_spread(pairs.n, pairs.sum, days.g, days.nn, days.ns, days.ss))
    if spread.df <= 0.0:
        return NOTHING
    n = pairs.n
    if metric.kind == "continuous":
        variance = max(spread.variance, (UNSEEN * margin / n) ** 2) * (1.0 + CAUTION / n)
        return _from_contrast(Contrast(pairs.sum / n, variance, variance, spread.df, n), margin)
    apart = (pairs.pos or 0.0) + (pairs.neg or 0.0)
    design = max(1.0, spread.variance * n * n / apart) if apart > 0.0 else 1.0
    design *= few_clusters_factor(1.0 / spread.df) * (1.0 + doubt * doubt / ((pairs.neg or 0.0) + lost + 1.0))
    n, neg = n + lost, (pairs.neg or 0.0) + lost
    variance = max(spread.variance, (apart + lost + 1.0) / (n * n))
    # Whoever is worse by the margin loses that share of the inputs at least, even if few were lost so far.
    worse = max(variance, margin * (1.0 - margin) / n) + (doubt / n) ** 2
    seen = _from_contrast(Contrast((pairs.sum - lost) / n, variance, worse, spread.df, n), margin)
    never = log_e_below(n / design, neg / design, margin)
    return seen._replace(log_e_fine=log_mean_exp((seen.log_e_fine, never), (TWO_ARMS, ONE_ARM)))


def _from_contrast(contrast: Contrast, margin: float, tolerance: float = 0.0) -> Evidence:
    error, slack, df = math.sqrt(contrast.variance), math.sqrt(contrast.variance_worse), contrast.df
    drop, gain = z_from_t(-(contrast.x + tolerance) / error, df), z_from_t((contrast.x + margin) / slack, df)
    # The margin goes the same way as the differences: beside scores that few clusters keep small, a margin in units of
    # the error that was seen would make the largest difference look like none.
    worse = log_e_drop(drop, z_from_t(margin / error, df))
    # But large scores shrink more than small ones, so what is too small to act on might look larger than it is.
    return Evidence(
        worse if -contrast.x > LEAST_DROP * margin else min(worse, 0.0),
        log_e_above(gain, z_from_t(margin / slack, df)),
        contrast.x,
        error,
    )
