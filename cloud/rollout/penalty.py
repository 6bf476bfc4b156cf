"""Set a device aside that fails again and again, for a while; what a version is to blame for is held against nobody."""

from __future__ import annotations

import typing

from cloud.config import RolloutSettings
from cloud.rollout.devices import Standing, model_status, status_of
from cloud.rollout.verdict import Verdict
from cloud.store.store import Store
from shared.channel import MAX_PINS
from shared.clock import format_day
from shared.errors import NotFoundError

Row = dict[str, typing.Any]
_ACTOR = "controller"
_TROUBLE, _ARRIVED = "update-refused", ("activated", "committed")
_EVENTS = 30


def let_out(store: Store, event_day: int) -> list[str]:
    """Let devices take part again whose time is over; what they have failed at stays on record."""
    happened = []
    for device in store.aside.due(event_day):
        why = "its time is over, and it is asked again"
        with store.db.transaction():
            store.aside.let_out(device)
            store.audit.add("device release", device, actor=_ACTOR, reason=why)
        happened.append(f"{device}: {why}")
    return happened


def note(
    store: Store, rollout: Row, plan: RolloutSettings, verdicts: typing.Mapping[int, Verdict], event_day: int
) -> list[str]:
    """Note which devices failed at a candidate, and set those aside that have failed too often.

    A failure stands once the version works on others: so many have verified it as an error gate wants to see, and no
    larger share failed than it allows. Until then nobody knows whose fault it is.

    Parameters
    ----------
    verdicts : mapping
        Of a look at a stage: they say how its devices stand.
    """
    happened = []
    versions = {one["arm"]: one["version"] for one in rollout["candidates"]}
    for arm, verdict in verdicts.items():
        if not verdict.named:
            continue
        with store.db.transaction():
            guilty = _note(store, rollout["model"], versions[arm], verdict.named, event_day)
            if works_on_others(verdict.inputs["devices"], plan):
                store.aside.stand(rollout["model"], versions[arm])
            for device in guilty if plan.penalty_failures else ():
                happened += _judge(store, device, plan, event_day)
    return happened


def works_on_others(seen: typing.Mapping[str, int], plan: RolloutSettings) -> bool:
    """Whether a version does so well on the devices of a stage that one which fails is to blame itself.

    >>> plan = RolloutSettings()
    >>> works_on_others({"verified": 19, "failed": 1, "timed_out": 0}, plan)
    True
    >>> works_on_others({"verified": 2, "failed": 0, "timed_out": 0}, plan)
    False
    >>> works_on_others({"verified": 15, "failed": 3, "timed_out": 2}, plan)
    False
    """
    bad = seen["failed"] + seen["timed_out"]
    return seen["verified"] >= plan.error_min_executed and bad <= plan.error_ratio * (bad + seen["verified"])


def _note(store: Store, model: str, version: str, named: typing.Mapping[str, Standing], event_day: int) -> list[str]:
    """Bring the record of a version up to date; return who fails at it by its own fault."""
    known = store.aside.failed_at(model, version)
    guilty = []
    for device, stands in named.items():
        row = known.get(device, {})
        counts = bool(row.get("counts"))
        if stands == "verified":  # it was tried again, by hand or since it came back
            store.aside.strike(model, version, device)
        elif not counts:
            why, counts = _why(store, device, model, version, stands)
            if counts or not row:
                store.aside.fail(device, model, version, day=event_day, why=why, counts=counts)
        guilty += [device] if counts and stands != "verified" else []
    return guilty


def _why(store: Store, device: str, model: str, version: str, stands: Standing) -> tuple[str, bool]:
    """Return why a device failed, and whether that is its own fault.

    It is not where no form of the version fits, which is its owner's will; nor where a device has only not been done in
    time, and says of no trouble: its line is slow then.
    """
    if stands == "failed":
        runs = model_status(status_of(store.fleet.get(device)), model)
        why = runs.refused.get(version, "") if runs else ""
        return why, not (runs and version in (runs.unfit or ()))
    for event in store.fleet.events(_EVENTS, device):
        if event["kind"] in _ARRIVED:
            break
        if event["kind"] == _TROUBLE:
            return str(event["detail"])[:500], True
    return "not done in time", False


def _judge(store: Store, device: str, plan: RolloutSettings, event_day: int) -> list[str]:
    """Set a device aside if so much is held against it, in the transaction that is open."""
    from_day = event_day - plan.penalty_window_days
    held = store.aside.held_against(device, from_day)
    if len(held) < plan.penalty_failures or store.aside.get(device) is not None:
        return []
    row = store.fleet.get(device)
    if not _has_room(store, row["region"], plan):
        return []
    until_day = event_day + plan.penalty_days
    why = "; ".join(f"{one['model']}@{one['version']}: {one['why'] or 'it says not why'}" for one in held)
    store.aside.forget(from_day - plan.penalty_days)
    store.aside.put(
        device, from_day=from_day, until_day=until_day, least=plan.penalty_failures, why=why, kept=_kept(store, row)
    )
    said = f"until {format_day(until_day)}: {why}"
    store.audit.add("device set aside", device, actor=_ACTOR, reason=said, region=row["region"])
    return [f"{device} is set aside {said}"]


def _has_room(store: Store, region: str, plan: RolloutSettings) -> bool:
    """Whether one more device of a region may be set aside: a region in which many fail has another trouble."""
    n = len(store.aside.all(region))
    most = max(1, int(plan.error_ratio * len(store.fleet.all(region))))
    return n < min(most, MAX_PINS - len(store.pins.in_region(region)))


def _kept(store: Store, device: Row) -> dict[str, str]:
    """Return what a device runs, as it says, as far as there is such a thing."""
    kept = {}
    for entry in status_of(device).models:
        try:
            made = store.models.get(entry.model, entry.incumbent)
        except NotFoundError:
            continue
        if made["status"] == "ready" and made["manifest_sha256"]:
            kept[entry.model] = entry.incumbent
    return kept


def strike(store: Store, model: str, versions: typing.Collection[str]) -> list[str]:
    """Take failures at versions that went back off all records, in the transaction that is open; it was their fault.

    Whoever is set aside and has failed too seldom without them is let out.
    """
    happened = []
    for version in versions:
        for device in store.aside.strike(model, version):
            row = store.aside.get(device)
            if row and len(store.aside.held_against(device, row["from_day"])) < row["least"]:
                why = f"{model}@{version} went back: that was not the device's fault"
                store.aside.let_out(device)
                store.audit.add("device release", device, actor=_ACTOR, reason=why)
                happened.append(f"{device} is asked again: {why}")
    return happened
