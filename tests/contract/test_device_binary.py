"""Infer over the wire: JSON and bytes in any mix give the same answers; sizes that lie are refused by their path."""

from __future__ import annotations

import gzip
import json
import pathlib
import struct
import typing
import zlib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edge_agent.predict import infer_reply, tensors
from edge_agent.predict.infer_reply import RequestedOutput
from edge_agent.predict.routes import Api, Head
from shared import bundle, codec
from shared.bundle import Golden, Lineage, Manifest
from shared.features import FeatureSet, Numeric
from tests import fakes

Plain = dict[str, typing.Any]
INFER = "/v2/models/late/infer"
NAMES = ("label", "probabilities", "prediction_id", "source", "arm")
DTYPES = {"x": "FP64", "colour": "BYTES", "size": "INT32"}
ROWS = [{"x": 1.5, "colour": "red", "size": 0}, {"x": -2.5, "colour": "grün", "size": 2}]


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> fakes.Served:
    return fakes.serve(tmp_path_factory.mktemp("served"), fakes.make_bundle())


class Reply(typing.NamedTuple):
    """A reply, taken apart as the protocol says."""

    status: int
    said: Plain
    outputs: dict[str, list[typing.Any]]
    as_bytes: set[str]


def ask(api: Api, request: Plain, tail: bytes = b"", *, header: object = None, encoding: bytes = b"") -> Reply:
    """Send JSON and bytes, and read whatever comes back."""
    head = json.dumps(request).encode()
    length = str(len(head) if header is None else header).encode() if tail or header is not None else None
    body = head + tail
    packed = {b"gzip": gzip.compress, b"deflate": zlib.compress}.get(encoding, bytes)(body)
    reply = api.handle("POST", INFER, packed, Head(length, encoding))
    own = dict(reply.headers).get(infer_reply.LENGTH_HEADER)
    split = int(own) if own else len(reply.body)
    said = json.loads(reply.body[:split])
    assert reply.kind == ("application/octet-stream" if own else "application/json")
    outputs, at, as_bytes = {}, split, set()
    for one in said.get("outputs", ()):
        if "data" in one:
            outputs[one["name"]] = one["data"]
            continue
        size = one["parameters"]["binary_data_size"]
        outputs[one["name"]] = tensors.from_bytes(one["datatype"], one["shape"], reply.body[at : at + size], "")
        at += size
        as_bytes.add(one["name"])
    assert at == len(reply.body)
    return Reply(reply.status, said, outputs, as_bytes)


def column(name: str, values: list[typing.Any], *, as_bytes: bool) -> tuple[Plain, bytes]:
    """Write a column of a request."""
    plain: Plain = {"name": name, "shape": [len(values)], "datatype": DTYPES[name]}
    if not as_bytes:
        return plain | {"data": values}, b""
    data = tensors.to_bytes(DTYPES[name], values)
    return plain | {"parameters": {"binary_data_size": len(data)}}, data


def request(rows: list[Plain], which: typing.Iterable[bool]) -> tuple[Plain, bytes]:
    """Write rows, each column as JSON or as bytes."""
    made = [column(name, [row[name] for row in rows], as_bytes=b) for name, b in zip(DTYPES, which, strict=True)]
    return {"inputs": [tensor for tensor, _ in made]}, b"".join(data for _, data in made)


def wanted_of(rows: list[Plain]) -> list[float]:
    return [p for row in rows for p in fakes.expected(row, task="binary", slope=1.0, n_outputs=2)]


some_rows = st.lists(
    st.fixed_dictionaries(
        {"x": st.floats(-10, 10), "colour": st.sampled_from(["red", "grün", ""]), "size": st.integers(-9, 9)}
    ),
    min_size=1,
    max_size=5,
)
three = st.tuples(st.booleans(), st.booleans(), st.booleans())


@settings(deadline=None)
@given(
    rows=some_rows,
    which=three,
    wanted=st.dictionaries(st.sampled_from(NAMES), st.none() | st.booleans()),
    default=st.booleans(),
    encoding=st.sampled_from([b"", b"gzip", b"deflate"]),
)
def test_any_mix_of_json_and_bytes_gives_the_same_answers(
    served: fakes.Served,
    rows: list[Plain],
    which: tuple[bool, bool, bool],
    wanted: dict[str, bool | None],
    default: bool,
    encoding: bytes,
) -> None:
    body, tail = request(rows, which)
    body["parameters"] = {"binary_data_output": default}
    body["outputs"] = [
        {"name": name} | ({} if own is None else {"parameters": {"binary_data": own}}) for name, own in wanted.items()
    ]
    reply = ask(served.api, body, tail, encoding=encoding)
    assert reply.status == 200, reply
    assert list(reply.outputs) == list(wanted or NAMES)
    assert reply.as_bytes == {n for n in reply.outputs if (default if wanted.get(n) is None else wanted[n])}
    if "probabilities" in reply.outputs:
        assert reply.outputs["probabilities"] == pytest.approx(wanted_of(rows), abs=1e-6)
    if "prediction_id" in reply.outputs:
        assert len(set(reply.outputs["prediction_id"])) == len(rows)
    if "arm" in reply.outputs:
        assert reply.outputs["arm"] == ["incumbent"] * len(rows)


