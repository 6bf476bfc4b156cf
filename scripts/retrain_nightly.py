#!/usr/bin/env python3
"""Train a model again if there is something new to learn, and roll it out: a job for cron.

Exit status: 0 trained (or nothing new), 3 a gate refused the model, another number for other errors.
"""

from __future__ import annotations

import argparse
import pathlib
import sys

from cloud.config import find_project, load_project
from cloud.data.parts import snapshot
from cloud.pipeline import Order, train
from cloud.rollout import plan
from cloud.store.audit import this_user
from cloud.store.store import Store
from shared.clock import DAY_S, day_of, format_time
from shared.errors import CoveyError


def main() -> int:
    """Run."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--project", type=pathlib.Path, help="the project's folder (default: the nearest one upwards)")
    parser.add_argument("--model", help="which model, if there are several")
    parser.add_argument("--stateless", action="store_true", help="from scratch, instead of on from the incumbent")
    parser.add_argument("--min-new-rows", type=int, default=500, help="do nothing with fewer new rows (default 500)")
    parser.add_argument("--no-rollout", action="store_true", help="train only")
    parser.add_argument("--dry-run", action="store_true", help="say what would be done")
    arguments = parser.parse_args()
    project = load_project((arguments.project or find_project(pathlib.Path.cwd())).resolve())
    store = Store(project)
    name, model = project.model(arguments.model)
    incumbent = store.models.resolve(name, "@incumbent")
    seen_s = float(incumbent["detail"]["trained_to_s"])
    # The hold-out's days are not learned from: rows inside it are not new yet.
    rows = snapshot(project, store, store.datasets.latest(model.data or name)["version"]).event_s
    until_s = float(rows[-1]) - model.holdout_days * DAY_S
    n_new = int(((rows > seen_s) & (rows <= until_s)).sum())
    what = "train from scratch" if arguments.stateless else f"continue {incumbent['version']}"
    print(f"{name}: {n_new:,} new rows between {format_time(seen_s)} and {format_time(until_s)}")
    if n_new < arguments.min_new_rows or store.rollouts.running(name):
        print("nothing to do: too few new rows, or a rollout is under way")
        return 0
    if arguments.dry_run:
        print(f"would {what}" + ("" if arguments.no_rollout else ", and roll it out"))
        return 0
    parent = "" if arguments.stateless else incumbent["version"]
    trained = train(project, store, Order(model=name, parent=parent, why="nightly", actor=this_user()), print)
    if not arguments.no_rollout:
        number = plan.start(
            store,
            project.settings.rollout,
            project.settings.regions.order,
            model=name,
            version=trained.version,
            task=model.task,
            why="nightly",
            actor=this_user(),
            event_day=day_of(float(store.get_meta("event_s"))),
        )
        print(f"rollout {number} of {name}@{trained.version} begins with the worker's next tick")
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except CoveyError as err:
        print(f"retrain_nightly: {err}", file=sys.stderr)
        sys.exit(err.exit_status)
