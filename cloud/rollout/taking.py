"""Open a step that is to take so many devices: work out the share that does, once, and keep it."""

from __future__ import annotations

import typing

from cloud.rollout.channels import control_share_bp
from cloud.rollout.groups import groups_of, is_meant, labels_soon, target_bp
from cloud.store.store import Store
from shared.channel import LABELS
from shared.experiment import BASIS_POINTS, in_control, place_in_stage
from shared.labels import Group, covers, share_of

Row = dict[str, typing.Any]


def take(store: Store, rollout: Row, stage: Row) -> tuple[Row, str]:
    """Fix the share of a step that is to take a number of devices, in the transaction that is open.

    Returns
    -------
    dict, str
        The stage as it is now; and what to say of it: nothing where it takes a share of its plan.
    """
    n = stage["settings"].get("devices", 0)
    if not n:
        return stage, ""
    places, n_old = _places(store, rollout, stage)
    share = share_for(places, n, _least(store, rollout, stage))
    if n_old:  # a share of all would be told to agents that know of no labels as well
        share = min(share, BASIS_POINTS - control_share_bp(rollout, stage, stage["region"]) - 1)
    n_taken = sum(place < share for place in places)
    store.rollouts.set_target(stage["id"], share, n_taken)
    said = f"{n_taken:,} of {len(places):,} devices take part"
    if len(places) < n:
        said += f": all that there are, for {n:,} are asked for"
        said += f" and {n_old:,} have an agent that knows of no labels" if n_old else ""
    elif n_taken > n:
        said += f", {n:,} are asked for"
    return stage | {"target_bp": share, "taken": n_taken}, said


def share_for(places: typing.Sequence[int], n: int, least_bp: int = 0) -> int:
    """Return the smallest share that takes n devices, in basis points; all if there are fewer.

    Parameters
    ----------
    places : sequence of int
        Of the devices that may be taken, in 0..9999, sorted. Several devices of a large fleet have the same place:
        they are taken together.
    least_bp : int
        The share is never smaller.

    Examples
    --------
    >>> share_for([5, 100, 2000, 2000, 7000], 3), share_for([5, 100], 3), share_for([5, 100], 1, 50)
    (2001, 10000, 50)
    """
    return max(places[n - 1] + 1 if n <= len(places) else BASIS_POINTS, least_bp)


def _least(store: Store, rollout: Row, stage: Row) -> int:
    """Share of the widest step before that is for all of this step's devices: they stay."""
    where = stage["settings"].get("where", {})
    return max((target_bp(rollout, one) for one in _before(store, stage) if covers(_where(one), where)), default=0)


def _where(stage: Row) -> dict[str, list[str]]:
    return stage["settings"].get("where", {})  # type: ignore[no-any-return]


def _before(store: Store, stage: Row) -> list[Row]:
    """Steps of the same region that are open."""
    return [
        other
        for other in store.rollouts.stages(stage["rollout"])
        if other["opened_s"]
        and (other["kind"], other["region"]) == (stage["kind"], stage["region"])
        and other["position"] < stage["position"]
    ]


def places_of(store: Store, rollout: Row, stage: Row) -> list[int]:
    """Return the places of the devices that a step is for and that are not taken by steps for others, sorted.

    Those that an earlier step has taken by other labels stand at -1: they take part whatever the share is.
    """
    return _places(store, rollout, stage)[0]


def _places(store: Store, rollout: Row, stage: Row) -> tuple[list[int], int]:
    """Return these places, and the number of devices left out since their agent knows of no labels."""
    region, salt = stage["region"], rollout["salt"]
    apart = {pin["device"] for pin in store.pins.in_region(region) if pin["model"] == rollout["model"]}
    apart |= {row["device"] for row in store.aside.all(region)}
    control = control_share_bp(rollout, stage, region)
    before = _before(store, stage)
    earlier = groups_of(rollout, before, before[-1], control) if before else ()
    needs_labels = bool(_where(stage) or any(one.where for one in earlier))
    places, n_old = [], 0
    for row in store.fleet.all(region):
        if row["device"] in apart or in_control(salt, row["device"], control) or not is_meant(stage, row):
            continue
        if needs_labels and row["report"].get("agent") and LABELS not in row["report"].get("can", ()):
            n_old += 1
            continue
        places.append(_place(salt, row, earlier))
    return sorted(places), n_old


def _place(salt: str, device: Row, earlier: typing.Sequence[Group]) -> int:
    place = place_in_stage(salt, device["device"])
    return -1 if place < (share_of(earlier, labels_soon(device)) or 0) else place
