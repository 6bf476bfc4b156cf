"""Who did what, and why: an append-only log."""

from __future__ import annotations

import getpass
import json
import time
import typing

from cloud.store.database import Database


def this_user() -> str:
    """Name of the person at the command line."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return "unknown"


class Audit:
    """The log.

    Parameters
    ----------
    db : Database
        The project's database.
    """

    def __init__(self, db: Database) -> None:
        self._db = db

    def add(self, action: str, subject: str, *, actor: str, reason: str = "", **detail: object) -> None:
        """Write an entry; part of the transaction that is open, if any."""
        self._db.connection.execute(
            "insert into audit (at_s, actor, action, subject, reason, detail) values (?, ?, ?, ?, ?, ?)",
            (time.time(), actor, action, subject, reason, json.dumps(detail, default=str)),
        )

    def all(self, limit: int = 100, action: str = "") -> list[dict[str, typing.Any]]:
        """Newest entries first."""
        return self._db.rows("select * from audit where ? in ('', action) order by id desc limit ?", (action, limit))

    def last(self, action: str, subject: str) -> dict[str, typing.Any] | None:
        """Return the newest entry about this, or None."""
        found = self._db.rows(
            "select * from audit where action = ? and subject = ? order by id desc limit 1", (action, subject)
        )
        return found[0] if found else None
