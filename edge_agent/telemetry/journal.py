"""An append-only journal of records: one write call each, so that a killed process loses nothing it has written.

A record is ``length (4 bytes), CRC-32 (4 bytes), msgpack``. Files are numbered; a new process begins a new file, so
a half-written last record can only be at the end of a file that nobody writes to any more.
"""

from __future__ import annotations

import os
import pathlib
import struct
import threading
import typing
import zlib

import msgspec

from edge_agent.records import Answered, AnyRecord, Failed, OutcomeSeen

_FRAME = struct.Struct("<II")
_MAX_RECORD_BYTES = 1 << 20
_SEGMENT_BYTES = 8 << 20
_SUFFIX = ".journal"
_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(Answered | Failed | OutcomeSeen).decode


class Position(typing.NamedTuple):
    """A place in the journal: file number and byte offset."""

    segment: int
    offset: int


class JournalWriter:
    """Appends records.

    Parameters
    ----------
    folder : Path
        Made if absent.
    limit_bytes : int
        When the files that are not folded yet exceed this, records are counted and dropped instead.
    after_segment : int
        Number of the last file that was ever folded: it may be gone, and its number must not come again.
    """

    def __init__(self, folder: pathlib.Path, limit_bytes: int, after_segment: int = 0) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._folder, self._limit_bytes = folder, limit_bytes
        # Only files that nobody writes to any more are deleted, so there must be several within the limit.
        self._segment_bytes = min(_SEGMENT_BYTES, limit_bytes // 4)
        self._segment = max([*segments(folder), after_segment])
        self._earlier_bytes = sum(segment_path(folder, n).stat().st_size for n in segments(folder))
        self._lock = threading.Lock()
        self.n_dropped = 0
        self._segment, self._file = self._new_file()
        self._size = 0

    def _new_file(self) -> tuple[int, int]:
        """Make the next file; return its number and its descriptor."""
        number = self._segment + 1
        while True:
            path = segment_path(self._folder, number)
            try:
                return number, os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND, 0o600)
            except FileExistsError:
                number += 1

    def _rotate(self) -> None:
        """Go on in a new file, or in the old one while no new one can be made."""
        try:
            number, file = self._new_file()
        except OSError:
            return
        os.close(self._file)
        self._earlier_bytes += self._size
        self._segment, self._file, self._size = number, file, 0

    def append(self, record: AnyRecord) -> None:
        """Write a record; a full disk or a full journal drops and counts it, since answering must go on."""
        body = _encode(record)
        frame = _FRAME.pack(len(body), zlib.crc32(body)) + body
        with self._lock:
            used = self._earlier_bytes + self._size
            if used + len(frame) > self._limit_bytes or len(body) > _MAX_RECORD_BYTES:
                self.n_dropped += 1
                return
            try:
                written = os.write(self._file, frame)
            except OSError:
                written = 0
            if written == len(frame):
                self._size += written
            else:
                self.n_dropped += 1
                if written:
                    self._cut_short(written)
            if self._size >= self._segment_bytes:
                self._rotate()

    def _cut_short(self, written: int) -> None:
        """Take back half a record (the disk filled up in the middle of it)."""
        os.ftruncate(self._file, max(os.fstat(self._file).st_size - written, 0))

    def position(self) -> Position:
        """Where the next record will go."""
        with self._lock:
            return Position(self._segment, self._size)

    def folded(self, up_to: Position) -> None:
        """Delete files that were added up whole."""
        for number in segments(self._folder):
            if number < up_to.segment:
                segment_path(self._folder, number).unlink(missing_ok=True)
        with self._lock:
            kept = [n for n in segments(self._folder) if n < self._segment]
            self._earlier_bytes = sum(segment_path(self._folder, n).stat().st_size for n in kept)

    def close(self) -> None:
        """Close the file."""
        os.close(self._file)


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
        used = 0
        while len(records) < max_records:
            frame = _next_frame(data, used)
            if frame is None:
                break
            record, used = frame
            records.append(record)
        position = Position(number, offset + used)
        if len(records) >= max_records:
            break
        if i + 1 < len(numbers):
            position = Position(numbers[i + 1], 0)
    return records, position


def _next_frame(data: bytes, at: int) -> tuple[AnyRecord, int] | None:
    """Return the record at an offset and where the next one begins; None at the end or at damage."""
    if len(data) - at < _FRAME.size:
        return None
    length, crc = _FRAME.unpack_from(data, at)
    body = data[at + _FRAME.size : at + _FRAME.size + length]
    if length > _MAX_RECORD_BYTES or len(body) != length or zlib.crc32(body) != crc:
        return None
    try:
        return _decode(body), at + _FRAME.size + length
    except msgspec.DecodeError:
        return None
