"""How many devices each step of a plan is likely to take, from the devices and labels that there are. Pure."""

from __future__ import annotations

import collections
import math
import typing

from shared.labels import Held, Where, matches

Kinds = typing.Sequence[tuple[Held, int]]
Taken = typing.Sequence[tuple[Where, float]]
_HALVINGS = 50
_ROUND = 6


class Likely(typing.NamedTuple):
    """What a step is likely to take.

    Parameters
    ----------
    devices : int
        That take part, those of the steps before among them.
    meant : int
        That the step is for, whatever part of them it takes.
    share : float
        Part of these that it takes; of a step that is to take a number of devices the one that does.
    """

    devices: int
    meant: int
    share: float


def kinds_of(n: int, labels: typing.Sequence[Held]) -> Kinds:
    """Count a region's devices by their labels; those of which nothing is known have none.

    >>> kinds_of(3, [{"store": "test"}, {"store": "test"}])
    [({'store': 'test'}, 2), ({}, 1)]
    """
    counts = collections.Counter(tuple(sorted(one.items())) for one in labels)
    counts[()] += max(n - len(labels), 0)
    return [(dict(key), count) for key, count in counts.items() if count]


def likely(kinds: Kinds, before: Taken, step: typing.Mapping[str, typing.Any], most: float) -> Likely:
    """Forecast one step.

    Parameters
    ----------
    kinds : sequence of (labels, int)
        The region's devices.
    before : sequence of (selector, float)
        What the steps before it take of whom.
    step : mapping
        Settings of the step.
    most : float
        Part of the devices that is not the control group.

    Examples
    --------
    >>> shops = [({"store": "flagship"}, 10), ({}, 90)]
    >>> likely(shops, [], {"where": {"store": ["flagship"]}}, 1.0)
    Likely(devices=10, meant=10, share=1.0)
    >>> likely(shops, [({"store": ["flagship"]}, 1.0)], {"devices": 28}, 1.0)
    Likely(devices=28, meant=100, share=0.2)
    """
    where, n = step.get("where", {}), step.get("devices", 0)
    meant = sum(count for labels, count in kinds if matches(where, labels))
    share = step.get("device_share", 1.0)
    if n:
        share = _share_for(n, [one for one in kinds if matches(where, one[0])], before, most)
    taken = _devices(kinds, [*before, (where, share)], most)
    return Likely(math.ceil(round(taken, _ROUND)), meant, min(share, most))


def _devices(kinds: Kinds, taken: Taken, most: float) -> float:
    def share(labels: Held) -> float:
        return max((share for where, share in taken if matches(where, labels)), default=0.0)

    return sum(count * min(share(labels), most) for labels, count in kinds)


def _share_for(n: int, kinds: Kinds, before: Taken, most: float) -> float:
    """Return the smallest share of some devices with which n of them take part."""
    if _devices(kinds, [*before, ({}, 1.0)], most) <= n:
        return 1.0
    low, high = 0.0, 1.0
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        low, high = (middle, high) if _devices(kinds, [*before, ({}, middle)], most) < n else (low, middle)
    return round(high, 9)
