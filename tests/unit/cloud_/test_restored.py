"""A cloud that was restored from a copy while its devices went on: nothing they know is taken for something else."""

from __future__ import annotations

import pathlib
import sqlite3
import time

import pytest

from cloud.store import restored
from cloud.store.store import Store
from shared.clock import DAY_S
from tests.unit.cloud_.simulated import MODEL, Fleet


def _copy(fleet: Fleet, copy: pathlib.Path) -> None:
    """Copy the database as the script for backups does."""
    with sqlite3.connect(copy) as target:
        fleet.store.db.connection.backup(target)
        restored.mark_copy(target, fleet.now_s)
    target.close()


def _restore(fleet: Fleet, copy: pathlib.Path) -> None:
    """Put a copy in the place of the database, some time later; the devices stay what they are."""
    fleet.store.close()
    for path in fleet.project.var.glob("covey.db*"):
        path.unlink()
    fleet.project.database.write_bytes(copy.read_bytes())
    fleet.now_s += DAY_S
    fleet.store = Store(fleet.project)


def test_what_devices_saw_of_a_rollout_that_was_lost_judges_no_other(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fleet = Fleet(tmp_path / "project", monkeypatch)
    fleet.install()
    _copy(fleet, tmp_path / "copy.db")
    lost = fleet.start()
    fleet.gain = 0.3  # of the lost candidate; devices go on saying so until they hear of something else
    fleet.until(lambda: bool(fleet.stages(lost)["west"]["opened_s"]))
    fleet.days()
    epochs = {stage["id"] for stage in fleet.stages(lost).values()}
    versions = {device.models[MODEL].candidate for device in fleet.devices}
    _restore(fleet, tmp_path / "copy.db")
    number = fleet.start()
    assert number == lost  # the copy knows nothing of the other
    fleet.tick()
    fleet.days()
    stages = {stage["id"] for stage in fleet.stages(number).values()}
    assert not epochs & stages
    assert fleet.row(number)["to_version"] not in versions
    assert fleet.store.evidence.pairs(MODEL, stages, before_day=1 << 20) == []
    # And devices take the channel of the restored cloud, though they had acted upon later ones.
    assert {device.models[MODEL].candidate for device in fleet.devices} == {fleet.row(number)["to_version"]}
    assert [row["reason"] for row in fleet.store.audit.all(action="restored")] == [
        "this is a copy of 2024-10-09T00:00:00Z: what was done and delivered after that is not in it"
    ]
    fleet.store.close()


def test_a_copy_that_is_restored_twice_gives_no_number_twice(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fleet = Fleet(tmp_path / "project", monkeypatch)
    fleet.install()
    _copy(fleet, tmp_path / "copy.db")
    seen: list[int] = []
    for _ in range(2):
        _restore(fleet, tmp_path / "copy.db")
        number = fleet.start()
        fleet.tick()
        seen += [stage["id"] for stage in fleet.stages(number).values()]
        seen += [channel.sequence for channel in fleet.channels.values()]
    assert len(set(seen[:4])) == 4
    assert not set(seen[:7]) & set(seen[7:])
    fleet.store.close()


def test_a_project_that_is_no_copy_goes_on_without_a_gap(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fleet = Fleet(tmp_path / "project", monkeypatch, n=1)
    restored.go_on(fleet.store.db, time.time())
    assert [fleet.version(), fleet.version()] == ["v1", "v2"]
    assert fleet.store.audit.all(action="restored") == []
    fleet.store.close()
