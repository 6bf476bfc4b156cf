"""``covey device release``: a device that was set aside, as it failed again and again, takes part again."""

from __future__ import annotations

import typing

import click

from cloud.cli.base import Here, dry_run_option, json_option, pass_here, reason_option, show
from cloud.store.audit import this_user
from shared.clock import format_day


@click.command("release")
@click.argument("name")
@reason_option
@dry_run_option
@json_option
@pass_here
def release(here: Here, name: str, reason: str, dry_run: bool, as_json: bool) -> None:
    """Let device NAME, which was set aside since it fails again and again, take part again: it was mended."""
    if dry_run:
        row = here.store.aside.check(name)
        until = format_day(row["until_day"])
        said = {"device": name, "until_day": until, "why": row["why"]}
        show(said, [f"would let {name} take part again, which is set aside until {until}"], as_json=as_json)
        return
    with here.store.db.transaction():
        row = here.store.aside.let_out(name, forgive=True)
        here.store.audit.add("device release", name, actor=this_user(), reason=reason, why=row["why"])
    said = {"device": name, "until_day": format_day(row["until_day"]), "why": row["why"]}
    show(said, [f"{name} takes part again; what it failed at is forgotten"], as_json=as_json)


def aside_lines(row: typing.Mapping[str, typing.Any] | None, failures: typing.Iterable[typing.Any]) -> list[str]:
    """Say for people until when a device is set aside, and what it has failed at."""
    lines = []
    if row:
        lines.append(f"  set aside until {row['until_day']}, since it fails again and again")
    for one in failures:
        counts = "" if one["counts"] and one["stands"] else ", which is not held against it"
        lines.append(f"  failed at {one['model']}@{one['version']} on {format_day(one['day'])}{counts}: {one['why']}")
    return lines