@pytest.mark.parametrize("task", ["binary", "multiclass", "regression"])
@pytest.mark.parametrize("request_id", [None, "", 'r-"1\u00e4'])
def test_the_short_way_to_reply_says_what_the_long_way_says(
    tmp_path: pathlib.Path, task: str, request_id: str | None
) -> None:
    served = fakes.serve(tmp_path, fakes.make_bundle(task=task, model="m%d_100%"))
    for row in fakes.ROWS:
        made = served.engine.predict(served.engine.model(None), row, unit=None, event_s=fakes.NOW_S)
        short = json.loads(infer_reply.say([made], request_id, None, as_bytes=False).body)
        names = [RequestedOutput(one["name"]) for one in short["outputs"]]
        long = json.loads(infer_reply.say([made], request_id, names, as_bytes=False).body)
        assert short == long
        assert short["model_name"] == "m%d_100%"
        assert short.get("id") == (request_id or None)


def test_an_approximate_answer_is_marked_in_a_reply_of_one_row(tmp_path: pathlib.Path) -> None:
    served = fakes.serve(tmp_path, fakes.make_bundle(fault="nan", default=(0.5, 0.5)))
    body, _ = request([{"x": 6.0, "colour": "red", "size": 0}], (False, False, False))
    said = ask(served.api, body).said
    assert (said["parameters"]["source"], said["parameters"]["approximate"]) == ("default", True)


def binary(**changes: object) -> Plain:
    return {"name": "x", "shape": [1], "datatype": "FP64", "parameters": {"binary_data_size": 8}} | changes


ONE = struct.pack("<d", 1.0)


@pytest.mark.parametrize(
    ("inputs", "tail", "header", "field", "says"),
    [
        ([binary()], b"", None, "inputs[0].parameters.binary_data_size", "8 bytes are announced, 0 are there"),
        ([binary()], ONE[:7], None, "inputs[0].parameters.binary_data_size", "7 are there"),
        ([binary()], ONE + b"x", None, "binary_data_size", "9 bytes follow the JSON, the tensors have 8"),
        ([binary(parameters={"binary_data_size": 7})], ONE, None, "inputs[0].shape", "7 bytes of FP64"),
        ([binary(parameters={"binary_data_size": -1})], ONE, None, "inputs[0].parameters.binary_data_size", ">= 0"),
        ([binary(parameters={"binary_data_size": 1 << 70})], ONE, None, "inputs[0].parameters.binary_data_size", ""),
        ([binary(parameters={"binary_data_size": "8"})], ONE, None, "inputs[0].parameters.binary_data_size", "int"),
        ([binary(data=[1.0])], ONE, None, "inputs[0].data", "JSON data and binary data"),
        ([binary(parameters={})], b"", None, "inputs[0].data", "there is no data"),
        ([binary(parameters={"shared_memory_region": "r"})], b"", None, "inputs[0].data", "there is no data"),
        ([binary(datatype="BYTES")], ONE, None, "inputs[0].data", "do not hold 1 texts"),
        ([binary(), binary(name="size")], ONE, None, "inputs[1].parameters.binary_data_size", "0 are there"),
        ([binary(shape=[1, 2], parameters={"binary_data_size": 16})], ONE * 2, None, "inputs[0].shape", "column 'x'"),
        ([binary()], ONE, 0, infer_reply.LENGTH_HEADER, "'0' is not the length"),
        ([binary()], ONE, 10**9, infer_reply.LENGTH_HEADER, "is not the length"),
        ([binary()], ONE, -5, infer_reply.LENGTH_HEADER, "'-5' is not the length"),
        ([binary()], ONE, "five", infer_reply.LENGTH_HEADER, "'five' is not the length"),
        ([binary()], ONE, 5, "body", "not JSON"),
    ],
)
def test_sizes_that_lie_are_refused_by_their_path(
    served: fakes.Served, inputs: list[Plain], tail: bytes, header: object, field: str, says: str
) -> None:
    reply = ask(served.api, {"inputs": inputs}, tail, header=header)
    assert (reply.status, reply.said["field"]) == (400, field), reply.said
    assert says in reply.said["error"]


