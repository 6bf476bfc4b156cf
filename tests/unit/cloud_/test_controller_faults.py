"""The rollout controller when things go wrong around it: killed, doubled, and whatever else a walk of events does."""

from __future__ import annotations

import contextlib
import functools
import pathlib
import random
import shutil
import sqlite3
import threading
import typing

import msgspec
import pytest

from cloud.config import load_project
from cloud.publish import repository
from cloud.rollout import controller, look, plan
from cloud.store.store import Store
from shared.channel import parse_channel
from shared.clock import day_of
from shared.errors import ConflictError
from tests.small_fleet import DEVICES, FIRST_DAY, Said, SmallFleet
from tests.unit.cloud_.simulated import MODEL, ORDER, Fleet

Plain = typing.Any


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


class Killed(BaseException):
    """The process ends here."""


class Fuse:
    """Ends the process at the n-th write, to the database or to the signed repository."""

    def __init__(self, n: int) -> None:
        self.left = n

    def burn(self) -> None:
        self.left -= 1
        if self.left == 0:
            raise Killed


class Connection(sqlite3.Connection):
    """A connection on which the process can end."""

    fuse: typing.ClassVar[Fuse] = Fuse(0)

    def execute(self, sql: str, *more: Plain) -> sqlite3.Cursor:
        if sql.split(None, 1)[0].lower() in ("insert", "update", "delete", "commit"):
            self.fuse.burn()
        return super().execute(sql, *more)


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
        Connection.fuse = Fuse(n)
        with monkeypatch.context() as patch:
            patch.setattr(repository, "write_file", write_or_end)
            patch.setattr(sqlite3, "connect", functools.partial(connect, factory=Connection))
            try:
                _tick(folder)
            except Killed:
                n_deaths += 1
        assert _tick(folder, 3) == wanted, f"killed at write {n}"
        shutil.rmtree(folder)
        if Connection.fuse.left > 0:
            break
    assert n_deaths >= 10


# ---- a walk of events


class Walk:
    """Does at random what can happen to a fleet, and looks after each step whether all is as it must be."""

    def __init__(self, fleet: Fleet, seed: int) -> None:
        self.fleet, self.rng = fleet, random.Random(seed)
        self.sequences: dict[str, int] = {}
        self.event_s = 0.0

    def step(self) -> None:
        """Do something, and look."""
        common, rare = (self.day,) * 6, (self.device, self.quality, self.order, self.start, self.join, self.blackout)
        self.rng.choice((*common, *rare))()
        self.look()

    def day(self) -> None:
        self.fleet.days()

    def device(self) -> None:
        """Something becomes of a device."""
        device = self.rng.choice(self.fleet.devices)
        device.online = self.rng.random() < 0.8
        device.installs = self.rng.choice(["ok", "ok", "ok", "refuses", "hangs", "trial"])
        device.clock_runs = self.rng.random() < 0.8

    def quality(self) -> None:
        self.fleet.gain = self.rng.choice([0.05, 0.05, 0.0, -0.3])
        self.fleet.served_gain = self.fleet.gain
        self.fleet.failed_ratio = self.rng.choice([0.0, 0.0, 0.0, 0.3])
        self.fleet.requests = self.rng.choice([60, 60, 60, 0])

    def order(self) -> None:
        newest = max((row["id"] for row in self.fleet.store.rollouts.all()), default=0)
        if newest:
            self.fleet.order(newest, self.rng.choice(["pause", "resume", "resume", "abort", "undo", *["approve"] * 3]))

    def start(self) -> None:
        fleet, rng = self.fleet, self.rng
        settings = msgspec.structs.replace(fleet.project.settings.rollout, expedited=rng.random() < 0.3)
        with contextlib.suppress(ConflictError):  # another one is running
            plan.start(
                fleet.store, settings, ORDER, model=MODEL, version=fleet.version(), why="a walk", actor="ada",
                event_day=day_of(self.event_s), supersede=rng.random() < 0.3,
            )  # fmt: skip

    def join(self) -> None:
        self.fleet.devices.append(self.fleet.join(self.rng.choice(ORDER), len(self.fleet.devices)))

    def blackout(self) -> None:
        """Nothing can be published for a day."""

        def fail(files: typing.Mapping[str, bytes]) -> None:
            if files:
                raise OSError("no space left")

        self.fleet.now_s += 86_400.0
        for device in self.fleet.devices:
            self.fleet.deliver(device)
        with contextlib.suppress(OSError):
            controller.tick(self.fleet.project, self.fleet.store, fail)
        self.fleet.tick()

    # ---- what must be so

    def look(self) -> None:
        self.fleet.tick()
        store = self.fleet.store
        event_s = float(store.get_meta("event_s"))
        assert event_s >= self.event_s
        self.event_s = event_s
        rows = {row["to_version"]: row for row in store.rollouts.all()}
        incumbents = store.models.incumbents(MODEL)
        assert sum(row["state"] == "running" for row in rows.values()) <= 1
        for region, channel in self.fleet.channels.items():
            assert channel.sequence >= self.sequences.get(region, 0)
            self.sequences[region] = channel.sequence
            assert len(channel.models) == (region in incumbents)
            for entry in channel.models:
                assert entry.incumbent.version == incumbents[region]
                if entry.candidate:
                    self.look_at_trial(region, entry.candidate.version, rows)
        for row in rows.values():
            self.look_at_rollout(row, set(incumbents.values()))

    def look_at_trial(self, region: str, version: str, rows: dict[str, Plain]) -> None:
        """A candidate is out only where its turn has come."""
        assert rows[version]["state"] == "running"
        stages = self.fleet.store.rollouts.stages(rows[version]["id"])
        if region in self.fleet.answering():
            turn = next(i for i, stage in enumerate(stages) if stage["region"] == region)
            assert stages[turn]["opened_s"]
            assert all(stage["passed_s"] for stage in stages[:turn])

    def look_at_rollout(self, row: dict[str, Plain], incumbents: set[str]) -> None:
        verdicts = self.fleet.store.rollouts.verdicts(row["id"])
        stages = self.fleet.store.rollouts.stages(row["id"])
        opened = [bool(stage["opened_s"]) for stage in stages]
        assert opened == sorted(opened, reverse=True)
        if row["state"] in ("rolled_back", "aborted", "undone"):
            assert self.fleet.exposed(row["to_version"]) == set()
        if row["state"] == "promoted":
            assert {verdict["stage"] for verdict in verdicts if verdict["word"] == "PASS"} == {s["id"] for s in stages}
            assert all(stage["passed_s"] for stage in stages)
        by_hand = row["plan"]["expedited"] and "without a verdict on quality" in row["outcome"]
        if row["state"] == "promoted" and row["from_version"] and not by_hand:
            passed = [v["inputs"]["decide"]["pairs"] for v in verdicts]
            assert any(pairs and pairs["n"] > 0 for pairs in passed)
        if row["state"] == "promoted" and row["from_version"] and not row["plan"]["expedited"]:
            passed = [v["inputs"]["decide"]["pairs"] for v in verdicts if v["word"] == "PASS"]
            assert all(pairs["n"] > 0 and pairs["days"]["g"] >= 2 for pairs in passed)
        if row["state"] == "running" and row["from_version"]:
            assert incumbents == {row["from_version"]}


