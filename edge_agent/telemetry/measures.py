"""Numbers that come with outcomes, and memory that versions take: added up, kept, and handed on in batches."""

from __future__ import annotations

import sqlite3
import typing

import msgspec

from edge_agent.records import MemorySeen, NumbersSeen, Spec
from shared.clock import DAY_S, day_of
from shared.summary import MEMORY, MEMORY_SCALE, quantise, square
from shared.telemetry import MeasuresRow

_KEY = ("model", "version", "epoch", "arm", "served", "day", "name", "scale")
Key = tuple[str, str, int, int, bool, int, str, float]
STEP = f"""
create table measures (model text, version text, epoch int, arm int, served int, day int, name text, scale real,
    n int not null, sum int not null, sumsq int not null, primary key ({", ".join(_KEY)})) without rowid;
"""


class Memory(typing.Protocol):
    """What is looked up."""

    def see_outcome(self, nonce: bytes, event_s: int) -> bool:
        """Remember that something came; false if it had come before."""

    def spec(self, model: str, version: str) -> Spec | None:
        """Return how a version's answers are judged."""


class Measures(msgspec.Struct):
    """What a stretch of the journal adds up to.

    Attributes
    ----------
    rows : dict
        Key of a row to its count, sum, and sum of squares: fixed-point, in units of the scale.
    counts : dict
        Numbers that came twice, late, or for an answer of a version that nobody knows.
    """

    rows: dict[Key, list[int]] = msgspec.field(default_factory=dict)
    counts: dict[str, int] = msgspec.field(
        default_factory=lambda: {"duplicate_numbers": 0, "late_numbers": 0, "unknown_numbers": 0}
    )

    def take(self, record: NumbersSeen | MemorySeen, memory: Memory) -> None:
        """Add a record: each number of an answer once, within the label window; memory once a day."""
        if isinstance(record, MemorySeen):
            self._memory(record, memory)
        else:
            self._numbers(record, memory)

    def _memory(self, record: MemorySeen, memory: Memory) -> None:
        day = day_of(record.event_s)
        name = f"{MEMORY} {record.model} {record.version} {record.epoch} {record.arm} {day}"
        if memory.see_outcome(name.encode(), int((day + 1) * DAY_S)):  # not forgotten before the day is over
            key = (record.model, record.version, record.epoch, record.arm, True, day, MEMORY, MEMORY_SCALE)
            self._add(key, record.size_bytes)

    def _numbers(self, record: NumbersSeen, memory: Memory) -> None:
        spec = memory.spec(record.model, record.version)
        if spec is None:
            self.counts["unknown_numbers"] += len(record.numbers)
            return
        if record.seen_s > record.event_s + spec.label_window_s:
            self.counts["late_numbers"] += len(record.numbers)
            return
        day = day_of(record.event_s)
        for name, value, scale in record.numbers:
            if memory.see_outcome(record.nonce + name.encode(), record.event_s):
                self._add((record.model, record.version, record.epoch, record.arm, True, day, name, scale), value)
            else:
                self.counts["duplicate_numbers"] += 1

    def _add(self, key: Key, value: float) -> None:
        row = self.rows.setdefault(key, [0, 0, 0])
        quantised = quantise(value / key[-1])
        row[0] += 1
        row[1] += quantised
        row[2] += square(quantised)


def store(db: sqlite3.Connection, measures: Measures) -> None:
    """Add to what waits in the spool."""
    marks = ", ".join("?" * (len(_KEY) + 3))
    db.executemany(
        f"insert into measures values ({marks}) on conflict do update set"  # noqa: S608 - constant text
        " n = n + excluded.n, sum = sum + excluded.sum, sumsq = sumsq + excluded.sumsq",
        [(*key, *row) for key, row in measures.rows.items()],
    )


def take(db: sqlite3.Connection, max_rows: int) -> tuple[MeasuresRow, ...]:
    """Return what waits in the spool, and forget it; inside the transaction that seals a batch."""
    rows = db.execute(f"select * from measures order by day limit {max_rows:d}").fetchall()  # noqa: S608 - a number
    where = " and ".join(f"{name} = ?" for name in _KEY)
    db.executemany(f"delete from measures where {where}", [row[: len(_KEY)] for row in rows])  # noqa: S608 - constant
    fields = [dict(zip(MeasuresRow.__struct_fields__, row, strict=True)) for row in rows]
    return tuple(MeasuresRow(**row | {"served": bool(row["served"])}) for row in fields)
