"""What a plan would do: how long it takes, how many devices it exposes, what harm it would see. Pure."""

from __future__ import annotations

import itertools
import math
import typing

from cloud.analysis.cuped import LEAST_DEVICES
from cloud.analysis.mixture import log_e_drop
from cloud.config import RolloutSettings
from cloud.rollout.control import control_share
from cloud.rollout.expected import kinds_of, likely
from cloud.store.rollouts import StagePlan
from shared.labels import Held, Where

_MOST_OUTCOMES = 1e9
_STEPS = 80


class Traffic(typing.NamedTuple):
    """What is known, or assumed, of a fleet.

    Parameters
    ----------
    devices : mapping
        Region to number of devices.
    outcomes_per_day : float
        Of one device.
    deviation : float
        Standard deviation of the paired gain, in units of the metric.
    label_window_days : float
        After so long an outcome is mature.
    labels : mapping
        Region to the labels of each of its devices, as far as they are known.
    """

    devices: typing.Mapping[str, int]
    outcomes_per_day: float
    deviation: float
    label_window_days: float
    labels: typing.Mapping[str, typing.Sequence[Held]] = {}


class Forecast(typing.NamedTuple):
    """One stage, as it is likely to go.

    Parameters
    ----------
    days : float
        From when it opens until it may pass at the earliest; infinite if it never can.
    devices, exposed : int, int
        That take part; that answer with the candidate, in all stages up to this one.
    sees : str
        What it waits for longest: ``days``, ``outcomes`` or ``approval``.
    region, meant, share, wanted : str, int, float, int
        Devices of which region it is for, and how many; which part of these it takes; and how many it is to take, 0 if
        no number is said.
    """

    name: str
    days: float
    devices: int
    exposed: int
    sees: str
    region: str = ""
    meant: int = 0
    share: float = 1.0
    wanted: int = 0


def forecast(
    stages: typing.Sequence[StagePlan], names: typing.Sequence[str], settings: RolloutSettings, traffic: Traffic
) -> list[Forecast]:
    """Forecast each stage of a plan.

    Parameters
    ----------
    names : sequence of str
        What each stage is called.
    """
    seen: dict[str, int] = {}
    taken: dict[str, list[tuple[Where, float]]] = {}
    found = []
    for stage, name in zip(stages, names, strict=True):
        own = typing.cast("dict[str, typing.Any]", stage.settings)
        here = list(traffic.devices) if stage.region == "*" else [stage.region]
        before = taken.setdefault(stage.region, [])
        each = [
            likely(
                kinds_of(traffic.devices.get(region, 0), traffic.labels.get(region, ())), before, own,
                1 - control_share(settings, region),
            )
            for region in here
        ]  # fmt: skip
        devices = sum(one.devices for one in each)
        if stage.kind == "canary":
            seen[stage.region] = devices
            before.append((own.get("where", {}), each[0].share))
        split = stage.kind == "canary" and (not settings.canary.keep_pairs or settings.canary.mode == "interleave")
        by_device = settings.canary.unit == "device"
        share = own.get("request_share", 1.0) if split and not by_device else 1.0
        a_day = devices * traffic.outcomes_per_day * share
        for_outcomes = _ratio(own.get("min_outcomes", 0), a_day)
        wait = max(float(own.get("min_days", 0)), for_outcomes)
        window = traffic.label_window_days if stage.kind != "install" else 0.0
        word = "outcomes" if for_outcomes > own.get("min_days", 0) else "days"
        if stage.kind == "canary" and not devices:  # it has nothing to show, and the others do not wait for it
            wait, window, word = 0.0, 0.0, "nothing"
        word = "approval" if own.get("approve") else word
        meant, wanted = sum(one.meant for one in each), own.get("devices", 0)
        of = {"region": stage.region, "meant": meant, "share": each[0].share if each else 1.0, "wanted": wanted}
        found.append(Forecast(name, wait + window, devices, sum(seen.values()), word, **of))
    return found


