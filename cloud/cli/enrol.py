"""``covey device approve``, ``reject``, ``preauthorise``, ``rotate`` and ``retire``: who may be in the fleet."""

from __future__ import annotations

import re
import typing

import click

from cloud import enrol
from cloud.cli.base import Here, confirm, dry_run_option, json_option, pass_here, reason_option, show
from cloud.cli.label import label_option
from cloud.store.audit import this_user
from shared.labels import parse_labels
from shared.versions import check_device_name

Command = typing.Callable[..., None]
_DONE = {"approve": "is accepted", "reject": "is rejected", "retire": "is retired", "rotate": "will make a new key"}
_KEY = re.compile(r"[0-9a-f]{64}")


class _Key(click.ParamType[str]):
    """The public half of a device's key."""

    name = "key"

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """Read it."""
        text = str(value).strip().lower()
        if not _KEY.fullmatch(text):
            self.fail(f"{value!r:.80} is not a key: 64 hexadecimal digits, as covey-edge key prints them.", param, ctx)
        return text


def _options(command: Command) -> Command:
    """Add what all these commands have."""
    for option in (pass_here, json_option, dry_run_option, reason_option, click.argument("name")):
        command = option(command)
    return command


def _change(
    here: Here,
    action: str,
    name: str,
    reason: str,
    *,
    dry_run: bool,
    as_json: bool,
    key: str = "",
    ask: bool = False,
    labels: typing.Mapping[str, str] | None = None,
) -> None:
    """Do one of the changes that the store knows, or say what would be done."""
    row = here.store.fleet.check(name, action, key)
    if dry_run:
        said = {"device": name, "status": row["status"], "would": action, "public_key": row["public_key"]}
        show(said, [f"would {action} {name} ({row['status']}, key {row['public_key']})"], as_json=as_json)
        return
    if ask:
        confirm(f"{action.capitalize()} {name}?", yes=False)
    with here.store.db.transaction():
        row = here.store.fleet.change(name, action, key)
        said = {"key": row["public_key"], "region": row["region"]}
        said |= {"labels": here.store.fleet.label(name, labels)} if labels else {}
        here.store.audit.add(f"device {action}", name, actor=this_user(), reason=reason, **said)
    done = {"device": name, "status": row["status"], "public_key": row["public_key"]}
    show(done, [f"{name} {_DONE[action]}"], as_json=as_json)


@click.command("approve")
@click.option("--key", type=_Key(), metavar="HEX", help="Only if it has this key.")
@label_option
@_options
def approve(
    here: Here, name: str, key: str | None, labels: tuple[str, ...], reason: str, dry_run: bool, as_json: bool
) -> None:
    """Let a device in that waits for it, or that was rejected."""
    given = parse_labels(labels, "--label")
    _change(here, "approve", name, reason, dry_run=dry_run, as_json=as_json, key=key or "", labels=given)


@click.command("reject")
@_options
def reject(here: Here, name: str, reason: str, dry_run: bool, as_json: bool) -> None:
    """Keep a device out that waits to be let in, or that is expected; approve takes it back."""
    _change(here, "reject", name, reason, dry_run=dry_run, as_json=as_json)


@click.command("rotate")
@_options
def rotate(here: Here, name: str, reason: str, dry_run: bool, as_json: bool) -> None:
    """Ask a device for a new key; it makes one when it next delivers, and the old one is worth nothing then."""
    _change(here, "rotate", name, reason, dry_run=dry_run, as_json=as_json)


@click.command("retire")
@click.option("--yes", is_flag=True, help="Do not ask.")
@_options
def retire(here: Here, name: str, yes: bool, reason: str, dry_run: bool, as_json: bool) -> None:
    """Take nothing from a device any more."""
    _change(here, "retire", name, reason, dry_run=dry_run, as_json=as_json, ask=not yes)


@click.command("preauthorise")
@click.option("--key", type=_Key(), required=True, metavar="HEX", help="Its key, as covey-edge key prints it there.")
@click.option("--region", metavar="NAME", help="Region it joins (default: the first).")
@label_option
@_options
def preauthorise(
    here: Here,
    name: str,
    key: str,
    region: str | None,
    labels: tuple[str, ...],
    reason: str,
    dry_run: bool,
    as_json: bool,
) -> None:
    """Expect a device: with this name and key it joins without a use of a token, and without approval."""
    where, given = region or here.project.settings.regions.order[0], parse_labels(labels, "--label")
    enrol.check_region(here.project, where)
    check_device_name(name, "NAME")
    here.store.fleet.check_free(name)
    said = {"device": name, "status": "preauthorised", "region": where, "public_key": key, "labels": given}
    if dry_run:
        show(said | {"would": "preauthorise"}, [f"would expect {name} in {where} with the key {key}"], as_json=as_json)
        return
    with here.store.db.transaction():
        here.store.fleet.preauthorise(name, key, where, given)
        kept = {"key": key, "region": where} | ({"labels": given} if given else {})
        here.store.audit.add("device preauthorise", name, actor=this_user(), reason=reason, **kept)
    show(said, [f"{name} is expected in {where}"], as_json=as_json)
