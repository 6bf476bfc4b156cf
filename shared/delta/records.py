"""Method `records`: two tables of precomputed answers, merged key by key.

Keys are hashes and can not be compressed: those that stay are copied, those that come are sent. Answers that stay the
same are copied too, the others are sent as XOR with the old ones, in byte planes. The prefix index is made anew.

The body, compressed as one::

    0     4       r, number of runs
    4     4       c, number of changed answers
    8     96      header of the new table
    104   12 r    keys to copy, keys to drop, keys to insert; in planes
    ..    4 c     distance of each changed row from the one before, counted in rows of the new table; in planes
    ..            inserted keys
    ..            inserted answers in planes, then XOR of changed answers in planes
"""

from __future__ import annotations

import itertools
import struct
import typing

from shared import codec, precomputed
from shared.delta.planes import cut, join, split, xor
from shared.errors import WireError
from shared.precomputed import HEADER_BYTES, KEY_BYTES, PrecomputedTable

LEVEL = 19
_HEAD = struct.Struct(f"<II{HEADER_BYTES}s")
_NUMBER, _RUN = 4, struct.Struct("<III")
_MARGIN_BYTES = 4096
"""Room for headers and the ends of runs."""


class _Table(typing.NamedTuple):
    """Keys and answers of a table, and the bytes of one row's answers."""

    keys: bytes
    values: bytes
    width: int

    def key(self, row: int) -> bytes:
        return self.keys[row * KEY_BYTES : (row + 1) * KEY_BYTES]

    def value(self, row: int) -> bytes:
        return self.values[row * self.width : (row + 1) * self.width]

    @property
    def n(self) -> int:
        return len(self.keys) // KEY_BYTES


def encode(source: bytes, result: bytes) -> bytes | None:
    """Write what became of each key; nothing unless both files are tables with as many outputs."""
    try:
        old, new = _open(source), _open(result)
    except WireError:
        return None
    if old.width != new.width:
        return None
    runs, kept = _merge(old, new)
    changed = [(row, was) for row, was in kept if new.value(row) != old.value(was)]
    gaps = [b - a for a, b in itertools.pairwise([0, *(row for row, _ in changed)])]
    inserted = sorted(set(range(new.n)).difference(row for row, _ in kept))
    parts = [
        _HEAD.pack(len(runs), len(changed), result[:HEADER_BYTES]),
        split(b"".join(_RUN.pack(*run) for run in runs)),
        split(struct.pack(f"<{len(gaps)}I", *gaps)),
        b"".join(new.key(row) for row in inserted),
        *cut(b"".join(new.value(row) for row in inserted)),
        *cut(xor(b"".join(new.value(row) for row, _ in changed), b"".join(old.value(was) for _, was in changed))),
    ]
    body = codec.compress_parts(parts, level=LEVEL)
    return body if _rebuilds(body, source, result) else None


def decode(body: bytes, source: bytes, length: int) -> bytes:
    """Merge the tables; WireError if the body does not fit the old one."""
    limit_bytes = 2 * length + len(source) + _MARGIN_BYTES
    data = codec.decompress(body, limit_bytes=limit_bytes, window=codec.window_log(limit_bytes))
    old, reader = _open(source), _Reader(data)
    n_runs, n_changed, header = _HEAD.unpack(reader.take(_HEAD.size))
    runs = list(_RUN.iter_unpack(join(reader.take(_RUN.size * n_runs))))
    gaps = struct.unpack(f"<{n_changed}I", join(reader.take(_NUMBER * n_changed)))
    n_inserted = sum(insert for _, _, insert in runs)
    new_keys = reader.take(KEY_BYTES * n_inserted)
    new_values = join(reader.take(old.width * n_inserted))
    changes = join(reader.take(old.width * n_changed))
    if reader.left:
        raise WireError("bytes follow its last part", field="delta")
    keys = _follow(runs, old.keys, new_keys, KEY_BYTES, length)
    values = _follow(runs, old.values, new_values, old.width, length)
    _change(values, gaps, changes, old.width)
    bits = min(precomputed.table_bits(header), precomputed.MAX_BITS)
    view = memoryview(keys)
    index = precomputed.prefix_index((view[at : at + KEY_BYTES] for at in range(0, len(keys), KEY_BYTES)), bits)
    return b"".join([header, index, keys, values])


def _open(data: bytes) -> _Table:
    table = PrecomputedTable(data)
    values_at = len(data) - 4 * table.n_outputs * table.n_keys
    return _Table(data[values_at - KEY_BYTES * table.n_keys : values_at], data[values_at:], 4 * table.n_outputs)


def _merge(old: _Table, new: _Table) -> tuple[list[tuple[int, int, int]], list[tuple[int, int]]]:
    """Return runs of (copy, drop, insert), and (new row, old row) of each key that stays."""
    runs: list[tuple[int, int, int]] = []
    kept: list[tuple[int, int]] = []
    a = b = copy = drop = insert = 0
    while a < old.n or b < new.n:
        one, other = old.key(a), new.key(b)
        if one == other:
            if drop or insert:
                runs.append((copy, drop, insert))
                copy = drop = insert = 0
            kept.append((b, a))
            a, b, copy = a + 1, b + 1, copy + 1
        elif not other or (one and one < other):
            a, drop = a + 1, drop + 1
        else:
            b, insert = b + 1, insert + 1
    return [*runs, (copy, drop, insert)], kept


def _rebuilds(body: bytes, source: bytes, result: bytes) -> bool:
    """A table that was not written as `precomputed.build` does, with keys out of order say, may come out otherwise."""
    try:
        return decode(body, source, len(result)) == result
    except WireError:
        return False


def _follow(runs: list[tuple[int, int, int]], old: bytes, new: bytes, width: int, length: int) -> bytearray:
    """Copy, drop and insert rows of some width."""
    out, at, taken = bytearray(), 0, 0
    for copy, drop, insert in runs:
        out += old[at * width : (at + copy) * width]
        out += new[taken * width : (taken + insert) * width]
        at, taken = at + copy + drop, taken + insert
        if at * width > len(old) or len(out) > length:
            raise WireError("its runs are longer than the tables", field="delta")
    return out


def _change(values: bytearray, gaps: typing.Sequence[int], changes: bytes, width: int) -> None:
    row = 0
    for i, gap in enumerate(gaps):
        row += gap
        place = slice(row * width, (row + 1) * width)
        if place.stop > len(values):
            raise WireError(f"changes row {row:,} of a smaller table", field="delta")
        values[place] = xor(bytes(values[place]), changes[i * width : (i + 1) * width])


class _Reader:
    """Takes bytes off a body, part by part."""

    def __init__(self, data: bytes) -> None:
        self._data, self._at = data, 0

    def take(self, n: int) -> bytes:
        if n > self.left:
            raise WireError(f"ends {n - self.left:,} bytes too soon", field="delta")
        self._at += n
        return self._data[self._at - n : self._at]

    @property
    def left(self) -> int:
        return len(self._data) - self._at
