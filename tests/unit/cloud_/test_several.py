"""Several candidates at once on a simulated fleet: who is dropped, who goes on, and who is promoted."""

from __future__ import annotations

import math
import typing

import msgspec
import pytest

from cloud.config import CanarySettings, RolloutSettings
from cloud.rollout import choice, look, plan
from cloud.rollout.guardrails import decide_all, guardrails_of
from cloud.rollout.verdict import Evidence, Verdict
from shared.channel import MAX_CANDIDATES
from shared.errors import ConflictError, CoveyError, PlanError, UsageError
from tests.unit.cloud_.simulated import MODEL, ORDER, Fleet

Make = typing.Callable[..., Fleet]
SETTINGS = RolloutSettings(canary=CanarySettings(request_share=0.25))


@pytest.fixture
def fleet(make_fleet: Make) -> Fleet:
    return make_fleet(n=2, canary="request_share = 0.2", rollout="max_days = 40")


def arms(fleet: Fleet, region: str = "west") -> dict[int, str]:
    """Arm to version, as a region's devices are told."""
    (entry,) = fleet.channels[region].models
    return {arm: ref.version for arm, ref in entry.arms.items()}


# ---- dropped


def test_a_bad_candidate_is_dropped_and_the_others_keep_their_arms_and_go_on(fleet: Fleet) -> None:
    number = fleet.trial(also=2)
    fleet.gains = {"v2": 0.02, "v3": -1.0, "v4": 0.05}
    assert arms(fleet) == {1: "v2", 2: "v3", 3: "v4"}
    fleet.until(lambda: fleet.candidates(number)["v3"] == "dropped")
    assert fleet.row(number)["state"] == "running"
    assert arms(fleet) == {1: "v2", 3: "v4"}
    assert fleet.exposed("v3") == set()
    (entry,) = fleet.store.audit.all(action="candidate dropped")
    assert entry["subject"] == "late@v3"
    assert "log_loss: roll back" in entry["reason"]
    assert entry["reason"] in {candidate["why"] for candidate in fleet.row(number)["candidates"]}
    fleet.until(lambda: fleet.row(number)["state"] == "promoted")
    assert fleet.candidates(number) == {"v2": "dropped", "v3": "dropped", "v4": "promoted"}


def test_the_last_one_to_fail_rolls_the_rollout_back(fleet: Fleet) -> None:
    number = fleet.trial(also=1)
    fleet.gains = {"v2": -1.0, "v3": 0.004}
    fleet.until(lambda: fleet.answering() == ["west"])
    assert fleet.candidates(number) == {"v2": "dropped", "v3": "running"}
    assert arms(fleet) == {2: "v3"}
    fleet.gains["v3"] = -1.0
    fleet.until(lambda: fleet.row(number)["state"] == "rolled_back")
    assert set(fleet.candidates(number).values()) == {"dropped"}
    assert fleet.exposed("v2") | fleet.exposed("v3") == set()
    assert set(fleet.store.models.incumbents(MODEL).values()) == {"v1"}
    assert [row["subject"] for row in fleet.store.audit.all(action="rolled back")] == ["late@v2, v3"]


def test_all_that_fail_at_the_same_look_roll_it_back_at_once(fleet: Fleet) -> None:
    number = fleet.trial(also=1)
    fleet.gain = -1.0
    fleet.until(lambda: fleet.row(number)["state"] == "rolled_back")
    why = fleet.row(number)["outcome"]
    assert "v2: log_loss: roll back" in why
    assert "v3: log_loss: roll back" in why
    assert {verdict["arm"] for verdict in fleet.store.rollouts.verdicts(number) if verdict["word"] == "FAIL"} == {1, 2}


def test_failing_answers_drop_the_candidate_that_gives_them_alone(fleet: Fleet) -> None:
    number = fleet.trial(also=1)
    fleet.gain, fleet.failing = 0.05, {"v2": 0.5}
    fleet.days(3)
    assert fleet.candidates(number) == {"v2": "dropped", "v3": "running"}


