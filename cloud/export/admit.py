"""Before a model is signed: the devices' own check of the file, and onnx's reading of the same bytes beside it."""

from __future__ import annotations

import typing

import onnx

from shared.admission import OPERATORS, check_model, full_name
from shared.errors import ModelError

_SHOWN = 300


def admit(file: bytes, *, width: int, listed: typing.Collection[str]) -> tuple[str, ...]:
    """Check a file as every device will; return the listed operators that it uses, for the manifest.

    Raises
    ------
    ModelError
        Devices would refuse it; or onnx finds a fault, or reads something else in it than the devices do.
    """
    found = check_model(file, width=width, listed=listed)
    try:
        model = onnx.load_from_string(file)
        onnx.checker.check_model(model)
    except Exception as err:
        raise ModelError(f"onnx refuses it: {str(err)[:_SHOWN]}", field="model") from err
    seen = set(_operators(model.graph))
    if seen != found.operators:
        odd = sorted(map(full_name, seen ^ found.operators))
        raise ModelError(f"onnx and the devices do not read the same operators: {odd!r:.200}", field="model")
    return tuple(sorted(map(full_name, found.operators - OPERATORS)))


def _operators(graph: onnx.GraphProto) -> typing.Iterator[tuple[str, str]]:
    for node in graph.node:
        yield "" if node.domain == "ai.onnx" else node.domain, node.op_type
        for attribute in node.attribute:
            for inner in (attribute.g, *attribute.graphs):
                yield from _operators(inner)
