"""Files that must not be loaded are refused by a walk over their bytes, and the walk reads what onnx reads."""

from __future__ import annotations

import copy
import typing

import hypothesis
import numpy as np
import onnx
import pytest
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from shared import onnx_wire
from shared.admission import OPERATORS, check_model, full_name
from shared.errors import ModelError

WIDTH = 3
Change = typing.Callable[[onnx.ModelProto], None]


def graph_of(*nodes: onnx.NodeProto, weights: typing.Sequence[TensorProto] = ()) -> onnx.GraphProto:
    given = helper.make_tensor_value_info("x", TensorProto.FLOAT, [None, WIDTH])
    said = helper.make_tensor_value_info("y", TensorProto.FLOAT, [None, 1])
    return helper.make_graph(nodes, "g", [given], [said], list(weights))


def sound() -> onnx.ModelProto:
    weight = numpy_helper.from_array(np.ones((WIDTH, 1), np.float32), "w")
    graph = graph_of(helper.make_node("MatMul", ["x", "w"], ["y"]), weights=[weight])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)


def inner(name: str = "Identity") -> onnx.GraphProto:
    return helper.make_graph(
        [helper.make_node(name, ["x"], ["z"])], "inner", [], [helper.make_empty_tensor_value_info("z")]
    )


def nested(depth: int) -> onnx.GraphProto:
    graph = inner()
    for _ in range(depth):
        node = helper.make_node("If", ["c"], ["z"], then_branch=graph, else_branch=inner())
        graph = helper.make_graph([node], "more", [], [helper.make_empty_tensor_value_info("z")])
    return graph


def add(*nodes: onnx.NodeProto) -> Change:
    return lambda model: model.graph.node.extend(nodes)


def external(model: onnx.ModelProto) -> None:
    tensor = model.graph.initializer[0]
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value="../../etc/passwd")


def external_without_saying_so(model: onnx.ModelProto) -> None:
    model.graph.initializer[0].external_data.add(key="location", value="w.bin")


def external_in_an_attribute(model: onnx.ModelProto) -> None:
    external(model)
    tensor = copy.deepcopy(model.graph.initializer[0])
    del model.graph.initializer[:]
    model.graph.node.insert(0, helper.make_node("Constant", [], ["w"], value=tensor))


def sparse_external(model: onnx.ModelProto) -> None:
    values = copy.deepcopy(model.graph.initializer[0])
    values.data_location = TensorProto.EXTERNAL
    model.graph.sparse_initializer.add(values=values, dims=[3, 1])


def huge_shape(*dims: int) -> Change:
    def change(model: onnx.ModelProto) -> None:
        del model.graph.initializer[0].dims[:]
        model.graph.initializer[0].dims.extend(dims)

    return change


def function(model: onnx.ModelProto) -> None:
    made = helper.make_function(
        "own", "F", ["a"], ["b"], [helper.make_node("Relu", ["a"], ["b"])], [helper.make_opsetid("", 18)]
    )
    model.functions.append(made)


def training(model: onnx.ModelProto) -> None:
    model.training_info.add()


def no_graph(model: onnx.ModelProto) -> None:
    model.ClearField("graph")


def second_input(model: onnx.ModelProto) -> None:
    model.graph.input.append(helper.make_tensor_value_info("more", TensorProto.FLOAT, [1]))


def input_of(kind: int, *shape: int | None) -> Change:
    def change(model: onnx.ModelProto) -> None:
        del model.graph.input[:]
        model.graph.input.append(helper.make_tensor_value_info("x", kind, list(shape)))

    return change


def sequence_input(model: onnx.ModelProto) -> None:
    del model.graph.input[:]
    model.graph.input.append(helper.make_tensor_sequence_value_info("x", TensorProto.FLOAT, [None, WIDTH]))


def no_output(model: onnx.ModelProto) -> None:
    del model.graph.output[:]


def output_twice(model: onnx.ModelProto) -> None:
    model.graph.output.append(model.graph.output[0])


def ir_version(version: int) -> Change:
    return lambda model: setattr(model, "ir_version", version)


