"""A process that ends in the middle of what it does: at the n-th write, to the database or to the signed repository."""

from __future__ import annotations

import sqlite3
import typing


class Killed(BaseException):
    """The process ends here."""


class Fuse:
    """Ends the process at the n-th write; 0 is never."""

    def __init__(self, n: int) -> None:
        self.left = n

    def burn(self) -> None:
        """Count a write that is about to happen."""
        self.left -= 1
        if self.left == 0:
            raise Killed


class Connection(sqlite3.Connection):
    """A connection on which the process can end."""

    fuse: typing.ClassVar[Fuse] = Fuse(0)

    def execute(self, sql: str, *more: typing.Any) -> sqlite3.Cursor:
        """Run a statement, unless the process ends at it."""
        if sql.split(None, 1)[0].lower() in ("insert", "update", "delete", "commit"):
            self.fuse.burn()
        return super().execute(sql, *more)