def some_plan(rng: random.Random) -> dict[str, str]:
    """A plan that makes sense: steps, deadlines, approvals, and a region that is different."""
    shares = sorted({rng.choice([0.1, 0.25, 0.5]), 1.0})
    steps = "".join(
        f"[[rollout.canary.step]]\ndevice_share = {share}\nmin_days = {rng.randint(0, 2)}\n"
        f"approve = {str(rng.random() < 0.2).lower()}\n"
        for share in shares
    )
    region = f"[rollout.region.{rng.choice(ORDER)}]\nmin_outcomes = {rng.choice([1, 500])}\napprove = true\n"
    own = rng.choice(["", region])
    deadline = f'hold_days = {rng.randint(4, 9)}\nat_deadline = "{rng.choice(["pause", "abort"])}"\n'
    order = f"order = {list(rng.sample(ORDER, len(ORDER)))}\n".replace("'", '"') if rng.random() < 0.5 else ""
    top = f'max_days = 60\nguardrails = "{rng.choice(["prove", "watch"])}"\n{order}'
    return {"rollout": f"{top}{own}", "canary": rng.choice(["", deadline]) + rng.choice(["", steps])}


@pytest.mark.parametrize("seed", range(7))
def test_whatever_happens_each_region_has_one_incumbent_and_no_candidate_before_its_turn(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch, seed: int
) -> None:
    fleet = Fleet(tmp_path, monkeypatch, n=2, **(some_plan(random.Random(seed)) if seed > 2 else {}))
    fleet.install()
    walk = Walk(fleet, seed)
    for _ in range(120):
        walk.step()
    assert len(fleet.store.rollouts.all()) > 2
    fleet.requests = 60
    for _ in range(70):
        walk.look()
        running = fleet.store.rollouts.running(MODEL)
        if running is None:
            break
        fleet.order(running["id"], "resume")
        fleet.days()
    assert fleet.store.rollouts.running(MODEL) is None, "every rollout comes to an end"
    fleet.store.close()


def test_what_was_published_last_is_what_the_database_says(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fleet = Fleet(tmp_path, monkeypatch, n=1)
    fleet.trial(days=2)
    kept = {row["region"]: parse_channel(row["body"]) for row in fleet.store.rollouts.channels()}
    assert kept == fleet.channels
    assert all(msgspec.structs.replace(channel, sequence=1).sequence == 1 for channel in kept.values())
    fleet.store.close()
