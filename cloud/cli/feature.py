"""``covey feature``: look at feature sets, and check them."""

from __future__ import annotations

import click
import msgspec

from cloud.cli.base import Group, Here, json_option, model_option, pass_here, show, table


@click.group(cls=Group)
def feature() -> None:
    """Look at feature sets, and check them."""


@feature.command("show")
@model_option
@json_option
@pass_here
def show_(here: Here, model: str | None, as_json: bool) -> None:
    """Show the features of a model."""
    _, settings = here.project.model(model)
    features = here.project.feature_set(settings.features)
    rows = [
        {
            "name": f.name,
            "kind": type(f).__name__.lower(),
            "column": f.column,
            "codes": f.n_codes or "",
            "inputs": f.width,
        }
        for f in features.feature
    ]
    columns = {"name": "feature", "kind": "kind", "column": "column", "codes": "codes", "inputs": "inputs"}
    show(msgspec.to_builtins(features), table(rows, columns), as_json=as_json)


@feature.command("check")
@click.argument("path", required=False)
@model_option
@json_option
@pass_here
def check(here: Here, path: str | None, model: str | None, as_json: bool) -> None:
    """Check a feature set (PATH from the project's folder; the model's own by default)."""
    where = path or here.project.model(model)[1].features
    features = here.project.feature_set(where)
    said = f"{where}: {len(features.feature)} features, {features.width} inputs"
    said += "" if features.is_frozen else "; categories are learned when a model is trained"
    result = {"path": where, "features": len(features.feature), "width": features.width, "frozen": features.is_frozen}
    show(result, [said], as_json=as_json)
