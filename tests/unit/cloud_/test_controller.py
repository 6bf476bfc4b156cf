"""The rollout controller on a simulated fleet: what it opens, when, and what it never does."""

from __future__ import annotations

import itertools
import typing

import pytest

from cloud.rollout import deadline
from shared.clock import day_of
from tests.unit.cloud_.simulated import MODEL, ORDER, OTHER, START_S, Fleet

Make = typing.Callable[..., Fleet]


@pytest.fixture
def fleet(make_fleet: Make) -> Fleet:
    return make_fleet()


# ---- stages, in their order


def test_a_first_version_is_installed_region_by_region(fleet: Fleet) -> None:
    number = fleet.start()
    seen = []
    for _ in range(5):
        fleet.tick()
        seen.append(sorted(fleet.exposed("v1")))
        fleet.days()
    assert seen[:4] == [["west"], ["mid", "west"], ["east", "mid", "west"], ["east", "mid", "west"]]
    assert fleet.row(number)["state"] == "promoted"


def test_stages_open_in_the_order_of_the_regions_each_after_the_one_before_has_passed(fleet: Fleet) -> None:
    number = fleet.trial()
    fleet.gain = 0.05
    opened: list[list[str]] = []
    while fleet.row(number)["state"] == "running":
        fleet.days()
        if not opened or opened[-1] != fleet.answering():
            opened.append(fleet.answering())
    assert opened == [[], ["west"], ["west", "mid"], ["west", "mid", "east"], []]
    assert fleet.row(number)["state"] == "promoted"
    assert set(fleet.store.models.incumbents(MODEL).values()) == {"v2"}
    stages = fleet.store.rollouts.stages(number)
    for before, after in itertools.pairwise(stages):
        assert 0 < before["opened_s"] < before["passed_s"] <= after["opened_s"]
    for stage in stages:
        (passed,) = [
            v for v in fleet.store.rollouts.verdicts(number) if v["stage"] == stage["id"] and v["word"] == "PASS"
        ]
        devices = passed["inputs"]["devices"]
        assert devices["verified"] >= 0.95 * devices["online"] > 0


def test_the_candidate_of_a_shadow_answers_nobody(fleet: Fleet) -> None:
    fleet.trial(days=1)
    for channel in fleet.channels.values():
        (entry,) = channel.models
        assert entry.experiment is not None
        assert (entry.experiment.mode, entry.experiment.request_share_bp) == ("shadow", 0)
        assert entry.incumbent.version == "v1"


@pytest.mark.parametrize(("n_requests", "says"), [(60, "1 of 3 days"), (1, "of 100 outcomes"), (0, "0 of 3 days")])
def test_a_stage_without_enough_days_or_outcomes_holds(fleet: Fleet, n_requests: int, says: str) -> None:
    number = fleet.trial()
    fleet.gain, fleet.requests = 0.05, n_requests
    fleet.days(4 if n_requests == 1 else 3)
    shadow = fleet.stages(number)["*"]
    assert (shadow["verdict"], fleet.answering()) == ("HOLD", [])
    assert says in shadow["why"]


def test_without_any_outcome_nothing_is_ever_promoted_and_the_rollout_is_given_up(fleet: Fleet) -> None:
    number = fleet.trial()
    fleet.gain, fleet.requests = 0.5, 0
    fleet.days(45)
    row = fleet.row(number)
    assert (row["state"], row["outcome"]) == (
        "aborted", "no verdict after 40 days: shadow: 0 of 3 days; 0 of 100 outcomes"
    )  # fmt: skip
    assert fleet.answering() == []
    assert fleet.exposed("v2") == set()


