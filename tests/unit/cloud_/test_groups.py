"""Steps for devices with some labels, and steps that take a number of devices: who takes part, and who counts."""

from __future__ import annotations

import json
import pathlib
import sqlite3
import typing

import msgspec
import pytest
import sqlite_utils

from cloud.config import CanarySettings, RegionPlan, RolloutSettings
from cloud.config.rollout import RolloutStep
from cloud.rollout import lint, overview, plan, story
from cloud.rollout.course import course
from cloud.rollout.devices import Wanted, count, takes_part
from cloud.rollout.groups import groups_of
from cloud.rollout.heard import heard_from
from cloud.store.schema import migrations
from shared.channel import CAN, LABELS, Channel, Experiment, parse_channel
from shared.errors import PlanError
from shared.experiment import in_stage, place_in_stage
from shared.labels import Group
from tests.unit.cloud_.simulated import MODEL, Fleet

Make = typing.Callable[..., Fleet]
FLAGSHIP = {"store": "flagship"}
STEPS = """
[[rollout.canary.step]]
where = { store = ["flagship", "test"] }
min_days = 1
[[rollout.canary.step]]
devices = 3
min_days = 1
[[rollout.canary.step]]
device_share = 1.0
"""


def tried(fleet: Fleet, region: str = "west") -> set[str]:
    """Devices of a region that run a candidate, as they say."""
    return {device.name for device in fleet.devices if device.region == region and device.arms.get(MODEL)}


def trial(fleet: Fleet, region: str = "west") -> Experiment:
    """What a region's devices are told of the experiment."""
    (entry,) = fleet.channels[region].models
    assert entry.experiment is not None
    return entry.experiment


def labelled(fleet: Fleet, *names: str, **labels: str) -> None:
    """Let devices go by labels."""
    for device in fleet.devices:
        if device.name in names:
            device.labels = labels


def newest(fleet: Fleet, number: int) -> dict[str, typing.Any]:
    """The stage that opened last."""
    return [one for one in fleet.store.rollouts.stages(number) if one["opened_s"]][-1]


def until_step(fleet: Fleet, number: int, name: str) -> None:
    """Let days pass until a step is open, and its devices know."""
    fleet.gain = 0.05

    def is_open() -> bool:
        return any(plan.stage_name(one) == name and one["opened_s"] for one in fleet.store.rollouts.stages(number))

    fleet.until(is_open)
    for device in fleet.devices:
        fleet.deliver(device)


# ---- on a fleet


def test_a_step_for_some_is_followed_by_one_for_a_number_and_one_for_all(make_fleet: Make) -> None:
    fleet = make_fleet(n=6, canary=STEPS, rollout="max_days = 60")
    labelled(fleet, "west-1", store="flagship")
    labelled(fleet, "west-4", store="test")
    labelled(fleet, "west-5", store="outlet")
    number = fleet.trial()
    until_step(fleet, number, "canary west store=flagship|test")
    assert tried(fleet) == {"west-1", "west-4"}
    assert (trial(fleet).device_share_bp, len(trial(fleet).groups)) == (0, 1)
    fleet.tick()
    verdict = fleet.store.rollouts.verdicts(number)[-1]
    assert verdict["stage"] == newest(fleet, number)["id"]
    assert (verdict["inputs"]["devices"]["total"], verdict["inputs"]["devices"]["verified"]) == (2, 2)
    until_step(fleet, number, "canary west 3 devices")
    assert len(tried(fleet)) == 3
    assert tried(fleet) > {"west-1", "west-4"}, "who was in an earlier step stays"
    assert any("canary west 3 devices opened: 3 of 6 devices take part" in said for said in fleet.said)
    until_step(fleet, number, "canary west")
    assert tried(fleet) == {f"west-{i}" for i in range(6)}
    assert (trial(fleet).device_share_bp, trial(fleet).groups) == (10_000, ())
    # In mid nobody has the labels, and there are only six devices: nobody holds it up.
    fleet.until(lambda: fleet.row(number)["state"] == "promoted")


