"""What sums say about a candidate: evidence that it is worse, and evidence that it is not worse by the margin."""

from __future__ import annotations

import math
import typing


class Evidence(typing.NamedTuple):
    """Logarithms of two e-values, and the estimate behind them.

    ``log_e_worse`` grows when the candidate is worse than the control, ``log_e_fine`` when it is not worse by the
    margin. ``difference`` is candidate minus control with higher better; ``error`` its standard error. Without data
    both logarithms are 0: nothing is known.
    """

    log_e_worse: float
    log_e_fine: float
    difference: float
    error: float


NOTHING = Evidence(0.0, 0.0, 0.0, math.inf)
