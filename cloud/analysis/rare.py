"""Compares arms whose failures are rare: counts, where a normal approximation would not hold."""

from __future__ import annotations

import math
import typing

from cloud.analysis.counts import Count, log_e_below, log_e_fewer, log_e_more
from cloud.analysis.evidence import NOTHING, Evidence
from cloud.analysis.mixture import log_mean_exp

TWO_ARMS, ONE_ARM = 0.8, 0.2  # weights of the two ways to see that a candidate is not worse by the margin


class Rates(typing.NamedTuple):
    """Outcomes and failures of control and candidate in one stratum."""

    n0: float
    bad0: float
    n1: float
    bad1: float


def compare_rare(strata: typing.Sequence[Rates], design: float, margin: float, *, doubt: float = 0.0) -> Evidence:
    """Compare rates of rare failures.

    Parameters
    ----------
    strata : sequence of Rates
        Both arms have outcomes in each; at least one.
    design : float
        How many outcomes count as one, at least 1; infinite if that is not known.
    margin : float
        How much higher the candidate's rate may be, above 0.
    doubt : float
        Standard error of the candidate's failures where some are guessed.

    Returns
    -------
    Evidence
        That the candidate fails more often; and that it does not fail more often by the margin, for which either both
        arms speak, or the candidate alone when its rate is below the margin itself. Without the second, models that
        never fail could never be promoted.

    Examples
    --------
    >>> seen = compare_rare([Rates(2000.0, 0.0, 2000.0, 0.0)], 1.0, 0.005)
    >>> seen.log_e_worse < 1e-12, seen.log_e_fine > math.log(100.0)
    (True, True)
    >>> compare_rare([Rates(9500.0, 48.0, 500.0, 10.0)], 1.0, 0.005).log_e_worse > math.log(20.0)
    True
    """
    if math.isinf(design):
        return NOTHING
    rows = sorted(strata)
    n, failures = math.fsum(row.n1 for row in rows), math.fsum(row.bad1 for row in rows)
    blurred = design * (1.0 + doubt * doubt / (failures + 1.0))
    worse, fine = [], []
    for row in rows:
        worse.append(Count(row.bad0 / design, row.bad1 / design, row.n1 / row.n0))
        # Smoothed upwards: a control that was lucky so far must not make a large margin look small.
        base = (row.bad0 + 2.0) / (row.n0 + 4.0)
        fine.append(Count(row.bad0 / blurred, row.bad1 / blurred, row.n1 / row.n0 * (base + margin) / base))
    below = log_e_below(n / blurred, failures / blurred, margin)
    not_worse = log_mean_exp((log_e_fewer(fine), below), (TWO_ARMS, ONE_ARM))
    difference, error = _estimate(rows, design)
    return Evidence(log_e_more(worse), not_worse, difference, error)


def _estimate(rows: typing.Sequence[Rates], design: float) -> tuple[float, float]:
    """Weigh the differences of the rates together, higher is better."""
    total = difference = variance = 0.0
    for n0, bad0, n1, bad1 in rows:
        share = n0 * n1 / (n0 + n1)
        total += share
        difference += share * (bad0 / n0 - bad1 / n1)
        variance += share * share * design * ((bad0 + 2.0) / (n0 + 4.0) / n0 + (bad1 + 2.0) / (n1 + 4.0) / n1)
    return difference / total, math.sqrt(variance) / total
