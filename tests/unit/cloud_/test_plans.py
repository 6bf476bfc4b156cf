"""Plans with steps: what is refused when they are made, what they open and when, and what is forecast of them."""

from __future__ import annotations

import math
import pathlib
import typing

import msgspec
import pytest

from cloud.cli.draw import rollout_lines
from cloud.config import CanarySettings, RegionPlan, RolloutSettings, ShadowSettings, load_project
from cloud.config.rollout import RolloutStep
from cloud.rollout import lint, overview, plan
from cloud.rollout.plan_file import read_plan, traffic_of
from cloud.store.store import Store
from shared.errors import PlanError
from tests.unit.cloud_.simulated import MODEL, ORDER, Fleet

Make = typing.Callable[..., Fleet]
STEPS = """
max_days = 90
{more}
"""
QUARTER = "[[rollout.canary.step]]\ndevice_share = 0.25\n{step}\n[[rollout.canary.step]]\ndevice_share = 1.0\n"


def settings(**more: typing.Any) -> RolloutSettings:
    return RolloutSettings(**more)


def steps(*shares: float, **more: typing.Any) -> CanarySettings:
    return CanarySettings(step=tuple(RolloutStep(device_share=share) for share in shares), **more)


# ---- what a plan is


def test_what_a_region_says_goes_before_the_step_and_that_before_the_canary() -> None:
    made = settings(
        canary=CanarySettings(
            min_days=3,
            min_outcomes=300,
            step=(RolloutStep(device_share=0.1, min_days=1, approve=True), RolloutStep(device_share=1.0)),
        ),
        region={"b": RegionPlan(min_days=9, request_share=0.2)},
    )
    a, b = plan.steps_of(made, "a"), plan.steps_of(made, "b")
    assert [(s.device_share, s.min_days, s.min_outcomes, s.request_share, s.approve) for s in a] == [
        (0.1, 1, 300, 0.5, True),
        (1.0, 3, 300, 0.5, False),
    ]
    assert [(s.min_days, s.request_share) for s in b] == [(9, 0.2), (9, 0.2)]


def test_stages_are_named_by_region_and_share_and_follow_the_plans_own_order() -> None:
    made = settings(canary=steps(0.25, 1.0), order=("b", "a"))
    found = plan.stages_of(["a", "b"], is_first=False, settings=made)
    assert [plan.stage_name(one._asdict()) for one in found] == [
        "shadow", "canary b 25%", "canary b", "canary a 25%", "canary a",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("made", "field", "says"),
    [
        (settings(canary=steps(0.5, 0.25, 1.0)), "rollout.canary.step", "Each step takes more"),
        (settings(canary=steps(0.1, 0.5)), "rollout.canary.step", "never have seen the candidate"),
        (settings(order=("a",)), "rollout.order", "Name each region once"),
        (settings(order=("a", "b", "b")), "rollout.order", "Name each region once"),
        (settings(region={"c": RegionPlan()}), "rollout.region", "Known are: a, b"),
        (settings(canary=CanarySettings(min_days=3, hold_days=3)), "hold_days", "can not pass within its deadline"),
        (settings(region={"a": RegionPlan(hold_days=2)}), "hold_days", "can not pass within its deadline"),
        (settings(max_days=10), "rollout.max_days", "before its stages can pass"),
        (settings(canary=steps(0.1, 0.2, 1.0, min_days=20)), "rollout.max_days", "Set it above 67"),
    ],
)
def test_a_plan_that_can_not_work_is_refused_when_it_is_made(made: RolloutSettings, field: str, says: str) -> None:
    for first in (False, True):
        with pytest.raises(PlanError, match=says) as refused:
            plan.stages_of(["a", "b"], is_first=first, settings=made)
        assert field in refused.value.field


# ---- plan files


