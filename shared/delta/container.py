"""What travels: a record that says how to make one file from another, with lengths and hashes of both.

The record is msgpack; its CRC-32 (4 bytes, little-endian) follows, so that damage is found before anything is read.
"""

from __future__ import annotations

import hashlib
import typing
import zlib

import msgspec

from shared import codec
from shared.errors import TrustError, WireError

Length = typing.Annotated[int, msgspec.Meta(ge=0, le=1 << 40)]
Hash = typing.Annotated[bytes, msgspec.Meta(min_length=32, max_length=32)]
_FIELD = "delta"
_HEAD_BYTES, _CHECK_BYTES = 1024, 4


class Delta(codec.Record, frozen=True, kw_only=True):
    """A delta.

    Parameters
    ----------
    method : str
        How `body` is to be read.
    source_length, source_sha256 : int, bytes
        The file that the reader has; 0 and the hash of nothing for a method that needs none.
    length, sha256 : int, bytes
        The file that comes out.
    """

    SCHEMA: typing.ClassVar[str] = "covey.delta/1"
    method: typing.Annotated[str, msgspec.Meta(pattern=r"^[a-z][a-z0-9-]{0,31}\Z")]
    source_length: Length
    source_sha256: Hash
    length: Length
    sha256: Hash
    body: bytes


def pack(method: str, source: bytes, result: bytes, body: bytes) -> bytes:
    """Write a delta."""
    return pack_record(
        Delta(
            method=method,
            source_length=len(source),
            source_sha256=hashlib.sha256(source).digest(),
            length=len(result),
            sha256=hashlib.sha256(result).digest(),
            body=body,
        )
    )


def pack_record(delta: Delta) -> bytes:
    """Write a record with its checksum."""
    data = codec.to_msgpack(delta)
    return data + zlib.crc32(data).to_bytes(_CHECK_BYTES, "little")


def parse(data: bytes, *, limit_bytes: int) -> Delta:
    """Read a delta, and check what can be checked without making anything from it.

    Parameters
    ----------
    limit_bytes : int
        The most that may come out.

    Raises
    ------
    WireError
        Garbage, truncated, damaged, or more would come out.
    """
    # What compression can not shrink grows a little: less than a 64th.
    most_bytes = limit_bytes + (limit_bytes >> 6) + _HEAD_BYTES
    if len(data) > most_bytes:
        raise WireError(f"{len(data):,} bytes, at most {most_bytes:,} are read", field=_FIELD)
    record, check = data[:-_CHECK_BYTES], data[-_CHECK_BYTES:]
    if zlib.crc32(record) != int.from_bytes(check, "little"):
        raise WireError("damaged: its checksum is wrong", field=_FIELD, fix="Fetch it again.")
    delta = codec.from_msgpack(record, Delta, limit_bytes=most_bytes)
    if delta.length > limit_bytes:
        raise WireError(f"makes {delta.length:,} bytes, at most {limit_bytes:,} are allowed", field=_FIELD)
    return delta


def check_source(delta: Delta, source: bytes) -> None:
    """Raise TrustError unless `source` is the file that the delta was made for."""
    if len(source) != delta.source_length or hashlib.sha256(source).digest() != delta.source_sha256:
        raise TrustError("made for another file than the one that is here", field=_FIELD, fix="Fetch the whole file.")


def check_result(delta: Delta, result: bytes) -> None:
    """Raise TrustError unless `result` is the file that the delta promised."""
    if len(result) != delta.length or hashlib.sha256(result).digest() != delta.sha256:
        raise TrustError("does not make the file that it promises", field=_FIELD, fix="Fetch the whole file.")
