"""The fleet's event time, as the controller has it."""

from __future__ import annotations

from cloud.config import Project
from cloud.rollout.devices import fleet_event_s
from cloud.store.store import Store

_STUCK_WINDOWS = 6


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
