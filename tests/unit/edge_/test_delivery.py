"""From the spool to the cloud: each sum arrives exactly once, whatever is lost, killed or repeated between."""

from __future__ import annotations

import collections
import contextlib
import pathlib
import sqlite3
import typing

import msgspec
import pytest

from edge_agent.config import Layout
from edge_agent.database import open_database, transaction
from edge_agent.records import Answered, Failed, OutcomeSeen, Scored, Spec
from edge_agent.telemetry import journal
from edge_agent.telemetry.fold import Folded, Waiting
from edge_agent.telemetry.forward import forward, parse_acknowledgement, status_digest
from edge_agent.telemetry.journal import Position
from edge_agent.telemetry.outbox import Outbox
from edge_agent.telemetry.recorder import Recorder
from edge_agent.telemetry.spool import STEPS, Spool
from edge_agent.telemetry.sums import Pairs
from shared import codec
from shared.clock import DAY_S
from shared.errors import ConflictError, UnreachableError, WireError
from shared.telemetry import Acknowledgement, Batch, DeviceStatus, Event, PairsRow, SumsRow

NOW = 100 * DAY_S
LIMIT = 64 << 20
SPEC = Spec(model="late", version="v1", task="binary", metric="log_loss", metric_scale=1.0, label_window_s=DAY_S)


class Cloud:
    """Takes batches as the cloud does: each (spool, sequence) counts once. `loses` are replies that get lost."""

    def __init__(self, loses: typing.Collection[int] = ()) -> None:
        self.batches: dict[tuple[str, int], Batch] = {}
        self.bodies: list[bytes] = []
        self.loses = set(loses)

    def __call__(self, body: bytes) -> Acknowledgement:
        batch = codec.from_msgpack(codec.decompress(body, limit_bytes=LIMIT), Batch)
        duplicate = (batch.spool, batch.sequence) in self.batches
        self.batches.setdefault((batch.spool, batch.sequence), batch)
        self.bodies.append(body)
        if len(self.bodies) in self.loses:
            raise UnreachableError("the reply was lost")
        return Acknowledgement(spool=batch.spool, sequence=batch.sequence, duplicate=duplicate)

    def total(self, name: str = "requests") -> int:
        return sum(getattr(row, name) for batch in self.batches.values() for row in batch.sums)


@pytest.fixture
def layout(tmp_path: pathlib.Path) -> Layout:
    return Layout(tmp_path)


@pytest.fixture
def spool(layout: Layout) -> typing.Iterator[Spool]:
    made = Spool(layout.spool_db, LIMIT)
    yield made
    made.close()


@pytest.fixture
def outbox(layout: Layout, spool: Spool) -> typing.Iterator[Outbox]:
    del spool
    made = Outbox(layout.spool_db)
    yield made
    made.close()


def status() -> DeviceStatus:
    return DeviceStatus(generation="g", watermark_s=5.0)


def send(outbox: Outbox, cloud: Cloud, *, say_hello: bool = False) -> int:
    return forward(outbox, "till-1", status, cloud, now_s=lambda: 7.0, say_hello=say_hello)


def add(spool: Spool, n: int, *, version: str = "v1", offset: int = 0, watermark_s: float | None = None) -> None:
    """Fold `n` requests and a pair in."""

    def add_up() -> Folded:
        folded = Folded()
        row = folded.sums["late", version, 0, 0, True, 100]
        row.counts["requests"] += n
        row.counts["metric_sum"] -= 3 * n
        row.score_bins[39] += n
        row.latency_bins[23] += 2 * n
        pairs = folded.pairs["late", 1, 100, 1]
        pairs.n, pairs.sum, pairs.neg = n, -5 * n, n
        return folded

    spool.store(add_up, Position(1, offset), watermark_s)


# ---- spool and outbox


