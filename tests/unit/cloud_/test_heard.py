"""Devices that a candidate silences are missed: beside those without it, and by nothing that silences both."""

from __future__ import annotations

import typing

import msgspec
import numpy as np
import pytest

from cloud.rollout import plan
from cloud.rollout.devices import Wanted
from cloud.rollout.heard import Heard, Online, gone, heard_from, silenced
from shared.clock import DAY_S, day_of
from shared.experiment import in_control, in_stage
from shared.labels import Group
from tests.unit.cloud_.simulated import MODEL, ORDER, Fleet

Make = typing.Callable[..., Fleet]
Row = dict[str, typing.Any]
WANTED = Wanted(
    MODEL, "v2", epoch=7, salt="s", groups=(Group(device_share_bp=5000),), opened_s=1000.0, control_bp={"west": 5000},
    pinned=frozenset({"d0"}),
)  # fmt: skip


def device(name: str, *, seen_s: float = 5000.0, epoch: int = 7) -> Row:
    report = {"generation": "g", "state": "good", "models": [{"model": MODEL, "incumbent": "v1", "epoch": epoch}]}
    return {"device": name, "region": "west", "seen_s": seen_s, "labels": {}, "report": report}


NAMES = [f"d{i}" for i in range(1, 100)]
IN = [name for name in NAMES if in_stage("s", name, 5000)]
OUT = [name for name in NAMES if in_control("s", name, 5000)]


def heard(
    tried: Row | None = None, others: Row | None = None, answered: typing.Collection[str] | None = None, n: int = 10
) -> Heard:
    """Devices of which some with the candidate, or without it, are different."""
    rows = [device(name, **(tried or {}) if name in IN[:n] else (others or {}) if name in OUT[:n] else {})
            for name in ("d0", *NAMES)]  # fmt: skip
    (one,) = heard_from(
        rows, WANTED, since_s={"west": 1000.0}, now_s=5000.0, online_window_s=100.0, answered=answered
    )  # fmt: skip
    assert one.tried + one.others <= len(NAMES), "who is pinned takes no part"
    return one


@pytest.mark.parametrize(
    ("tried", "others", "answered", "silent"),
    [
        ({}, {}, None, (0, 0)),
        ({"seen_s": 4000.0}, {}, None, (10, 0)),
        ({}, {"seen_s": 4000.0}, None, (0, 10)),
        ({"seen_s": 800.0}, {"seen_s": 800.0}, None, (0, 0)),  # they were silent before
        ({}, {}, [*IN[10:], *OUT], (10, 0)),  # they run it, are heard from, and report no answer
        ({"epoch": 0}, {}, [*IN[10:], *OUT], (0, 0)),  # they have not changed over, or refuse it
        ({}, {}, [*IN, *OUT[10:]], (0, 10)),
        ({}, {}, [], (len(IN), len(OUT))),
    ],
)
def test_silent_is_who_was_there_and_is_not_heard_from(
    tried: Row, others: Row, answered: list[str] | None, silent: tuple[int, int]
) -> None:
    one = heard(tried, others, answered)
    assert (one.tried_silent, one.others_silent) == silent


def test_without_answers_all_that_take_no_part_are_compared_with_and_with_them_the_control_group_alone() -> None:
    narrow = WANTED._replace(control_bp={"west": 1000})
    asked: Row = {"since_s": {"west": 1000.0}, "now_s": 5000.0, "online_window_s": 100.0}
    rows = [device(name) for name in NAMES]
    (every,) = heard_from(rows, narrow, **asked)
    (some,) = heard_from(rows, narrow, **asked, answered=NAMES)
    assert every.others == len(OUT)
    assert some.others == sum(in_control("s", name, 1000) for name in NAMES) < every.others


def test_who_is_too_old_to_take_part_is_compared_with_nobody() -> None:
    asked: Row = {"since_s": {"west": 1000.0}, "now_s": 5000.0, "online_window_s": 100.0}
    wanted = WANTED._replace(needs={"west": frozenset({"arms"})})
    rows = [device(name) for name in NAMES]
    for row, can in zip(rows, ([], ["interleave"], ["arms"], ["control", "arms"]), strict=False):
        row["report"] |= {"agent": "0.1.0", "can": can}
    (one,) = heard_from(rows, wanted, **asked)
    assert one.tried + one.others == len(NAMES) - 2


def test_a_region_whose_step_has_not_opened_is_not_asked() -> None:
    assert not heard_from([device("d1")], WANTED, since_s={}, now_s=5000.0, online_window_s=100.0)


