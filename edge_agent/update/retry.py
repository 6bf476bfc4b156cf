"""When to try again: soon at first, never much later than the next poll, never all at once, and never never."""

from __future__ import annotations

import typing

BASE_S = 1.0
FLOOR_S = 0.2
_MOST_DOUBLINGS = 40  # of a second: longer than any poll interval, and still an exact number
Uniform = typing.Callable[[float, float], float]


def next_pass_s(failures: int, poll_s: float, asked_s: float, uniform: Uniform, jitter_ratio: float = 0.0) -> float:
    """Return how long to wait before the next pass.

    After a failure it is exponential backoff with full jitter: a random time up to a bound that doubles with each
    failure in a row [1]_. The bound is never above the poll interval, so that a device is heard within one poll
    interval after its network has come back. The price is that in the long run a device that fails comes twice as
    often, on average, as one that is well.

    What a server asks for (``Retry-After``) is the least. A random time is put on top of it, or all devices that
    were sent away in one second would come back in one second.

    Parameters
    ----------
    failures : int
        Failed passes in a row; 0 after one that went well.
    poll_s : float
        The channel's poll interval, in seconds.
    asked_s : float
        What a server has asked for, in seconds; 0 if it has not.
    uniform : callable
        Draws from between two numbers: ``random.uniform``.
    jitter_ratio : float
        Share of the poll interval by which polls that go well are spread.

    Returns
    -------
    float
        Seconds, at least `FLOOR_S` or the poll interval if that is shorter; always finite.

    References
    ----------
    .. [1] M. Brooker, "Exponential Backoff And Jitter", AWS Architecture Blog, 2015.

    Examples
    --------
    >>> most = lambda low, high: high
    >>> [next_pass_s(n, 60.0, 0.0, most) for n in (0, 1, 2, 3, 7, 1000)]
    [60.0, 1.0, 2.0, 4.0, 60.0, 60.0]
    >>> least = lambda low, high: low
    >>> next_pass_s(3, 60.0, 0.0, least), next_pass_s(3, 60.0, 120.0, least), next_pass_s(3, 60.0, 120.0, most)
    (0.2, 120.0, 180.0)
    """
    if not failures:
        return max(poll_s * (1 + uniform(0.0, jitter_ratio)), asked_s)
    bound_s = min(poll_s, BASE_S * 2.0 ** min(failures - 1, _MOST_DOUBLINGS))
    spread_s = min(poll_s, max(bound_s, asked_s))
    return max(asked_s + uniform(0.0, spread_s), min(FLOOR_S, poll_s))
