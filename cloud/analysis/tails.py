"""Tail areas that stay exact far out: log normal tail, Student's t turned into an equally surprising normal score."""

from __future__ import annotations

import math
from statistics import NormalDist

_LOG_SQRT_2PI = 0.5 * math.log(2.0 * math.pi)
_SQRT_HALF = math.sqrt(0.5)
_FAR = 30.0  # beyond this, erfc is about to underflow and four terms of its expansion are exact to 1e-11
_NORMAL = NormalDist()
HILL_FROM_DF = 100.0  # from here on Hill's series is within 1e-9 for every |t| < 10
_TINY = 1e-300


def log_ndtr(u: float) -> float:
    """Logarithm of the standard normal distribution function.

    Parameters
    ----------
    u : float
        Any finite number, in standard deviations.

    Returns
    -------
    float
        ``ln P(Z <= u)``, in ``(-inf, 0]``; relative error below 1e-11 everywhere.

    Examples
    --------
    >>> log_ndtr(0.0) == math.log(0.5)
    True
    >>> round(log_ndtr(-40.0), 9)
    -804.608442014
    """
    if u > 0.0:
        return math.log1p(-0.5 * math.erfc(u * _SQRT_HALF))
    if u > -_FAR:
        return math.log(0.5 * math.erfc(-u * _SQRT_HALF))
    return log_scaled_ndtr(u) - 0.5 * u * u


def log_scaled_ndtr(u: float) -> float:
    """Logarithm of the normal distribution function without its exponential decay.

    Parameters
    ----------
    u : float
        Any finite number, in standard deviations.

    Returns
    -------
    float
        ``ln P(Z <= u) + u^2 / 2``, free of cancellation far below 0.

    Examples
    --------
    >>> log_scaled_ndtr(0.0) == math.log(0.5)
    True
    >>> round(log_scaled_ndtr(-1e9), 9) == round(-math.log(1e9) - 0.5 * math.log(2.0 * math.pi), 9)
    True
    """
    if u > -_FAR:
        return log_ndtr(u) + 0.5 * u * u
    w = 1.0 / (u * u)
    return -math.log(-u) - _LOG_SQRT_2PI + math.log1p(w * (-1.0 + w * (3.0 - w * (15.0 - 105.0 * w))))


def z_from_log_tail(log_p: float) -> float:
    """Normal score whose upper tail has the given logarithm.

    Parameters
    ----------
    log_p : float
        Logarithm of an upper tail area, at most ``ln 0.5``.

    Returns
    -------
    float
        ``z >= 0`` with ``ln P(Z > z) = log_p``.

    Examples
    --------
    >>> round(z_from_log_tail(math.log(0.025)), 9)
    1.959963985
    >>> round(z_from_log_tail(-804.608442014), 9)
    40.0
    """
    if log_p > -_FAR * 20.0:
        return max(0.0, -_NORMAL.inv_cdf(min(0.5, math.exp(log_p))))
    z = math.sqrt(-2.0 * log_p)
    for _ in range(4):
        # The slope of ln P(Z > z) is -z (1 + 1/z^2) to the order that four Newton steps need.
        z += (log_ndtr(-z) - log_p) / (z + 1.0 / z)
    return z


def _beta_fraction(x: float, a: float, b: float) -> float:
    """Continued fraction of the incomplete beta integral by Lentz's method; quick for ``x < (a+1)/(a+b+2)``."""
    c, d = 1.0, 1.0 / max(1.0 - (a + b) * x / (a + 1.0), _TINY)
    value = d
    for m in range(1, 400):
        even = m * (b - m) * x / ((a + 2 * m - 1.0) * (a + 2 * m))
        d = 1.0 / (1.0 + even * d or _TINY)
        c = 1.0 + even / c or _TINY
        value *= c * d
        odd = -(a + m) * (a + b + m) * x / ((a + 2 * m) * (a + 2 * m + 1.0))
        d = 1.0 / (1.0 + odd * d or _TINY)
        c = 1.0 + odd / c or _TINY
        step = c * d
        value *= step
        if abs(step - 1.0) < 1e-15:  # noqa: PLR2004 -- one rounding error
            break
    return value


def log_t_tail(t: float, df: float) -> float:
    """Logarithm of the upper tail of Student's t.

    Parameters
    ----------
    t : float
        At least 0.
    df : float
        Degrees of freedom, above 0 and below a thousand, from where the gamma functions cancel; fractions are
        welcome.

    Returns
    -------
    float
        ``ln P(T > t)``, in ``(-inf, ln 0.5]``.

    Examples
    --------
    >>> round(math.exp(log_t_tail(1.0, 1.0)), 12)  # a quarter of the Cauchy distribution lies above 1
    0.25
    """
    a, t2 = 0.5 * df, t * t
    x, y = df / (df + t2), t2 / (df + t2)
    log_front = math.lgamma(a + 0.5) - math.lgamma(a) - math.lgamma(0.5) - a * math.log1p(t2 / df)
    if x < (a + 1.0) / (a + 2.5):
        return math.log(0.5) + log_front + 0.5 * math.log(y) - math.log(a) + math.log(_beta_fraction(x, a, 0.5))
    lower = math.exp(log_front) * math.sqrt(y) * 2.0 * _beta_fraction(y, 0.5, a)
    return math.log(0.5) + math.log1p(-lower)


def z_from_t(t: float, df: float) -> float:
    """Normal score with the same tail area as a t score.

    Parameters
    ----------
    t : float
        Score of an estimate whose variance was itself estimated.
    df : float
        Degrees of freedom of that variance, above 0.

    Returns
    -------
    float
        ``z`` of the sign of ``t`` with ``P(Z > |z|) = P(T_df > |t|)``; ``|z| <= |t|``.

    Notes
    -----
    G. W. Hill, "Student's t-distribution", Algorithm 395, Comm. ACM 13 (1970), for 100 degrees of freedom and
    more; the incomplete beta integral below that.

    Examples
    --------
    >>> round(z_from_t(12.706204736, 1.0), 6)
    1.959964
    >>> round(z_from_t(-2.0, 1e9), 6)
    -2.0
    """
    size = abs(t)
    if df >= HILL_FROM_DF:
        a = df - 0.5
        b = 48.0 * a * a
        y = a * math.log1p(size * size / df)
        bend = (((-0.4 * y - 3.3) * y - 24.0) * y - 85.5) / (0.8 * y * y + 100.0 + b)
        z = ((bend + y + 3.0) / b + 1.0) * math.sqrt(y)
    elif size > 0.0:
        z = z_from_log_tail(log_t_tail(size, df))
    else:
        z = 0.0
    return math.copysign(z, t)
