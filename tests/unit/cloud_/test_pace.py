"""What time does to a rollout, said to people: what is waited for now, and how long a plan takes with windows."""

from __future__ import annotations

import datetime as dt
import json
import math
import typing

import pytest

from cloud.cli.draw import rollout_lines
from cloud.cli.main import main
from cloud.config import CanarySettings, RegionPlan, RolloutSettings, ShadowSettings
from cloud.config.rollout import FreezeSettings, RampSettings
from cloud.rollout import lint, overview, pace, plan
from cloud.rollout.course import course
from cloud.rollout.story import next_steps
from shared.clock import DAY_S
from tests.unit.cloud_.simulated import MODEL, Fleet

Make = typing.Callable[..., Fleet]
TRAFFIC = lint.Traffic({"a": 40, "b": 10}, outcomes_per_day=100.0, deviation=0.4, label_window_days=1.0)
MONDAY_S = dt.datetime(2026, 11, 23, tzinfo=dt.UTC).timestamp()


def said(**made: typing.Any) -> tuple[list[lint.Forecast], list[str], list[str]]:
    quick = {"shadow": ShadowSettings(min_days=1, min_outcomes=0), "canary": CanarySettings(min_days=1, min_outcomes=0)}
    settings = RolloutSettings(**(quick | made))
    stages = plan.stages_of(["a", "b"], is_first=False, settings=settings)
    found = lint.forecast(stages, [plan.stage_name(one._asdict()) for one in stages], settings, TRAFFIC)
    return found, *pace.said_of(found, stages, settings, TRAFFIC, MONDAY_S)


def test_a_plan_without_windows_says_nothing_of_them() -> None:
    found, *told = said()
    assert told == [[], []]
    assert sum(one.days for one in found) == 6


def test_what_is_waited_for_windows_and_freezes_is_added_to_a_plans_days() -> None:
    saturday = {"b": RegionPlan(days=("sat",)), "a": RegionPlan(window="12:00-13:00")}
    # Shadow Saturday noon to Monday noon; a till Wednesday noon; b on Saturday, till Monday; promoted Saturday noon.
    _, told, odd = said(region=saturday)
    assert (told, odd) == (["with windows and freezes: 19.5 days at least, if it is started now"], [])
    _, told, odd = said(region=saturday, max_days=15)
    assert odd == ["with windows and freezes all stages take 20 days, and the rollout ends after 15"]
    freeze = FreezeSettings(from_=dt.date(2026, 11, 23), to=dt.date(2026, 11, 27))
    assert said(freeze=(freeze,))[1] == ["with windows and freezes: 11.0 days at least, if it is started now"]


def test_a_stage_that_never_ends_never_ends_with_windows_either() -> None:
    settings = RolloutSettings()
    stages = plan.stages_of(["a"], is_first=False, settings=settings)
    never = [lint.Forecast("x", math.inf, 1, 1, "outcomes") for _ in stages]
    assert pace.calendar_days(never, stages, settings, ["a"], MONDAY_S) == math.inf


def test_a_control_group_and_a_ramp_are_said_and_counted() -> None:
    canary = CanarySettings(
        min_days=1, min_outcomes=0, device_share=0.9, control_share=0.05, ramp=RampSettings(base_per_minute=2)
    )
    found, told, odd = said(canary=canary)
    assert [one.devices for one in found] == [48, 36, 9]  # 38 and 10 in the shadow: a part of a device is one
    assert told == [
        "control group: 5% of a get no candidate until one is promoted",
        "control group: 5% of b get no candidate until one is promoted",
        "a step of 36 devices asks the last after 18 minutes, if each verifies at once",
    ]
    assert odd == ["the control group of b has no device"]


def test_show_says_which_window_is_waited_for_and_until_when(make_fleet: Make) -> None:
    late = '[rollout.region.mid]\nwindow = "11:00-13:00"\n'
    fleet = make_fleet(rollout=f'fleet_window = "any"\nmax_days = 60\n{late}')
    fleet.now_s += DAY_S / 2
    fleet.install()
    number = fleet.start()
    fleet.now_s += DAY_S / 2

    def waits() -> str:
        view = overview.rollout(fleet.project, fleet.store, number)
        lines = [line for line in rollout_lines(view) if line.startswith("  waits for ")]
        assert lines == [f"  waits for {view['waits_for']}"] * bool(view["waits_for"])
        return str(view["waits_for"])

    fleet.gain = 0.05
    fleet.tick()
    assert waits() == "", "the shadow is open"
    fleet.until(lambda: bool(fleet.stages(number)["west"]["passed_s"]))
    assert waits() == "the window of mid (opens 11:00, in 11 h)"
    (said,) = next_steps(course(fleet.project, fleet.store, number))
    assert said == "MID waits for the window of mid (opens 11:00, in 11 h)."
    fleet.order(number, "pause")
    assert waits() == ""


def test_plan_and_lint_speak_of_windows(
    make_fleet: Make, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    fleet = make_fleet(rollout='max_days = 40\n[rollout.region.mid]\ndays = ["mon"]\n')
    monkeypatch.chdir(fleet.project.folder)
    assert main(["rollout", "plan", "--model", MODEL]) == 0
    assert "with windows and freezes:" in capsys.readouterr().out
    (fleet.project.folder / "frozen.toml").write_text("[[freeze]]\nfrom = 2024-10-01\nto = 2024-11-20\n")
    assert main(["rollout", "lint", "--model", MODEL, "--plan", "frozen.toml"]) == 0, "days of a freeze do not count"
    mondays = "".join(f'[region.{region}]\ndays = ["mon"]\n' for region in ("west", "mid", "east"))
    (fleet.project.folder / "mondays.toml").write_text(f"max_days = 16\n{mondays}")
    assert main(["rollout", "plan", "--model", MODEL, "--plan", "mondays.toml"]) == 0
    assert main(["rollout", "lint", "--model", MODEL, "--plan", "mondays.toml"]) == 3
    assert "with windows and freezes all stages take" in capsys.readouterr().out
    (fleet.project.folder / "endless.toml").write_text("[[freeze]]\nfrom = 2024-10-01\n")
    assert main(["rollout", "lint", "--model", MODEL, "--plan", "endless.toml"]) == 2
    assert "'to' is missing" in capsys.readouterr().err


def test_plan_and_lint_share_the_chances_of_error_and_the_requests_among_all_candidates(
    make_fleet: Make, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    fleet = make_fleet(canary="request_share = 0.3")
    monkeypatch.chdir(fleet.project.folder)
    pairs = []
    for also in ([], ["--also", "v3"], ["--also", "v3", "--also", "v4"]):
        assert main(["rollout", "plan", "--model", MODEL, "--json", *also]) == 0
        pairs.append(json.loads(capsys.readouterr().out)["pairs_until_rollback"])
    assert pairs[0] < pairs[1] < pairs[2]
    four = ["--also", "v3", "--also", "v4", "--also", "v5"]
    assert main(["rollout", "lint", "--model", MODEL, *four]) == 2
    assert "4 candidates with 0.3 of the requests each" in capsys.readouterr().err