def test_devices_that_fall_silent_with_the_candidate_are_said_and_a_group_of_nobody_is_not() -> None:
    one = Heard(region="west", tried=50, others=50, tried_silent=14, others_silent=1)
    assert silenced([one], 0.01) == [
        "14 of 50 devices with the candidate in west are not heard from, 1 of 50 without it"
    ]
    assert not silenced([Heard(region="west", tried=50, tried_silent=50)], 0.01)
    assert not silenced([Heard(region="west", tried=50, others=50, tried_silent=1, others_silent=14)], 0.01)


@pytest.mark.parametrize("ratio", [0.02, 0.2, 0.7])
def test_devices_that_are_often_off_are_hardly_ever_said_to_be_silenced(ratio: float) -> None:
    rng = np.random.default_rng(3)
    said = sum(
        bool(silenced([Heard(region="west", tried=60, others=40, tried_silent=a, others_silent=b)], 0.01))
        for a, b in zip(rng.binomial(60, ratio, 1000).tolist(), rng.binomial(40, ratio, 1000).tolist(), strict=True)
    )
    assert said <= 10


# ---- in a rollout


def fleet_of(make_fleet: Make, canary: str, n: int = 60) -> Fleet:
    fleet = make_fleet(n=1, canary=canary, rollout='max_days = 40\nguardrails = "watch"')
    fleet.devices += [fleet.join("west", i) for i in range(1, n)]
    return fleet


def kill(fleet: Fleet, share: float) -> None:
    """Let the candidate put an end to a share of the devices of the west that run it, as soon as they do."""
    running = [one for one in fleet.devices if one.region == "west" and one.arms.get(MODEL)]
    for one in running[: round(len(running) * share)]:
        one.online = False


@pytest.mark.parametrize(("canary", "share"), [
    ('unit = "device"\ndevice_share = 0.5', 0.0), ('unit = "device"\ndevice_share = 0.5', 0.8),
    ("control_share = 0.5\ndevice_share = 0.5", 0.0), ("control_share = 0.5\ndevice_share = 0.5", 0.8),
])  # fmt: skip
def test_a_candidate_that_kills_its_devices_goes_no_further(make_fleet: Make, canary: str, share: float) -> None:
    fleet = fleet_of(make_fleet, canary, n=40)
    number = fleet.trial()
    fleet.gain = fleet.served_gain = 0.06  # as far as anybody is left to say
    fleet.until(lambda: bool(fleet.stages(number)["west"]["opened_s"]))
    fleet.days(2)
    kill(fleet, share)
    if not share:
        fleet.days(8)
        assert fleet.stages(number)["west"]["verdict"] == "PASS"
        return
    fleet.until(lambda: "are not heard from" in fleet.stages(number)["west"]["why"], most=5)
    assert fleet.stages(number)["west"]["verdict"] == "HOLD"  # they may be back tomorrow
    fleet.days(2)
    assert fleet.row(number)["state"] == "running"
    fleet.days(1)
    row = fleet.row(number)
    assert row["state"] == "rolled_back"
    assert row["outcome"].startswith("canary west 50%: ")
    assert row["outcome"].endswith("without it, for 3 days")
    assert fleet.exposed("v2") == set()


def test_what_ends_again_and_what_silences_both_groups_rolls_nothing_back(make_fleet: Make) -> None:
    fleet = fleet_of(make_fleet, "control_share = 0.5\ndevice_share = 0.5", n=30)
    number = fleet.trial()
    fleet.gain = fleet.served_gain = 0.06
    fleet.until(lambda: bool(fleet.stages(number)["west"]["opened_s"]))
    fleet.days()
    kill(fleet, 1.0)
    fleet.until(lambda: "are not heard from" in fleet.stages(number)["west"]["why"], most=5)
    fleet.days(2)
    for device in fleet.devices:
        device.online = True
    fleet.days()
    for device in fleet.devices[8:]:
        device.online = False
    fleet.days(6)
    assert fleet.row(number)["state"] == "running"