def test_a_file_is_laid_over_the_projects_own_plan(make_fleet: Make, tmp_path: pathlib.Path) -> None:
    project = make_fleet().project
    path = tmp_path / "careful.toml"
    path.write_text("alpha = 0.01\n[canary]\nmin_days = 4\n[region.west]\napprove = true\n")
    made = read_plan(project, path)
    assert (made.alpha, made.canary.min_days, made.canary.min_outcomes) == (0.01, 4, 50)
    assert (made.max_days, made.region["west"].approve) == (40, True)
    assert read_plan(project, None) == project.settings.rollout


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("alhpa = 0.01", "alpha"),
        ("[canary]\nmin_days = -1", "min_days"),
        ("[[canary.step]]\nmin_days = 1", "device_share"),
        ("[[canary.step]]\ndevice_share = 0.0", "device_share"),
        ("[[canary.step]]\ndevice_share = 0.5\ndevices = 5", "leave one of them out"),
        ("[[canary.step]]\ndevices = 0", "devices"),
        ("[[canary.step]]\ndevices = 1_000_000_001", "devices"),
        ("[[canary.step]]\ndevices = 1.5", "devices"),
        ("[[canary.step]]\nwhere = {}", "say device_share, devices or where"),
        ("[[canary.step]]\nwhere = { store = [] }", r"where\.store: an empty list means nobody"),
        ("[[canary.step]]\nwhere = { store = 'a' }", "where"),
        ("[[canary.step]]\nwhere = { store = [1] }", "where"),
        ("[[canary.step]]\nwhere = { Store = ['a'] }", "'Store' is not the name of a label"),
        ("[[canary.step]]\nwhere = { store = ['a b'] }", "'a b' is not a label's value"),
        ("[region.west]\nwhere = { store = [] }", r"where\.store: an empty list"),
        ("canary = 3", "canary"),
        ("[rollout.canary]\nmin_days = 1", r"the keys of a plan stand without \[rollout\]. Such as \[canary\]"),
        ("x = [", "not valid TOML"),
    ],
)
def test_a_file_that_makes_no_sense_is_refused_by_name_and_line(
    make_fleet: Make, tmp_path: pathlib.Path, text: str, says: str
) -> None:
    path = tmp_path / "careful.toml"
    path.write_text(text)
    with pytest.raises(Exception, match=says) as refused:
        read_plan(make_fleet().project, path)
    assert "careful.toml" in str(refused.value)


def test_a_file_that_is_not_there_is_named(make_fleet: Make, tmp_path: pathlib.Path) -> None:
    with pytest.raises(PlanError, match=r"none\.toml: can not be read"):
        read_plan(make_fleet().project, tmp_path / "none.toml")


# ---- on a fleet


def test_a_region_opens_in_steps_and_a_step_has_the_devices_of_the_one_before(make_fleet: Make) -> None:
    fleet = make_fleet(n=40, rollout="max_days = 90", canary=QUARTER.format(step=""))
    number = fleet.trial()
    fleet.gain = 0.05
    seen: list[tuple[str, int]] = []
    took_part: dict[str, set[str]] = {}
    while fleet.row(number)["state"] == "running":
        fleet.days()
        for stage in fleet.store.rollouts.stages(number):
            name = plan.stage_name(stage)
            if stage["opened_s"] and stage["kind"] == "canary" and name not in took_part:
                fleet.days()
                took_part[name] = {
                    device.name
                    for device in fleet.devices
                    if device.models[MODEL].epoch == stage["id"] and device.models[MODEL].candidate
                }
                seen.append((name, len(took_part[name])))
    assert fleet.row(number)["state"] == "promoted"
    assert [name for name, _ in seen] == [f"canary {region}{share}" for region in ORDER for share in (" 25%", "")]
    for region in ORDER:
        some, every = took_part[f"canary {region} 25%"], took_part[f"canary {region}"]
        assert 0 < len(some) < len(every) == 40
        assert some < every


def test_a_step_that_wants_somebodys_word_waits_for_it(make_fleet: Make) -> None:
    fleet = make_fleet(rollout="max_days = 90\n[rollout.region.west]\napprove = true")
    number = fleet.trial()
    fleet.gain = 0.05
    fleet.days(15)
    stages = fleet.store.rollouts.stages(number)
    assert [bool(stage["opened_s"]) for stage in stages] == [True, False, False, False]
    assert fleet.order(number, "approve") == "done"
    assert fleet.order(number, "approve") == "not done: no stage waits for approval"
    fleet.until(lambda: fleet.row(number)["state"] == "promoted")
    assert [row["actor"] for row in fleet.store.audit.all(99) if row["action"] == "rollout approve"] == ["ada", "ada"]


