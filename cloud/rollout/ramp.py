"""How fast a step reaches its devices: so many on the way at once, so many a minute; it never shrinks. Pure."""

from __future__ import annotations

import bisect
import math
import typing

from cloud.config import RolloutSettings
from cloud.config.rollout import RampSettings

Growth = typing.Sequence[tuple[int, float]]
_CATCH_UP_S = 600.0  # a controller that was away does not make up for all of it at once
MINUTE_S = 60.0
_ALL = 1 << 40
_MOST_DOUBLINGS = 1e9


def is_limited(settings: RolloutSettings) -> bool:
    """Whether steps grow, in place of taking all of their devices at once."""
    return bool(settings.canary.max_in_flight or settings.canary.ramp.base_per_minute)


def rate_of(ramp: RampSettings, n_verified: int) -> float:
    """Devices a minute: it grows by a factor each time that so many more have verified.

    >>> [rate_of(RampSettings(base_per_minute=2, factor=2.0, every_verified=10), n) for n in (0, 9, 10, 25)]
    [2.0, 2.0, 4.0, 8.0]
    """
    steps = n_verified // ramp.every_verified
    most = math.log(_MOST_DOUBLINGS / min(ramp.base_per_minute, _MOST_DOUBLINGS)) / math.log(max(ramp.factor, 1 + 1e-9))
    return float(ramp.base_per_minute * ramp.factor ** min(steps, most))


def room_of(settings: RolloutSettings, *, in_flight: int, n_verified: int, waited_s: float) -> tuple[int, float]:
    """Say how many devices may be asked now.

    Parameters
    ----------
    in_flight : int
        Devices that were asked, and have neither verified nor failed.
    waited_s : float
        Since the step last grew.

    Returns
    -------
    tuple of int, float
        Devices, and the seconds that they cost of what was waited.
    """
    canary, most, cost_s = settings.canary, _ALL, 0.0
    if canary.ramp.base_per_minute:
        rate = rate_of(canary.ramp, n_verified)
        waited_s = min(waited_s, max(_CATCH_UP_S, MINUTE_S / rate))
        most = int(rate * waited_s / MINUTE_S + 1e-9)
        cost_s = MINUTE_S / rate
    if canary.max_in_flight:
        most = min(most, canary.max_in_flight - in_flight)
    return max(most, 0), cost_s


def grown(places: typing.Sequence[int], reached_bp: int, target_bp: int, room: int) -> int:
    """Return the share that asks at most `room` more devices.

    Parameters
    ----------
    places : sequence of int
        Of the devices that may be asked, in 0..9999, sorted: the order is random, by the rollout's salt.
    room : int
        More than none. In a region so large that a share of one in 10,000 holds more than `room` devices, it is asked
        whole: less than that there is not.

    Examples
    --------
    >>> grown([100, 2000, 2000, 7000, 9999], 0, 10_000, 1), grown([100, 2000, 2000, 7000], 101, 5000, 1)
    (101, 2001)
    >>> grown([100, 2000, 7000], 101, 5000, 2)
    5000
    """
    begin = bisect.bisect_left(places, reached_bp)
    end = bisect.bisect_left(places, target_bp)
    if end - begin <= room:
        return target_bp
    last = places[begin + room - 1]
    # Whoever shares the last place would come along: leave them for next time, unless nobody else is left.
    if places[begin + room] == last and bisect.bisect_left(places, last) > begin:
        return last
    return last + 1


def asked_s(growth: Growth, place: int) -> float:
    """Return when a device was first asked; 0 where all were asked at once.

    >>> asked_s([(1000, 5.0), (3000, 9.0)], 2000)
    9.0
    """
    return next((at_s for reached_bp, at_s in growth if place < reached_bp), 0.0)


def noted(growth: Growth, reached_bp: int, now_s: float, keep_s: float) -> list[tuple[int, float]]:
    """Add to what is known of a step's growth; of what was long ago the last entry stands for all before it."""
    recent = [one for one in growth if now_s - one[1] <= keep_s]
    before = [one for one in growth if now_s - one[1] > keep_s][-1:]
    return [*before, *recent, (reached_bp, now_s)]


def minutes_of(ramp: RampSettings, n_devices: int) -> float:
    """Minutes until so many devices were asked, if each verifies at once.

    >>> minutes_of(RampSettings(base_per_minute=10, factor=2.0, every_verified=10), 30)
    1.75
    """
    minutes, done = 0.0, 0
    while done < n_devices:
        n = min(ramp.every_verified, n_devices - done)
        minutes += n / rate_of(ramp, done)
        done += n
    return minutes