LOOP = helper.make_node("Loop", ["n", "c"], ["z"], body=inner())
HOSTILE: dict[str, tuple[Change, str]] = {
    "endless loop": (add(LOOP), "operator 'Loop'"),
    "scan": (add(helper.make_node("Scan", ["x"], ["z"], body=inner(), num_scan_inputs=1)), "operator 'Scan'"),
    "branches": (add(helper.make_node("If", ["c"], ["z"], then_branch=inner(), else_branch=inner())), "operator 'If'"),
    "loop inside a branch": (
        add(helper.make_node("Identity", ["x"], ["z"], hidden=inner("Loop"))),
        "operator 'Loop'",
    ),
    "memory out of nothing": (add(helper.make_node("ConstantOfShape", ["s"], ["z"])), "operator 'ConstantOfShape'"),
    "expand": (add(helper.make_node("Expand", ["x", "s"], ["z"])), "operator 'Expand'"),
    "random numbers": (add(helper.make_node("RandomNormal", [], ["z"], shape=[1 << 20])), "operator 'RandomNormal'"),
    "an operator that nobody knows": (add(helper.make_node("Own", ["x"], ["z"])), "operator 'Own'"),
    "a domain of its own": (add(helper.make_node("MatMul", ["x"], ["z"], domain="evil")), "operator 'evil.MatMul'"),
    "a vendor's domain": (add(helper.make_node("Gelu", ["x"], ["z"], domain="com.microsoft")), "com.microsoft.Gelu"),
    "maps for outputs": (add(helper.make_node("ZipMap", ["x"], ["z"], domain="ai.onnx.ml")), "ai.onnx.ml.ZipMap"),
    "graphs in graphs": (add(helper.make_node("If", ["c"], ["z"], then_branch=nested(9))), "more than 8 deep"),
    "a function": (function, "functions of its own"),
    "a training graph": (training, "a training graph"),
    "data in another file": (external, "lies in another file"),
    "another file, not said so": (external_without_saying_so, "lies in another file"),
    "another file, in a constant": (external_in_an_attribute, "lies in another file"),
    "another file, sparse": (sparse_external, "lies in another file"),
    "a shape of 2^36": (huge_shape(1 << 18, 1 << 18), "larger than what the file holds"),
    "a shape whose size overflows": (huge_shape(1 << 40, 1 << 40), "larger than what the file holds"),
    "a negative shape": (huge_shape(-1), "larger than what the file holds"),
    "no graph": (no_graph, "no graph"),
    "no IR version": (ir_version(0), "IR version 0"),
    "a future IR version": (ir_version(99), "IR version 99"),
    "two inputs": (second_input, "needs one float tensor"),
    "an input of another width": (input_of(TensorProto.FLOAT, None, WIDTH + 1), "needs one float tensor"),
    "an input of doubles": (input_of(TensorProto.DOUBLE, None, WIDTH), "needs one float tensor"),
    "an input of text": (input_of(TensorProto.STRING, None, WIDTH), "needs one float tensor"),
    "an input without a shape": (input_of(TensorProto.FLOAT), "needs one float tensor"),
    "a sequence for an input": (sequence_input, "needs one float tensor"),
    "no output": (no_output, "outputs are"),
    "the same output twice": (output_twice, "outputs are"),
}  # fmt: skip


def test_a_sound_model_is_admitted_and_described() -> None:
    found = check_model(sound().SerializeToString(), width=WIDTH)
    assert found.operators == {("", "MatMul")}
    assert found.inputs == [("x", TensorProto.FLOAT, (0, WIDTH))]
    assert (found.outputs, found.n_nodes, found.ir_version) == (["y"], 1, 8)


@pytest.mark.parametrize(("change", "says"), HOSTILE.values(), ids=HOSTILE)
def test_a_hostile_file_is_refused_for_what_is_wrong_with_it(change: Change, says: str) -> None:
    model = sound()
    change(model)
    with pytest.raises(ModelError) as caught:
        check_model(model.SerializeToString(), width=WIDTH)
    assert says in str(caught.value)
    assert len(str(caught.value)) < 400


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (b"", "IR version 0"),
        (b"\xff" * 64, "a number without an end"),
        (b"\x08", "a number without an end"),
        (b"\x3a\xff\xff\xff\xff\x0f\x00", "the file ends after"),
        (b"\x3a\x80\x80\x80\x80\x80\x80\x80\x80\x80\x01", "the file ends after"),
        (b"\x0b\x08\x01\x0c", "wire type 3"),
        (b"\x02\x01a", "field 0"),
        (b"PK\x03\x04", "wire type"),
        (sound().SerializeToString()[:-3], "the file ends after"),
        (b"\x08\x08\x3a\x07\x0a\x05\x22\x03\xff\xfe\xfd", "not UTF-8"),
    ],
)  # fmt: skip
def test_bytes_that_are_no_model_are_refused_with_the_place(data: bytes, says: str) -> None:
    with pytest.raises(ModelError, match=says):
        check_model(data, width=WIDTH)


