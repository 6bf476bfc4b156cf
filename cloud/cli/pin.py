"""``covey device pin`` and ``unpin``: one device runs one version, whatever is rolled out."""

from __future__ import annotations

import click

from cloud.cli.base import Here, dry_run_option, json_option, pass_here, reason_option, show
from cloud.store.audit import this_user
from shared.errors import UsageError


@click.command("pin")
@click.argument("name")
@click.argument("model")
@click.argument("version")
@reason_option
@dry_run_option
@json_option
@pass_here
def pin(here: Here, name: str, model: str, version: str, reason: str, dry_run: bool, as_json: bool) -> None:
    """Let device NAME run VERSION of MODEL alone, whatever is rolled out, until it is unpinned. Needs --reason."""
    if not reason:
        raise UsageError("a pin needs a reason", field="--reason", fix="Say why, for whoever wonders next year.")
    chosen, _ = here.project.model(model)
    made = here.store.models.resolve(chosen, version)["version"]
    said = {"device": name, "model": chosen, "version": made}
    if dry_run:
        region = here.store.pins.check(name, chosen, made)
        show(said | {"region": region}, [f"would pin {name} ({region}) to {chosen}@{made}"], as_json=as_json)
        return
    with here.store.db.transaction():
        here.store.pins.set(name, chosen, made, actor=this_user(), reason=reason)
        here.store.audit.add("device pin", name, actor=this_user(), reason=reason, model=chosen, version=made)
    show(said, [f"{name} runs {chosen}@{made} until it is unpinned; it counts in no stage"], as_json=as_json)


@click.command("unpin")
@click.argument("name")
@click.argument("model")
@reason_option
@dry_run_option
@json_option
@pass_here
def unpin(here: Here, name: str, model: str, reason: str, dry_run: bool, as_json: bool) -> None:
    """Let device NAME run what its region runs of MODEL again."""
    chosen, _ = here.project.model(model)
    if dry_run:
        known = next((one["version"] for one in here.store.pins.of_device(name) if one["model"] == chosen), "nothing")
        show({"device": name, "model": chosen, "version": known}, [f"would unpin {name} from {known}"], as_json=as_json)
        return
    with here.store.db.transaction():
        row = here.store.pins.unset(name, chosen)
        here.store.audit.add(
            "device unpin", name, actor=this_user(), reason=reason, model=chosen, version=row["version"]
        )
    said = {"device": name, "model": chosen, "version": row["version"]}
    show(said, [f"{name} runs what its region runs of {chosen} again"], as_json=as_json)
