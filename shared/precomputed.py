"""The table of precomputed answers: sorted 128-bit keys with a prefix index, looked up in a mapped file.

Layout, little-endian, version 1::

    0    8   magic "COVEYPC1"
    8    4   n, number of keys
    12   4   m, float32 outputs per key
    16   4   b, bits of the prefix index (0..20)
    20   12  zero
    32   32  SHA-256 of the feature set
    64   32  SHA-256 of the model file the answers belong to
    96   4 * (2**b + 1)   prefix index: first key whose top b bits are >= i
    ..   16 * n           keys, sorted
    ..   4 * m * n        outputs, in the order of the keys

The file is hashed and checked once, when it is installed; a look-up checks nothing.
"""

from __future__ import annotations

import itertools
import math
import struct
import typing

from shared import codec
from shared.errors import WireError

MAGIC = b"COVEYPC1"
KEY_BYTES = 16
MAX_KEYS = 50_000_000
MAX_OUTPUTS = 4096
MAX_BITS = 20
_HEAD = struct.Struct("<8sIII12s32s32s")
HEADER_BYTES = _HEAD.size
_ZERO = bytes(12)
_KEYS_PER_BUCKET = 4

Buffer = bytes | memoryview


class _Findable(typing.Protocol):
    """Bytes or a mapped file."""

    def find(self, sub: bytes, start: int, end: int, /) -> int: ...

    def __len__(self) -> int: ...


def build(
    entries: typing.Mapping[bytes, typing.Sequence[float]],
    *,
    n_outputs: int,
    features_sha256: str,
    model_sha256: str,
) -> bytes:
    """Write a table.

    Parameters
    ----------
    entries : mapping
        16-byte key to `n_outputs` numbers, stored as float32.
    features_sha256, model_sha256 : str
        What the answers belong to (hex).

    Raises
    ------
    WireError
        A key or an answer has the wrong length, or an answer is not finite.
    """
    keys = sorted(entries)
    for key in keys:
        if len(key) != KEY_BYTES:
            raise WireError(f"a key has {len(key)} bytes, not {KEY_BYTES}", field="entries")
        if len(entries[key]) != n_outputs or not all(abs(number) <= codec.MAX_FLOAT32 for number in entries[key]):
            raise WireError(f"an answer is not {n_outputs} finite numbers: {entries[key]!r:.80}", field="entries")
    bits = index_bits(len(keys))
    belongs_to = bytes.fromhex(features_sha256), bytes.fromhex(model_sha256)
    head = _HEAD.pack(MAGIC, len(keys), n_outputs, bits, _ZERO, *belongs_to)
    values = struct.pack(f"<{len(keys) * n_outputs}f", *itertools.chain.from_iterable(entries[key] for key in keys))
    return b"".join([head, prefix_index(keys, bits), *keys, values])


def index_bits(n_keys: int) -> int:
    """Bits of the prefix index that leave about four keys in a bucket.

    >>> index_bits(1000)
    7
    """
    return min(max(int(math.log2(max(n_keys, 1) / _KEYS_PER_BUCKET)) if n_keys > _KEYS_PER_BUCKET else 0, 0), MAX_BITS)


def size_bytes(n_keys: int, n_outputs: int) -> int:
    """Size of a table, before it is built."""
    return _HEAD.size + 4 * ((1 << index_bits(n_keys)) + 1) + n_keys * (KEY_BYTES + 4 * n_outputs)


def table_bits(header: bytes) -> int:
    """Bits of the prefix index, as a table's header says."""
    return int(_HEAD.unpack(header)[3])


def _prefix(key: Buffer, bits: int) -> int:
    return int.from_bytes(key[:4], "big") >> (32 - bits)


def prefix_index(keys: typing.Iterable[Buffer], bits: int) -> bytes:
    """Write the prefix index of sorted keys.

    >>> prefix_index([bytes(16), bytes([255] * 16)], 1).hex(" ", 4)
    '00000000 01000000 02000000'
    """
    starts = [0] * ((1 << bits) + 1)
    for key in keys:
        starts[_prefix(key, bits) + 1] += 1
    return struct.pack(f"<{len(starts)}I", *itertools.accumulate(starts))


