"""When a rollout may go on: windows in wall time on both days on which clocks are changed, freezes, and the fleet's."""

from __future__ import annotations

import datetime as dt
import typing

import pytest

from cloud.config import RegionPlan, RolloutSettings
from cloud.config.rollout import FreezeSettings
from cloud.rollout import plan, windows
from shared.clock import DAY_S
from shared.errors import PlanError
from tests.unit.cloud_.simulated import Fleet

Make = typing.Callable[..., Fleet]
NIGHT = RegionPlan(window="22:00-05:00", timezone="America/New_York")
REGIONS = ("west", "east")


def at(text: str) -> float:
    """Seconds of a moment that is written with its offset."""
    return dt.datetime.fromisoformat(text).timestamp()


def made(freeze: typing.Sequence[tuple[str, str]] = (), fleet: str = "all", **region: RegionPlan) -> RolloutSettings:
    days = [FreezeSettings(from_=dt.date.fromisoformat(a), to=dt.date.fromisoformat(b), why="sale") for a, b in freeze]
    return RolloutSettings(region=region, freeze=tuple(days), fleet_window="any" if fleet == "any" else "all")


def opens(settings: RolloutSettings, region: str, text: str) -> str:
    """When a region opens, in New York's wall time."""
    found = windows.next_open(settings, REGIONS, region, at(text))
    zone = windows.window_of(made(west=NIGHT), "west").zone
    return "never" if found is None else dt.datetime.fromtimestamp(found, zone).isoformat(timespec="minutes")


@pytest.mark.parametrize(
    ("moment", "is_open"),
    [
        ("2026-11-20T21:59-05:00", False),
        ("2026-11-20T22:00-05:00", True),
        ("2026-11-21T04:59-05:00", True),
        ("2026-11-21T05:00-05:00", False),
        # The same wall time, an hour apart in the world's: clocks go back on 1 November and forward on 14 March.
        ("2026-10-31T22:00-04:00", True),
        ("2026-11-01T22:00-05:00", True),
        ("2026-11-01T21:30-05:00", False),
        ("2027-03-13T22:00-05:00", True),
        ("2027-03-14T22:00-04:00", True),
        ("2027-03-14T04:59-04:00", True),
        ("2027-03-14T05:01-04:00", False),
    ],
)
def test_a_window_is_wall_time_on_every_day_of_the_year(moment: str, is_open: bool) -> None:
    assert (windows.why_closed(made(west=NIGHT), "west", at(moment)) == "") is is_open


def test_an_hour_that_comes_twice_counts_twice_and_one_that_is_left_out_not_at_all() -> None:
    hour = made(west=RegionPlan(window="01:00-02:00", timezone="America/New_York"))
    for offset in ("-04:00", "-05:00"):
        assert windows.why_closed(hour, "west", at(f"2026-11-01T01:30{offset}")) == ""
    gap = made(west=RegionPlan(window="02:00-03:00", timezone="America/New_York"))
    assert opens(gap, "west", "2027-03-14T01:00-05:00") == "2027-03-15T02:00-04:00"
    half = made(west=RegionPlan(window="02:30-05:00", timezone="America/New_York"))
    assert opens(half, "west", "2027-03-14T01:00-05:00") == "2027-03-14T03:00-04:00"


def test_a_window_belongs_to_the_day_on_which_it_begins() -> None:
    monday = made(west=RegionPlan(window="22:00-05:00", timezone="America/New_York", days=("mon",)))
    assert windows.why_closed(monday, "west", at("2026-11-24T02:00-05:00")) == ""  # Tuesday's night began on Monday
    assert windows.why_closed(monday, "west", at("2026-11-23T02:00-05:00")) == "the window of west"
    assert opens(monday, "west", "2026-11-24T06:00-05:00") == "2026-11-30T22:00-05:00"
    days = made(west=RegionPlan(timezone="America/New_York", days=("sat",)))
    assert opens(days, "west", "2026-11-24T06:00-05:00") == "2026-11-28T00:00-05:00"


