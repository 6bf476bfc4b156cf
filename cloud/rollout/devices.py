"""What devices say about a stage: verified, failed, timed out, waiting. Pure."""

from __future__ import annotations

import collections
import math
import typing

import msgspec

from cloud.rollout.groups import labels_of, labels_soon
from cloud.rollout.ramp import Growth, asked_s
from shared.experiment import in_control, in_stage, place_in_stage
from shared.labels import Group, Held, share_of
from shared.telemetry import DeviceStatus, ModelStatus

Row = typing.Mapping[str, typing.Any]
Groups = typing.Sequence[Group]
Standing = typing.Literal["verified", "failed", "timed_out", "in_flight", "waits"]
AHEAD_S = 300.0


class Wanted(typing.NamedTuple):
    """What a stage wants its devices to run.

    Parameters
    ----------
    model, version : str
        The new version.
    epoch : int
        The stage; 0 when the version is to be the incumbent.
    salt, groups : str, tuple of Group
        Which devices take part.
    opened_s : float
        When the stage opened (wall time).
    control_bp : mapping
        Which devices of each region are the control group: they take no part.
    all_groups, growth : tuple of Group, sequence
        Which devices take part once all were asked; and which share was reached when, for a stage that grows.
    pinned : frozenset of str
        Devices that run something else because somebody said so: they take no part.
    aside, blamed : frozenset of str
        Devices that are set aside, and take no part; and those that have failed at this version, set aside or not.
    needs : mapping
        What an agent has to understand of each region's channel; one that says it does not takes no part.
    told_s : mapping
        When each region's channel changed last: whatever changed, its devices have a new generation to prove.
    """

    model: str
    version: str
    epoch: int
    salt: str
    groups: Groups
    opened_s: float
    told_s: typing.Mapping[str, float] = {}
    control_bp: typing.Mapping[str, int] = {}
    pinned: frozenset[str] = frozenset()
    aside: frozenset[str] = frozenset()
    blamed: frozenset[str] = frozenset()
    all_groups: Groups = ()
    growth: Growth = ()
    needs: typing.Mapping[str, frozenset[str]] = {}


class Counts(msgspec.Struct, frozen=True, kw_only=True):
    """Devices of a stage.

    Parameters
    ----------
    total, online : int
        In the stage; of these, heard from lately.
    verified : int
        Online, and run the version: right digest, golden inputs reproduced, probation over.
    to_come : int
        That the stage has not asked yet, since it grows, or since they have yet to hear what labels they were given.
    in_flight : int
        Online, asked, and neither verified nor failed; one that says "not now" is not on its way.
    pinned : int
        That are in none of these, since somebody pinned them to a version.
    too_old : int
        That are in none of these, since their agent does not understand what the stage tries.
    aside : int
        That are in none of these, since they are set aside; but one that has failed here has failed.
    failed, timed_out : int
        Tried and could not; or were online long enough and have not.
    """

    total: int = 0
    online: int = 0
    verified: int = 0
    failed: int = 0
    timed_out: int = 0
    pinned: int = 0
    to_come: int = 0
    in_flight: int = 0
    too_old: int = 0
    aside: int = 0

    @property
    def executed(self) -> int:
        """Devices that tried: verified, failed and timed out. Errors are a share of these, never of all."""
        return self.verified + self.failed + self.timed_out

    @property
    def verified_ratio(self) -> float:
        """Share of the online devices that are verified."""
        return self.verified / self.online if self.online else 0.0

    @property
    def error_ratio(self) -> float:
        """Share of the devices that tried and did not succeed."""
        return (self.failed + self.timed_out) / self.executed if self.executed else 0.0


def takes_part(device: Row, wanted: Wanted) -> bool:
    """Whether a device belongs to a stage as it is now, be it set aside or not."""
    return _is_in(device, wanted, wanted.groups, labels_of(device))


def will_take_part(device: Row, wanted: Wanted, *, is_online: bool) -> bool:
    """Whether a device belongs to a stage once all were asked; one that is there hears what labels it was given."""
    return _is_in(device, wanted, wanted.all_groups, labels_soon(device) if is_online else labels_of(device))


def _is_in(device: Row, wanted: Wanted, groups: Groups, labels: Held) -> bool:
    if device["device"] in wanted.pinned or is_too_old(device, wanted):
        return False
    if in_control(wanted.salt, device["device"], wanted.control_bp.get(device["region"], 0)):
        return False
    return in_stage(wanted.salt, device["device"], share_of(groups, labels) or 0)


def is_too_old(device: Row, wanted: Wanted) -> bool:
    """Whether the agent of a device has reported, and does not understand what the stage tries."""
    return lacks(device, wanted.needs)


def lacks(device: Row, needs: typing.Mapping[str, frozenset[str]]) -> bool:
    """Whether the agent of a device has reported, and does not understand what its region's channel needs."""
    wanted = needs.get(device["region"], frozenset())
    report = device["report"] if wanted else {}
    return bool(report.get("agent")) and not wanted <= set(report.get("can", ()))


