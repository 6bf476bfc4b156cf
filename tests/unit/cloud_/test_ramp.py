"""Steps that grow: how many devices are asked when, on tiny fleets and huge ones, and what a crash leaves."""

from __future__ import annotations

import random
import typing

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cloud.config import CanarySettings, RolloutSettings
from cloud.config.rollout import RampSettings
from cloud.rollout import ramp
from cloud.rollout.devices import Wanted, count
from shared.experiment import place_in_stage
from shared.labels import Group
from tests.unit.cloud_.simulated import MODEL, Fleet

Make = typing.Callable[..., Fleet]
TWO_AT_ONCE = "max_in_flight = 2\n"


def limits(*, in_flight: int = 0, **made: typing.Any) -> RolloutSettings:
    return RolloutSettings(canary=CanarySettings(max_in_flight=in_flight, ramp=RampSettings(**made)))


# ---- pure


def test_the_rate_grows_with_what_has_verified_and_never_overflows() -> None:
    made = RampSettings(base_per_minute=0.5, factor=100.0, every_verified=1)
    assert ramp.rate_of(made, 1) == 50
    assert ramp.rate_of(made, 10**9) < 1e12


def test_a_slow_rate_asks_one_device_in_more_than_a_minute_and_what_is_waited_longer_is_not_made_up_for() -> None:
    slow = limits(base_per_minute=0.05)
    rooms = [ramp.room_of(slow, in_flight=0, n_verified=0, waited_s=s)[0] for s in (0, 1199, 1200, 1e9)]
    assert rooms == [0, 0, 1, 1]
    assert ramp.room_of(limits(base_per_minute=60), in_flight=0, n_verified=0, waited_s=1e9)[0] == 600


def test_devices_on_the_way_leave_room_for_the_rest_of_the_limit_only() -> None:
    rooms = [ramp.room_of(limits(in_flight=5), in_flight=n, n_verified=0, waited_s=0)[0] for n in (0, 3, 5, 9)]
    assert rooms == [5, 2, 0, 0]
    both = limits(in_flight=5, base_per_minute=2)
    assert ramp.room_of(both, in_flight=4, n_verified=0, waited_s=60)[0] == 1
    assert ramp.room_of(both, in_flight=0, n_verified=0, waited_s=60)[0] == 2


@given(
    st.lists(st.integers(0, 9999), max_size=60).map(sorted),
    st.integers(0, 9999),
    st.integers(1, 10_000),
    st.integers(1, 99),
)
def test_a_step_grows_by_no_more_than_there_is_room_for_and_always_by_somebody(
    places: list[int], reached: int, target: int, room: int
) -> None:
    target = max(target, reached)
    share = ramp.grown(places, reached, target, room)
    asked = [place for place in places if reached <= place < share]
    left = [place for place in places if reached <= place < target]
    assert reached <= share <= target
    assert asked or not left
    assert len(asked) <= room or len(set(asked)) == 1, "more only where one share in 10,000 holds more"


def test_a_huge_region_is_asked_to_its_end() -> None:
    rng, reached, n = random.Random(3), 0, 0
    places = sorted(rng.randrange(10_000) for _ in range(200_000))
    while reached < 10_000:
        reached, n = ramp.grown(places, reached, 10_000, 5), n + 1
    assert n == 10_000, "some twenty devices share each place"


@given(st.lists(st.tuples(st.integers(1, 99), st.floats(1, 50)), max_size=30))
def test_what_is_kept_of_the_growth_says_of_each_device_whether_it_has_had_its_time(
    steps: list[tuple[int, float]],
) -> None:
    whole: list[tuple[int, float]] = []
    kept: list[tuple[int, float]] = []
    reached, now_s = 0, 0.0
    for more, wait_s in steps:
        reached, now_s = reached + more, now_s + wait_s
        whole, kept = [*whole, (reached, now_s)], ramp.noted(kept, reached, now_s, 100.0)
    assert len(kept) <= len(whole)
    for place in range(0, reached, 7):
        exact, known = ramp.asked_s(whole, place), ramp.asked_s(kept, place)
        assert known == exact or (now_s - exact > 100 and now_s - known > 100)


# ---- devices


def test_a_device_that_was_asked_late_has_all_of_its_time() -> None:
    names = [f"d{i}" for i in range(40)]
    row = {"region": "a", "seen_s": 1000.0, "online_since_s": 0.0, "labels": {}, "report": {}}
    devices = [{"device": name, **row} for name in names]
    wanted = Wanted(
        MODEL, "v2", 3, "salt", (Group(device_share_bp=5000),), 10.0, growth=((1000, 10.0), (5000, 900.0)),
        all_groups=(Group(),),
    )  # fmt: skip
    counts = count(devices, wanted, now_s=1000.0, online_window_s=60.0, install_timeout_s=500.0)
    early = sum(place_in_stage("salt", name) < 1000 for name in names)
    assert counts.timed_out == early > 0
    assert counts.in_flight == counts.total - early > 0
    assert counts.to_come == len(names) - counts.total > 0


# ---- on a fleet


def asked(fleet: Fleet, region: str) -> int:
    return sum(bool(d.models[MODEL].candidate) for d in fleet.devices if d.region == region)