@pytest.mark.parametrize("expedited", [False, True])
def test_a_rollout_whose_devices_all_fall_silent_ends_though_event_time_stands_still(
    make_fleet: Make, *, expedited: bool
) -> None:
    fleet = make_fleet(n=1, rollout="max_days = 20")
    fleet.install()
    settings = fleet.project.settings.rollout
    number = plan.start(
        fleet.store, msgspec.structs.replace(settings, expedited=expedited), ORDER, model=MODEL,
        version=fleet.version(), why="a test", actor="ada", event_day=day_of(float(fleet.store.get_meta("event_s"))),
    )  # fmt: skip
    fleet.days(2)
    for device in fleet.devices:
        device.online = False
    fleet.now_s += 300 * DAY_S  # the cloud was off, or its clock was wrong: nobody has looked, and nothing is over
    fleet.tick()
    assert fleet.row(number)["state"] == "running"
    assert fleet.until(lambda: fleet.row(number)["state"] != "running") == (1 if expedited else 18)
    assert fleet.row(number)["state"] == "aborted"
    assert fleet.exposed("v2") == set()


def test_a_step_whose_devices_all_fall_silent_has_its_deadline_all_the_same(make_fleet: Make) -> None:
    fleet = make_fleet(n=1, canary="hold_days = 5")
    number = fleet.trial()
    fleet.gain = 0.06
    fleet.until(lambda: bool(fleet.stages(number)["west"]["opened_s"]))
    for device in fleet.devices:
        device.online = False
    fleet.days(10)
    assert fleet.row(number)["paused"]


@pytest.mark.parametrize("stage", ["*", "west"])
@pytest.mark.parametrize("share", [0.0, 0.2, 0.6])
def test_where_every_device_tries_it_those_that_it_kills_are_missed_all_the_same(
    make_fleet: Make, stage: str, share: float
) -> None:
    fleet = make_fleet(n=1, rollout='max_days = 40\nguardrails = "watch"')
    fleet.devices += [fleet.join("west", i) for i in range(1, 30)]
    number = fleet.trial()
    fleet.gain = 0.06
    fleet.until(lambda: bool(fleet.stages(number)[stage]["opened_s"]))
    fleet.days(2)
    kill(fleet, share)
    fleet.days(12)
    why = fleet.stages(number)[stage]["why"]
    assert ("of west 12 devices are online, 30 were when the rollout began" in why) == (share > 0.5)
    assert bool(fleet.stages(number)[stage]["passed_s"]) == (share < 0.5)


def test_devices_that_come_back_are_missed_no_longer_and_retired_ones_never(make_fleet: Make) -> None:
    fleet = make_fleet(n=4, rollout='max_days = 40\nguardrails = "watch"')
    number = fleet.trial(days=1)
    fleet.gain = 0.06
    off = fleet.devices[2:]
    for device in off:
        device.online = False
    fleet.days(6)
    assert "of the fleet 2 devices are online, 12 were" in fleet.stages(number)["*"]["why"]
    for device in off[5:]:
        fleet.store.fleet.retire(device.name)
    for device in off[:5]:
        device.online = True
    fleet.days(2)
    assert fleet.stages(number)["*"]["verdict"] == "PASS"


@pytest.mark.parametrize("ratio", [0.3, 0.6, 0.9])
def test_devices_that_come_and_go_are_not_missed_for_long(ratio: float) -> None:
    rng = np.random.default_rng(3)
    draws = zip(rng.binomial(20, ratio, 4000).tolist(), rng.binomial(20, ratio, 4000).tolist(), strict=True)
    assert sum(bool(gone([Online(region="west", known=20, then=a, now=b)], 0.2, 3)) for a, b in draws) <= 130


@pytest.mark.parametrize(
    ("known", "then", "now", "is_said"),
    [
        (100, 100, 80, False),
        (100, 100, 70, True),
        (3, 3, 1, False),
        (3, 3, 0, True),
        (0, 0, 0, False),
        (5, 3, 5, False),
    ],
)
def test_what_a_plan_allows_to_fail_may_fall_silent(known: int, then: int, now: int, *, is_said: bool) -> None:
    assert bool(gone([Online(region="west", known=known, then=then, now=now)], 0.2, 3)) == is_said


def test_a_region_that_has_passed_and_falls_silent_then_is_missed_before_anything_is_promoted(make_fleet: Make) -> None:
    fleet = make_fleet(n=6, rollout='max_days = 60\nguardrails = "watch"')
    number = fleet.trial()
    fleet.gain = 0.06
    fleet.until(lambda: bool(fleet.stages(number)["west"]["passed_s"]))
    gone_ones = [one for one in fleet.devices if one.region == "west"]
    for device in gone_ones:
        device.online = False
    fleet.until(lambda: all(stage["passed_s"] for stage in fleet.store.rollouts.stages(number)))
    fleet.days(5)
    assert fleet.row(number)["state"] == "running"
    for device in gone_ones:
        device.online = True
    fleet.until(lambda: fleet.row(number)["state"] == "promoted", most=6)
