"""What an ONNX file holds, read from protobuf's wire format alone, before any runtime gets to see the file.

Nothing is built from the bytes: a walk notes operators, inputs, subgraphs, functions and external data, and
ends at the first thing that is not well-formed. Field numbers are those of ``onnx.proto`` (IR version 12), wire types
those of https://protobuf.dev/programming-guides/encoding.
"""

from __future__ import annotations

import dataclasses
import math
import re
import typing

from shared.errors import ModelError

MAX_DEPTH = 8  # graphs inside graphs, types inside types
MAX_NODES = 100_000
_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5
_MAX_VARINT_BYTES = 10
_LAST = 0x80  # a byte below ends a varint
_SHORT = b"|".join(b"\\x%02x[\\x00-\\xff]{%d}" % (length, length) for length in range(17))
# A tree ensemble has millions of thresholds, modes and numbers, one field each: runs of them are passed over at once.
_RUNS = {
    7: re.compile(rb"(?:\x3d[\x00-\xff]{4})++"),
    8: re.compile(rb"(?:\x40[\x80-\xff]{0,9}+[\x00-\x7f])++"),
    9: re.compile(rb"(?:\x4a(?:" + _SHORT + rb"))++"),
}
_ELSEWHERE = 1  # TensorProto.DataLocation


class _Model:
    IR_VERSION, GRAPH, TRAINING, FUNCTION = 1, 7, 20, 25


class _Graph:
    NODE, TENSOR, INPUT, OUTPUT, SPARSE = 1, 5, 11, 12, 15


class _Node:
    OPERATOR, ATTRIBUTE, DOMAIN = 4, 5, 7


class _Attribute:
    GRAPHS, TENSORS, SPARSE = (6, 11), (5, 10), (22, 23)


class _Tensor:
    DIMS, NAME, EXTERNAL, LOCATION = 1, 8, 13, 14


class Input(typing.NamedTuple):
    """An input of the graph: its name, element type (1 is float) and shape, with 0 for what is not fixed."""

    name: str
    kind: int
    shape: tuple[int, ...]


@dataclasses.dataclass
class Contents:
    """What was found in a file.

    Parameters
    ----------
    ir_version : int
        Version of the file format.
    operators : set of (str, str)
        Domain and name of every node, in subgraphs too.
    inputs, outputs : list of Input, list of str
        Of the main graph.
    n_nodes, n_functions, n_training : int
        How many there are.
    external, oversized : str
        The first tensor whose data lie in another file; and the first whose shape says more than its bytes can hold.
    """

    ir_version: int = 0
    operators: set[tuple[str, str]] = dataclasses.field(default_factory=set)
    inputs: list[Input] = dataclasses.field(default_factory=list)
    outputs: list[str] = dataclasses.field(default_factory=list)
    n_nodes: int = 0
    n_functions: int = 0
    n_training: int = 0
    external: str = ""
    oversized: str = ""


def read(data: bytes) -> Contents:
    """Walk through a file.

    Parameters
    ----------
    data : bytes
        The whole file.

    Raises
    ------
    ModelError
        It is not well-formed, nested too deeply, or has too many nodes.

    Examples
    --------
    >>> read(b"").n_nodes
    0
    >>> read(bytes([0x3A, 5, 0]))
    Traceback (most recent call last):
    ...
    shared.errors.ModelError: model: byte 2: 5 bytes, and the file ends after 1
    """
    found = Contents()
    walk = _Walk(data, found)
    for number, wire, start, end in walk.fields(0, len(data)):
        if (number, wire) == (_Model.IR_VERSION, _VARINT):
            found.ir_version = start
        elif wire == _BYTES:
            if number == _Model.GRAPH:
                walk.graph(start, end, 0)
            found.n_training += number == _Model.TRAINING
            found.n_functions += number == _Model.FUNCTION
    return found


