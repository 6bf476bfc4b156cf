"""Evidence that may be looked at any time: one-sided e-processes for the mean of a normal score."""

from __future__ import annotations

import math
import typing

from cloud.analysis.tails import log_scaled_ndtr

DROPS = tuple(2.0 ** (step / 2.0) for step in range(-2, 11))  # in margins: one half to 32, half an octave apart
LEAST_DROP = 0.5 * DROPS[0]  # in margins: what is smaller is never evidence, however sure it is


def _log_normal(centre: float, spread: float) -> tuple[float, ...]:
    heights = [math.exp(-0.5 * (math.log(drop / centre) / spread) ** 2) for drop in DROPS]
    return tuple(height / math.fsum(heights) for height in heights)


# Drops that deserve a rollback are mostly one to six margins; a twentieth of the weight watches for far larger ones.
DROP_WEIGHTS = tuple(
    0.95 * near + 0.05 * far for near, far in zip(_log_normal(2.4, 0.35), _log_normal(10.0, 0.6), strict=True)
)


def log_e_above(z: float, scale: float) -> float:
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
    >>> log_e_above(0.0, 0.0)  # no effect is thought possible, so nothing is evidence
    0.0
    >>> round(log_e_above(3.0, 3.0), 6)
    3.589639
    """
    spread = 1.0 + scale * scale
    u = scale * z / math.sqrt(spread)
    return math.log(2.0) - 0.5 * math.log(spread) + log_scaled_ndtr(u)


def log_e_drop(z: float, margin: float) -> float:
    """Logarithm of the mixture e-value that a mean is above 0 by about one to six margins.

    Parameters
    ----------
    z : float
        The estimated drop in units of its standard error.
    margin : float
        The margin in the same units; above 0.

    Returns
    -------
    float
        ``ln E``, with the same promise as :func:`log_e_above`. A drop below :data:`LEAST_DROP` margins never
        counts as evidence.

    Notes
    -----
    H. Robbins's mixture, over a grid that follows a log-normal distribution. A half-normal mixture puts much of its
    weight on drops that are too small to act on, and pays for it with outcomes.

    Examples
    --------
    >>> log_e_drop(0.0, 1.0) < 0.0
    True
    >>> round(log_e_drop(3.0, 1.0), 6)
    4.06805
    """
    return log_mean_exp(tuple(drop * margin * (z - 0.5 * drop * margin) for drop in DROPS), DROP_WEIGHTS)


def log_mean_exp(values: typing.Sequence[float], weights: typing.Sequence[float]) -> float:
    """Logarithm of a weighted mean of e-values, which is an e-value itself.

    Parameters
    ----------
    values : sequence of float
        Logarithms of e-values.
    weights : sequence of float
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
    return top + math.log(sum(w * math.exp(v - top) for v, w in zip(values, weights, strict=True)))
