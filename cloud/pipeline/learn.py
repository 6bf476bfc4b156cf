"""Fit the estimator, from scratch or onward from its parent, and precompute answers with it."""

from __future__ import annotations

import io
import typing

import joblib
import numpy as np
import numpy.typing as npt

from cloud.export import onnx_file, precompute, ranked
from cloud.export.catalogue import catalogue
from cloud.pipeline.order import Order
from cloud.pipeline.prepare import Work
from cloud.store.store import Store
from cloud.training import estimator, fit, int8_steps
from shared.clock import format_time
from shared.errors import DataError
from shared.features import Encoder

Say = typing.Callable[[str], None]
Lists = tuple[ranked.Ranked, ranked.ListsReport] | tuple[None, None]


def fit_model(store: Store, order: Order, work: Work, say: Say) -> estimator.Estimator:
    """Fit; rows of the parent's own data set that it has seen are replayed, rows of another set are all new.

    Raises
    ------
    DataError, ConfigError
        There is nothing new to learn; or the estimator can not learn on, or not in steps.
    """
    if not order.is_stateful:
        return fit.fit_stateless(estimator.build(work.model, order.model), work.rows)
    parent = store.models.get(order.model, order.parent)
    base = joblib.load(io.BytesIO(store.blobs.get(parent["detail"]["estimator"])))
    seen_s = float(parent["detail"]["trained_to_s"])
    own = order.data in ("", work.model.data or order.model)
    is_new = work.train.event_s > seen_s if own else np.ones(len(work.train), bool)
    if not is_new.any():
        raise DataError(
            f"no rows are newer than {order.parent}'s, which end {format_time(seen_s)}", field="rows", fix="Add data."
        )
    new = work.rows.take(np.flatnonzero(is_new))
    old = work.rows.take(np.flatnonzero(~is_new))
    say(f"{len(new):,} new rows, {len(old):,} old ones to replay from")
    model = work.model
    tuned = fit.fit_stateful(base, new, old, model.finetune, seed=model.seed, n_classes=len(work.classes))
    return int8_steps.as_steps(base, tuned) if model.publish_delta == "int8" else tuned


def precompute_coarse(work: Work, exported: onnx_file.Exported, model_sha256: str) -> bytes | None:
    """Precompute the fallback table, if the model's settings ask for one."""
    settings = work.model.precompute
    n_keys = precompute.n_keys_in(settings.coarse_budget_bytes, max(len(work.classes), 1))
    if not settings.coarse or not n_keys:
        return None
    answers = exported.answers(work.rows.inputs)
    return precompute.build_coarse(
        Encoder(work.features), work.codes, answers, settings.coarse, n_keys=n_keys, model_sha256=model_sha256
    )


class Source(typing.NamedTuple):
    """Who gives the answers that are made beforehand."""

    name: str
    answer: precompute.Answerer


def source_of(name: str, work: Work, exported: onnx_file.Exported) -> Source:
    """Return the exported model, or the teacher that the model's settings ask for, fitted."""
    settings = work.model.precompute
    if not settings.teacher or not (settings.budget_bytes or work.model.lists.item):
        return Source("model", exported.answers)
    teacher = fit.fit_stateless(estimator.build_teacher(work.model, name), work.rows)

    def answer(inputs: npt.NDArray[np.float32]) -> npt.NDArray[typing.Any]:
        return fit.answers(teacher, inputs, work.model.task)

    return Source(type(teacher).__name__, answer)


def precompute_table(work: Work, source: Source, model_sha256: str, say: Say) -> bytes | None:
    """Precompute the most frequent answers, as many as the model's settings have room for."""
    n_outputs = max(len(work.classes), 1)
    n_keys = precompute.n_keys_in(work.model.precompute.budget_bytes, n_outputs)
    if not n_keys:
        return None
    say(f"precomputing up to {n_keys:,} answers ({source.name})")
    return precompute.build_table(
        Encoder(work.features), work.codes, source.answer, n_keys=n_keys, n_outputs=n_outputs, model_sha256=model_sha256
    )


def precompute_lists(work: Work, source: Source, exported: onnx_file.Exported, model_sha256: str, say: Say) -> Lists:
    """Rank items for the most frequent contexts, if the model's settings ask for it, and measure the lists."""
    settings = work.model.lists
    if not settings.item:
        return None, None
    known = catalogue(work.train.columns, settings.item, settings.columns, settings.max_items)
    made = ranked.build(
        work.features,
        known,
        work.codes,
        source.answer,
        item=settings.item,
        length=settings.length,
        budget_bytes=settings.budget_bytes,
        model_sha256=model_sha256,
        say=say,
    )
    later = work.holdout
    report = ranked.report(
        made,
        work.features,
        known,
        work.codes,
        later.codes,
        later.rows.columns[settings.item],
        exported.answers,
        source=source.name,
    )
    return made, report


class Precomputed(typing.NamedTuple):
    """All that was made beforehand, and who gave the answers."""

    source: str
    table: bytes | None
    coarse: bytes | None
    lists: ranked.Ranked | None
    lists_report: ranked.ListsReport | None


def precompute_all(name: str, work: Work, exported: onnx_file.Exported, model_sha256: str, say: Say) -> Precomputed:
    """Make beforehand what the model's settings ask for: answers, coarser answers, ranked lists."""
    source = source_of(name, work, exported)
    table = precompute_table(work, source, model_sha256, say)
    coarse = precompute_coarse(work, exported, model_sha256)
    lists, report = precompute_lists(work, source, exported, model_sha256, say)
    return Precomputed(source.name, table, coarse, lists, report)
