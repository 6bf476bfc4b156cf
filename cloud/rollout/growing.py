"""Let an open step reach more of its devices, as its ramp and its limit of devices on the way allow."""

from __future__ import annotations

import typing

from cloud.config import RolloutSettings
from cloud.rollout.groups import target_bp, where_of
from cloud.rollout.ramp import MINUTE_S, grown, is_limited, noted, room_of
from cloud.rollout.taking import places_of
from cloud.rollout.verdict import Verdict
from cloud.store.store import Store
from shared.experiment import BASIS_POINTS
from shared.labels import covers

Row = dict[str, typing.Any]


def open_at(store: Store, rollout: Row, stage: Row, settings: RolloutSettings) -> int:
    """Return the share with which a step opens: that of the step before, or what may be asked in its first minute.

    A step before that was for other devices says nothing of how many of these may be asked.
    """
    if stage["kind"] != "canary" or not is_limited(settings):
        return BASIS_POINTS
    before = [
        other["reached_bp"]
        for other in store.rollouts.stages(rollout["id"])
        if other["opened_s"]
        and other["kind"] == "canary"
        and other["region"] == stage["region"]
        and covers(where_of(other), where_of(stage))
    ]
    if before:
        return int(max(before))
    room, _ = room_of(settings, in_flight=0, n_verified=0, waited_s=MINUTE_S)
    return grown(places_of(store, rollout, stage), 0, target_bp(rollout, stage), max(room, 1))


def grow(
    store: Store,
    rollout: Row,
    stage: Row,
    settings: RolloutSettings,
    verdicts: typing.Mapping[int, Verdict],
    now_s: float,
) -> None:
    """Reach more devices, if it is time.

    Parameters
    ----------
    verdicts : mapping
        Of this look at the stage: they say how many devices are on the way, and how many have verified.
    """
    reached, target = stage["reached_bp"], target_bp(rollout, stage)
    counts = [one.inputs["devices"] for one in verdicts.values()]
    if stage["kind"] != "canary" or reached >= target or not counts:
        return
    waited_s = max(now_s - stage["grown_s"], 0.0)
    room, each_s = room_of(
        settings,
        in_flight=max(one["in_flight"] for one in counts),
        n_verified=min(one["verified"] for one in counts),
        waited_s=waited_s,
    )
    if not room:
        return
    places = places_of(store, rollout, stage)
    share = grown(places, reached, target, room)
    n = sum(reached <= place < share for place in places)
    # What was waited beyond what these devices cost counts for the next; a minute of it at most.
    spare_s = min(max(waited_s - n * each_s, 0.0), MINUTE_S) if each_s else 0.0
    before = stage["growth"] or [(reached, stage["opened_s"])]
    growth = noted([(int(bp), float(at_s)) for bp, at_s in before], share, now_s, settings.install_timeout_s)
    store.rollouts.grow_stage(stage["id"], share, now_s - spare_s, growth)
