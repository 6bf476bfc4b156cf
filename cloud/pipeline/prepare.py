"""Read a data version, split it by time, learn categories and encode it."""

from __future__ import annotations

import dataclasses
import typing

import numpy as np
import numpy.typing as npt

from cloud.config import ModelSettings, Project
from cloud.data.parts import Snapshot, snapshot
from cloud.data.read import coerce
from cloud.pipeline.order import Order
from cloud.publish.repository import SignedRepository
from cloud.publish.seal import load_bundle
from cloud.store.store import Store
from cloud.training import fit
from shared import bundle, codec
from shared.clock import DAY_S
from shared.errors import DataError
from shared.features import Encoder, FeatureSet
from shared.features.columns import encode_columns, expand
from shared.lists import Split
from shared.metrics import Metric, get_metric, usual_metric

Floats = npt.NDArray[np.float64]


@dataclasses.dataclass(frozen=True, eq=False)
class Judged:
    """Rows of the model's own, trusted data that a candidate is judged on."""

    rows: Snapshot
    codes: Floats
    labels: npt.NDArray[typing.Any]

    def __len__(self) -> int:
        """Return the number of rows."""
        return len(self.rows)


class Work(typing.NamedTuple):
    """What the steps hand on to each other."""

    model: ModelSettings
    metric: Metric
    features: FeatureSet
    classes: tuple[str | int | bool, ...]
    train: Snapshot
    codes: Floats
    rows: fit.Rows
    holdout: Judged
    anchors: Judged


def prepare(project: Project, store: Store, repository: SignedRepository, order: Order, model: ModelSettings) -> Work:
    """Read data, split it by time, learn categories, encode."""
    own = store.datasets.latest(model.data or order.model)
    definition = _definition(project, repository, order, model)
    trusted = _read(project, store, own["version"], definition)
    cut_s = float(trusted.event_s[-1]) - model.holdout_days * DAY_S
    holdout = trusted.where(trusted.event_s > cut_s)
    other = order.data and order.data != (model.data or order.model)
    source = _read(project, store, store.datasets.latest(order.data)["version"], definition) if other else trusted
    learn = source if other else source.where(source.event_s <= cut_s)
    if not len(learn):
        raise DataError(
            f"all rows are within the hold-out of {model.holdout_days} days",
            field="rows",
            fix="Add older rows, or set holdout_days lower.",
        )
    lacking = [name for name in definition.columns if name not in learn.columns or name not in trusted.columns]
    if lacking:
        raise DataError(f"the data has no column {lacking[0]!r}", field="features", fix="Add data that has it.")
    features = definition.learn(learn.columns)
    _check_names(model, features, learn.columns.keys() & trusted.columns.keys())
    classes = _classes(model, learn)
    labels = label_numbers(learn, model, classes)
    if not order.is_stateful:
        _check_classes(labels, model, classes)
    codes = encode_columns(features, learn.columns)
    return Work(
        model=model,
        metric=_gate_metric(model),
        features=features,
        classes=classes,
        train=learn,
        codes=codes,
        rows=fit.Rows(expand(features, codes), labels),
        holdout=_judged(holdout, features, model, classes),
        anchors=_judged(
            _spread(trusted.where(trusted.event_s <= cut_s), model.gate.anchor_rows), features, model, classes
        ),
    )


def _check_names(model: ModelSettings, features: FeatureSet, columns: typing.Container[str]) -> None:
    """Refuse names that no feature or column has, before any work."""
    Encoder(features).coarse_key(model.precompute.coarse)
    if model.lists.item:
        if model.lists.item not in columns:
            raise DataError(
                f"the data has no column {model.lists.item!r:.80}",
                field="lists.item",
                fix="Name a column of it; one that no feature reads must be under keep in the feature set.",
            )
        Split(features, model.lists.item, model.lists.columns)


def _gate_metric(model: ModelSettings) -> Metric:
    """Gates look at single rows: a model that is judged by its lists is judged here by the task's usual metric."""
    own = get_metric(model.metric_name, model.task)
    return get_metric(usual_metric(model.task), model.task) if own.of_lists else own


def _read(project: Project, store: Store, version: str, features: FeatureSet) -> Snapshot:
    rows = snapshot(project, store, version)
    return dataclasses.replace(rows, columns=coerce(rows.columns, features))


def _judged(
    rows: Snapshot, features: FeatureSet, model: ModelSettings, classes: tuple[str | int | bool, ...]
) -> Judged:
    return Judged(rows, encode_columns(features, rows.columns), label_numbers(rows, model, classes))


def _spread(rows: Snapshot, n: int) -> Snapshot:
    """At most n rows, evenly over all of the time."""
    mask = np.zeros(len(rows), bool)
    mask[np.linspace(0, len(rows) - 1, min(n, len(rows))).astype(np.int64)] = True
    return rows.where(mask)


def _definition(project: Project, repository: SignedRepository, order: Order, model: ModelSettings) -> FeatureSet:
    """A version that continues another keeps its features: the inputs must mean the same."""
    if not order.is_stateful:
        return project.feature_set(order.features or model.features)
    parent = load_bundle(repository, order.model, order.parent)
    return codec.from_json(parent.files[bundle.FEATURES_FILE], FeatureSet, limit_bytes=64 << 20)


def _classes(model: ModelSettings, rows: Snapshot) -> tuple[str | int | bool, ...]:
    if model.task == "regression":
        return ()
    found = model.classes or tuple(sorted(set(rows.columns[model.label]), key=lambda v: (str(type(v)), v)))  # type: ignore[arg-type]
    if model.task == "binary" and len(found) != 2:  # noqa: PLR2004 - two classes
        raise DataError(f"the label has the values {list(found)[:10]!r}, two are needed", field=model.label)
    return typing.cast("tuple[str | int | bool, ...]", tuple(found))


def _check_classes(
    labels: npt.NDArray[typing.Any], model: ModelSettings, classes: tuple[str | int | bool, ...]
) -> None:
    """A class without a row would be missing from the estimator's answers."""
    seen = set(labels.tolist())
    unseen = [label for i, label in enumerate(classes) if i not in seen]
    if unseen:
        raise DataError(
            f"no row to learn from has the class {unseen[0]!r}", field=model.label, fix="Add rows, or take it out."
        )


def label_numbers(
    rows: Snapshot, model: ModelSettings, classes: tuple[str | int | bool, ...]
) -> npt.NDArray[typing.Any]:
    """Class numbers, or values of a regression, shape (n,)."""
    values = rows.columns[model.label]
    if model.task == "regression":
        return np.array(values, np.float64)
    numbers = {label: i for i, label in enumerate(classes)}
    try:
        return np.array([numbers[typing.cast("str", value)] for value in values], np.int64)
    except KeyError as err:
        raise DataError(f"{err.args[0]!r} is not one of {list(classes)}", field=model.label) from err
