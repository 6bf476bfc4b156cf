"""What the Open Inference Protocol tells about server and models: metadata, readiness, repository and statistics."""

from __future__ import annotations

import typing

import msgspec

from edge_agent.predict import replies
from edge_agent.predict.engine import ActiveModel, Engine
from edge_agent.predict.infer import raw_columns
from edge_agent.predict.infer_reply import label_datatype
from edge_agent.predict.loaded import COARSE, DEFAULT, ONNX, PRECOMPUTED, LoadedBundle
from edge_agent.predict.meters import Meters, Series
from edge_agent.predict.replies import Response
from shared import __version__
from shared.errors import ForbiddenError, NotFoundError

NAME = "covey-edge"
EXTENSIONS = ("binary_tensor_data", "classification", "parameters", "statistics", "model_repository")
_NS_PER_US = 1000


class IndexRequest(msgspec.Struct):
    """``POST /v2/repository/index``."""

    ready: bool = False


def server() -> dict[str, object]:
    """Server metadata."""
    return {"name": NAME, "version": __version__, "extensions": EXTENSIONS}


def model(active: ActiveModel) -> dict[str, object]:
    """Model metadata: name, versions, inputs and outputs; raw columns are the inputs."""
    manifest = active.incumbent.manifest
    shape = [-1, manifest.n_outputs]
    if manifest.task == "regression":
        outputs = [{"name": "value", "datatype": "FP32", "shape": shape}]
    else:
        outputs = [
            {"name": "label", "datatype": label_datatype(manifest.classes), "shape": [-1]},
            {"name": "probabilities", "datatype": "FP32", "shape": shape},
        ]
    outputs += [{"name": name, "datatype": "BYTES", "shape": [-1]} for name in ("prediction_id", "source", "arm")]
    inputs = [{"name": name, "datatype": kind, "shape": [-1]} for name, kind in raw_columns(active).items()]
    return {
        "name": active.entry.model,
        "versions": list(active.entry.versions),
        "platform": "onnxruntime_onnx",
        "inputs": inputs,
        "outputs": outputs,
    }


def bundle_of(active: ActiveModel, version: str) -> LoadedBundle:
    """Return the bundle of a version, the incumbent's if none is named.

    Raises
    ------
    NotFoundError
        The version is not on this device.
    """
    known = active.entry.versions
    if version and version not in known:
        raise NotFoundError(
            f"no version {version[:40]!r} of {active.entry.model}", field="version", fix=f"Here are {', '.join(known)}."
        )
    return active.bundles[version] if version else active.incumbent


def is_ready(bundle: LoadedBundle) -> bool:
    """Whether a version can answer: its model is loaded or was put away, or it has something instead of one."""
    if not bundle.is_loaded.is_set():
        return bundle.is_parked
    return not bundle.error or bool(bundle.table or bundle.coarse or bundle.manifest.default)


def is_all_ready(engine: Engine) -> bool:
    """Whether there is a model, and every incumbent can answer."""
    return bool(engine.models) and all(is_ready(active.incumbent) for active in engine.models.values())


def index(engine: Engine, body: bytes) -> Response:
    """Answer which versions are here and how they are."""
    only_ready = replies.read(body or b"{}", IndexRequest).ready
    entries = [
        _entry(name, bundle_of(active, version))
        for name, active in sorted(engine.models.items())
        for version in active.entry.versions
    ]
    return replies.ok([entry for entry in entries if entry["state"] == "READY" or not only_ready])


def _entry(name: str, bundle: LoadedBundle) -> dict[str, str]:
    state = "READY" if is_ready(bundle) else "UNAVAILABLE" if bundle.is_loaded.is_set() else "LOADING"
    reason = "put away to make room; loaded when it is asked for" if bundle.is_parked else bundle.error
    return {"name": name, "version": bundle.version, "state": state, "reason": reason}


def refuse_change(name: str, verb: str) -> typing.NoReturn:
    """Say why nobody can load or unload a model over HTTP.

    Raises
    ------
    ForbiddenError
        Always.
    """
    raise ForbiddenError(
        f"{verb} of {name!r:.80} is not taken over HTTP: the signed channel decides what runs here",
        field="path",
        fix="Roll a version out, or go back with: covey-edge rollback",
    )


def statistics(meters: Meters, engine: Engine, name: str = "", version: str = "") -> dict[str, object]:
    """Counts and durations since this process started, by model and version."""
    return {
        "model_stats": [
            _statistics(meters, model, one)
            for model, active in sorted(engine.models.items())
            if name in ("", model)
            for one in active.entry.versions
            if version in ("", one)
        ]
    }


def _statistics(meters: Meters, model_name: str, version: str) -> dict[str, object]:
    """One version's statistics. Only whole answers are timed: what the protocol splits further is nought."""
    mine = [(key, series) for key, series in meters.answered.items() if key[:2] == (model_name, version)]
    by_source = {
        source: [series for key, series in mine if key[3] == source] for source in (PRECOMPUTED, ONNX, COARSE, DEFAULT)
    }
    executed = _duration(by_source[ONNX])
    nothing = {"count": 0, "ns": 0}
    failed = sum(n for key, n in meters.failed.items() if key[:2] == (model_name, version) and key[3])
    return {
        "name": model_name,
        "version": version,
        "last_inference": int(max((series.last_s for _, series in mine), default=0.0) * 1000),
        "inference_count": executed["count"],
        "execution_count": executed["count"],
        "inference_stats": {
            "success": _duration([series for _, series in mine]),
            "fail": {"count": failed, "ns": 0},
            "queue": nothing,
            "compute_input": nothing,
            "compute_infer": executed,
            "compute_output": nothing,
            "cache_hit": _duration(by_source[PRECOMPUTED]),
            "cache_miss": nothing,
        },
        "batch_stats": [
            {"batch_size": 1, "compute_input": nothing, "compute_infer": executed, "compute_output": nothing}
        ]
        if executed["count"]
        else [],
    }


def _duration(series: list[Series]) -> dict[str, int]:
    return {"count": sum(one.n for one in series), "ns": sum(one.sum_us for one in series) * _NS_PER_US}