def test_stages_that_pass_promote_nothing_before_the_evidence_of_the_whole_fleet_does(make_fleet: Make) -> None:
    fleet = make_fleet(min_devices=13)  # there are 12
    number = fleet.trial()
    fleet.gain = 0.05
    fleet.until(lambda: bool(fleet.stages(number)["east"]["passed_s"]))
    fleet.days(5)
    assert fleet.row(number)["state"] == "running"
    newest = fleet.store.rollouts.verdicts(number)[-1]
    assert newest["event_day"] == day_of(float(fleet.store.get_meta("event_s"))), "what is shown is not of days ago"
    assert [stage["verdict"] for stage in fleet.store.rollouts.stages(number)] == ["PASS"] * 4
    fleet.devices.append(fleet.join("mid", 99))
    fleet.until(lambda: fleet.row(number)["state"] == "promoted", most=5)


@pytest.mark.parametrize(
    ("passed", "opened", "waits", "said"),
    [
        (0, 1, "", "no verdict after 40 days: shadow: 1 of 3 days"),
        (1, 1, "", "no verdict after 40 days: nobody approved canary west"),
        (2, 2, "", "no verdict after 40 days: canary mid did not open"),
        (3, 3, "accuracy: not yet\nlatency: not yet", "no verdict after 40 days: accuracy: not yet; latency: not yet"),
        (3, 3, "", "no verdict after 40 days"),
    ],
)
def test_a_rollout_that_is_out_of_time_says_what_was_missing(passed: int, opened: int, waits: str, said: str) -> None:
    places = ("shadow", "*"), ("canary", "west"), ("canary", "mid")
    stages = [
        {"kind": kind, "region": region, "settings": {"approve": region == "west"}, "approved_s": 0.0,
         "opened_s": float(i < opened), "passed_s": float(i < passed), "why": "1 of 3 days"}
        for i, (kind, region) in enumerate(places)
    ]  # fmt: skip
    assert deadline.out_of_time(stages, waits, 40) == said


# ---- failing


@pytest.mark.parametrize("when", ["shadow", "first canary", "last canary"])
def test_a_candidate_that_proves_worse_is_taken_from_every_device_and_shown_to_no_other(
    fleet: Fleet, when: str
) -> None:
    number = fleet.trial()
    fleet.gain = 0.004 if when != "shadow" else 0.0
    stage = {"shadow": "*", "first canary": "west", "last canary": "east"}[when]
    fleet.until(lambda: bool(fleet.stages(number)[stage]["opened_s"]))
    assert fleet.row(number)["state"] == "running"
    before, fleet.gain = fleet.answering(), -1.0
    while fleet.row(number)["state"] == "running":
        assert fleet.answering() == before
        fleet.days()
    assert fleet.row(number)["state"] == "rolled_back"
    failed = [one["region"] for one in fleet.store.rollouts.stages(number) if one["verdict"] == "FAIL"]
    assert failed == [stage], "it failed there, and not in a stage that has passed"
    assert fleet.exposed("v2") == set()
    assert set(fleet.store.models.incumbents(MODEL).values()) == {"v1"}
    fleet.days(5)
    assert fleet.exposed("v2") == set()
    assert all(device.models[MODEL].candidate == "" for device in fleet.devices)


def test_failing_answers_roll_back_without_waiting_for_any_label(fleet: Fleet) -> None:
    number = fleet.trial()
    fleet.failed_ratio = 0.3
    fleet.days(2)
    assert fleet.row(number)["state"] == "rolled_back"
    assert "failed or slow answers" in fleet.row(number)["outcome"]


@pytest.mark.parametrize(("bad", "state"), [(2, "running"), (3, "rolled_back")])
def test_devices_that_refuse_fail_the_stage_at_a_share_of_those_that_tried(fleet: Fleet, bad: int, state: str) -> None:
    number = fleet.trial()
    for device in fleet.devices[:bad]:
        device.installs = "refuses"
    fleet.days(2)  # 12 devices: 2 are 17 %, 3 are 25 %, allowed are 20 %
    assert fleet.row(number)["state"] == state


