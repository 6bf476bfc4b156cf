"""Lists that are judged as a whole, kept until the outcomes of what they showed can no longer come."""

from __future__ import annotations

import sqlite3
import typing

import msgspec

from edge_agent.records import Scored, Visited

STEP = """
create table visits (nonce blob primary key, closes_s real not null, body blob not null) without rowid;
create index visits_by_time on visits (closes_s);
create table shown (nonce blob primary key, visit blob not null, gain real, others blob) without rowid;
create index shown_by_visit on shown (visit)
"""


_decode = msgspec.msgpack.Decoder(tuple[Scored, ...]).decode


class Item(typing.NamedTuple):
    """What came of an item that was shown: its gain, 0 if there was no outcome, and what other arms said of it."""

    gain: float
    others: tuple[Scored, ...]


Closed = tuple[Visited, dict[bytes, Item]]


def open_visit(db: sqlite3.Connection, visited: Visited) -> None:
    """Remember a list."""
    body = msgspec.msgpack.encode(visited)
    if db.execute("insert or ignore into visits values (?, ?, ?)", (visited.nonce, visited.closes_s, body)).rowcount:
        rows = [(nonce, visited.nonce) for nonce, _ in visited.shown]
        db.executemany("insert or ignore into shown (nonce, visit) values (?, ?)", rows)


def take_gain(db: sqlite3.Connection, nonce: bytes, gain: float, seen_s: float) -> None:
    """Remember what an answer was worth, if it was shown in a list whose window has not closed by then."""
    db.execute(
        "update shown set gain = ? where nonce = ?"
        " and (select closes_s from visits where visits.nonce = shown.visit) >= ?",
        (gain, nonce, seen_s),
    )


def note_others(db: sqlite3.Connection, nonce: bytes, others: tuple[Scored, ...]) -> None:
    """Remember what other arms say of an answer, if it is in an open list."""
    db.execute("update shown set others = ? where nonce = ?", (msgspec.msgpack.encode(others), nonce))


def close_visits(db: sqlite3.Connection, up_to_s: float) -> typing.Iterator[Closed]:
    """Return and forget the lists whose window closed by then, each with what came of its items."""
    for nonce, body in db.execute("select nonce, body from visits where closes_s <= ?", (up_to_s,)).fetchall():
        shown = db.execute("select nonce, gain, others from shown where visit = ?", (nonce,)).fetchall()
        items = {name: Item(gain or 0.0, _decode(others) if others else ()) for name, gain, others in shown}
        _forget(db, nonce)
        yield msgspec.msgpack.decode(body, type=Visited), items


def drop_oldest(db: sqlite3.Connection, n: int) -> int:
    """Forget the lists that have been open longest, to make room; return how many that were."""
    oldest = db.execute("select nonce from visits order by closes_s limit ?", (n,)).fetchall()
    for (nonce,) in oldest:
        _forget(db, nonce)
    return len(oldest)


def _forget(db: sqlite3.Connection, nonce: bytes) -> None:
    db.execute("delete from shown where visit = ?", (nonce,))
    db.execute("delete from visits where nonce = ?", (nonce,))
