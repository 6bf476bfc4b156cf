"""How many more outcomes a verdict will likely need, should things go on as they are."""

from __future__ import annotations

import math
import typing

from cloud.analysis.mixture import log_e_above

_MOST = 1e6  # times the evidence so far: beyond that it is "never"
_STEPS = 60
_LEAST, _MOST_ERROR = 1e-6, 3.0  # margins: an error larger than that says nothing yet


def more_outcomes(
    *, difference: float, error: float, outcomes: float, margin: float, need: float, caution: float = 0.0
) -> int | None:
    """Estimate how many more outcomes prove that a candidate is not worse by the margin.

    The estimate stays as it is and its variance shrinks as outcomes come in; days and devices as clusters shrink it
    more slowly than that, so this is the least that is likely.

    Parameters
    ----------
    difference, error : float
        Candidate minus control, higher is better, and its standard error; above 0.
    outcomes : float
        How many it rests on, above 0.
    margin : float
        How much worse the candidate may be, above 0.
    need : float
        Logarithm of the evidence that promotes.
    caution : float
        The error holds a variance that is enlarged by this over the number of outcomes.

    Returns
    -------
    int or None
        0 if there is enough; None if no number of outcomes will do, as the candidate looks worse by the margin.

    Examples
    --------
    >>> more_outcomes(difference=0.0, error=0.01, outcomes=1000, margin=0.02, need=math.log(100))
    1813
    >>> more_outcomes(difference=0.0, error=0.001, outcomes=1000, margin=0.02, need=math.log(100))
    0
    >>> more_outcomes(difference=-0.02, error=0.01, outcomes=1000, margin=0.02, need=math.log(100)) is None
    True
    """

    def log_e(times: float) -> float:
        spread = error / math.sqrt(times) * math.sqrt((outcomes + caution / times) / (outcomes + caution))
        return log_e_above((difference + margin) / spread, margin / spread)

    if log_e(1.0) >= need:
        return 0
    if difference <= -margin or log_e(_MOST) < need:
        return None
    low, high = 1.0, _MOST
    for _ in range(_STEPS):
        middle = math.sqrt(low * high)
        low, high = (low, middle) if log_e(middle) >= need else (middle, high)
    return math.ceil(outcomes * (high - 1.0))


def more_outcomes_of(numbers: typing.Mapping[str, float], margin: float) -> int | None:
    """Do so for the numbers of a decision; None also where there is nothing to go by yet.

    What makes the rule surer or less sure than the standard error says (outcomes that never came, few clusters, rare
    failures) goes on in the same way: the error is taken that explains the evidence there is.

    Examples
    --------
    >>> plain = {"difference": 0.0, "standard_error": 0.01, "outcomes": 1000.0, "log_e_not_worse_by_margin": 1.0,
    ...          "log_e_not_worse_by_margin_needed": math.log(100)}
    >>> doubted = plain | {"standard_error": 0.001}
    >>> more_outcomes_of(plain, 0.02) == more_outcomes_of(doubted, 0.02)
    True
    """
    error, outcomes = numbers.get("standard_error", 0.0), numbers.get("outcomes", 0.0)
    if not (error > 0.0 and outcomes > 0.0 and margin > 0.0 and "difference" in numbers):
        return None
    difference, need = numbers["difference"], numbers["log_e_not_worse_by_margin_needed"]
    have = numbers.get("log_e_not_worse_by_margin")
    if have is not None and have >= need:
        return 0
    if have is not None and difference > -margin:
        error = _error_of(difference, margin, have) or error
    caution = numbers.get("pairs_of_caution", 0.0)
    return more_outcomes(
        difference=difference, error=error, outcomes=outcomes, margin=margin, need=need, caution=caution
    )


def _error_of(difference: float, margin: float, log_e: float) -> float:
    """Return the standard error with which a difference has some evidence; 0 if there is next to none."""
    low, high = margin * _LEAST, margin * _MOST_ERROR
    if log_e_above((difference + margin) / high, margin / high) >= log_e:
        return 0.0
    for _ in range(_STEPS):
        middle = math.sqrt(low * high)
        enough = log_e_above((difference + margin) / middle, margin / middle) > log_e
        low, high = (middle, high) if enough else (low, middle)
    return high
