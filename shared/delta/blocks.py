"""Finds what two files have in common in form: blocks of float32 weights, of the same lengths in the same order.

A body that is made of blocks begins with their places, so that a reader needs to know nothing of ONNX::

    0     4       k, number of blocks
    4     24 k    of each: place in the source, place in the result, length (8 bytes each, little-endian)
    ..            the result's bytes outside of all blocks, in order
    ..            what a method says about the blocks

All of it is one zstd frame with the first and the last 2,048 bytes of the source as prefix.
"""

from __future__ import annotations

import itertools
import struct
import typing

from shared import codec
from shared.errors import WireError

MAX_BLOCKS = 4096
WIDTH = 4  # bytes of a float32
_SMALLEST_BYTES, _END_BYTES = 64, 2048
_COUNT, _PLACE = struct.Struct("<I"), struct.Struct("<QQQ")
_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5
_GRAPH, _INITIALIZER, _NUMBERS = (7,), (5,), (4, 9)  # ModelProto, GraphProto, float_data and raw_data of TensorProto


class Block(typing.NamedTuple):
    """Bytes of the source and, as many, of the result."""

    source_at: int
    at: int
    length: int


def find(source: bytes, result: bytes) -> list[Block]:
    """Pair the weights of two ONNX files; failing that, two files of the same length as a whole.

    >>> find(b"not ONNX", b"nor this")
    [Block(source_at=0, at=0, length=8)]
    >>> find(b"one", b"other")
    []
    """
    pairs = list(itertools.zip_longest(_weights(source), _weights(result)))
    if pairs and all(a and b and a[1] - a[0] == b[1] - b[0] for a, b in pairs) and len(pairs) <= MAX_BLOCKS:
        return [Block(a[0], b[0], b[1] - b[0]) for a, b in pairs]
    return [Block(0, 0, len(result))] if len(source) == len(result) and result else []


def head(result: bytes, blocks: typing.Sequence[Block]) -> bytes:
    """Write the places of the blocks, and everything outside of them."""
    places = [_PLACE.pack(*block) for block in blocks]
    ends = [0, *(block.at + block.length for block in blocks)]
    starts = [*(block.at for block in blocks), len(result)]
    outside = [result[end:start] for end, start in zip(ends, starts, strict=True)]
    return b"".join([_COUNT.pack(len(blocks)), *places, *outside])


def read_head(data: bytes, source: bytes, length: int) -> tuple[list[Block], bytearray, int]:
    """Return the blocks, a result of which only the blocks are still empty, and where the head ends.

    Raises
    ------
    WireError
        Blocks overlap or reach outside of a file, or bytes are missing.
    """
    if len(data) < _COUNT.size:
        raise WireError("ends before its blocks", field="delta")
    (n,) = _COUNT.unpack_from(data)
    at = _COUNT.size + _PLACE.size * n
    if n > MAX_BLOCKS or at > len(data):
        raise WireError(f"{n:,} blocks in {len(data):,} bytes", field="delta")
    blocks = [Block(*place) for place in _PLACE.iter_unpack(data[_COUNT.size : at])]
    result, done = bytearray(length), 0
    for block in [*blocks, Block(0, length, 0)]:
        if not done <= block.at <= block.at + block.length <= length or block.source_at + block.length > len(source):
            raise WireError(f"a block lies outside of its file: {tuple(block)}", field="delta")
        outside = data[at : at + block.at - done]
        if len(outside) != block.at - done:
            raise WireError("ends before the last of its bytes", field="delta")
        result[done : block.at] = outside
        at, done = at + len(outside), block.at + block.length
    return blocks, result, at


def ends(source: bytes) -> bytes:
    """Return what the outside of the result's blocks may resemble: the first and the last bytes of the source."""
    return source[:_END_BYTES] + source[-_END_BYTES:] if source else b""


def compress(parts: typing.Iterable[bytes], source: bytes, level: int) -> bytes:
    """Compress a head and what follows it."""
    return codec.compress_parts(parts, level=level, prefix=ends(source))


def decompress(body: bytes, source: bytes, length: int) -> bytes:
    """Undo `compress`; WireError if the body is not a whole frame, or more than the longest body of a result."""
    limit_bytes, prefix = most_bytes(length), ends(source)
    window = codec.window_log(len(prefix) + limit_bytes)
    return codec.decompress(body, limit_bytes=limit_bytes, window=window, prefix=prefix)


def most_bytes(length: int) -> int:
    """The longest body of blocks that makes a result of some length, if a method says one byte for each of theirs."""
    return _COUNT.size + (_PLACE.size + WIDTH) * MAX_BLOCKS + length


def _weights(data: bytes) -> list[tuple[int, int]]:
    """Return (start, end) of the numbers of each larger tensor of an ONNX file; nothing if it is none."""
    found = []
    try:
        for graph in _fields(data, 0, len(data), _GRAPH):
            for tensor in _fields(data, *graph, _INITIALIZER):
                found += [raw for raw in _fields(data, *tensor, _NUMBERS) if raw[1] - raw[0] >= _SMALLEST_BYTES]
    except (IndexError, ValueError):
        return []
    return found


def _fields(data: bytes, at: int, end: int, wanted: tuple[int, ...]) -> typing.Iterator[tuple[int, int]]:
    """Yield (start, end) of each field of a protobuf message that has bytes and a number that is wanted."""
    while at < end:
        tag, at = _varint(data, at)
        if tag & 7 == _VARINT:
            _, at = _varint(data, at)
            continue
        lengths = {_FIXED64: 8, _FIXED32: 4}
        length, at = _varint(data, at) if tag & 7 == _BYTES else (lengths.get(tag & 7, len(data) + 1), at)
        if at + length > end:
            raise ValueError(at)
        if tag & 7 == _BYTES and tag >> 3 in wanted:
            yield at, at + length
        at += length


def _varint(data: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while (byte := data[at]) & 0x80:
        value |= (byte & 0x7F) << shift
        shift, at = shift + 7, at + 1
    return value | byte << shift, at + 1
