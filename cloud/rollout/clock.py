"""The fleet's event time, as the controller has it, and what goes by while it stands still."""

from __future__ import annotations

import json
import logging
import typing

from cloud.config import Project
from cloud.rollout.devices import AHEAD_S, fleet_event_s
from cloud.store.store import Store
from cloud.store.times import bring_back, newest
from shared.clock import day_of

_STUCK_WINDOWS = 6
_STOOD, _AHEAD = "stood", "ahead"
log = logging.getLogger("covey.controller")
Row = typing.Mapping[str, typing.Any]


def event_time(project: Project, store: Store, now_s: float) -> float:
    """Move the fleet's event time on; it never goes back, unless clocks were ahead and are right again."""
    window = project.settings.serve.online_window_s
    _set_right(store, now_s, replay=project.settings.devices.replay)
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


def _set_right(store: Store, now_s: float, *, replay: bool) -> None:
    """Once the cloud's clock was set back, and a day has passed since, bring back what it had written.

    A device that died would be online until then, nothing would mature, and a step would grow no further. A clock that
    is wrong for an hour after a start, and behind, changes nothing.
    """
    latest_s = now_s + AHEAD_S
    is_ahead = newest(store.db) > latest_s or (not replay and float(store.get_meta("event_s")) > latest_s)
    noted = int(store.get_meta(_AHEAD))
    if not is_ahead:
        if noted:
            store.set_meta(_AHEAD, 0)
    elif not noted:
        store.set_meta(_AHEAD, day_of(now_s))
    elif day_of(now_s) > noted:
        event_s = float(store.get_meta("event_s"))
        event_s = event_s if replay else min(event_s, now_s)
        bring_back(store.db, now_s, day_of(event_s))
        store.set_meta("event_s", event_s)
        log.warning("the clock was ahead; what was written then counts as of now", extra={"event_s": event_s})


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
