"""Triggers: look at a number, and say whether it is time to train again, and why."""

from __future__ import annotations

import math
import typing

from cloud.config import ModelSettings, TriggerSettings
from cloud.store.store import Store
from shared.clock import DAY_S, day_of
from shared.summary import restore

Row = typing.Mapping[str, typing.Any]
_EARLIER_DAYS = 7  # outcomes from before the window show that it is full; much earlier ones that a clock is wrong


class Reading(typing.NamedTuple):
    """What a trigger sees.

    Parameters
    ----------
    value : float
        The number it watches.
    fires : bool
        Whether it asks for training now.
    why : str
        The sentence that goes on record.
    """

    trigger: str
    value: float
    fires: bool
    why: str


def read(store: Store, name: str, model: ModelSettings, trigger: TriggerSettings, event_s: float) -> Reading:
    """Read one trigger; the caller decides what to do about it."""
    event_day = day_of(event_s)
    busy = _busy(store, name, trigger, event_day)
    if trigger.kind == "performance":
        value, enough = _performance(store, name, model, trigger, event_s)
    else:
        value, enough = _since_training(store, name, model, trigger.kind, event_s), ""
    over = value > trigger.above
    unit = {
        "performance": trigger.metric,
        "time": "days since training",
        "volume": "rows to learn from since training",
    }[trigger.kind]
    said = f"{trigger.name}: {unit} {value:.4g}, limit {trigger.above:g}"
    if trigger.kind == "performance":
        said += f", over {trigger.window_days} days"
    hold = enough or busy
    return Reading(trigger.name, value, over and not hold, f"{said}, waits: {hold}" if over and hold else said)


def _busy(store: Store, name: str, trigger: TriggerSettings, event_day: int) -> str:
    """Return why the trigger may not fire now: cool-down, or something is under way already."""
    if any(job["model"] == name for job in store.jobs.open()):
        return "a training is under way"
    if store.rollouts.running(name):
        return "a rollout is under way"
    last = store.jobs.last_fired(name, trigger.name)
    if last and event_day - last["event_day"] < trigger.cooldown_days:
        return f"it fired {event_day - last['event_day']} days ago"
    return ""


def _performance(
    store: Store, name: str, model: ModelSettings, trigger: TriggerSettings, event_s: float
) -> tuple[float, str]:
    """Mean of the metric over the incumbents' mature outcomes of the window; and what is lacking."""
    end = day_of(event_s - model.label_window_days * DAY_S)
    start = end - trigger.window_days
    versions = set(store.models.incumbents(name).values())
    rows = [
        row
        for row in store.evidence.by_day(name, from_day=start - _EARLIER_DAYS, before_day=end)
        if row["version"] in versions
    ]
    window = [row for row in rows if row["day"] >= start]
    n = sum(row["outcomes"] for row in window)
    column = "excess_sum" if trigger.metric == "excess_log_loss" else "metric_sum"
    scale = 1.0 if trigger.metric == "excess_log_loss" else model.metric_scale
    value = restore(sum(row[column] for row in window)) * scale / n if n else 0.0
    if n < trigger.min_outcomes:
        return value, f"{n:,} of {trigger.min_outcomes:,} outcomes"
    if min(row["day"] for row in rows if row["outcomes"]) > start:
        return value, f"less than {trigger.window_days} days of outcomes"
    return value, ""


def _since_training(store: Store, name: str, model: ModelSettings, kind: str, event_s: float) -> float:
    """Days since the newest version was trained, or rows that have come since and are not held out.

    A part that began before is taken to have its rows evenly over its time.
    """
    newest = store.models.newest_ready(name)
    if newest is None:
        return 0.0
    trained_to_s = float(newest["detail"]["trained_to_s"])
    if kind == "time":
        return max(0.0, event_s - trained_to_s) / DAY_S
    parts = store.datasets.parts(model.data or name)
    until_s = max((part["to_s"] for part in parts), default=0.0) - model.holdout_days * DAY_S
    return math.fsum(part["rows"] * _share_of(part["from_s"], part["to_s"], trained_to_s, until_s) for part in parts)


def _share_of(from_s: float, to_s: float, after_s: float, until_s: float) -> float:
    """Share of a stretch of time that lies after one moment and before another.

    >>> _share_of(0.0, 10.0, 5.0, 9.0), _share_of(0.0, 10.0, 10.0, 20.0), _share_of(3.0, 3.0, 2.0, 3.0)
    (0.4, 0.0, 1.0)
    """
    if from_s == to_s:
        return float(after_s < from_s <= until_s)
    return max(0.0, min(to_s, until_s) - max(from_s, after_s)) / (to_s - from_s)


def read_all(store: Store, name: str, model: ModelSettings, event_s: float) -> list[Reading]:
    """Read all triggers of a model."""
    return [read(store, name, model, trigger, event_s) for trigger in model.trigger]
