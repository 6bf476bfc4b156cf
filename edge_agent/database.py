"""The device's SQLite databases: every commit on disk, migrated forward only."""

from __future__ import annotations

import contextlib
import pathlib
import sqlite3
import typing

from shared.errors import ConflictError, WireError

_BUSY_S = 30.0


def open_database(path: pathlib.Path, steps: typing.Sequence[str]) -> sqlite3.Connection:
    """Open one of the device's databases: WAL, every commit on disk, migrated forward only.

    Parameters
    ----------
    steps : sequence of str
        SQL that leads from each version to the next; the first makes an empty database. A step that was ever released
        stays as it is.

    Raises
    ------
    ConflictError
        A newer program wrote it; or it can not be opened or written.
    WireError
        The file is damaged.
    """
    try:
        return _open(path, steps)
    except sqlite3.OperationalError as err:
        raise ConflictError(f"{path} can not be opened: {err}", fix="Look at its folder and the disk.") from err
    except sqlite3.DatabaseError as err:
        raise WireError(f"{path} is damaged: {err}", fix="Move it aside; what it held is lost.") from err


def _open(path: pathlib.Path, steps: typing.Sequence[str]) -> sqlite3.Connection:
    db = sqlite3.connect(path, timeout=_BUSY_S, isolation_level=None, check_same_thread=False)
    db.execute("pragma journal_mode = wal")
    db.execute("pragma synchronous = full")
    (seen,) = db.execute("pragma user_version").fetchone()
    if seen > len(steps):
        db.close()
        raise ConflictError(f"{path.name} has version {seen}, this program knows {len(steps)}", fix="Update the agent.")
    if seen < len(steps):
        with transaction(db):
            (seen,) = db.execute("pragma user_version").fetchone()
            for statement in ";".join(steps[seen:]).split(";"):
                db.execute(statement)
            db.execute(f"pragma user_version = {len(steps)}")
    return db


@contextlib.contextmanager
def transaction(db: sqlite3.Connection) -> typing.Iterator[None]:
    """All or nothing, with the write lock from the start."""
    db.execute("begin immediate")
    try:
        yield
        db.execute("commit")
    except BaseException:
        if db.in_transaction:  # a full disk can end it by itself
            db.execute("rollback")
        raise


def used_bytes(db: sqlite3.Connection) -> int:
    """Bytes in use in a database, free pages not counted."""
    (pages,) = db.execute("pragma page_count").fetchone()
    (free,) = db.execute("pragma freelist_count").fetchone()
    (size,) = db.execute("pragma page_size").fetchone()
    return int((pages - free) * size)
