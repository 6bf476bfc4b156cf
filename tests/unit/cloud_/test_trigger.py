"""Triggers: when they fire, when they wait, and what goes on record."""

from __future__ import annotations

import pathlib
import time
import typing

import pytest

from cloud import trigger
from cloud.config import Project, TriggerSettings
from cloud.store.ingest import ingest
from cloud.store.store import Store
from cloud.worker import Worker
from shared.clock import DAY_S, day_of
from shared.summary import quantise
from shared.telemetry import Batch, DeviceStatus, SumsRow
from tests.unit.cloud_ import builders

MODEL = builders.MODEL
DAY = day_of(builders.START_S) + 20  # the day after the data ends
TRIGGERS = {
    "time": '{ name = "time", kind = "time", above = 10, cooldown_days = 5 }',
    "volume": '{ name = "volume", kind = "volume", above = 100, cooldown_days = 5 }',
    "performance": (
        '{ name = "performance", kind = "performance", above = 0.1, window_days = 4, min_outcomes = 100,'
        ' cooldown_days = 5, action = "train", rollout = false }'
    ),
}


class Shop:
    """A project with a v1 that answers, on a day of its world, and a worker that trains nothing really."""

    def __init__(self, folder: pathlib.Path, *kinds: str) -> None:
        project = builders.trained_project(folder)
        text = (folder / "covey.toml").read_text()
        lines = f"trigger = [{', '.join(TRIGGERS[kind] for kind in kinds)}]\nholdout_days"
        self.project: Project = builders.write(project, "covey.toml", text.replace("holdout_days", lines, 1))
        self.store = Store(self.project)
        for region in builders.REGIONS:
            self.store.models.set_incumbent(MODEL, region, "v1")
        self.store.fleet.add_token("t", "secret", "north", uses=9, lifetime_s=1e9)
        self.store.fleet.join("till-1", "00" * 32, "t", "secret")
        self.model = self.project.settings.models[MODEL]
        self.sequence = 0

    def close(self) -> None:
        self.store.close()

    def settings(self, kind: str) -> TriggerSettings:
        return next(one for one in self.model.trigger if one.kind == kind)

    def read(self, kind: str, day: float) -> trigger.Reading:
        return trigger.read(self.store, MODEL, self.model, self.settings(kind), day * DAY_S)

    def outcomes(self, day: int, excess: float, n: int = 60, version: str = "v1") -> None:
        """A day of outcomes on the device."""
        self.sequence += 1
        row = SumsRow(
            model=MODEL, version=version, epoch=0, arm=0, served=True, day=day, requests=n, onnx=n, outcomes=n,
            metric_sum=quantise(0.5) * n, metric_sumsq=quantise(0.25) * n, excess_sum=quantise(excess) * n,
        )  # fmt: skip
        batch = Batch(
            device="till-1",
            spool="s",
            sequence=self.sequence,
            sent_s=time.time(),
            status=DeviceStatus(generation="g", state="good", watermark_s=(day + 1) * DAY_S),
            sums=(row,),
        )
        assert ingest(self.store.db, batch, 3600.0)


@pytest.fixture
def make(tmp_path: pathlib.Path) -> typing.Iterator[typing.Callable[..., Shop]]:
    made: list[Shop] = []

    def make_one(*kinds: str) -> Shop:
        made.append(Shop(tmp_path / "shop", *kinds))
        return made[-1]

    yield make_one
    for shop in made:
        shop.close()


# ---- what each looks at


def test_time_counts_days_since_the_newest_training_saw_data(make: typing.Callable[..., Shop]) -> None:
    shop = make("time")
    trained_to_s = float(shop.store.models.get(MODEL, "v1")["detail"]["trained_to_s"])
    early, late = shop.read("time", trained_to_s / DAY_S + 9.9), shop.read("time", trained_to_s / DAY_S + 10.1)
    assert (early.fires, late.fires) == (False, True)
    assert late.why == "time: days since training 10.1, limit 10"


def test_volume_counts_rows_that_no_training_has_seen(make: typing.Callable[..., Shop]) -> None:
    shop = make("volume")
    before = shop.read("volume", DAY)
    assert (before.value, before.fires) == (0.0, False)
    builders.add(shop.project, shop.store, builders.sales(6, first_day=20, seed=2))
    after = shop.read("volume", DAY + 6)
    # Six days came; the newest three are held out now, and the three that v1 held out are not any more.
    assert after.value == pytest.approx(120, abs=10)
    assert after.fires


def test_performance_is_the_mean_of_mature_outcomes_of_the_incumbent(make: typing.Callable[..., Shop]) -> None:
    shop = make("performance")
    for day in range(DAY, DAY + 6):
        shop.outcomes(day, 0.2)
        shop.outcomes(day, 9.0, version="v9")  # another version's
    shop.outcomes(DAY + 6, 50.0)  # not mature yet: the label window is a day
    seen = shop.read("performance", DAY + 7)
    assert seen.value == pytest.approx(0.2, abs=1e-5)
    assert seen.fires
    assert seen.why == "performance: excess_log_loss 0.2, limit 0.1, over 4 days"


