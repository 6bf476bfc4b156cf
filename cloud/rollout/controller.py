"""The controller: one tick reads the evidence, decides, records, and publishes. One story, read top to bottom."""

from __future__ import annotations

import contextlib
import fcntl
import logging
import time
import typing

import msgspec

from cloud.config import Project, RolloutSettings
from cloud.rollout import alarm, choice, deadline, penalty
from cloud.rollout.channels import Publish, publish_changes, regions_of
from cloud.rollout.clock import days_stood, event_time, since
from cloud.rollout.confirm import held_by_hooks, may_open, waited_for
from cloud.rollout.growing import grow, open_at
from cloud.rollout.look import Moment, look_at
from cloud.rollout.newcomers import welcome
from cloud.rollout.orders import obey, restore
from cloud.rollout.plan import for_stage, stage_name
from cloud.rollout.taking import take
from cloud.rollout.verdict import APPROVED, WAITS, Verdict
from cloud.rollout.windows import FLEET, closed
from cloud.store.store import Store
from shared.clock import day_of, format_day

log = logging.getLogger("covey.controller")
Row = dict[str, typing.Any]
Verdicts = dict[int, Verdict]
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
    where it was. A second controller waits, and then sees what the first has done. A rollout that can not be judged
    keeps no other from going back: what went wrong is raised once all were looked at and channels are published.
    """
    wrong: list[Exception] = []
    with _alone(project), store.db.one_look():
        now = time.time() if now_s is None else now_s
        revision = store.evidence.revision()
        event_s = event_time(project, store, now)
        stood = days_stood(store, day_of(event_s), now)
        happened = alarm.watch(project, store, day_of(event_s))
        happened += obey(project, store, day_of(event_s))
        happened += penalty.let_out(store, day_of(event_s)) + welcome(project, store)
        for rollout in store.rollouts.all_running():
            try:
                happened += _advance(project, store, rollout, Moment(event_s, now, since(store, rollout, stood)))
            except Exception as err:  # noqa: BLE001 - raised below
                wrong.append(err)
        published = publish_changes(project, store, publish)
    if wrong:
        raise wrong[0]
    return Tick(revision, event_s, published, happened)


@contextlib.contextmanager
def _alone(project: Project) -> typing.Iterator[None]:
    """Hold the controller's lock; it ends with the process, however that ends."""
    with (project.var / "controller.lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


# ---- stages


def _advance(project: Project, store: Store, rollout: Row, at: Moment) -> list[str]:
    """Judge what is open, the newest stage first: there fails what fails by the evidence of all; go on, or promote."""
    settings = msgspec.convert(rollout["plan"], RolloutSettings)
    stages = store.rollouts.stages(rollout["id"])
    event_day = day_of(at.event_s)
    if rollout["model"] not in project.settings.models:
        # Nobody can say any more what it is judged by: it waits for its model, but must not answer unjudged.
        if any(stage["opened_s"] and stage["kind"] == "canary" for stage in stages):
            return [_give_up(project, store, rollout, "its model is no longer in covey.toml", event_day)]
        log.error("a rollout stands still: its model is not in covey.toml", extra={"rollout": rollout["id"]})
        return []
    if not rollout["created_day"]:
        # It was started before any device had said what day it is out there.
        store.rollouts.set_created_day(rollout["id"], event_day)
        rollout["created_day"] = event_day
    happened: list[str] = []
    verdicts: Verdicts = {}
    for stage in [stage for stage in reversed(stages) if stage["opened_s"]]:
        own = for_stage(settings, stage)
        seen = look_at(project, store, rollout, own, stage, stages, at)
        if choice.failing(seen):
            happened += _fail(project, store, rollout, stage, seen, event_day)
            rollout = store.rollouts.get(rollout["id"])
            if rollout["state"] != "running":
                return happened
            seen = {arm: verdict for arm, verdict in seen.items() if verdict.word != "FAIL"}
        happened += penalty.note(store, rollout, own, seen, event_day)
        # A stage that has passed stays passed: late joiners and lost devices do not close it again.
        if not stage["passed_s"]:
            happened += _settle(store, rollout, stage, seen, event_day)
        verdicts = {arm: verdict for arm, verdict in (verdicts or seen).items() if arm in seen}
    expires = settings.expedite.expires_days
    if settings.expedited and at.days_of(rollout) > expires:
        why = f"expedited, and neither promoted nor approved within {expires} days"
        return [*happened, _give_up(project, store, rollout, why, event_day)]
    if rollout["paused"]:
        return happened
    return happened + _go_on(project, store, rollout, settings, verdicts, at)


def _settle(store: Store, rollout: Row, stage: Row, verdicts: Verdicts, event_day: int) -> list[str]:
    """Keep the verdict on each candidate, and what they make of the stage."""
    said = choice.settle(verdicts, choice.names_of(rollout))
    with store.db.transaction():
        _keep(store, stage, verdicts, event_day)
        store.rollouts.settle(stage, said.word, said.why, event_day=event_day)
    return [f"rollout {rollout['id']}: {stage_name(stage)} passed: {said.why}"] if said.word == "PASS" else []


def _keep(store: Store, stage: Row, verdicts: Verdicts, event_day: int) -> None:
    for arm, one in verdicts.items():
        store.rollouts.keep(stage, arm, one.word, event_day=event_day, reasons=one.reasons, inputs=one.inputs)


def _go_on(
    project: Project, store: Store, rollout: Row, settings: RolloutSettings, verdicts: Verdicts, at: Moment
) -> list[str]:
    """Open the next stage, or promote, if it is time; stop at a deadline."""
    happened: list[str] = []
    event_day, regions = day_of(at.event_s), project.settings.regions.order
    stages = store.rollouts.stages(rollout["id"])
    for stage in [stage for stage in stages if stage["opened_s"]][-1:]:
        if not closed(settings, regions, stage["region"], at.now_s):
            grow(store, rollout, stage, settings, verdicts, at.now_s)
    late = deadline.late_step(rollout, _not_asked_yet(store, stages), settings, regions, at)
    if late:
        return _at_deadline(project, store, rollout, late, verdicts, event_day)
    too_long = deadline.is_over(rollout, stages, settings, regions, at)
    left = _leave_behind(store, rollout, stages, verdicts, event_day, at_once=too_long)
    if left:
        return left
    waiting = [stage for stage in stages if not stage["opened_s"]]
    if all(stage["passed_s"] for stage in stages if stage["opened_s"]) and waiting:
        if may_open(project, store, rollout, settings, waiting[0], at.now_s):
            happened.append(_open(store, rollout, settings, waiting[0], event_day))
    elif not waiting and all(stage["passed_s"] for stage in stages) and not closed(settings, regions, FLEET, at.now_s):
        happened += _promote(project, store, rollout, stages[-1], verdicts, event_day, is_last_day=too_long)
    if too_long and store.rollouts.get(rollout["id"])["state"] == "running":
        waits = str(store.get_meta(WAITS.format(rollout["id"]), ""))
        why = deadline.out_of_time(stages, waits, settings.max_days, waited_for(project, store, rollout))
        happened.append(_give_up(project, store, rollout, why, event_day))
    return happened


def _not_asked_yet(store: Store, stages: typing.Sequence[Row]) -> list[Row]:
    """A step whose deadline has passed, and that somebody lets go on, is asked no second time."""
    return [stage for stage in stages if not store.get_meta(_DEADLINE.format(stage["id"]))]


def _leave_behind(
    store: Store, rollout: Row, stages: typing.Sequence[Row], verdicts: Verdicts, event_day: int, *, at_once: bool
) -> list[str]:
    """Go on without candidates that hold a stage up, once another could have gone on for long enough."""
    held, passing = choice.held(verdicts), [arm for arm, one in verdicts.items() if one.word == "PASS"]
    for stage in [stage for stage in stages if held and stage["opened_s"] and not stage["passed_s"]]:
        since = store.rollouts.passing_since(stage["id"], passing)
        if since is not None and (at_once or deadline.are_left_behind(stage, since, event_day)):
            first = f"{stage_name(stage)} has been passed by another since {format_day(since)}"
            return _drop_all(store, rollout, held, verdicts, first, event_day)
    return []


def _drop_all(
    store: Store, rollout: Row, arms: typing.Sequence[int], verdicts: Verdicts, first: str, event_day: int
) -> list[str]:
    with store.db.transaction():
        return [_drop(store, rollout, arm, f"{first}: {'; '.join(verdicts[arm].reasons)}", event_day) for arm in arms]


def _at_deadline(
    project: Project, store: Store, rollout: Row, stage: Row, verdicts: Verdicts, event_day: int
) -> list[str]:
    """A step waits for too long: go on without those who hold it up, or do what the plan says if that is all."""
    over = f"{stage_name(stage)} has not passed after {stage['settings']['hold_days']} days"
    held = choice.held(verdicts)
    if held:
        return _drop_all(store, rollout, held, verdicts, over, event_day)
    why = f"{over}: {stage['why']}"
    if stage["settings"]["at_deadline"] == "abort":
        return [_give_up(project, store, rollout, why, event_day)]
    with store.db.transaction():
        store.set_meta(_DEADLINE.format(stage["id"]), event_day)
        store.rollouts.set_paused(rollout["id"], paused=True)
        store.audit.add("rollout pause", f"rollout {rollout['id']}", actor=_ACTOR, reason=why)
    return [f"rollout {rollout['id']}: paused: {why}"]


def _open(store: Store, rollout: Row, settings: RolloutSettings, stage: Row, event_day: int) -> str:
    with store.db.transaction():
        stage, taken = take(store, rollout, stage)
        reached_bp = open_at(store, rollout, stage, settings)
        store.rollouts.open_stage(stage["id"], event_day, reached_bp=reached_bp)
        if stage["kind"] == "install":
            store.models.set_incumbent(rollout["model"], stage["region"], rollout["to_version"])
        store.audit.add("stage opened", f"rollout {rollout['id']}", actor=_ACTOR, reason=taken, stage=stage_name(stage))
    return f"rollout {rollout['id']}: {stage_name(stage)} opened{taken and f': {taken}'}"


def _fail(project: Project, store: Store, rollout: Row, stage: Row, verdicts: Verdicts, event_day: int) -> list[str]:
    """Drop what is proven bad; if nothing is left, roll back: from now on channels name the incumbent alone."""
    names, bad = choice.names_of(rollout), choice.failing(verdicts)
    with store.db.transaction():
        happened = penalty.strike(store, rollout["model"], [names[arm] for arm in bad])
        for arm in bad:
            one = verdicts[arm]
            store.rollouts.keep(stage, arm, "FAIL", event_day=event_day, reasons=one.reasons, inputs=one.inputs)
            if len(names) > 1:
                why = f"{stage_name(stage)}: {'; '.join(one.reasons)}"
                happened.append(_drop(store, rollout, arm, why, event_day))
        if len(bad) < len(verdicts):
            return happened
        why = "; ".join(said for arm in bad for said in choice.spoken(verdicts[arm].reasons, names, arm))
        store.rollouts.settle(stage, "FAIL", why, event_day=event_day)
        store.rollouts.end(rollout["id"], "rolled_back", event_day=event_day, outcome=f"{stage_name(stage)}: {why}")
        restore(project, store, rollout)
        store.audit.add("rolled back", f"{rollout['model']}@{', '.join(names.values())}", actor=_ACTOR, reason=why)
    return [*happened, f"rollout {rollout['id']}: rolled back in {stage_name(stage)}: {why}"]


def _drop(store: Store, rollout: Row, arm: int, why: str, event_day: int, *, action: str = "candidate dropped") -> str:
    """Go on without a candidate, in the transaction that is open; devices of its arm go to the incumbent."""
    version = choice.names_of(rollout)[arm]
    store.rollouts.drop(rollout["id"], arm, event_day=event_day, why=why)
    store.audit.add(action, f"{rollout['model']}@{version}", actor=_ACTOR, reason=why)
    return f"rollout {rollout['id']}: {version} dropped: {why}"


def _promote(
    project: Project, store: Store, rollout: Row, stage: Row, verdicts: Verdicts, event_day: int, *, is_last_day: bool
) -> list[str]:
    """Make a candidate the incumbent, once, for the whole fleet, when the evidence says so; that evidence is kept."""
    names, first = choice.names_of(rollout), not rollout["from_version"]
    approved = str(store.get_meta(APPROVED.format(rollout["id"]), ""))
    arm = choice.best(verdicts, is_last_day=is_last_day)
    said = choice.proof_of(verdicts[arm], names[arm], rollout["from_version"]) if arm else approved
    if first or (approved and not arm):
        arm, said = next(iter(verdicts)), "installed in every region" if first else approved
    if arm is None or (not approved and held_by_hooks(project, store, rollout, None)):
        waits = [said for own, one in verdicts.items() for said in choice.spoken(one.waits, names, own) if not arm]
        with store.db.transaction():
            _keep(store, stage, verdicts, event_day)
            store.set_meta(WAITS.format(rollout["id"]), "\n".join(waits))
        return []
    happened = []
    with store.db.transaction():
        _keep(store, stage, verdicts, event_day)
        for other in [other for other in verdicts if other != arm]:
            why = choice.beaten_by(verdicts, names, arm, other)
            happened.append(_drop(store, rollout, other, why, event_day, action="candidate not chosen"))
        for region in regions_of(project, store):
            store.models.set_incumbent(rollout["model"], region, names[arm])
        if rollout["plan"].get("expedited"):  # what can not wait reaches those that are set aside too
            store.aside.keep(rollout["model"], names[arm])
        store.rollouts.set_version(rollout["id"], names[arm])
        store.rollouts.end(rollout["id"], "promoted", event_day=event_day, outcome=said)
        store.audit.add("promoted", f"{rollout['model']}@{names[arm]}", actor=_ACTOR, reason=said)
    return [*happened, f"rollout {rollout['id']}: {names[arm]} promoted: {said}"]


def _give_up(project: Project, store: Store, rollout: Row, why: str, event_day: int) -> str:
    with store.db.transaction():
        store.rollouts.end(rollout["id"], "aborted", event_day=event_day, outcome=why)
        restore(project, store, rollout)
        store.audit.add("rollout given up", f"rollout {rollout['id']}", actor=_ACTOR, reason=why)
    return f"rollout {rollout['id']}: aborted: {why}"
