"""The controller: one tick reads the evidence, decides, records, and publishes. One story, read top to bottom."""

from __future__ import annotations

import contextlib
import fcntl
import logging
import time
import typing

import msgspec

from cloud.config import Project, RolloutSettings
from cloud.rollout import alarm
from cloud.rollout.channels import Publish, device_share_bp, publish_changes
from cloud.rollout.devices import Counts, Wanted, count, fleet_event_s
from cloud.rollout.orders import obey, restore
from cloud.rollout.plan import for_stage, stage_name
from cloud.rollout.verdict import APPROVED, WAITS, Evidence, Verdict, judge
from cloud.store.store import Store
from shared.clock import DAY_S, day_of
from shared.metrics import get_metric

log = logging.getLogger("covey.controller")
Row = dict[str, typing.Any]
_STUCK_WINDOWS = 6
_ACTOR = "controller"
_DEADLINE = "deadline {}"


class Tick(typing.NamedTuple):
    """What one tick did.

    Parameters
    ----------
    revision : int
        The evidence it has seen.
    event_s : float
        The fleet's event time.
    published : list of str
        Regions whose channel changed.
    happened : list of str
        Sentences for the log.
    """

    revision: int
    event_s: float
    published: list[str]
    happened: list[str]


def tick(project: Project, store: Store, publish: Publish, *, now_s: float | None = None) -> Tick:
    """Look once at everything, and act.

    Each step is one transaction, and says in the database what it did: a controller that dies in between goes on
    where it was. A second controller waits, and then sees what the first has done.
    """
    with _alone(project):
        now = time.time() if now_s is None else now_s
        revision = store.evidence.revision()
        event_s = _event_time(project, store, now)
        happened = alarm.watch(project, store, day_of(event_s))
        happened += obey(project, store, day_of(event_s))
        for rollout in store.rollouts.all_running():
            if rollout["model"] in project.settings.models:
                happened += _advance(project, store, rollout, event_s, now)
            else:
                log.error("a rollout stands still: its model is not in covey.toml", extra={"rollout": rollout["id"]})
        published = publish_changes(project, store, publish)
    return Tick(revision, event_s, published, happened)


