"""Define a fine-tuned network as its parent plus whole steps, so that its delta is one byte a weight and exact.

What comes out is another model than the one that was fitted, if only a little: everything after this (export, gates,
table, golden rows) is made from it, and it is what is signed.
"""

from __future__ import annotations

import numpy as np

from cloud.config import NETWORKS
from cloud.training.estimator import Estimator, last_step
from shared.delta import int8
from shared.errors import ConfigError


def as_steps(base: Estimator, tuned: Estimator) -> Estimator:
    """Move each weight of a fine-tuned network to the nearest one that lies whole steps away from its parent's.

    Parameters
    ----------
    base, tuned : estimator
        Parent and child: a fitted MLPClassifier or MLPRegressor, or a Pipeline that ends in one. `tuned` is changed.

    Returns
    -------
    estimator
        `tuned`. A step is a power of two for each weight matrix, at most 1/64 of its largest change.

    Raises
    ------
    ConfigError
        It is another estimator.
    """
    old, new = last_step(base), last_step(tuned)
    if type(new).__name__ not in NETWORKS:
        raise ConfigError(
            f"{type(new).__name__} has no weights to send as int8",
            field="publish_delta",
            fix=f"Leave it out, or choose one of {', '.join(NETWORKS)}.",
        )
    for before, after in zip([*old.coefs_, *old.intercepts_], [*new.coefs_, *new.intercepts_], strict=True):
        start = before.astype(np.float32)  # as it was exported
        after[...] = np.reshape(int8.near(start.ravel().tolist(), after.ravel().tolist()), after.shape)
    return tuned
