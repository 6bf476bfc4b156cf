"""Exact evidence from counts of rare events: whose failures they are, given how the traffic was split."""

from __future__ import annotations

import math
import typing

from cloud.analysis.mixture import log_mean_exp


class Count(typing.NamedTuple):
    """Events of both arms in one stratum; ``odds`` is candidate traffic over control traffic, above 0."""

    control: float
    candidate: float
    odds: float


def _half_normal(nodes: int, scale: float) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Midpoints and weights of a half-normal distribution, cut at three standard deviations."""
    points = tuple((i + 0.5) * 3.0 * scale / nodes for i in range(nodes))
    heights = [math.exp(-0.5 * (p / scale) ** 2) for p in points]
    total = math.fsum(heights)
    return points, tuple(h / total for h in heights)


LOG_RATIOS, WEIGHTS = _half_normal(16, 1.2)
SHARES_OF_LIMIT = (0.0, 0.15, 0.3, 0.45, 0.6, 0.75)
SHARE_WEIGHTS = (0.5, 0.1, 0.1, 0.1, 0.1, 0.1)


def log_e_more(counts: typing.Sequence[Count]) -> float:
    """Evidence that the candidate's events are more frequent than the control's.

    Parameters
    ----------
    counts : sequence of Count
        One for each stratum.

    Returns
    -------
    float
        ``ln E`` of an e-process: under equal rates, an event is the candidate's with the candidate's share of the
        traffic as probability; under the alternative its odds are larger by one ratio in all strata, which is
        mixed over.

    Notes
    -----
    M. Lindon and A. Malek, "Anytime-valid inference for multinomial count data", NeurIPS 2022.

    Examples
    --------
    >>> abs(log_e_more([Count(0.0, 0.0, 1.0)])) < 1e-12  # nothing failed, nothing is known
    True
    >>> round(log_e_more([Count(5.0, 25.0, 1.0)]), 3)
    6.174
    """
    values = []
    for log_ratio in LOG_RATIOS:
        ratio = math.exp(log_ratio)
        value = 0.0
        for count in counts:
            lift = math.log((1.0 + count.odds * ratio) / (1.0 + count.odds))
            value += count.candidate * log_ratio - (count.candidate + count.control) * lift
        values.append(value)
    return log_mean_exp(tuple(values), WEIGHTS)


def log_e_fewer(counts: typing.Sequence[Count]) -> float:
    """Evidence that the candidate's events are less frequent than the control's.

    Parameters
    ----------
    counts : sequence of Count
        One for each stratum. For a non-inferiority test, multiply ``odds`` by the rate ratio that is to be refuted.

    Returns
    -------
    float
        ``ln E`` of the mirror image of :func:`log_e_more`.

    Examples
    --------
    >>> counts = [Count(5.0, 25.0, 1.0)]
    >>> log_e_fewer([Count(25.0, 5.0, 1.0)]) == log_e_more(counts)
    True
    """
    return log_e_more([Count(count.candidate, count.control, 1.0 / count.odds) for count in counts])


def log_e_below(n: float, events: float, limit: float) -> float:
    """Evidence that a rate is below a limit, from one arm alone.

    Parameters
    ----------
    n, events : float
        Outcomes and events.
    limit : float
        The rate to be refuted, above 0; from 1 on, nothing can be as bad.

    Returns
    -------
    float
        ``ln E`` of an e-process, a mixture over rates from 0 to three quarters of the limit.

    Examples
    --------
    >>> round(log_e_below(1000.0, 0.0, 0.005), 3)
    4.48
    >>> log_e_below(1000.0, 10.0, 0.005) < 0.0
    True
    """
    values = []
    limit = min(limit, 1.0 - 1e-9)
    for share in SHARES_OF_LIMIT:
        rate = share * limit
        if share == 0.0:
            value = -math.inf if events > 0.0 else -n * math.log1p(-limit)
        else:
            value = events * math.log(share) + (n - events) * (math.log1p(-rate) - math.log1p(-limit))
        values.append(value)
    return log_mean_exp(tuple(values), SHARE_WEIGHTS)
