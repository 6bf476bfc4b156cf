"""What the device's HTTP interface says: request and reply records, and errors as every client expects them."""

from __future__ import annotations

import math
import typing

import msgspec

from edge_agent.predict.engine import Prediction
from edge_agent.records import ARM_NAMES
from shared import protocol
from shared.errors import CoveyError, WireError, nearest
from shared.telemetry import APPROXIMATE, SOURCES

Scalar = str | int | float | bool | None
Time = str | float | int | None
T = typing.TypeVar("T")
JSON, OCTETS, PLAIN = "application/json", "application/octet-stream", "text/plain; version=0.0.4; charset=utf-8"
MAX_ROWS = 10_000
_A_KEY, _MAX_NAMED_BYTES = "[...]", 1 << 18
_ENDLESS = (math.inf, -math.inf)


class PredictRequest(msgspec.Struct, forbid_unknown_fields=True):
    """``POST /v1/predict``: one row in `features`, or many in `rows`."""

    model: str | None = None
    features: dict[str, Scalar] | None = None
    rows: typing.Annotated[list[dict[str, Scalar]], msgspec.Meta(max_length=MAX_ROWS)] | None = None
    unit: str | None = None
    event_time: Time = None


class OutcomeItem(msgspec.Struct, forbid_unknown_fields=True):
    """The truth about one answer, numbers that came of it, or both."""

    prediction_id: str
    label: Scalar | msgspec.UnsetType = msgspec.UNSET
    numbers: dict[str, object] = {}


class OutcomesRequest(msgspec.Struct, forbid_unknown_fields=True):
    """``POST /v1/outcomes``."""

    outcomes: typing.Annotated[list[OutcomeItem], msgspec.Meta(max_length=MAX_ROWS)]


class ClockRequest(msgspec.Struct, forbid_unknown_fields=True):
    """``POST /v1/clock``: during a replay, the event time up to which everything has happened."""

    event_time: Time


class Response(typing.NamedTuple):
    """A reply, and what to do once it is on its way."""

    status: int
    body: bytes
    after: tuple[Prediction, ...] = ()
    headers: tuple[tuple[str, str], ...] = ()
    kind: str = JSON


def read(body: bytes, kind: type[T]) -> T:
    """Read a request's JSON body.

    Raises
    ------
    WireError
        Names the field.
    """
    return read_with(msgspec.json.Decoder(kind), body)


def read_with(decoder: msgspec.json.Decoder[T], body: bytes) -> T:
    """Read a request's JSON body with a decoder that is there already; otherwise like `read`."""
    try:
        return decoder.decode(body or b"null")
    except msgspec.ValidationError as err:
        message, _, path = str(err).partition(" - at `$")
        field = _named(path.rstrip("`").lstrip("."), body)
        fix = _meant(message, decoder.type) if "unknown field" in message and not path else ""
        raise WireError(message[:1].lower() + message[1:], field=field or "body", fix=fix) from err
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError, ValueError) as err:
        raise WireError(f"not JSON: {err}", field="body") from err


def _meant(message: str, kind: typing.Any) -> str:  # noqa: ANN401 - a decoder's type
    """Say what else a field may be called."""
    known, word = kind.__struct_fields__, message.rpartition(" `")[2].rstrip("`")
    near = nearest(word, known)
    return f"Did you mean {near!r}?" if near else f"Known are {', '.join(known)}."


def _named(path: str, body: bytes) -> str:
    """Put the name of the feature into a path: msgspec says ``[...]`` for a value of a mapping."""
    way, unnamed, _ = path.partition(_A_KEY)
    if not unnamed or len(body) > _MAX_NAMED_BYTES:  # others wait meanwhile
        return path
    import json  # it reads 1e999 too

    try:
        row = json.loads(body)
    except (ValueError, RecursionError):
        return path
    for step in way.replace("[", ".").replace("]", "").split("."):
        row = row[int(step) if step.isdecimal() else step]
    odd = [name for name, value in row.items() if isinstance(value, dict | list) or value in _ENDLESS]
    return path.replace(_A_KEY, f".{odd[0]}").removeprefix("features.") if odd else path


def ok(value: object, after: tuple[Prediction, ...] = (), *, status: int = 200) -> Response:
    """Reply with JSON."""
    return Response(status, msgspec.json.encode(value), after)


def failed(err: CoveyError) -> Response:
    """Reply with an error."""
    status = 400 if err.http_status == 422 else err.http_status  # noqa: PLR2004 - the protocol knows 400 only
    problem = protocol.problem(err.code, status, type(err).__doc__ or err.code, str(err), err.field)
    headers = (("Retry-After", "1"),) if err.retry else ()
    return Response(status, msgspec.json.encode(problem), headers=headers)


def describe(prediction: Prediction) -> dict[str, object]:
    """One answer of ``/v1/predict``."""
    manifest = prediction.bundle.manifest
    answer: dict[str, object] = {"model": manifest.model}
    if manifest.task == "regression":
        answer["value"] = prediction.outputs[0]
    else:
        answer["label"] = manifest.classes[label_index(prediction)]
        answer["probabilities"] = prediction.outputs
    answer["parameters"] = parameters(prediction)
    return answer


def label_index(prediction: Prediction) -> int:
    """Index of the class that an answer stands for."""
    outputs, manifest = prediction.outputs, prediction.bundle.manifest
    if manifest.task == "binary":
        return int(outputs[1] >= manifest.threshold)
    return max(range(len(outputs)), key=outputs.__getitem__)


def parameters(prediction: Prediction) -> dict[str, object]:
    """Say who answered and how."""
    said: dict[str, object] = {
        "arm": ARM_NAMES[prediction.arm],
        "version": prediction.bundle.version,
        "source": SOURCES[prediction.source],
        "prediction_id": prediction.prediction_id,
    }
    return said | {"approximate": True} if prediction.source in APPROXIMATE else said
