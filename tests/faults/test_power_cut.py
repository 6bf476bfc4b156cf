"""An update during which the power is cut: after each of its calls, in every state in which the disk may be then, what
runs is one whole generation, and the next update succeeds. `power_cut.py` says what may be left.

``.ci/run`` takes a sample of the states; ``COVEY_EVERY_CALL=1`` (``just faults``) takes every one, and prints how many.
"""

from __future__ import annotations

import collections
import contextlib
import os
import pathlib
import re
import shutil
import sqlite3
import sys
import tempfile
import typing

import pytest

from edge_agent.config import Layout
from edge_agent.update.state import State
from shared.errors import CoveyError
from tests.faults.power_cut import CALLS, Disk, Kept, write_image
from tests.faults.test_every_call import Prepared, _driver, prepared, run, whole

__all__ = ["prepared"]
EVERY = bool(os.environ.get("COVEY_EVERY_CALL"))
# How many states are looked at, and how many are updated: after one update; after one that was killed before.
_ALL = 1_000_000
_ONE = (_ALL, _ALL) if EVERY else (1500, 40)
_AGAIN = (400, 20) if EVERY else (80, 8)
_SEED = 11
_FSYNC = re.compile(r"\bfsync\(\d+<((?:\\x\w\w)*)>\) += 0")


class Recorded(typing.NamedTuple):
    """A whole update of a store, call by call, and the paths of its fsyncs in their order."""

    disk: Disk
    repository: pathlib.Path
    fsyncs: list[str]


@pytest.fixture
def memory() -> typing.Iterator[pathlib.Path]:
    """A folder in memory where there is such a place: what is cut here is worked out, and waits for no disk."""
    shared = pathlib.Path("/dev/shm")
    with tempfile.TemporaryDirectory(dir=shared if os.access(shared, os.W_OK) else None) as folder:
        yield pathlib.Path(folder)


def record(prepared: Prepared, folder: pathlib.Path, kill_at: int = 0) -> Recorded:
    """Update a copy of the store; with `kill_at` kill it at that fsync first, and update again."""
    folder.mkdir()
    store = shutil.copytree(prepared.store, folder / "store", symlinks=True)
    disk, fsyncs, log = Disk(store), list[str](), folder / "log"
    kill = ["-e", f"inject=fsync:signal=SIGKILL:when={kill_at}"] if kill_at else []
    for inject, status in ((kill, -9), ([], 0))[not kill_at :]:
        done = run(
            store, prepared.repository, "-o", str(log), "-y", "-xx", "-s", "9999999", "-e", f"trace={CALLS}", *inject
        )
        assert done.returncode == status, done.stderr
        said = log.read_text()
        assert "unfinished" not in said
        disk.record(said)
        fsyncs += [os.fsdecode(bytes.fromhex(path.replace("\\x", ""))) for path in _FSYNC.findall(said)]
    return Recorded(disk, prepared.repository, fsyncs)


def look(recorded: Recorded, kept: Kept, folder: pathlib.Path) -> str:
    """Make the state and read what runs; return its version."""
    return whole(write_image(recorded.disk.image(kept), folder))


def floor(store: pathlib.Path) -> int:
    """Newest channel that a device remembers to have acted upon; its database is sound."""
    layout = Layout(store)
    with contextlib.closing(State(layout.state_db)) as state:
        seen = state.floor("channel")
    with contextlib.closing(sqlite3.connect(layout.state_db)) as db:
        assert db.execute("pragma integrity_check").fetchall() == [("ok",)]
    return seen


def update(recorded: Recorded, store: pathlib.Path, ran: str) -> None:
    """Bring a store that ran a version up to date, and see that all is well."""
    _driver().update(Layout(store), recorded.repository)
    assert whole(store) == "v2"
    # Where v2 ran already nothing is installed: a folder half written or half deleted goes with the next version.
    assert ran == "v2" or not list(store.rglob("*.tmp"))
    assert floor(store) == 2


