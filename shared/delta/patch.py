"""Method `patch`: zstd that finds its matches in the old file, as ``zstd --patch-from`` does.

Good for forests that grow or roll on: the trees that stay are copied from the old file.
"""

from __future__ import annotations

from shared import codec

LEVEL = 19
MAX_BYTES = 1 << 27  # the window that a reader makes room for ends there, and with it what a match can reach


def encode(source: bytes, result: bytes) -> bytes | None:
    """Compress the file with the old one as prefix; nothing if they are too large for that."""
    if not source or len(source) + len(result) > MAX_BYTES:
        return None
    return codec.compress(result, level=LEVEL, prefix=source)


def decode(body: bytes, source: bytes, length: int) -> bytes:
    """Decompress the file; WireError if it is not a whole frame of at most `length` bytes."""
    window = codec.window_log(len(source) + length)
    return codec.decompress(body, limit_bytes=length, window=window, prefix=source)
