"""E-processes over arrays: what ``mixture``, ``counts`` and ``tails`` compute, for many experiments at once.

Each function is the twin of the one of the same name; tests hold them together to nine digits.
"""

from __future__ import annotations

import math
import typing

import numpy as np
from scipy import special

from cloud.analysis import counts, mixture, tails
from cloud.analysis.batch import Array

_ROOT_HALF = math.sqrt(0.5)
_SMALLEST_TAIL = 1e-280  # below this the incomplete beta integral loses digits


class Counts(typing.NamedTuple):
    """Arrays of :class:`cloud.analysis.counts.Count`."""

    control: Array
    candidate: Array
    odds: Array


def log_mean_exp(values: Array, weights: typing.Sequence[float]) -> Array:
    """Logarithm of a weighted mean of e-values along the first axis.

    Examples
    --------
    >>> log_mean_exp(np.array([[0.0, -np.inf], [0.0, 1000.0]]), (0.5, 0.5)).round(3).tolist()
    [0.0, 999.307]
    """
    top = values.max(axis=0)
    total = np.zeros_like(top)
    for value, weight in zip(values, weights, strict=True):
        total += weight * np.exp(value - top)
    found: Array = top + np.log(total)
    return found


def log_e_above(z: Array, scale: Array) -> Array:
    """Half-normal mixture e-value that a mean is above 0.

    Examples
    --------
    >>> log_e_above(np.array([3.0, 0.0]), np.array([3.0, 0.0])).round(6).tolist()
    [3.589639, 0.0]
    """
    spread = 1.0 + scale * scale
    u = scale * z / np.sqrt(spread)
    below, above = np.minimum(u, 0.0), np.maximum(u, 0.0)
    tail = np.where(
        u < 0.0, np.log(0.5 * special.erfcx(-below * _ROOT_HALF)), special.log_ndtr(above) + 0.5 * above * above
    )
    found: Array = math.log(2.0) - 0.5 * np.log(spread) + tail
    return found


def log_e_drop(z: Array, margin: Array) -> Array:
    """Mixture e-value that a mean is above 0 by about one to six margins.

    Examples
    --------
    >>> log_e_drop(np.array([3.0]), np.array([1.0])).round(6).tolist()
    [4.06805]
    """
    values = [drop * margin * (z - 0.5 * drop * margin) for drop in mixture.DROPS]
    return log_mean_exp(np.stack(values), mixture.DROP_WEIGHTS)


def log_e_more(strata: typing.Sequence[Counts]) -> Array:
    """Evidence that the candidate's events are more frequent.

    Examples
    --------
    >>> log_e_more([Counts(np.array([5.0]), np.array([25.0]), np.array([1.0]))]).round(3).tolist()
    [6.174]
    """
    values = []
    for log_ratio in counts.LOG_RATIOS:
        value = np.zeros_like(strata[0].odds)
        for count in strata:
            lift = np.log((1.0 + count.odds * math.exp(log_ratio)) / (1.0 + count.odds))
            value = value + count.candidate * log_ratio - (count.candidate + count.control) * lift
        values.append(value)
    return log_mean_exp(np.stack(values), counts.WEIGHTS)


def log_e_fewer(strata: typing.Sequence[Counts]) -> Array:
    """Evidence that the candidate's events are less frequent.

    Examples
    --------
    >>> log_e_fewer([Counts(np.array([25.0]), np.array([5.0]), np.array([1.0]))]).round(3).tolist()
    [6.174]
    """
    return log_e_more([Counts(count.candidate, count.control, 1.0 / count.odds) for count in strata])


def log_e_below(n: Array, events: Array, limit: float) -> Array:
    """Evidence from one arm alone that a rate is below a limit.

    Examples
    --------
    >>> log_e_below(np.array([1000.0]), np.array([0.0]), 0.005).round(3).tolist()
    [4.48]
    """
    limit = min(limit, 1.0 - 1e-9)
    all_good = math.log1p(-limit)
    values = [np.where(events > 0.0, -np.inf, -n * all_good)]
    values += [
        events * math.log(share) + (n - events) * (math.log1p(-share * limit) - all_good)
        for share in counts.SHARES_OF_LIMIT[1:]
    ]
    return log_mean_exp(np.stack(values), counts.SHARE_WEIGHTS)


def z_from_t(t: Array, df: Array) -> Array:
    """Normal score with the same tail area as a t score.

    Examples
    --------
    >>> z_from_t(np.array([12.706204736, -2.0]), np.array([1.0, 1e9])).round(6).tolist()
    [1.959964, -2.0]
    """
    size = np.abs(t)
    a = np.maximum(df, tails.HILL_FROM_DF) - 0.5
    b = 48.0 * a * a
    y = a * np.log1p(size * size / np.maximum(df, tails.HILL_FROM_DF))
    bend = (((-0.4 * y - 3.3) * y - 24.0) * y - 85.5) / (0.8 * y * y + 100.0 + b)
    z = ((bend + y + 3.0) / b + 1.0) * np.sqrt(y)
    few = (df < tails.HILL_FROM_DF) & (df > 0.0) & (size > 0.0)
    if few.any():
        z[few] = _from_few(size[few], df[few])
    found: Array = np.copysign(z, t)
    return found


def _from_few(size: Array, df: Array) -> Array:
    tail = 0.5 * special.betainc(0.5 * df, 0.5, df / (df + size * size))
    far = tail < _SMALLEST_TAIL
    z: Array = -special.ndtri_exp(np.log(np.where(far, 0.5, tail)))
    z[far] = [tails.z_from_t(t, d) for t, d in zip(size[far].tolist(), df[far].tolist(), strict=True)]
    return z