def spread(states: list[Kept], n: int) -> list[Kept]:
    """So many of the states, from the first to the last."""
    return states if len(states) <= n else [states[i * (len(states) - 1) // (n - 1)] for i in range(n)]


def survive(recorded: Recorded, folder: pathlib.Path, n: tuple[int, int]) -> collections.Counter[str]:
    """Look at states, update some of them; return how many ran what."""
    (looked_at, updated), states = n, list(recorded.disk.states(_SEED))
    to_update, ran = set(spread(states, updated)), collections.Counter[str]()
    for kept in {*spread(states, looked_at), *to_update}:
        store = folder / "store"
        where = f"{states.index(kept)} of {len(states)}"
        version = look(recorded, kept, store)
        assert version in ("v1", "v2"), where
        ran[version] += 1
        if kept in to_update:
            update(recorded, store, version)
        else:
            assert floor(store) in (1, 2), where  # what was trusted once is never forgotten
        shutil.rmtree(store)
    # An update that has ended is durable.
    assert (look(recorded, recorded.disk.durable(), folder / "store"), floor(folder / "store")) == ("v2", 2)
    shutil.rmtree(folder / "store")
    return ran


@pytest.mark.timeout(3600)
def test_whatever_a_cut_of_the_power_leaves_runs_whole_and_is_updated(
    prepared: Prepared, tmp_path: pathlib.Path, memory: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    recorded = record(prepared, tmp_path / "recorded")
    assert len(recorded.disk.operations) > 100
    ran = survive(recorded, memory, _ONE)
    assert set(ran) == {"v1", "v2"}
    if EVERY:
        with capsys.disabled():
            n = len(recorded.disk.operations)
            sys.stdout.write(f"\npower cut: {n} operations, {ran.total()} states: {dict(ran)} ran, whole and updated\n")


FORGOTTEN = {
    "the content of blobs": r"blobs/\..*",
    "the folder of generations": "generations",
    "a manifest's content": r"generations/\..*/\.manifest.*",
    "the names in a generation": r"generations/\.[^/]*\.tmp.*",
    "current": r"\.",
    "the database and its log": r"state\.db(-wal)?",
}


@pytest.mark.parametrize("forgotten", FORGOTTEN.values(), ids=list(FORGOTTEN))
def test_an_update_that_forgot_a_sync_would_be_found_out(
    prepared: Prepared, tmp_path: pathlib.Path, memory: pathlib.Path, forgotten: str
) -> None:
    recorded = record(prepared, tmp_path / "recorded")
    assert recorded.disk.without_syncs(forgotten) > 0
    assert is_found_out(recorded, memory / "store")


def is_found_out(recorded: Recorded, store: pathlib.Path) -> bool:
    """Whether there is a state that does not run; or the update is not durable, though it has ended."""
    ended = recorded.disk.durable()
    for kept in [ended, *reversed(recorded.disk.states(_SEED))]:
        try:
            version = look(recorded, kept, store)
            floor(store)
        except (OSError, AssertionError, CoveyError, sqlite3.Error):
            return True
        finally:
            shutil.rmtree(store)
        if kept == ended and version != "v2":
            return True
    return False


@pytest.mark.timeout(3600)
def test_a_cut_after_an_update_that_was_killed_and_begun_again(
    prepared: Prepared, tmp_path: pathlib.Path, memory: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """What the killed one had not synced the next one finds, and may take for durable."""
    fsyncs = record(prepared, tmp_path / "whole").fsyncs
    kill_at = [i for i, path in enumerate(fsyncs, 1) if EVERY or path.endswith(("/generations", "/store"))]
    n = 0
    for i in kill_at:
        recorded = record(prepared, tmp_path / f"r{i}", i)
        ran = survive(recorded, memory, _AGAIN)
        n += ran.total()
    if EVERY:
        with capsys.disabled():
            sys.stdout.write(f"\nkilled, begun again, power cut: {len(kill_at)} kills, {n} states\n")
