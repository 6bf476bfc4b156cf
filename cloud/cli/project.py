"""``covey init``."""

from __future__ import annotations

import pathlib

import click

from cloud.cli.base import json_option, show
from cloud.cli.scaffold import empty_project, sketch_from
from cloud.config import CONFIG_FILE
from cloud.setup import JOIN_TOKEN_FILE, create_project
from cloud.store.audit import this_user
from shared.errors import ConflictError, UsageError
from shared.versions import check_name


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
    project = create_project(folder, sketch.files, actor=this_user())
    token = (project.keys / JOIN_TOKEN_FILE).read_text().strip()
    what = f"a model {sketch.model!r} that predicts {label}" if sketch.model else "no model yet"
    lines = [f"{folder}: a project with {what}. Look at {CONFIG_FILE}" + (" and features/." if sketch.model else ".")]
    lines += [f"Join token for region {order[0]} (100 devices, one year): {folder}/keys/{JOIN_TOKEN_FILE}"]
    show({"folder": str(folder), "model": sketch.model, "join_token": token}, lines, as_json=as_json)
