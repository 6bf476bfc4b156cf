"""The rollout controller when things go wrong around it: killed, doubled, and whatever else a walk of events does."""

from __future__ import annotations

import contextlib
import functools
import pathlib
import shutil
import sqlite3
import threading
import typing

import msgspec
import pytest

from cloud.config import load_project
from cloud.publish import repository
from cloud.rollout import controller, look
from cloud.store.store import Store
from shared.channel import parse_channel
from tests.small_fleet import DEVICES, FIRST_DAY, Said, SmallFleet
from tests.unit.cloud_.killing import Connection, Fuse, Killed
from tests.unit.cloud_.simulated import MODEL, OTHER, Fleet

Plain = typing.Any


# ---- a region that is taken out of the settings while a rollout runs


def _without_mid(fleet: Fleet) -> None:
    path = fleet.project.folder / "covey.toml"
    path.write_text(path.read_text().replace('order = ["west", "mid", "east"]', 'order = ["west", "east"]'))
    fleet.project = load_project(fleet.project.folder)


def test_what_is_rolled_back_goes_back_in_a_region_that_is_no_longer_in_the_settings(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fleet = Fleet(tmp_path, monkeypatch)
    number = fleet.trial()
    fleet.until(lambda: bool(fleet.stages(number)["mid"]["opened_s"]))
    _without_mid(fleet)
    fleet.gain = -0.5
    fleet.until(lambda: fleet.row(number)["state"] == "rolled_back")
    assert fleet.exposed("v2") == set()
    assert {device.models[MODEL].candidate for device in fleet.devices} == {"v2"}  # they have not been told yet
    fleet.days()
    assert {device.models[MODEL].candidate for device in fleet.devices} == {""}
    fleet.store.close()


def test_what_is_promoted_arrives_in_a_region_that_is_no_longer_in_the_settings(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fleet = Fleet(tmp_path, monkeypatch)
    number = fleet.trial()
    _without_mid(fleet)
    fleet.gain = 0.5
    fleet.until(lambda: fleet.row(number)["state"] == "promoted")
    fleet.days()
    assert {device.models[MODEL].incumbent for device in fleet.devices} == {"v2"}
    again = fleet.start()  # nothing is left that the next rollout could stumble over
    assert fleet.order(again, "abort") == "done"
    assert fleet.order(number, "undo") == "done"
    fleet.days()
    assert {device.models[MODEL].incumbent for device in fleet.devices} == {"v1"}
    fleet.store.close()


@pytest.mark.parametrize("when", ["before", "meanwhile"])
def test_a_region_that_is_added_to_the_settings_runs_what_the_others_run(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch, when: str
) -> None:
    fleet = Fleet(tmp_path, monkeypatch, n=2)
    number = fleet.trial() if when == "meanwhile" else fleet.start()
    if when == "before":  # the first version comes region by region, and so it does to a new one
        fleet.days(5)
    path = fleet.project.folder / "covey.toml"
    path.write_text(path.read_text().replace('"east"]', '"east", "north"]'))
    fleet.project = load_project(fleet.project.folder)
    fleet.store.fleet.add_token("north", "secret", "north", uses=9, lifetime_s=1e9)
    fleet.devices += [fleet.join("north", i) for i in range(2)]
    fleet.days(2)
    assert {device.models[MODEL].incumbent for device in fleet.devices} == {"v1"}
    number = fleet.start() if when == "before" else number
    fleet.gain = 0.1
    fleet.until(lambda: fleet.row(number)["state"] == "promoted")
    fleet.days()
    assert {device.models[MODEL].incumbent for device in fleet.devices} == {"v2"}
    fleet.store.close()


# ---- a rollout that can not be judged, or not any more


def test_a_rollout_that_can_not_be_judged_keeps_no_other_from_going_back(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fleet = Fleet(tmp_path, monkeypatch, n=2)
    fleet.install()
    fleet.install(OTHER)
    first, bad = fleet.start(), fleet.start(model=OTHER)
    fleet.days(2)
    assert first < bad
    # As a plan that another release has written.
    fleet.store.db.connection.execute(
        "update rollouts set plan = json_set(plan, '$.unheard', 1) where id = ?", (first,)
    )
    fleet.gain = -0.5
    for _ in range(8):
        with pytest.raises(msgspec.ValidationError, match="unheard"):
            fleet.days()
    assert fleet.row(bad)["state"] == "rolled_back"
    assert fleet.exposed("v2", OTHER) == set()
    fleet.store.close()


def test_a_candidate_whose_model_was_taken_out_of_the_settings_answers_no_more(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fleet = Fleet(tmp_path, monkeypatch, n=1)
    number = fleet.trial()
    fleet.gain = 0.1
    fleet.until(lambda: fleet.answering() == ["west"])
    path = fleet.project.folder / "covey.toml"
    path.write_text(path.read_text().replace("[models.late]", "[models.later]"))
    fleet.project = load_project(fleet.project.folder)
    fleet.tick()
    assert (fleet.row(number)["state"], fleet.row(number)["outcome"]) == (
        "aborted",
        "its model is no longer in covey.toml",
    )
    assert fleet.exposed("v2") == set()
    assert fleet.exposed("v1") == {"west", "mid", "east"}
    fleet.store.close()


# ---- two at once


def test_two_controllers_at_once_never_both_act(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fleet = Fleet(tmp_path, monkeypatch, min_devices=13)  # nothing is promoted while there are 12
    number = fleet.trial()
    fleet.gain = 0.05
    fleet.until(lambda: bool(fleet.stages(number)["east"]["passed_s"]))
    fleet.devices.append(fleet.join("mid", 99))
    for _ in range(3):  # its day comes, and matures, while no controller looks
        fleet.now_s += 86_400.0
        for device in fleet.devices:
            fleet.deliver(device)
    meet, judge = threading.Barrier(2), look.judge

    def judge_together(*arguments: Plain, **named: Plain) -> Plain:
        """Make both have read everything before either acts, if both can be here at once."""
        with contextlib.suppress(threading.BrokenBarrierError):
            meet.wait(timeout=0.3)
        return judge(*arguments, **named)

    monkeypatch.setattr(look, "judge", judge_together)
    happened: list[str] = []

    def one() -> None:
        store = Store(fleet.project)
        happened.extend(controller.tick(fleet.project, store, lambda _files: None).happened)
        store.close()

    threads = [threading.Thread(target=one) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len([line for line in happened if "v2 promoted" in line]) == 1
    assert [row["subject"] for row in fleet.store.audit.all(action="promoted")] == ["late@v2", "late@v1"]
    fleet.store.close()


# ---- killed between any two writes


def _prepare(fleet: SmallFleet, what: str) -> None:
    """Bring a fleet to the moment before the controller acts."""
    if what == "opens the first region":
        number = fleet.shadow(days=2)
        row = fleet.store.rollouts.get(number)
        for device in DEVICES:
            fleet.say(device, Said(FIRST_DAY + 5, row["from_version"], row["to_version"], fleet.epoch(number), 0.05))
    elif what == "rolls back":
        number = fleet.canary()
        row = fleet.store.rollouts.get(number)
        for device in ("w1", "w2"):  # two devices only, so it takes many
            said = Said(FIRST_DAY + 6, row["from_version"], row["to_version"], fleet.epoch(number), 0.05, split=True)
            fleet.say(device, said._replace(failed=70))
    elif what == "undoes":
        fleet.install()
        number = fleet.start(fleet.version(parent="v1"), day=FIRST_DAY)
        _set_promoted(fleet, number)
        fleet.store.rollouts.order(number, "undo", actor="ada", reason="it rains")
    else:
        number = fleet.canary()
        fleet.store.rollouts.order(number, "abort", actor="ada", reason="it rains")


def _set_promoted(fleet: SmallFleet, number: int) -> None:
    """Promote a rollout out of turn: what an undo does is under test, not the way there."""
    row = fleet.store.rollouts.get(number)
    fleet.store.rollouts.end(number, "promoted", event_day=FIRST_DAY, outcome="a test")
    for region in fleet.project.settings.regions.order:
        fleet.store.models.set_incumbent(row["model"], region, row["to_version"])
    fleet.tick()


def _tick(folder: pathlib.Path, times: int = 1) -> dict[str, Plain]:
    """Open a project, let its controller look, and return what is so afterwards."""
    project = load_project(folder)
    store = Store(project)
    signed = repository.SignedRepository(project.repository, project.keys)
    try:
        for _ in range(times):
            controller.tick(project, store, lambda files: signed.publish("channels", files))
        return _what_is_so(store, signed)
    finally:
        store.close()


def _what_is_so(store: Store, signed: repository.SignedRepository) -> dict[str, Plain]:
    """Everything the controller writes, without its times."""
    queries = {
        "rollouts": "select id, state, paused, outcome, created_day, ended_day from rollouts",
        "stages": "select id, opened_day, passed_day, opened_s > 0, passed_s > 0, verdict, why from stages",
        "verdicts": "select stage, event_day, word, reasons from verdicts order by id",
        "incumbents": "select model, region, version from incumbents order by region",
        "orders": "select id, done_s > 0, result from orders",
        "audit": "select actor, action, subject, reason, detail from audit order by id",
        "channels": "select region, sequence, body from channels order by region",
    }
    said: dict[str, Plain] = {name: store.db.rows(sql) for name, sql in queries.items()}
    said["signed"] = [signed.target("channels", f"channels/{region}.json") for region in DEVICES.values()]
    return said


@pytest.mark.parametrize("what", ["opens the first region", "rolls back", "undoes", "aborts"])
def test_a_controller_killed_between_any_two_writes_ends_where_it_would_have(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    fleet = SmallFleet(tmp_path / "before")
    _prepare(fleet, what)
    fleet.store.close()
    write_file, connect = repository.write_file, sqlite3.connect
    before = _what_is_so(fleet.store, fleet._repository)
    fleet.store.close()
    shutil.copytree(tmp_path / "before", tmp_path / "calm")
    wanted = _tick(tmp_path / "calm", 3)
    assert wanted != before

    def write_or_end(*arguments: Plain, **named: Plain) -> None:
        Connection.fuse.burn()
        write_file(*arguments, **named)

    n_deaths = 0
    for n in range(1, 60):
        folder = tmp_path / f"killed-{n}"
        shutil.copytree(tmp_path / "before", folder)
        fuse = Fuse(n)
        with monkeypatch.context() as patch:
            patch.setattr(repository, "write_file", write_or_end)
            patch.setattr(Connection, "fuse", fuse)
            patch.setattr(sqlite3, "connect", functools.partial(connect, factory=Connection))
            try:
                _tick(folder)
            except Killed:
                n_deaths += 1
        assert _tick(folder, 3) == wanted, f"killed at write {n}"
        shutil.rmtree(folder)
        if fuse.left > 0:
            break
    assert n_deaths >= 10


def test_what_was_published_last_is_what_the_database_says(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fleet = Fleet(tmp_path, monkeypatch, n=1)
    fleet.trial(days=2)
    kept = {row["region"]: parse_channel(row["body"]) for row in fleet.store.rollouts.channels()}
    assert kept == fleet.channels
    assert all(msgspec.structs.replace(channel, sequence=1).sequence == 1 for channel in kept.values())
    fleet.store.close()