def _ratio(n: float, a_day: float) -> float:
    return 0.0 if not n else n / a_day if a_day else math.inf


def outcomes_until_rollback(harm: float, *, margin: float, deviation: float, alpha: float) -> float:
    """Pairs after which a candidate that is worse by `harm` is rolled back, should the mean be what it is on average.

    Parameters
    ----------
    harm, margin, deviation : float
        In units of the metric; above 0.

    Returns
    -------
    float
        Infinite for a harm that is too small ever to be acted upon.

    Examples
    --------
    >>> round(outcomes_until_rollback(0.04, margin=0.02, deviation=0.4, alpha=0.05), -2)
    700.0
    >>> outcomes_until_rollback(0.001, margin=0.02, deviation=0.4, alpha=0.05)
    inf
    """

    def enough(n: float) -> bool:
        error = deviation / math.sqrt(n)
        return log_e_drop(harm / error, margin / error) >= math.log(1 / alpha)

    if not enough(_MOST_OUTCOMES):
        return math.inf
    low, high = 1.0, _MOST_OUTCOMES
    for _ in range(_STEPS):
        middle = math.sqrt(low * high)
        low, high = (low, middle) if enough(middle) else (middle, high)
    return high


def faults_of(
    found: typing.Sequence[Forecast], settings: RolloutSettings, traffic: Traffic, *, harm: float, margin: float
) -> list[str]:
    """Say what is odd about a plan, for this fleet: limits that can not be reached, or mean nothing."""
    said = [
        f"{one.name}: no device takes part" + ("" if one.region == "*" else ", so it passes at once")
        for one in found
        if not one.devices
    ]
    said += _odd_numbers(found)
    said += [
        f"{one.name}: {one.days:,.0f} days until its outcomes are in, and the rollout ends after {settings.max_days}"
        for one in found
        if one.devices and one.days > settings.max_days
    ]
    if settings.canary.unit == "device":
        said += [
            f"{one.name}: {one.devices} devices answer with the candidate; of fewer than {LEAST_DEVICES} nobody knows"
            " how they differ"
            for one in found[1:]
            if 0 < one.devices < LEAST_DEVICES
        ]
    total = sum(traffic.devices.values())
    if total < settings.min_devices:
        said.append(f"promotion asks for {settings.min_devices} devices, and there are {total}: it never comes")
    days = sum(one.days for one in found)
    if settings.max_days < days < math.inf and not any(one.days > settings.max_days for one in found):
        said.append(f"all stages together take {days:,.0f} days, and the rollout ends after {settings.max_days}")
    if total < settings.error_min_executed:
        said.append(f"the limit of errors asks for {settings.error_min_executed} devices, and there are {total}")
    if harm and math.isinf(
        outcomes_until_rollback(harm, margin=margin, deviation=traffic.deviation, alpha=settings.alpha)
    ):
        said.append(f"a candidate that is worse by {harm:g} is never rolled back: the margin is {margin:g}")
    return said


def _odd_numbers(found: typing.Sequence[Forecast]) -> list[str]:
    """Say which steps find fewer devices than they are to take, or none that a step before has not taken."""
    said = [
        f"{one.name}: {one.wanted:,} devices are asked for, and there are {one.devices:,}: it takes them all"
        for one in found
        if one.wanted > one.devices > 0
    ]
    said += [
        f"{one.name}: takes no more devices than {before.name}"
        for before, one in itertools.pairwise(found)
        if (one.wanted or before.wanted) and one.region == before.region and one.devices == before.devices > 0
    ]
    return said


def numbers_said(found: typing.Sequence[Forecast]) -> list[str]:
    """Say what share a step by number is likely to be, and of how many devices.

    >>> step = Forecast("canary west 20 devices", 2.0, 20, 20, "days", region="west", wanted=20)
    >>> numbers_said([step._replace(meant=500, share=0.04)])
    ['canary west 20 devices: about 4% of the 500 that it is for']
    """
    return [f"{one.name}: about {one.share:.0%} of the {one.meant:,} that it is for" for one in found if one.wanted]
