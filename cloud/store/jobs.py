"""Training jobs and trigger history: what runs, what ran, and why."""

from __future__ import annotations

import json
import os
import time
import typing

from cloud.store.database import Database
from shared.errors import NotFoundError

Row = dict[str, typing.Any]


class Jobs:
    """The queue of the worker.

    Parameters
    ----------
    db : Database
        The project's database.
    """

    def __init__(self, db: Database) -> None:
        self._db = db

    def add(self, model: str, kind: str, arguments: typing.Mapping[str, object], why: str) -> int:
        """Queue a job."""
        cursor = self._db.connection.execute(
            "insert into jobs (model, kind, arguments, why, state, pid, created_s, ended_s, result)"
            " values (?, ?, ?, ?, 'queued', 0, ?, 0, '')",
            (model, kind, json.dumps(arguments), why, time.time()),
        )
        return int(cursor.lastrowid or 0)

    def begin(self, job: int, pid: int) -> bool:
        """Take a queued job for a process; false if another one has it already."""
        cursor = self._db.connection.execute(
            "update jobs set state = 'running', pid = ? where id = ? and state = 'queued'", (pid, job)
        )
        return cursor.rowcount == 1

    def get(self, job: int) -> Row:
        """Return a job."""
        row = self._db.row("select * from jobs where id = ?", (job,))
        if row is None:
            raise NotFoundError(f"no job {job}")
        return row | {"arguments": json.loads(row["arguments"])}

    def end(self, job: int, *, ok: bool, result: str) -> None:
        """Note how a job ended."""
        self._db.connection.execute(
            "update jobs set state = ?, ended_s = ?, result = ? where id = ?",
            ("done" if ok else "failed", time.time(), result[:4000], job),
        )

    def open(self) -> list[Row]:
        """Jobs that are queued or running, oldest first."""
        rows = self._db.rows("select * from jobs where state in ('queued', 'running') order by id")
        return [row | {"arguments": json.loads(row["arguments"])} for row in rows]

    def all(self, limit: int = 50) -> list[Row]:
        """Newest jobs first."""
        return self._db.rows("select * from jobs order by id desc limit ?", (limit,))

    def requeue_orphans(self) -> int:
        """Queue running jobs again whose process is gone; return how many."""
        gone = [row["id"] for row in self.open() if row["state"] == "running" and not _is_alive(row["pid"])]
        for job in gone:
            self._db.connection.execute("update jobs set state = 'queued', pid = 0 where id = ?", (job,))
        return len(gone)

    def trigger_fired(self, model: str, name: str, event_day: int, value: float, detail: str) -> None:
        """Keep why a training began."""
        self._db.connection.execute(
            "insert into triggers_fired (model, name, at_s, event_day, value, detail) values (?, ?, ?, ?, ?, ?)",
            (model, name, time.time(), event_day, value, detail),
        )

    def last_fired(self, model: str, name: str) -> Row | None:
        """Return when a trigger last fired."""
        return self._db.row(
            "select * from triggers_fired where model = ? and name = ? order by id desc limit 1", (model, name)
        )

    def fired(self, limit: int = 50) -> list[Row]:
        """Newest firings first."""
        return self._db.rows("select * from triggers_fired order by id desc limit ?", (limit,))


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return pid > 0
