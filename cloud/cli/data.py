"""``covey data``: add rows, and see what is there."""

from __future__ import annotations

import pathlib

import click

from cloud.cli.base import Group, Here, dry_run_option, json_option, model_option, pass_here, say, show, table
from cloud.data.check import check_table
from cloud.data.parts import add_file, known_keys
from cloud.data.read import read_table
from cloud.store.audit import this_user
from shared.clock import format_time
from shared.versions import check_name


@click.group(cls=Group)
def data() -> None:
    """Add rows, and see what is there."""


@data.command("add")
@click.argument("file", type=click.Path(dir_okay=False, path_type=pathlib.Path))
@model_option
@click.option("--set", "dataset", metavar="NAME", help="Data set to add to (default: the model's own).")
@click.option("--features", metavar="PATH", help="Check against another feature set of the project.")
@click.option("--max-bad-ratio", type=click.FloatRange(0, 1), default=0.0, help="Share of bad rows to leave out.")
@dry_run_option
@json_option
@pass_here
def add(
    here: Here,
    file: pathlib.Path,
    model: str | None,
    dataset: str | None,
    features: str | None,
    max_bad_ratio: float,
    dry_run: bool,
    as_json: bool,
) -> None:
    """Check FILE (CSV or Parquet) against the feature set and append it as an immutable part."""
    name, settings = here.project.model(model)
    target = check_name(dataset, "--set") if dataset else settings.data or name
    feature_set = here.project.feature_set(features or settings.features)
    if dry_run:
        known = known_keys(here.project, here.store, target, settings)
        checked = check_table(read_table(file), feature_set, settings, max_bad_ratio=max_bad_ratio, known=known)
        report = checked.report
        lines = [f"{report['rows']:,} rows fit, {report['rejected']:,} would be left out"]
        show({"dataset": target, "dry_run": True} | report, lines, as_json=as_json)
        return
    say(f"checking {file}")
    added = add_file(
        here.project,
        here.store,
        file,
        model=settings,
        dataset=target,
        features=feature_set,
        max_bad_ratio=max_bad_ratio,
        actor=this_user(),
    )
    lines = [f"{target}: {added.report['rows']:,} rows added, data version {added.version}"]
    notes = {"rejected": "bad rows left out", "out_of_order": "rows were out of order and were sorted",
             "duplicate_rows": "rows are the same as another in every column"}  # fmt: skip
    lines += [f"  {added.report[key]:,} {text}" for key, text in notes.items() if added.report[key]]
    show(added._asdict(), lines, as_json=as_json)


@data.command("list")
@json_option
@pass_here
def list_(here: Here, as_json: bool) -> None:
    """List data sets."""
    rows = here.store.datasets.all()
    lines = [
        row | {"rows": f"{row['rows']:,}", "from": format_time(row["from_s"]), "to": format_time(row["to_s"])}
        for row in rows
    ]
    columns = {
        "dataset": "data set",
        "rows": "rows",
        "parts": "parts",
        "version": "version",
        "from": "from",
        "to": "to",
    }
    show(rows, table(lines, columns) if rows else ["no data yet: covey data add FILE"], as_json=as_json)


@data.command("show")
@click.argument("version")
@json_option
@pass_here
def show_(here: Here, version: str, as_json: bool) -> None:
    """Show the parts of a data VERSION."""
    row = here.store.datasets.version(version)
    parts = here.store.datasets.parts_of(version)
    lines = [f"{row['dataset']} {row['version']}: {row['rows']:,} rows in {row['n_parts']} parts"]
    lines += [
        f"  {part['sha256'][:12]}  {part['rows']:>9,} rows"
        f"  {format_time(part['from_s'])} .. {format_time(part['to_s'])}  {part['source']}"
        for part in parts
    ]
    show(row | {"parts": parts}, lines, as_json=as_json)
