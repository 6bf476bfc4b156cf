"""Tell programs and addresses what happened, from the audit log; ask them before a rollout goes on.

At least once, in order, each hook in a thread of its own: nothing that a hook does, or does not, holds up the worker.
What was told is noted behind the audit entry that it was told of, so that no crash loses one.
"""

from __future__ import annotations

import logging
import threading
import time
import typing

from cloud.config import Project
from cloud.config.hooks import HookSettings
from cloud.hooks.ways import send
from cloud.store.hooks import PROMOTION
from cloud.store.store import Store
from shared.clock import format_time

log = logging.getLogger("covey.hooks")
ACTOR = "hook {}"
_LOOK_S = 1.0
_LONGEST_PAUSE_S = 3600.0
_GIVE_UP_S = 7 * 86_400.0
Record = dict[str, typing.Any]


class Messenger:
    """All hooks of a project, at work until told to stop.

    Parameters
    ----------
    project : Project
        Its ``[[hook]]`` tables.
    """

    def __init__(self, project: Project) -> None:
        self._stop = threading.Event()
        self._threads = [
            threading.Thread(target=self._run, args=(project, one), name=f"hook-{one.name}", daemon=True)
            for one in project.settings.hook
        ]
        for thread in self._threads:
            thread.start()

    def _run(self, project: Project, settings: HookSettings) -> None:
        store = Store(project)
        try:
            while not self._stop.is_set():
                try:
                    busy = serve(project, store, settings, self._stop)
                except Exception:
                    log.exception("a hook is tried again", extra={"hook": settings.name})
                    busy = False
                if not busy:
                    self._stop.wait(_LOOK_S)
        finally:
            store.close()

    def stop(self) -> None:
        """Let the hooks end; what one was in the middle of is told again the next time."""
        self._stop.set()
        for thread in self._threads:
            thread.join()


def serve(project: Project, store: Store, settings: HookSettings, stop: threading.Event | None = None) -> bool:
    """Tell a hook the next thing, and ask it the next question, if it is time; return whether there was any."""
    now = time.time()
    known = store.hooks.meet(settings.name)
    event = store.hooks.next_event(settings.name, settings.on) if settings.on else None
    told = event is not None and known["next_s"] <= now
    if event is not None and told:
        _tell(project, store, settings, event, known["tries"], stop)
    due = [one for one in store.hooks.open_questions(name=settings.name) if one["next_s"] <= now]
    for question in due[:1]:
        _ask(project, store, settings, question, stop)
    return bool(told or due)


def _tell(
    project: Project, store: Store, settings: HookSettings, event: Record, tries: int, stop: threading.Event | None
) -> None:
    answer = send(project, settings, event_record(project, event), stop)
    if stop is not None and stop.is_set() and not answer.agrees:
        return
    if answer.agrees:
        store.hooks.told(settings.name, event["id"])
        return
    log.warning("a hook was not told", extra={"hook": settings.name, "event": event["id"], "why": answer.words})
    with store.db.transaction():
        if time.time() - event["at_s"] > _GIVE_UP_S:
            store.hooks.told(settings.name, event["id"], given_up=True)
            what = f"{event['action']}: {event['subject']}"
            store.audit.add("hook given up", settings.name, actor="worker", reason=answer.words, event=what)
        store.hooks.failed(settings.name, answer.words, time.time() + pause_s(settings.retry_s, tries))


def _ask(
    project: Project, store: Store, settings: HookSettings, question: Record, stop: threading.Event | None
) -> None:
    record = question_record(project, store, question)
    answer = send(project, settings, record, stop)
    if stop is not None and stop.is_set() and not answer.agrees:
        return
    with store.db.transaction():
        if not answer.agrees:
            next_s = time.time() + pause_s(settings.retry_s, question["tries"])
            store.hooks.refused(question["id"], answer.words, next_s)
        elif store.hooks.agreed(question["id"], answer.words, ACTOR.format(settings.name)):
            subject = f"rollout {question['rollout']}"
            store.audit.add(
                "hook agreed", subject, actor=ACTOR.format(settings.name), reason=answer.words, to=record["before"]
            )


def pause_s(retry_s: float, tries: int) -> float:
    """How long to wait after so many failures before this one.

    >>> pause_s(60, 0), pause_s(60, 2), pause_s(60, 90), pause_s(7200, 3)
    (60.0, 240.0, 3600.0, 7200.0)
    """
    return float(max(retry_s, min(retry_s * 2.0 ** min(tries, 40), _LONGEST_PAUSE_S)))


# ---- records


def event_record(project: Project, event: Record) -> Record:
    """Write what a hook is told of an entry of the audit log."""
    return {
        "schema": "covey.event/1",
        "project": project.settings.project.name,
        "id": event["id"],
        "at": format_time(event["at_s"]),
        **{key: event[key] for key in ("action", "subject", "actor", "reason", "detail")},
    }


def question_record(project: Project, store: Store, question: Record) -> Record:
    """Write what a hook is asked: a rollout, and the stage that would open, or that it would be promoted."""
    rollout = store.rollouts.get(question["rollout"])
    stage = next((one for one in store.rollouts.stages(rollout["id"]) if one["id"] == question["stage"]), None)
    running = [one["version"] for one in rollout["candidates"] if one["state"] == "running"]
    return {
        "schema": "covey.question/1",
        "project": project.settings.project.name,
        "id": question["id"],
        "at": format_time(time.time()),
        "before": "promotion" if question["stage"] == PROMOTION else "stage",
        "rollout": rollout["id"],
        "model": rollout["model"],
        "from": rollout["from_version"],
        "candidates": running,
        "why": rollout["why"],
        "stage": None if stage is None else {key: stage[key] for key in ("kind", "region", "settings")},
        "asked_before": question["tries"],
    }