def test_devices_that_refuse_one_candidate_count_against_that_one_alone(fleet: Fleet) -> None:
    number = fleet.trial(also=1)
    fleet.gain = 0.05
    for device in fleet.devices[:4]:
        device.refuses = "v2"
    fleet.days(2)
    dropped = fleet.row(number)["candidates"][0]
    assert (dropped["version"], dropped["state"]) == ("v2", "dropped")
    assert "4 devices failed" in dropped["why"]
    fleet.until(lambda: fleet.row(number)["state"] == "promoted")
    assert fleet.candidates(number)["v3"] == "promoted"


def test_a_step_waits_for_every_candidate_and_its_deadline_drops_those_that_hold_it_up(make_fleet: Make) -> None:
    fleet = make_fleet(canary="request_share = 0.2\nhold_days = 5", rollout="max_days = 60")
    number = fleet.trial(also=1)
    fleet.gains = {"v2": 0.05, "v3": 0.0}
    fleet.until(lambda: fleet.answering() == ["west"])
    fleet.gains["v3"] = -0.03  # over the whole rollout worse by half the margin, and not proven to be bad
    fleet.until(lambda: fleet.candidates(number)["v3"] == "dropped")
    why = fleet.row(number)["candidates"][1]["why"]
    assert "has not passed after 5 days: log_loss looks" in why, why
    fleet.until(lambda: fleet.row(number)["state"] == "promoted")


@pytest.mark.parametrize("most", [30, 16])
def test_without_a_deadline_a_candidate_that_is_never_sure_takes_no_proven_one_with_it(
    make_fleet: Make, most: int
) -> None:
    fleet = make_fleet(canary="request_share = 0.2", rollout=f"max_days = {most}")
    number = fleet.trial(also=1)
    fleet.gains = {"v2": 0.05, "v3": 0.0}
    fleet.until(lambda: fleet.answering() == ["west", "mid", "east"])
    fleet.gains["v3"] = -0.06  # over the whole rollout worse by half the margin, and not proven to be bad
    fleet.until(lambda: fleet.candidates(number)["v3"] == "dropped")
    why = fleet.row(number)["candidates"][1]["why"]
    assert "canary east has been passed by another since" in why, why
    fleet.until(lambda: fleet.row(number)["state"] != "running")
    assert (fleet.row(number)["state"], fleet.row(number)["to_version"]) == ("promoted", "v2")


def test_of_each_candidate_one_verdict_a_day_is_kept_while_another_is_waited_for(fleet: Fleet) -> None:
    number = fleet.trial(also=1)
    fleet.gains = {"v2": 0.05, "v3": 0.0}
    fleet.until(lambda: fleet.answering() == ["west"])
    fleet.gains["v3"] = -0.03
    fleet.until(lambda: any(v["word"] == "PASS" and v["stage"] > 4 for v in fleet.store.rollouts.verdicts(number)))
    before = len(fleet.store.rollouts.verdicts(number))
    fleet.tick()
    assert len(fleet.store.rollouts.verdicts(number)) == before


# ---- promoted


def test_of_two_that_are_proven_the_one_that_gains_more_is_promoted_and_can_be_undone(fleet: Fleet) -> None:
    number = fleet.trial(also=1)
    fleet.gains = {"v2": 0.03, "v3": 0.08}
    fleet.until(lambda: fleet.row(number)["state"] == "promoted")
    row = fleet.row(number)
    assert row["to_version"] == "v3"
    assert set(fleet.store.models.incumbents(MODEL).values()) == {"v3"}
    assert fleet.candidates(number) == {"v2": "dropped", "v3": "promoted"}
    assert row["candidates"][0]["why"].startswith("v3 was better: +0.0")
    assert [e["subject"] for e in fleet.store.audit.all(action="promoted")] == ["late@v3", "late@v1"]
    assert [e["subject"] for e in fleet.store.audit.all(action="candidate not chosen")] == ["late@v2"]
    assert fleet.store.audit.all(action="candidate dropped") == []
    fleet.days(1)
    assert fleet.order(number, "undo") == "done"
    assert fleet.exposed("v3") == set()
    assert set(fleet.store.models.incumbents(MODEL).values()) == {"v1"}


def said(gain: float, *, promote: bool, word: str = "PASS", why: str = "r") -> Verdict:
    inputs = {"decision": {"numbers": {"difference": gain}}}
    return Verdict(word=typing.cast("typing.Any", word), reasons=("all verified", why), promote=promote, inputs=inputs)