def test_two_people_who_approve_the_same_step_at_once_open_no_other(make_fleet: Make) -> None:
    asks = "".join(f"\n[rollout.region.{region}]\napprove = true" for region in ("west", "mid"))
    fleet = make_fleet(rollout=f"max_days = 90{asks}")
    number = fleet.trial()
    fleet.gain = 0.05
    assert fleet.order(number, "approve") == "not done: no stage waits for approval", "the shadow has not passed"
    fleet.until(lambda: bool(fleet.stages(number)["*"]["passed_s"]))
    orders = [
        fleet.store.rollouts.order(number, "approve", actor=actor, reason="they look fine") for actor in ("ada", "bob")
    ]
    fleet.tick()
    said = [fleet.store.rollouts.get_order(order)["result"] for order in orders]
    assert said == ["done", "not done: canary west is approved already"]
    assert fleet.order(number, "approve") == "not done: no stage waits for approval", "a third one was late"
    fleet.days(12)
    assert fleet.stages(number)["west"]["passed_s"]
    assert not fleet.stages(number)["mid"]["opened_s"]
    assert "  canary mid waits for somebody's word: covey rollout approve 2" in rollout_lines(
        overview.rollout(fleet.project, fleet.store, number)
    )


@pytest.mark.parametrize(("policy", "state", "paused"), [("pause", "running", True), ("abort", "aborted", False)])
def test_a_step_that_does_not_pass_in_time_does_what_the_plan_says(
    make_fleet: Make, policy: str, state: str, paused: bool
) -> None:
    fleet = make_fleet(canary=f'hold_days = 5\nat_deadline = "{policy}"')
    number = fleet.trial()
    fleet.gain = 0.05
    fleet.until(lambda: bool(fleet.stages(number)["west"]["opened_s"]))
    fleet.gain = -0.015  # looks worse by more than half the margin, and is not proven so
    fleet.requests = 2
    fleet.days(9)
    row = fleet.row(number)
    assert (row["state"], bool(row["paused"])) == (state, paused), fleet.said[-3:]
    assert any("has not passed after 5 days" in said for said in fleet.said)
    if paused:
        assert fleet.order(number, "resume") == "done"
        fleet.days(2)
        assert not fleet.row(number)["paused"]


def test_a_rollout_of_before_there_were_steps_goes_on(make_fleet: Make) -> None:
    fleet = make_fleet()
    number = fleet.trial()
    fleet.store.db.connection.execute("update stages set settings = '{}' where rollout = ?", (number,))
    fleet.gain = 0.05
    fleet.until(lambda: fleet.row(number)["state"] == "promoted")


# ---- what would be


TRAFFIC = lint.Traffic({"a": 40, "b": 10}, outcomes_per_day=10.0, deviation=0.4, label_window_days=1.0)


def forecast(made: RolloutSettings, traffic: lint.Traffic = TRAFFIC) -> list[lint.Forecast]:
    stages = plan.stages_of(["a", "b"], is_first=False, settings=made)
    return lint.forecast(stages, [plan.stage_name(one._asdict()) for one in stages], made, traffic)


def test_a_forecast_says_how_long_each_stage_takes_and_how_many_it_exposes() -> None:
    made = settings(shadow=ShadowSettings(min_days=2, min_outcomes=1600), canary=steps(0.25, 1.0, min_days=1))
    assert [(one.name, one.days, one.devices, one.exposed, one.sees) for one in forecast(made)] == [
        ("shadow", 1600 / 500 + 1, 50, 0, "outcomes"),
        ("canary a 25%", 3.0 + 1, 10, 10, "outcomes"),
        ("canary a", 1.0 + 1, 40, 40, "days"),
        ("canary b 25%", 10.0 + 1, 3, 43, "outcomes"),
        ("canary b", 3.0 + 1, 10, 50, "outcomes"),
    ]


