"""A database that was restored from a copy: the fleet has gone on, so numbers that it may know are not given again.

Devices refuse a channel that is older than the one they have acted upon, and what they have seen of a stage that the
copy knows nothing of would count for the one that gets its number.
"""

from __future__ import annotations

import sqlite3
import typing

from cloud.store.audit import Audit
from cloud.store.database import Database
from shared.clock import format_time
from shared.versions import ModelVersion, parse_version

COPIED, RESTORED, BEHIND = "copied_s", "restored_s", "repository behind"
LEFT_OUT = 100  # versions that may have been made of each model since the copy
_ACTOR = "covey"


def mark_copy(connection: sqlite3.Connection, now_s: float) -> None:
    """Note in a copy that it is one, before anybody opens it."""
    connection.execute("insert or replace into meta values (?, ?)", (COPIED, now_s))
    connection.commit()


def go_on(db: Database, now_s: float) -> None:
    """Go on with a copy, if this is one: stages and channels get numbers that the original can not have given.

    These numbers go up by less than one a second, so the seconds since 1970 are above all of them, also of those that
    were given after an earlier restoration. What is signed is moved on by the worker, which has the keys.
    """
    if db.row("select 1 from meta where key = ?", (COPIED,)) is None:
        return
    least = int(now_s)
    with db.transaction() as connection:
        row = db.row("select value from meta where key = ?", (COPIED,))
        if row is None:
            return  # another process has done it meanwhile
        before = db.row("select max(id) as id from stages")
        connection.execute("delete from sqlite_sequence where name = 'stages'")
        connection.execute(
            "insert into sqlite_sequence values ('stages', ?)", (max(least, (before or {}).get("id") or 0),)
        )
        connection.execute("update channels set sequence = max(sequence, ?)", (least,))
        connection.execute("delete from meta where key = ?", (COPIED,))
        connection.executemany("insert or replace into meta values (?, ?)", [(RESTORED, float(now_s)), (BEHIND, least)])
        said = f"this is a copy of {format_time(row['value'])}: what was done and delivered after that is not in it"
        audit = Audit(db)
        audit.add("restored", "project", actor=_ACTOR, reason=said)


def taken(db: Database, rows: typing.Iterable[typing.Mapping[str, typing.Any]]) -> list[ModelVersion]:
    """Return the versions of a model that are taken, or may be since it was copied.

    Parameters
    ----------
    rows : iterable of rows
        The versions that are known here.
    """
    found = db.row("select value from meta where key = ?", (RESTORED,))
    restored_s = found["value"] if found else 0.0
    known = [(parse_version(row["version"]), row["created_s"] < restored_s) for row in rows]
    copied = [version for version, is_copied in known if is_copied]
    perhaps = [ModelVersion(max(version.major for version in copied) + LEFT_OUT)] if copied else []
    perhaps += [
        ModelVersion(major, LEFT_OUT + max(version.minor for version in copied if version.major == major))
        for major in {version.major for version in copied}
    ]
    return [version for version, _ in known] + perhaps
