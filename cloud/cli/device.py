"""``covey device``: join tokens, and who is in the fleet."""

from __future__ import annotations

import pathlib
import time

import click

from cloud import enrol
from cloud.carried import import_batches
from cloud.cli.base import Amount, Group, Here, Number, confirm, json_option, pass_here, reason_option, show, table
from cloud.rollout import overview
from cloud.store.audit import this_user
from shared.clock import format_time

_HOUR_S = 3600.0


@click.group(cls=Group)
def device() -> None:
    """Join tokens, and who is in the fleet."""


@device.command("token")
@click.option("--region", metavar="NAME", help="Region the devices join (default: the first).")
@click.option("--uses", type=Number(), default=1, show_default=True, help="How many devices may use it.")
@click.option("--hours", type=Amount(), default=24.0, show_default=True, help="How long it is good for.")
@json_option
@pass_here
def token(here: Here, region: str | None, uses: int, hours: float, as_json: bool) -> None:
    """Make a join token and print it."""
    where = region or here.project.settings.regions.order[0]
    made = enrol.new_join_token(
        here.project, here.store, region=where, uses=uses, lifetime_s=hours * _HOUR_S, actor=this_user()
    )
    show({"token": str(made), "region": where, "uses": uses, "hours": hours}, [str(made)], as_json=as_json)


@device.command("list")
@click.option("--region", default="", metavar="NAME", help="Only this region.")
@json_option
@pass_here
def list_(here: Here, region: str, as_json: bool) -> None:
    """List devices."""
    rows = overview.devices(here.project, here.store, region)
    lines = [
        row
        | {
            "online": "online" if row["online"] else "offline",
            "versions": ", ".join(f"{m} {v}" for m, v in row["versions"].items()),
            "candidates": ", ".join(row["candidates"].values()),
            "seen": format_time(row["seen_s"]) if row["seen_s"] else "never",
        }
        for row in rows
    ]
    columns = {"device": "device", "region": "region", "online": "", "state": "state", "versions": "runs",
               "candidates": "candidate", "seen": "last seen"}  # fmt: skip
    show(rows, table(lines, columns) if rows else ["no device yet: covey device token"], as_json=as_json)


@device.command("show")
@click.argument("name")
@json_option
@pass_here
def show_(here: Here, name: str, as_json: bool) -> None:
    """Show one device."""
    row = here.store.fleet.get(name)
    report = row["report"]
    lines = [f"{row['device']} ({row['region']}): {row['status']}"]
    seen = f"{time.time() - row['seen_s']:.0f} s ago" if row["seen_s"] else "never"
    lines.append(
        f"  last seen {seen}, channel {row['channel_sequence']}, generation {row['generation'][:12] or 'none'}"
    )
    for entry in report.get("models", ()):
        lines.append(
            f"  {entry['model']}: {entry['incumbent']}"
            + (f", candidate {entry['candidate']}" if entry["candidate"] else "")
        )
        lines += [f"    refused {version}: {why}" for version, why in entry["refused"].items()]
    show(row, lines, as_json=as_json)


@device.command("import-telemetry")
@click.argument("folder", type=click.Path(exists=True, file_okay=False, path_type=pathlib.Path))
@json_option
@pass_here
def import_telemetry(here: Here, folder: pathlib.Path, as_json: bool) -> int:
    """Take in the batches in FOLDER that were carried here, and write receipts beside them."""
    taken = import_batches(here.project, here.store, folder)
    lines = [f"{one.file}: {one.error or ('was here before' if one.duplicate else 'taken in')}" for one in taken]
    show([one._asdict() for one in taken], lines, as_json=as_json)
    return 1 if any(one.error for one in taken) else 0


@device.command("retire")
@click.argument("name")
@click.option("--yes", is_flag=True, help="Do not ask.")
@reason_option
@json_option
@pass_here
def retire(here: Here, name: str, yes: bool, reason: str, as_json: bool) -> None:
    """Take nothing from a device any more."""
    here.store.fleet.get(name)
    confirm(f"Retire {name}?", yes=yes)
    with here.store.db.transaction():
        here.store.fleet.retire(name)
        here.store.audit.add("device retire", name, actor=this_user(), reason=reason)
    show({"device": name, "status": "retired"}, [f"{name} is retired"], as_json=as_json)
