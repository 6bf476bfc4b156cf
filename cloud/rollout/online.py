"""How many devices were online when a rollout began, or a step for some of them, and how many of these are now."""

from __future__ import annotations

import json
import typing

from cloud.config import Project
from cloud.rollout.devices import Wanted
from cloud.rollout.groups import is_plain, said_of
from cloud.rollout.heard import FLEET, Online, online_in_step
from cloud.store.store import Store

Row = dict[str, typing.Any]
_ONLINE = "rollout {} online"  # where the store keeps how many devices were, by region, when it began
_ONLINE_HERE = "stage {} online"  # and how many that a step for some devices takes, when it opened


def online_then_and_now(project: Project, store: Store, rollout: Row, stage: Row, now_s: float) -> list[Online]:
    """Count the devices that were online at the first look at a rollout, and those that are now.

    Who was retired meanwhile was not silenced.
    """
    key, window_s = _ONLINE.format(rollout["id"]), project.settings.serve.online_window_s
    kept = str(store.get_meta(key, ""))
    if not kept:
        kept = json.dumps([now_s, store.evidence.online(now_s - window_s, joined_by_s=now_s)])
        store.set_meta(key, kept)
    began_s, then = json.loads(kept)
    now = store.evidence.online(now_s - window_s, joined_by_s=began_s)
    known = store.evidence.online(0.0, joined_by_s=began_s)
    left = store.evidence.online(began_s - window_s, joined_by_s=began_s, status="retired")
    found = [
        Online(region=name, known=known.get(name, 0), then=n - left.get(name, 0), now=now.get(name, 0))
        for name, n in then.items()
    ]
    fleet = Online(
        region=FLEET,
        known=sum(one.known for one in found),
        then=sum(one.then for one in found),
        now=sum(one.now for one in found),
    )
    return [fleet, *(one for one in found if stage["region"] in (FLEET, one.region))]


def online_in_this_step(
    project: Project, store: Store, stage: Row, devices: typing.Sequence[Row], asked: Wanted, now_s: float
) -> list[Online]:
    """Count the same of a step for some devices: where it takes all of a kind there are none to compare them with.

    Who is set aside meanwhile has not gone.
    """
    if is_plain(asked.all_groups) or not devices:
        return []
    key, window_s = _ONLINE_HERE.format(stage["id"]), project.settings.serve.online_window_s
    kept = str(store.get_meta(key, ""))
    if not kept:
        _, then = online_in_step(devices, asked, now_s=now_s, online_window_s=window_s, joined_by_s=now_s)
        kept = json.dumps([now_s, then])
        store.set_meta(key, kept)
    began_s, then = json.loads(kept)
    known, now = online_in_step(devices, asked, now_s=now_s, online_window_s=window_s, joined_by_s=began_s)
    name = f"{stage['region']} {said_of(stage['settings'])}".rstrip()
    return [Online(region=name, known=known, then=then, now=now, since="this step opened")]
