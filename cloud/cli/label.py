"""``covey device label``: what the fleet says of a device, for rollouts that begin with some devices."""

from __future__ import annotations

import typing

import click

from cloud.cli.base import Here, dry_run_option, json_option, pass_here, reason_option, show
from cloud.store.audit import this_user
from shared.errors import UsageError
from shared.labels import parse_labels

label_option = click.option(
    "--label", "labels", multiple=True, metavar="KEY=VALUE", help="Give it this label; may be repeated."
)


def said_labels(labels: typing.Mapping[str, str]) -> str:
    """Write labels for people.

    >>> said_labels({"store": "flagship", "class": "int8"})
    'class=int8 store=flagship'
    """
    return " ".join(f"{key}={value}" for key, value in sorted(labels.items()))


@click.command("label")
@click.argument("name")
@click.argument("labels", nargs=-1, metavar="[KEY=VALUE]...")
@click.option("--remove", multiple=True, metavar="KEY", help="Take this label from it; may be repeated.")
@reason_option
@dry_run_option
@json_option
@pass_here
def label(
    here: Here,
    name: str,
    labels: tuple[str, ...],
    remove: tuple[str, ...],
    reason: str,
    dry_run: bool,
    as_json: bool,
) -> None:
    """Give a device labels, over those of its owner, or take them away; without either, say what it was given."""
    given = parse_labels(labels, "KEY=VALUE")
    both = sorted(set(given) & set(remove))
    if both:
        raise UsageError(f"{both[0]!r} is given and taken away", field="--remove", fix="Say one of the two.")
    before = here.store.fleet.get(name)["labels"]
    if not given and not remove:
        show({"device": name, "labels": before}, [f"{name}: {said_labels(before) or 'no label'}"], as_json=as_json)
        return
    after = here.store.fleet.labels_after(name, given, remove)
    if dry_run:
        said = {"device": name, "labels": before, "would": after}
        show(said, [f"{name} would have {said_labels(after) or 'no label'}"], as_json=as_json)
        return
    with here.store.db.transaction():
        after = here.store.fleet.label(name, given, remove)
        here.store.audit.add("device label", name, actor=this_user(), reason=reason, before=before, labels=after)
    show({"device": name, "labels": after}, [f"{name}: {said_labels(after) or 'no label'}"], as_json=as_json)
