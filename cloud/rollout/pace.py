"""What time does to a rollout: which window or freeze it waits for now, and how long a plan takes with all of them."""

from __future__ import annotations

import math
import typing

import msgspec

from cloud.config import RolloutSettings
from cloud.rollout.control import control_share
from cloud.rollout.groups import target_bp
from cloud.rollout.lint import Forecast, Traffic
from cloud.rollout.ramp import minutes_of
from cloud.rollout.windows import FLEET, frozen_days, next_open, waits_for
from cloud.store.rollouts import StagePlan
from shared.clock import DAY_S

Row = typing.Mapping[str, typing.Any]
Regions = typing.Sequence[str]


def held_up(rollout: Row, stages: typing.Sequence[Row], regions: Regions, now_s: float) -> str:
    """Say which window or freeze a rollout waits for; empty if it waits for none, or for something else.

    Parameters
    ----------
    rollout : mapping
        As the store keeps it.
    """
    if rollout["state"] != "running" or rollout["paused"]:
        return ""
    settings = msgspec.convert(rollout["plan"], RolloutSettings)
    opened = [stage for stage in stages if stage["opened_s"]]
    waiting = [stage for stage in stages if not stage["opened_s"]]
    grows = opened and opened[-1]["kind"] == "canary" and opened[-1]["reached_bp"] < target_bp(rollout, opened[-1])
    if grows:
        return waits_for(settings, regions, opened[-1]["region"], now_s)
    if not all(stage["passed_s"] for stage in opened):
        return ""
    return waits_for(settings, regions, waiting[0]["region"] if waiting else FLEET, now_s)


def control_of(settings: RolloutSettings, regions: Regions) -> dict[str, float]:
    """Return the share of each region that has a control group."""
    shares = {region: control_share(settings, region) for region in regions}
    return {region: share for region, share in shares.items() if share}


def calendar_days(
    found: typing.Sequence[Forecast],
    stages: typing.Sequence[StagePlan],
    settings: RolloutSettings,
    regions: Regions,
    now_s: float,
) -> float:
    """Return how many days a plan takes that is started now, what it waits for windows and freezes among them.

    Parameters
    ----------
    found : sequence of Forecast
        Of each of the stages.

    Returns
    -------
    float
        Infinite if it never ends.
    """
    at_s = now_s
    for one, region in [*zip(found, (stage.region for stage in stages), strict=True), (None, FLEET)]:
        opens_s = next_open(settings, regions, region, at_s) if math.isfinite(at_s) else None
        if opens_s is None:
            return math.inf
        at_s = opens_s + (one.days * DAY_S if one else 0.0)
    return (at_s - now_s) / DAY_S


def said_of(
    found: typing.Sequence[Forecast],
    stages: typing.Sequence[StagePlan],
    settings: RolloutSettings,
    traffic: Traffic,
    now_s: float,
) -> tuple[list[str], list[str]]:
    """Say what windows, ramps and control groups do to a plan; and what is odd about that."""
    regions = list(settings.order or traffic.devices)
    control = control_of(settings, regions)
    said = [f"control group: {share:.0%} of {region} get no candidate until one is promoted"
            for region, share in control.items()]  # fmt: skip
    odd = [
        f"the control group of {region} has no device"
        for region, share in control.items()
        if share * traffic.devices.get(region, 0) < 1
    ]
    if settings.canary.ramp.base_per_minute:
        most = max(one.devices for one, stage in zip(found, stages, strict=True) if stage.kind == "canary")
        minutes = minutes_of(settings.canary.ramp, most)
        said.append(f"a step of {most:,} devices asks the last after {minutes:,.0f} minutes, if each verifies at once")
    plain = sum(one.days for one in found)
    if settings.freeze or any(own.window or own.days for own in settings.region.values()):
        days = calendar_days(found, stages, settings, regions, now_s)
        said.append(f"with windows and freezes: {days:,.1f} days at least, if it is started now")
        ends_s = now_s + days * DAY_S
        frozen = frozen_days(settings, regions, FLEET, now_s, ends_s) if math.isfinite(days) else 0
        if plain <= settings.max_days < days - frozen:
            odd.append(
                f"with windows and freezes all stages take {days:,.0f} days, and the rollout ends after"
                f" {settings.max_days + frozen}"
            )
    return said, odd
