"""The fleet's clock where others are wrong: what was written while they were ahead does not count for a year."""

from __future__ import annotations

import pathlib

import pytest

from shared.clock import DAY_S
from tests.unit.cloud_.simulated import Fleet


def test_after_all_clocks_were_a_year_ahead_for_a_while_a_rollout_is_decided_as_ever(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fleet = Fleet(tmp_path, monkeypatch)
    ahead = fleet.trial(days=2)
    fleet.gain = 0.1
    right_s = fleet.now_s
    fleet.now_s += 365 * DAY_S
    for device in fleet.devices:
        fleet.deliver(device)
    fleet.tick()
    assert fleet.row(ahead)["state"] == "aborted"  # it has had its days, for all that anybody knew
    fleet.now_s = right_s
    fleet.days(2)
    number = fleet.start()
    fleet.until(lambda: fleet.row(number)["state"] == "promoted", most=40)
    fleet.store.close()


def test_a_device_that_dies_after_the_clouds_clock_was_ahead_is_online_for_a_day_and_not_for_a_year(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fleet = Fleet(tmp_path, monkeypatch)
    number = fleet.trial(days=1)
    fleet.gain = 0.1
    at = {"seen_s": fleet.now_s + 365 * DAY_S, "device": "west-0"}
    fleet.store.db.connection.execute("update devices set seen_s = :seen_s where device = :device", at)
    fleet.devices[0].online = False
    fleet.until(lambda: "online" in fleet.stages(number)["*"]["why"], most=6)
    assert fleet.stages(number)["*"]["why"].startswith("11 of 11 online devices verified")
    fleet.store.close()


def test_a_cloud_that_starts_with_its_clock_behind_changes_nothing(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fleet = Fleet(tmp_path, monkeypatch)
    number = fleet.trial(days=2)
    what = "select seen_s, online_since_s, moved_s from devices order by device"
    before, event_s, right_s = fleet.store.db.rows(what), fleet.store.get_meta("event_s"), fleet.now_s
    for hour in range(3):
        fleet.now_s = 3600 * hour
        fleet.tick()
    fleet.now_s = right_s
    fleet.tick()
    assert (fleet.store.db.rows(what), fleet.store.get_meta("event_s")) == (before, event_s)
    assert fleet.row(number)["state"] == "running"
    fleet.gain = 0.1
    fleet.until(lambda: bool(fleet.stages(number)["west"]["opened_s"]))
    fleet.store.close()
