"""Open Inference Protocol v2 over JSON: model metadata and infer, with the raw features as named inputs."""

from __future__ import annotations

import os
import typing

import msgspec

from edge_agent.predict import replies
from edge_agent.predict.engine import ActiveModel, Prediction
from edge_agent.predict.loaded import NotReadyError
from edge_agent.predict.replies import MAX_ROWS, Response
from edge_agent.records import ARM_NAMES
from shared.errors import DataError
from shared.features import Bucketed, Categorical, FeatureSet, Numeric
from shared.telemetry import SOURCES

__all__ = ["NotReadyError", "infer", "metadata"]

_INTEGERS = ("INT8", "INT16", "INT32", "INT64", "UINT8", "UINT16", "UINT32", "UINT64")
_FLOATS = ("FP32", "FP64")
Rows = list[dict[str, object]]


class Tensor(msgspec.Struct, forbid_unknown_fields=True):
    """An input tensor with its data as JSON."""

    name: str
    shape: list[int]
    datatype: str
    data: list[object]
    parameters: dict[str, object] = {}


class RequestedOutput(msgspec.Struct, forbid_unknown_fields=True):
    """An output the client wants."""

    name: str
    parameters: dict[str, object] = {}


class Parameters(msgspec.Struct):
    """Parameters of a request; unknown ones are passed over, as the protocol asks."""

    unit: str | None = None
    event_time: replies.Time = None


class InferRequest(msgspec.Struct, forbid_unknown_fields=True):
    """``POST /v2/models/{model}/infer``."""

    inputs: list[Tensor]
    id: str = ""
    parameters: Parameters = msgspec.field(default_factory=Parameters)
    outputs: list[RequestedOutput] = []


class Answerer(typing.Protocol):
    """Answers rows."""

    def answer(
        self,
        active: ActiveModel,
        rows: typing.Sequence[typing.Mapping[str, object]],
        unit: str | None,
        said: replies.Time,
    ) -> list[Prediction]:
        """Answer rows that arrived together."""


def infer(api: Answerer, active: ActiveModel, version: str, body: bytes) -> Response:
    """Answer an infer request.

    All rows of a request go to one arm, so that ``model_version`` is true for all of them. Asking for a version by
    name does not choose an arm: arms belong to the experiment.
    """
    request = replies.read(body, InferRequest)
    rows = _rows(request.inputs)
    unit = request.parameters.unit or request.id or os.urandom(8).hex()
    made = api.answer(active, rows, unit, request.parameters.event_time)
    answered = made[0].bundle.version
    del version
    reply: dict[str, object] = {
        "model_name": active.entry.model,
        "model_version": answered,
        "parameters": replies.parameters(made[0]) if len(made) == 1 else {"version": answered},
        "outputs": _outputs(made, [wanted.name for wanted in request.outputs]),
    }
    if request.id:
        reply["id"] = request.id
    return replies.ok(reply, tuple(made))


def _rows(inputs: list[Tensor]) -> Rows:
    """Turn columns into rows."""
    if not inputs:
        raise DataError("there is no input", field="inputs", fix="Send each feature as a tensor of shape [n].")
    n = None
    rows: Rows = []
    for i, tensor in enumerate(inputs):
        size = 1
        for length in tensor.shape:
            size *= max(length, 0)
        if size != len(tensor.data) or not tensor.shape or tensor.shape[0] != size:
            raise DataError(
                f"shape {tensor.shape} and {len(tensor.data)} values do not fit",
                field=f"inputs[{i}].shape",
                fix="Use [n] or [n, 1].",
            )
        if n is None:
            n = size
            if not 1 <= n <= MAX_ROWS:
                raise DataError(f"{n} rows, between 1 and {MAX_ROWS:,} are answered", field=f"inputs[{i}].shape")
            rows = [{} for _ in range(n)]
        if size != n:
            raise DataError(f"{size} values, other inputs have {n}", field=f"inputs[{i}].shape")
        if tensor.name in rows[0]:
            raise DataError(f"{tensor.name!r:.60} is there twice", field=f"inputs[{i}].name")
        check = _checker(tensor.datatype, i)
        nested = len(tensor.shape) == 2  # noqa: PLR2004 - [n, 1] may come as [[a], [b]]
        data = [_only(value) for value in tensor.data] if nested else tensor.data
        for row, value in zip(rows, data, strict=True):
            row[tensor.name] = check(value)
    return rows


