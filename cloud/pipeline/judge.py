"""Judge a candidate: parity, quality of what would be served, and the worth of the table."""

from __future__ import annotations

import functools

import numpy as np
import numpy.typing as npt

from cloud.analysis import gates
from cloud.analysis.gates import GateResult
from cloud.export import onnx_file, precompute
from cloud.export.parity import parity_gate
from cloud.pipeline.order import Order
from cloud.pipeline.prepare import Floats, Work
from cloud.publish.repository import SignedRepository
from cloud.publish.seal import load_bundle
from cloud.store.store import Store
from cloud.training import estimator, fit
from shared import bundle, codec
from shared.errors import GateError
from shared.features import Encoder, FeatureSet
from shared.features.columns import encode_columns, expand
from shared.precomputed import PrecomputedTable


def parity(work: Work, fitted: estimator.Estimator, exported: onnx_file.Exported) -> GateResult:
    """Compare the exported model with the trained one."""
    return parity_gate(
        functools.partial(fit.answers, fitted, task=work.model.task),
        exported,
        work.features,
        work.codes,
        task=work.model.task,
        threshold=work.model.threshold,
        settings=work.model.gate,
        seed=work.model.seed,
    )


def _served(work: Work, exported: onnx_file.Exported, table: bytes | None) -> tuple[Floats, npt.NDArray[np.bool_]]:
    """What the candidate would have answered on the hold-out, table and model together."""
    model = exported.answers(expand(work.features, work.holdout_codes))
    opened = PrecomputedTable(table) if table is not None and work.model.answer_order != "model_first" else None
    return precompute.served(opened, Encoder(work.features), work.holdout_codes, model)


def quality(
    store: Store,
    repository: SignedRepository,
    order: Order,
    work: Work,
    exported: onnx_file.Exported,
    table: bytes | None,
) -> list[GateResult]:
    """Gate on quality: against the incumbent, or against the model that knows nothing before there is one."""
    if not len(work.holdout):
        return [GateResult(name="quality", passed=False, reason="there are no rows in the hold-out")]
    outputs, _ = _served(work, exported, table)
    ours = gates.values(work.metric, outputs, work.holdout_labels)
    versions = set(store.registry.incumbents(order.model).values())
    parents = versions or ({order.parent} if order.parent else set())
    results = []
    for version in sorted(parents):
        reference = _incumbent_outputs(repository, order.model, version, work)
        results.append(
            gates.quality_gate(
                work.metric,
                ours,
                gates.values(work.metric, reference, work.holdout_labels),
                work.holdout.event_s,
                worse_by=work.model.gate.worse_by,
                against=version,
            )
        )
    if not results:
        constant = gates.constant_outputs(work.rows.labels, len(work.classes), len(work.holdout))
        base = gates.values(work.metric, constant, work.holdout_labels)
        results.append(
            gates.quality_gate(
                work.metric, ours, base, work.holdout.event_s, worse_by=0.0, against="always answering the base rate"
            )
        )
    return results


def _incumbent_outputs(repository: SignedRepository, name: str, version: str, work: Work) -> Floats:
    """What another version would have answered on the hold-out, table and model together."""
    sealed = load_bundle(repository, name, version)
    if sealed.manifest.classes != work.classes:
        raise GateError(
            f"the classes {list(work.classes)} are not those of {version}, {list(sealed.manifest.classes)}",
            field="classes",
        )
    features = codec.from_json(sealed.files[bundle.FEATURES_FILE], FeatureSet, limit_bytes=64 << 20)
    codes = encode_columns(features, work.holdout.columns)
    exported = onnx_file.Exported(sealed.files[bundle.MODEL_FILE], work.model.task)
    table = sealed.files.get(bundle.TABLE_FILE)
    opened = PrecomputedTable(table) if table and sealed.manifest.answer_order != "model_first" else None
    return precompute.served(opened, Encoder(features), codes, exported.answers(expand(features, codes)))[0]


def table_report(
    work: Work, exported: onnx_file.Exported, table: bytes | None, source: str
) -> precompute.TableReport | None:
    """Measure the table on the hold-out; nothing without a table or rows."""
    if table is None or not len(work.holdout):
        return None
    model = exported.answers(expand(work.features, work.holdout_codes)).astype(np.float64)
    opened = PrecomputedTable(table)
    outputs, hit = precompute.served(opened, Encoder(work.features), work.holdout_codes, model)
    return precompute.report(
        opened,
        len(table),
        served_outputs=outputs,
        hit=hit,
        model_outputs=model,
        labels=work.holdout_labels,
        event_s=work.holdout.event_s,
        metric=work.metric,
        source=source,
    )
