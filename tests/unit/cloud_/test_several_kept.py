"""Several candidates in the database: projects of an older Covey, and a controller killed between two writes."""

from __future__ import annotations

import functools
import itertools
import pathlib
import shutil
import sqlite3
import typing

import pytest
import sqlite_utils

from cloud.config import load_project
from cloud.rollout import controller
from cloud.store.database import Database
from cloud.store.rollouts import Rollouts
from cloud.store.schema import migrations
from cloud.store.store import Store
from shared.clock import DAY_S
from tests.unit.cloud_.killing import Connection, Fuse, Killed
from tests.unit.cloud_.simulated import Fleet

Make = typing.Callable[..., Fleet]
Plain = dict[str, typing.Any]


def test_rollouts_and_pairs_of_an_older_covey_are_those_of_one_candidate(tmp_path: pathlib.Path) -> None:
    old = sqlite_utils.Database(tmp_path / "covey.db")
    migrations.apply(old, stop_before="0007-several-candidates")
    for i, state in enumerate(("running", "promoted", "undone", "rolled_back", "aborted"), 1):
        ended = (0, 0, "") if state == "running" else (9.0, 20, "so it went")
        values = (i, f"m{i}", "v1", f"v{i + 1}", state, 0, "{}", "salt", "why", 1.0, 19, *ended)
        old.execute(f"insert into rollouts values ({', '.join('?' * len(values))})", values)
    old.execute("insert into pairs values ('till-1', 'm1', 7, 19, 10, 100, 50, 6, 4)")
    old.execute("insert into verdicts values (1, 1, 7, 1.0, 19, 'HOLD', '[]', '{}')")
    old.conn.commit()
    old.close()
    db = Database(tmp_path / "covey.db")
    states = [Rollouts(db).get(i)["candidates"] for i in range(1, 6)]
    assert [[(one["arm"], one["version"], one["state"]) for one in each] for each in states] == [
        [(1, "v2", "running")],
        [(1, "v3", "promoted")],
        [(1, "v4", "promoted")],
        [(1, "v5", "dropped")],
        [(1, "v6", "dropped")],
    ]
    assert (states[0][0]["why"], states[4][0]["why"], states[4][0]["ended_day"]) == ("", "so it went", 20)
    (pairs,) = db.rows("select * from pairs")
    assert (pairs["device"], pairs["epoch"], pairs["arm"], pairs["day"], pairs["n"]) == ("till-1", 7, 1, 19, 10)
    assert [verdict["arm"] for verdict in Rollouts(db).verdicts(1)] == [1]
    db.close()


def what_is_so(store: Store) -> Plain:
    """Everything the controller writes, without its times."""
    queries = {
        "rollouts": "select id, to_version, state, outcome, ended_day from rollouts",
        "candidates": "select rollout, arm, version, state, why, ended_day from candidates",
        "stages": "select id, opened_day, passed_day, verdict, why from stages",
        "verdicts": "select stage, arm, event_day, word, reasons from verdicts order by id",
        "incumbents": "select model, region, version from incumbents order by region",
        "audit": "select actor, action, subject, reason from audit order by id",
        "channels": "select region, sequence, body from channels order by region",
    }
    return {name: store.db.rows(sql) for name, sql in queries.items()}


def look(folder: pathlib.Path, times: int) -> Plain:
    """Let a new controller look at a project, and return what is so afterwards."""
    project = load_project(folder)
    store = Store(project)
    try:
        for _ in range(times):
            controller.tick(project, store, lambda _files: None)
        return what_is_so(store)
    finally:
        store.close()


@pytest.mark.parametrize("what", ["drops one", "promotes one"])
def test_a_controller_killed_while_it_drops_or_promotes_ends_where_it_would_have(
    make_fleet: Make, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    fleet = make_fleet(n=1, canary="request_share = 0.2", rollout="max_days = 40\nguardrails = 'watch'")
    number = fleet.trial(also=1)
    fleet.gains = {"v2": -1.0 if what == "drops one" else 0.05, "v3": 0.1}
    # Up to the day before; then that day's batches come in, and nobody has looked yet.
    done = functools.partial(fleet.candidates, number)
    for days in itertools.count():
        shutil.rmtree(tmp_path / "before", ignore_errors=True)
        fleet.now_s += DAY_S
        for device in fleet.devices:
            fleet.deliver(device)
        fleet.store.close()
        shutil.copytree(fleet.project.folder, tmp_path / "before")
        fleet.tick()
        if "dropped" in done().values():
            break
        assert days < 40
    fleet.store.close()
    shutil.copytree(tmp_path / "before", tmp_path / "calm")
    wanted = look(tmp_path / "calm", 3)
    assert {one["state"] for one in wanted["candidates"]} > {"dropped"}
    connect, n_deaths = sqlite3.connect, 0
    for n in range(1, 80, 3):
        folder = tmp_path / "killed"
        shutil.copytree(tmp_path / "before", folder)
        fuse = Fuse(n)
        with monkeypatch.context() as patch:
            patch.setattr(Connection, "fuse", fuse)
            patch.setattr(sqlite3, "connect", functools.partial(connect, factory=Connection))
            try:
                look(folder, 1)
            except Killed:
                n_deaths += 1
        assert look(folder, 3) == wanted, f"killed at write {n}"
        shutil.rmtree(folder)
        if fuse.left > 0:
            break
    assert n_deaths >= 4


def test_the_evidence_that_promotes_is_kept_though_every_stage_passed_long_ago(make_fleet: Make) -> None:
    fleet = make_fleet(rollout="max_days = 40", min_devices=13)  # there are 12
    number = fleet.trial()
    fleet.gain = 0.05
    fleet.until(lambda: bool(fleet.stages(number)["east"]["passed_s"]))
    fleet.days(3)
    fleet.devices.append(fleet.join("mid", 99))
    fleet.until(lambda: fleet.row(number)["state"] == "promoted")
    last = fleet.store.rollouts.verdicts(number)[-1]
    assert last["event_day"] == fleet.row(number)["ended_day"]
    words = {last["inputs"]["decision"]["word"]} | {
        one["decision"]["word"] for one in last["inputs"]["guardrails"].values()
    }
    assert words == {"promote"}
    assert last["inputs"]["decide"]["pairs"]["g"] == 13
