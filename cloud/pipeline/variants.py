"""The other forms of a version: made from the standard one, judged against it, and put together as its bundle is."""

from __future__ import annotations

import typing

import msgspec

from cloud.analysis.gates import GateResult
from cloud.config import BudgetSettings, StepSettings, VariantSettings
from cloud.export import int8, onnx_file, precompute
from cloud.export.admit import admit
from cloud.pipeline import bundling, describe, judge
from cloud.pipeline.bundling import Pieces
from cloud.pipeline.order import Order
from cloud.pipeline.prepare import Work
from cloud.training import estimator, student
from shared import bundle
from shared.bundle import Budgets

Say = typing.Callable[[str], None]
_INT8_TOLERANCE = 0.01  # one step of an activation, rounded the other way on another processor


class Variant(typing.NamedTuple):
    """A form of a version, and what its gates found."""

    name: str
    pieces: Pieces
    measured: list[GateResult]


def build_variants(order: Order, work: Work, standard: Pieces, say: Say) -> list[Variant]:
    """Make and judge every variant that the model's settings ask for.

    Parameters
    ----------
    standard : Pieces
        The version in its standard form.

    Raises
    ------
    ModelError, ConfigError, DataError
        One can not be made.
    """
    made = []
    for settings in work.model.variant:
        variant = _build(order, work, standard, settings)
        for gate in variant.measured:
            say(f"gate {gate.name}: {'PASS' if gate.passed else 'FAIL'}, {gate.reason}")
        made.append(variant)
    return made


def _build(order: Order, work: Work, standard: Pieces, settings: VariantSettings) -> Variant:
    file = _model(order, work, standard, settings)
    exported = onnx_file.Exported(file, work.model.task)
    operators = admit(file, width=work.features.width, listed=work.model.allow_operators)
    belongs_to = bundle.digest_of(file)
    golden = describe.golden(work, exported)
    if settings.kind == "int8":
        golden = msgspec.structs.replace(golden, tolerance=_INT8_TOLERANCE)
    pieces = standard._replace(
        draft=msgspec.structs.replace(
            standard.draft, variant=settings.name, operators=operators, budgets=budgets(settings.budgets)
        ),
        model=file,
        table=_bound(standard.table, belongs_to),
        coarse=_bound(standard.coarse, belongs_to),
        lists=_bound(standard.lists, belongs_to),
        golden=golden,
    )
    measured = [
        judge.against_standard(work, standard, pieces, settings),
        size_gate(pieces, settings.budgets.size_bytes, f"{settings.name}: size"),
    ]
    return Variant(settings.name, pieces, [gate for gate in measured if gate])


def _model(order: Order, work: Work, standard: Pieces, settings: VariantSettings) -> bytes:
    if settings.kind == "int8":
        return int8.quantise(standard.model)
    where = f"models.{order.model}.variant.{settings.name}"
    step = StepSettings(estimator=settings.estimator, params=settings.params)
    untaught = estimator.make(step, where, work.model.seed)
    answers = onnx_file.Exported(standard.model, work.model.task).answers(work.rows.inputs)
    fitted = student.distil(untaught, work.rows, answers)
    properties = {"model": order.model, "version": standard.draft.version, "features": work.features.digest}
    return onnx_file.export(
        fitted,
        width=work.features.width,
        task=work.model.task,
        properties=properties | {"variant": settings.name},
    )


def _bound(table: bytes | None, model_sha256: str) -> bytes | None:
    """Return the standard variant's answers as the table of another model: better answers than its own."""
    return None if table is None else precompute.bind(table, model_sha256)


def budgets(settings: BudgetSettings) -> Budgets:
    """Return what a manifest says of the budgets in ``covey.toml``."""
    return Budgets(memory_bytes=settings.memory_bytes, load_s=settings.load_s, predict_s=settings.predict_s)


def size_gate(pieces: Pieces, limit_bytes: int, name: str) -> GateResult | None:
    """Gate on the size of a bundle; nothing without a limit."""
    if not limit_bytes:
        return None
    size = sum(map(len, bundling.files_of(pieces).values()))
    reason = f"{size:,} bytes, allowed are {limit_bytes:,}"
    return GateResult(name=name, passed=size <= limit_bytes, reason=reason, numbers={"size_bytes": float(size)})