@pytest.mark.parametrize(("minimum", "state"), [(4, "running"), (3, "rolled_back")])
def test_few_errors_are_no_share(make_fleet: Make, minimum: int, state: str) -> None:
    fleet = make_fleet(n=1, rollout=f"error_min_executed = {minimum}")
    number = fleet.trial()
    for device in fleet.devices:
        device.installs = "refuses"
    fleet.days(2)
    assert fleet.row(number)["state"] == state


def test_devices_that_hang_count_as_errors_once_their_time_is_over(fleet: Fleet) -> None:
    number = fleet.trial()
    for device in fleet.devices[:3]:
        device.installs = "hangs"
    fleet.days(2)
    assert fleet.row(number)["state"] == "running"
    fleet.days(2)
    assert fleet.row(number)["state"] == "rolled_back"
    assert "3 timed out of 12 that tried" in fleet.row(number)["outcome"]


# ---- devices that are slow, away, late, or stuck


def test_a_device_that_is_online_and_not_verified_holds_its_stage(fleet: Fleet) -> None:
    number = fleet.trial()
    fleet.gain, fleet.devices[0].installs = 0.05, "trial"
    fleet.days(6)
    assert "11 of 12 online devices verified" in fleet.stages(number)["*"]["why"]
    fleet.devices[0].installs = "ok"
    fleet.days(2)
    assert fleet.stages(number)["*"]["passed_s"]


def test_a_device_that_hangs_for_ever_ends_the_rollout_in_time(fleet: Fleet) -> None:
    number = fleet.trial()
    fleet.gain, fleet.devices[0].installs = 0.05, "hangs"
    fleet.days(45)
    assert fleet.row(number)["state"] == "aborted"
    assert fleet.start("v2") != number  # and it can be tried again


@pytest.mark.parametrize("which", [[0], [0, 4, 8], [0, 1]])
def test_devices_that_are_offline_hold_nothing_up(fleet: Fleet, which: list[int]) -> None:
    number = fleet.trial(days=1)
    fleet.gain = 0.05
    for i in which:
        fleet.devices[i].online = False
    fleet.until(lambda: fleet.row(number)["state"] == "promoted", most=30)


def test_a_region_that_is_offline_is_not_passed_over(fleet: Fleet) -> None:
    number = fleet.trial()
    fleet.gain = 0.05
    fleet.until(lambda: fleet.answering() == ["west"])
    for device in fleet.devices[:4]:
        device.online = False
    fleet.days(10)
    assert fleet.answering() == ["west"]
    assert fleet.stages(number)["west"]["why"] == (
        "no device of the stage is online; 0 of 2 days; 0 of 50 outcomes;"
        " of west 0 devices are online, 4 were when the rollout began"
    )
    for device in fleet.devices[:4]:
        device.online = True
    fleet.until(lambda: fleet.row(number)["state"] == "promoted", most=20)


def test_a_device_that_joins_late_closes_no_stage_and_runs_what_its_region_runs(fleet: Fleet) -> None:
    number = fleet.trial()
    fleet.gain = 0.05
    fleet.until(lambda: fleet.answering() == ["west", "mid"])
    late = fleet.join("west", 99)
    fleet.devices.append(late)
    fleet.days()
    assert late.models[MODEL].candidate == "v2"
    assert fleet.stages(number)["west"]["verdict"] == "PASS"
    fleet.until(lambda: fleet.row(number)["state"] == "promoted", most=20)


def test_a_device_whose_clock_stands_still_holds_the_fleet_back_for_a_while_only(fleet: Fleet) -> None:
    fleet.install()
    known = float(fleet.store.get_meta("event_s"))
    fleet.devices[0].clock_runs = False
    fleet.days(5)
    assert float(fleet.store.get_meta("event_s")) == known
    fleet.days(6)
    assert float(fleet.store.get_meta("event_s")) == fleet.now_s