def test_an_agent_that_knows_of_no_labels_takes_no_part_until_all_do(make_fleet: Make) -> None:
    fleet = make_fleet(n=4, canary=STEPS, rollout="max_days = 60")
    old = [device for device in fleet.devices if device.name in ("west-0", "west-1")]
    for device in old:
        device.agent = "0.0.9"
        device.labels = FLAGSHIP  # its agent says nothing of it
    labelled(fleet, "west-2", store="flagship")
    number = fleet.trial()
    for name in ("canary west store=flagship|test", "canary west 3 devices"):
        until_step(fleet, number, name)
        assert tried(fleet) & {"west-0", "west-1"} == set()
        fleet.tick()
        devices = fleet.store.rollouts.verdicts(number)[-1]["inputs"]["devices"]
        assert (devices["too_old"], devices["in_flight"], devices["timed_out"]) == (2, 0, 0)
    until_step(fleet, number, "canary west")
    assert len(tried(fleet)) == 4
    fleet.until(lambda: fleet.row(number)["state"] == "promoted")


def test_an_old_agent_reads_the_channel_and_finds_nobody_takes_part() -> None:
    class OldExperiment(msgspec.Struct, frozen=True, kw_only=True):
        """What the agents of before read of an experiment."""

        mode: str
        epoch: int
        salt: str
        device_share_bp: int = 10_000
        control_share_bp: int = 0

    said = Experiment(
        mode="canary", epoch=3, salt="salt" * 4, device_share_bp=0, groups=(Group(where={"store": ("flagship",)}),)
    )
    old = msgspec.json.decode(msgspec.json.encode(said), type=OldExperiment)
    assert not any(in_stage(old.salt, f"till-{i}", old.device_share_bp) for i in range(1000))
    assert old.control_share_bp == 0


def test_devices_that_have_yet_to_hear_of_their_labels_are_waited_for_while_they_are_there(make_fleet: Make) -> None:
    fleet = make_fleet(n=3, canary=STEPS, rollout="max_days = 60")
    number = fleet.trial()
    fleet.store.fleet.label("west-0", FLAGSHIP)
    fleet.gain = 0.05
    fleet.until(lambda: newest(fleet, number)["kind"] == "canary")
    fleet.days(3)
    west = newest(fleet, number)
    assert not west["passed_s"]
    assert "0 of 1 devices were asked so far" in west["why"]
    labelled(fleet, "west-0", store="flagship")  # it has signed in
    fleet.days(4)
    assert fleet.store.rollouts.stages(number)[west["position"]]["passed_s"]


def test_a_number_is_fixed_when_the_step_opens_and_who_joins_later_joins_in_proportion(make_fleet: Make) -> None:
    steps = "[[rollout.canary.step]]\ndevices = 6\nmin_days = 2\n[[rollout.canary.step]]\ndevice_share = 1.0\n"
    fleet = make_fleet(n=12, canary=steps, rollout="max_days = 60")
    number = fleet.trial()
    until_step(fleet, number, "canary west 6 devices")
    assert len(tried(fleet)) == 6
    share = trial(fleet).device_share_bp
    salt = fleet.row(number)["salt"]
    assert share == sorted(place_in_stage(salt, f"west-{i}") for i in range(12))[5] + 1
    for i in range(12, 40):
        fleet.devices.append(fleet.join("west", i))
    fleet.tick()
    for device in fleet.devices:
        fleet.deliver(device)
    assert trial(fleet).device_share_bp == share
    assert tried(fleet) == {f"west-{i}" for i in range(40) if place_in_stage(salt, f"west-{i}") < share}
    assert len(tried(fleet)) > 6
    stage = newest(fleet, number)
    assert (stage["target_bp"], stage["taken"]) == (share, 6)
    view = overview.rollout(fleet.project, fleet.store, number)
    shown = next(one for one in view["stages"] if one["name"] == "canary west 6 devices")
    assert (shown["wanted_devices"], shown["taken_devices"], shown["where"]) == (6, 6, {})
    assert [story.stage_title(one) for one in view["stages"][:3]] == ["Shadow", "West (6 devices)", "West"]
    assert story.rollout_headline(course(fleet.project, fleet.store, number)) == "v2 is in West, on 6 devices"


def test_a_number_that_there_is_not_takes_all_and_says_so(make_fleet: Make) -> None:
    steps = "[[rollout.canary.step]]\ndevices = 20\nmin_days = 1\n[[rollout.canary.step]]\ndevice_share = 1.0\n"
    fleet = make_fleet(n=3, canary=steps, rollout="max_days = 60")
    number = fleet.trial()
    until_step(fleet, number, "canary west 20 devices")
    assert len(tried(fleet)) == 3
    said = "3 of 3 devices take part: all that there are, for 20 are asked for"
    assert any(said in one for one in fleet.said)
    assert said in {entry["reason"] for entry in fleet.store.audit.all(50)}