def count(
    devices: typing.Iterable[Row], wanted: Wanted, *, now_s: float, online_window_s: float, install_timeout_s: float
) -> Counts:
    """Count the devices of a stage: what `sort_out` says first."""
    seen, _ = sort_out(
        devices, wanted, now_s=now_s, online_window_s=online_window_s, install_timeout_s=install_timeout_s
    )
    return seen


def sort_out(
    devices: typing.Iterable[Row], wanted: Wanted, *, now_s: float, online_window_s: float, install_timeout_s: float
) -> tuple[Counts, dict[str, Standing]]:
    """Count the devices of a stage, and name those that could not, or that can now what they could not before.

    A device that failed counts whether or not it is online now; one that is offline and has said nothing does not
    count at all, so it can not hold anything up. One that says "not now" is neither verified nor timed out: it waits
    for its owner, and goes on by itself after a while.

    Returns
    -------
    Counts, dict
        And device to `failed` or `timed_out`; `verified` for those that were to blame.
    """
    total = online = pinned = to_come = too_old = aside = 0
    found: dict[str, int] = collections.Counter()
    named: dict[str, Standing] = {}
    for device in devices:
        name = device["device"]
        pinned += name in wanted.pinned
        too_old += is_too_old(device, wanted)
        is_online = now_s - device["seen_s"] <= online_window_s
        if name in wanted.aside:
            aside += 1
            # That it is set aside makes no version look better which it has failed at.
            found["failed"] += name in wanted.blamed and takes_part(device, wanted)
            continue
        if not takes_part(device, wanted):
            to_come += will_take_part(device, wanted, is_online=is_online)
            continue
        total += 1
        online += is_online
        stands = standing(device, wanted, now_s=now_s, is_online=is_online, install_timeout_s=install_timeout_s)
        found[stands] += 1
        if stands in ("failed", "timed_out") or (stands == "verified" and name in wanted.blamed):
            named[name] = stands
    seen = Counts(
        total=total, online=online, verified=found["verified"], failed=found["failed"], timed_out=found["timed_out"],
        pinned=pinned, to_come=to_come, in_flight=found["in_flight"], too_old=too_old, aside=aside,
    )  # fmt: skip
    return seen, named


def standing(device: Row, wanted: Wanted, *, now_s: float, is_online: bool, install_timeout_s: float) -> Standing:
    """Say how far a device has come that takes part in a stage."""
    status = status_of(device)
    runs = model_status(status, wanted.model)
    if is_online and is_verified(status, wanted):
        return "verified"
    if runs is not None and wanted.version in runs.refused:
        return "failed"
    if not is_online or status.waits:
        return "waits"
    return "timed_out" if now_s - _asked_s(device, wanted) > install_timeout_s else "in_flight"


def _asked_s(device: Row, wanted: Wanted) -> float:
    """Since when a device could have done what it is asked for."""
    told_s = wanted.told_s.get(device["region"], 0.0)
    online_since_s: float = device["online_since_s"]
    reached_s = asked_s(wanted.growth, place_in_stage(wanted.salt, device["device"])) if wanted.growth else 0.0
    return max(wanted.opened_s, told_s, online_since_s, reached_s)


def status_of(device: Row) -> DeviceStatus:
    """Return a device's last report."""
    return msgspec.convert(device["report"], DeviceStatus)


def model_status(status: DeviceStatus, model: str) -> ModelStatus | None:
    """What a device says of one model."""
    return next((entry for entry in status.models if entry.model == model), None)


def is_verified(status: DeviceStatus, wanted: Wanted) -> bool:
    """Whether a device runs what the stage wants, and probation is over."""
    runs = model_status(status, wanted.model)
    if runs is None or status.state != "good":
        return False
    if wanted.epoch:
        return wanted.version in (runs.candidate, *runs.also) and runs.epoch == wanted.epoch
    return runs.incumbent == wanted.version


def fleet_event_s(
    devices: typing.Sequence[Row], *, now_s: float, online_window_s: float, stuck_s: float, replay: bool
) -> float:
    """Latest event time that all online devices have passed; 0 while nobody is online.

    A device whose clock has not moved for `stuck_s` while others are ahead of it is left out: it must not hold
    the fleet's clock back for ever. Outside a replay event time is the time of the wall: no device moves the fleet
    further ahead than `AHEAD_S`, and one that is `stuck_s` behind the others has a wrong clock and is left out too.
    While fewer than half of the online devices are left in, time does not move: one clock does not speak for a fleet.
    """
    latest_s = math.inf if replay else now_s + AHEAD_S
    online = [
        (min(d["watermark_s"], latest_s), d["moved_s"])
        for d in devices
        if now_s - d["seen_s"] <= online_window_s and d["watermark_s"] > 0
    ]
    newest = max((mark_s for mark_s, _ in online), default=0.0)
    far_behind_s = -math.inf if replay else newest - stuck_s
    moving = [
        mark_s
        for mark_s, moved_s in online
        if mark_s >= newest or (mark_s >= far_behind_s and now_s - moved_s <= stuck_s)
    ]
    return min(moving, default=0.0) if 2 * len(moving) >= len(online) else 0.0
