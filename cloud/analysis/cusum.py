"""Watches a model after its promotion: evidence that restarts whenever it speaks for the model."""

from __future__ import annotations

import math
import typing

from cloud.analysis.mixture import log_mean_exp

ALARM_AT = 1000.0
_RATIOS = (1.25, 1.5, 2.0, 3.0, 5.0)
_WEIGHTS = (0.2, 0.2, 0.2, 0.2, 0.2)


def step(log_level: float, log_e: float) -> float:
    """Take one more interval into account.

    Parameters
    ----------
    log_level : float
        ``ln M`` after the interval before; 0 at the start.
    log_e : float
        Logarithm of an e-value of the new interval alone.

    Returns
    -------
    float
        ``ln M_t`` with ``M_t = max(1, M_{t-1}) e_t``. While nothing changes, the mean number of intervals until ``M``
        reaches ``c`` is ``c`` at least.

    Notes
    -----
    J. Shin, A. Ramdas and A. Rinaldo, "E-detectors", New England Journal of Statistics in Data Science (2023).

    Examples
    --------
    >>> step(-5.0, 0.5)  # good news is forgotten
    0.5
    >>> step(1.0, 0.5)
    1.5
    """
    return max(0.0, log_level) + log_e


def first_alarm(log_es: typing.Iterable[float], alarm_at: float = ALARM_AT) -> int | None:
    """Find the first interval with an alarm.

    Parameters
    ----------
    log_es : iterable of float
        Logarithms of the e-values of the intervals, in order.
    alarm_at : float
        Level of the alarm, above 1: intervals between false alarms, on average and at least.

    Returns
    -------
    int or None
        Index from 0; None if there is no alarm.

    Examples
    --------
    >>> first_alarm([-1.0, -1.0, 4.0, 3.0])
    3
    >>> first_alarm([-1.0] * 1000) is None
    True
    """
    level, limit = 0.0, math.log(alarm_at)
    for index, log_e in enumerate(log_es):
        level = step(level, log_e)
        if level >= limit:
            return index
    return None


def log_e_of_interval(n: float, failures: float, rate: float) -> float:
    """Evidence of one interval that failures are more frequent than a known rate.

    Parameters
    ----------
    n, failures : float
        Outcomes of the interval and how many of them failed. Divide both by the design effect where the outcomes of
        a device resemble each other.
    rate : float
        The rate while all is well, in (0, 1).

    Returns
    -------
    float
        ``ln E``, a mixture of likelihood ratios of failing 1.25 to 5 times as often.

    Examples
    --------
    >>> log_e_of_interval(1000.0, 10.0, 0.01) < 0.0
    True
    >>> round(log_e_of_interval(1000.0, 25.0, 0.01), 3)
    6.639
    """
    values = []
    for ratio in _RATIOS:
        worse = min(ratio * rate, 0.5 * (1.0 + rate))
        gain, loss = math.log(worse / rate), math.log1p(-worse) - math.log1p(-rate)
        values.append(failures * gain + (n - failures) * loss)
    return log_mean_exp(values, _WEIGHTS)
