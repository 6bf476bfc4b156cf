"""A training job, done in a process of its own: train, and start the rollout that the trigger asked for."""

from __future__ import annotations

import os
import typing

from cloud.config import Project
from cloud.pipeline import Order, train
from cloud.rollout import plan
from cloud.store.store import Store
from shared.clock import day_of
from shared.errors import ConflictError

_ACTOR = "worker"


def do_job(project: Project, store: Store, job: int, say: typing.Callable[[str], None]) -> str:
    """Do a queued job in this process; return what came of it.

    Raises
    ------
    ConflictError
        Another process does it already.
    """
    row = store.jobs.get(job)
    if not store.jobs.begin(job, os.getpid()):
        raise ConflictError(f"job {job} is {row['state']}", fix="Nothing needs to be done.")
    try:
        result = _train(project, store, row, say)
    except BaseException as err:
        store.jobs.end(job, ok=False, result=str(err) or repr(err))
        raise
    store.jobs.end(job, ok=True, result=result)
    return result


def _train(project: Project, store: Store, row: dict[str, typing.Any], say: typing.Callable[[str], None]) -> str:
    name = row["model"]
    parent = store.models.resolve(name, "@incumbent")["version"] if row["kind"] == "finetune" else ""
    trained = train(project, store, Order(model=name, parent=parent, why=row["why"], actor=_ACTOR), say)
    if row["arguments"].get("rollout"):
        number = plan.start(
            store,
            project.settings.rollout,
            project.settings.regions.order,
            model=name,
            version=trained.version,
            task=project.model(name)[1].task,
            why=row["why"],
            actor=_ACTOR,
            event_day=day_of(float(store.get_meta("event_s"))),
        )
        return f"{name}@{trained.version}, rollout {number}"
    return f"{name}@{trained.version}"
