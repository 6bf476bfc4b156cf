"""Data sets: immutable parts in order, and versions named by hash of the parts they hold."""

from __future__ import annotations

import hashlib
import json
import time
import typing

from cloud.store.database import Database
from shared.errors import ConflictError, NotFoundError

Row = dict[str, typing.Any]


class Datasets:
    """The parts of all data sets.

    Parameters
    ----------
    db : Database
        The project's database.
    """

    def __init__(self, db: Database) -> None:
        self._db = db

    def add_part(
        self, dataset: str, sha256: str, *, rows: int, size: int, span: tuple[float, float], source: str, report: object
    ) -> str:
        """Append a part that is already stored; return the data set's new version.

        Raises
        ------
        ConflictError
            The same rows were added before.
        """
        with self._db.transaction() as connection:
            before = self._db.row("select dataset, source from parts where sha256 = ?", (sha256,))
            if before:
                raise ConflictError(
                    f"the same rows were added to {before['dataset']!r} before (from {before['source']})",
                    fix="Nothing needs to be done.",
                )
            position = self._db.rows("select count(*) as n from parts where dataset = ?", (dataset,))[0]["n"]
            connection.execute(
                "insert into parts values (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
                (sha256, dataset, position, rows, size, *span, time.time(), source, json.dumps(report)),
            )
            parts = self.parts(dataset)
            version = version_of([part["sha256"] for part in parts])
            connection.execute(
                "insert or ignore into data_versions values (?, ?, ?, ?, ?)",
                (version, dataset, len(parts), sum(part["rows"] for part in parts), time.time()),
            )
        return version

    def parts(self, dataset: str) -> list[Row]:
        """Parts of a data set, in the order in which they were added."""
        return self._db.rows("select * from parts where dataset = ? order by position", (dataset,))

    def latest(self, dataset: str) -> Row:
        """The newest version of a data set.

        Raises
        ------
        NotFoundError
            There is no data.
        """
        row = self._db.row("select * from data_versions where dataset = ? order by n_parts desc limit 1", (dataset,))
        if row is None:
            raise NotFoundError(f"the data set {dataset!r} is empty", fix="Add rows: covey data add FILE")
        return row

    def version(self, version: str) -> Row:
        """Look a version up by its name or the beginning of it."""
        rows = self._db.rows(
            "select * from data_versions where substr(version, 1, length(?1)) = ?1 limit 2", (version,)
        )
        if len(rows) != 1 or not version:
            word = "more than one" if rows else "no"
            raise NotFoundError(f"{word} data version {version!r}", fix="See: covey data list")
        return rows[0]

    def parts_of(self, version: str) -> list[Row]:
        """Parts of a version."""
        row = self.version(version)
        return self.parts(row["dataset"])[: row["n_parts"]]

    def all(self) -> list[Row]:
        """All data sets, each with its newest version and its span of time."""
        return self._db.rows(
            "select p.dataset, count(*) as parts, sum(p.rows) as rows, min(p.from_s) as from_s, max(p.to_s) as to_s,"
            " (select version from data_versions v where v.dataset = p.dataset order by n_parts desc limit 1)"
            " as version"
            " from parts p group by p.dataset order by p.dataset"
        )


def version_of(parts: typing.Sequence[str]) -> str:
    """Name of the version that holds these parts in this order.

    >>> version_of(["a", "b"]) == version_of(["b", "a"])
    False
    """
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:16]
