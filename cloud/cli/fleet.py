"""``covey status``, ``covey trigger`` and ``covey audit``: how the fleet is, and why."""

from __future__ import annotations

import time

import click

from cloud import trigger as triggers
from cloud.cli.base import Group, Here, json_option, model_option, pass_here, show, table
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
        f"  {region['region']}: {region['online']} of {region['devices']} online  {_versions(region['versions'])}"
        for region in fleet["regions"]
    ]
    lines += [
        f"rollout {row['id']}: {row['model']} {row['from'] or 'none'} -> {row['to']}, {row['stage'] or 'waits'}"
        for row in fleet["rollouts"]
    ]
    lines += [f"  {one['device']} ({one['region']}) is set aside until {one['until_day']}" for one in fleet["aside"]]
    ago = time.time() - fleet["worker"]["ticked_s"]
    if not fleet["worker"]["ticked_s"] or ago > 10 * here.project.settings.serve.tick_interval_s:
        lines.append("no worker is at work: start one with covey serve, or covey worker")
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
    lines = [
        f"{format_time(row['at_s'])}  {row['actor']:10}  {row['action']:16}  {row['subject']}  {row['reason']}".rstrip()
        for row in rows
    ]
    show(rows, lines, as_json=as_json)
