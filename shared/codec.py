"""Bytes on the wire: msgpack and JSON records that begin with ``covey.<name>/<major>``, and zstd with a cap."""

from __future__ import annotations

import sys
import typing

import msgspec

from shared.errors import WireError, WireVersionError

T = typing.TypeVar("T", bound="Record")
_MAX_FRAME_HEADROOM_BYTES = 1 << 16
_ZSTD_LEVEL = 6
_MIN_WINDOW_LOG, _MAX_WINDOW_LOG = 10, 27
_MIN_PREFIX_BYTES = 8
MAX_FLOAT32 = 3.4028234663852886e38


class Record(msgspec.Struct, frozen=True, kw_only=True):
    """Base of every record on the wire: unknown fields are ignored, unknown majors are refused."""

    SCHEMA: typing.ClassVar[str] = ""
    schema: str = ""

    def __post_init__(self) -> None:
        if self.schema:
            check_schema(self.schema, self.SCHEMA)
        else:
            msgspec.structs.force_setattr(self, "schema", self.SCHEMA)


class _Head(msgspec.Struct):
    """The one field that every record of every version has."""

    schema: str


def check_schema(seen: str, expected: str) -> None:
    """Raise WireVersionError unless `seen` names the same record and the same major version as `expected`."""
    if seen == expected:
        return
    name, _, major = expected.partition("/")
    seen_name, _, seen_major = seen.partition("/")
    if seen_name != name:
        raise WireError(f"expected a record {name!r}, got {seen[:60]!r}", field="schema")
    raise WireVersionError(
        f"this program reads {name} major {major}, got {seen_major[:20]!r}",
        field="schema",
        fix="Update the older side.",
    )


def to_json(record: object) -> bytes:
    """Deterministic JSON: keys in the order of their definition, dictionaries sorted, one line."""
    return msgspec.json.encode(record, order="deterministic")


def to_msgpack(record: object) -> bytes:
    """Deterministic msgpack."""
    return msgspec.msgpack.encode(record, order="deterministic")


def from_json(data: bytes | str, kind: type[T], *, limit_bytes: int = 1 << 20) -> T:
    """Read one record from JSON.

    Raises
    ------
    WireError
        Too large, not JSON, or not this record; the message names the field.
    """
    return _read(msgspec.json.decode, data, kind, limit_bytes)


def from_msgpack(data: bytes, kind: type[T], *, limit_bytes: int = 1 << 24) -> T:
    """Read one record from msgpack; raises as `from_json` does."""
    return _read(msgspec.msgpack.decode, data, kind, limit_bytes)


def _read(decode: typing.Callable[..., typing.Any], data: bytes | str, kind: type[T], limit_bytes: int) -> T:
    if len(data) > limit_bytes:
        raise WireError(f"{len(data):,} bytes, at most {limit_bytes:,} are read", field=kind.SCHEMA)
    try:
        # What it says it is comes first: another major version may have changed any field.
        check_schema(decode(data, type=_Head).schema, kind.SCHEMA)
        record: T = decode(data, type=kind)
    except msgspec.ValidationError as err:
        raise _named(err, kind.SCHEMA) from err
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError, ValueError) as err:
        raise WireError(f"can not be read: {err}", field=kind.SCHEMA) from err
    return record


def _named(err: msgspec.ValidationError, schema: str) -> WireError:
    """Move msgspec's ``- at `$.a[0].b``` into the field of our error."""
    message, _, path = str(err).partition(" - at `$")
    return WireError(message[:1].lower() + message[1:], field=f"{schema} {path.rstrip('`').lstrip('.')}".strip())


def compress(data: bytes, *, level: int = _ZSTD_LEVEL, prefix: bytes = b"") -> bytes:
    """Compress with zstd.

    Parameters
    ----------
    prefix : bytes
        What the reader has already: matches are looked for in it too. At most 128 MiB of prefix and data are of use.
    """
    zstd = _zstd()
    options = {zstd.CompressionParameter.compression_level: level}
    if not prefix:
        return bytes(zstd.compress(data, options=options))
    options[zstd.CompressionParameter.window_log] = window_log(len(prefix) + len(data))
    return bytes(zstd.compress(data, options=options, zstd_dict=_raw(prefix)))


def compress_parts(parts: typing.Iterable[bytes], *, level: int = _ZSTD_LEVEL, prefix: bytes = b"") -> bytes:
    """Compress bytes of different kinds as one frame, each kind by statistics of its own.

    >>> decompress(compress_parts([b"a" * 40, b"", b"b" * 40]), limit_bytes=80) == b"a" * 40 + b"b" * 40
    True
    """
    zstd, parts = _zstd(), list(parts)
    n_bytes = sum(map(len, parts))
    options = {zstd.CompressionParameter.compression_level: level}
    if prefix:
        options[zstd.CompressionParameter.window_log] = window_log(len(prefix) + n_bytes)
    compressor = zstd.ZstdCompressor(options=options, zstd_dict=_raw(prefix) if prefix else None)
    compressor.set_pledged_input_size(n_bytes)  # else its tables are made for something very large
    out = [compressor.compress(part, mode=compressor.FLUSH_BLOCK) for part in parts if part]
    return b"".join([*out, compressor.flush()])


def decompress(data: bytes, *, limit_bytes: int, window: int = _MAX_WINDOW_LOG, prefix: bytes = b"") -> bytes:
    """Decompress one zstd frame that must be whole and at most `limit_bytes` long.

    Parameters
    ----------
    window : int
        Binary logarithm of the largest window that is made room for.
    prefix : bytes
        What the frame was compressed with.

    Raises
    ------
    WireError
        Not zstd, truncated, trailing bytes, or longer than the limit. Memory stays bounded by the limit.
    """
    zstd = _zstd()
    decompressor = zstd.ZstdDecompressor(
        zstd_dict=_raw(prefix) if prefix else None, options={zstd.DecompressionParameter.window_log_max: window}
    )
    try:
        out = decompressor.decompress(data, max_length=limit_bytes + 1)
    except zstd.ZstdError as err:
        raise WireError(f"not a zstd frame: {err}", field="body") from err
    if len(out) > limit_bytes:
        raise WireError(f"decompresses to more than {limit_bytes:,} bytes", field="body")
    if not decompressor.eof:
        raise WireError("the zstd frame is truncated", field="body", fix="Send it again.")
    if decompressor.unused_data:
        raise WireError("bytes follow the zstd frame", field="body")
    return bytes(out)


def window_log(n_bytes: int) -> int:
    """Binary logarithm of the window that so many bytes fit into, within what zstd and memory allow.

    >>> window_log(0), window_log(1 << 20), window_log(1 << 40)
    (10, 21, 27)
    """
    return min(max(n_bytes.bit_length(), _MIN_WINDOW_LOG), _MAX_WINDOW_LOG)


def _raw(prefix: bytes) -> typing.Any:  # noqa: ANN401 - of one of two modules with the same interface
    """Return bytes as what zstd looks for matches in; fewer than eight are too few for it."""
    zstd = _zstd()
    return zstd.ZstdDict(prefix.ljust(_MIN_PREFIX_BYTES, b"\0"), is_raw=True).as_prefix


def _zstd() -> typing.Any:  # noqa: ANN401 - one of two modules with the same interface
    """Import zstd only when there is something to (de)compress: it costs a device two megabytes."""
    if sys.version_info >= (3, 14):
        from compression import zstd
    else:
        from backports import zstd
    return zstd
