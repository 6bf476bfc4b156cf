"""Whether devices with a candidate fall silent where others do not: a device that it kills reports nothing. Pure."""

from __future__ import annotations

import math
import typing

import msgspec

from cloud.analysis.counts import Count, log_e_more
from cloud.rollout.devices import Row, Wanted, is_too_old, model_status, status_of, takes_part, will_take_part
from cloud.rollout.groups import labels_of
from shared.experiment import in_control
from shared.labels import share_of

FLEET = "*"
_ERRORS = 2.0
LASTING_DAYS = 3  # devices that are only off are back by then, or those without the candidate are off too


class Heard(msgspec.Struct, frozen=True, kw_only=True):
    """Devices of a region that were there when its first step opened, with the candidate and without it.

    Parameters
    ----------
    tried, others : int
        That take part in the stage; and that do not.
    tried_silent, others_silent : int
        Of these, not heard from lately; where whole devices are arms, also without any answer in the stage.
    """

    region: str
    tried: int = 0
    others: int = 0
    tried_silent: int = 0
    others_silent: int = 0


class Online(msgspec.Struct, frozen=True, kw_only=True):
    """Devices of a region that were online when a rollout began, and how many of those known then are so now.

    Parameters
    ----------
    region, since : str, str
        ``*`` is the whole fleet; a step for some devices of a region has its own count, since it opened.
    known : int
        Online or not.
    """

    region: str
    known: int
    then: int
    now: int
    since: str = "the rollout began"


def heard_from(
    devices: typing.Iterable[Row],
    wanted: Wanted,
    *,
    since_s: typing.Mapping[str, float],
    now_s: float,
    online_window_s: float,
    answered: typing.Collection[str] | None = None,
) -> list[Heard]:
    """Count the devices of each region that have fallen silent.

    Among devices of which the same share takes part chance alone decides which, so whatever else silences devices
    silences as many of the others: they are compared with each other. Who is in no group of the stage is left out.

    Parameters
    ----------
    since_s : mapping
        Region to when its first step opened. Who had been silent for longer then counts nowhere.
    answered : collection of str, optional
        Devices with answers in the stage, of either arm. Given where whole devices are arms: then those that take part
        are compared with the control group, which reports its answers too.
    """
    counts: dict[tuple[str, int], list[int]] = {}
    for device in devices:
        region = device["region"]
        opened_s = since_s.get(region)
        if opened_s is None or device["seen_s"] < opened_s - online_window_s or _is_apart(device, wanted):
            continue
        share_bp = share_of(wanted.groups, labels_of(device))
        if is_too_old(device, wanted) or share_bp is None:
            continue
        is_silent = now_s - device["seen_s"] > online_window_s
        if not is_silent and answered is not None and device["device"] not in answered:
            # One that has not changed over yet, or refuses the candidate, says so: that is no silence.
            runs = model_status(status_of(device), wanted.model)
            is_silent = runs is not None and runs.epoch == wanted.epoch
        place = 0 if takes_part(device, wanted) else 1
        if place and answered is not None and not _is_control(device, wanted):
            continue
        own = counts.setdefault((region, share_bp), [0, 0, 0, 0])
        own[place] += 1
        own[place + 2] += is_silent
    return [
        Heard(region=region, tried=tried, others=others, tried_silent=tried_silent, others_silent=others_silent)
        for (region, _), (tried, others, tried_silent, others_silent) in sorted(counts.items())
    ]


def _is_apart(device: Row, wanted: Wanted) -> bool:
    return device["device"] in wanted.pinned or device["device"] in wanted.aside


def _is_control(device: Row, wanted: Wanted) -> bool:
    return in_control(wanted.salt, device["device"], wanted.control_bp.get(device["region"], 0))


def silenced(heard: typing.Iterable[Heard], alpha: float) -> list[str]:
    """Say where devices that take part have fallen silent more often than the others, by more than chance.

    Parameters
    ----------
    alpha : float
        Chance that it is said of a harmless candidate at a look.
    """
    return [
        f"{one.tried_silent:,} of {one.tried:,} devices with the candidate in {one.region} are not heard from,"
        f" {one.others_silent:,} of {one.others:,} without it"
        for one in heard
        if one.tried
        and one.others
        and log_e_more([Count(one.others_silent, one.tried_silent, one.tried / one.others)]) >= math.log(1 / alpha)
    ]


def killed(heard: typing.Sequence[Heard], alpha: float, ratio: float, least: int) -> bool:
    """Whether so many more devices fall silent with the candidate that it has to go, if that lasts.

    Parameters
    ----------
    alpha : float
        Chance that it is said of a harmless candidate at a look, over all that is compared.
    ratio, least : float, int
        It is said of a share that is larger by so much, and of so many devices at least.

    Examples
    --------
    >>> killed([Heard(region="west", tried=50, others=50, tried_silent=20, others_silent=1)], 0.01, 0.2, 3)
    True
    >>> killed([Heard(region="west", tried=500, others=500, tried_silent=90, others_silent=1)], 0.01, 0.2, 3)
    False
    """
    return any(
        one.tried_silent >= least
        and one.tried_silent / one.tried - one.others_silent / one.others > ratio
        and bool(silenced([one], alpha / len(heard)))
        for one in heard
        if one.tried and one.others
    )


def online_in_step(
    devices: typing.Iterable[Row], wanted: Wanted, *, now_s: float, online_window_s: float, joined_by_s: float
) -> tuple[int, int]:
    """Count the devices that a step takes once all were asked, and of these the ones that are online.

    Parameters
    ----------
    joined_by_s : float
        Who joined later is left out.
    """
    own = [
        device["seen_s"]
        for device in devices
        if device["joined_s"] <= joined_by_s and will_take_part(device, wanted, is_online=False)
    ]
    return len(own), sum(now_s - seen_s <= online_window_s for seen_s in own)


def gone(seen: typing.Iterable[Online], ratio: float, least: int) -> list[str]:
    """Say where far fewer devices are online than when the rollout began.

    Where every device tries the candidate there are none to compare with but the same devices before. Devices come and
    go, so as many as before are online in the long run, unless something puts an end to them.

    Parameters
    ----------
    ratio, least : float, int
        It is said of more than such a part of those that were online, and of so many at least; and of more than chance
        explains, which is twice the standard error of the difference of two shares.

    Examples
    --------
    >>> gone([Online(region="*", known=45, then=42, now=20), Online(region="west", known=15, then=14, now=11)], 0.2, 3)
    ['of the fleet 20 devices are online, 42 were when the rollout began']
    """
    said = []
    for one in seen:
        lost = one.then - one.now
        share = (one.then + one.now) / (2 * max(one.known, one.then, 1))
        error = math.sqrt(2 * max(one.known, one.then) * share * (1 - share))
        if lost >= least and lost > ratio * one.then and lost > _ERRORS * error:
            name = "the fleet" if one.region == FLEET else one.region
            said.append(f"of {name} {one.now:,} devices are online, {one.then:,} were when {one.since}")
    return said
