"""Write down how a version came to be: registry detail, manifest, golden rows, model card."""

from __future__ import annotations

import importlib.metadata
import io
import json
import pathlib
import platform
import subprocess
import typing

import joblib
import msgspec
import numpy as np

from cloud.analysis.gates import GateResult
from cloud.config import ModelSettings, Project
from cloud.export import onnx_file, precompute, ranked
from cloud.pipeline.learn import Precomputed
from cloud.pipeline.order import Order
from cloud.pipeline.prepare import Work
from cloud.store.store import Store
from cloud.training import estimator
from shared import __version__
from shared.bundle import Budgets, Golden, Lineage, Manifest, Number
from shared.clock import DAY_S
from shared.features.columns import expand

_N_GOLDEN = 32


def golden(work: Work, exported: onnx_file.Exported) -> Golden:
    """Raw rows with the exported model's answers, for devices to reproduce."""
    picked = np.unique(np.linspace(0, len(work.train) - 1, _N_GOLDEN).astype(np.int64))
    names = work.features.columns
    rows = tuple({name: work.train.columns[name][i] for name in names} for i in picked)
    outputs = exported.answers(expand(work.features, work.codes[picked])).tolist()
    return Golden(rows=typing.cast("typing.Any", rows), outputs=tuple(map(tuple, outputs)))


def draft(
    model: ModelSettings, order: Order, version: str, work: Work, *, operators: tuple[str, ...], made: Precomputed
) -> Manifest:
    """Return the manifest but for its files."""
    return Manifest(
        model=order.model,
        version=version,
        task=model.task,
        metric=model.metric_name,
        metric_scale=model.metric_scale,
        classes=work.classes,
        threshold=model.threshold,
        n_outputs=max(len(work.classes), 1),
        features_sha256=work.features.digest,
        files=(),
        operators=operators,
        answer_order=model.answer_order,
        default=model.default,
        coarse=model.precompute.coarse if made.coarse is not None else (),
        lists=made.lists.says if made.lists else None,
        budgets=Budgets(
            memory_bytes=model.budgets.memory_bytes, load_s=model.budgets.load_s, predict_s=model.budgets.predict_s
        ),
        label_window_s=model.label_window_days * DAY_S,
        numbers=tuple(Number(name=name, scale=one.scale) for name, one in sorted(model.numbers.items())),
        lineage=Lineage(
            kind="stateful" if order.is_stateful else "stateless", parent=order.parent, data_version=work.train.version
        ),
    )


def detail(
    project: Project,
    store: Store,
    order: Order,
    work: Work,
    measured: list[GateResult],
    report: precompute.TableReport | None,
    lists: ranked.ListsReport | None,
) -> dict[str, object]:
    """Everything about how a version came to be."""
    parent_to_s = 0.0
    own = order.data in ("", work.model.data or order.model)
    if order.is_stateful:
        parent_to_s = float(store.models.get(order.model, order.parent)["detail"]["trained_to_s"])
    settings = msgspec.to_builtins(work.model)
    return {
        "parameters": {
            key: settings[key] for key in ("estimator", "params", "steps", "finetune", "publish_delta", "seed")
        },
        "rows": {"train": len(work.train), "holdout": len(work.holdout)},
        "trained_from_s": float(work.train.event_s[0]),
        "trained_to_s": float(work.train.event_s[-1]) if own else parent_to_s,
        "data": {"set": order.data or work.model.data or order.model, "version": work.train.version},
        "gates": msgspec.to_builtins(measured),
        "precomputed": msgspec.to_builtins(report) if report else None,
        "lists": msgspec.to_builtins(lists) if lists else None,
        "libraries": _libraries(),
        "git_commit": _git_commit(project.folder),
        "judged": judged(work.model),
        "why": order.why,
        "actor": order.actor,
    }


def judged(model: ModelSettings) -> dict[str, object]:
    """Return what devices judge a version's answers by: it travels in the bundle, and settings may change meanwhile."""
    return {
        "metric": model.metric_name,
        "task": model.task,
        "scale": model.metric_scale,
        "label_window_days": model.label_window_days,
    }


def card(order: Order, version: str, detail: dict[str, object]) -> dict[str, object]:
    """Return the model card that travels with the bundle."""
    kept = ("rows", "data", "gates", "precomputed", "lists", "why")
    said = {key: detail[key] for key in kept if detail.get(key) is not None}
    return json.loads(json.dumps({"model": order.model, "version": version} | said, default=str))  # type: ignore[no-any-return]


def pickle(fitted: estimator.Estimator) -> bytes:
    """Return the fitted estimator as bytes, for the next version to continue."""
    out = io.BytesIO()
    joblib.dump(fitted, out, compress=3)
    return out.getvalue()


def _libraries() -> dict[str, str]:
    names = ("numpy", "scikit-learn", "skl2onnx", "onnx", "onnxruntime")
    return {"covey": __version__, "python": platform.python_version()} | {
        name: importlib.metadata.version(name) for name in names
    }


def _git_commit(folder: pathlib.Path) -> str:
    """Commit of the project's folder, if it is in a git repository."""
    try:
        done = subprocess.run(
            ["git", "-C", str(folder), "rev-parse", "HEAD"],
            capture_output=True,
            text=True,
            timeout=10,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""
