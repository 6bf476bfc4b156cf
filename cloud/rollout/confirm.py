"""Who has a say before a stage opens or a version is promoted: people, windows, and hooks, which all must agree."""

from __future__ import annotations

import typing

from cloud.config import Project, RolloutSettings
from cloud.rollout.windows import closed
from cloud.store.hooks import PROMOTION
from cloud.store.store import Store

Row = dict[str, typing.Any]


def may_open(project: Project, store: Store, rollout: Row, settings: RolloutSettings, stage: Row, now_s: float) -> bool:
    """Return whether the next stage may open now: whoever has a say agrees, and no window or freeze is in the way."""
    approved = stage["approved_s"] or not stage["settings"].get("approve")
    if not approved or closed(settings, project.settings.regions.order, stage["region"], now_s):
        return False
    return not held_by_hooks(project, store, rollout, stage)


def held_by_hooks(project: Project, store: Store, rollout: Row, stage: Row | None) -> list[str]:
    """Ask whoever wants to be asked; return what is waited for, nothing if all agree.

    Parameters
    ----------
    stage : mapping, optional
        The stage that would open; without one, it is promotion.
    """
    before = "promotion" if stage is None else "stage"
    number = PROMOTION if stage is None else stage["id"]
    wanted = [one.name for one in project.settings.hook if before in one.before]
    asked = [store.hooks.ask(rollout["id"], number, name) for name in wanted]
    return [said_of(one) for one in asked if one["state"] == "open"]


def waited_for(project: Project, store: Store, rollout: Row) -> list[str]:
    """Return what hooks hold a rollout up, for people; one that is gone from the settings holds up nothing."""
    if rollout["state"] != "running" or rollout["paused"]:
        return []
    known = {one.name for one in project.settings.hook}
    return [said_of(one) for one in store.hooks.open_questions(rollout["id"]) if one["hook"] in known]


def said_of(question: Row) -> str:
    """Say what a question waits for.

    >>> said_of({"hook": "board", "words": ""}), said_of({"hook": "board", "words": "not before Monday"})
    ('the hook board', 'the hook board, which says: not before Monday')
    """
    said = f"the hook {question['hook']}"
    return f"{said}, which says: {question['words']}" if question["words"] else said
