"""From data to a signed version: prepare, fit, export, precompute, judge, seal, publish. One story."""

from __future__ import annotations

import typing

from cloud.analysis.gates import GateResult
from cloud.config import Project
from cloud.export import onnx_file
from cloud.export.admit import admit
from cloud.pipeline import bundling, describe, judge, learn, variants
from cloud.pipeline.order import Order, Trained
from cloud.pipeline.prepare import Work, prepare
from cloud.publish.repository import SignedRepository
from cloud.publish.seal import SealedBundle
from cloud.store.store import Store
from shared import bundle
from shared.errors import ConflictError, CoveyError, GateError, UsageError

Say = typing.Callable[[str], None]


def train(project: Project, store: Store, order: Order, say: Say = lambda _line: None) -> Trained:
    """Train, gate and publish a version.

    Parameters
    ----------
    say : callable
        Told what is being done, a line at a time.

    Raises
    ------
    GateError
        A gate refused the model; the version number is used up and what was measured is kept.
    CoveyError
        Something else went wrong; so is that.
    """
    _, model = project.model(order.model)
    if order.is_stateful:
        store.models.get(order.model, order.parent)
    data = store.datasets.latest(order.data or model.data or order.model)
    version = str(
        store.models.allocate(
            order.model,
            parent=order.parent,
            why=order.why,
            data_version=data["version"],
            features=order.features or model.features,
            stateful=order.is_stateful,
        )
    )
    say(f"{order.model}@{version}: {'continues ' + order.parent if order.parent else 'from scratch'}, {order.why}")
    try:
        return _build(project, store, order, version, say)
    except BaseException as err:
        if store.models.get(order.model, version)["status"] == "training":  # else its end is on record already
            said = str(err) if isinstance(err, CoveyError) else repr(err)
            store.models.finish(order.model, version, "failed", {"error": said})
        raise


def _build(project: Project, store: Store, order: Order, version: str, say: Say) -> Trained:
    _, model = project.model(order.model)
    repository = SignedRepository(project.repository, project.keys)
    work = prepare(project, store, repository, order, model)
    say(f"{len(work.train):,} rows to learn from, {len(work.holdout):,} later rows to judge by")
    fitted = learn.fit_model(store, order, work, say)
    properties = {"model": order.model, "version": version, "features": work.features.digest}
    file = onnx_file.export(fitted, width=work.features.width, task=model.task, properties=properties)
    operators = admit(file, width=work.features.width, listed=model.allow_operators)
    exported = onnx_file.Exported(file, model.task)
    belongs_to = bundle.digest_of(file)
    made = learn.precompute_all(order.model, work, exported, belongs_to, say)
    measured = [
        judge.parity(work, fitted, exported),
        *judge.quality(store, repository, order, work, exported, made.table),
    ]
    report = judge.table_report(work, exported, made.table, made.source)
    pieces = bundling.Pieces(
        draft=describe.draft(model, order, version, work, operators=operators, made=made),
        model=file,
        features=work.features,
        table=made.table,
        coarse=made.coarse,
        lists=made.lists.table if made.lists else None,
        items=made.lists.items if made.lists else None,
        golden=describe.golden(work, exported),
        card={},
    )
    size = variants.size_gate(pieces, model.budgets.size_bytes, "size")
    measured += [size] if size else []
    for gate in measured:
        say(f"gate {gate.name}: {'PASS' if gate.passed else 'FAIL'}, {gate.reason}")
    others = variants.build_variants(order, work, pieces, say)
    measured += [gate for other in others for gate in other.measured]
    detail = describe.detail(project, store, order, work, measured, report, made.lists_report)
    card = describe.card(order, version, detail)
    detail["pieces"] = bundling.keep_pieces(store, pieces._replace(card=card))
    detail["variants"] = {
        other.name: bundling.keep_pieces(store, other.pieces._replace(card=card | {"variant": other.name}))
        for other in others
    }
    detail["estimator"] = store.blobs.put(describe.pickle(fitted))
    _enforce(store, order, version, measured, detail, work)
    sealed = bundling.build_bundle(project, store, order.model, version, actor=order.actor)
    say(f"{order.model}@{version} is signed, {sealed.size_bytes:,} bytes")
    return Trained(order.model, version, measured, report, sealed, detail)


def _enforce(
    store: Store, order: Order, version: str, measured: list[GateResult], detail: dict[str, object], work: Work
) -> None:
    """Keep what was measured; a model that failed a gate is refused."""
    failed = [gate for gate in measured if not gate.passed]
    subject = f"{order.model}@{version}"
    with store.db.transaction():
        status: typing.Literal["refused", "ready"] = "refused" if failed else "ready"
        store.models.finish(order.model, version, status, detail, features=work.features.digest)
        action, reason = ("gate refused", failed[0].reason) if failed else ("model train", order.why)
        store.audit.add(action, subject, actor=order.actor, reason=reason)
    if failed:
        raise GateError(
            "; ".join(f"{gate.name}: {gate.reason}" for gate in failed),
            field=subject,
            fix=f"Mend the model, or say why it shall go on: covey model override {version} --reason TEXT",
        )


def override(project: Project, store: Store, model: str, version: str, *, reason: str, actor: str) -> SealedBundle:
    """Sign a version that a gate refused, because somebody says why; it is kept in the audit log and on the card.

    Raises
    ------
    ConflictError
        No gate refused it.
    UsageError
        Nobody said why.
    """
    row = store.models.get(model, version)
    if row["status"] != "refused":
        raise ConflictError(
            f"{model}@{version} is {row['status']}, no gate refused it", fix="Nothing needs to be done."
        )
    if not reason.strip():
        raise UsageError("a gate is overridden for a reason", field="--reason", fix="Say why.")
    detail = row["detail"] | {"override": reason}
    detail["pieces"] = bundling.note_override(store, detail["pieces"], reason)
    detail["variants"] = {
        name: bundling.note_override(store, kept, reason) for name, kept in detail.get("variants", {}).items()
    }
    failed = [gate["reason"] for gate in detail["gates"] if not gate["passed"]]
    with store.db.transaction():
        store.models.finish(model, version, "ready", detail, features=row["features_sha256"])
        store.audit.add("gate overridden", f"{model}@{version}", actor=actor, reason=reason, failed=failed)
    return bundling.build_bundle(project, store, model, version, actor=actor)
