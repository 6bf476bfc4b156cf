"""The journal: what was appended is read again in order, whatever a kill, a full disk or damage did to it."""

from __future__ import annotations

import errno
import os
import pathlib
import typing

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from edge_agent.records import Answered, AnyRecord, Failed, OutcomeSeen, Scored
from edge_agent.telemetry import journal
from edge_agent.telemetry.journal import JournalWriter, Position, read_from, segment_path, segments
from edge_agent.telemetry.recorder import Recorder
from tests import fakes

START = Position(0, 0)
BIG = 1 << 24
words = st.text(max_size=10)
ints = st.integers(0, 2**40)
floats = st.floats(allow_nan=False)
outputs = st.lists(floats, max_size=3).map(tuple)
records: st.SearchStrategy[AnyRecord] = st.one_of(
    st.builds(
        Answered, words, words, ints, ints, ints, ints, ints, st.booleans(), st.binary(max_size=6), outputs,
        st.booleans(), st.lists(st.builds(Scored, ints, words, outputs, ints), max_size=3).map(tuple),
    ),
    st.builds(Failed, words, words, ints, ints, st.booleans(), ints),
    st.builds(OutcomeSeen, words, words, ints, ints, ints, st.binary(max_size=6), floats, floats, ints),
)  # fmt: skip


def failed(n: int) -> Failed:
    return Failed("late", "v1", 0, 0, served=True, event_s=n)


def fill(folder: pathlib.Path, first: int, n: int, limit_bytes: int = BIG) -> JournalWriter:
    writer = JournalWriter(folder, limit_bytes)
    for i in range(first, first + n):
        writer.append(failed(i))
    return writer


def read(folder: pathlib.Path, start: Position = START, max_records: int = 10_000) -> list[AnyRecord]:
    return read_from(folder, start, max_records=max_records)[0]


