"""Method `same`: the file has not changed, there is nothing to send."""

from __future__ import annotations

from shared.errors import WireError


def encode(source: bytes, result: bytes) -> bytes | None:
    """Return an empty body if the files are equal."""
    return b"" if source == result else None


def decode(body: bytes, source: bytes, length: int) -> bytes:
    """Return the source.

    Raises
    ------
    WireError
        There is a body, or another length is promised.
    """
    if body or length != len(source):
        raise WireError(f"the same file of {length:,} bytes, with a body of {len(body):,}", field="delta")
    return source
