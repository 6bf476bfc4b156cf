"""Variance of a ratio of sums when outcomes come in clusters: the outcomes of one device resemble each other."""

from __future__ import annotations

import math
import typing

ROUNDING = 1e-13  # what is left of a difference of sums that cancel
SCORE = 3.0  # in standard errors, about where verdicts fall
MOST = 600.0  # e to this power is still a float


class Spread(typing.NamedTuple):
    """Variance of a mean and how well it is known.

    ``variance`` is in squared metric units; ``df`` are its degrees of freedom, 0 if there is one cluster only.
    """

    variance: float
    df: float


def effective_clusters(n: float, g: float, nn: float) -> float:
    """Count clusters as if all had the same number of outcomes.

    Parameters
    ----------
    n, g, nn : float
        Outcomes, clusters, and the sum over clusters of the squared number of outcomes.

    Returns
    -------
    float
        ``n^2 / nn``, in ``[1, g]``; 0 without outcomes.

    Notes
    -----
    A. V. Carter, K. T. Schnepel and D. G. Steigerwald, "Asymptotic behavior of a t-test robust to cluster
    heterogeneity", Review of Economics and Statistics 99 (2017), for why ``g`` itself promises too much.

    Examples
    --------
    >>> effective_clusters(100.0, 10.0, 1000.0)
    10.0
    >>> round(effective_clusters(100.0, 10.0, 8200.0), 3)  # one device made 90 of the 100 outcomes
    1.22
    """
    if n <= 0.0 or nn <= 0.0:
        return 0.0
    return max(1.0, min(g, n * n / nn))


def clustered_spread(n: float, total: float, g: float, nn: float, ns: float, ss: float) -> Spread:
    """Cluster-robust variance of ``total / n``.

    Parameters
    ----------
    n, total : float
        Outcomes and their sum; ``n > 0``.
    g, nn, ns, ss : float
        Clusters, and the sums over clusters of ``n_d^2``, ``n_d s_d`` and ``s_d^2``.

    Returns
    -------
    Spread
        ``G/(G-1) sum (s_d - mean n_d)^2 / n^2`` with ``G`` the effective number of clusters, and ``G - 1``.

    Notes
    -----
    The linearised ratio estimator of survey sampling (W. G. Cochran, "Sampling Techniques", 1977, section 6.3).

    Examples
    --------
    Three devices with 2, 2 and 2 outcomes which add up to 0, 1 and 2:

    >>> clustered_spread(6.0, 3.0, 3.0, 12.0, 6.0, 5.0)
    Spread(variance=0.08333333333333333, df=2.0)
    """
    mean = total / n
    clusters = effective_clusters(n, g, nn)
    if clusters <= 1.0:
        return Spread(0.0, 0.0)
    residual = ss - 2.0 * mean * ns + mean * mean * nn
    residual = max(residual, ROUNDING * ss)
    return Spread(residual / (n * n) * clusters / (clusters - 1.0), clusters - 1.0)


def independent_variance(n: float, total: float, sumsq: float) -> float:
    """Variance of ``total / n`` if all outcomes were independent.

    Parameters
    ----------
    n, total, sumsq : float
        Outcomes, their sum and their sum of squares; ``n > 0``.

    Returns
    -------
    float
        At least 0.

    Examples
    --------
    >>> independent_variance(100.0, 50.0, 50.0)
    0.0025
    """
    mean = total / n
    return max(0.0, sumsq / n - mean * mean) / n


def few_clusters_factor(inverse_df: float) -> float:
    """How much to enlarge a variance that was estimated from few clusters, where no t score can be taken.

    Parameters
    ----------
    inverse_df : float
        One over the degrees of freedom; above 0.

    Returns
    -------
    float
        At least 1: the square of the t score over that of the normal score 3 which is as surprising, after the
        leading term of Hill's series (see :func:`cloud.analysis.tails.z_from_t`).

    Examples
    --------
    >>> [round(few_clusters_factor(1.0 / df), 3) for df in (5.0, 19.0, 1000.0)]
    [2.805, 1.279, 1.005]
    """
    square = SCORE * SCORE * inverse_df
    return math.expm1(min(square, MOST)) / square
