"""Build the estimator that ``covey.toml`` names: a scikit-learn class, or a Pipeline of several."""

from __future__ import annotations

import importlib
import inspect
import typing

from sklearn.base import BaseEstimator, is_classifier, is_regressor
from sklearn.pipeline import Pipeline

from cloud.config import ModelSettings, Params, StepSettings
from shared.errors import ConfigError

Estimator = typing.Any  # scikit-learn ships no types


def build(model: ModelSettings, name: str) -> Estimator:
    """Build a new estimator.

    Raises
    ------
    ConfigError
        No such class, wrong parameters, or not an estimator for the task.
    """
    where = f"models.{name}"
    if model.steps:
        steps = [make(step, f"{where}.steps[{i}]", model.seed) for i, step in enumerate(model.steps)]
        estimator = Pipeline([(f"step{i}", one) for i, one in enumerate(steps)])
    else:
        estimator = make(StepSettings(estimator=model.estimator, params=model.params), where, model.seed)
    _check_task(estimator, model, where)
    return estimator


def build_teacher(model: ModelSettings, name: str) -> Estimator:
    """Build the teacher of the precomputed answers."""
    where = f"models.{name}.precompute"
    settings = model.precompute
    teacher = make(StepSettings(estimator=settings.teacher, params=settings.teacher_params), where, model.seed)
    _check_task(teacher, model, where)
    return teacher


def make(step: StepSettings, where: str, seed: int) -> Estimator:
    """Import a class by its dotted name and make one; `random_state` is the model's seed unless it is given."""
    module, _, attribute = step.estimator.rpartition(".")
    try:
        found = getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError, ValueError) as err:
        raise ConfigError(
            f"{step.estimator!r} can not be imported: {err}",
            field=f"{where}.estimator",
            fix="Write it like sklearn.linear_model.LogisticRegression.",
        ) from err
    if not (inspect.isclass(found) and issubclass(found, BaseEstimator)):
        raise ConfigError(f"{step.estimator!r} is not a scikit-learn estimator", field=f"{where}.estimator")
    params = _params(step.params)
    if "random_state" in inspect.signature(found).parameters:
        params.setdefault("random_state", seed)
    try:
        return found(**params)
    except TypeError as err:
        known = ", ".join(sorted(inspect.signature(found).parameters))
        raise ConfigError(f"{err}", field=f"{where}.params", fix=f"Known are: {known}.") from err


def _params(params: Params) -> Params:
    """TOML has lists where scikit-learn wants tuples."""
    return {key: tuple(value) if isinstance(value, list) else value for key, value in params.items()}


def _check_task(estimator: Estimator, model: ModelSettings, where: str) -> None:
    fits = is_regressor(estimator) if model.task == "regression" else is_classifier(estimator)
    if not fits:
        raise ConfigError(
            f"{type(estimator).__name__} does not do the task {model.task!r}",
            field=f"{where}.estimator",
            fix="Change one.",
        )
    if model.task != "regression" and not hasattr(estimator, "predict_proba"):
        raise ConfigError(
            f"{type(estimator).__name__} gives no probabilities",
            field=f"{where}.estimator",
            fix="Choose one with predict_proba, such as LogisticRegression or SGDClassifier with loss = 'log_loss'.",
        )


def last_step(estimator: Estimator) -> Estimator:
    """The estimator that learns, without the steps in front of it."""
    return estimator.steps[-1][1] if isinstance(estimator, Pipeline) else estimator


def learns_on(estimator: Estimator) -> bool:
    """Whether it can be fine-tuned: has partial_fit.

    Histogram gradient boosting has `warm_start`, which refits its bins on the new rows and is wrong: it does not count.
    """
    return hasattr(last_step(estimator), "partial_fit")


def front(estimator: Estimator, rows: typing.Any) -> typing.Any:  # noqa: ANN401 - arrays
    """Send rows through the fitted steps in front of the last."""
    for _, step in estimator.steps[:-1] if isinstance(estimator, Pipeline) else ():
        rows = step.transform(rows)
    return rows
