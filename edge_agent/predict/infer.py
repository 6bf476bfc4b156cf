"""Infer of the Open Inference Protocol v2: tensors in, as JSON or as bytes in any mix, and tensors out."""

from __future__ import annotations

import os
import typing

import msgspec

from edge_agent.predict import infer_reply, replies, tensors
from edge_agent.predict.asking import Ask
from edge_agent.predict.engine import ActiveModel, Prediction
from edge_agent.predict.infer_reply import LENGTH_HEADER, RequestedOutput, TensorParameters
from edge_agent.predict.replies import MAX_ROWS, Response
from shared.errors import DataError, WireError, shown
from shared.features import Bucketed, Categorical, Numeric

MATRIX = "features"
_MAX_DIMENSIONS = 2
_ONE_ROW = ([1], [1, 1])


class Tensor(msgspec.Struct, forbid_unknown_fields=True):
    """An input tensor, with its data as JSON unless the data follows as bytes."""

    name: str
    shape: list[int]
    datatype: str
    data: list[typing.Any] | msgspec.UnsetType = msgspec.UNSET
    parameters: TensorParameters | None = None


class Parameters(msgspec.Struct):
    """Parameters of a request; unknown ones are passed over, as the protocol asks."""

    unit: str | None = None
    event_time: replies.Time = None
    binary_data_output: bool = False


class InferRequest(msgspec.Struct, forbid_unknown_fields=True):
    """``POST /v2/models/{model}/infer``; who names the model again in the body is not believed."""

    inputs: list[Tensor]
    id: str | None = None
    parameters: Parameters | None = None
    outputs: list[RequestedOutput] | None = None
    model_name: str = ""
    model_version: str | None = None


_decoder = msgspec.json.Decoder(InferRequest)
_NO_PARAMETERS = Parameters()
_NO_TENSOR_PARAMETERS = TensorParameters()


def ask(
    active: ActiveModel,
    body: bytes,
    header_length: bytes | None,
    event_time: typing.Callable[[replies.Time, float], float],
) -> Ask:
    """Read an infer request.

    All rows of a request go to one arm, so that ``model_version`` is true for all of them. Asking for a version by
    name does not choose an arm: arms belong to the experiment.

    Parameters
    ----------
    header_length : bytes, optional
        The header Inference-Header-Content-Length: so much of the body is JSON, the rest is tensors.
    event_time : callable
        Makes what the request says, and the model's label window in seconds, into an event time.

    Raises
    ------
    WireError, DataError
        The request makes no sense; the field is where.
    """
    tail = b""
    if header_length is not None:
        end = _header_end(header_length, len(body))
        body, tail = body[:end], body[end:]
    request = replies.read_with(_decoder, body)
    row = None if tail else _one_row(request.inputs)
    rows = _rows(active, request.inputs, tail) if row is None else [row]
    parameters = request.parameters or _NO_PARAMETERS
    event_s = event_time(parameters.event_time, active.incumbent.manifest.label_window_s)
    unit = parameters.unit or request.id or (os.urandom(8).hex() if active.share_bp else None)

    def say(made: list[Prediction]) -> Response:
        return infer_reply.say(made, request.id, request.outputs, as_bytes=parameters.binary_data_output)

    return Ask(active, rows, unit, event_s, is_one_arm=True, say=say, rows_are="rows" if len(rows) > 1 else "")


def _header_end(header_length: bytes, n_bytes: int) -> int:
    end = int(header_length[:12]) if header_length.isdigit() else -1
    if not 0 < end <= n_bytes:
        raise WireError(
            f"{shown(header_length.decode('latin-1'))} is not the length of the JSON in a body of {n_bytes:,} bytes",
            field=LENGTH_HEADER,
        )
    return end


def _one_row(inputs: list[Tensor]) -> dict[str, tensors.Value] | None:
    """Read the plainest request, one row as JSON, the short way; None if anything about it is otherwise or odd."""
    row: dict[str, tensors.Value] = {}
    fits = tensors.fits
    for tensor in inputs:
        data = tensor.data
        if tensor.parameters is not None or tensor.shape not in _ONE_ROW or type(data) is not list or len(data) != 1:
            return None
        value = data[0]
        if not fits(tensor.datatype, value):
            return None
        row[tensor.name] = value
    return row if row and len(row) == len(inputs) else None


