"""The fleet's event time, as the controller has it, and what goes by while it stands still."""

from __future__ import annotations

import json
import typing

from cloud.config import Project
from cloud.rollout.devices import fleet_event_s
from cloud.store.store import Store
from shared.clock import day_of

_STUCK_WINDOWS = 6
_STOOD = "stood"
Row = typing.Mapping[str, typing.Any]


def event_time(project: Project, store: Store, now_s: float) -> float:
    """Move the fleet's event time on; it never goes back."""
    window = project.settings.serve.online_window_s
    seen = fleet_event_s(
        store.fleet.all(),
        now_s=now_s,
        online_window_s=window,
        stuck_s=_STUCK_WINDOWS * window,
        replay=project.settings.devices.replay,
    )
    known = float(store.get_meta("event_s"))
    if seen > known:
        store.set_meta("event_s", seen)
    return max(seen, known)


def days_stood(store: Store, event_day: int, now_s: float) -> int:
    """Count the days of the wall on which somebody looked and event time had not moved for a day.

    While no device is heard, event time stands still, and no number of event days is ever reached. What this adds can
    not be driven up by a clock that jumps, nor by a worker that was off: it is one for each day that was looked at.
    """
    today = day_of(now_s)
    wall, event, n = json.loads(str(store.get_meta(_STOOD, "[0, 0, 0]")))
    if today != wall:
        n += bool(wall) and event_day <= event
        store.set_meta(_STOOD, json.dumps([today, event_day, n]))
    return int(n)


def since(store: Store, rollout: Row, stood: int) -> dict[str, int]:
    """Return how many of these days a rollout has had, and each of its open stages, from the first look at it on."""
    stages = [f"stage {one['id']}" for one in store.rollouts.stages(rollout["id"]) if one["opened_s"]]
    days = {}
    for name in (f"rollout {rollout['id']}", *stages):
        before = int(store.get_meta(f"{name} stood", -1))
        if before < 0:
            store.set_meta(f"{name} stood", stood)
        days[name] = stood - before if before >= 0 else 0
    return days
