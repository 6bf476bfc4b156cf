"""Tries the methods, keeps the smallest delta, and makes files from deltas."""

from __future__ import annotations

import typing

from shared.delta import container, int8, patch, planes, records, same, trees, whole
from shared.errors import WireError


class Method(typing.NamedTuple):
    """How a delta is made, None where it can not be; how a file is made from it; the memory that this takes.

    `copies` is how many times the source's and the result's length are in memory at once, at most.
    """

    encode: typing.Callable[[bytes, bytes], bytes | None]
    decode: typing.Callable[[bytes, bytes, int], bytes]
    copies: tuple[int, int]


METHODS: dict[str, Method] = {
    "same": Method(same.encode, same.decode, (1, 0)),
    "zstd": Method(whole.encode, whole.decode, (0, 4)),
    "patch": Method(patch.encode, patch.decode, (3, 4)),
    "trees": Method(trees.encode, trees.decode, (7, 9)),
    "planes": Method(planes.encode, planes.decode, (2, 7)),
    "int8": Method(int8.encode, int8.decode, (2, 7)),
    "records": Method(records.encode, records.decode, (2, 8)),
}
_NO_SOURCE = frozenset({"zstd"})
_BASE_BYTES = 4 << 20


def encode(method: str, source: bytes, result: bytes) -> bytes | None:
    """Make a delta by one method; None where the method does not fit the files.

    >>> encode("planes", b"one", b"other") is None
    True
    """
    body = METHODS[method].encode(source, result)
    return None if body is None else container.pack(method, b"" if method in _NO_SOURCE else source, result, body)


def best(source: bytes, result: bytes) -> bytes:
    """Make the smallest delta.

    >>> container.parse(best(b"as it was", b"as it was"), limit_bytes=9).method
    'same'
    """
    unchanged = encode("same", source, result)
    made = [unchanged] if unchanged is not None else [encode(method, source, result) for method in METHODS]
    return min((delta for delta in made if delta is not None), key=len)


def apply(delta: bytes, source: bytes, *, limit_bytes: int) -> bytes:
    """Make the file that a delta describes.

    Parameters
    ----------
    delta, source : bytes
        The delta and the file it was made for; any bytes may be tried.
    limit_bytes : int
        The most that may come out, as the signed manifest says; checked before anything is decompressed.

    Returns
    -------
    bytes
        The file, whose hash is the one that the delta promises.

    Raises
    ------
    WireError
        Garbage, truncated, damaged, too large, or of a method that this program does not know.
    TrustError
        The source is another file, or the result is.

    Examples
    --------
    >>> old, new = b"trees " * 100, b"trees " * 100 + b"and more"
    >>> delta = best(old, new)
    >>> apply(delta, old, limit_bytes=1000) == new
    True
    >>> apply(delta, b"elms " * 120, limit_bytes=1000)
    Traceback (most recent call last):
    ...
    shared.errors.TrustError: delta: made for another file than the one that is here. Fetch the whole file.
    """
    read = container.parse(delta, limit_bytes=limit_bytes)
    method = METHODS.get(read.method)
    if method is None:
        raise WireError(f"the method {read.method!r} is not one of {', '.join(METHODS)}", field="delta")
    used = b"" if read.method in _NO_SOURCE else source
    container.check_source(read, used)
    result = method.decode(read.body, used, read.length)
    container.check_result(read, result)
    return result


def memory_bytes(method: str, source_length: int, length: int) -> int:
    """Return the memory that applying a delta takes at most, with both files and the delta in it.

    >>> memory_bytes("patch", 1 << 20, 1 << 20) >> 20
    11
    """
    of_source, of_result = METHODS[method].copies
    return _BASE_BYTES + of_source * source_length + of_result * length