def test_sums_add_up_in_the_spool_and_leave_it_as_they_are(spool: Spool, outbox: Outbox) -> None:
    add(spool, 2)
    add(spool, 3)
    add(spool, 4, version="v2")
    cloud = Cloud()
    assert send(outbox, cloud) == 1
    (batch,) = cloud.batches.values()
    assert (batch.device, batch.sequence, batch.sent_s, batch.status) == ("till-1", 1, 7.0, status())
    one, other = batch.sums
    assert (one.version, one.requests, one.metric_sum, one.score_bins[39], one.latency_bins[23]) == (
        "v1",
        5,
        -15,
        5,
        10,
    )
    assert (other.version, other.requests) == ("v2", 4)
    assert batch.pairs == (PairsRow("late", 1, 100, 9, -45, 0, 0, 9),)
    assert outbox.counts() == dict.fromkeys(("sums", "pairs", "measures", "visits", "waiting", "events", "sealed"), 0)


def test_nothing_waits_so_nothing_is_sent_unless_there_is_something_to_say(outbox: Outbox) -> None:
    cloud = Cloud()
    assert send(outbox, cloud) == 0
    assert send(outbox, cloud, say_hello=True) == 1
    assert send(outbox, cloud) == 0
    assert [batch.sums for batch in cloud.batches.values()] == [()]


def test_what_is_folded_while_a_batch_waits_goes_into_the_next_one(spool: Spool, outbox: Outbox) -> None:
    add(spool, 2)
    cloud = Cloud(loses={1})
    with pytest.raises(UnreachableError):
        send(outbox, cloud)
    add(spool, 5)
    assert send(outbox, cloud) == 2
    assert [batch.sums[0].requests for batch in cloud.batches.values()] == [2, 5]


def test_a_sealed_batch_is_sent_again_byte_for_byte_after_a_lost_acknowledgement(spool: Spool, outbox: Outbox) -> None:
    add(spool, 2)
    cloud = Cloud(loses={1, 2})
    for _ in range(2):
        with pytest.raises(UnreachableError):
            send(outbox, cloud)
        add(spool, 1)
    send(outbox, cloud)
    assert cloud.bodies[0] == cloud.bodies[1] == cloud.bodies[2] != cloud.bodies[3]
    assert cloud.total() == 4


def test_a_sealed_batch_survives_a_restart_unchanged(layout: Layout, spool: Spool, outbox: Outbox) -> None:
    add(spool, 2)
    with pytest.raises(UnreachableError):
        send(outbox, Cloud(loses={1}))
    again = Outbox(layout.spool_db)
    assert again.sealed() == outbox.sealed()
    assert again.spool_id == outbox.spool_id == spool.spool_id
    again.close()


@pytest.mark.parametrize("word", [("other", 1), ("", 0), ("SAME", 2), ("SAME", 0)])
def test_an_acknowledgement_of_something_else_acknowledges_nothing(
    spool: Spool, outbox: Outbox, word: tuple[str, int]
) -> None:
    add(spool, 2)
    said = Acknowledgement(spool=spool.spool_id if word[0] == "SAME" else word[0], sequence=word[1])
    with pytest.raises(WireError, match="acknowledged"):
        forward(outbox, "till-1", status, lambda _: said, now_s=lambda: 7.0, say_hello=False)
    assert outbox.counts()["sealed"] == 1
    cloud = Cloud()
    send(outbox, cloud)
    assert cloud.total() == 2


def test_sealing_is_all_or_nothing(spool: Spool, outbox: Outbox) -> None:
    add(spool, 2)
    outbox.add_event("k", "d")
    before = outbox.counts()

    def fail(*_rest: object) -> bytes:
        raise RuntimeError

    with pytest.raises(RuntimeError):
        outbox.seal(fail)
    assert outbox.counts() == before
    assert outbox.seal(lambda *_: b"x") == 1


