"""What a version's answers are judged by on devices: its bundle says it, whatever the settings say by now."""

from __future__ import annotations

import json
import typing

from cloud.config import ModelSettings
from cloud.store.store import Store
from shared.metrics import Task


class Terms(typing.NamedTuple):
    """What an answer is judged by.

    Parameters
    ----------
    metric, task : str
        Name of the metric, and the task that it is of.
    scale : float
        The unit in which sums are kept.
    label_window_days : float
        How long an outcome is waited for.
    """

    metric: str
    task: Task
    scale: float
    label_window_days: float


def terms_of(store: Store, model: str, version: str, settings: ModelSettings) -> Terms:
    """Return what a version is judged by; of one that was trained before this was noted, what the settings say."""
    kept = known_terms(store, model, version)
    return kept or Terms(settings.metric_name, settings.task, settings.metric_scale, settings.label_window_days)


def known_terms(store: Store, model: str, version: str) -> Terms | None:
    """Return what a version is judged by, if that was noted when it was trained."""
    kept = store.models.get(model, version)["detail"].get("judged") if version else None
    return Terms(**kept) if kept else None


def unlike(one: Terms | None, other: Terms | None) -> str:
    """Say what makes two versions impossible to compare; nothing if they can be, or nobody knows.

    >>> accuracy = Terms("accuracy", "binary", 1.0, 1.0)
    >>> unlike(accuracy, Terms("log_loss", "binary", 1.0, 1.0))
    'metric = "accuracy" and metric = "log_loss"'
    >>> unlike(accuracy, accuracy._replace(label_window_days=3.0)), unlike(accuracy, None)
    ('', '')
    """
    if one is None or other is None:
        return ""
    for key, name in (("task", "task"), ("metric", "metric"), ("scale", "metric_scale")):
        first, second = getattr(one, key), getattr(other, key)
        if first != second:
            return " and ".join(f"{name} = {json.dumps(said)}" for said in (first, second))
    return ""
