"""Mistakes that other rollout tools make, each tried here: who makes it stands in the test."""

from __future__ import annotations

import pathlib
import re
import typing

import msgspec
import pytest

from cloud.config import RolloutSettings
from cloud.rollout import plan
from shared.errors import PlanError
from shared.experiment import in_stage, pick_arm
from tests.unit.cloud_.simulated import MODEL, ORDER, Fleet

Make = typing.Callable[..., Fleet]
CODE = pathlib.Path(__file__).parents[3] / "cloud"


def test_a_device_that_has_installed_but_still_serves_the_old_model_is_no_success(make_fleet: Make) -> None:
    """Eclipse hawkBit: an action is finished when the file was installed."""
    fleet = make_fleet()
    number = fleet.trial()
    for device in fleet.devices:
        device.installs = "trial"  # it runs the candidate's generation, and has not proven it yet
    fleet.gain = 0.05
    fleet.days(2)
    stage = fleet.stages(number)["*"]
    assert (stage["verdict"], bool(stage["passed_s"])) == ("HOLD", False)
    assert "0 of 12 online devices verified" in stage["why"]
    fleet.days(8)
    assert (fleet.row(number)["state"], fleet.exposed("v2")) == ("rolled_back", set())


def test_errors_are_a_share_of_those_that_tried_and_not_of_all_targets(make_fleet: Make) -> None:
    """Eclipse hawkBit: two of three that answered have failed, and that is 17 % of the group."""
    fleet = make_fleet()
    number = fleet.trial()
    for device in fleet.devices[3:]:
        device.online = False
    for device in fleet.devices[:2]:
        device.installs = "refuses"
    fleet.days(3)
    assert fleet.row(number)["state"] == "rolled_back"
    assert "of 3 that tried" in fleet.row(number)["outcome"]


def test_a_stage_in_which_every_device_has_come_to_an_end_is_not_done_for_that(make_fleet: Make) -> None:
    """Eclipse hawkBit: a group goes on once all its actions are terminal, failed ones too."""
    fleet = make_fleet(rollout="max_days = 40\nerror_min_executed = 99")
    number = fleet.trial()
    for device in fleet.devices:
        device.installs = "refuses"
    fleet.gain = 0.05
    fleet.days(12)
    assert [bool(stage["opened_s"]) for stage in fleet.store.rollouts.stages(number)] == [True, False, False, False]


@pytest.mark.parametrize(
    "impossible", [{"error_ratio": 1.0}, {"max_days": 3}, {"order": ("west",)}, {"region": {"nowhere": {}}}]
)
def test_a_limit_that_can_never_fire_is_refused_when_the_plan_is_made(impossible: dict[str, typing.Any]) -> None:
    made = msgspec.convert(msgspec.to_builtins(RolloutSettings()) | impossible, RolloutSettings)
    with pytest.raises(PlanError):
        plan.stages_of(ORDER, is_first=False, settings=made)


def test_every_threshold_that_a_plan_keeps_is_read_by_somebody() -> None:
    """NervesHub: a failure threshold is stored, and nothing looks at it."""
    sources = [path.read_text() for path in (CODE / "rollout").glob("*.py")]

    def fields(kind: typing.Any) -> typing.Iterator[str]:
        if isinstance(kind, type) and issubclass(kind, msgspec.Struct):
            for field in msgspec.structs.fields(kind):
                yield field.name
                yield from fields(field.type)
        for inner in typing.get_args(kind):
            yield from fields(inner)

    names = set(fields(RolloutSettings))
    assert {"max_days", "device_share", "window", "every_verified", "from_"} <= names, (
        "of steps, regions and freezes too"
    )
    for name in names:
        assert any(re.search(rf"[.\"]{name}\b", source) for source in sources), name


@pytest.mark.parametrize("waits_for", ["a pause", "approval"])
def test_what_goes_wrong_while_a_person_is_waited_for_still_rolls_back(make_fleet: Make, waits_for: str) -> None:
    """Flagger: while a canary waits for its confirmation, its metrics are not looked at."""
    more = "\n[rollout.region.mid]\napprove = true" if waits_for == "approval" else ""
    fleet = make_fleet(rollout=f"max_days = 60{more}")
    number = fleet.trial()
    fleet.gain = 0.05
    fleet.until(lambda: bool(fleet.stages(number)["west"]["passed_s"]))
    if waits_for == "a pause":
        fleet.order(number, "pause")
    fleet.days(2)
    assert not fleet.stages(number)["mid"]["opened_s"] or waits_for == "a pause"
    fleet.requests, fleet.failed_ratio = 200, 0.5
    fleet.until(lambda: fleet.row(number)["state"] == "rolled_back", most=5)


def test_too_little_traffic_is_neither_a_failure_nor_a_success(make_fleet: Make) -> None:
    """Flagger: no data for a metric halts the canary, or lets it pass, as the query happens to be written."""
    fleet = make_fleet()
    number = fleet.trial()
    fleet.requests = 0
    fleet.days(15)
    stage = fleet.stages(number)["*"]
    assert (fleet.row(number)["state"], stage["verdict"]) == ("running", "HOLD")
    assert "0 of 100 outcomes" in stage["why"]


def test_a_device_that_was_away_runs_what_is_wanted_now_and_not_what_was_wanted_then(make_fleet: Make) -> None:
    """Mender: deployments queue up at a device, and a newer one can wait for an older one for ever."""
    fleet = make_fleet()
    fleet.install()
    away = fleet.devices[0]
    away.online = False
    fleet.gain = 0.05
    for _ in range(2):
        number = fleet.start()
        fleet.until(lambda number=number: fleet.row(number)["state"] == "promoted")  # type: ignore[misc]
    assert away.models[MODEL].incumbent == "v1"
    away.online = True
    fleet.days()
    assert away.models[MODEL].incumbent == "v3"


def test_another_rollout_tries_its_candidate_on_other_units(make_fleet: Make) -> None:
    """iter8: the hash of a user alone decides, so that the same users are in every candidate."""
    fleet = make_fleet()
    first, second = fleet.trial(), 0
    fleet.order(first, "abort")
    second = fleet.start()
    salts = [fleet.row(number)["salt"] for number in (first, second)]
    assert salts[0] != salts[1]
    units = [f"user-{i}" for i in range(2000)]
    arms = [{unit for unit in units if pick_arm(salt, unit, 1000)} for salt in salts]
    devices = [{unit for unit in units if in_stage(salt, unit, 1000)} for salt in salts]
    for one, other in (arms, devices):
        assert 140 < len(one) < 260
        assert len(one & other) < 45  # a tenth of a tenth