def test_a_step_that_no_device_is_for_takes_no_time_unless_somebody_has_to_approve_it() -> None:
    for approve, waits_for in ((False, "nothing"), (True, "approval")):
        some = RolloutStep(where={"store": ("flagship",)}, approve=approve)
        found = forecast(settings(canary=CanarySettings(step=(some, RolloutStep(device_share=1.0)))))
        assert [(one.days, one.sees) for one in found if not one.devices] == [(0.0, waits_for)] * 2


@pytest.mark.parametrize("how", [{"keep_pairs": False}, {"mode": "interleave"}])
def test_without_pairs_only_the_candidates_own_share_of_requests_counts(how: dict[str, typing.Any]) -> None:
    made = settings(canary=CanarySettings(request_share=0.1, min_days=1, **how))
    assert forecast(made)[1].days == pytest.approx(300 / (40 * 10 * 0.1) + 1)


def test_where_devices_are_the_arms_all_their_requests_count() -> None:
    canary = CanarySettings(unit="device", device_share=0.5, request_share=0.1, keep_pairs=False, min_days=1)
    assert forecast(settings(canary=canary))[1].days == pytest.approx(300 / (20 * 10) + 1)


@pytest.mark.parametrize(
    ("made", "traffic", "says"),
    [
        (
            settings(),
            TRAFFIC._replace(devices={"a": 40, "b": 0}),
            "canary b: no device takes part, so it passes at once",
        ),
        (settings(), TRAFFIC._replace(devices={}), "shadow: no device takes part"),
        (settings(), TRAFFIC._replace(devices={"a": 4, "b": 4}), "asks for 20 devices, and there are 8"),
        (settings(), TRAFFIC._replace(outcomes_per_day=0.01), "until its outcomes are in"),
        (settings(error_min_executed=99), TRAFFIC, "the limit of errors asks for 99 devices, and there are 50"),
        (settings(max_days=11), TRAFFIC, "all stages together take"),
        (
            settings(canary=CanarySettings(unit="device", device_share=0.5)),
            TRAFFIC,
            "canary b 50%: 5 devices answer with the candidate; of fewer than 20",
        ),
    ],
)
def test_limits_that_can_not_be_reached_are_told(made: RolloutSettings, traffic: lint.Traffic, says: str) -> None:
    odd = lint.faults_of(forecast(made, traffic), made, traffic, harm=0.04, margin=0.02)
    assert any(says in one for one in odd), odd
    assert lint.faults_of(forecast(settings()), settings(), TRAFFIC, harm=0.04, margin=0.02) == []


def test_a_harm_below_the_margin_is_never_acted_upon_and_a_larger_one_sooner() -> None:
    n = [lint.outcomes_until_rollback(harm, margin=0.02, deviation=0.4, alpha=0.05) for harm in (0.001, 0.04, 0.08)]
    assert math.isinf(n[0])
    assert n[1] > 2 * n[2]


def test_what_is_known_of_the_fleet_is_used_and_what_is_not_is_said(make_fleet: Make) -> None:
    fleet = make_fleet()
    _, model = fleet.project.model(MODEL)
    traffic, assumed = traffic_of(fleet.project, fleet.store, MODEL, model, outcomes_per_day=None, deviation=None)
    assert (traffic.devices, traffic.outcomes_per_day, len(assumed)) == (dict.fromkeys(ORDER, 4), 20.0, 2)
    fleet.trial(days=4)
    traffic, assumed = traffic_of(fleet.project, fleet.store, MODEL, model, outcomes_per_day=None, deviation=None)
    assert assumed == []
    assert 40 < traffic.outcomes_per_day <= 60  # the day on which it was installed had fewer
    assert 0 < traffic.deviation < 0.1
    given, _ = traffic_of(fleet.project, fleet.store, MODEL, model, outcomes_per_day=5.0, deviation=0.7)
    assert (given.outcomes_per_day, given.deviation) == (5.0, 0.7)
    assert isinstance(fleet.store, Store)
    assert load_project(fleet.project.folder).settings.rollout == msgspec.convert(
        msgspec.to_builtins(fleet.project.settings.rollout), RolloutSettings
    )
