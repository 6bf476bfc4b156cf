"""Compressed bodies, gzip and deflate: requests, never more than a limit; replies, for who says that he reads them."""

from __future__ import annotations

import zlib

from shared.errors import LimitError, WireError

_WINDOW_BITS = {b"gzip": 31, b"x-gzip": 31, b"deflate": 15}
_NONE = (b"", b"identity")
_WRITTEN = ("gzip", "deflate")
_LEVEL = 1  # others wait meanwhile; higher ones take three times as long for a tenth less


class TooLargeError(LimitError):
    """The request is larger than this device reads."""

    code = "too-large"
    http_status = 413
    retry = False


def unpacked(body: bytes, encoding: bytes, limit_bytes: int) -> bytes:
    """Return a body as it was before it was compressed.

    Parameters
    ----------
    encoding : bytes
        The header Content-Encoding.
    limit_bytes : int
        No more than this is ever unpacked.

    Raises
    ------
    WireError
        The encoding is not known, or the body is damaged.
    TooLargeError
        There is more in it than the limit.
    """
    name = encoding.strip().lower()
    if name in _NONE:
        return body
    bits = _WINDOW_BITS.get(name)
    if bits is None:
        raise WireError(
            f"{encoding[:40].decode('latin-1')!r} is not read here",
            field="content-encoding",
            fix="Use gzip or deflate.",
        )
    unpack = zlib.decompressobj(bits)
    try:
        out = unpack.decompress(body, limit_bytes + 1)
    except zlib.error as err:
        raise WireError(f"not {name.decode()}: {err}", field="body") from err
    if len(out) > limit_bytes:
        raise TooLargeError(f"more than {limit_bytes:,} bytes when unpacked", field="body")
    if not unpack.eof or unpack.unused_data:
        raise WireError(f"not one whole {name.decode()} stream", field="body", fix="Compress the body once, whole.")
    return out


def choose(accepts: bytes) -> str:
    """Return the encoding for a reply, by what the header Accept-Encoding says; empty for none.

    >>> choose(b"deflate;q=0.5, gzip"), choose(b"br, *;q=0.1"), choose(b"gzip;q=0, identity")
    ('gzip', 'gzip', '')
    """
    wanted: dict[str, float] = {}
    for part in accepts.decode("latin-1").lower().split(","):
        name, _, quality = part.partition(";")
        wanted[name.strip()] = _quality(quality)
    rest = wanted.get("*", 0.0)
    best = max(_WRITTEN, key=lambda name: wanted.get(name, rest))
    return best if wanted.get(best, rest) > 0 else ""


def _quality(text: str) -> float:
    name, _, value = text.partition("=")
    if name.strip() != "q":
        return 1.0
    try:
        return float(value)
    except ValueError:
        return 0.0


def packed(body: bytes, name: str) -> bytes:
    """Return a body, compressed."""
    pack = zlib.compressobj(_LEVEL, wbits=_WINDOW_BITS[name.encode()])
    return pack.compress(body) + pack.flush()
