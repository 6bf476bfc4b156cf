"""The spool: sums, pairs and waiting outputs in SQLite, until a batch takes them away."""

from __future__ import annotations

import os
import pathlib
import struct
import time
import typing

import msgspec

from edge_agent.database import open_database, transaction, used_bytes
from edge_agent.records import Scored, Spec, Visited
from edge_agent.telemetry import measures, visits
from edge_agent.telemetry.fold import Folded, Waiting
from edge_agent.telemetry.journal import Position
from edge_agent.telemetry.sums import COUNTERS, QUALITY, Pairs, Sums
from shared.summary import N_LATENCY_BINS, N_SCORE_BINS

_COUNTS = COUNTERS + QUALITY
_DROPPED = 500
_encode = msgspec.msgpack.Encoder().encode
BINS = struct.Struct(f"<{2 * N_SCORE_BINS + N_LATENCY_BINS}q")
STEPS = (
    f"""
create table meta (key text primary key, value) without rowid;
create table sums (model text, version text, epoch int, arm int, served int, day int,
    {", ".join(f"{name} int not null" for name in _COUNTS)}, bins blob not null,
    primary key (model, version, epoch, arm, served, day)) without rowid;
create table pairs (model text, epoch int, day int,
    n int not null, sum int not null, sumsq int not null, pos int not null, neg int not null,
    primary key (model, epoch, day)) without rowid;
create table waiting (nonce blob primary key, event_s int not null, body blob not null) without rowid;
create index waiting_by_time on waiting (event_s);
create table seen (nonce blob primary key, event_s int not null) without rowid;
create index seen_by_time on seen (event_s);
create table specs (model text, version text, body blob not null, primary key (model, version)) without rowid;
create table events (id integer primary key, at_s real not null, kind text not null, detail text not null);
create table sealed (sequence integer primary key, body blob not null);
create table totals (name text primary key, value int not null) without rowid;
""",
    measures.STEP,
    # Outputs that wait are written in another form since; what they would have told is lost.
    """
create table pairs_by_arm (model text, epoch int, day int, arm int,
    n int not null, sum int not null, sumsq int not null, pos int not null, neg int not null,
    primary key (model, epoch, day, arm)) without rowid;
insert into pairs_by_arm select model, epoch, day, 1, n, sum, sumsq, pos, neg from pairs;
drop table pairs;
alter table pairs_by_arm rename to pairs;
delete from waiting;
""",
    visits.STEP,
    # Whoever asks knows the event time, so one order serves to find, to forget what is old, and to write at the end.
    """
create table waiting_in_order (event_s int not null, nonce blob not null, body blob not null,
    primary key (event_s, nonce)) without rowid;
insert into waiting_in_order select event_s, nonce, body from waiting;
drop table waiting;
alter table waiting_in_order rename to waiting;
create table seen_in_order (event_s int not null, nonce blob not null, primary key (event_s, nonce)) without rowid;
insert into seen_in_order select event_s, nonce from seen;
drop table seen;
alter table seen_in_order rename to seen;
""",
)


