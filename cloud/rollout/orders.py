"""What people ask the controller for: pause, resume, abort, undo."""

from __future__ import annotations

import typing

from cloud.config import Project
from cloud.rollout.channels import regions_of
from cloud.rollout.penalty import strike
from cloud.rollout.plan import stage_name
from cloud.rollout.verdict import APPROVED
from cloud.store.store import Store

Row = dict[str, typing.Any]


def obey(project: Project, store: Store, event_day: int) -> list[str]:
    """Do what people asked for."""
    happened = []
    for order in store.rollouts.open_orders():
        rollout = store.rollouts.get(order["rollout"])
        with store.db.transaction():
            result = _carry_out(project, store, rollout, order, event_day)
            store.rollouts.close_order(order["id"], result)
            store.audit.add(
                f"rollout {order['action']}",
                f"rollout {rollout['id']}",
                actor=order["actor"],
                reason=order["reason"],
                result=result,
            )
        happened.append(f"rollout {rollout['id']}: {order['action']}: {result}")
    return happened


def _carry_out(project: Project, store: Store, rollout: Row, order: Row, event_day: int) -> str:
    running = rollout["state"] == "running"
    action = order["action"]
    if action in ("pause", "resume"):
        if not running:
            return f"not done: it is {rollout['state']}"
        store.rollouts.set_paused(rollout["id"], paused=action == "pause")
        return "done"
    if action == "approve":
        return _approve(store, rollout, order) if running else f"not done: it is {rollout['state']}"
    if action == "abort" or (action == "undo" and running):
        if not running:
            return f"not done: it is {rollout['state']}"
        store.rollouts.end(rollout["id"], "aborted", event_day=event_day, outcome=order["reason"] or "aborted")
        restore(project, store, rollout)
        return "done"
    return _undo(project, store, rollout, order, event_day)


def _approve(store: Store, rollout: Row, order: Row) -> str:
    """Let the next stage open that waits for somebody's word; or promote what was expedited, once all stages passed."""
    stages = store.rollouts.stages(rollout["id"])
    if rollout["plan"].get("expedited") and all(stage["passed_s"] for stage in stages):
        if not order["reason"]:
            return "not done: a promotion without a verdict on quality needs a reason"
        said = f"approved by {order['actor']} without a verdict on quality: {order['reason']}"
        store.set_meta(APPROVED.format(rollout["id"]), said)
        return "done"
    questions = store.hooks.open_questions(rollout["id"])
    if questions:
        return _go_on_without(store, questions, order)
    # Only what is waited for now: who answers second has not seen the stage after it.
    asked = next((stage for stage in stages if not stage["passed_s"]), None)
    if asked is None or asked["opened_s"] or not asked["settings"].get("approve"):
        return "not done: no stage waits for approval"
    if asked["approved_s"]:
        return f"not done: {stage_name(asked)} is approved already"
    store.rollouts.approve_stage(asked["id"])
    return "done"


def _go_on_without(store: Store, questions: list[Row], order: Row) -> str:
    """Take somebody's word in place of the hooks that were asked."""
    if not order["reason"]:
        return f"not done: to go on without the hook {questions[0]['hook']} needs a reason"
    for one in questions:
        store.hooks.agreed(one["id"], order["reason"], order["actor"])
    return "done"


def _undo(project: Project, store: Store, rollout: Row, order: Row, event_day: int) -> str:
    """Go back to the version before: one channel for each region, nothing to download."""
    if rollout["state"] != "promoted":
        return f"not done: it is {rollout['state']}"
    if not rollout["from_version"]:
        return "not done: there was no version before"
    if store.rollouts.running(rollout["model"]):
        return "not done: another rollout of the model is running"
    window = rollout["plan"]["undo_window_days"]
    if event_day - rollout["ended_day"] > window:
        return f"not done: the undo window of {window} days has passed"
    if set(store.models.incumbents(rollout["model"]).values()) != {rollout["to_version"]}:
        return "not done: a later version is the incumbent"
    store.rollouts.end(rollout["id"], "undone", event_day=event_day, outcome=order["reason"] or "undone")
    restore(project, store, rollout)
    strike(store, rollout["model"], [rollout["to_version"]])
    return "done"


def restore(project: Project, store: Store, rollout: Row) -> None:
    """Make the version before a rollout the incumbent everywhere."""
    for region in regions_of(project, store):
        if rollout["from_version"]:
            store.models.set_incumbent(rollout["model"], region, rollout["from_version"])
        else:
            store.models.unset_incumbent(rollout["model"], region)
    # What goes back does so on devices that are set aside too.
    store.aside.keep(rollout["model"], rollout["from_version"], [one["version"] for one in rollout["candidates"]])