def test_a_step_asks_so_many_at_once_never_fewer_again_and_passes_when_all_were_asked(make_fleet: Make) -> None:
    fleet = make_fleet(n=8, rollout="max_days = 60", canary=TWO_AT_ONCE)
    number = fleet.trial()
    fleet.gain = 0.05
    fleet.until(lambda: bool(fleet.stages(number)["west"]["opened_s"]))
    seen, says = [], []
    while not fleet.stages(number)["west"]["passed_s"]:
        seen.append(fleet.stages(number)["west"]["reached_bp"])
        fleet.days()
        says.append((asked(fleet, "west"), fleet.stages(number)["west"]["why"]))
    assert [n for n, _ in says[:4]] == [2, 4, 6, 8]
    assert seen == sorted(seen)
    assert "2 of 8 devices were asked so far" in says[0][1]
    fleet.until(lambda: fleet.row(number)["state"] == "promoted")


def test_devices_that_hang_hold_a_step_up_until_they_have_timed_out_and_dead_ones_do_not(make_fleet: Make) -> None:
    fleet = make_fleet(n=8, rollout="max_days = 60\nerror_min_executed = 99", canary=TWO_AT_ONCE)
    number = fleet.trial()
    fleet.gain = 0.05
    fleet.until(lambda: bool(fleet.stages(number)["west"]["opened_s"]))
    salt = fleet.row(number)["salt"]
    west = sorted((d for d in fleet.devices if d.region == "west"), key=lambda d: place_in_stage(salt, d.name))
    west[0].installs, west[2].online = "hangs", False
    reached = []
    for _ in range(8):
        fleet.days()
        reached.append(asked(fleet, "west"))
    assert reached[1] < 4, "one is on the way still"
    assert fleet.stages(number)["west"]["reached_bp"] == 10_000, "the limit stops nothing for ever"


def test_a_paused_step_does_not_grow_and_a_killed_controller_goes_on_where_it_was(make_fleet: Make) -> None:
    fleet = make_fleet(n=8, rollout="max_days = 60", canary="[rollout.canary.ramp]\nbase_per_minute = 0.2\n")
    number = fleet.trial()
    fleet.gain = 0.05
    fleet.until(lambda: bool(fleet.stages(number)["west"]["opened_s"]))
    fleet.days(1)
    fleet.order(number, "pause")
    before = fleet.stages(number)["west"]["reached_bp"]
    assert 0 < before < 10_000
    fleet.days(3)
    fleet.store.close()
    assert fleet.stages(number)["west"]["reached_bp"] == before
    fleet.order(number, "resume")
    fleet.days(1)
    assert fleet.stages(number)["west"]["reached_bp"] > before


def test_a_step_begins_with_the_devices_of_the_step_before(make_fleet: Make) -> None:
    step = "[[rollout.canary.step]]\ndevice_share = 0.5\n[[rollout.canary.step]]\ndevice_share = 1.0\n"
    fleet = make_fleet(n=8, rollout="max_days = 90", canary=TWO_AT_ONCE + step)
    number = fleet.trial()
    fleet.gain = 0.05
    west = [stage["id"] for stage in fleet.store.rollouts.stages(number) if stage["region"] == "west"]
    fleet.until(lambda: any(s["opened_s"] for s in fleet.store.rollouts.stages(number) if s["id"] == west[1]))
    reached = {stage["id"]: stage["reached_bp"] for stage in fleet.store.rollouts.stages(number)}
    assert (reached[west[0]], reached[west[1]]) == (5000, 5000)


@pytest.mark.parametrize("canary", ["max_in_flight = 1\n", "[rollout.canary.ramp]\nbase_per_minute = 0.01\n"])
def test_the_tightest_limit_still_comes_to_an_end_with_one_device_a_region(make_fleet: Make, canary: str) -> None:
    fleet = make_fleet(n=1, rollout="max_days = 60", canary=canary)
    number = fleet.trial()
    fleet.gain = 0.05
    fleet.until(lambda: all(stage["passed_s"] for stage in fleet.store.rollouts.stages(number)), most=25)


def test_a_step_that_grows_gives_devices_that_were_asked_before_no_new_time(make_fleet: Make) -> None:
    fleet = make_fleet(n=8, rollout="max_days = 60", canary=TWO_AT_ONCE)
    number = fleet.trial()
    fleet.gain = 0.05
    fleet.until(lambda: bool(fleet.stages(number)["west"]["opened_s"]))
    opened, before = fleet.stages(number)["west"], fleet.store.rollouts.channel("west")
    fleet.days(1)
    grown, after = fleet.stages(number)["west"], fleet.store.rollouts.channel("west")
    assert before is not None
    assert after is not None
    assert after["sequence"] > before["sequence"]
    assert after["told_s"] == before["told_s"] < after["published_s"]
    assert grown["growth"] == [[opened["reached_bp"], opened["opened_s"]], [grown["reached_bp"], fleet.now_s]]
    fleet.order(number, "abort")
    ended = fleet.store.rollouts.channel("west")
    assert ended is not None
    assert ended["told_s"] == fleet.now_s
