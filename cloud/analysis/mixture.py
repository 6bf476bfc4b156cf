"""Evidence that may be looked at any time: a one-sided e-process for the mean of a normal score."""

from __future__ import annotations

import math

from cloud.analysis.tails import log_scaled_ndtr


def log_e_value(z: float, scale: float) -> float:
    """Logarithm of the half-normal mixture e-value that a mean is above 0.

    Parameters
    ----------
    z : float
        The estimated mean in units of its standard error.
    scale : float
        Standard deviation of the half-normal mixture over possible true means, in the same units; at least 0.

    Returns
    -------
    float
        ``ln E``. If the mean is at most 0, the largest of all the looks reaches ``c`` with probability ``1/c`` at
        most, however many looks there are.

    Notes
    -----
    H. Robbins, Annals of Mathematical Statistics 41 (1970); S. R. Howard, A. Ramdas, J. McAuliffe and J. Sekhon,
    Annals of Statistics 49 (2021). With a variance estimated from the same data this is the asymptotic confidence
    sequence of I. Waudby-Smith et al., arXiv 2103.06476.

    Examples
    --------
    >>> log_e_value(0.0, 0.0)  # no effect is thought possible, so nothing is evidence
    0.0
    >>> round(log_e_value(3.0, 3.0), 6)
    3.589639
    """
    spread = 1.0 + scale * scale
    u = scale * z / math.sqrt(spread)
    return math.log(2.0) - 0.5 * math.log(spread) + log_scaled_ndtr(u)


def log_mean_exp(values: tuple[float, ...], weights: tuple[float, ...]) -> float:
    """Logarithm of a weighted mean of e-values, which is an e-value itself.

    Parameters
    ----------
    values : tuple of float
        Logarithms of e-values.
    weights : tuple of float
        As many, above 0, adding up to 1.

    Returns
    -------
    float
        ``ln sum w exp(v)`` without overflow.

    Examples
    --------
    >>> log_mean_exp((0.0, 0.0), (0.5, 0.5))
    0.0
    >>> log_mean_exp((-math.inf, 1000.0), (0.5, 0.5)) == 1000.0 + math.log(0.5)
    True
    """
    top = max(values)
    if math.isinf(top):
        return top
    return top + math.log(math.fsum(w * math.exp(v - top) for v, w in zip(values, weights, strict=True)))


_R = [2.0 ** (j / 2) for j in range(-2, 11)]
_W = [math.exp(-0.5 * (math.log(r / 2.5) / 0.6) ** 2) for r in _R]
_W = [w / sum(_W) for w in _W]


def log_e_grid(z, unit):
    return log_mean_exp(tuple(r * unit * (z - 0.5 * r * unit) for r in _R), tuple(_W))
