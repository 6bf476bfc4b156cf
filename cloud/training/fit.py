"""Fit: stateless from scratch, or stateful with partial_fit on new rows and replayed old ones."""

from __future__ import annotations

import copy
import dataclasses
import typing
import warnings

import numpy as np
import numpy.typing as npt
from sklearn.exceptions import ConvergenceWarning

from cloud.config import FinetuneSettings
from cloud.training.estimator import Estimator, front, last_step, learns_on
from shared.errors import ConfigError, DataError, ModelError

Floats = npt.NDArray[np.float32]
_SHOWN = 300
Labels = npt.NDArray[typing.Any]


@dataclasses.dataclass(frozen=True, eq=False)
class Rows:
    """Encoded rows.

    Parameters
    ----------
    inputs : array, shape (n, width), float32
    labels : array, shape (n,)
        Class numbers, or values of a regression.
    """

    inputs: Floats
    labels: Labels

    def __len__(self) -> int:
        """Return the number of rows."""
        return len(self.labels)

    def take(self, index: npt.NDArray[np.int64]) -> Rows:
        """Rows by number."""
        return Rows(self.inputs[index], self.labels[index])


def fit_stateless(estimator: Estimator, rows: Rows) -> Estimator:
    """Fit from scratch.

    Raises
    ------
    DataError
        The rows can not be learned from.
    """
    with warnings.catch_warnings():
        # A bounded number of iterations is a choice of the person who set it.
        warnings.simplefilter("ignore", ConvergenceWarning)
        try:
            return estimator.fit(rows.inputs, rows.labels)
        except Exception as err:
            raise _not_fitted(err) from err


def _not_fitted(err: Exception) -> DataError:
    """An estimator may raise anything: for parameters that make no sense, and for rows that it can not learn from."""
    fix = "Look at its parameters in covey.toml."
    return DataError(f"the model can not be fitted: {str(err)[:_SHOWN]}", field="rows", fix=fix)


def fit_stateful(
    base: Estimator, new: Rows, old: Rows, settings: FinetuneSettings, *, seed: int, n_classes: int
) -> Estimator:
    """Continue a fitted model on new rows, with old ones replayed against forgetting.

    Parameters
    ----------
    base : estimator
        Left as it is; a copy learns on.
    new, old : Rows
        `old` is sampled: `replay_ratio` rows for each new one.
    n_classes : int
        0 for a regression.

    Raises
    ------
    ConfigError
        The estimator can not learn on.
    """
    if not learns_on(base):
        name = type(last_step(base)).__name__
        raise ConfigError(
            f"{name} has no partial_fit and can not be fine-tuned",
            field="estimator",
            fix="Train from scratch, or choose an estimator with partial_fit, such as MLPClassifier or SGDClassifier.",
        )
    rng = np.random.default_rng(seed)
    n_old = min(round(settings.replay_ratio * len(new)), len(old))
    replayed = old.take(rng.choice(len(old), n_old, replace=False)) if n_old else old.take(np.empty(0, np.int64))
    rows = Rows(np.concatenate([new.inputs, replayed.inputs]), np.concatenate([new.labels, replayed.labels]))
    estimator = copy.deepcopy(base)
    inputs = front(estimator, rows.inputs)
    learner = last_step(estimator)
    more = {"classes": np.arange(n_classes)} if n_classes and not hasattr(learner, "classes_") else {}
    with warnings.catch_warnings():
        # The last batch of an epoch is smaller than the others, and networks say so each time.
        warnings.filterwarnings("ignore", "Got `batch_size` less than 1 or larger than sample size")
        try:
            for _ in range(settings.epochs):
                order = rng.permutation(len(rows))
                for start in range(0, len(order), settings.batch_size):
                    batch = order[start : start + settings.batch_size]
                    learner.partial_fit(inputs[batch], rows.labels[batch], **more)
        except Exception as err:
            raise _not_fitted(err) from err
    return estimator


def answers(estimator: Estimator, inputs: Floats, task: str) -> npt.NDArray[np.float64]:
    """What the trained model itself says, shape (n, n_outputs): probabilities, or one value.

    Raises
    ------
    ModelError
        It can not answer.
    """
    try:
        if task == "regression":
            return np.asarray(estimator.predict(inputs), np.float64).reshape(len(inputs), -1)
        return np.asarray(estimator.predict_proba(inputs), np.float64)
    except Exception as err:
        name = type(last_step(estimator)).__name__
        raise ModelError(
            f"{name} can not answer rows that it has not seen: {str(err)[:_SHOWN]}", fix="Choose another estimator."
        ) from err