def test_more_than_a_batch_holds_goes_out_in_several_and_each_sum_once(spool: Spool, outbox: Outbox) -> None:
    for i in range(7):
        add(spool, 1, version=f"v{i + 1}")
    for i in range(5):
        outbox.add_event("k", str(i))
    taken: list[tuple[int, int, list[Event]]] = []

    def body(_: int, sums: list[SumsRow], pairs: list[PairsRow], events: list[Event], *_rest: object) -> bytes:
        taken.append((len(sums), len(pairs), events))
        return b"x"

    while outbox.has_pending():
        outbox.seal(body, max_rows=3)
    assert [n for n, _, _ in taken] == [3, 3, 1]
    assert sum(n for _, n, _ in taken) == 1
    assert [event.detail for _, _, events in taken for event in events] == list("01234")


def test_the_status_is_asked_before_the_spool_is_locked(layout: Layout, spool: Spool, outbox: Outbox) -> None:
    add(spool, 2)
    other = Spool(layout.spool_db, LIMIT)
    other._db.execute("pragma busy_timeout = 0")

    def ask() -> DeviceStatus:
        other.add_event("while-asked")  # as the serving process does while it switches generations
        return status()

    cloud = Cloud()
    assert forward(outbox, "till-1", ask, cloud, now_s=lambda: 7.0, say_hello=False) >= 1
    assert cloud.total() == 2
    other.close()


def test_a_wiped_spool_has_another_name(layout: Layout, spool: Spool) -> None:
    layout.spool_db.rename(layout.store / "old.db")
    other = Spool(layout.spool_db, LIMIT)
    assert other.spool_id != spool.spool_id
    other.close()


def test_the_watermark_never_falls(spool: Spool, outbox: Outbox) -> None:
    seen = []
    for watermark_s in (5.0, 9.0, 3.0, None, 9.5):
        add(spool, 1, watermark_s=watermark_s)
        seen.append(outbox.watermark_s)
    assert seen == [5.0, 9.0, 9.0, 9.0, 9.5]


def test_totals_count_what_was_served_since_the_device_joined(layout: Layout, spool: Spool, outbox: Outbox) -> None:
    add(spool, 3)
    send(outbox, Cloud())
    add(spool, 4)
    again = Spool(layout.spool_db, LIMIT)
    assert again.totals()["requests"] == 7
    again.close()


def test_acknowledgements_are_read_or_refused() -> None:
    assert parse_acknowledgement(codec.to_json(Acknowledgement(spool="a", sequence=1))).sequence == 1
    for body in (b"", b"<html>", b"{}", b"[]", codec.to_json(status())):
        with pytest.raises(WireError):
            parse_acknowledgement(body)


def test_a_status_is_news_unless_only_sizes_and_ages_changed() -> None:
    base = status_digest(status())
    assert status_digest(DeviceStatus(generation="g", watermark_s=5.0, spool_bytes=9, stale_s=3.0)) == base
    assert status_digest(DeviceStatus(generation="h", watermark_s=5.0)) != base


# ---- room


def add_events(spool: Spool, n: int) -> None:
    """Add events as `add_event` does, in one transaction."""
    with transaction(spool._db):
        for i in range(n):
            spool.add_event("k", f"{i} " + "x" * 200)


def wait(spool: Spool, n: int, *, event_s: int = NOW) -> None:
    held = Waiting((0.5,) * 30, (Scored(1, "v2", (0.5,) * 30),))

    def add_up() -> Folded:
        return Folded(waiting={(event_s + i).to_bytes(6, "big"): (event_s + i, held) for i in range(n)})

    spool.store(add_up, Position(1, 0), None)


def test_room_is_made_from_events_then_from_waiting_outputs_and_never_from_sums(layout: Layout) -> None:
    spool = Spool(layout.spool_db, 600_000)
    outbox = Outbox(layout.spool_db)
    spool.add_specs([SPEC])
    for i in range(300):
        add(spool, 1, version=f"v{i + 1}")
    sums = outbox.counts()["sums"]
    add_events(spool, 1500)
    wait(spool, 300)
    spool.make_room(NOW)
    first = outbox.counts()
    assert first["sums"] == sums == 300
    assert first["events"] < 1500
    wait(spool, 3000, event_s=NOW + 1000)
    spool.make_room(NOW)
    counts, totals = outbox.counts(), spool.totals()
    assert counts["sums"] == 300
    assert (counts["events"], totals["dropped_events"]) == (0, 1500)
    assert 0 < totals["dropped_waiting"] == 3300 - counts["waiting"] < 3300
    cloud = Cloud()
    send(outbox, cloud)
    assert cloud.total() == 300
    spool.close()
    outbox.close()


