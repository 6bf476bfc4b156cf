"""A device whose clock is wrong, or that lies about it, does not drive the fleet's time, nor what counts as mature."""

from __future__ import annotations

import contextlib
import pathlib
import time
import typing

import pytest

from cloud.rollout.devices import AHEAD_S
from cloud.store.ingest import ingest
from shared.clock import DAY_S, day_of
from shared.telemetry import Batch, DeviceStatus, ModelStatus
from tests.small_fleet import DEVICES, FIRST_DAY, MODEL, Said, SmallFleet

YEAR_2200_S = 7_258_118_400.0
WILD = {"1970": 1.0, "2200": YEAR_2200_S, "the largest there is": 1e12}


@pytest.fixture
def fleet(tmp_path: pathlib.Path) -> typing.Iterator[SmallFleet]:
    """Four devices that run the first version; their days are years ago."""
    made = SmallFleet(tmp_path / "project")
    with contextlib.closing(made.store):
        yield made


def say_time(fleet: SmallFleet, version: str, device: str, watermark_s: float) -> None:
    fleet._sequence += 1
    runs = ModelStatus(model=MODEL, incumbent=version)
    status = DeviceStatus(generation="g", state="good", watermark_s=watermark_s, models=(runs,))
    number = fleet._sequence
    batch = Batch(device=device, spool="spool", sequence=number, sent_s=time.time(), status=status)
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