def test_pinned_devices_and_the_control_group_are_not_among_those_that_are_counted(make_fleet: Make) -> None:
    steps = "[[rollout.canary.step]]\ndevices = 4\nmin_days = 1\n[[rollout.canary.step]]\ndevice_share = 0.75\n"
    fleet = make_fleet(n=12, canary=f"control_share = 0.25\n{steps}", rollout="max_days = 60")
    fleet.install()
    number = fleet.start()
    salt = fleet.row(number)["salt"]
    first = min((f"west-{i}" for i in range(12)), key=lambda name: place_in_stage(salt, name))
    fleet.store.pins.set(first, MODEL, "v1", actor="ada", reason="a test")
    fleet.tick()
    until_step(fleet, number, "canary west 4 devices")
    assert len(tried(fleet)) == 4
    assert first not in tried(fleet)
    until_step(fleet, number, "canary west 75%")
    assert not any(place_in_stage(salt, name) >= 7500 for name in tried(fleet))


def test_a_step_for_some_grows_as_its_ramp_says(make_fleet: Make) -> None:
    ramp = "max_in_flight = 2\n"
    some = "[[rollout.canary.step]]\nwhere.store = ['flagship']\nmin_days = 1\n"
    fleet = make_fleet(
        n=8, canary=ramp + some + "[[rollout.canary.step]]\ndevice_share = 1.0\n", rollout="max_days = 60"
    )
    labelled(fleet, *(f"west-{i}" for i in range(5)), store="flagship")
    number = fleet.trial()
    until_step(fleet, number, "canary west store=flagship")
    assert len(tried(fleet)) == 2
    fleet.until(lambda: len(tried(fleet)) == 5, most=5)
    assert tried(fleet) == {f"west-{i}" for i in range(5)}
    until_step(fleet, number, "canary west")
    assert 5 < len(tried(fleet)) <= 7, "the next step begins with its own first devices"
    fleet.until(lambda: len(tried(fleet)) == 8, most=5)


def test_a_step_that_kills_the_devices_of_its_kind_holds_though_the_region_hardly_notices(make_fleet: Make) -> None:
    fleet = make_fleet(n=40, canary=STEPS, rollout="max_days = 60")
    labelled(fleet, *(f"west-{i}" for i in range(8)), store="flagship")
    number = fleet.trial()
    until_step(fleet, number, "canary west store=flagship|test")
    for device in fleet.devices[:5]:
        device.online = False
    fleet.days(6)
    stage = newest(fleet, number)
    assert (plan.stage_name(stage), bool(stage["passed_s"])) == ("canary west store=flagship|test", False)
    assert "of west store=flagship|test 3 devices are online, 8 were when this step opened" in stage["why"]
    for device in fleet.devices[:5]:
        device.online = True
    fleet.until(lambda: newest(fleet, number)["id"] != stage["id"], most=4)


# ---- counting


def row(name: str, *, seen_s: float = 990.0, **labels: str) -> dict[str, typing.Any]:
    """A device that goes by labels, and runs the candidate."""
    runs = {"model": MODEL, "incumbent": "v1", "candidate": "v2", "epoch": 7}
    report = {"generation": "g", "state": "good", "agent": "1", "can": list(CAN), "models": [runs], "labels": labels}
    return {"device": name, "region": "west", "seen_s": seen_s, "online_since_s": 0.0, "labels": {}, "report": report}


def wanted(*groups: Group, **more: typing.Any) -> Wanted:
    return Wanted(MODEL, "v2", 7, "salt", groups, 10.0, all_groups=groups, needs={"west": frozenset({LABELS})}, **more)


def test_only_devices_that_the_selector_means_are_counted() -> None:
    devices = [row(f"d{i}", store="flagship" if i < 5 else "outlet") for i in range(40)]
    counts = count(
        devices, wanted(Group(where={"store": ("flagship",)})), now_s=1000.0, online_window_s=60.0,
        install_timeout_s=5.0,
    )  # fmt: skip
    assert (counts.total, counts.verified, counts.to_come) == (5, 5, 0)