def test_the_oldest_make_room_first(layout: Layout) -> None:
    spool = Spool(layout.spool_db, 65_536)
    add_events(spool, 900)
    spool.make_room(NOW)
    outbox = Outbox(layout.spool_db)
    cloud = Cloud()
    send(outbox, cloud)
    kept = [int(event.detail.split()[0]) for batch in cloud.batches.values() for event in batch.events]
    assert kept == list(range(900 - len(kept), 900))
    outbox.close()
    spool.close()


def test_what_no_outcome_can_need_any_more_is_forgotten(spool: Spool, outbox: Outbox) -> None:
    spool.add_specs([SPEC])
    wait(spool, 10, event_s=NOW)
    assert spool.see_outcome(b"nonce1", NOW)
    spool.make_room(NOW + DAY_S)
    assert outbox.counts()["waiting"] == 10
    assert not spool.see_outcome(b"nonce1", NOW)
    spool.make_room(NOW + DAY_S + 5)
    assert outbox.counts()["waiting"] == 5
    assert spool.see_outcome(b"nonce1", NOW)


# ---- the database


def test_a_database_of_a_newer_program_is_refused_and_left_alone(layout: Layout, spool: Spool) -> None:
    del spool
    db = sqlite3.connect(layout.spool_db)
    db.execute("pragma user_version = 99")
    db.close()
    before = layout.spool_db.read_bytes()
    with pytest.raises(ConflictError, match=r"spool.db has version 99, this program knows \d\. Update the agent"):
        Spool(layout.spool_db, LIMIT)
    assert layout.spool_db.read_bytes() == before


@pytest.mark.parametrize("data", [b"not a database" * 100, b"SQLite format 3\0" + bytes(100)])
def test_a_damaged_database_is_named(layout: Layout, data: bytes) -> None:
    layout.spool_db.write_bytes(data)
    with pytest.raises(WireError, match=r"spool\.db is damaged"):
        Spool(layout.spool_db, LIMIT)


def test_a_folder_that_can_not_be_written_is_named(tmp_path: pathlib.Path) -> None:
    with pytest.raises(ConflictError, match=r"no-such-folder/spool\.db can not be opened"):
        Spool(tmp_path / "no-such-folder" / "spool.db", LIMIT)


def test_pairs_of_a_spool_from_before_there_were_several_arms_are_those_of_the_candidate(layout: Layout) -> None:
    db = open_database(layout.spool_db, STEPS[:2])
    db.execute("insert into pairs values ('late', 3, 100, 9, -45, 50, 0, 9)")
    db.execute("insert into waiting values (x'01', 5, x'00')")
    db.close()
    spool = Spool(layout.spool_db, LIMIT)
    add(spool, 2)
    assert spool.take_waiting(b"\x01", 5) is None
    assert spool._db.execute("select * from pairs order by epoch").fetchall() == [
        ("late", 1, 100, 1, 2, -10, 0, 0, 2),
        ("late", 3, 100, 1, 9, -45, 50, 0, 9),
    ]
    spool.close()


def test_what_waits_in_an_older_spool_and_what_it_has_seen_is_still_there(layout: Layout) -> None:
    held = Waiting((0.25, 0.75), (Scored(1, "v2", (0.5, 0.5)),))
    db = open_database(layout.spool_db, STEPS[:4])
    db.execute("insert into waiting values (?, ?, ?)", (b"nonce1", 5, msgspec.msgpack.encode(held)))
    db.execute("insert into seen values (?, ?)", (b"nonce2", 6))
    db.close()
    spool = Spool(layout.spool_db, LIMIT)
    assert spool.take_waiting(b"nonce1", 4) is None
    assert [spool.take_waiting(b"nonce1", 5) for _ in range(2)] == [held, None]
    assert [spool.see_outcome(nonce, 6) for nonce in (b"nonce2", b"nonce1", b"nonce1")] == [False, True, False]
    spool.close()