class _Walk:
    """The walk through one file; a message is a range of its bytes."""

    def __init__(self, data: bytes, found: Contents) -> None:
        self._data, self._found = data, found

    def fields(self, at: int, end: int) -> typing.Iterator[tuple[int, int, int, int]]:
        """Yield (number, wire type, start, end) of each field; of a number, its value and 0."""
        while at < end:
            tag, at = self._varint(at, end)
            number, wire = tag >> 3, tag & 7
            if wire == _VARINT:
                value, at = self._varint(at, end)
                yield number, wire, value, 0
                at = self._pass_over(number, at, end)
                continue
            if wire == _BYTES:
                length, at = self._varint(at, end)
            elif wire in (_FIXED64, _FIXED32):
                length = 8 if wire == _FIXED64 else 4
            else:
                raise ModelError(f"byte {at}: wire type {wire} is not of ONNX", field="model")
            if number == 0:
                raise ModelError(f"byte {at}: field 0 is not of protobuf", field="model")
            if length > end - at:
                raise ModelError(f"byte {at}: {length} bytes, and the file ends after {end - at}", field="model")
            yield number, wire, at, at + length
            at = self._pass_over(number, at + length, end)

    def _pass_over(self, number: int, at: int, end: int) -> int:
        """Return where a run of fields with the same number ends; nobody looks at the later ones."""
        more = _RUNS[number].match(self._data, at, end) if number in _RUNS else None
        return more.end() if more else at

    def _varint(self, at: int, end: int) -> tuple[int, int]:
        value = 0
        for i in range(min(_MAX_VARINT_BYTES, end - at)):
            byte = self._data[at + i]
            value |= (byte & (_LAST - 1)) << (7 * i)
            if byte < _LAST:
                return value & ((1 << 64) - 1), at + i + 1
        raise ModelError(f"byte {at}: a number without an end", field="model")

    def _text(self, start: int, end: int) -> str:
        try:
            return self._data[start:end].decode()
        except UnicodeDecodeError as err:
            raise ModelError(f"byte {start}: not UTF-8", field="model") from err

    def graph(self, at: int, end: int, depth: int) -> None:
        """Walk through a graph; only the main one, at depth 0, has inputs and outputs of its own."""
        if depth > MAX_DEPTH:
            raise ModelError(f"graphs lie more than {MAX_DEPTH} deep in each other", field="model")
        for number, wire, start, stop in self.fields(at, end):
            if wire != _BYTES:
                continue
            if number == _Graph.NODE:
                self._node(start, stop, depth)
            elif number == _Graph.TENSOR:
                self._tensor(start, stop)
            elif number == _Graph.SPARSE:
                self._sparse(start, stop)
            elif number == _Graph.INPUT and depth == 0:
                self._found.inputs.append(self._input(start, stop))
            elif number == _Graph.OUTPUT and depth == 0:
                self._found.outputs.append(self._input(start, stop).name)

    def _node(self, at: int, end: int, depth: int) -> None:
        self._found.n_nodes += 1
        if self._found.n_nodes > MAX_NODES:
            raise ModelError(f"more than {MAX_NODES:,} nodes", field="model")
        name = domain = ""
        for number, wire, start, stop in self.fields(at, end):
            if wire != _BYTES:
                continue
            if number == _Node.OPERATOR:
                name = self._text(start, stop)
            elif number == _Node.DOMAIN:
                domain = self._text(start, stop)
            elif number == _Node.ATTRIBUTE:
                self._attribute(start, stop, depth)
        self._found.operators.add(("" if domain == "ai.onnx" else domain, name))

    def _attribute(self, at: int, end: int, depth: int) -> None:
        for number, wire, start, stop in self.fields(at, end):
            if wire != _BYTES:
                continue
            if number in _Attribute.GRAPHS:
                self.graph(start, stop, depth + 1)
            elif number in _Attribute.TENSORS:
                self._tensor(start, stop)
            elif number in _Attribute.SPARSE:
                self._sparse(start, stop)

    def _sparse(self, at: int, end: int) -> None:
        for number, wire, start, stop in self.fields(at, end):
            if wire == _BYTES and number in (1, 2):
                self._tensor(start, stop)

    def _tensor(self, at: int, end: int) -> None:
        """Note data in other files, and shapes that would make a runtime allocate what the file does not hold."""
        name, n_elements = "", 1
        is_external = False
        for number, wire, start, stop in self.fields(at, end):
            if number == _Tensor.DIMS:
                n_elements *= math.prod(self._dims(wire, start, stop))
            elif (number, wire) == (_Tensor.NAME, _BYTES):
                name = self._text(start, stop)
            elif number == _Tensor.EXTERNAL or (number, wire, start) == (_Tensor.LOCATION, _VARINT, _ELSEWHERE):
                is_external = True
        if is_external:
            self._found.external = self._found.external or name or "unnamed"
        elif n_elements > 2 * (end - at):  # the smallest elements are half a byte
            self._found.oversized = self._found.oversized or name or "unnamed"

    def _dims(self, wire: int, start: int, stop: int) -> typing.Iterator[int]:
        """Yield dimensions, one or packed; a negative one is larger than anything."""
        if wire == _VARINT:
            yield start
            return
        while start < stop:
            value, start = self._varint(start, stop)
            yield value

    def _input(self, at: int, end: int) -> Input:
        name, kind = "", 0
        shape: tuple[int, ...] = ()
        for number, wire, start, stop in self.fields(at, end):
            if (number, wire) == (1, _BYTES):
                name = self._text(start, stop)
            elif (number, wire) == (2, _BYTES):
                kind, shape = self._type(start, stop)
        return Input(name, kind, shape)

    def _type(self, at: int, end: int) -> tuple[int, tuple[int, ...]]:
        """Return element type and shape of a dense tensor; (0, ()) for any other type."""
        kind = 0
        shape: tuple[int, ...] = ()
        for number, wire, start, stop in self.fields(at, end):
            if (number, wire) != (1, _BYTES):
                continue
            for part, how, first, last in self.fields(start, stop):
                if (part, how) == (1, _VARINT):
                    kind = first
                elif (part, how) == (2, _BYTES):
                    shape = tuple(self._dim(a, b) for n, w, a, b in self.fields(first, last) if (n, w) == (1, _BYTES))
        return kind, shape

    def _dim(self, at: int, end: int) -> int:
        return next((start for number, wire, start, _ in self.fields(at, end) if (number, wire) == (1, _VARINT)), 0)
