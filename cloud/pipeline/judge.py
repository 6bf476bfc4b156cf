"""Judge a candidate: parity, quality of what would be served, and the worth of the table."""

from __future__ import annotations

import functools
import typing

import numpy as np
import numpy.typing as npt

from cloud.analysis import gates
from cloud.analysis.gates import GateResult
from cloud.config import VariantSettings
from cloud.data.read import coerce
from cloud.export import onnx_file, precompute
from cloud.export.parity import parity_gate
from cloud.pipeline.bundling import Pieces
from cloud.pipeline.order import Order
from cloud.pipeline.prepare import Floats, Judged, Work
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


def quality(
    store: Store,
    repository: SignedRepository,
    order: Order,
    work: Work,
    exported: onnx_file.Exported,
    table: bytes | None,
) -> list[GateResult]:
    """Gate on quality, against each incumbent: on later rows, and on anchors of all the time before.

    Later rows alone can flatter a model that has learned nothing but how late everything is this week; anchors alone
    can not see the present. Before there is an incumbent, the model that knows nothing stands in.
    """
    if not len(work.holdout):
        return [GateResult(name="quality", passed=False, reason="there are no rows in the hold-out")]
    versions = set(store.models.incumbents(order.model).values()) or ({order.parent} if order.parent else set())
    candidate = Contender(work.features, exported, table, work.model.answer_order, "")
    if not versions:
        return [_against_base_rate(work, candidate)]
    results = []
    for version in sorted(versions):
        incumbent = _load(repository, order.model, version, work)
        gate = work.model.gate
        results += [
            _compare("quality", work, work.holdout, candidate, incumbent, worse_by=gate.worse_by),
            _compare("forgetting", work, work.anchors, candidate, incumbent, worse_by=gate.forget_by),
        ]
    return results


class Contender(typing.NamedTuple):
    """A version as it would answer: model and table together."""

    features: FeatureSet
    exported: onnx_file.Exported
    table: bytes | None
    answer_order: str
    name: str

    def served(self, judged: Judged) -> tuple[Floats, npt.NDArray[np.bool_]]:
        """Return its answers, and which came from the table."""
        codes = encode_columns(self.features, coerce(judged.rows.columns, self.features))
        opened = PrecomputedTable(self.table) if self.table is not None and self.answer_order != "model_first" else None
        return precompute.served(
            opened, Encoder(self.features), codes, self.exported.answers(expand(self.features, codes))
        )


def _values(work: Work, judged: Judged, outputs: Floats) -> Floats:
    return gates.values(work.metric, outputs, judged.labels)


def _compare(
    name: str, work: Work, judged: Judged, candidate: Contender, incumbent: Contender, *, worse_by: float
) -> GateResult:
    return gates.quality_gate(
        work.metric,
        _values(work, judged, candidate.served(judged)[0]),
        _values(work, judged, incumbent.served(judged)[0]),
        judged.rows.event_s,
        name=name,
        worse_by=worse_by,
        against=incumbent.name,
    )


def against_standard(work: Work, standard: Pieces, variant: Pieces, settings: VariantSettings) -> GateResult:
    """Compare a variant with the standard form of the same version, as devices would serve both."""
    if not len(work.holdout):
        return GateResult(name=settings.name, passed=False, reason="there are no rows in the hold-out")
    return _compare(
        settings.name,
        work,
        work.holdout,
        _of(work, variant, settings.name),
        _of(work, standard, "the standard variant"),
        worse_by=settings.worse_by,
    )


def _of(work: Work, pieces: Pieces, name: str) -> Contender:
    exported = onnx_file.Exported(pieces.model, work.model.task)
    return Contender(pieces.features, exported, pieces.table, work.model.answer_order, name)


def _against_base_rate(work: Work, candidate: Contender) -> GateResult:
    constant = gates.constant_outputs(work.rows.labels, len(work.classes), len(work.holdout))
    return gates.quality_gate(
        work.metric,
        _values(work, work.holdout, candidate.served(work.holdout)[0]),
        _values(work, work.holdout, constant),
        work.holdout.rows.event_s,
        name="quality",
        worse_by=work.model.gate.worse_by,
        against="always answering the base rate",
    )


def _load(repository: SignedRepository, name: str, version: str, work: Work) -> Contender:
    """Return a signed version; its answers must mean the same as the candidate's."""
    sealed = load_bundle(repository, name, version)
    if sealed.manifest.classes != work.classes:
        raise GateError(
            f"the classes {list(work.classes)} are not those of {version}, {list(sealed.manifest.classes)}",
            field="classes",
        )
    features = codec.from_json(sealed.files[bundle.FEATURES_FILE], FeatureSet, limit_bytes=64 << 20)
    exported = onnx_file.Exported(sealed.files[bundle.MODEL_FILE], work.model.task)
    return Contender(features, exported, sealed.files.get(bundle.TABLE_FILE), sealed.manifest.answer_order, version)


def table_report(
    work: Work, exported: onnx_file.Exported, table: bytes | None, source: str
) -> precompute.TableReport | None:
    """Measure the table on the hold-out; nothing without a table or rows."""
    if table is None or not len(work.holdout):
        return None
    model = exported.answers(expand(work.features, work.holdout.codes)).astype(np.float64)
    opened = PrecomputedTable(table)
    outputs, hit = precompute.served(opened, Encoder(work.features), work.holdout.codes, model)
    return precompute.report(
        opened,
        len(table),
        served_outputs=outputs,
        hit=hit,
        model_outputs=model,
        labels=work.holdout.labels,
        event_s=work.holdout.rows.event_s,
        metric=work.metric,
        source=source,
    )
