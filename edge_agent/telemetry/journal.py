"""A journal of records in mapped files: to write one is to copy it into memory that a killed process leaves behind.

A record is ``length (4 bytes), CRC-32 (4 bytes), msgpack``; a length of zero ends a file. Files are numbered and begin
as zeros; their room on disk is taken beforehand, since a mapped file that finds none takes the process down. A process
begins a new file, so a half-written last record can only be at the end of a file that nobody writes to any more.
"""

from __future__ import annotations

import contextlib
import errno
import mmap
import os
import pathlib
import struct
import threading
import time
import typing
import zlib

import msgspec

from edge_agent.records import Answered, AnyRecord, Failed, MemorySeen, NumbersSeen, OutcomeSeen, Visited

_FRAME = struct.Struct("<II")
_pack, _crc = _FRAME.pack, zlib.crc32
_MAX_RECORD_BYTES = 1 << 20
_SEGMENT_BYTES = 512 << 10
_RETRY_S = 1.0
_NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EROFS)
_SUFFIX = ".journal"
_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(Answered | Failed | OutcomeSeen | NumbersSeen | MemorySeen | Visited).decode


class Position(typing.NamedTuple):
    """A place in the journal: file number and byte offset."""

    segment: int
    offset: int


class JournalWriter:
    """Writes records.

    Parameters
    ----------
    folder : Path
        Made if absent.
    limit_bytes : int
        When the files that are not folded yet exceed this, records are counted and dropped instead. There is always a
        first file, since only files before it are folded away.
    after_segment : int
        Number of the last file that was ever folded: it may be gone, and its number must not come again.
    clock : callable
        Monotonic seconds: where no file can be made, it is tried again a second later.
    """

    def __init__(
        self,
        folder: pathlib.Path,
        limit_bytes: int,
        after_segment: int = 0,
        clock: typing.Callable[[], float] = time.monotonic,
    ) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._folder, self._limit_bytes, self._clock = folder, limit_bytes, clock
        # Only files that nobody writes to any more are deleted, so there must be several within the limit.
        self._segment_bytes = min(_SEGMENT_BYTES, limit_bytes // 4)
        self._segment = max([*segments(folder), after_segment])
        self._lock = threading.Lock()
        self._map: mmap.mmap | _Unmapped | None = None
        self._at = self._end = 0
        self._is_closed = False
        self._try_at_s = -1.0
        self.n_dropped = 0
        self._earlier_bytes = self._count_earlier()
        if self._earlier_bytes > limit_bytes // 2:  # else it is deleted soon, as it is
            for number in segments(folder):
                _trim(segment_path(folder, number))
            self._earlier_bytes = self._count_earlier()
        self._next_file(0)

    def _count_earlier(self) -> int:
        """Bytes of the files that nobody writes to any more."""
        kept = [n for n in segments(self._folder) if n < self._segment or self._map is None]
        return sum(segment_path(self._folder, n).stat().st_size for n in kept)

    def _next_file(self, needed: int) -> bool:
        """Go on in a new file with room for a record; return whether there is one."""
        size = max(self._segment_bytes, needed)
        is_full = self._map is not None and self._earlier_bytes + self._at + size > self._limit_bytes
        if self._is_closed or is_full or self._clock() < self._try_at_s:
            return False
        number = self._segment + 1
        try:
            made = None
            while made is None:
                made = _make(segment_path(self._folder, number), size)
                number += 1
        except OSError:
            self._try_at_s = self._clock() + _RETRY_S
            return False
        self._close_file()
        self._map, self._segment, self._at, self._end = made, number - 1, 0, size
        return True

    def _close_file(self) -> None:
        """Give back the room that the file has not used."""
        if self._map is not None:
            self._map.close()
            with contextlib.suppress(FileNotFoundError):  # it was added up and deleted meanwhile
                os.truncate(segment_path(self._folder, self._segment), self._at)
            self._earlier_bytes += self._at
        self._map, self._at, self._end = None, 0, 0

    def append(self, record: AnyRecord) -> None:
        """Write a record; a full disk or a full journal drops and counts it, since answering must go on."""
        body = _encode(record)
        frame = _pack(len(body), _crc(body)) + body
        with self._lock:
            end = self._at + len(frame)
            if end > self._end:
                if len(body) > _MAX_RECORD_BYTES or not self._next_file(len(frame)):
                    self.n_dropped += 1
                    return
                end = len(frame)
            try:
                self._map[self._at : end] = frame  # type: ignore[index]
            except OSError:  # only where it is not mapped
                self.n_dropped += 1
                return
            self._at = end

    def position(self) -> Position:
        """Where the next record will go; all files before it are done with."""
        with self._lock:
            has_file = self._map is not None or self._is_closed
            return Position(self._segment if has_file else self._segment + 1, self._at)

    def folded(self, up_to: Position) -> None:
        """Delete files that were added up whole."""
        for number in segments(self._folder):
            if number < up_to.segment:
                segment_path(self._folder, number).unlink(missing_ok=True)
        with self._lock:
            self._earlier_bytes = self._count_earlier()

    def close(self) -> None:
        """Close the file; what comes after is dropped."""
        with self._lock:
            at, self._is_closed = self._at, True
            self._close_file()
            self._at = self._end = at


class _Unmapped:
    """Takes what is written as a map does, where the file system has no shared maps that can be written to."""

    def __init__(self, file: int) -> None:
        self._file = os.dup(file)

    def __setitem__(self, where: slice, data: bytes) -> None:
        if os.pwrite(self._file, data, where.start) < len(data):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def close(self) -> None:
        os.close(self._file)


def _make(path: pathlib.Path, size: int) -> mmap.mmap | _Unmapped | None:
    """Make a file of zeros whose room on disk is taken; None if there is one of that name."""
    try:
        file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError:
        return None
    try:
        os.posix_fallocate(file, 0, size)
        try:
            return mmap.mmap(file, size)
        except OSError as err:
            if err.errno in _NO_ROOM:
                raise
            return _Unmapped(file)
    except OSError:
        path.unlink()
        raise
    finally:
        os.close(file)


def _trim(path: pathlib.Path) -> None:
    """Cut off the room that a process which was killed has not used."""
    data = path.read_bytes()
    at = 0
    while at + _FRAME.size <= len(data) and (length := _FRAME.unpack_from(data, at)[0]):
        at += _FRAME.size + length
    if at < len(data):
        os.truncate(path, at)


def segments(folder: pathlib.Path) -> list[int]:
    """Numbers of the journal's files, in order."""
    return sorted(int(path.stem) for path in folder.glob(f"*{_SUFFIX}") if path.stem.isdigit())


def segment_path(folder: pathlib.Path, number: int) -> pathlib.Path:
    """Path of a journal file."""
    return folder / f"{number:012d}{_SUFFIX}"


def read_from(folder: pathlib.Path, start: Position, *, max_records: int) -> tuple[list[AnyRecord], Position]:
    """Read records from a position on.

    Returns
    -------
    records : list
        At most `max_records`; damaged or half-written ones end their file.
    position : Position
        Where to go on.
    """
    records: list[AnyRecord] = []
    position = start
    numbers = [n for n in segments(folder) if n >= start.segment]
    for i, number in enumerate(numbers):
        offset = start.offset if number == start.segment else 0
        with segment_path(folder, number).open("rb") as file:
            file.seek(offset)
            data = file.read()
        position = Position(number, offset + _read_frames(data, max_records - len(records), records))
        if len(records) >= max_records:
            break
        if i + 1 < len(numbers):
            position = Position(numbers[i + 1], 0)
    return records, position


def _read_frames(data: bytes, n: int, records: list[AnyRecord]) -> int:
    """Add at most n records, none after damage, and none that nobody can read; return where the last one ends."""
    unpack, size, end = _FRAME.unpack_from, _FRAME.size, len(data) - _FRAME.size
    at = used = 0
    n += len(records)
    while len(records) < n and at <= end:
        length, crc = unpack(data, at)
        body = data[at + size : at + size + length]
        if not 0 < length <= _MAX_RECORD_BYTES or len(body) != length or _crc(body) != crc:
            break
        at += size + length
        try:
            records.append(_decode(body))
        except msgspec.DecodeError:
            continue  # whole, and of another version of this program
        used = at
    return used
