"""Tensors: what is written is read back, whatever the kind, and bytes that do not fit are refused by their path."""

from __future__ import annotations

import math
import struct
import typing

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_agent.predict import tensors
from shared.errors import DataError

WHERE = "inputs[0]"
KINDS = {
    "BOOL": np.bool_, "INT8": np.int8, "INT16": np.int16, "INT32": np.int32, "INT64": np.int64, "UINT8": np.uint8,
    "UINT16": np.uint16, "UINT32": np.uint32, "UINT64": np.uint64, "FP16": np.float16, "FP32": np.float32,
    "FP64": np.float64,
}  # fmt: skip


def values_of(datatype: str) -> st.SearchStrategy[typing.Any]:
    if datatype == "BYTES":
        return st.text(max_size=6)
    if datatype == "BOOL":
        return st.booleans()
    if datatype.startswith("FP"):
        return st.floats(width=int(datatype[2:]), allow_nan=False)  # type: ignore[arg-type]
    info = np.iinfo(KINDS[datatype])
    return st.integers(int(info.min), int(info.max))


some = st.sampled_from([*KINDS, "BYTES"]).flatmap(
    lambda datatype: st.tuples(st.just(datatype), st.lists(values_of(datatype), max_size=6))
)


@given(some)
def test_what_is_written_as_bytes_is_read_back(made: tuple[str, list[typing.Any]]) -> None:
    datatype, values = made
    data = tensors.to_bytes(datatype, values)
    assert tensors.from_bytes(datatype, [len(values)], data, WHERE) == values
    assert tensors.from_bytes(datatype, [len(values), 1], data, WHERE) == values


@given(some)
def test_bytes_are_laid_out_as_numpy_lays_them_out(made: tuple[str, list[typing.Any]]) -> None:
    datatype, values = made
    if datatype != "BYTES":
        assert (
            tensors.to_bytes(datatype, values)
            == np.array(values, KINDS[datatype]).astype(np.dtype(KINDS[datatype]).newbyteorder("<")).tobytes()
        )


@given(some)
def test_what_is_sent_as_json_is_read_back_flat_or_nested(made: tuple[str, list[typing.Any]]) -> None:
    datatype, values = made
    if datatype == "FP16":
        return
    assert tensors.from_json(datatype, [len(values)], values, WHERE) == values
    assert tensors.from_json(datatype, [len(values), 1], [[value] for value in values], WHERE) == values
    if len(values) % 2 == 0:
        nested = [list(pair) for pair in zip(values[::2], values[1::2], strict=True)]
        assert tensors.from_json(datatype, [len(nested), 2], nested, WHERE) == values


def test_a_number_that_is_none_stays_one_since_that_is_a_missing_value() -> None:
    (got,) = tensors.from_bytes("FP32", [1], struct.pack("<f", math.nan), WHERE)
    assert isinstance(got, float)
    assert math.isnan(got)
    assert tensors.from_json("FP32", [1], [None], WHERE) == [None]


@pytest.mark.parametrize(
    ("datatype", "shape", "data", "field", "says"),
    [
        ("FP32", [2], b"\0" * 7, ".shape", "7 bytes of FP32"),
        ("FP32", [1 << 62], b"", ".shape", "0 bytes"),
        ("INT8", [0], b"\0", ".shape", "1 bytes"),
        ("BOOL", [2], b"\x01\x02", ".data", "neither 0 nor 1"),
        ("BF16", [1], b"\0\0", ".datatype", "Use one of BOOL, BYTES, FP16"),
        ("BYTES", [1], b"", ".data", "do not hold 1 texts"),
        ("BYTES", [0], b"\0\0\0\0", ".data", "do not hold 0 texts"),
        ("BYTES", [1], b"\x02\0\0\0a", ".data", "do not hold"),
        ("BYTES", [1], b"\xff\xff\xff\xff", ".data", "do not hold"),
        ("BYTES", [2], b"\x01\0\0\0a\x01\0\0", ".data", "do not hold 2 texts"),
        ("BYTES", [1 << 40], b"\0\0\0\0", ".data", "do not hold"),
        ("BYTES", [1], b"\x01\0\0\0\xff", ".data", "element 0 is not UTF-8"),
    ],
)
def test_bytes_that_do_not_fit_are_refused(datatype: str, shape: list[int], data: bytes, field: str, says: str) -> None:
    with pytest.raises(DataError) as raised:
        tensors.from_bytes(datatype, shape, data, WHERE)
    assert raised.value.field == WHERE + field
    assert says in str(raised.value)


@given(st.sampled_from([*KINDS, "BYTES", "FP128"]), st.lists(st.integers(0, 5), min_size=1, max_size=2), st.binary())
def test_any_bytes_are_values_of_their_shape_or_refused(datatype: str, shape: list[int], data: bytes) -> None:
    try:
        got = tensors.from_bytes(datatype, shape, data, WHERE)
    except DataError:
        return
    assert len(got) == tensors.size_of(shape)
