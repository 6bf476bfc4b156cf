"""Taking batches in: once each, whole or not at all, in whatever order they come."""

from __future__ import annotations

import pathlib
import random
import sqlite3
import threading
import time
import typing

import msgspec
import pytest

from cloud.config import Project
from cloud.store.database import Database
from cloud.store.ingest import ingest
from cloud.store.store import Store
from shared import codec
from shared.errors import ConflictError, ForbiddenError, NotFoundError, WireError
from shared.summary import MEMORY, MEMORY_SCALE
from shared.telemetry import Batch, DeviceStatus, Event, MeasuresRow, ModelStatus, PairsRow, SumsRow

WINDOW_S = 900.0
Plain = dict[str, typing.Any]


@pytest.fixture
def store(empty_store: Store) -> Store:
    empty_store.fleet.add_token("t", "secret", "north", uses=9, lifetime_s=60)
    for device in ("till-1", "till-2"):
        empty_store.fleet.join(device, f"0{device[-1]}" * 32, "t", "secret")
    return empty_store


def batch(sequence: int = 0, *, spool: str = "s", device: str = "till-1", **more: typing.Any) -> Batch:
    said: Plain = {
        "sent_s": 1.0,
        "status": DeviceStatus(generation=f"g{sequence}", state="good", watermark_s=float(sequence)),
        "sums": (_row(sequence),),
        "pairs": (PairsRow("sales", 1, 20_000, 1, -5, 25, 0, 1),),
        "events": (Event(at_s=1.0, kind="committed", detail=str(sequence)),),
    }
    return Batch(**(said | {"device": device, "spool": spool, "sequence": sequence} | more))


def _row(sequence: int) -> SumsRow:
    return SumsRow(
        model="sales", version="v1", epoch=0, arm=0, served=True, day=20_000 + sequence % 3, requests=1 + sequence
    )


def tables(store: Store) -> Plain:
    """Everything a batch can change, without the times of its coming."""
    queries = {
        "inbox": "select device, spool, sequence, sha256 from inbox",
        "sums": "select * from sums",
        "pairs": "select * from pairs",
        "events": "select device, kind, detail from device_events order by detail, device",
        "devices": "select device, generation, watermark_s, report, report_key from devices",
    }
    return {name: store.db.rows(sql) for name, sql in queries.items()} | {"revision": store.evidence.revision()}


def test_batches_add_up_to_the_same_in_every_order_and_however_often_they_come(
    store: Store, tmp_path: pathlib.Path
) -> None:
    batches = [batch(i, device=device) for i in range(6) for device in ("till-1", "till-2")]
    for one in batches:
        assert ingest(store.db, one, WINDOW_S)
    wanted = tables(store)
    for seed in range(3):
        other = _another(store, tmp_path / f"{seed}.db")
        mixed = [*batches, *batches[::2]]
        random.Random(seed).shuffle(mixed)
        assert sum(ingest(other.db, one, WINDOW_S) for one in mixed) == len(batches)
        assert tables(other) == wanted
        other.close()


def _another(store: Store, path: pathlib.Path) -> Store:
    """A second store with the same devices."""
    other = Store.__new__(Store)
    other.__dict__ |= store.__dict__
    other.db = Database(path)
    other.evidence = type(store.evidence)(other.db)
    for row in store.db.rows("select * from devices"):
        blank = row | {"seen_s": 0, "online_since_s": 0, "generation": "", "report": "{}", "report_key": ""}
        blank |= {"watermark_s": 0.0, "moved_s": 0.0, "channel_sequence": 0, "generation_state": ""}
        other.db.connection.execute(f"insert into devices values ({', '.join('?' * len(blank))})", list(blank.values()))
    return other


def test_numbers_may_have_gaps_and_spools_may_be_new(store: Store) -> None:
    for sequence, spool in [(0, "a"), (7, "a"), (3, "a"), (0, "b"), (1 << 53, "b")]:
        assert ingest(store.db, batch(sequence, spool=spool, sums=()), WINDOW_S)
    assert len(tables(store)["inbox"]) == 5