def test_nan_in_bytes_is_a_missing_value(tmp_path: pathlib.Path) -> None:
    served = fakes.serve(tmp_path, fakes.make_bundle())
    size = {"name": "size", "shape": [1], "datatype": "FP32", "parameters": {"binary_data_size": 4}}
    got = ask(served.api, {"inputs": [binary(), size]}, ONE + struct.pack("<f", float("nan"))).outputs
    wanted = fakes.expected({"x": 1.0, "size": None}, task="binary", slope=1.0, n_outputs=2)
    assert got["probabilities"] == pytest.approx(wanted, abs=1e-6)


def test_a_large_packed_body_is_refused_before_it_is_unpacked_whole(served: fakes.Served) -> None:
    api = Api(served.engine, served.clock, dict, max_body_bytes=10_000)
    reply = api.handle("POST", INFER, gzip.compress(bytes(50_000_000)), Head(None, b"gzip"))
    assert reply.status == 413
    assert b"more than 10,000 bytes when unpacked" in reply.body


# ---- all columns in one tensor


def numbers_only(tmp_path: pathlib.Path) -> fakes.Served:
    features = FeatureSet(
        name="n", feature=(Numeric(name="a", min=-10.0, max=10.0), Numeric(name="b", min=-10.0, max=10.0))
    )
    model = fakes.onnx_model("regression", 1.0, 1, 2, "")
    files = {
        bundle.FEATURES_FILE: codec.to_json(features),
        bundle.GOLDEN_FILE: codec.to_json(Golden(rows=(), outputs=())),
        bundle.CARD_FILE: b"{}",
        bundle.MODEL_FILE: model,
    }
    manifest = Manifest(
        model="late", version="v1", task="regression", metric="squared_error", classes=(), n_outputs=1,
        features_sha256=features.digest, files=(), lineage=Lineage(kind="stateless"),
    )  # fmt: skip
    return fakes.serve(tmp_path, fakes.seal(manifest, files))


def test_where_all_columns_are_numbers_one_tensor_holds_them_all(tmp_path: pathlib.Path) -> None:
    served = numbers_only(tmp_path)
    rows = [[1.0, 2.0], [-3.0, 4.5], [0.0, 0.0]]
    apart = [
        {"name": name, "shape": [3], "datatype": "FP32", "data": [row[i] for row in rows]}
        for i, name in enumerate(("a", "b"))
    ]
    wanted = ask(served.api, {"inputs": apart}).outputs["value"]
    together: Plain = {"name": "features", "shape": [3, 2], "datatype": "FP32"}
    flat = [number for row in rows for number in row]
    for data in (rows, flat):
        assert ask(served.api, {"inputs": [together | {"data": data}]}).outputs["value"] == wanted
    packed = struct.pack("<6f", *flat)
    tensor = together | {"parameters": {"binary_data_size": len(packed)}}
    assert ask(served.api, {"inputs": [tensor]}, packed).outputs["value"] == wanted


@pytest.mark.parametrize(("name", "width"), [("features", 3), ("numbers", 2)])
def test_a_tensor_of_another_width_or_name_is_refused(tmp_path: pathlib.Path, name: str, width: int) -> None:
    tensor = {"name": name, "shape": [1, width], "datatype": "FP32", "data": [1] * width}
    reply = ask(numbers_only(tmp_path).api, {"inputs": [tensor]})
    assert (reply.status, reply.said["field"]) == (400, "inputs[0].shape")


def test_columns_that_are_text_are_sent_one_by_one(served: fakes.Served) -> None:
    tensor = {"name": "features", "shape": [1, 3], "datatype": "BYTES", "data": ["1", "red", "0"]}
    assert ask(served.api, {"inputs": [tensor]}).status == 400


# ---- anything at all

anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3),
    max_leaves=6,
)
some_tensor = st.fixed_dictionaries(
    {
        "name": st.sampled_from(["x", "colour", "size", "features", "y"]),
        "shape": st.lists(st.integers(-1, 3), max_size=3),
        "datatype": st.sampled_from([*tensors._CODES, "BYTES", "BF16"]),
    },
    optional={
        "data": st.lists(anything, max_size=3),
        "parameters": st.fixed_dictionaries({}, optional={"binary_data_size": st.integers(0, 24)}),
    },
)


@settings(deadline=None, max_examples=300)
@given(
    inputs=st.lists(some_tensor, max_size=3),
    tail=st.binary(max_size=40),
    header=st.none() | st.integers(-2, 400) | st.text("0123456789 x", max_size=5),
)
def test_whatever_tensors_are_sent_it_is_never_the_servers_fault(
    served: fakes.Served, inputs: list[Plain], tail: bytes, header: object
) -> None:
    reply = ask(served.api, {"inputs": inputs}, tail, header=header)
    assert reply.status in (200, 400)
    assert reply.status == 200 or reply.said["error"]