@pytest.mark.parametrize(
    ("n_days", "n", "excess", "says"),
    [(6, 20, 0.2, "80 of 100 outcomes"), (3, 60, 0.2, "less than 4 days of outcomes"), (6, 60, 0.05, "")],
)
def test_performance_waits_for_enough_outcomes_on_enough_days(
    make: typing.Callable[..., Shop], n_days: int, n: int, excess: float, says: str
) -> None:
    shop = make("performance")
    for day in range(DAY, DAY + n_days):
        shop.outcomes(day, excess, n)
    seen = shop.read("performance", DAY + n_days + 1)
    assert not seen.fires
    assert says in seen.why
    assert ("waits" in seen.why) == bool(says)


def test_without_outcomes_performance_is_no_reason(make: typing.Callable[..., Shop]) -> None:
    assert make("performance").read("performance", DAY)[1:3] == (0.0, False)


def test_without_a_version_nothing_fires(empty: Project, empty_store: Store) -> None:
    for kind in ("time", "volume", "performance"):
        settings = TriggerSettings(name=kind, kind=typing.cast("typing.Any", kind), above=0.5)
        model = empty.settings.models[MODEL]
        assert not trigger.read(empty_store, MODEL, model, settings, DAY * DAY_S).fires


# ---- what holds one back


def test_a_trigger_waits_while_training_or_a_rollout_is_under_way_and_says_so(make: typing.Callable[..., Shop]) -> None:
    shop = make("time")
    job = shop.store.jobs.add(MODEL, "train", {}, "a test")
    assert "waits: a training is under way" in shop.read("time", DAY + 30).why
    shop.store.jobs.end(job, ok=True, result="")
    with builders.opened(shop.project) as store:
        builders.fit(shop.project, store)
        assert not shop.read("time", DAY + 5).fires  # newly trained
        number = store.rollouts.create(MODEL, "v1", "v2", plan={}, stages=[], salt="s" * 8, why="a test", event_day=DAY)
    assert "waits: a rollout is under way" in shop.read("time", DAY + 30).why
    shop.store.rollouts.end(number, "aborted", event_day=DAY, outcome="")
    assert shop.read("time", DAY + 30).fires


@pytest.mark.parametrize(("days", "fires"), [(0, False), (4, False), (5, True)])
def test_a_trigger_that_has_fired_cools_down_in_event_days(
    make: typing.Callable[..., Shop], days: int, fires: bool
) -> None:
    shop = make("time")
    shop.store.jobs.trigger_fired(MODEL, "time", DAY + 30, 30.0, "before")
    seen = shop.read("time", DAY + 30 + days)
    assert seen.fires is fires
    assert (f"it fired {days} days ago" in seen.why) is not fires


def test_another_models_job_and_another_triggers_firing_hold_nothing_back(make: typing.Callable[..., Shop]) -> None:
    shop = make("time")
    shop.store.jobs.add("rain", "train", {}, "a test")
    shop.store.jobs.trigger_fired(MODEL, "volume", DAY + 30, 30.0, "before")
    shop.store.jobs.trigger_fired("rain", "time", DAY + 30, 30.0, "before")
    assert shop.read("time", DAY + 30).fires


# ---- firing


def test_the_worker_fires_a_trigger_once_and_keeps_why(
    make: typing.Callable[..., Shop], monkeypatch: pytest.MonkeyPatch
) -> None:
    shop = make("time", "volume", "performance")
    builders.add(shop.project, shop.store, builders.sales(6, first_day=20, seed=2))
    for day in range(DAY, DAY + 30):
        shop.outcomes(day, 0.5)
    worker = Worker(shop.project)
    monkeypatch.setattr(worker, "_do_jobs", lambda: None)  # queued jobs stay queued
    for _ in range(3):
        worker._seen = ()
        worker.once()
    (job,) = shop.store.jobs.all()
    assert (job["model"], job["kind"], job["state"]) == (MODEL, "finetune", "queued")
    assert "days since training" in job["why"]
    (fired,) = shop.store.jobs.fired()
    assert (fired["name"], fired["event_day"], fired["detail"]) == ("time", DAY + 30, job["why"])
    (entry,) = shop.store.audit.all(action="trigger fired")
    assert (entry["actor"], entry["reason"]) == ("worker", job["why"])

    # A job that failed is not tried again before the cool-down is over; the next trigger in line may fire.
    shop.store.jobs.end(job["id"], ok=False, result="no")
    shop.outcomes(DAY + 30, 0.5)
    worker._seen = ()
    worker.once()
    assert [row["name"] for row in shop.store.jobs.fired()] == ["volume", "time"]
    worker.store.close()


def test_a_performance_trigger_queues_what_it_is_told_to(
    make: typing.Callable[..., Shop], monkeypatch: pytest.MonkeyPatch
) -> None:
    shop = make("performance")
    for day in range(DAY, DAY + 6):
        shop.outcomes(day, 0.5)
    worker = Worker(shop.project)
    monkeypatch.setattr(worker, "_do_jobs", lambda: None)
    worker.once()
    (job,) = shop.store.jobs.open()
    assert (job["kind"], job["arguments"]) == ("train", {"rollout": False})
    worker.store.close()
