"""The band around an estimate that the decision rule itself draws: what the evidence so far does not rule out. Pure."""

from __future__ import annotations

import functools
import math
import typing

from cloud.analysis.mixture import log_e_above, log_e_drop
from cloud.analysis.ratio import Spread, clustered_spread
from cloud.analysis.tails import z_from_t

Row = typing.Mapping[str, typing.Any]
_STEPS = 40
_FAR = 64.0  # standard errors and margins: further out nobody looks


class Band(typing.NamedTuple):
    """From `low` to `high`, in the units of the estimate.

    A whole band above ``-margin`` is what promotes a candidate, a whole band below 0 is what rolls it back; both hold
    however often one looks.
    """

    low: float
    high: float


@functools.lru_cache(maxsize=4096)  # pages draw the same verdicts again and again
def band(difference: float, error: float, df: float, *, margin: float, need_worse: float, need_fine: float) -> Band:
    """Draw the band around a difference.

    Parameters
    ----------
    difference, error, df : float
        Candidate minus incumbent with higher better, its standard error (above 0), and degrees of freedom (above 0).
    margin : float
        How much worse the candidate may be, in the same units; above 0.
    need_worse, need_fine : float
        Logarithms of the evidence that rolls back, and that promotes.

    Notes
    -----
    The two tests of :mod:`cloud.analysis.evidence`, turned round: `low` is the smallest effect that the promotion test
    does not reject, `high` the largest that the rollback test does not.

    Examples
    --------
    >>> seen = band(0.03, 0.005, 1e9, margin=0.02, need_worse=3.0, need_fine=4.6)
    >>> seen.low > -0.02, seen.high > 0.0
    (True, True)
    >>> [round(edge, 2) for edge in seen]
    [0.01, 0.05]
    """
    far = _FAR * (error + margin)
    scale = z_from_t(margin / error, df)  # as the rule itself takes it

    def rules_out_below(effect: float) -> bool:
        return log_e_above(z_from_t((difference - effect) / error, df), scale) >= need_fine

    def rules_out_above(effect: float) -> bool:
        return log_e_drop(z_from_t((effect - difference) / error, df), scale) >= need_worse

    return Band(_edge(rules_out_below, difference, -far), _edge(rules_out_above, difference, far))


def _edge(is_ruled_out: typing.Callable[[float], bool], near: float, reach: float) -> float:
    """Halve the way between the estimate, which is never ruled out, and far away."""
    inside, outside = near, near + reach
    for _ in range(_STEPS):
        middle = (inside + outside) / 2.0
        inside, outside = (inside, middle) if is_ruled_out(middle) else (middle, outside)
    return inside


def spread_of(pairs: Row) -> Spread:
    """Return the larger of the device- and day-clustered spread of stored pairs, as a decision takes it."""
    n, total = pairs["n"], pairs["sum"]
    spread = clustered_spread(n, total, pairs["g"], pairs["g_nn"], pairs["g_ns"], pairs["g_ss"])
    days = pairs.get("days")
    if days:
        spread = max(spread, clustered_spread(n, total, days["g"], days["nn"], days["ns"], days["ss"]))
    return spread


def band_of(asked: Row, numbers: Row) -> Band | None:
    """Return the band that belongs to a decision; None while there is nothing to compare.

    Parameters
    ----------
    asked, numbers : mapping
        `DecideInput` and the numbers of `Decision`, as plain data.
    """
    error = numbers.get("standard_error")
    if not error:
        return None
    pairs = asked.get("pairs")
    df = spread_of(pairs).df if pairs and pairs["n"] else numbers["devices"] - 1.0
    if df <= 0.0 or not math.isfinite(df):
        return None
    return band(
        numbers["difference"],
        error,
        df,
        margin=asked["margin"],
        need_worse=numbers["log_e_worse_needed"],
        need_fine=numbers["log_e_not_worse_by_margin_needed"],
    )