class PrecomputedTable:
    """A table in memory or in a mapped file.

    Parameters
    ----------
    data : bytes or mmap
        The whole file; it must live as long as the table.

    Attributes
    ----------
    get : callable
        Returns the outputs stored under a 16-byte key, or None.

    Raises
    ------
    WireError
        The header or the size is wrong. `check` looks at the rest.
    """

    def __init__(self, data: _Findable) -> None:
        view = memoryview(data)  # type: ignore[arg-type]
        if len(view) < _HEAD.size:
            raise WireError(f"{len(view)} bytes are too few for a table", field="precomputed")
        magic, n, m, bits, zero, features, model = _HEAD.unpack_from(view)
        if magic != MAGIC:
            raise WireError(f"not a table: it begins with {magic!r}", field="precomputed")
        if zero != _ZERO:
            raise WireError("bytes 20 to 31 are not zero", field="precomputed")
        if n > MAX_KEYS or not 1 <= m <= MAX_OUTPUTS or bits > MAX_BITS:
            raise WireError(f"n = {n}, m = {m}, b = {bits} are not possible", field="precomputed")
        self.n_keys, self.n_outputs = n, m
        self.features_sha256, self.model_sha256 = features.hex(), model.hex()
        self._keys_at = _HEAD.size + 4 * (2**bits + 1)
        self._values_at = self._keys_at + KEY_BYTES * n
        if len(view) != self._values_at + 4 * m * n:
            raise WireError(f"{len(view)} bytes, its header says {self._values_at + 4 * m * n}", field="precomputed")
        self._view, self._bits = view, bits
        self._index = view[_HEAD.size : self._keys_at].cast("I")
        self._unpack = struct.Struct(f"<{m}f").unpack_from
        self._value_bytes = 4 * m
        self.get = self._finder(data)

    def _finder(self, data: _Findable) -> typing.Callable[[bytes], tuple[float, ...] | None]:
        """Return what looks a key up; everything that it needs is at hand, since it is all that a hit costs."""
        find, index, shift = data.find, self._index, 32 - self._bits
        keys_at, values_at, value_bytes = self._keys_at, self._values_at, self._value_bytes
        unpack, view, number = self._unpack, self._view, int.from_bytes

        def get(key: bytes) -> tuple[float, ...] | None:
            bucket = number(key[:4], "big") >> shift
            end = keys_at + KEY_BYTES * index[bucket + 1]
            at = find(key, keys_at + KEY_BYTES * index[bucket], end)
            while at >= 0:
                row, beside = divmod(at - keys_at, KEY_BYTES)
                if not beside:
                    return unpack(view, values_at + row * value_bytes)
                at = find(key, at + 1, end)  # the end of one key and the beginning of the next can look like a key
            return None

        return get

    def check(self) -> None:
        """Look at every byte: index consistent, keys increasing, answers finite.

        Raises
        ------
        WireError
            What is wrong; a table that passes can be looked up without further checks.
        """
        starts = list(self._index)
        if starts[0] != 0 or starts[-1] != self.n_keys or any(a > b for a, b in itertools.pairwise(starts)):
            raise WireError("the prefix index does not increase from 0 to n", field="precomputed")
        previous = b""
        for bucket, (low, high) in enumerate(itertools.pairwise(starts)):
            for row in range(low, high):
                key = bytes(self._view[self._keys_at + KEY_BYTES * row :][:KEY_BYTES])
                if key <= previous or _prefix(key, self._bits) != bucket:
                    raise WireError(f"key {row} is out of order", field="precomputed")
                previous = key
        for number in self._view[self._values_at :].cast("f"):
            if not math.isfinite(number):
                raise WireError("an answer is not finite", field="precomputed")

    def items(self) -> typing.Iterator[tuple[bytes, tuple[float, ...]]]:
        """All keys and outputs, in the order of the keys."""
        for row in range(self.n_keys):
            at = self._keys_at + KEY_BYTES * row
            yield (
                bytes(self._view[at : at + KEY_BYTES]),
                self._unpack(self._view, self._values_at + row * self._value_bytes),
            )