@pytest.mark.parametrize(
    ("verdicts", "today", "last_day"),
    [
        ({1: said(0.1, promote=True), 2: said(0.2, promote=True)}, 2, 2),
        ({1: said(0.1, promote=True), 2: said(0.2, promote=False)}, None, 1),
        ({1: said(0.2, promote=True), 2: said(0.2, promote=True)}, 1, 1),
        ({1: said(0.1, promote=False), 3: said(0.2, promote=False)}, None, None),
        ({3: said(-0.01, promote=True)}, 3, 3),
    ],
)
def test_the_leader_is_promoted_once_proven_and_on_the_last_day_whoever_is(
    verdicts: dict[int, Verdict], today: int | None, last_day: int | None
) -> None:
    assert choice.best(verdicts) == today
    assert choice.best(verdicts, is_last_day=True) == last_day


def test_a_stage_passes_when_all_do_and_names_whom_it_waits_for() -> None:
    verdicts = {1: said(0.1, promote=True), 2: said(0.0, promote=False, word="HOLD", why="1 of 3 days")}
    waits = "v2: all verified; r; v3: all verified; 1 of 3 days"
    assert choice.settle(verdicts, {1: "v2", 2: "v3"}) == ("HOLD", waits)
    assert choice.held(verdicts) == [2]
    assert choice.held({2: verdicts[2]}) == []
    alike = {1: verdicts[1], 2: verdicts[1]}
    assert choice.settle(alike, {1: "v2", 2: "v3"}) == ("PASS", "all verified; r")


def test_all_chances_of_error_are_shared_by_as_many_as_began_also_once_some_have_dropped_out(fleet: Fleet) -> None:
    number = fleet.trial(also=2)
    fleet.gains = {"v2": 0.02, "v3": -1.0, "v4": 0.05}
    fleet.until(lambda: fleet.answering() == ["west"])
    fleet.days(1)
    rolls, newest = fleet.row(number)["plan"], {v["arm"]: v["inputs"] for v in fleet.store.rollouts.verdicts(number)}
    for inputs in newest.values():
        guards = inputs["guardrails"].values()
        for one in (inputs, *guards):
            assert one["decide"]["n_candidates"] == 3
            share = 1 if one is inputs else len(guards)
            numbers = one["decision"]["numbers"]
            assert numbers["log_e_worse_needed"] == pytest.approx(math.log(3 * share / rolls["alpha"]))
            needed = numbers["log_e_not_worse_by_margin_needed"]
            assert needed == pytest.approx(math.log(3 / rolls["alpha_promote"]))
    assert "needed 180" in fleet.row(number)["candidates"][1]["why"]  # in a region: of 3, in 3 regions, at 5 %


def failing_days(ratio_before: float, ratio_after: float) -> Evidence:
    """Answers of two equal arms; on day 5 a third is dropped, whose share is the incumbent's from then on."""
    rows = [
        {
            "epoch": 7, "arm": arm, "device": f"d{i}", "region": "west", "day": day, "requests": n,
            "failed": round(n * (ratio_before if day <= 5 else ratio_after)), "timed_out": 0, "fallback": 0,
        }
        for day in range(10)
        for arm, n in ((0, 100 if day <= 5 else 900), (2, 100))
        for i in range(20)
    ]  # fmt: skip
    return Evidence([], [], [], [], rows)


def test_days_before_and_after_a_drop_are_compared_apart() -> None:
    settings = RolloutSettings(latency_margin=0.0)
    calm_later = failing_days(0.2, 0.01)

    def word(days: typing.Collection[int]) -> str:
        asked = guardrails_of(look.of_arm(calm_later, 2, days).faults, [], settings)
        return decide_all(asked)["failed or slow answers"].word

    assert word([5]) != "rollback"
    assert word([]) == "rollback", "added up, the candidate has more of the bad days"


# ---- orders


def test_abort_takes_every_candidate_back(fleet: Fleet) -> None:
    number = fleet.trial(also=2, days=1)
    assert fleet.order(number, "abort") == "done"
    assert arms(fleet) == {}
    assert set(fleet.candidates(number).values()) == {"dropped"}