def _only(value: object) -> object:
    return value[0] if isinstance(value, list) and len(value) == 1 else value


def _checker(datatype: str, i: int) -> typing.Callable[[object], object]:
    kinds: tuple[type, ...]
    if datatype == "BYTES":
        kinds = (str,)
    elif datatype == "BOOL":
        kinds = (bool,)
    elif datatype in _INTEGERS:
        kinds = (int,)
    elif datatype in _FLOATS:
        kinds = (int, float)
    else:
        known = ", ".join(("BOOL", "BYTES", *_INTEGERS, *_FLOATS))
        raise DataError(
            f"{datatype[:20]!r} is not read here", field=f"inputs[{i}].datatype", fix=f"Use one of {known}."
        )

    def check(value: object) -> object:
        if value is None or (isinstance(value, kinds) and isinstance(value, bool) == (datatype == "BOOL")):
            return value
        raise DataError(f"{value!r:.40} is not {datatype}", field=f"inputs[{i}].data")

    return check


def _outputs(made: list[Prediction], wanted: list[str]) -> list[dict[str, object]]:
    manifest = made[0].bundle.manifest
    n = len(made)
    flat = [number for one in made for number in one.outputs]
    shape = [n, manifest.n_outputs]
    tensors: dict[str, dict[str, object]] = {}
    if manifest.task == "regression":
        tensors["value"] = {"datatype": "FP32", "shape": shape, "data": flat}
    else:
        labels = [manifest.classes[replies.label_index(one)] for one in made]
        words = any(isinstance(label, str) for label in labels)
        kind = "BYTES" if words else "INT64"
        data = labels if words else [int(label) for label in labels]
        tensors["label"] = {"datatype": kind, "shape": [n], "data": data}
        tensors["probabilities"] = {"datatype": "FP32", "shape": shape, "data": flat}
    tensors["prediction_id"] = {"datatype": "BYTES", "shape": [n], "data": [one.prediction_id for one in made]}
    tensors["source"] = {"datatype": "BYTES", "shape": [n], "data": [SOURCES[one.source] for one in made]}
    tensors["arm"] = {"datatype": "BYTES", "shape": [n], "data": [ARM_NAMES[one.arm] for one in made]}
    unknown = [name for name in wanted if name not in tensors]
    if unknown:
        raise DataError(f"no output {unknown[0]!r:.60}", field="outputs", fix=f"Known are {', '.join(tensors)}.")
    return [{"name": name} | tensors[name] for name in wanted or tensors]


def metadata(active: ActiveModel) -> dict[str, object]:
    """Model metadata: name, versions, inputs and outputs."""
    manifest = active.incumbent.manifest
    features = active.incumbent.encoder.feature_set
    shape = [-1, manifest.n_outputs]
    if manifest.task == "regression":
        outputs = [{"name": "value", "datatype": "FP32", "shape": shape}]
    else:
        words = any(isinstance(label, str) for label in manifest.classes)
        outputs = [
            {"name": "label", "datatype": "BYTES" if words else "INT64", "shape": [-1]},
            {"name": "probabilities", "datatype": "FP32", "shape": shape},
        ]
    outputs += [{"name": name, "datatype": "BYTES", "shape": [-1]} for name in ("prediction_id", "source", "arm")]
    return {
        "name": active.entry.model,
        "versions": list(active.entry.versions),
        "platform": "onnxruntime_onnx",
        "inputs": _inputs(features),
        "outputs": outputs,
    }


def _inputs(features: FeatureSet) -> list[dict[str, object]]:
    """One input for each raw column; times are text."""
    kinds: dict[str, str] = {}
    for feature in features.feature:
        number = isinstance(feature, Numeric | Bucketed) and not isinstance(feature, Categorical)
        kinds.setdefault(feature.column, "FP64" if number else "BYTES")
    return [{"name": name, "datatype": kind, "shape": [-1]} for name, kind in kinds.items()]
