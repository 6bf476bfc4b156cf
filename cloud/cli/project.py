"""``covey init``, ``covey doctor``, ``covey status``."""

from __future__ import annotations

import pathlib
import time

import click

from cloud import enrol
from cloud.cli.base import Here, json_option, pass_here, show
from cloud.cli.examine import examine
from cloud.cli.scaffold import Sketch, empty_project, sketch_from
from cloud.config import CONFIG_FILE, load_project
from cloud.publish.keys import create_keys
from cloud.publish.repository import SignedRepository
from cloud.rollout import overview
from cloud.store.blobs import write_file
from cloud.store.store import Store
from shared.errors import ConflictError, UsageError
from shared.versions import check_name

_A_YEAR_S = 365 * 86_400.0
_IGNORED = "keys/\nvar/\n"


@click.command()
@click.argument("folder", type=click.Path(file_okay=False, path_type=pathlib.Path))
@click.option("--from", "table", type=click.Path(path_type=pathlib.Path), help="CSV or Parquet to sketch a model from.")
@click.option("--label", metavar="COLUMN", help="With --from: the column to predict.")
@click.option("--time", "time_column", metavar="COLUMN", help="With --from: the column that says when.")
@click.option("--regions", default="all", help="Names of the regions, in the order of rollouts, with commas.")
@json_option
def init(
    folder: pathlib.Path,
    table: pathlib.Path | None,
    label: str | None,
    time_column: str | None,
    regions: str,
    as_json: bool,
) -> None:
    """Make a project in FOLDER: covey.toml, keys, database."""
    if (folder / CONFIG_FILE).exists():
        raise ConflictError(f"{folder} is a project already", fix="Choose another folder.")
    name = check_name(folder.resolve().name.lower().replace("_", "-").replace(" ", "-"), "FOLDER")
    order = [check_name(region.strip(), "--regions") for region in regions.split(",")]
    if table is None:
        sketch = empty_project(name, order)
    elif label and time_column:
        sketch = sketch_from(name, order, table, label, time_column)
    else:
        raise UsageError("--from needs --label and --time", field="--label", fix="Name the two columns.")
    token = _write(folder, sketch, order[0])
    what = f"a model {sketch.model!r} that predicts {label}" if sketch.model else "no model yet"
    lines = [f"{folder}: a project with {what}. Look at {CONFIG_FILE}" + (" and features/." if sketch.model else ".")]
    lines += [f"Join token for region {order[0]} (100 devices, one year): {folder}/keys/join-token"]
    show({"folder": str(folder), "model": sketch.model, "join_token": token}, lines, as_json=as_json)


def _write(folder: pathlib.Path, sketch: Sketch, region: str) -> str:
    """Write everything; ``covey.toml`` last, so that half a project is no project."""
    folder.mkdir(parents=True, exist_ok=True)
    for path, text in sketch.files.items():
        if path != CONFIG_FILE:
            write_file(folder / path, text.encode())
    keys = folder / "keys"
    create_keys(keys)
    enrol.create_session_key(keys)
    repository = SignedRepository(folder / "var" / "repo", keys)
    if not repository.exists:
        repository.create()
    write_file(folder / ".gitignore", _IGNORED.encode())
    write_file(folder / CONFIG_FILE, sketch.files[CONFIG_FILE].encode())
    project = load_project(folder.resolve())
    store = Store(project)
    token = enrol.new_join_token(project, store, region=region, uses=100, lifetime_s=_A_YEAR_S, actor="init")
    write_file(keys / "join-token", f"{token}\n".encode(), 0o600)
    store.close()
    return str(token)


@click.command()
@json_option
@pass_here
def doctor(here: Here, as_json: bool) -> int:
    """Say what is wrong with the project."""
    findings = examine(here)
    lines = [f"{'ok  ' if finding.ok else 'BAD '} {finding.name}: {finding.detail}" for finding in findings]
    show([finding._asdict() for finding in findings], lines, as_json=as_json)
    return 0 if all(finding.ok for finding in findings) else 1


@click.command()
@json_option
@pass_here
def status(here: Here, as_json: bool) -> None:
    """Show the fleet: devices, versions, rollouts."""
    fleet = overview.fleet(here.project, here.store)
    lines = [f"{fleet['project']}: {fleet['devices']['online']} of {fleet['devices']['total']} devices online"]
    for region in fleet["regions"]:
        versions = "; ".join(
            f"{model} " + ", ".join(f"{version} on {n}" for version, n in counts.items())
            for model, counts in region["versions"].items()
        )
        lines.append(f"  {region['region']}: {region['online']} of {region['devices']} online  {versions}")
    for row in fleet["rollouts"]:
        lines.append(
            f"rollout {row['id']}: {row['model']} {row['from'] or 'none'} -> {row['to']}, {row['stage'] or 'waits'}"
        )
    ago = time.time() - fleet["worker"]["ticked_s"]
    if not fleet["worker"]["ticked_s"] or ago > 10 * here.project.settings.serve.tick_interval_s:
        lines.append("no worker is at work: start one with covey serve, or covey worker")
    show(fleet, lines, as_json=as_json)
