"""What devices judge by is said by the bundle: versions that were trained with something else are not compared."""

from __future__ import annotations

import doctest
import pathlib
import typing

import msgspec
import pytest

from cloud.config import load_project
from cloud.rollout import plan, terms
from shared.errors import ConflictError
from tests.unit.cloud_.simulated import MODEL, ORDER, Fleet

LOSS: dict[str, typing.Any] = {"metric": "log_loss", "task": "binary", "scale": 1.0, "label_window_days": 1.0}


def _trained(fleet: Fleet, **otherwise: object) -> str:
    """Register a version with what its bundle says."""
    version = fleet.version()
    fleet.store.models.finish(MODEL, version, "ready", {"judged": LOSS | otherwise})
    return version


def _settle(fleet: Fleet) -> None:
    """Bring a first version everywhere."""
    fleet.start(_trained(fleet))
    fleet.days(5)


def test_doctests() -> None:
    assert doctest.testmod(terms).attempted == 3


@pytest.mark.parametrize("otherwise", [{"metric": "accuracy"}, {"scale": 10.0}])
def test_versions_whose_sums_are_of_something_else_are_no_candidates(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch, otherwise: dict[str, object]
) -> None:
    """Sums in tenths of the unit make any candidate look ten times as good."""
    fleet = Fleet(tmp_path, monkeypatch, n=1)
    _settle(fleet)
    with pytest.raises(ConflictError, match="can not be compared"):
        fleet.start(_trained(fleet, **otherwise))
    assert fleet.store.rollouts.running(MODEL) is None
    fleet.start(_trained(fleet, label_window_days=2.0))
    fleet.store.close()


def test_a_person_may_let_such_a_version_in_and_no_quality_is_asked_then(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fleet = Fleet(
        tmp_path, monkeypatch, rollout='max_days = 40\nguardrails = "watch"\n[rollout.expedite]\nexpires_days = 9'
    )
    _settle(fleet)
    settings = fleet.project.settings.rollout
    fleet.gain = -5.0  # as it looks where one is judged by a loss and the other by a share
    version = _trained(fleet, metric="accuracy")
    number = plan.start(
        fleet.store,
        msgspec.structs.replace(settings, expedited=True),
        ORDER,
        model=MODEL,
        version=version,
        why="a test",
        actor="ada",
        event_day=0,
    )
    fleet.until(lambda: all(stage["passed_s"] for stage in fleet.stages(number).values()))
    assert fleet.order(number, "approve", reason="another metric from now on") == "done"
    fleet.days()
    assert fleet.row(number)["state"] == "promoted"
    fleet.store.close()


def test_settings_that_judge_by_something_else_hold_a_rollout_that_runs(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fleet = Fleet(tmp_path, monkeypatch)
    _settle(fleet)
    number = fleet.start(_trained(fleet))
    fleet.gain = 0.1
    path = fleet.project.folder / "covey.toml"
    before = path.read_text()
    path.write_text(before.replace('label = "late"\n', 'label = "late"\nmetric = "accuracy"\n'))
    fleet.project = load_project(fleet.project.folder)
    fleet.days(8)
    stage = fleet.stages(number)["*"]
    said = 'its bundle and the settings say metric = "log_loss" and metric = "accuracy"'
    assert (stage["verdict"], stage["why"]) == ("HOLD", f"{said}: put that back, or end the rollout")
    path.write_text(before)
    fleet.project = load_project(fleet.project.folder)
    fleet.until(lambda: bool(fleet.stages(number)["west"]["opened_s"]))
    fleet.store.close()