@settings(deadline=None, max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(written=st.lists(records, max_size=12), step=st.integers(1, 5))
def test_records_are_read_as_they_were_written_in_any_portions(
    tmp_path_factory: pytest.TempPathFactory, written: list[AnyRecord], step: int
) -> None:
    folder = tmp_path_factory.mktemp("journal")
    writer = JournalWriter(folder, BIG)
    for record in written:
        writer.append(record)
    got: list[AnyRecord] = []
    position = START
    while portion := read_from(folder, position, max_records=step):
        if not portion[0]:
            break
        got += portion[0]
        position = portion[1]
    writer.close()
    assert got == written
    assert position == writer.position() or not written


def test_a_new_process_begins_a_new_file_and_nothing_is_lost_between(tmp_path: pathlib.Path) -> None:
    for i in range(4):
        fill(tmp_path, i * 10, 10).close()
    assert segments(tmp_path) == [1, 2, 3, 4]
    assert read(tmp_path) == [failed(i) for i in range(40)]


@pytest.mark.parametrize("cut", range(1, 20))
def test_half_a_last_record_ends_its_file_and_the_next_file_is_read(tmp_path: pathlib.Path, cut: int) -> None:
    fill(tmp_path, 0, 5).close()
    path = segment_path(tmp_path, 1)
    path.write_bytes(path.read_bytes()[:-cut])
    fill(tmp_path, 5, 5).close()
    assert read(tmp_path) == [failed(i) for i in (0, 1, 2, 3, 5, 6, 7, 8, 9)]


def test_a_damaged_record_ends_its_file_and_is_never_misread(tmp_path: pathlib.Path) -> None:
    fill(tmp_path, 0, 3).close()
    path = segment_path(tmp_path, 1)
    whole = path.read_bytes()
    size = len(whole) // 3
    fill(tmp_path, 3, 1).close()
    for at in range(size, 2 * size):
        path.write_bytes(whole[:at] + bytes([whole[at] ^ 0x55]) + whole[at + 1 :])
        assert read(tmp_path) == [failed(0), failed(3)]


@pytest.mark.parametrize("tail", [bytes(5000), b"\xff" * 5000, b"\x00\x00\x10\x00" + bytes(5000), b"x"])
def test_what_a_power_cut_leaves_at_the_end_is_passed_over(tmp_path: pathlib.Path, tail: bytes) -> None:
    fill(tmp_path, 0, 2).close()
    with segment_path(tmp_path, 1).open("ab") as file:
        file.write(tail)
    fill(tmp_path, 2, 2).close()
    assert read(tmp_path) == [failed(i) for i in range(4)]


def test_a_record_that_another_program_wrote_is_passed_over_and_what_follows_is_read(tmp_path: pathlib.Path) -> None:
    """Of another kind; and an answer as it was written when there was one candidate."""
    once = ("a", "late", "v1", 3, 0, 1, 5, 100, False, b"nonce1", (0.5, 0.5), True, "v2", (0.25, 0.75), 1)
    fill(tmp_path, 0, 1).close()
    with segment_path(tmp_path, 1).open("ab") as file:
        for body in (b"\x93\xa1z\x01\x02", msgspec.msgpack.encode(once), msgspec.msgpack.encode(failed(1))):
            file.write(journal._FRAME.pack(len(body), journal.zlib.crc32(body)) + body)
    assert read(tmp_path) == [failed(0), failed(1)]
    assert read(tmp_path, max_records=1) == [failed(0)]


def test_files_of_others_in_the_folder_do_no_harm(tmp_path: pathlib.Path) -> None:
    (tmp_path / "notes.journal").write_bytes(b"x")
    (tmp_path / "1.txt").write_bytes(b"x")
    fill(tmp_path, 0, 1).close()
    assert read(tmp_path) == [failed(0)]


def test_reading_goes_on_at_a_position_that_survives_a_restart(tmp_path: pathlib.Path) -> None:
    fill(tmp_path, 0, 10).close()
    got, position = read_from(tmp_path, START, max_records=4)
    fill(tmp_path, 10, 5).close()
    again, end = read_from(tmp_path, Position(*position), max_records=100)
    assert got + again == [failed(i) for i in range(15)]
    assert read(tmp_path, end) == []


def test_files_rotate_and_the_folded_ones_are_deleted(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(journal, "_SEGMENT_BYTES", 200)
    writer = fill(tmp_path, 0, 60)
    assert len(segments(tmp_path)) > 5
    got, position = read_from(tmp_path, START, max_records=10_000)
    assert got == [failed(i) for i in range(60)]
    assert position == writer.position()
    writer.folded(position)
    assert segments(tmp_path) == [position.segment]
    writer.append(failed(60))
    assert read(tmp_path, position) == [failed(60)]
    writer.close()


def test_a_number_that_was_folded_never_comes_again(tmp_path: pathlib.Path) -> None:
    writer = JournalWriter(tmp_path, BIG, after_segment=41)
    assert writer.position() == Position(42, 0)
    writer.close()


def test_a_full_journal_counts_what_it_drops_and_takes_records_again_once_folded(tmp_path: pathlib.Path) -> None:
    writer = fill(tmp_path, 0, 500, limit_bytes=4096)
    kept = read(tmp_path)
    assert kept == [failed(i) for i in range(len(kept))]
    assert 0 < writer.n_dropped == 500 - len(kept)
    assert sum(path.stat().st_size for path in tmp_path.iterdir()) <= 4096
    _, position = read_from(tmp_path, START, max_records=10_000)
    writer.folded(position)
    before = writer.n_dropped
    writer.append(failed(1000))
    assert writer.n_dropped == before
    assert read(tmp_path, position) == [failed(1000)]
    writer.close()


def test_a_small_budget_never_stops_a_journal_that_is_folded_in_time(tmp_path: pathlib.Path) -> None:
    writer = JournalWriter(tmp_path, 16_384)
    position = START
    n = 0
    for i in range(3000):
        writer.append(failed(i))
        if i % 50 == 0:
            got, position = read_from(tmp_path, position, max_records=10_000)
            n += len(got)
            writer.folded(position)
    n += len(read(tmp_path, position))
    assert (n, writer.n_dropped) == (3000, 0)
    writer.close()


@pytest.mark.parametrize("error", [errno.ENOSPC, errno.EMFILE, errno.EACCES])
def test_while_no_room_can_be_had_records_are_counted_and_later_ones_are_kept_again(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch, error: int
) -> None:
    monkeypatch.setattr(journal, "_SEGMENT_BYTES", 100)
    clock = fakes.Clock(0.0)
    writer = JournalWriter(tmp_path, BIG, clock=clock)
    writer.append(failed(0))
    tries = []

    def no(*_: object) -> int:
        tries.append(1)
        raise OSError(error, os.strerror(error))

    with monkeypatch.context() as patch:
        patch.setattr(os, "posix_fallocate" if error == errno.ENOSPC else "open", no)
        for i in range(1, 20):
            writer.append(failed(i))
        assert len(tries) == 1
        clock.now_s += 1.0
        writer.append(failed(20))
        assert len(tries) == 2
    writer.append(failed(21))
    clock.now_s += 1.0
    for i in range(30, 50):
        writer.append(failed(i))
    writer.close()
    got = read(tmp_path)
    n_before = len(got) - 20
    assert got == [failed(i) for i in [*range(n_before), *range(30, 50)]]
    assert 1 <= n_before == 22 - writer.n_dropped
    assert len(segments(tmp_path)) > 2


def test_a_device_starts_on_a_full_disk(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def no(*_: object) -> typing.NoReturn:
        raise OSError(errno.ENOSPC, "full")

    clock = fakes.Clock(0.0)
    with monkeypatch.context() as patch:
        patch.setattr(os, "posix_fallocate", no)
        writer = JournalWriter(tmp_path, BIG, after_segment=3, clock=clock)
        writer.append(failed(0))
        assert (segments(tmp_path), writer.position(), writer.n_dropped) == ([], Position(4, 0), 1)
        writer.folded(Position(3, 0))
    clock.now_s += 1.0
    writer.append(failed(1))
    assert (read(tmp_path), writer.position().segment) == ([failed(1)], 4)
    writer.close()


def test_a_limit_that_was_lowered_leaves_room_for_a_first_file(tmp_path: pathlib.Path) -> None:
    fill(tmp_path, 0, 2000).close()
    writer = JournalWriter(tmp_path, 16_384)
    writer.append(failed(2000))
    _, position = read_from(tmp_path, START, max_records=10_000)
    assert (position, writer.n_dropped) == (writer.position(), 0)
    writer.folded(position)
    assert segments(tmp_path) == [position.segment]
    writer.close()


def test_a_disk_that_was_full_at_the_start_gets_the_last_file_back_once_it_is_added_up(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    layout = fakes.join(tmp_path / "store")
    fill(layout.journal, 0, 3).close()

    def no(*_: object) -> typing.NoReturn:
        raise OSError(errno.ENOSPC, "full")

    with monkeypatch.context() as patch:
        patch.setattr(os, "posix_fallocate", no)
        recorder = Recorder(layout, BIG)
    assert recorder.fold(fakes.NOW_S) == 3
    assert segments(layout.journal) == []
    recorder._writer._try_at_s = 0.0
    recorder.record(failed(3))
    assert recorder.fold(fakes.NOW_S + 1) == 1
    recorder.close()


def test_where_a_file_can_not_be_mapped_it_is_written_to(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no(*_: object) -> typing.NoReturn:
        raise OSError(errno.ENODEV, "no such thing here")

    monkeypatch.setattr("mmap.mmap", no)
    monkeypatch.setattr(journal, "_SEGMENT_BYTES", 200)
    writer = fill(tmp_path, 0, 60)
    assert read(tmp_path) == [failed(i) for i in range(60)]
    with monkeypatch.context() as patch:
        patch.setattr(os, "pwrite", lambda *_: 3)
        writer.append(failed(60))
    writer.append(failed(61))
    writer.close()
    assert (read(tmp_path), writer.n_dropped) == ([failed(i) for i in [*range(60), 61]], 1)


def test_room_on_disk_is_taken_before_it_is_written_to(tmp_path: pathlib.Path) -> None:
    """Else a disk that fills up takes the process down at the next record, instead of costing that record."""
    writer = fill(tmp_path, 0, 1)
    status = segment_path(tmp_path, 1).stat()
    assert status.st_blocks * 512 >= status.st_size == journal._SEGMENT_BYTES
    writer.close()
    assert segment_path(tmp_path, 1).stat().st_size == writer.position().offset < 100


def test_the_room_that_a_killed_process_did_not_use_is_given_back(tmp_path: pathlib.Path) -> None:
    limit_bytes = 1 << 16
    lives = [fill(tmp_path, 3 * i, 3, limit_bytes) for i in range(100)]
    assert [life.n_dropped for life in lives] == [0] * 100
    assert segment_path(tmp_path, 1).stat().st_size == lives[0].position().offset
    assert read(tmp_path) == [failed(i) for i in range(300)]


def test_what_is_recorded_after_the_end_is_counted_as_dropped(tmp_path: pathlib.Path) -> None:
    writer = fill(tmp_path, 0, 2)
    writer.close()
    writer.append(failed(2))
    assert (read(tmp_path), writer.n_dropped) == ([failed(0), failed(1)], 1)


def test_a_file_that_has_the_next_number_already_is_stepped_over(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(journal, "_SEGMENT_BYTES", 100)
    writer = fill(tmp_path, 0, 1)
    segment_path(tmp_path, 2).touch()
    for i in range(1, 10):
        writer.append(failed(i))
    writer.close()
    assert read(tmp_path) == [failed(i) for i in range(10)]


def test_a_record_larger_than_any_that_is_read_is_not_written(tmp_path: pathlib.Path) -> None:
    writer = fill(tmp_path, 0, 1)
    writer.append(Answered("m", "v1", 0, 0, 0, 0, 0, slow=False, nonce=b"", outputs=(0.5,) * 200_000))
    writer.append(failed(1))
    writer.close()
    assert read(tmp_path) == [failed(0), failed(1)]
    assert writer.n_dropped == 1