def test_a_rollout_of_several_is_superseded_by_others_and_not_by_itself(fleet: Fleet) -> None:
    number = fleet.trial(also=1, days=1)
    again: dict[str, typing.Any] = {"model": MODEL, "why": "a test", "actor": "ada", "event_day": 0, "supersede": True}
    settings = fleet.project.settings.rollout
    with pytest.raises(ConflictError, match="v2, v3 is being rolled out already"):
        plan.start(fleet.store, settings, ORDER, version="v2", also=["v3"], **again)
    plan.start(fleet.store, settings, ORDER, version="v3", **again)
    assert fleet.row(number)["outcome"] == "superseded by v3"
    fleet.tick()
    assert arms(fleet) == {1: "v3"}


# ---- who may be tried


@pytest.mark.parametrize(
    ("versions", "error", "says"),
    [
        (["v2", "v2"], UsageError, "named twice"),
        (["v2", "v1"], ConflictError, "is the incumbent"),
        (["v2", "v4"], ConflictError, "not signed"),
        (["v2", "v5"], ConflictError, "is training"),
        (["v2", "v9"], CoveyError, "no version"),
    ],
)
def test_each_candidate_must_be_ready_signed_and_another(
    fleet: Fleet, versions: list[str], error: type[CoveyError], says: str
) -> None:
    fleet.install()
    for _ in range(2):
        fleet.version()
    models = fleet.store.models
    for _ in range(2):
        made = models.allocate(MODEL, parent="", why="", data_version="d", features="f", stateful=False)
    models.finish(MODEL, "v4", "ready", {})
    assert str(made) == "v5"
    with pytest.raises(error, match=says):
        plan.start(
            fleet.store, fleet.project.settings.rollout, ORDER, model=MODEL, version=versions[0], also=versions[1:],
            why="a test", actor="ada", event_day=0,
        )  # fmt: skip
    assert fleet.store.rollouts.running(MODEL) is None


PAIRED = CanarySettings(request_share=0.25, keep_pairs=True)


@pytest.mark.parametrize(
    ("n", "canary", "guardrails", "fix"),
    [
        (3, {}, "prove", ""),
        (4, {}, "prove", "0.2 or less"),  # the incumbent would answer nothing: no latency of its own
        (4, {}, "watch", ""),
        (4, {"keep_pairs": False}, "watch", "0.2 or less"),
        (5, {}, "watch", "0.16 or less"),
        (4, {"mode": "interleave"}, "prove", ""),
        (5, {"mode": "interleave"}, "prove", "0.16 or less"),
    ],
)
def test_a_plan_has_room_for_its_candidates_or_says_what_to_set(
    n: int, canary: dict[str, typing.Any], guardrails: str, fix: str
) -> None:
    settings = RolloutSettings(
        canary=msgspec.structs.replace(PAIRED, **canary), guardrails=typing.cast("typing.Any", guardrails)
    )
    if not fix:
        assert plan.stages_of(ORDER, is_first=False, settings=settings, n_candidates=n)
        return
    with pytest.raises(PlanError) as raised:
        plan.stages_of(ORDER, is_first=False, settings=settings, n_candidates=n)
    assert raised.value.field == "rollout.canary.request_share"
    assert fix in str(raised.value.fix)


@pytest.mark.parametrize(
    ("change", "first", "n", "says"),
    [
        ({"expedited": True}, False, 2, "can not say which of several is the best"),
        ({}, True, 2, "nothing runs yet"),
        ({}, False, MAX_CANDIDATES + 1, f"at most {MAX_CANDIDATES}"),
    ],
)
def test_several_at_once_are_refused_where_they_make_no_sense(
    change: dict[str, typing.Any], first: bool, n: int, says: str
) -> None:
    with pytest.raises(UsageError, match=says):
        plan.stages_of(ORDER, is_first=first, settings=msgspec.structs.replace(SETTINGS, **change), n_candidates=n)


def test_a_model_of_several_classes_has_no_lists_to_interleave() -> None:
    settings = msgspec.structs.replace(SETTINGS, canary=CanarySettings(mode="interleave"))
    assert plan.stages_of(ORDER, is_first=False, settings=settings, task="regression")
    with pytest.raises(PlanError, match="ranks nothing"):
        plan.stages_of(ORDER, is_first=False, settings=settings, task="multiclass")
