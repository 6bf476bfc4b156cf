"""The expedited lane, and a newer candidate that supersedes an older one."""

from __future__ import annotations

import pathlib
import typing

import msgspec
import pytest

from cloud.config import load_project
from cloud.rollout import plan
from cloud.rollout.course import course
from cloud.rollout.story import next_steps, rollout_headline
from shared.clock import day_of
from shared.errors import ConfigError, ConflictError
from tests.unit.cloud_.simulated import MODEL, ORDER, TOML, Fleet


@pytest.fixture
def fleet(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> typing.Iterator[Fleet]:
    made = Fleet(tmp_path / "p", monkeypatch, n=8)
    yield made
    made.store.close()


def start(fleet: Fleet, *, expedited: bool = False, supersede: bool = False) -> int:
    settings = msgspec.structs.replace(fleet.project.settings.rollout, expedited=expedited)
    day = day_of(float(fleet.store.get_meta("event_s")))
    return plan.start(
        fleet.store, settings, ORDER, model=MODEL, version=fleet.version(), why="a holiday", actor="ada",
        event_day=day, supersede=supersede,
    )  # fmt: skip


def exposed(fleet: Fleet) -> dict[str, int]:
    """Devices that answer with a candidate, by region."""
    return {
        region: sum(
            bool(device.models[MODEL].candidate)
            and fleet.stages(fleet.store.rollouts.newest()["id"])[region]["opened_s"] > 0
            for device in fleet.devices
            if device.region == region
        )
        for region in ORDER
    }


def told(fleet: Fleet, number: int) -> tuple[str, list[str]]:
    view = course(fleet.project, fleet.store, number)
    return rollout_headline(view), next_steps(view)


def test_without_any_label_guardrails_open_the_regions_and_a_person_promotes(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fleet = Fleet(tmp_path / "p", monkeypatch, n=20, rollout="max_days = 40\n[rollout.expedite]\nexpires_days = 20")
    fleet.install()
    number = start(fleet, expedited=True)
    fleet.requests = 400
    fleet.pairs = lambda _status, _arms, _day: []  # type: ignore[method-assign]
    fleet.until(lambda: all(stage["passed_s"] for stage in fleet.store.rollouts.stages(number)), most=18)
    fleet.days()
    assert fleet.row(number)["state"] == "running"
    assert all(2 < n < 18 for n in exposed(fleet).values()), "about half of the twenty"
    headline, steps = told(fleet, number)
    assert headline == "v2 is in every region; somebody has to promote it (expedited, without a verdict on quality)"
    assert "covey rollout approve" in steps[0]
    assert fleet.order(number, "approve") == "done"
    row = fleet.row(number)
    assert (row["state"], row["outcome"]) == ("promoted", "approved by ada without a verdict on quality: a test")
    fleet.store.close()


def test_it_expires_and_every_device_goes_back(fleet: Fleet) -> None:
    fleet.install()
    number = start(fleet, expedited=True)
    fleet.days(3)
    assert fleet.row(number)["state"] == "running"
    fleet.days(3)
    row = fleet.row(number)
    assert (row["state"], row["outcome"]) == ("aborted", "expedited, and neither promoted nor approved within 3 days")
    fleet.days()
    assert {device.models[MODEL].candidate for device in fleet.devices} == {""}


def test_a_candidate_that_fails_is_taken_back_in_this_lane_too(fleet: Fleet) -> None:
    fleet.install()
    number = start(fleet, expedited=True)
    fleet.requests, fleet.failed_ratio = 400, 0.3
    fleet.until(lambda: fleet.row(number)["state"] != "running", most=4)
    assert fleet.row(number)["state"] == "rolled_back"
    assert "failed or slow answers" in fleet.row(number)["outcome"]


def test_a_candidate_that_proves_worse_is_taken_back_in_this_lane_too(fleet: Fleet) -> None:
    fleet.install()
    number = start(fleet, expedited=True)
    fleet.gain = -0.5
    fleet.until(lambda: fleet.row(number)["state"] != "running", most=5)
    assert fleet.row(number)["state"] == "rolled_back"
    assert fleet.order(number, "approve") == "not done: it is rolled_back"


def test_a_stage_of_this_lane_waits_until_its_guardrails_are_proven(fleet: Fleet) -> None:
    fleet.install()
    number = start(fleet, expedited=True)
    fleet.requests = 2
    fleet.days(2)
    stages = fleet.store.rollouts.stages(number)
    assert [bool(stage["opened_s"]) for stage in stages] == [True, False, False, False]
    assert "not proven harmless yet (there is nothing to compare yet)" in stages[0]["why"]
    _, steps = told(fleet, number)
    assert steps[0].endswith(
        "have verified the version, and its guardrails are proven; then West (50\u00a0% of devices) opens."
    )
    assert steps[-1] == "Without a promotion every device goes back by itself 3 days after it was started."
    fleet.order(number, "pause")
    assert told(fleet, number)[1][-1] == f"Go on: covey rollout resume {number}"


def test_nothing_is_expedited_by_a_setting(tmp_path: pathlib.Path) -> None:
    text = TOML.format(rollout="expedited = true", canary="", min_devices=2)
    (tmp_path / "covey.toml").write_text(text)
    with pytest.raises(ConfigError, match="no rollout is expedited by default"):
        load_project(tmp_path)


# ---- superseded


def test_a_newer_candidate_takes_the_place_of_an_older_one_at_once_and_starts_from_nothing(fleet: Fleet) -> None:
    older = fleet.trial(days=3)
    fleet.gain = 0.05
    with pytest.raises(ConflictError, match="still running"):
        start(fleet)
    newer = start(fleet, supersede=True)
    assert (fleet.row(older)["state"], fleet.row(older)["outcome"]) == ("aborted", "superseded by v4")
    fleet.tick()
    fleet.days()
    assert {(device.models[MODEL].incumbent, device.models[MODEL].candidate) for device in fleet.devices} == {
        ("v1", "v4")
    }
    stages = fleet.store.rollouts.stages(newer)
    epochs = {stage["id"] for stage in stages} & {stage["id"] for stage in fleet.store.rollouts.stages(older)}
    assert epochs == set()
    assert stages[0]["why"].startswith("0 of 3 days")
    seen = set()
    while fleet.row(newer)["state"] == "running":
        fleet.days()
        seen |= {device.models[MODEL].candidate for device in fleet.devices}
    assert "v2" not in seen
    assert fleet.row(newer)["state"] == "promoted"


def test_the_same_version_and_a_first_one_are_not_superseded(fleet: Fleet) -> None:
    first = fleet.start()
    fleet.tick()
    with pytest.raises(ConflictError, match=f"rollout {first} installs the first version"):
        start(fleet, supersede=True)
    assert fleet.row(first)["state"] == "running"
    fleet.until(lambda: fleet.row(first)["state"] == "promoted")
    number = fleet.start()
    with pytest.raises(ConflictError, match="is being rolled out already"):
        plan.start(
            fleet.store, fleet.project.settings.rollout, ORDER, model=MODEL, version=fleet.row(number)["to_version"],
            why="again", actor="ada", event_day=1, supersede=True,
        )  # fmt: skip
    assert fleet.row(number)["state"] == "running"