def test_a_freeze_holds_in_each_regions_own_days_and_ends_with_its_last() -> None:
    frozen = made(freeze=[("2026-12-20", "2027-01-03")], west=RegionPlan(timezone="America/New_York"))
    assert windows.why_closed(frozen, "west", at("2026-12-19T23:59-05:00")) == ""
    assert windows.why_closed(frozen, "east", at("2026-12-20T00:00+00:00")) == "the freeze until 2027-01-03 (sale)"
    assert opens(frozen, "west", "2026-12-24T12:00-05:00") == "2027-01-04T00:00-05:00"


def test_what_concerns_the_whole_fleet_waits_for_all_windows_or_for_any() -> None:
    two = {
        "west": RegionPlan(window="00:00-02:00", timezone="UTC"),
        "east": RegionPlan(window="01:00-03:00", timezone="UTC"),
    }
    for fleet, opens_at in (("all", "01:00"), ("any", "00:00")):
        found = windows.next_open(made(fleet=fleet, **two), REGIONS, "*", at("2026-11-24T12:00+00:00"))
        assert found == at(f"2026-11-25T{opens_at}+00:00")


@pytest.mark.parametrize(
    ("settings", "field", "says"),
    [
        (made(west=RegionPlan(window="22:00-22:00")), "west.window", "has no length"),
        (made(west=RegionPlan(window="22-5")), "west.window", "is no window"),
        (made(west=RegionPlan(window="00:00-24:30")), "west.window", "is no window"),
        (made(west=RegionPlan(timezone="America/Springfield")), "west.timezone", "is no time zone"),
        (made(west=RegionPlan(timezone="../etc/passwd")), "west.timezone", "is no time zone"),
        (made(freeze=[("2026-12-20", "2026-12-19")]), r"freeze\[0\].to", "before it begins"),
        (made(freeze=[("2020-01-01", "9999-12-31")]), "west.window", "nothing can be opened in west"),
        (
            made(west=RegionPlan(window="00:00-01:00"), east=RegionPlan(window="02:00-03:00")),
            "fleet_window",
            "never open at once",
        ),
    ],
)
def test_windows_in_which_nothing_could_ever_be_done_are_refused(
    settings: RolloutSettings, field: str, says: str
) -> None:
    with pytest.raises(PlanError, match=says) as refused:
        plan.stages_of(REGIONS, is_first=False, settings=settings)
    assert field.replace("\\", "") in refused.value.field


def test_days_of_freezes_are_counted_once_and_in_each_regions_own_time() -> None:
    spans = [("2026-12-20", "2026-12-24"), ("2026-12-23", "2026-12-26"), ("2027-02-01", "2027-02-02")]
    frozen = made(freeze=spans, west=RegionPlan(timezone="America/New_York"))
    first, last = at("2026-12-21T02:00+00:00"), at("2027-01-05T12:00+00:00")
    assert [windows.frozen_days(frozen, REGIONS, region, first, last) for region in ("east", "west", "*")] == [6, 7, 7]
    assert windows.frozen_days(frozen, REGIONS, "*", last, last + DAY_S) == 0


def test_what_is_waited_for_is_said_with_the_time_of_the_region() -> None:
    said = [
        windows.waits_for(made(west=NIGHT), REGIONS, "west", at(f"2026-11-20T{t}-05:00")) for t in ("19:00", "23:00")
    ]
    assert said == ["the window of west (opens 22:00, in 3 h)", ""]
    frozen = made(freeze=[("2026-11-20", "2026-11-24")], west=NIGHT)
    assert windows.waits_for(frozen, REGIONS, "west", at("2026-11-20T19:00-05:00")) == (
        "the freeze until 2026-11-24 (sale) (opens 2026-11-25 00:00, in 4 days)"
    )


# ---- on a fleet, whose controller looks once a day


