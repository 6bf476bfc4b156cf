"""``covey status``, ``covey trigger`` and ``covey audit``: how the fleet is, and why."""

from __future__ import annotations

import json
import time

import click

from cloud import trigger as triggers
from cloud.cli.base import Group, Here, Row, json_option, model_option, pass_here, show, table, worker_is_behind
from cloud.rollout import overview
from shared.clock import format_time


@click.command()
@json_option
@pass_here
def status(here: Here, as_json: bool) -> None:
    """Show the fleet: devices, versions, rollouts."""
    fleet = overview.fleet(here.project, here.store)
    lines = [f"{fleet['project']}: {fleet['devices']['online']} of {fleet['devices']['total']} devices online"]
    lines += [
        f"  {one['region']}: {one['online']} of {one['devices']} online  {_versions(one['versions'])}".rstrip()
        for one in fleet["regions"]
    ]
    lines += [
        f"rollout {row['id']}: {row['model']} {row['from'] or 'none'} -> {row['to']}, {row['stage'] or 'waits'}"
        for row in fleet["rollouts"]
    ]
    lines += [f"  {one['device']} ({one['region']}) is set aside until {one['until_day']}" for one in fleet["aside"]]
    ago = time.time() - fleet["worker"]["ticked_s"]
    if not fleet["worker"]["ticked_s"] or ago > 10 * here.project.settings.serve.tick_interval_s:
        lines.append("no worker is at work: start one with covey serve, or covey worker")
    elif worker_is_behind(here):
        lines.append("covey.toml was changed after the worker read it: start covey serve, or covey worker, again")
    show(fleet, lines, as_json=as_json)


def _versions(by_model: dict[str, dict[str, int]]) -> str:
    return "; ".join(
        f"{model} " + ", ".join(f"{version} on {n}" for version, n in counts.items())
        for model, counts in by_model.items()
    )


@click.group(cls=Group)
def trigger() -> None:
    """See what makes a model train again by itself."""


@trigger.command("list")
@model_option
@json_option
@pass_here
def list_(here: Here, model: str | None, as_json: bool) -> None:
    """List triggers with their value now, and when they last fired."""
    event_s = float(here.store.get_meta("event_s"))
    rows = []
    for name, settings in here.project.settings.models.items():
        if model and name != here.project.model(model)[0]:
            continue
        for reading in triggers.read_all(here.store, name, settings, event_s):
            last = here.store.jobs.last_fired(name, reading.trigger)
            rows.append({"model": name} | reading._asdict() | {"last_fired": format_time(last["at_s"]) if last else ""})
    columns = {"model": "model", "trigger": "trigger", "fires": "fires", "why": "value", "last_fired": "last fired"}
    show(
        rows,
        table(rows, columns) if rows else ["no trigger: add [[models.NAME.trigger]] to covey.toml"],
        as_json=as_json,
    )


@click.command()
@click.option("--limit", type=click.IntRange(1, 100_000), default=50, show_default=True, help="How many entries.")
@json_option
@pass_here
def audit(here: Here, limit: int, as_json: bool) -> None:
    """Show who did what, and why, newest first."""
    rows = here.store.audit.all(limit)
    show(rows, [_audit_line(row) for row in rows], as_json=as_json)


def _audit_line(row: Row) -> str:
    """Write one entry; which stage it is about, and what came of it where it was not done, are in its details."""
    detail = json.loads(row["detail"])
    about = f"{row['subject']}: {detail['stage']}" if isinstance(detail.get("stage"), str) else row["subject"]
    result = detail.get("result", "done")
    why = row["reason"] if result == "done" else f"{row['reason']} ({result})".lstrip()
    return f"{format_time(row['at_s'])}  {row['actor']:10}  {row['action']:16}  {about}  {why}".rstrip()
