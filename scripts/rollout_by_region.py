#!/usr/bin/env python3
"""Roll a version out in an order of regions of your own, watch it, and say how it ended.

Exit status: 0 promoted, 3 rolled back or aborted, 124 not ended in time.
"""

from __future__ import annotations

import argparse
import pathlib
import sys
import time

from cloud.config import find_project, load_project
from cloud.rollout import plan
from cloud.store.audit import this_user
from cloud.store.rollouts import ENDED
from cloud.store.store import Store
from shared.clock import day_of
from shared.errors import CoveyError, TimeoutExpiredError, UsageError


def main() -> int:
    """Run."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("version", nargs="?", default="@latest", help="v1.1, or @latest")
    parser.add_argument("--project", type=pathlib.Path, help="the project's folder (default: the nearest one upwards)")
    parser.add_argument("--model", help="which model, if there are several")
    parser.add_argument("--regions", help="all regions, in your order, with commas (default: as in covey.toml)")
    parser.add_argument("--reason", default="asked for", help="why; kept in the audit log")
    parser.add_argument("--timeout-hours", type=float, default=24 * 30.0, help="how long to watch (default 30 days)")
    parser.add_argument("--dry-run", action="store_true", help="show the stages and do nothing")
    arguments = parser.parse_args()
    project = load_project((arguments.project or find_project(pathlib.Path.cwd())).resolve())
    store = Store(project)
    name, model = project.model(arguments.model)
    version = store.models.resolve(name, arguments.version)["version"]
    known = project.settings.regions.order
    order = [region.strip() for region in arguments.regions.split(",")] if arguments.regions else list(known)
    if sorted(order) != sorted(known):
        raise UsageError(f"{order} are not all the regions, once each", field="--regions", fix=f"Order {list(known)}.")
    if arguments.dry_run:
        first = not store.models.incumbents(name)
        for stage in plan.stages_of(order, is_first=first, settings=project.settings.rollout, task=model.task):
            print(f"{stage.kind:8} {'all regions' if stage.region == plan.FLEET else stage.region}")
        return 0
    number = plan.start(
        store,
        project.settings.rollout,
        order,
        model=name,
        version=version,
        task=model.task,
        why=arguments.reason,
        actor=this_user(),
        event_day=day_of(float(store.get_meta("event_s"))),
    )
    return watch(store, number, time.monotonic() + 3600 * arguments.timeout_hours)


def watch(store: Store, number: int, deadline: float) -> int:
    """Print each change of a rollout until it ends."""
    said: set[str] = set()
    while True:
        row = store.rollouts.get(number)
        lines = [
            f"{plan.stage_name(stage)}: {stage['verdict']} {stage['why']}"
            for stage in store.rollouts.stages(number)
            if stage["verdict"] in ("PASS", "FAIL")
        ]
        for line in lines:
            if line not in said:
                said.add(line)
                print(line, flush=True)
        if row["state"] in ENDED:
            print(f"{row['state'].replace('_', ' ')}: {row['outcome']}")
            return 0 if row["state"] == "promoted" else 3
        if time.monotonic() > deadline:
            raise TimeoutExpiredError(f"rollout {number} is still running", fix=f"covey rollout show {number}")
        time.sleep(1)


if __name__ == "__main__":
    try:
        sys.exit(main())
    except CoveyError as err:
        print(f"rollout_by_region: {err}", file=sys.stderr)
        sys.exit(err.exit_status)
