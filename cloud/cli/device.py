"""``covey device``: join tokens, and who is in the fleet."""

from __future__ import annotations

import pathlib
import time

import click

from cloud import enrol
from cloud.carried import import_batches
from cloud.cli.base import Amount, Group, Here, Number, json_option, pass_here, show, table
from cloud.cli.enrol import approve, preauthorise, reject, retire, rotate
from cloud.cli.label import label, label_option, said_labels
from cloud.cli.pin import pin, unpin
from cloud.cli.release import aside_lines, release
from cloud.rollout import overview
from cloud.store.audit import this_user
from cloud.store.statuses import STATUSES, Status
from shared.clock import format_time
from shared.labels import matches, parse_labels

_HOUR_S = 3600.0
_EVENTS = 10
_OTHERS = {"device": "device", "region": "region", "status": "", "joined_s": "since", "public_key": "key"}


@click.group(cls=Group)
def device() -> None:
    """Join tokens, and who is in the fleet."""


@device.command("token")
@click.option("--region", metavar="NAME", help="Region the devices join (default: the first).")
@click.option("--uses", type=Number(), default=1, show_default=True, help="How many devices may use it.")
@click.option("--hours", type=Amount(), default=24.0, show_default=True, help="How long it is good for.")
@click.option("--approve", "by_hand", is_flag=True, help="Let each device wait until somebody approves it.")
@label_option
@json_option
@pass_here
def token(
    here: Here, region: str | None, uses: int, hours: float, by_hand: bool, labels: tuple[str, ...], as_json: bool
) -> None:
    """Make a join token and print it."""
    where, given = region or here.project.settings.regions.order[0], parse_labels(labels, "--label")
    made = enrol.new_join_token(
        here.project,
        here.store,
        region=where,
        uses=uses,
        lifetime_s=hours * _HOUR_S,
        actor=this_user(),
        approve=by_hand,
        labels=given,
    )
    said = {"token": str(made), "region": where, "uses": uses, "hours": hours, "approve": by_hand, "labels": given}
    show(said, [str(made)], as_json=as_json)


@device.command("list")
@click.option("--region", default="", metavar="NAME", help="Only this region.")
@click.option(
    "--status", type=click.Choice(STATUSES), default="accepted", show_default=True, help="Those in this status."
)
@click.option(
    "--label", "labels", multiple=True, metavar="KEY=VALUE", help="Only those that go by this label; may be repeated."
)
@json_option
@pass_here
def list_(here: Here, region: str, status: Status, labels: tuple[str, ...], as_json: bool) -> None:
    """List devices."""
    where = {key: [value] for key, value in parse_labels(labels, "--label").items()}
    if region and not here.store.fleet.all(region):
        enrol.check_region(here.project, region)
    if status != "accepted":
        rows = [row for row in here.store.fleet.all(region, status) if matches(where, row["labels"])]
        others = [{key: row[key] for key in (*_OTHERS, "labels")} for row in rows]
        shown = table([row | {"joined_s": format_time(row["joined_s"])} for row in others], _OTHERS)
        show(others, shown if others else [f"no device is {status}"], as_json=as_json)
        return
    rows = [row for row in overview.devices(here.project, here.store, region) if matches(where, row["labels"])]
    lines = [
        row
        | {
            "online": "online" if row["online"] else "offline",
            "state": f"{row['state']}, set aside" if row["aside"] else row["state"],
            "versions": ", ".join(f"{m} {v}" for m, v in row["versions"].items()),
            "candidates": ", ".join(row["candidates"].values()),
            "labels": said_labels(row["labels"]),
            "seen": format_time(row["seen_s"]) if row["seen_s"] else "never",
        }
        for row in rows
    ]
    columns = {"device": "device", "region": "region", "online": "", "state": "state", "versions": "runs",
               "candidates": "candidate", "labels": "labels", "seen": "last seen"}  # fmt: skip
    nobody = "no device has these labels" if where else "no device yet: covey device token"
    said = table(lines, columns) if rows else [nobody]
    pending = len(here.store.fleet.all(region, "pending"))
    said += [f"{pending} more to be approved or rejected: covey device list --status pending"] if pending else []
    show(rows, said, as_json=as_json)


@device.command("show")
@click.argument("name")
@json_option
@pass_here
def show_(here: Here, name: str, as_json: bool) -> None:
    """Show one device."""
    row = here.store.fleet.get(name)
    report = row["report"]
    events = here.store.fleet.events(_EVENTS, name)
    lines = [f"{row['device']} ({row['region']}): {row['status']}" + (", to make a new key" if row["rotate"] else "")]
    lines.append(f"  key {row['public_key']}")
    seen = f"{time.time() - row['seen_s']:.0f} s ago" if row["seen_s"] else "never"
    lines.append(
        f"  last seen {seen}, channel {row['channel_sequence']}, generation {row['generation'][:12] or 'none'}"
    )
    goes_by = report.get("labels", {})
    lines += [f"  goes by {said_labels(goes_by)}"] if goes_by else []
    unheard = {key: value for key, value in row["labels"].items() if goes_by.get(key) != value}
    lines += [f"  was given {said_labels(row['labels'])}"] if row["labels"] else []
    lines += [f"  has not said yet that it goes by {said_labels(unheard)}"] if unheard and row["seen_s"] else []
    if report.get("waits"):
        lines.append(f"  a new version is ready, and waits: {report['waits']}")
    for entry in report.get("models", ()):
        lines.append(
            f"  {entry['model']}: {entry['incumbent']}"
            + (f", candidate {', '.join((entry['candidate'], *entry.get('also', ())))}" if entry["candidate"] else "")
        )
        lines += [f"    refused {version}: {why}" for version, why in entry["refused"].items()]
    pins = here.store.pins.of_device(name)
    lines += [f"  pinned to {p['model']}@{p['version']} by {p['actor']}: {p['reason']}" for p in pins]
    row_aside, failures = here.store.aside.get(name), here.store.aside.failures(name)
    aside = overview.aside(row_aside) if row_aside else None
    lines += aside_lines(aside, failures)
    lines += [f"  {format_time(e['at_s'])} {e['kind'].replace('-', ' ')}: {e['detail']}".rstrip(": ") for e in events]
    show(row | {"events": events, "pins": pins, "aside": aside, "failures": failures}, lines, as_json=as_json)


@device.command("import-telemetry")
@click.argument("folder", type=click.Path(file_okay=False, path_type=pathlib.Path))
@json_option
@pass_here
def import_telemetry(here: Here, folder: pathlib.Path, as_json: bool) -> int:
    """Take in the batches in FOLDER that were carried here, and write receipts beside them."""
    taken = import_batches(here.project, here.store, folder)
    lines = [f"{one.file}: {one.error or ('was here before' if one.duplicate else 'taken in')}" for one in taken]
    show([one._asdict() for one in taken], lines, as_json=as_json)
    return 1 if any(one.error for one in taken) else 0


for _command in (approve, reject, preauthorise, rotate, retire, label, pin, unpin, release):
    device.add_command(_command)