def test_devices_fall_silent_beside_devices_of_which_the_same_share_takes_part() -> None:
    # All ten flagships take part and are silent; of the others half do, and none is.
    devices = [row(f"f{i}", seen_s=500.0, store="flagship") for i in range(10)]
    devices += [row(f"d{i}") for i in range(40)]
    both = wanted(Group(where={"store": ("flagship",)}), Group(device_share_bp=5000))
    found = heard_from(devices, both, since_s={"west": 400.0}, now_s=1000.0, online_window_s=60.0)
    taken = sum(takes_part(one, both) for one in devices[10:])
    assert [(one.tried, one.others, one.tried_silent) for one in found] == [(taken, 40 - taken, 0), (10, 0, 10)]
    only = wanted(Group(where={"store": ("flagship",)}))
    (one,) = heard_from(devices, only, since_s={"west": 400.0}, now_s=1000.0, online_window_s=60.0)
    assert (one.tried, one.others) == (10, 0), "who can not take part is compared with nobody"


def stage(position: int, **settings: typing.Any) -> dict[str, typing.Any]:
    """An open step."""
    return {
        "kind": "canary", "region": "west", "position": position, "opened_s": 1.0, "reached_bp": 10_000,
        "target_bp": -1, "settings": {"device_share": 1.0} | settings,
    }  # fmt: skip


def test_a_step_takes_whoever_a_step_before_has_taken() -> None:
    rollout = {"plan": {"canary": {"device_share": 1.0}}}
    stages = [
        stage(1, where={"store": ["test"]}), stage(2, device_share=0.1), stage(3, where={"class": ["int8"]}),
        stage(4, device_share=0.95),
    ]  # fmt: skip
    stores = Group(where={"store": ("test",)}, device_share_bp=9500)
    tenth, small = Group(device_share_bp=1000), Group(where={"class": ("int8",)}, device_share_bp=9500)
    found = [groups_of(rollout, stages[: i + 1], one, 500) for i, one in enumerate(stages)]
    assert found == [(stores,), (stores, tenth), (stores, tenth, small), (Group(device_share_bp=9500),)]
    assert groups_of(rollout, stages[1:2], stages[1], 500) == (tenth,)


# ---- plans


def steps(*made: dict[str, typing.Any], **more: typing.Any) -> RolloutSettings:
    canary = CanarySettings(step=tuple(RolloutStep(**{"min_days": 1} | one) for one in made))
    return RolloutSettings(canary=canary, **more)


ALL: dict[str, typing.Any] = {"device_share": 1.0}
SOME: dict[str, typing.Any] = {"where": {"store": ("flagship",)}}


@pytest.mark.parametrize(
    ("made", "says"),
    [
        (steps(SOME), "never have seen the candidate"),
        (steps(ALL | SOME), "never have seen the candidate"),
        (steps({"devices": 5}), "never have seen the candidate"),
        (steps(SOME, SOME, ALL), "Each step takes more"),
        (steps({"devices": 5}, {"devices": 5}, ALL), "Each step takes more"),
        (steps({"devices": 9}, {"devices": 5}, ALL), "Each step takes more"),
        (steps(SOME | {"device_share": 0.5}, SOME | {"device_share": 0.2}, ALL), "Each step takes more"),
        (steps({"device_share": 0.5}, SOME | {"device_share": 0.5}, ALL), "Each step takes more"),
        (steps(SOME, SOME | {"devices": 5}, ALL), "Each step takes more"),
        (steps({"devices": 5}, ALL, region={"a": RegionPlan(where={"store": ("x",)})}), "nothing to put in its place"),
    ],
)
def test_steps_that_take_nobody_new_or_leave_somebody_out_are_refused(made: RolloutSettings, says: str) -> None:
    with pytest.raises(PlanError, match=says):
        plan.stages_of(["a", "b"], is_first=False, settings=made)


@pytest.mark.parametrize(
    "made",
    [
        steps(SOME, ALL),
        steps({"devices": 5}, {"device_share": 0.2}, {"devices": 50}, ALL),
        steps({"device_share": 0.1}, SOME | {"device_share": 0.5}, SOME, ALL),
        steps(SOME, {"where": {"class": ("int8",)}}, {"where": {"store": ("flagship", "test")}}, ALL),
        steps({"devices": 5}, SOME | {"devices": 5}, ALL),
    ],
)
def test_steps_that_may_each_take_more_are_taken(made: RolloutSettings) -> None:
    found = plan.stages_of(["a", "b"], is_first=False, settings=made)
    assert len(found) == 1 + 2 * len(made.canary.step)


