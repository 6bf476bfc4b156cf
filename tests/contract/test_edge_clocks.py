"""A device whose clock is wrong, or that lies about it, does not drive the fleet's time, nor what counts as mature."""

from __future__ import annotations

import contextlib
import pathlib
import time
import typing

import pytest

from cloud.rollout.devices import AHEAD_S
from cloud.store.ingest import ingest
from cloud.web.app import create_app
from shared.clock import DAY_S, MAX_EVENT_S, day_of
from shared.telemetry import Batch, DeviceStatus, Event, ModelStatus
from tests import small_fleet
from tests.small_fleet import DEVICES, FIRST_DAY, MODEL, Said, SmallFleet

YEAR_2200_S = 7_258_118_400.0
WILD = {"1970": 1.0, "2200": YEAR_2200_S, "the largest there is": 1e12}


@pytest.fixture
def fleet(tmp_path: pathlib.Path) -> typing.Iterator[SmallFleet]:
    """Four devices that run the first version; their days are years ago."""
    made = SmallFleet(tmp_path / "project")
    with contextlib.closing(made.store):
        yield made


def say_time(
    fleet: SmallFleet, version: str, device: str, watermark_s: float, *, candidate: str = "", **more: typing.Any
) -> None:
    fleet._sequence += 1
    runs = ModelStatus(model=MODEL, incumbent=version, candidate=candidate, epoch=more.pop("epoch", 0))
    status = DeviceStatus(generation="g", state="good", watermark_s=watermark_s, models=(runs,))
    number = fleet._sequence
    batch = Batch(device=device, spool="spool", sequence=number, sent_s=time.time(), status=status, **more)
    assert ingest(fleet.store.db, batch, 3600.0)


def event_s(fleet: SmallFleet) -> float:
    fleet.tick()
    return float(fleet.store.get_meta("event_s"))


@pytest.mark.parametrize("said_s", WILD.values(), ids=list(WILD))
def test_one_device_with_a_wild_clock_moves_nothing(fleet: SmallFleet, said_s: float) -> None:
    version = fleet.install()
    now_s = time.time()
    for device in DEVICES:
        say_time(fleet, version, device, now_s)
    before_s = event_s(fleet)
    say_time(fleet, version, "w1", said_s)
    assert event_s(fleet) == before_s == pytest.approx(now_s)
    for device in DEVICES:
        say_time(fleet, version, device, now_s + 60 if device != "w1" else said_s)
    assert event_s(fleet) == pytest.approx(now_s + 60)


@pytest.mark.parametrize("said_s", [YEAR_2200_S, 1e12])
def test_a_whole_fleet_with_wild_clocks_is_at_most_a_little_ahead(fleet: SmallFleet, said_s: float) -> None:
    version = fleet.install()
    for device in DEVICES:
        say_time(fleet, version, device, said_s)
    assert event_s(fleet) <= time.time() + AHEAD_S


def test_the_fleets_time_never_goes_back(fleet: SmallFleet) -> None:
    version = fleet.install()
    now_s = time.time()
    for watermark_s in (now_s, 1.0, now_s - DAY_S):
        for device in DEVICES:
            say_time(fleet, version, device, watermark_s)
        assert event_s(fleet) == pytest.approx(now_s)


def test_days_that_have_not_come_yet_are_no_evidence(fleet: SmallFleet) -> None:
    number = fleet.shadow(days=1)
    row, epoch = fleet.store.rollouts.get(number), fleet.epoch(number)
    far = day_of(YEAR_2200_S)
    honest = Said(FIRST_DAY + 3, row["from_version"], row["to_version"], epoch, 0.05)
    fleet.say("w1", honest._replace(day=far, gain=-9.0))
    mature = day_of(event_s(fleet))
    days = {pairs["day"] for pairs in fleet.store.evidence.pairs(MODEL, [epoch], before_day=mature)}
    assert days
    assert far not in days


def verdict(fleet: SmallFleet) -> tuple[str, str]:
    """The newest word and its reasons."""
    (row,) = fleet.store.db.rows("select word, reasons from verdicts order by id desc limit 1")
    return row["word"], row["reasons"]


def test_days_from_before_a_stage_opened_are_not_among_its_days(fleet: SmallFleet) -> None:
    number = fleet.shadow(days=0)
    row, epoch = fleet.store.rollouts.get(number), fleet.epoch(number)
    honest = Said(FIRST_DAY + 3, row["from_version"], row["to_version"], epoch, 0.05)
    fleet.day(honest)
    fleet.day(honest._replace(day=FIRST_DAY + 4, requests=0))
    before = verdict(fleet)
    for day in range(4):
        said = honest._replace(day=day)
        say_time(
            fleet, row["from_version"], "w1", (FIRST_DAY + 5) * DAY_S, candidate=row["to_version"], epoch=epoch,
            sums=small_fleet._sums(said), pairs=small_fleet._pairs(said),
        )  # fmt: skip
    fleet.tick()
    assert before[0] == "HOLD"
    assert "days" in before[1]
    assert verdict(fleet) == before


@pytest.mark.parametrize("at_s", WILD.values(), ids=list(WILD))
def test_an_event_with_a_wild_time_breaks_no_page_and_does_not_stay_on_top(fleet: SmallFleet, at_s: float) -> None:
    version = fleet.install()
    say_time(fleet, version, "w1", time.time(), events=(Event(at_s=at_s, kind="odd", detail="?"),))
    client = create_app(fleet.project, fleet.store).test_client()
    for path in ("/", "/rollouts", "/api/v1/fleet", "/api/v1/devices"):
        assert client.get(path).status_code == 200, path
    (row,) = fleet.store.db.rows("select max(at_s) as newest from device_events")
    assert row["newest"] <= time.time() + AHEAD_S


def test_in_a_replay_one_clock_far_ahead_does_not_speak_for_a_fleet_that_stands_still(tmp_path: pathlib.Path) -> None:
    made = SmallFleet(tmp_path / "project", serve="[devices]\nreplay = true")
    with contextlib.closing(made.store):
        version = made.install()
        before_s = event_s(made)
        say_time(made, version, "w1", 1e12)
        made.store.db.connection.execute("update devices set moved_s = moved_s - 7 * 3600 where device != 'w1'")
        assert event_s(made) == before_s
        for device in DEVICES:
            say_time(made, version, device, 1e12)
        assert event_s(made) == MAX_EVENT_S
        client = create_app(made.project, made.store).test_client()
        assert [client.get(path).status_code for path in ("/", "/rollouts", "/api/v1/fleet")] == [200, 200, 200]
