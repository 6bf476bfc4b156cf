"""Method `zstd`: the whole file, compressed; it needs no source."""

from __future__ import annotations

from shared import codec

LEVEL = 19


def encode(_source: bytes, result: bytes) -> bytes:
    """Compress the file."""
    return codec.compress(result, level=LEVEL)


def decode(body: bytes, _source: bytes, length: int) -> bytes:
    """Decompress the file; WireError if it is not a whole frame of at most `length` bytes."""
    return codec.decompress(body, limit_bytes=length, window=codec.window_log(length))