def test_a_region_has_labels_of_its_own() -> None:
    made = steps(SOME, ALL, region={"b": RegionPlan(where={"city": ("oslo",)})})
    found = plan.stages_of(["a", "b"], is_first=False, settings=made)
    assert [plan.stage_name(one._asdict()) for one in found] == [
        "shadow", "canary a store=flagship", "canary a", "canary b city=oslo", "canary b",
    ]  # fmt: skip


@pytest.mark.parametrize("one", [SOME, {"devices": 5}])
def test_arms_of_whole_devices_are_drawn_from_all(one: dict[str, typing.Any]) -> None:
    canary = CanarySettings(unit="device", keep_pairs=False, step=(RolloutStep(**one), RolloutStep(device_share=0.5)))
    with pytest.raises(PlanError, match="chance alone decides"):
        plan.stages_of(["a"], is_first=False, settings=RolloutSettings(canary=canary))


# ---- what would be


def test_a_forecast_knows_how_many_devices_have_the_labels_and_what_share_a_number_is() -> None:
    labels = {"a": [FLAGSHIP] * 10, "b": [FLAGSHIP] * 2 + [{"store": "outlet"}] * 8}
    traffic = lint.Traffic({"a": 100, "b": 10}, 10.0, 0.4, 1.0, labels)
    made = steps(SOME, {"devices": 28}, ALL, max_days=90)
    stages = plan.stages_of(["a", "b"], is_first=False, settings=made)
    found = lint.forecast(stages, [plan.stage_name(one._asdict()) for one in stages], made, traffic)
    assert [(one.devices, one.exposed, one.meant, one.share) for one in found] == [
        (110, 0, 110, 1.0),
        (10, 10, 10, 1.0), (28, 28, 100, 0.2), (100, 100, 100, 1.0),
        (2, 102, 2, 1.0), (10, 110, 10, 1.0), (10, 110, 10, 1.0),
    ]  # fmt: skip
    assert lint.numbers_said(found)[0] == "canary a 28 devices: about 20% of the 100 that it is for"
    odd = lint.faults_of(found, made, traffic, harm=0.04, margin=0.02)
    assert "canary b 28 devices: 28 devices are asked for, and there are 10: it takes them all" in odd
    assert "canary b: takes no more devices than canary b 28 devices" in odd
    nobody = traffic._replace(labels={})
    found = lint.forecast(stages, [plan.stage_name(one._asdict()) for one in stages], made, nobody)
    odd = lint.faults_of(found, made, nobody, harm=0.04, margin=0.02)
    assert "canary a store=flagship: no device takes part, so it passes at once" in odd


def test_a_channel_with_groups_is_read_back_and_groups_and_a_share_beside_them_are_refused(make_fleet: Make) -> None:
    fleet = make_fleet(n=2, canary=STEPS, rollout="max_days = 60")
    labelled(fleet, "west-0", store="flagship")
    number = fleet.trial()
    until_step(fleet, number, "canary west store=flagship|test")
    channel: Channel = fleet.channels["west"]
    assert parse_channel(channel.to_bytes()) == channel


def test_a_rollout_of_before_goes_on_with_the_share_of_its_plan(tmp_path: pathlib.Path) -> None:
    db = sqlite_utils.Database(sqlite3.connect(tmp_path / "old.db"), execute_plugins=False)
    migrations.apply(db, stop_before="0012-labels-and-steps-by-count")
    db.execute("insert into rollouts values (1, 'm', 'v1', 'v2', 'running', 0, '{}', 'salt', '', 0, 0, 0, 0, '')")
    db.execute(
        "insert into stages (id, rollout, position, kind, region, opened_s, opened_day, passed_s, passed_day, verdict,"
        " why, settings) values (7, 1, 1, 'canary', 'west', 5, 5, 0, 0, 'HOLD', '', '{\"device_share\": 0.25}')"
    )
    migrations.apply(db)
    (row,) = db.query("select * from stages")
    assert (row["target_bp"], row["taken"]) == (-1, 0)
    one = row | {"settings": json.loads(row["settings"])}
    assert groups_of({"plan": {"canary": {}}}, [one], one, 0) == (Group(device_share_bp=2500),)