@contextlib.contextmanager
def _alone(project: Project) -> typing.Iterator[None]:
    """Hold the controller's lock; it ends with the process, however that ends."""
    with (project.var / "controller.lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _event_time(project: Project, store: Store, now_s: float) -> float:
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


# ---- stages


def _advance(project: Project, store: Store, rollout: Row, event_s: float, now_s: float) -> list[str]:
    """Judge the stages that are open; fail, open the next, or promote."""
    settings = msgspec.convert(rollout["plan"], RolloutSettings)
    stages = store.rollouts.stages(rollout["id"])
    event_day = day_of(event_s)
    if not rollout["created_day"]:
        # It was started before any device had said what day it is out there.
        store.rollouts.set_created_day(rollout["id"], event_day)
        rollout["created_day"] = event_day
    happened: list[str] = []
    verdict: Verdict | None = None
    for stage in [stage for stage in stages if stage["opened_s"]]:
        own = for_stage(settings, stage)
        verdict = _judge(project, store, rollout, own, stage, stages, event_s, now_s)
        if verdict.word == "FAIL":
            return [*happened, _fail(project, store, rollout, stage, verdict, event_day)]
        # A stage that has passed stays passed: late joiners and lost devices do not close it again.
        if not stage["passed_s"]:
            store.rollouts.judge(
                stage, verdict.word, event_day=event_day, reasons=verdict.reasons, inputs=verdict.inputs
            )
            if verdict.word == "PASS":
                happened.append(f"rollout {rollout['id']}: {stage_name(stage)} passed: {'; '.join(verdict.reasons)}")
    expires = settings.expedite.expires_days
    if settings.expedited and event_day - rollout["created_day"] > expires:
        why = f"expedited, and neither promoted nor approved within {expires} days"
        return [*happened, _give_up(project, store, rollout, why, event_day)]
    if rollout["paused"]:
        return happened
    return happened + _go_on(project, store, rollout, settings, verdict, event_day)


def _go_on(
    project: Project, store: Store, rollout: Row, settings: RolloutSettings, verdict: Verdict | None, event_day: int
) -> list[str]:
    """Open the next stage, or promote; stop at a deadline."""
    happened: list[str] = []
    stages = store.rollouts.stages(rollout["id"])
    late = next((stage for stage in stages if _is_late(store, stage, event_day)), None)
    if late:
        return [_at_deadline(project, store, rollout, late, event_day)]
    waiting = [stage for stage in stages if not stage["opened_s"]]
    if all(stage["passed_s"] for stage in stages if stage["opened_s"]) and waiting:
        if waiting[0]["approved_s"] or not waiting[0]["settings"].get("approve"):
            happened.append(_open(store, rollout, waiting[0], event_day))
    elif not waiting and all(stage["passed_s"] for stage in stages):
        happened += _promote(project, store, rollout, verdict, event_day)
    too_long = event_day - rollout["created_day"] > settings.max_days
    if too_long and store.rollouts.get(rollout["id"])["state"] == "running":
        happened.append(_give_up(project, store, rollout, f"no verdict after {settings.max_days} days", event_day))
    return happened


def _is_late(store: Store, stage: Row, event_day: int) -> bool:
    """Whether a step waits for longer than its plan says; one that somebody lets go on is asked no second time."""
    hold_days = stage["settings"].get("hold_days", 0)
    over = stage["opened_s"] and not stage["passed_s"] and 0 < hold_days < event_day - stage["opened_day"]
    return bool(over and not store.get_meta(_DEADLINE.format(stage["id"])))


def _at_deadline(project: Project, store: Store, rollout: Row, stage: Row, event_day: int) -> str:
    """Do what the plan says of a step that waits for too long: neither proven bad nor good enough to go on."""
    why = f"{stage_name(stage)} has not passed after {stage['settings']['hold_days']} days: {stage['why']}"
    if stage["settings"]["at_deadline"] == "abort":
        return _give_up(project, store, rollout, why, event_day)
    with store.db.transaction():
        store.set_meta(_DEADLINE.format(stage["id"]), event_day)
        store.rollouts.set_paused(rollout["id"], paused=True)
        store.audit.add("rollout pause", f"rollout {rollout['id']}", actor=_ACTOR, reason=why)
    return f"rollout {rollout['id']}: paused: {why}"


def _judge(
    project: Project,
    store: Store,
    rollout: Row,
    plan: RolloutSettings,
    stage: Row,
    stages: typing.Sequence[Row],
    event_s: float,
    now_s: float,
) -> Verdict:
    _, model = project.model(rollout["model"])
    trial = stage["kind"] != "install"
    metric = get_metric(model.metric_name, model.task)
    mature_day = day_of(event_s - model.label_window_days * DAY_S)
    evidence = _evidence(store, rollout, stage, stages, mature_day) if trial else Evidence([], [], [], [], [])
    return judge(
        stage["kind"],
        _count(project, store, rollout, plan, stage, stages, now_s),
        evidence,
        plan,
        metric=metric,
        margin=model.margin / model.metric_scale,
        n_regions=len(project.settings.regions.order),
    )


def _count(
    project: Project,
    store: Store,
    rollout: Row,
    plan: RolloutSettings,
    stage: Row,
    stages: typing.Sequence[Row],
    now_s: float,
) -> Counts:
    """Count the devices of a stage; those of a region whose next step is open have left the one before."""
    moved_on = {other["region"] for other in stages if other["kind"] == "canary" and other["opened_s"]}
    devices = store.fleet.all("" if stage["region"] == "*" else stage["region"])
    if any(other["opened_s"] and other["position"] > stage["position"] for other in stages if _same(other, stage)):
        devices = []
    if stage["kind"] == "shadow":
        devices = [device for device in devices if device["region"] not in moved_on]
    wanted = Wanted(
        model=rollout["model"],
        version=rollout["to_version"],
        epoch=0 if stage["kind"] == "install" else stage["id"],
        salt=rollout["salt"],
        device_share_bp=device_share_bp(rollout, stage),
        opened_s=stage["opened_s"],
        told_s={row["region"]: row["published_s"] for row in store.rollouts.channels()},
    )
    return count(
        devices,
        wanted,
        now_s=now_s,
        online_window_s=project.settings.serve.online_window_s,
        install_timeout_s=plan.install_timeout_s,
    )


def _same(one: Row, other: Row) -> bool:
    return bool(one["kind"] == other["kind"] and one["region"] == other["region"])


def _evidence(store: Store, rollout: Row, stage: Row, stages: typing.Sequence[Row], mature_day: int) -> Evidence:
    opened = {other["id"]: other["opened_day"] for other in stages if other["opened_s"]}
    epochs, model = list(opened), rollout["model"]
    # Days before a stage opened are those of a clock that is wrong; one day is a time zone's worth of doubt.
    pairs = [row for row in store.evidence.pairs(model, epochs, before_day=mature_day) if _is_of(row, opened)]
    served = [row for row in store.evidence.served(model, epochs, before_day=mature_day) if _is_of(row, opened)]
    here = stage["id"]
    return Evidence(
        pairs=pairs,
        stage_pairs=[row for row in pairs if row["epoch"] == here],
        served=served,
        stage_served=[row for row in served if row["epoch"] == here],
        faults=store.evidence.faults(model, epochs),
        latencies=store.evidence.log_latencies(model, epochs),
    )


def _is_of(row: Row, opened: typing.Mapping[int, int]) -> bool:
    return bool(row["day"] >= opened[row["epoch"]] - 1)


def _open(store: Store, rollout: Row, stage: Row, event_day: int) -> str:
    with store.db.transaction():
        store.rollouts.open_stage(stage["id"], event_day)
        if stage["kind"] == "install":
            store.models.set_incumbent(rollout["model"], stage["region"], rollout["to_version"])
        store.audit.add("stage opened", f"rollout {rollout['id']}", actor=_ACTOR, stage=stage_name(stage))
    return f"rollout {rollout['id']}: {stage_name(stage)} opened"


def _fail(project: Project, store: Store, rollout: Row, stage: Row, verdict: Verdict, event_day: int) -> str:
    """Roll every exposed device back: the channels name the incumbent alone from now on."""
    why = "; ".join(verdict.reasons)
    with store.db.transaction():
        store.rollouts.judge(stage, "FAIL", event_day=event_day, reasons=verdict.reasons, inputs=verdict.inputs)
        store.rollouts.end(rollout["id"], "rolled_back", event_day=event_day, outcome=f"{stage_name(stage)}: {why}")
        restore(project, store, rollout)
        store.audit.add("rolled back", f"{rollout['model']}@{rollout['to_version']}", actor=_ACTOR, reason=why)
    return f"rollout {rollout['id']}: rolled back in {stage_name(stage)}: {why}"


def _promote(project: Project, store: Store, rollout: Row, verdict: Verdict | None, event_day: int) -> list[str]:
    """Make the candidate the incumbent, once, for the whole fleet, when the evidence says so."""
    first = not rollout["from_version"]
    approved = str(store.get_meta(APPROVED.format(rollout["id"]), ""))
    if verdict is None or not (first or verdict.promote or approved):
        store.set_meta(WAITS.format(rollout["id"]), "\n".join(verdict.waits if verdict else ()))
        return []
    with store.db.transaction():
        for region in project.settings.regions.order:
            store.models.set_incumbent(rollout["model"], region, rollout["to_version"])
        said = "installed in every region" if first else "; ".join(verdict.inputs["decision"]["reasons"])
        said = said if first or verdict.promote else approved
        store.rollouts.end(rollout["id"], "promoted", event_day=event_day, outcome=said)
        store.audit.add("promoted", f"{rollout['model']}@{rollout['to_version']}", actor=_ACTOR, reason=said)
    return [f"rollout {rollout['id']}: {rollout['to_version']} promoted: {said}"]


def _give_up(project: Project, store: Store, rollout: Row, why: str, event_day: int) -> str:
    with store.db.transaction():
        store.rollouts.end(rollout["id"], "aborted", event_day=event_day, outcome=why)
        restore(project, store, rollout)
        store.audit.add("rollout given up", f"rollout {rollout['id']}", actor=_ACTOR, reason=why)
    return f"rollout {rollout['id']}: aborted: {why}"