def test_pairs_of_each_arm_are_rows_of_their_own(layout: Layout) -> None:
    spool, outbox, cloud = Spool(layout.spool_db, LIMIT), Outbox(layout.spool_db), Cloud()

    def add_up() -> Folded:
        return Folded(pairs={("late", 1, 100, arm): Pairs(arm, -arm, 1, 0, arm) for arm in (1, 3)})

    for _ in range(2):
        spool.store(add_up, Position(1, 0), None)
    send(outbox, cloud)
    (batch,) = cloud.batches.values()
    assert batch.pairs == tuple(PairsRow("late", 1, 100, 2 * arm, -2 * arm, 2, 0, 2 * arm, arm) for arm in (1, 3))
    assert not outbox.has_pending()
    outbox.close()
    spool.close()


def test_a_schema_that_was_cut_off_in_the_middle_is_made_whole_next_time(tmp_path: pathlib.Path) -> None:
    with pytest.raises(ConflictError):
        open_database(tmp_path / "x.db", ["create table a (x); create table a (x)"])
    db = open_database(tmp_path / "x.db", ["create table a (x); create table b (x)"])
    assert db.execute("select name from sqlite_master order by name").fetchall() == [("a",), ("b",)]
    assert db.execute("pragma user_version").fetchone() == (1,)
    db.close()


# ---- recorder


def answered(n: int) -> Answered:
    return Answered(
        "late", "v1", 1, 0, 1, NOW + n, 100, slow=False, nonce=n.to_bytes(6, "big"), outputs=(0.5, 0.5), keep=True,
        others=(Scored(1, "v2", (0.25, 0.75)),),
    )  # fmt: skip


def outcome(n: int) -> OutcomeSeen:
    return OutcomeSeen("late", "v1", 1, 0, NOW + n, n.to_bytes(6, "big"), 0.5, 1.0, NOW + n + 5)


def open_recorder(layout: Layout) -> Recorder:
    recorder = Recorder(layout, LIMIT)
    recorder.add_specs(
        [SPEC, Spec(**{name: getattr(SPEC, name) for name in SPEC.__struct_fields__} | {"version": "v2"})]
    )
    return recorder


def delivered(layout: Layout) -> collections.Counter[str]:
    outbox = Outbox(layout.spool_db)
    cloud = Cloud()
    send(outbox, cloud)
    outbox.close()
    served = [row for batch in cloud.batches.values() for row in batch.sums if row.served]
    return collections.Counter(
        requests=sum(row.requests for row in served),
        failed=sum(row.failed for row in served),
        outcomes=sum(row.outcomes for row in served),
        pairs=sum(row.n for batch in cloud.batches.values() for row in batch.pairs),
    )


def test_everything_counts_once_whatever_is_killed_between(layout: Layout) -> None:
    """Reopen after every step, without closing what was open: as after a kill."""
    left_open = []
    for n in range(12):
        recorder = open_recorder(layout)
        left_open.append(recorder)
        recorder.record(answered(n))
        if n % 3:
            left_open.append(recorder := open_recorder(layout))
        if n % 2:
            recorder.fold(NOW + n)
            left_open.append(recorder := open_recorder(layout))
        recorder.record(outcome(n))
        recorder.record(outcome(n))
    left_open.append(last := open_recorder(layout))
    last.fold(NOW + 100)
    assert last.totals() == {
        "requests": 12, "onnx": 12, "outcomes": 12, "duplicate_outcomes": 12, "dropped_records": 0
    }  # fmt: skip
    assert delivered(layout) == {"requests": 12, "failed": 0, "outcomes": 12, "pairs": 12}
    for recorder in left_open:
        recorder.close()


