"""``covey model``: train, fine-tune, and see where versions come from."""

from __future__ import annotations

import json
import typing

import click
import msgspec

from cloud.cli.base import (
    Group,
    Here,
    Number,
    dry_run_option,
    json_option,
    model_option,
    pass_here,
    say,
    show,
    table,
)
from cloud.export.ranked import ListsReport
from cloud.job import do_job
from cloud.pipeline import Order, Trained, override, train
from cloud.rollout.beside import calibration
from cloud.store.audit import this_user

_OTHERS_WENT_ON = ("running", "promoted", "undone")
_WHY = click.option("--why", default="asked for", metavar="TEXT", help="Why now; kept in the lineage.")
_DATA = click.option("--data", default="", metavar="SET", help="Data set to learn from (default: the model's own).")


@click.group(cls=Group)
def model() -> None:
    """Train, fine-tune, and see where versions come from."""


@model.command("train")
@model_option
@click.option("--features", default="", metavar="PATH", help="Another feature set of the project.")
@_DATA
@_WHY
@dry_run_option
@json_option
@pass_here
def train_(here: Here, model: str | None, features: str, data: str, why: str, dry_run: bool, as_json: bool) -> None:
    """Train the next version from scratch (v1, v2): stateless."""
    name, _ = here.project.model(model)
    order = Order(model=name, features=features, data=data, why=why, actor=this_user())
    _run(here, order, dry_run=dry_run, as_json=as_json)


@model.command("finetune")
@model_option
@click.option("--from", "parent", default="@incumbent", help="Version to continue (default: the incumbent).")
@_DATA
@_WHY
@dry_run_option
@json_option
@pass_here
def finetune(here: Here, model: str | None, parent: str, data: str, why: str, dry_run: bool, as_json: bool) -> None:
    """Continue a version on new rows (v1.1 after v1): stateful."""
    name, _ = here.project.model(model)
    version = here.store.models.resolve(name, parent)["version"]
    order = Order(model=name, parent=version, data=data, why=why, actor=this_user())
    _run(here, order, dry_run=dry_run, as_json=as_json)


def _run(here: Here, order: Order, *, dry_run: bool, as_json: bool) -> None:
    if dry_run:
        what = f"continue {order.parent}" if order.parent else "train from scratch"
        show(msgspec.to_builtins(order), [f"would {what}: {order.model}"], as_json=as_json)
        return
    trained = train(here.project, here.store, order, say)
    show(_summary(trained), _lines(trained), as_json=as_json)


def _summary(trained: Trained) -> dict[str, object]:
    return {
        "model": trained.model,
        "version": trained.version,
        "gates": msgspec.to_builtins(trained.gates),
        "precomputed": msgspec.to_builtins(trained.table),
        "lists": trained.detail["lists"],
        "manifest_sha256": trained.sealed.sha256,
        "size_bytes": trained.sealed.size_bytes,
    }


def _lines(trained: Trained) -> list[str]:
    lines = [f"{trained.model}@{trained.version}: signed, {trained.sealed.size_bytes:,} bytes"]
    lines += [f"  {gate.name}: {'PASS' if gate.passed else 'FAIL'}, {gate.reason}" for gate in trained.gates]
    report = trained.table
    if report:
        lines.append(
            f"  precomputed: {report.n_keys:,} answers cover {report.coverage:.1%} of later rows,"
            f" {report.agreement:.1%} as the model says"
        )
        if report.source != "model":
            lines.append(
                f"  teacher {report.source}: gain {report.teacher_gain:+.4f}"
                f" ({report.teacher_gain_low:+.4f} .. {report.teacher_gain_high:+.4f})"
            )
    if trained.detail["lists"]:
        lines.append(f"  {msgspec.convert(trained.detail['lists'], ListsReport).said}")
    return lines


