"""Which devices of a region a step takes: its own and those of the steps before, by selector and share. Pure."""

from __future__ import annotations

import typing

from shared.experiment import BASIS_POINTS
from shared.labels import Group, Held, matches, without_needless, written

Row = typing.Mapping[str, typing.Any]
Stages = typing.Sequence[Row]
_ROUNDING = 1e-6  # what a share loses when it is multiplied
_FEW = 0.01


def basis_points(share: float) -> int:
    """Write a share in basis points, down, so that shares which fit together still do; at least one.

    >>> basis_points(0.29), basis_points(0.16666), basis_points(1e-9)
    (2900, 1666, 1)
    """
    return max(int(share * BASIS_POINTS + _ROUNDING), 1)


def target_bp(rollout: Row, stage: Row) -> int:
    """Share of the devices that a stage is for that take part in it once all of them were asked."""
    if stage["kind"] != "canary":
        return BASIS_POINTS
    if stage["target_bp"] >= 0:
        return int(stage["target_bp"])  # worked out when the stage opened
    share: float = (rollout["plan"]["canary"] | stage["settings"])["device_share"]
    return basis_points(share)


def where_of(stage: Row) -> dict[str, tuple[str, ...]]:
    """Labels of the devices that a stage is for; empty for all of them."""
    return {key: tuple(values) for key, values in stage["settings"].get("where", {}).items()}


def groups_of(rollout: Row, stages: Stages, stage: Row, control_bp: int, *, reached: bool = True) -> tuple[Group, ...]:
    """Return who takes part in an open stage: whom it takes, and whoever the region's steps before have taken.

    Parameters
    ----------
    stages : sequence
        All stages of the rollout.
    control_bp : int
        Share of the region's devices that no candidate is given to.
    reached : bool
        As far as the steps have come by now; else once all of their devices were asked.

    Returns
    -------
    tuple of Group
        One with no selector where labels make no difference; its share is that of the plan then.
    """
    until = [other for other in stages if _is_before(other, stage)] if stage["kind"] == "canary" else []
    found = [
        Group(
            where=where_of(one),
            device_share_bp=min(target_bp(rollout, one), one["reached_bp"] if reached else BASIS_POINTS),
        )
        for one in (*until, stage)
    ]
    if any(one.where for one in found):
        most = BASIS_POINTS - control_bp
        found = [Group(where=one.where, device_share_bp=min(one.device_share_bp, most)) for one in found]
    return without_needless(found)


def _is_before(other: Row, stage: Row) -> bool:
    is_same = other["kind"] == stage["kind"] and other["region"] == stage["region"]
    return bool(is_same and other["opened_s"] and other["position"] < stage["position"])


def is_plain(groups: typing.Sequence[Group]) -> bool:
    """Whether labels make no difference."""
    return all(not one.where for one in groups)


def labels_of(device: Row) -> Held:
    """Labels that a device goes by, as it says itself."""
    return typing.cast("Held", device["report"].get("labels", {}))


def labels_soon(device: Row) -> Held:
    """Labels that a device goes by as soon as it has heard what the fleet has given it."""
    return {**labels_of(device), **device["labels"]}


def is_meant(stage: Row, device: Row) -> bool:
    """Whether a stage is for devices like this one."""
    return matches(where_of(stage), labels_soon(device))


def said_of(settings: Row) -> str:
    """Say for people which devices of a region a step takes; empty for all of them.

    >>> said_of({"device_share": 0.25}), said_of({"devices": 20, "where": {"store": ["flagship"]}})
    ('25%', 'store=flagship 20 devices')
    """
    share, n = settings.get("device_share", 1.0), settings.get("devices", 0)
    part = f"{share:.3g}" if share < _FEW else f"{share:.0%}" if share < 1 else ""
    many = "1 device" if n == 1 else f"{n:,} devices" if n else part
    return " ".join(said for said in (written(settings.get("where", {})), many) if said)