def test_event_time_never_goes_back(fleet: Fleet) -> None:
    fleet.install()
    known = float(fleet.store.get_meta("event_s"))
    fleet.devices[0].clock_runs, fleet.devices[0].day = False, day_of(START_S) - 100
    fleet.days(1)
    assert float(fleet.store.get_meta("event_s")) >= known


def test_a_device_from_the_future_does_not_move_the_fleet_beyond_today(fleet: Fleet) -> None:
    fleet.install()
    number = fleet.start()
    for device in fleet.devices[1:]:
        device.online = False
    fleet.days(3)
    fleet.devices[0].clock_runs, fleet.devices[0].day = False, day_of(fleet.now_s) + 4000
    fleet.days(1)
    assert float(fleet.store.get_meta("event_s")) <= fleet.now_s + 300
    assert fleet.row(number)["state"] == "running"


def test_a_device_whose_clock_is_far_behind_does_not_stop_the_fleets(fleet: Fleet) -> None:
    """Its clock runs, a year late: a board without a battery."""
    fleet.install()
    slow = fleet.devices[0]
    slow.clock_runs = False
    for _ in range(15):
        slow.day = day_of(fleet.now_s) - 365
        fleet.days()
    assert float(fleet.store.get_meta("event_s")) == fleet.now_s


def test_another_models_rollout_is_no_reason_to_count_devices_as_timed_out(fleet: Fleet) -> None:
    fleet.install(OTHER)
    number = fleet.trial(days=2)
    fleet.days(4)
    assert fleet.row(number)["state"] == "running"
    fleet.start(model=OTHER)
    fleet.tick()
    for device in fleet.devices:
        device.installs = "trial"  # new generation, on probation
    fleet.days()
    assert fleet.row(number)["state"] == "running", fleet.row(number)["outcome"]


# ---- what judges a canary


def test_without_pairs_a_canary_is_judged_on_what_its_own_answers_did(make_fleet: Make) -> None:
    fleet = make_fleet(canary="keep_pairs = false", rollout="max_days = 80")
    number = fleet.trial()
    fleet.gain, fleet.served_gain = 0.05, -0.3  # the shadow looks well; answering does harm
    while fleet.row(number)["state"] == "running":
        fleet.days()
    assert fleet.row(number)["state"] == "rolled_back", fleet.row(number)["outcome"]


def test_without_pairs_a_good_candidate_is_promoted_on_what_its_own_answers_did(make_fleet: Make) -> None:
    fleet = make_fleet(canary="keep_pairs = false", rollout="max_days = 80")
    number = fleet.trial()
    fleet.gain = fleet.served_gain = 0.05
    fleet.until(lambda: fleet.row(number)["state"] == "promoted")
    decision = fleet.store.rollouts.verdicts(number)[-1]["inputs"]
    assert decision["decide"]["pairs"] is None
    assert sum(stratum["candidate"]["n"] for stratum in decision["decide"]["strata"]) > 100


# ---- orders


def _bring(fleet: Fleet, state: str) -> int:
    """Bring a rollout into a state."""
    number = fleet.trial()
    if state == "promoted":
        fleet.gain = 0.05
    if state == "rolled_back":
        fleet.gain = -1.0
    if state in ("promoted", "rolled_back"):
        fleet.until(lambda: fleet.row(number)["state"] == state)
    if state == "paused":
        assert fleet.order(number, "pause") == "done"
    if state == "aborted":
        assert fleet.order(number, "abort") == "done"
    if state == "undone":
        fleet.gain = 0.05
        fleet.until(lambda: fleet.row(number)["state"] == "promoted")
        assert fleet.order(number, "undo") == "done"
    return number