@model.command("override")
@click.argument("version")
@model_option
@click.option("--reason", required=True, metavar="TEXT", help="Why; kept in the audit log and on the model card.")
@dry_run_option
@json_option
@pass_here
def override_(here: Here, version: str, model: str | None, reason: str, dry_run: bool, as_json: bool) -> None:
    """Sign a VERSION that a gate refused, and say why."""
    name, _ = here.project.model(model)
    row = here.store.models.resolve(name, version)
    said = {"model": name, "version": row["version"], "reason": reason}
    if dry_run:
        show(said, [f"would sign {name}@{row['version']} although: {_refusal(row)}"], as_json=as_json)
        return
    sealed = override(here.project, here.store, name, row["version"], reason=reason, actor=this_user())
    show(
        said | {"manifest_sha256": sealed.sha256},
        [f"{name}@{row['version']} is signed, against its gates"],
        as_json=as_json,
    )


def _refusal(row: dict[str, typing.Any]) -> str:
    return "; ".join(gate["reason"] for gate in row["detail"].get("gates", ()) if not gate["passed"]) or row["status"]


@model.command("list")
@model_option
@json_option
@pass_here
def list_(here: Here, model: str | None, as_json: bool) -> None:
    """List versions."""
    names = [here.project.model(model)[0]] if model else list(here.project.settings.models)
    rows = [row for name in names for row in here.store.models.all(name)]
    lines = [row | {"incumbent": ", ".join(_regions_of(here, row))} for row in rows]
    columns = {"model": "model", "version": "version", "kind": "kind", "parent": "from", "status": "status",
               "incumbent": "incumbent in", "why": "why"}  # fmt: skip
    show(rows, table(lines, columns) if rows else ["no version yet: covey model train"], as_json=as_json)


def _regions_of(here: Here, row: dict[str, typing.Any]) -> list[str]:
    """Regions in which a version answers."""
    return sorted(r for r, v in here.store.models.incumbents(row["model"]).items() if v == row["version"])


@model.command("show")
@click.argument("name", metavar="VERSION")
@model_option
@json_option
@pass_here
def show_(here: Here, name: str, model: str | None, as_json: bool) -> None:
    """Show everything about a VERSION: v1.1, @incumbent, @candidate or @latest."""
    model_name, settings = here.project.model(model)
    row = here.store.models.resolve(model_name, name)
    row["calibration"] = calibration(here.store, model_name, row["version"], settings)
    detail = row["detail"]
    lines = [f"{row['model']}@{row['version']}: {row['kind']}, {row['status']}"]
    lines += [f"  from {row['parent']}"] if row["parent"] else []
    lines += [f"  why: {row['why']}", f"  data version {row['data_version']}, features {row['features']}"]
    lines += [
        f"  {key}: {json.dumps(detail[key], default=str)}" for key in sorted(detail) if detail[key] not in (None, "")
    ]
    if row["calibration"]:
        said = row["calibration"]
        lines.append(f"  calibration error on devices: {said['error']:.3f} of {said['outcomes']:,} outcomes")
    show(row, lines, as_json=as_json)


@model.command("lineage")
@model_option
@json_option
@pass_here
def lineage(here: Here, model: str | None, as_json: bool) -> None:
    """Show which version came from which, and what became of it."""
    name, _ = here.project.model(model)
    rows = here.store.models.all(name)
    outcomes = {
        one["version"]: "dropped" if one["state"] == "dropped" and row["state"] in _OTHERS_WENT_ON else row["state"]
        for row in reversed(here.store.rollouts.all(1000))
        if row["model"] == name
        for one in row["candidates"]
    }
    tree = [
        {
            "version": row["version"],
            "kind": row["kind"],
            "parent": row["parent"],
            "status": row["status"],
            "rollout": outcomes.get(row["version"], ""),
            "data_version": row["data_version"],
            "why": row["why"],
        }
        for row in rows
    ]
    lines = [
        f"{'  ' if row['parent'] else ''}{row['version']}  {row['kind']}"
        + (f" from {row['parent']}" if row["parent"] else "")
        + f"  data {row['data_version']}  {row['rollout'] or row['status']}  {row['why']}"
        for row in tree
    ]
    show(tree, lines or ["no version yet: covey model train"], as_json=as_json)


@click.command(hidden=True)
@click.argument("number", type=Number())
@pass_here
def job(here: Here, number: int) -> None:
    """Do a queued job; the worker calls this."""
    click.echo(do_job(here.project, here.store, number, say))
