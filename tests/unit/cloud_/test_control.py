"""The control group: who is in it, what it is asked, and what a plan that leaves it no room is told."""

from __future__ import annotations

import typing

import msgspec
import pytest

from cloud.config import CanarySettings, RegionPlan, RolloutSettings
from cloud.config.rollout import RolloutStep
from cloud.rollout import plan
from shared.errors import PlanError
from shared.experiment import in_control
from tests.unit.cloud_.simulated import MODEL, Fleet

Make = typing.Callable[..., Fleet]
SHARE = "device_share = 0.75\ncontrol_share = 0.25"


def test_the_control_group_gets_no_candidate_in_any_stage_until_it_is_promoted(make_fleet: Make) -> None:
    fleet = make_fleet(n=8, rollout="max_days = 60", canary=SHARE)
    number = fleet.trial()
    fleet.gain = 0.05
    salt = fleet.row(number)["salt"]
    control = {device.name for device in fleet.devices if in_control(salt, device.name, 2500)}
    assert 1 <= len(control) <= 15
    asked: dict[str, set[str]] = {}
    while fleet.row(number)["state"] == "running":
        fleet.days()
        for device in fleet.devices:
            if device.models[MODEL].candidate:
                asked.setdefault(device.region, set()).add(device.name)
    everybody = {device.name for device in fleet.devices}
    assert set().union(*asked.values()) == everybody - control
    verdicts = [verdict["inputs"]["devices"]["total"] for verdict in fleet.store.rollouts.verdicts(number)]
    assert max(verdicts) == len(everybody - control), "who is not asked counts in no stage"
    fleet.days(2)
    assert {device.models[MODEL].incumbent for device in fleet.devices} == {"v2"}


def test_a_region_may_have_a_control_group_of_its_own_size(make_fleet: Make) -> None:
    fleet = make_fleet(rollout="max_days = 60\n[rollout.region.mid]\ncontrol_share = 0.4\ndevice_share = 0.6\n")
    fleet.trial()
    shares = {
        region: entry.experiment.control_share_bp
        for region, channel in fleet.channels.items()
        for entry in channel.models
        if entry.experiment
    }
    assert shares == {"west": 0, "mid": 4000, "east": 0}


def canary(**more: typing.Any) -> RolloutSettings:
    return RolloutSettings(canary=CanarySettings(**more))


@pytest.mark.parametrize(
    "made",
    [
        canary(control_share=0.1),
        canary(control_share=0.5, device_share=0.6),
        msgspec.structs.replace(canary(device_share=0.9), region={"b": RegionPlan(control_share=0.2)}),
        canary(control_share=0.1, step=(RolloutStep(device_share=0.5), RolloutStep(device_share=1.0))),
        canary(control_share=0.7, device_share=0.4, unit="device", keep_pairs=False),
    ],
)
def test_a_control_group_that_the_steps_leave_no_room_for_is_refused(made: RolloutSettings) -> None:
    with pytest.raises(PlanError, match="are the control group") as refused:
        plan.stages_of(["a", "b"], is_first=False, settings=made)
    assert refused.value.field == "rollout.canary.control_share"


def test_the_last_step_takes_everybody_else() -> None:
    steps = (RolloutStep(device_share=0.5), RolloutStep(device_share=0.9))
    assert plan.stages_of(["a"], is_first=False, settings=canary(control_share=0.1, step=steps))
    with pytest.raises(PlanError, match=r"device_share = 0\.95"):
        plan.stages_of(["a"], is_first=False, settings=canary(control_share=0.05, step=steps))