def test_an_older_batch_that_comes_late_counts_and_does_not_say_what_the_device_does_now(store: Store) -> None:
    for sequence in (5, 2):
        ingest(store.db, batch(sequence), WINDOW_S)
    assert store.fleet.get("till-1")["generation"] == "g5"
    assert store.evidence.totals("till-1")["requests"] == 6 + 3


@pytest.mark.parametrize(("first", "second"), [("s", "sx"), ("sx", "s"), ("zz", "aa")])
def test_a_new_spool_says_what_the_device_does_now_whatever_its_name(store: Store, first: str, second: str) -> None:
    ingest(store.db, batch(9, spool=first), WINDOW_S)
    ingest(store.db, batch(0, spool=second), WINDOW_S)
    assert store.fleet.get("till-1")["generation"] == "g0"


def test_the_same_number_with_other_content_is_refused_and_changes_nothing(store: Store) -> None:
    ingest(store.db, batch(1), WINDOW_S)
    before = tables(store)
    with pytest.raises(ConflictError, match="sequence: another batch came as number 1 of spool 's'"):
        ingest(store.db, batch(1, sent_s=2.0), WINDOW_S)
    assert tables(store) == before
    assert not ingest(store.db, batch(1), WINDOW_S)


def test_a_batch_from_before_contents_were_kept_counts_as_the_same(store: Store) -> None:
    ingest(store.db, batch(1), WINDOW_S)
    store.db.connection.execute("update inbox set sha256 = ''")
    assert not ingest(store.db, batch(1, sent_s=2.0), WINDOW_S)