def _rows(active: ActiveModel, inputs: list[Tensor], tail: bytes) -> list[dict[str, tensors.Value]]:
    """Turn columns into rows."""
    if not inputs:
        raise DataError("there is no input", field="inputs", fix="Send each feature as a tensor of shape [n].")
    columns: dict[str, list[tensors.Value]] = {}
    at, n = 0, 0
    for i, tensor in enumerate(inputs):
        values, at = _values(tensor, f"inputs[{i}]", tail, at)
        if not i:
            n = tensor.shape[0]
            if not 1 <= n <= MAX_ROWS:
                raise DataError(f"{n} rows, between 1 and {MAX_ROWS:,} are answered", field=f"inputs[{i}].shape")
        elif tensor.shape[0] != n:
            raise DataError(f"{tensor.shape[0]} values, other inputs have {n}", field=f"inputs[{i}].shape")
        if tensor.name in columns:
            raise DataError(f"{tensor.name!r:.60} is there twice", field=f"inputs[{i}].name")
        if len(values) == n:
            columns[tensor.name] = values
        else:
            columns |= _matrix(active, tensor, values, f"inputs[{i}]")
    if at != len(tail):
        raise WireError(
            f"{len(tail):,} bytes follow the JSON, the tensors have {at:,}",
            field="binary_data_size",
            fix="Count again.",
        )
    names = list(columns)
    return [dict(zip(names, row, strict=True)) for row in zip(*columns.values(), strict=True)]


def _values(tensor: Tensor, where: str, tail: bytes, at: int) -> tuple[list[tensors.Value], int]:
    """Return the values of an input, and where the next one's bytes begin."""
    if not 1 <= len(tensor.shape) <= _MAX_DIMENSIONS or min(tensor.shape) < 0:
        raise tensors.misfit(tensor.shape, "the rows of a request", where)
    size = (tensor.parameters or _NO_TENSOR_PARAMETERS).binary_data_size
    if size is None:
        if tensor.data is msgspec.UNSET:
            raise DataError("there is no data", field=f"{where}.data", fix="Send data, or bytes and binary_data_size.")
        return tensors.from_json(tensor.datatype, tensor.shape, tensor.data, where), at
    if tensor.data is not msgspec.UNSET:
        raise DataError("there is JSON data and binary data", field=f"{where}.data", fix="Send one of them.")
    if at + size > len(tail):
        raise DataError(
            f"{size:,} bytes are announced, {len(tail) - at:,} are there",
            field=f"{where}.parameters.binary_data_size",
            fix="The tensors' bytes follow the JSON; the header Inference-Header-Content-Length says where it ends.",
        )
    return tensors.from_bytes(tensor.datatype, tensor.shape, tail[at : at + size], where), at + size


def _matrix(
    active: ActiveModel, tensor: Tensor, values: list[tensors.Value], where: str
) -> dict[str, list[tensors.Value]]:
    """Take [n, columns] apart: all raw columns in the order of the metadata, where all of them are numbers."""
    names = [column for column, datatype in raw_columns(active).items() if datatype == "FP64"]
    if tensor.name != MATRIX or len(names) != len(raw_columns(active)) or tensor.shape[1:] != [len(names)]:
        raise tensors.misfit(tensor.shape, f"the column {tensor.name!r:.60}", where)
    return {name: values[i :: len(names)] for i, name in enumerate(names)}


def raw_columns(active: ActiveModel) -> dict[str, str]:
    """Raw column to the datatype that fits it; times are text."""
    kinds: dict[str, str] = {}
    for feature in active.incumbent.encoder.feature_set.feature:
        number = isinstance(feature, Numeric | Bucketed) and not isinstance(feature, Categorical)
        kinds.setdefault(feature.column, "FP64" if number else "BYTES")
    return kinds