def test_outside_its_window_a_region_does_not_open_and_a_bad_candidate_still_goes_back(make_fleet: Make) -> None:
    fleet = make_fleet(rollout='fleet_window = "any"\nmax_days = 90\n[rollout.region.mid]\nwindow = "11:00-13:00"\n')
    fleet.now_s += DAY_S / 2  # noon: what was never there is installed in each window too
    fleet.install()
    number = fleet.start()
    fleet.now_s += DAY_S / 2
    fleet.gain = 0.05
    fleet.days(20)
    stages = fleet.store.rollouts.stages(number)
    assert [bool(stage["opened_s"]) for stage in stages] == [True, True, False, False]
    assert stages[1]["passed_s"]
    fleet.gain = -0.5
    fleet.days(20)
    assert fleet.row(number)["state"] == "rolled_back"
    assert fleet.exposed("v2") == set()


@pytest.mark.parametrize("aborted", [False, True])
def test_a_promotion_waits_for_the_end_of_a_freeze_and_an_abort_does_not(make_fleet: Make, *, aborted: bool) -> None:
    def last_opens(fleet: Fleet) -> int:
        number = fleet.trial()
        fleet.gain = 0.05
        fleet.until(lambda: bool(fleet.stages(number)["east"]["opened_s"]))
        return number

    free = make_fleet()
    last_opens(free)
    first = dt.datetime.fromtimestamp(free.now_s, dt.UTC).date() + dt.timedelta(days=1)
    last = first + dt.timedelta(days=9)
    fleet = make_fleet(rollout=f"max_days = 60\n[[rollout.freeze]]\nfrom = {first}\nto = {last}\n")
    number = last_opens(fleet)
    fleet.days(10)
    assert all(stage["passed_s"] for stage in fleet.store.rollouts.stages(number))
    assert fleet.row(number)["state"] == "running"
    if aborted:
        assert fleet.order(number, "abort") == "done"
    fleet.days(1)
    assert fleet.row(number)["state"] == ("aborted" if aborted else "promoted")


@pytest.mark.parametrize("limit", ["max_days = 25", "max_days = 60\n[rollout.canary]\nhold_days = 6"])
def test_days_of_a_freeze_count_for_no_deadline_and_throw_no_good_candidate_away(make_fleet: Make, limit: str) -> None:
    def last_opens(fleet: Fleet) -> int:
        number = fleet.trial()
        fleet.gain = 0.05
        fleet.until(lambda: bool(fleet.stages(number)["east"]["opened_s"]))
        return number

    free = make_fleet()
    last_opens(free)
    first = dt.datetime.fromtimestamp(free.now_s, dt.UTC).date() + dt.timedelta(days=1)
    frozen = f"[[rollout.freeze]]\nfrom = {first}\nto = {first + dt.timedelta(days=21)}\n"
    rollout, _, canary = limit.partition("\n[rollout.canary]\n")
    fleet = make_fleet(rollout=f"{rollout}\n{frozen}", canary=canary)
    number = last_opens(fleet)
    if canary:
        fleet.requests = 1  # too few outcomes for the step to pass
        fleet.days(22)
        assert (fleet.row(number)["state"], fleet.row(number)["paused"]) == ("running", 0)
        fleet.requests = 60
    fleet.until(lambda: fleet.row(number)["state"] != "running", most=30)
    assert fleet.row(number)["state"] == "promoted", fleet.row(number)["outcome"]


def test_who_waits_for_a_window_only_is_given_its_last_look_when_that_opens(make_fleet: Make) -> None:
    windowed = "".join(f'[rollout.region.{region}]\nwindow = "11:00-13:00"\n' for region in ("west", "mid", "east"))
    fleet = make_fleet(rollout=f"max_days = 20\n{windowed}")
    fleet.now_s += DAY_S / 2
    fleet.install()
    number = fleet.start()
    fleet.tick()
    fleet.gain = 0.05
    fleet.until(lambda: bool(fleet.stages(number)["east"]["opened_s"]))
    fleet.now_s += DAY_S / 2  # from now on the controller looks at midnight only
    fleet.days(20)
    row = fleet.row(number)
    assert all(stage["passed_s"] for stage in fleet.store.rollouts.stages(number))
    assert row["state"] == "running", row["outcome"]
    fleet.now_s += DAY_S / 2
    fleet.tick()
    row = fleet.row(number)
    assert row["ended_day"] - row["created_day"] > 20
    assert row["state"] == "promoted", row["outcome"]