ENDED = ("promoted", "rolled_back", "aborted", "undone")
DONE: dict[tuple[str, str], tuple[str, str, bool]] = {
    ("running", "pause"): ("done", "running", True),
    ("running", "resume"): ("done", "running", False),
    ("running", "abort"): ("done", "aborted", False),
    ("running", "undo"): ("done", "aborted", False),
    ("paused", "pause"): ("done", "running", True),
    ("paused", "resume"): ("done", "running", False),
    ("paused", "abort"): ("done", "aborted", True),
    ("paused", "undo"): ("done", "aborted", True),
    ("promoted", "undo"): ("done", "undone", False),
}


@pytest.mark.parametrize("action", ["pause", "resume", "abort", "undo"])
@pytest.mark.parametrize("state", ["running", "paused", *ENDED])
def test_orders_do_what_they_say_in_every_state(fleet: Fleet, state: str, action: str) -> None:
    number = _bring(fleet, state)
    wanted = DONE.get((state, action), (f"not done: it is {state}", state, False))
    result = fleet.order(number, action)
    row = fleet.row(number)
    assert (result, row["state"], bool(row["paused"])) == wanted
    (entry,) = fleet.store.audit.all(1, f"rollout {action}")
    assert (entry["actor"], entry["reason"]) == ("ada", "a test")
    if row["state"] in ("aborted", "undone", "rolled_back"):
        assert fleet.exposed("v2") == set()


def test_a_paused_rollout_opens_nothing_and_goes_on_when_resumed(fleet: Fleet) -> None:
    number = fleet.trial()
    fleet.gain = 0.05
    fleet.order(number, "pause")
    fleet.days(8)
    assert fleet.stages(number)["*"]["verdict"] == "PASS"
    assert fleet.answering() == []
    fleet.order(number, "resume")
    assert fleet.answering() == ["west"]


def test_a_paused_rollout_still_rolls_a_bad_candidate_back(fleet: Fleet) -> None:
    number = fleet.trial()
    fleet.order(number, "pause")
    fleet.gain = -1.0
    fleet.until(lambda: fleet.row(number)["state"] == "rolled_back", most=20)


def test_an_undo_is_one_order_and_one_publishing_for_all_regions(fleet: Fleet) -> None:
    number = _bring(fleet, "promoted")
    fleet.publishings.clear()
    assert fleet.order(number, "undo") == "done"
    assert fleet.publishings == [sorted(f"channels/{region}.json" for region in ORDER)]
    assert fleet.exposed("v2") == set()
    assert fleet.exposed("v1") == set(ORDER)
    fleet.days()
    assert {device.models[MODEL].incumbent for device in fleet.devices} == {"v1"}


def test_an_undo_is_refused_after_its_window_and_once_a_later_version_answers(fleet: Fleet) -> None:
    number = _bring(fleet, "promoted")
    fleet.days(31)
    assert fleet.order(number, "undo") == "not done: the undo window of 30 days has passed"
    later = fleet.start()
    assert "the undo window" in fleet.order(number, "undo") or "another rollout" in fleet.order(number, "undo")
    fleet.until(lambda: fleet.row(later)["state"] == "promoted")
    assert fleet.order(number, "undo").startswith("not done")
    assert fleet.order(later, "undo") == "done"
    assert fleet.exposed("v2") == set(ORDER)


def test_undoing_the_first_version_is_refused_and_aborting_it_leaves_nothing(fleet: Fleet) -> None:
    number = fleet.start()
    fleet.tick()
    assert fleet.exposed("v1") == {"west"}
    assert fleet.order(number, "abort") == "done"
    assert fleet.exposed("v1") == set()
    fleet.install()
    assert fleet.order(2, "undo") == "not done: there was no version before"


def test_a_rollout_whose_model_has_left_the_settings_stands_still_and_stops_no_other(fleet: Fleet) -> None:
    number = fleet.trial()
    fleet.gain = 0.05
    kept = fleet.project.settings.models.pop(MODEL)
    fleet.days(9)
    assert (fleet.row(number)["state"], fleet.answering()) == ("running", [])
    fleet.project.settings.models[MODEL] = kept
    fleet.days(3)
    assert fleet.answering() != []