class Spool:
    """The device's spool. Server and sync child each open their own.

    Parameters
    ----------
    path : Path
        The database.
    limit_bytes : int
        Budget; beyond it events go first, then waiting outputs, then open visits, all counted; sums stay.
    """

    def __init__(self, path: pathlib.Path, limit_bytes: int) -> None:
        self._db = open_database(path, STEPS)
        self._limit_bytes = limit_bytes
        with transaction(self._db):
            self._default("spool_id", os.urandom(8).hex())
            self._default("next_sequence", 1)
        self.spool_id = str(self._get("spool_id"))

    def _default(self, key: str, value: object) -> None:
        self._db.execute("insert or ignore into meta values (?, ?)", (key, value))

    def _get(self, key: str, default: object = 0) -> typing.Any:  # noqa: ANN401 - a column of any type
        row = self._db.execute("select value from meta where key = ?", (key,)).fetchone()
        return row[0] if row else default

    def _set(self, key: str, value: object) -> None:
        self._db.execute("insert or replace into meta values (?, ?)", (key, value))

    def take_waiting(self, nonce: bytes, event_s: int) -> Waiting | None:
        """Return and forget the outputs that wait under the nonce of an answer, and its event time."""
        which = "delete from waiting where event_s = ? and nonce = ? returning body"
        row = self._db.execute(which, (event_s, nonce)).fetchone()
        return msgspec.msgpack.decode(row[0], type=Waiting) if row else None

    def see_outcome(self, nonce: bytes, event_s: int) -> bool:
        """Remember that an outcome came; false if it had come before."""
        return self._db.execute("insert or ignore into seen values (?, ?)", (event_s, nonce)).rowcount == 1

    def spec(self, model: str, version: str) -> Spec | None:
        """Return how a version's answers are judged."""
        row = self._db.execute("select body from specs where model = ? and version = ?", (model, version)).fetchone()
        return msgspec.msgpack.decode(row[0], type=Spec) if row else None

    def open_visit(self, visited: Visited) -> None:
        """Remember a list until its outcomes can no longer come."""
        visits.open_visit(self._db, visited)

    def take_gain(self, nonce: bytes, gain: float, seen_s: float) -> None:
        """Remember what an answer in a list was worth, if it is in one that is open."""
        visits.take_gain(self._db, nonce, gain, seen_s)

    def note_others(self, nonce: bytes, others: tuple[Scored, ...]) -> None:
        """Remember what other arms say of an answer, if it is in an open list."""
        visits.note_others(self._db, nonce, others)

    def close_visits(self, up_to_s: float) -> typing.Iterator[visits.Closed]:
        """Return and forget the lists whose outcomes had to come before a time, with what came of their items."""
        return visits.close_visits(self._db, up_to_s)

    def add_specs(self, specs: typing.Iterable[Spec]) -> None:
        """Keep how versions are judged, so that late outcomes can be, after the version is gone."""
        with transaction(self._db):
            self._db.executemany(
                "insert or replace into specs values (?, ?, ?)",
                [(spec.model, spec.version, msgspec.msgpack.encode(spec)) for spec in specs],
            )

    @property
    def position(self) -> Position:
        """How far the journal has been added up."""
        return Position(int(self._get("segment")), int(self._get("offset")))

    @property
    def watermark_s(self) -> float:
        """Event time up to which everything is added up."""
        return float(self._get("watermark_s", 0.0))

    def store(self, add_up: typing.Callable[[], Folded], position: Position, watermark_s: float | None) -> Folded:
        """Fold and keep the result in one transaction with the journal's position, so that it counts once."""
        with transaction(self._db):
            folded = add_up()
            for key, sums in folded.sums.items():
                self._add_sums(key, sums)
            for pair_key, pairs in folded.pairs.items():
                self._add_pairs(pair_key, pairs)
            measures.store(self._db, folded.measures)
            self._db.executemany(
                "insert or replace into waiting values (?, ?, ?)",
                [(at, nonce, _encode(waits)) for nonce, (at, waits) in folded.waiting.items()],
            )
            self._count(folded)
            self._set("segment", position.segment)
            self._set("offset", position.offset)
            if watermark_s is not None:
                self._set("watermark_s", max(watermark_s, self.watermark_s))
        return folded

    def _count(self, folded: Folded) -> None:
        served = [sums.counts for key, sums in folded.sums.items() if key[4]]
        increments = {name: sum(counts[name] for counts in served) for name in (*COUNTERS, "outcomes")}
        increments |= {
            "duplicate_outcomes": folded.n_duplicates,
            "late_outcomes": folded.n_late,
            "unknown_outcomes": folded.n_unknown,
            "approximate_outcomes": folded.n_approximate,
        } | folded.measures.counts
        self._db.executemany(
            "insert into totals values (?, ?) on conflict (name) do update set value = value + excluded.value",
            [(name, n) for name, n in increments.items() if n],
        )

    def _add_sums(self, key: tuple[object, ...], sums: Sums) -> None:
        where = "model = ? and version = ? and epoch = ? and arm = ? and served = ? and day = ?"
        row = self._db.execute(f"select bins from sums where {where}", key).fetchone()  # noqa: S608 - constant text
        bins = [*sums.score_bins, *sums.latency_bins]
        if row:
            bins = [a + b for a, b in zip(bins, BINS.unpack(row[0]), strict=True)]
            changes = ", ".join(f"{name} = {name} + ?" for name in _COUNTS)
            self._db.execute(
                f"update sums set {changes}, bins = ? where {where}",  # noqa: S608 - constant text
                [sums.counts[name] for name in _COUNTS] + [BINS.pack(*bins), *key],
            )
        else:
            marks = ", ".join("?" * (len(key) + len(_COUNTS) + 1))
            values = [*key, *(sums.counts[name] for name in _COUNTS), BINS.pack(*bins)]
            self._db.execute(f"insert into sums values ({marks})", values)  # noqa: S608 - constant text

    def _add_pairs(self, key: tuple[object, ...], pairs: Pairs) -> None:
        self._db.execute(
            "insert into pairs values (?, ?, ?, ?, ?, ?, ?, ?, ?) on conflict (model, epoch, day, arm) do update set"
            " n = n + excluded.n, sum = sum + excluded.sum, sumsq = sumsq + excluded.sumsq,"
            " pos = pos + excluded.pos, neg = neg + excluded.neg",
            (*key, pairs.n, pairs.sum, pairs.sumsq, pairs.pos, pairs.neg),
        )

    def add_event(self, kind: str, detail: str = "", at_s: float | None = None) -> None:
        """Keep something for people to read."""
        at = time.time() if at_s is None else at_s
        self._db.execute("insert into events (at_s, kind, detail) values (?, ?, ?)", (at, kind[:64], detail[:2000]))

    def make_room(self, event_s: float) -> None:
        """Forget what no outcome can need any more, then keep to the budget."""
        windows = [
            msgspec.msgpack.decode(body, type=Spec).label_window_s
            for (body,) in self._db.execute("select body from specs")
        ]
        oldest = event_s - max(windows, default=0.0)
        with transaction(self._db):
            self._db.execute("delete from waiting where event_s < ?", (oldest,))
            self._db.execute("delete from seen where event_s < ?", (oldest,))
        for table in ("events", "waiting", "visits"):
            while used_bytes(self._db) > self._limit_bytes and self._drop_oldest(table):
                pass

    def _drop_oldest(self, table: str) -> bool:
        with transaction(self._db):
            if table == "visits":
                gone = visits.drop_oldest(self._db, _DROPPED)
            else:
                key = "id" if table == "events" else "(event_s, nonce)"
                columns = key.strip("()")
                oldest = f"select {columns} from {table} order by {columns} limit {_DROPPED}"  # noqa: S608 - constant text
                gone = self._db.execute(f"delete from {table} where {key} in ({oldest})").rowcount  # noqa: S608
            name = f"dropped_{table}"
            self._db.execute(
                "insert into totals values (?, ?) on conflict (name) do update set value = value + excluded.value",
                (name, gone),
            )
        return gone > 0

    def totals(self) -> dict[str, int]:
        """Counts since the device joined."""
        return dict(self._db.execute("select name, value from totals order by name").fetchall())

    def close(self) -> None:
        """Close the database."""
        self._db.close()
