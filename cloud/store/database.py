"""Open a project's SQLite database: one connection a thread, WAL, every commit on disk, migrations in order."""

from __future__ import annotations

import array
import contextlib
import fcntl
import pathlib
import sqlite3
import threading
import typing

import numpy as np
import sqlite_utils

from cloud.store.schema import migrations
from shared.errors import ConflictError

_BUSY_S = 30.0
_FULL = (1 << 63) - 1


class Database:
    """A project's database.

    Parameters
    ----------
    path : Path
        The file; made, with its tables, if absent.
    """

    def __init__(self, path: pathlib.Path) -> None:
        self._path = path
        self._local = threading.local()
        path.parent.mkdir(parents=True, exist_ok=True)
        with _lock(path.with_suffix(".lock")):
            known = {migration.name for migration in migrations.pending(self.tools)} | {
                migration.name for migration in migrations.applied(self.tools)
            }
            unknown = known - {migration.name for migration in migrations.pending(_empty())}
            if unknown:
                raise ConflictError(
                    f"{path} was written by a newer Covey (migration {min(unknown)!r})", fix="Update Covey."
                )
            migrations.apply(self.tools)

    @property
    def connection(self) -> sqlite3.Connection:
        """Connection of this thread, in autocommit mode."""
        connection: sqlite3.Connection | None = getattr(self._local, "connection", None)
        if connection is None:
            connection = sqlite3.connect(self._path, timeout=_BUSY_S, isolation_level=None)
            connection.execute("pragma journal_mode = wal")
            connection.execute("pragma synchronous = full")
            connection.execute("pragma foreign_keys = on")
            connection.create_function("add_bins", 2, add_bins, deterministic=True)
            self._local.connection = connection
        return connection

    @property
    def tools(self) -> sqlite_utils.Database:
        """Connection of this thread as sqlite-utils sees it: for schema and admin reads."""
        tools: sqlite_utils.Database | None = getattr(self._local, "tools", None)
        if tools is None:
            tools = self._local.tools = sqlite_utils.Database(self.connection, execute_plugins=False)
        return tools

    @contextlib.contextmanager
    def transaction(self) -> typing.Iterator[sqlite3.Connection]:
        """All or nothing, with the write lock from the start; an inner one joins the outer."""
        connection = self.connection
        if connection.in_transaction:
            yield connection
            return
        connection.execute("begin immediate")
        try:
            yield connection
        except BaseException:
            connection.execute("rollback")
            raise
        connection.execute("commit")

    def rows(
        self, sql: str, parameters: typing.Sequence[object] | dict[str, object] = ()
    ) -> list[dict[str, typing.Any]]:
        """Run a query; return rows as dictionaries."""
        cursor = self.connection.execute(sql, parameters)
        names = [column[0] for column in cursor.description or ()]
        return [dict(zip(names, row, strict=True)) for row in cursor]

    def row(
        self, sql: str, parameters: typing.Sequence[object] | dict[str, object] = ()
    ) -> dict[str, typing.Any] | None:
        """Run a query; return its first row."""
        rows = self.rows(sql, parameters)
        return rows[0] if rows else None

    def changes(self) -> tuple[int, int]:
        """Return numbers that are others once anything was changed: by another connection, by this one."""
        (others,) = self.connection.execute("pragma data_version").fetchone()
        return int(others), self.connection.total_changes

    @contextlib.contextmanager
    def one_look(self) -> typing.Iterator[None]:
        """Let this thread read evidence once and judge all by the same; what comes meanwhile is for the next look."""
        self._local.seen = {}
        try:
            yield
        finally:
            self._local.seen = None

    def seen_rows(
        self,
        sql: str,
        parameters: typing.Sequence[object],
        change: typing.Callable[[list[dict[str, typing.Any]]], list[dict[str, typing.Any]]] = lambda rows: rows,
    ) -> list[dict[str, typing.Any]]:
        """Run a query, or return what it gave before in the same look; nobody may change these rows.

        Parameters
        ----------
        change : callable
            What is made of the rows before they are kept.
        """
        seen = getattr(self._local, "seen", None)
        if seen is None:
            return change(self.rows(sql, parameters))
        key = (sql, tuple(parameters))
        if key not in seen:
            seen[key] = change(self.rows(sql, parameters))
        rows: list[dict[str, typing.Any]] = seen[key]
        return rows

    def close(self) -> None:
        """Close this thread's connection."""
        connection = getattr(self._local, "connection", None)
        if connection is not None:
            connection.close()
            self._local.connection = self._local.tools = None


def _empty() -> sqlite_utils.Database:
    return sqlite_utils.Database(sqlite3.connect(":memory:"), execute_plugins=False)


@contextlib.contextmanager
def _lock(path: pathlib.Path) -> typing.Iterator[None]:
    """Two processes that open a new database at once must not both migrate it."""
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def add_bins(a: bytes, b: bytes) -> bytes:
    """Add two packed lists of 64-bit counts of the same length; a count that is full stays full.

    >>> add_bins(pack_bins([1, 2]), pack_bins([10, 20])) == pack_bins([11, 22])
    True
    """
    pairs = zip(array.array("q", a), array.array("q", b), strict=True)
    return array.array("q", [min(x + y, _FULL) for x, y in pairs]).tobytes()


def pack_bins(counts: typing.Iterable[int]) -> bytes:
    """Pack counts into 64-bit whole numbers."""
    return array.array("q", counts).tobytes()


def sum_bins(packed: typing.Sequence[bytes]) -> list[int]:
    """Add packed lists of counts of the same length up; nothing of nothing.

    >>> sum_bins([pack_bins([1, 2]), pack_bins([10, 20]), pack_bins([100, 200])])
    [111, 222]
    """
    if not packed:
        return []
    counts = np.stack([np.frombuffer(one, np.int64) for one in packed])
    if int(np.abs(counts, dtype=np.float64).max(initial=0.0)) >= _FULL // len(packed):  # a sum might be too large
        counts = counts.astype(object)
    return [int(n) for n in counts.sum(axis=0)]
