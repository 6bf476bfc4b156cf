"""What infer replies: tensors as JSON or as bytes; one row, as JSON, from a template that is written once."""

from __future__ import annotations

import typing
import weakref

import msgspec

from edge_agent.predict import replies, tensors
from edge_agent.predict.engine import Prediction
from edge_agent.predict.loaded import LoadedBundle
from edge_agent.predict.replies import OCTETS, Response
from edge_agent.records import ARM_NAMES
from shared.errors import DataError
from shared.telemetry import APPROXIMATE, SOURCES

LENGTH_HEADER = "Inference-Header-Content-Length"
Output = tuple[str, list[int], typing.Sequence[typing.Any]]
Outputs = dict[str, Output]
_encode = msgspec.json.Encoder().encode
_ARMS = [name.encode() for name in ARM_NAMES]
_SOURCES = [name.encode() for name in SOURCES]
_MARKS = [b',"approximate":true' if source in APPROXIMATE else b"" for source in range(len(SOURCES))]


class TensorParameters(msgspec.Struct):
    """Parameters of an input or of an output that is asked for; unknown ones are passed over, as the protocol says."""

    binary_data_size: typing.Annotated[int, msgspec.Meta(ge=0)] | None = None
    binary_data: bool | None = None
    classification: typing.Annotated[int, msgspec.Meta(ge=1)] | None = None


_NO_PARAMETERS = TensorParameters()


class RequestedOutput(msgspec.Struct, forbid_unknown_fields=True):
    """An output the client wants."""

    name: str
    parameters: TensorParameters | None = None


def say(
    made: list[Prediction], request_id: str | None, wanted: list[RequestedOutput] | None, *, as_bytes: bool
) -> Response:
    """Reply to an infer request.

    Parameters
    ----------
    made : list of Prediction
        All of one version.
    wanted : list, optional
        The outputs that were asked for; all of them by default.
    as_bytes : bool
        Whether outputs that do not say otherwise are sent as bytes.

    Raises
    ------
    DataError
        There is no output of a name that was asked for.
    """
    if len(made) == 1 and not wanted and not as_bytes:
        return _say_one(made[0], request_id)
    bundle = made[0].bundle
    reply: dict[str, object] = {"model_name": made[0].active.entry.model, "model_version": bundle.version}
    if request_id:
        reply["id"] = request_id
    reply["parameters"] = replies.parameters(made[0]) if len(made) == 1 else {"version": bundle.version}
    available = _outputs(made)
    listed: list[dict[str, object]] = []
    tail: list[bytes] = []
    for output in wanted or [RequestedOutput(name) for name in available]:
        found = available.get(output.name)
        if found is None:
            known = ", ".join(available)
            raise DataError(f"no output {output.name!r:.60}", field="outputs", fix=f"Known are {known}.")
        parameters = output.parameters or _NO_PARAMETERS
        if parameters.classification is not None:
            found = _classified(made, output.name, parameters.classification)
        datatype, shape, values = found
        tensor: dict[str, object] = {"name": output.name, "datatype": datatype, "shape": shape}
        if as_bytes if parameters.binary_data is None else parameters.binary_data:
            data = tensors.to_bytes(datatype, values)
            tail.append(data)
            tensor["parameters"] = {"binary_data_size": len(data)}
        else:
            tensor["data"] = values
        listed.append(tensor)
    reply["outputs"] = listed
    head = _encode(reply)
    if not tail:
        return Response(200, head, tuple(made))
    length = ((LENGTH_HEADER, str(len(head))),)
    return Response(200, b"".join((head, *tail)), tuple(made), length, OCTETS)


def _outputs(made: list[Prediction]) -> Outputs:
    """Name to datatype, shape and values."""
    manifest = made[0].bundle.manifest
    n = len(made)
    flat = [number for one in made for number in one.outputs]
    outputs: Outputs = {}
    if manifest.task == "regression":
        outputs["value"] = "FP32", [n, manifest.n_outputs], flat
    else:
        kind = label_datatype(manifest.classes)
        labels = [manifest.classes[replies.label_index(one)] for one in made]
        outputs["label"] = kind, [n], labels if kind == "BYTES" else [int(label) for label in labels]
        outputs["probabilities"] = "FP32", [n, manifest.n_outputs], flat
    outputs["prediction_id"] = "BYTES", [n], [one.prediction_id for one in made]
    outputs["source"] = "BYTES", [n], [SOURCES[one.source] for one in made]
    outputs["arm"] = "BYTES", [n], [ARM_NAMES[one.arm] for one in made]
    return outputs


def _classified(made: list[Prediction], name: str, most: int) -> Output:
    """Return the best classes of each row as text, ``value:index:label``, best first (the classification extension).

    Raises
    ------
    DataError
        The output is no list of classes.
    """
    manifest = made[0].bundle.manifest
    if name != "probabilities":
        raise DataError(f"{name!r:.60} has no classes", field="outputs", fix="Ask for classes of probabilities.")
    k = min(most, manifest.n_outputs)
    values: list[str] = []
    for one in made:
        best = sorted(range(len(one.outputs)), key=one.outputs.__getitem__, reverse=True)[:k]
        values += [f"{one.outputs[i]:f}:{i}:{manifest.classes[i]}" for i in best]
    return "BYTES", [len(made), k], values


def label_datatype(classes: typing.Sequence[str | int]) -> str:
    """Datatype of the output ``label``."""
    return "BYTES" if any(isinstance(label, str) for label in classes) else "INT64"


class _Template(typing.NamedTuple):
    """The reply for one row of a version, with places for what differs; and what its classes look like in JSON."""

    text: bytes
    labels: list[bytes]


_templates: weakref.WeakKeyDictionary[LoadedBundle, _Template] = weakref.WeakKeyDictionary()


def _say_one(made: Prediction, request_id: str | None) -> Response:
    bundle = made.bundle
    template = _templates.get(bundle)
    if template is None:
        template = _templates[bundle] = _make_template(made)
    arm, source, own_id = _ARMS[made.arm], _SOURCES[made.source], made.prediction_id.encode()
    ending = (_encode(made.outputs), own_id, source, arm)
    rest = (template.labels[replies.label_index(made)], *ending) if template.labels else ending
    said_id = b'"id":%b,' % _encode(request_id) if request_id else b""
    return Response(200, template.text % (said_id, arm, source, own_id, _MARKS[made.source], *rest), (made,))


def _make_template(made: Prediction) -> _Template:
    manifest = made.bundle.manifest
    name, version = (_encode(text).replace(b"%", b"%%") for text in (made.active.entry.model, made.bundle.version))
    first = b'{"name":"value","datatype":"FP32","shape":[1,%d],"data":%%b},' % manifest.n_outputs
    labels: list[bytes] = []
    if manifest.task != "regression":
        kind = label_datatype(manifest.classes)
        labels = [_encode(str(label) if kind == "BYTES" else int(label)) for label in manifest.classes]
        first = (
            b'{"name":"label","datatype":"%b","shape":[1],"data":[%%b]},'
            b'{"name":"probabilities","datatype":"FP32","shape":[1,%d],"data":%%b},'
        ) % (kind.encode(), manifest.n_outputs)
    rest = b",".join(
        b'{"name":"%b","datatype":"BYTES","shape":[1],"data":["%%b"]}' % output
        for output in (b"prediction_id", b"source", b"arm")
    )
    head = b'{"model_name":%b,"model_version":%b,%%b"parameters":{"arm":"%%b","version":%b,' % (name, version, version)
    return _Template(head + b'"source":"%b","prediction_id":"%b"%b},"outputs":[' + first + rest + b"]}", labels)