def test_a_repeat_still_says_that_the_device_is_there(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    ingest(store.db, batch(1), WINDOW_S)
    later = time.time() + 100
    monkeypatch.setattr(time, "time", lambda: later)
    ingest(store.db, batch(1), WINDOW_S)
    assert store.fleet.get("till-1")["seen_s"] == later


def test_online_since_begins_anew_after_a_silence(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    start = time.time()
    seen = []
    for i, at_s in enumerate((start, start + 800, start + 1600, start + 9000)):
        monkeypatch.setattr(time, "time", lambda at_s=at_s: at_s)
        ingest(store.db, batch(i), WINDOW_S)
        seen.append(store.fleet.get("till-1")["online_since_s"] - start)
    assert seen == [0, 0, 0, 9000]


@pytest.mark.parametrize(
    ("one", "error"),
    [
        (batch(device="nobody"), NotFoundError),
        (batch(status=DeviceStatus(agent="x" * (1 << 18))), WireError),
        (batch(status=DeviceStatus(models=tuple(ModelStatus(model=f"m{i}") for i in range(9000)))), WireError),
    ],
)
def test_what_is_refused_leaves_no_trace(store: Store, one: Batch, error: type[Exception]) -> None:
    before = tables(store)
    with pytest.raises(error):
        ingest(store.db, one, WINDOW_S)
    assert tables(store) == before


def test_a_retired_device_is_refused(store: Store) -> None:
    store.fleet.retire("till-1")
    with pytest.raises(ForbiddenError, match="device: 'till-1' was retired"):
        ingest(store.db, batch(), WINDOW_S)


class Broken(sqlite3.Connection):
    """A connection that breaks at the n-th statement."""

    left: typing.ClassVar[int] = 0

    def _count(self) -> None:
        type(self).left -= 1
        if self.left == 0:
            raise sqlite3.OperationalError("disk I/O error")

    def execute(self, sql: str, *more: typing.Any) -> sqlite3.Cursor:
        if sql not in ("begin immediate", "rollback"):
            self._count()
        return super().execute(sql, *more)

    def executemany(self, sql: str, *more: typing.Any) -> sqlite3.Cursor:
        self._count()
        return super().executemany(sql, *more)


def test_a_batch_is_stored_whole_or_not_at_all(empty: Project, store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    before, connect = tables(store), sqlite3.connect
    devices = store.db.rows("select * from devices")
    broken = 0
    for n in range(1, 30):
        with monkeypatch.context() as patch:
            patch.setattr(sqlite3, "connect", lambda *given, **named: connect(*given, factory=Broken, **named))
            other = Database(empty.database)
            assert isinstance(other.connection, Broken)
            Broken.left = n
            try:
                ingest(other, batch(4), WINDOW_S)
            except sqlite3.OperationalError:
                broken += 1
                assert tables(store) == before, f"broken at statement {n}"
                assert store.db.rows("select * from devices") == devices
            else:
                break
            finally:
                Broken.left = 0
                other.close()
    assert broken >= 8
    assert tables(store) != before
    assert not ingest(store.db, batch(4), WINDOW_S)


def test_the_same_batch_from_many_threads_counts_once(empty: Project, store: Store) -> None:
    fresh: list[bool] = []

    def deliver() -> None:
        db = Database(empty.database)
        fresh.extend(ingest(db, batch(i), WINDOW_S) for i in range(5))
        db.close()

    threads = [threading.Thread(target=deliver) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (len(fresh), sum(fresh)) == (20, 5)
    assert store.evidence.totals("till-1")["requests"] == 1 + 2 + 3 + 4 + 5


def test_what_is_stored_reads_back_as_it_was_sent(store: Store) -> None:
    status = DeviceStatus(
        generation="g", state="trial", models=(ModelStatus(model="m", incumbent="v1", refused={"v2": "why"}),)
    )
    ingest(store.db, batch(status=status), WINDOW_S)
    kept = store.fleet.get("till-1")["report"]
    assert codec.to_json(msgspec.convert(kept, DeviceStatus)) == codec.to_json(status)


# ---- numbers


def _measured(name: str, scale: float, n: int, total: int) -> MeasuresRow:
    return MeasuresRow(
        model="sales", version="v2", epoch=5, arm=1, served=True, day=20_000,
        name=name, scale=scale, n=n, sum=total, sumsq=total * total,
    )  # fmt: skip


def test_numbers_add_up_by_name_and_scale_and_memory_is_kept_apart(store: Store) -> None:
    first = (_measured("revenue", 10.0, 2, 7), _measured("revenue", 1.0, 1, 5), _measured(MEMORY, MEMORY_SCALE, 1, 99))
    for i in range(2):
        assert ingest(store.db, batch(i, measures=first), WINDOW_S)
        assert not ingest(store.db, batch(i, measures=first), WINDOW_S)
    found = store.measures.numbers("sales", [5], before_day=20_001)
    assert [(one["name"], one["scale"], one["n"], one["sum"], one["sumsq"]) for one in found] == [
        ("revenue", 1.0, 2, 10, 50), ("revenue", 10.0, 4, 14, 98),
    ]  # fmt: skip
    assert {(one["epoch"], one["arm"], one["device"], one["region"], one["day"]) for one in found} == {
        (5, 1, "till-1", "north", 20_000)
    }
    (memory,) = store.measures.memory("sales", [5])
    assert (memory["version"], memory["n"], memory["sum"]) == ("v2", 2, 198)
    assert store.measures.numbers("sales", [5], before_day=20_000) == []
    assert store.measures.numbers("sales", [6], before_day=20_001) == []


def test_nonsense_that_is_too_large_to_add_up_breaks_no_query(store: Store) -> None:
    huge = msgspec.structs.replace(_measured("revenue", 1.0, 1 << 53, 1 << 62), sumsq=1 << 62)
    for i in range(4):
        ingest(store.db, batch(i, measures=(huge,)), WINDOW_S)
    (row,) = store.measures.numbers("sales", [5], before_day=20_001)
    assert row["n"] == 1 << 55


# ---- what a look at the fleet sees


def test_all_that_is_judged_in_one_look_is_judged_by_the_same_evidence(store: Store) -> None:
    def seen() -> list[int]:
        rows = store.evidence.faults("sales", [0])
        assert rows == store.evidence.faults("sales", [0])
        return [row["requests"] for row in rows]

    ingest(store.db, batch(1), WINDOW_S)
    with store.db.one_look():
        assert seen() == [2]
        ingest(store.db, batch(2), WINDOW_S)
        assert seen() == [2]
        assert [row["requests"] for row in store.evidence.served("sales", [0], before_day=20_003)] == [2, 3]
    assert seen() == [2, 3]
