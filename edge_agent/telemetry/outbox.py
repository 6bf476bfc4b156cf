"""The outbox: pending sums become numbered batches that stay as they are until the cloud acknowledges them."""

from __future__ import annotations

import pathlib
import time
import typing

from edge_agent.database import open_database, transaction, used_bytes
from edge_agent.telemetry import measures
from edge_agent.telemetry.spool import BINS, STEPS
from shared.summary import N_SCORE_BINS
from shared.telemetry import Event, MeasuresRow, PairsRow, SumsRow

MakeBody = typing.Callable[[int, list[SumsRow], list[PairsRow], list[Event], tuple[MeasuresRow, ...]], bytes]


class Outbox:
    """The sending side of the spool; the sync child opens it in its own process.

    Parameters
    ----------
    path : Path
        The spool's database.
    """

    def __init__(self, path: pathlib.Path) -> None:
        self._db = open_database(path, STEPS)

    def _meta(self, key: str) -> typing.Any:  # noqa: ANN401 - a column of any type
        row = self._db.execute("select value from meta where key = ?", (key,)).fetchone()
        return row[0] if row else 0

    @property
    def spool_id(self) -> str:
        """Name of this spool; a wiped device gets another one, so its numbers can not look like repeats."""
        return str(self._meta("spool_id"))

    @property
    def watermark_s(self) -> float:
        """Event time up to which everything is added up."""
        return float(self._meta("watermark_s"))

    def sealed(self) -> tuple[int, bytes] | None:
        """Return the oldest sealed batch: it stays as it is until it is acknowledged."""
        row = self._db.execute("select sequence, body from sealed order by sequence limit 1").fetchone()
        return (row[0], row[1]) if row else None

    def all_sealed(self) -> list[tuple[int, bytes]]:
        """Return every sealed batch, the oldest first."""
        return [(row[0], row[1]) for row in self._db.execute("select sequence, body from sealed order by sequence")]

    def seal(
        self,
        make_body: MakeBody,
        *,
        max_rows: int = 5000,
    ) -> int:
        """Move what is pending into a batch with a number of its own, in one transaction; return the number."""
        with transaction(self._db):
            sums = self._db.execute(
                f"select * from sums order by day, model, version, epoch, arm, served limit {max_rows:d}"  # noqa: S608
            ).fetchall()
            pairs = self._db.execute(
                "select model, epoch, day, n, sum, sumsq, pos, neg, arm from pairs"
                " order by day, model, epoch, arm limit ?",
                (max_rows,),
            ).fetchall()
            events = self._db.execute(f"select * from events order by id limit {max_rows:d}").fetchall()  # noqa: S608
            sequence = int(self._meta("next_sequence"))
            body = make_body(
                sequence,
                [_sums_row(row) for row in sums],
                [PairsRow(*row) for row in pairs],
                [Event(*row[1:]) for row in events],
                measures.take(self._db, max_rows),
            )
            self._db.execute("insert into sealed values (?, ?)", (sequence, body))
            self._db.execute("update meta set value = ? where key = 'next_sequence'", (sequence + 1,))
            self._db.executemany(
                "delete from sums where model = ? and version = ? and epoch = ? and arm = ? and served = ? and day = ?",
                [row[:6] for row in sums],
            )
            self._db.executemany(
                "delete from pairs where model = ? and epoch = ? and day = ? and arm = ?",
                [(*row[:3], row[-1]) for row in pairs],
            )
            self._db.executemany("delete from events where id = ?", [row[:1] for row in events])
        return sequence

    def has_pending(self) -> bool:
        """Whether anything waits to be sealed."""
        row = self._db.execute(
            "select exists (select 1 from sums) or exists (select 1 from pairs) or exists (select 1 from events)"
            " or exists (select 1 from measures)"
        ).fetchone()
        return bool(row[0])

    def acknowledge(self, sequence: int) -> int:
        """Forget a batch that the cloud has; return 1 if it was there."""
        return self._db.execute("delete from sealed where sequence = ?", (sequence,)).rowcount

    def add_event(self, kind: str, detail: str = "") -> None:
        """Keep something for people to read."""
        self._db.execute(
            "insert into events (at_s, kind, detail) values (?, ?, ?)", (time.time(), kind[:64], detail[:2000])
        )

    def size_bytes(self) -> int:
        """Bytes in use in the database."""
        return used_bytes(self._db)

    def counts(self) -> dict[str, int]:
        """How much waits, by table."""
        tables = ("sums", "pairs", "measures", "visits", "waiting", "events", "sealed")
        return {name: self._db.execute(f"select count(*) from {name}").fetchone()[0] for name in tables}  # noqa: S608

    def close(self) -> None:
        """Close the database."""
        self._db.close()


def _sums_row(row: tuple[typing.Any, ...]) -> SumsRow:
    *columns, packed = row
    bins = BINS.unpack(packed)
    names = SumsRow.__struct_fields__
    values = [*columns, bins[: 2 * N_SCORE_BINS], bins[2 * N_SCORE_BINS :]]
    fields = dict(zip(names, values, strict=True))
    return SumsRow(**fields | {"served": bool(fields["served"])})
