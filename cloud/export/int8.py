"""Make a smaller model of an exported one: weights of dense layers in 8 bits, sums in whole numbers."""

from __future__ import annotations

import logging
import pathlib
import tempfile

import onnx
from onnxruntime.quantization import QuantType, quantize_dynamic

from shared.errors import ModelError

_SHOWN = 300
_DENSE = {"MatMul", "Gemm"}


def quantise(file: bytes) -> bytes:
    """Quantise the matrix products of a model dynamically (ONNX Runtime's quantisation tool).

    Weights keep 7 of 8 bits: on processors without VNNI, sums of full 8 bit products saturate, and such a device would
    answer differently from all others.

    Parameters
    ----------
    file : bytes
        The exported model.

    Raises
    ------
    ModelError
        There is nothing to quantise in it: no dense layer.
    """
    model = onnx.load_from_string(file)
    if not {node.op_type for node in model.graph.node} & _DENSE:
        raise ModelError(
            "there is no dense layer to quantise", field="variant int8", fix="int8 is for networks; leave it out."
        )
    root = logging.getLogger()
    level = root.level
    root.setLevel(logging.ERROR)  # its advice on pre-processing is about images
    try:
        with tempfile.TemporaryDirectory() as folder:
            path = pathlib.Path(folder, "model.onnx")
            quantize_dynamic(model, path, per_channel=True, reduce_range=True, weight_type=QuantType.QInt8)
            made = onnx.load(str(path))
    except Exception as err:
        raise ModelError(f"can not be quantised: {str(err)[:_SHOWN]}", field="variant int8") from err
    finally:
        root.setLevel(level)
    data: bytes = made.SerializeToString(deterministic=True)
    return data
