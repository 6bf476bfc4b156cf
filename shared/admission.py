"""Whether an ONNX file may be loaded at all: known operators and domains, nothing outside it, the right input."""

from __future__ import annotations

import typing

from shared import onnx_wire
from shared.errors import ModelError
from shared.onnx_wire import Contents

MAX_IR_VERSION = 13
_FLOAT = 1  # TensorProto.DataType
_ML = "ai.onnx.ml"
_STANDARD = (
    "Abs", "Add", "And", "ArgMax", "ArgMin", "Cast", "Ceil", "Clip", "Concat", "Constant", "DequantizeLinear",
    "Div", "DynamicQuantizeLinear", "Elu", "Equal", "Erf", "Exp", "Flatten", "Floor", "Gather", "GatherElements",
    "Gelu", "Gemm", "Greater", "GreaterOrEqual", "HardSigmoid", "HardSwish", "Identity", "LayerNormalization",
    "LeakyRelu", "Less", "LessOrEqual", "Log", "LogSoftmax", "LpNormalization", "MatMul", "MatMulInteger", "Max",
    "Mean", "Min", "Mod", "Mul", "Neg", "Not", "Or", "PRelu", "Pow", "QLinearMatMul", "QuantizeLinear",
    "Reciprocal", "ReduceL1", "ReduceL2", "ReduceLogSum", "ReduceLogSumExp", "ReduceMax", "ReduceMean", "ReduceMin",
    "ReduceProd", "ReduceSum", "ReduceSumSquare", "Relu", "Reshape", "Round", "Selu", "Shape", "Sigmoid", "Sign",
    "Slice", "Softmax", "Softplus", "Softsign", "Split", "Sqrt", "Squeeze", "Sub", "Sum", "Tanh", "TopK",
    "Transpose", "Unsqueeze", "Where", "Xor",
)  # fmt: skip
_MACHINE_LEARNING = (
    "ArrayFeatureExtractor", "Binarizer", "FeatureVectorizer", "Imputer", "LabelEncoder", "LinearClassifier",
    "LinearRegressor", "Normalizer", "OneHotEncoder", "SVMClassifier", "SVMRegressor", "Scaler", "TreeEnsemble",
    "TreeEnsembleClassifier", "TreeEnsembleRegressor",
)  # fmt: skip
# Left out on purpose: Loop, Scan, If (no end in sight), ConstantOfShape, Expand, Range, Tile, Pad, Resize (memory out
# of nothing), Random* (not reproducible), String* and ZipMap (no tensors of floats).
OPERATORS = frozenset([*(("", name) for name in _STANDARD), *((_ML, name) for name in _MACHINE_LEARNING)])


def check_model(data: bytes, *, width: int, listed: typing.Collection[str] = ()) -> Contents:
    """Look at a file before any runtime does.

    Parameters
    ----------
    data : bytes
        The file, whose hash is the signed one.
    width : int
        Number of float32 inputs that the feature set makes.
    listed : collection of str
        Operators that the signed manifest allows on top of `OPERATORS`, as `full_name` writes them.

    Returns
    -------
    Contents
        What is in it.

    Raises
    ------
    ModelError
        It may not be loaded; the message says why.
    """
    found = onnx_wire.read(data)
    _check_inside(found)
    unknown = sorted(full_name(one) for one in found.operators - OPERATORS if full_name(one) not in listed)
    if unknown:
        raise ModelError(
            f"the operator {unknown[0]!r:.120} is not allowed",
            field="model",
            fix="Choose another estimator, or list it in the model's allow_operators.",
        )
    _check_input(found, width)
    return found


def full_name(operator: tuple[str, str]) -> str:
    """Name an operator with its domain, the standard one left out.

    >>> full_name(("", "Loop")), full_name(("ai.onnx.ml", "ZipMap"))
    ('Loop', 'ai.onnx.ml.ZipMap')
    """
    domain, name = operator
    return f"{domain}.{name}" if domain else name


def _check_inside(found: Contents) -> None:
    if not 1 <= found.ir_version <= MAX_IR_VERSION:
        raise ModelError(f"IR version {found.ir_version} is not one of 1 to {MAX_IR_VERSION}", field="model")
    if not found.n_nodes:
        raise ModelError("there is no graph in it", field="model")
    if found.n_functions:
        raise ModelError("it defines functions of its own", field="model", fix="Export it with functions inlined.")
    if found.n_training:
        raise ModelError("it holds a training graph", field="model", fix="Export it for inference.")
    if found.external:
        raise ModelError(
            f"the tensor {found.external!r:.120} lies in another file", field="model", fix="Put it inside."
        )
    if found.oversized:
        raise ModelError(f"the tensor {found.oversized!r:.120} is larger than what the file holds of it", field="model")


def _check_input(found: Contents, width: int) -> None:
    seen = [(one.name, one.kind, one.shape) for one in found.inputs]
    if len(found.inputs) != 1 or found.inputs[0].kind != _FLOAT or found.inputs[0].shape[-1:] != (width,):
        raise ModelError(f"needs one float tensor of width {width}, has {seen!r:.200}", field="model")
    if len(set(found.outputs)) != len(found.outputs) or not found.outputs:
        raise ModelError(f"its outputs are {found.outputs!r:.200}", field="model")
