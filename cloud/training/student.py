"""Distil: fit a smaller estimator to the answers of a larger model, not to the labels alone.

Hinton, Vinyals, Dean (2015), "Distilling the Knowledge in a Neural Network", arXiv:1503.02531. Probabilities become
weights: each row stands there once for each class, with the teacher's probability of that class as its weight, which
is the same loss for any estimator that takes weights.
"""

from __future__ import annotations

import inspect
import typing

import numpy as np
import numpy.typing as npt

from cloud.training.estimator import Estimator, last_step
from cloud.training.fit import Rows, fit_stateless
from shared.errors import ConfigError, DataError

_LEAST_WEIGHT = 1e-3
_SHOWN = 300


def distil(student: Estimator, rows: Rows, answers: npt.NDArray[typing.Any]) -> Estimator:
    """Fit a student to a teacher's answers.

    Parameters
    ----------
    student : estimator
        Not fitted yet.
    rows : Rows
        What the teacher has learned from; of a regression the labels are not used.
    answers : array, shape (n, n_outputs)
        The teacher's answers: probabilities, or one value.

    Raises
    ------
    ConfigError
        The student takes no weights.
    DataError
        It can not be fitted.
    """
    n_outputs = answers.shape[1]
    if n_outputs == 1:
        return fit_stateless(student, Rows(rows.inputs, answers[:, 0].astype(np.float64)))
    last = last_step(student)
    if last is not student or "sample_weight" not in inspect.signature(student.fit).parameters:
        raise ConfigError(
            f"{type(last).__name__} takes no weights for its rows",
            field="variant.estimator",
            fix="Choose a single estimator whose fit has sample_weight, such as LogisticRegression or a forest.",
        )
    labels = np.repeat(np.arange(n_outputs), len(rows))
    weights = answers.T.reshape(-1).astype(np.float64)
    kept = weights >= _LEAST_WEIGHT
    inputs = np.tile(rows.inputs, (n_outputs, 1))[kept]
    try:
        return student.fit(inputs, labels[kept], sample_weight=weights[kept])
    except Exception as err:
        raise DataError(
            f"the student can not be fitted: {str(err)[:_SHOWN]}",
            field="variant",
            fix="Look at its parameters in covey.toml.",
        ) from err