def test_a_kill_in_the_middle_of_folding_folds_nothing_twice(layout: Layout, monkeypatch: pytest.MonkeyPatch) -> None:
    recorder = open_recorder(layout)
    for n in range(30):
        recorder.record(answered(n))
    monkeypatch.setattr("edge_agent.telemetry.recorder._BATCH_RECORDS", 10)
    stored = []

    def store(*arguments: typing.Any) -> Folded:
        if len(stored) == 2:
            raise KeyboardInterrupt
        stored.append(1)
        return Spool.store(recorder.spool, *arguments)

    with monkeypatch.context() as patch:
        patch.setattr(recorder.spool, "store", store)
        with pytest.raises(KeyboardInterrupt):
            recorder.fold(NOW)
    assert recorder.spool.watermark_s == 0.0
    recorder.close()
    again = open_recorder(layout)
    assert again.fold(NOW) == 10
    assert again.spool.watermark_s == NOW
    assert again.totals()["requests"] == 30
    again.close()


def test_the_watermark_moves_on_without_records_once_all_is_folded(layout: Layout) -> None:
    recorder = open_recorder(layout)
    recorder.fold(NOW)
    recorder.fold(NOW + 5)
    assert recorder.spool.watermark_s == NOW + 5
    recorder.close()


def test_folding_deletes_the_files_of_processes_that_ended(layout: Layout) -> None:
    for n in range(3):
        recorder = open_recorder(layout)
        recorder.record(Failed("late", "v1", 0, 0, served=True, event_s=NOW + n))
        recorder.close()
    recorder = open_recorder(layout)
    assert len(journal.segments(layout.journal)) == 4
    assert recorder.fold(NOW) == 3
    recorder.record(answered(9))
    assert recorder.fold(NOW) == 1
    assert len(journal.segments(layout.journal)) == 1
    assert recorder.totals()["failed"] == 3
    recorder.close()


def test_a_number_of_a_file_that_is_gone_does_not_come_again_after_a_restart(layout: Layout) -> None:
    recorder = open_recorder(layout)
    recorder.record(answered(1))
    recorder.fold(NOW)
    recorder.close()
    for path in layout.journal.iterdir():
        path.unlink()
    again = open_recorder(layout)
    again.record(answered(2))
    assert again.fold(NOW) == 1
    assert again.totals()["requests"] == 2
    again.close()


def test_dropped_records_are_counted_and_told(layout: Layout) -> None:
    recorder = Recorder(layout, 65_536)
    for n in range(2000):
        recorder.record(answered(n))
    dropped = recorder.totals()["dropped_records"]
    assert dropped > 0
    assert recorder.fold(NOW) == 2000 - dropped
    outbox = Outbox(layout.spool_db)
    cloud = Cloud()
    send(outbox, cloud)
    told = [
        event.detail for batch in cloud.batches.values() for event in batch.events if event.kind == "records-dropped"
    ]
    assert told == [f"{dropped} records: disk or journal full"]
    recorder.fold(NOW)
    assert not outbox.has_pending()
    outbox.close()
    recorder.close()


def test_a_device_that_is_asked_nothing_writes_nothing(layout: Layout) -> None:
    """Each commit is forced to the disk: one a second wears out a memory card."""
    recorder = open_recorder(layout)
    recorder.fold(NOW, is_asked=False)
    with contextlib.closing(sqlite3.connect(layout.spool_db)) as other:

        def version() -> int:
            (number,) = other.execute("pragma data_version").fetchone()
            return int(number)

        before = version()
        assert [recorder.fold(NOW + n, is_asked=False) for n in range(1, 9)] == [0] * 8
        assert (version(), recorder.spool.watermark_s) == (before, NOW)
        assert recorder.fold(NOW + 9) == 0
        assert (version() > before, recorder.spool.watermark_s) == (True, NOW + 9)
        recorder.record(answered(1))
        assert recorder.fold(NOW + 10, is_asked=False) == 1
        assert recorder.spool.watermark_s == NOW + 10
    recorder.close()