def test_more_nodes_than_any_model_has_are_refused() -> None:
    node = helper.make_node("Relu", ["x"], ["y"]).SerializeToString()
    entry = b"\x0a" + bytes([len(node)]) + node
    graph = entry * (onnx_wire.MAX_NODES + 1)
    size = len(graph)
    length = bytes([(size & 127) | 128, ((size >> 7) & 127) | 128, ((size >> 14) & 127) | 128, size >> 21])
    with pytest.raises(ModelError, match="more than 100,000 nodes"):
        onnx_wire.read(b"\x3a" + length + graph)


def test_what_the_manifest_lists_is_admitted_and_nothing_else() -> None:
    model = sound()
    add(LOOP, helper.make_node("Own", ["x"], ["z"], domain="com.example"))(model)
    data = model.SerializeToString()
    check_model(data, width=WIDTH, listed=("Loop", "com.example.Own"))
    for listed in (("Loop",), ("Loop", "Own"), ("com.example.Loop", "com.example.Own")):
        with pytest.raises(ModelError, match="is not allowed"):
            check_model(data, width=WIDTH, listed=listed)


def operators_of(graph: onnx.GraphProto) -> typing.Iterator[tuple[str, str]]:
    for node in graph.node:
        yield "" if node.domain == "ai.onnx" else node.domain, node.op_type
        for attribute in node.attribute:
            for one in (*([attribute.g] if attribute.HasField("g") else []), *attribute.graphs):
                yield from operators_of(one)


_NAMES = st.sampled_from(["Add", "MatMul", "Loop", "Own"])
_DOMAINS = st.sampled_from(["", "ai.onnx", "ai.onnx.ml", "evil"])


@st.composite
def models(draw: st.DrawFn) -> onnx.ModelProto:
    """Graphs of any shape; whether they make sense does not matter to a walk."""
    model = sound()
    for _ in range(draw(st.integers(0, 4))):
        attributes: dict[str, typing.Any] = {}
        if draw(st.booleans()):
            attributes["inner"] = inner(draw(_NAMES))
        if draw(st.booleans()):
            attributes["floats"] = draw(st.lists(st.floats(width=32, allow_nan=False), min_size=1, max_size=40))
        if draw(st.booleans()):
            attributes["ints"] = draw(st.lists(st.integers(-(1 << 63), (1 << 63) - 1), min_size=1, max_size=40))
        if draw(st.booleans()):
            attributes["strings"] = draw(st.lists(st.binary(max_size=40), min_size=1, max_size=40))
        model.graph.node.append(helper.make_node(draw(_NAMES), ["x"], ["z"], domain=draw(_DOMAINS), **attributes))
    return model


@hypothesis.given(models())
def test_the_walk_reads_the_operators_that_onnx_reads(model: onnx.ModelProto) -> None:
    found = onnx_wire.read(model.SerializeToString())
    assert found.operators == set(operators_of(model.graph))
    assert found.outputs == ["y"]


@hypothesis.given(models(), st.data())
def test_a_damaged_file_is_refused_or_read_as_onnx_reads_it(model: onnx.ModelProto, data: st.DataObject) -> None:
    raw = bytearray(model.SerializeToString())
    for _ in range(data.draw(st.integers(1, 3))):
        raw[data.draw(st.integers(0, len(raw) - 1))] = data.draw(st.integers(0, 255))
    try:
        found = onnx_wire.read(bytes(raw))
    except ModelError:
        return
    try:
        seen = onnx.load_from_string(bytes(raw))
    except Exception:  # noqa: BLE001 - onnx is stricter about what nobody looks at
        return
    assert set(operators_of(seen.graph)) <= found.operators


def test_the_usual_operators_have_no_loop_and_no_strings() -> None:
    names = {full_name(one) for one in OPERATORS}
    assert not names & {"Loop", "Scan", "If", "ConstantOfShape", "Expand", "Range", "Tile", "StringNormalizer"}
    assert all(name.startswith("ai.onnx.ml.") or "." not in name for name in names)
