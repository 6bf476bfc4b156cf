"""The database and the files beside it: migrations, transactions, threads, blobs, the audit log."""

from __future__ import annotations

import hashlib
import os
import pathlib
import sqlite3
import subprocess
import sys
import threading

import pytest
import sqlite_utils

from cloud.config import Project
from cloud.store import blobs
from cloud.store.blobs import Blobs, write_file
from cloud.store.database import Database, add_bins, pack_bins, sum_bins
from cloud.store.schema import migrations
from cloud.store.store import Store
from shared.errors import NotFoundError, TrustError


@pytest.fixture
def db(tmp_path: pathlib.Path) -> Database:
    return Database(tmp_path / "covey.db")


# ---- migrations


def test_migrations_are_applied_once_and_in_order(tmp_path: pathlib.Path, db: Database) -> None:
    names = [migration.name for migration in migrations.applied(db.tools)]
    assert names == sorted(names)
    schema = db.rows("select sql from sqlite_master order by name")
    db.close()
    again = Database(tmp_path / "covey.db")
    assert again.rows("select sql from sqlite_master order by name") == schema


def test_a_project_of_an_older_covey_is_brought_up_to_date_with_its_rows(tmp_path: pathlib.Path) -> None:
    path = tmp_path / "covey.db"
    old = sqlite_utils.Database(path)
    migrations.apply(old, stop_before="0004-what-a-batch-said")
    old.execute("insert into inbox values ('till-1', 's', 7, 1.0)")
    old.conn.commit()
    old.close()
    db = Database(path)
    assert db.rows("select * from inbox") == [
        {"device": "till-1", "spool": "s", "sequence": 7, "at_s": 1.0, "sha256": ""}
    ]


def test_processes_that_open_a_new_database_at_once_all_find_it_whole(tmp_path: pathlib.Path) -> None:
    code = (
        "import pathlib, sys; from cloud.store.database import Database;"
        " print(len(Database(pathlib.Path(sys.argv[1])).rows('select name from sqlite_master')))"
    )
    path = str(tmp_path / "covey.db")
    started = [subprocess.Popen([sys.executable, "-c", code, path], stdout=subprocess.PIPE) for _ in range(3)]
    said = [process.communicate(timeout=60)[0] for process in started]
    assert [process.returncode for process in started] == [0, 0, 0]
    assert len(set(said)) == 1


# ---- transactions


def test_a_transaction_is_all_or_nothing_and_an_inner_one_joins_it(db: Database) -> None:
    def fail() -> None:
        with db.transaction() as outer:
            outer.execute("insert into meta values ('a', 1)")
            with db.transaction() as inner:
                inner.execute("insert into meta values ('b', 2)")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fail()
    assert db.rows("select * from meta") == []
    with db.transaction(), db.transaction() as inner:
        inner.execute("insert into meta values ('b', 2)")
    assert db.rows("select * from meta") == [{"key": "b", "value": 2}]


def test_every_commit_is_on_disk_and_readers_do_not_wait_for_writers(db: Database, tmp_path: pathlib.Path) -> None:
    assert db.rows("pragma synchronous") == [{"synchronous": 2}]
    assert db.rows("pragma journal_mode") == [{"journal_mode": "wal"}]
    other = Database(tmp_path / "covey.db")
    with db.transaction() as connection:
        connection.execute("insert into meta values ('a', 1)")
        assert other.rows("select * from meta") == []


def test_threads_have_connections_of_their_own_and_count_together(db: Database) -> None:
    def add() -> None:
        for _ in range(50):
            with db.transaction() as connection:
                connection.execute("insert into meta values ('n', 1) on conflict (key) do update set value = value + 1")
        db.close()

    threads = [threading.Thread(target=add) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert db.row("select value from meta") == {"value": 200}


def test_bins_are_added_place_by_place() -> None:
    assert sum_bins([add_bins(pack_bins([1, 0, 1 << 53]), pack_bins([2, 3, 1]))]) == [3, 3, (1 << 53) + 1]
    with pytest.raises(ValueError, match="zip"):
        add_bins(pack_bins([1]), pack_bins([1, 2]))


def test_any_number_of_bins_is_added_up_exactly_however_full_they_are() -> None:
    full = (1 << 63) - 1
    assert sum_bins([]) == []
    assert sum_bins([pack_bins([full, 1]), pack_bins([full, 0]), pack_bins([1, 1 << 60])]) == [
        2 * full + 1,
        (1 << 60) + 1,
    ]


# ---- the audit log


def test_the_audit_log_can_only_grow(empty_store: Store) -> None:
    empty_store.audit.add("a", "b", actor="ada", reason="c", more=1)
    for sql in ("update audit set reason = ''", "delete from audit"):
        with pytest.raises(sqlite3.IntegrityError, match="append-only"):
            empty_store.db.connection.execute(sql)
    assert empty_store.audit.all(1)[0]["reason"] == "c"


def test_an_entry_goes_with_the_change_it_tells_of(empty_store: Store) -> None:
    n = len(empty_store.audit.all())

    def fail() -> None:
        with empty_store.db.transaction():
            empty_store.audit.add("a", "b", actor="ada")
            raise OSError("no space left")

    with pytest.raises(OSError, match="no space"):
        fail()
    assert len(empty_store.audit.all()) == n


def test_one_rollout_of_a_model_runs_at_a_time_whatever_the_program_does(empty: Project, empty_store: Store) -> None:
    insert = (
        "insert into rollouts (model, from_version, to_version, state, paused, plan, salt, why, created_s, created_day,"
        " ended_s, ended_day, outcome) values ('sales', '', 'v1', 'running', 0, '{}', '', '', 0, 0, 0, 0, '')"
    )
    empty_store.db.connection.execute(insert)
    with pytest.raises(sqlite3.IntegrityError):
        empty_store.db.connection.execute(insert)
    assert empty.database.exists()


# ---- files


def test_a_blob_is_named_by_its_content_and_checked_when_it_is_read(tmp_path: pathlib.Path) -> None:
    kept = Blobs(tmp_path / "blobs")
    name = kept.put(b"hello")
    assert name == hashlib.sha256(b"hello").hexdigest()
    assert (kept.put(b"hello"), kept.get(name)) == (name, b"hello")
    kept.path(name).write_bytes(b"hellO")
    with pytest.raises(TrustError, match="has changed"):
        kept.get(name)
    kept.path(name).unlink()
    with pytest.raises(NotFoundError, match="is not there"):
        kept.get(name)


@pytest.mark.parametrize("where", ["write", "flush", "replace"])
def test_a_file_whose_writing_fails_is_as_it_was_and_leaves_nothing_behind(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    path = tmp_path / "file"
    write_file(path, b"old")

    def fail(*_arguments: object) -> None:
        raise OSError("no space left")

    if where == "flush":
        monkeypatch.setattr(blobs.os, "fsync", fail)
    elif where == "replace":
        monkeypatch.setattr(pathlib.Path, "replace", fail)
    with pytest.raises((OSError, TypeError)):
        write_file(path, "text" if where == "write" else b"new")  # type: ignore[arg-type]
    monkeypatch.undo()
    assert path.read_bytes() == b"old"
    assert [one.name for one in tmp_path.iterdir()] == ["file"]


def test_a_secret_file_is_never_readable_by_others_even_for_a_moment(tmp_path: pathlib.Path) -> None:
    before = os.umask(0)
    try:
        write_file(tmp_path / "secret", b"x", 0o600)
    finally:
        os.umask(before)
    assert (tmp_path / "secret").stat().st_mode & 0o777 == 0o600
