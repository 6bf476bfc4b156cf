"""Tensors of the Open Inference Protocol: values as JSON or as bytes, to plain Python values and back."""

from __future__ import annotations

import struct
import typing

from shared.errors import DataError, shown

Value = str | int | float | bool | None
_CODES = {
    "BOOL": "?",
    "INT8": "b",
    "INT16": "h",
    "INT32": "i",
    "INT64": "q",
    "UINT8": "B",
    "UINT16": "H",
    "UINT32": "I",
    "UINT64": "Q",
    "FP16": "e",
    "FP32": "f",
    "FP64": "d",
}
_SIZES = {datatype: struct.calcsize("<" + code) for datatype, code in _CODES.items()}
_NOTHING = type(None)
_KINDS: dict[str, frozenset[type]] = {
    datatype: frozenset((_NOTHING, bool))
    if datatype == "BOOL"
    else frozenset((_NOTHING, float, int) if code in "fd" else (_NOTHING, int))
    for datatype, code in _CODES.items()
    if datatype != "FP16"  # the protocol has no half floats in JSON
} | {"BYTES": frozenset((_NOTHING, str))}
_RANGES = {
    datatype: (-(1 << (8 * _SIZES[datatype] - 1)), (1 << (8 * _SIZES[datatype] - 1)) - 1)
    if datatype.startswith("I")
    else (0, (1 << (8 * _SIZES[datatype])) - 1)
    for datatype in _CODES
    if "INT" in datatype
}
_LENGTH = struct.Struct("<I")


def fits(datatype: str, value: object) -> bool:
    """Tell whether one value of JSON is of a datatype."""
    kinds = _KINDS.get(datatype)
    if kinds is None or type(value) not in kinds:
        return False
    limits = _RANGES.get(datatype)
    return limits is None or value is None or limits[0] <= typing.cast("int", value) <= limits[1]


def from_json(datatype: str, shape: typing.Sequence[int], data: list[typing.Any], where: str) -> list[Value]:
    """Read a tensor's JSON, flat or nested, into values in row-major order; null is a missing value.

    Parameters
    ----------
    shape : sequence of int
        One or two dimensions, not negative.
    where : str
        Path of the tensor, for messages.

    Raises
    ------
    DataError
        The datatype is not read as JSON, or the data does not fit datatype and shape.
    """
    kinds = _KINDS.get(datatype)
    if kinds is None:
        raise _unread(datatype, where, as_bytes=False)
    if len(shape) > 1 and data and type(data[0]) is list:
        data = _flat(data, shape[1], where)
    if len(data) != size_of(shape):
        raise misfit(shape, f"{len(data)} values", where)
    seen = set(map(type, data))
    if not seen <= kinds:
        odd = next(value for value in data if type(value) not in kinds)
        raise DataError(f"{shown(odd)} is not {datatype}", field=f"{where}.data")
    if datatype in _RANGES and int in seen:
        for value in data:
            if not fits(datatype, value):
                raise DataError(f"{shown(value)} is not {datatype}", field=f"{where}.data")
    return data


def _flat(data: list[typing.Any], width: int, where: str) -> list[typing.Any]:
    out: list[typing.Any] = []
    for line in data:
        if type(line) is not list or len(line) != width:
            raise DataError(f"{shown(line)} is not a list of {width}", field=f"{where}.data", fix="Nest all or none.")
        out += line
    return out


def from_bytes(datatype: str, shape: typing.Sequence[int], data: bytes, where: str) -> list[Value]:
    """Read a tensor's bytes, little-endian and row-major; NaN is a missing value, as everywhere.

    Raises
    ------
    DataError
        The datatype is not known, or the bytes do not fit datatype and shape.
    """
    n = size_of(shape)
    if datatype == "BYTES":
        return _texts(n, data, where)
    code = _CODES.get(datatype)
    if code is None:
        raise _unread(datatype, where, as_bytes=True)
    if len(data) != n * _SIZES[datatype]:
        raise misfit(shape, f"{len(data)} bytes of {datatype}", where)
    if datatype == "BOOL" and data.strip(b"\x00\x01"):
        raise DataError("a byte is neither 0 nor 1", field=f"{where}.data")
    return list(struct.unpack(f"<{n}{code}", data))


def _texts(n: int, data: bytes, where: str) -> list[Value]:
    """Read texts, each behind its length in four bytes."""
    out: list[Value] = []
    at, end = 0, len(data)
    while at + _LENGTH.size <= end and len(out) < n:
        (size,) = _LENGTH.unpack_from(data, at)
        at += _LENGTH.size + size
        if at > end:
            break
        try:
            out.append(data[at - size : at].decode())
        except UnicodeDecodeError as err:
            raise DataError(f"element {len(out)} is not UTF-8", field=f"{where}.data") from err
    if at != end or len(out) != n:
        raise DataError(
            f"{end:,} bytes do not hold {n} texts",
            field=f"{where}.data",
            fix="Put the length of each, four bytes, little-endian, in front of it.",
        )
    return out


def to_bytes(datatype: str, values: typing.Sequence[typing.Any]) -> bytes:
    """Write values as bytes."""
    if datatype == "BYTES":
        texts = [str(value).encode() for value in values]
        return b"".join([part for text in texts for part in (_LENGTH.pack(len(text)), text)])
    return struct.pack(f"<{len(values)}{_CODES[datatype]}", *values)


def size_of(shape: typing.Sequence[int]) -> int:
    """Return the number of elements."""
    size = 1
    for length in shape:
        size *= length
    return size


def misfit(shape: typing.Sequence[int], what: str, where: str) -> DataError:
    """Return the error for data that does not fill its shape."""
    return DataError(
        f"shape {shown(list(shape))} and {what} do not fit", field=f"{where}.shape", fix="Use [n] or [n, 1]."
    )


def _unread(datatype: str, where: str, *, as_bytes: bool) -> DataError:
    known = ", ".join(sorted({*_CODES, "BYTES"} if as_bytes else _KINDS))
    fix = "Send it as binary data." if datatype == "FP16" else f"Use one of {known}."
    return DataError(f"{datatype[:20]!r} is not read here", field=f"{where}.datatype", fix=fix)
