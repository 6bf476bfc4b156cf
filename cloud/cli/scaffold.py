"""Sketch a project: ``covey.toml`` and a feature set, from nothing or from a table."""

from __future__ import annotations

import pathlib
import typing

import numpy as np
import tomlkit

from cloud.config import CONFIG_FILE
from cloud.data.read import plain, read_table
from shared.clock import DAY_S, parse_time
from shared.errors import DataError, UsageError

_FEW = 12
_MANY_WORDS = 0.5
_QUANTILES = (0.1, 0.25, 0.5, 0.75, 0.9)


class Sketch(typing.NamedTuple):
    """Files of a new project, by path."""

    files: dict[str, str]
    model: str


def empty_project(name: str, regions: list[str]) -> Sketch:
    """Return a project without a model."""
    head = _config(name, regions)
    head.add(tomlkit.nl())
    for line in (
        "A model looks like this:",
        "[models.NAME]",
        'features = "features/NAME.toml"',
        'label = "COLUMN"',
        'time = "COLUMN"',
        'estimator = "sklearn.linear_model.LogisticRegression"',
    ):
        head.add(tomlkit.comment(line))
    return Sketch({CONFIG_FILE: tomlkit.dumps(head)}, "")


def sketch_from(name: str, regions: list[str], path: pathlib.Path, label: str, time_column: str) -> Sketch:
    """Sketch a model from a table: a starting point for people to look at, not a finished model.

    Raises
    ------
    DataError, UsageError
        The table can not be read, or has no such column.
    """
    table = read_table(path)
    for option, column in (("--label", label), ("--time", time_column)):
        if column not in table.column_names:
            raise UsageError(
                f"{path.name} has no column {column!r}",
                field=option,
                fix=f"It has {', '.join(table.column_names[:20])}.",
            )
    features, keys = _features(table, label, time_column)
    task, classes = _task(plain(table[label], number=False), label)
    times = [parse_time(value, time_column) for value in table[time_column].to_pylist() if value is not None]
    days = (max(times) - min(times)) / DAY_S if times else 0.0
    head = _config(name, regions)
    head.add(
        "models",
        tomlkit.table(is_super_table=True).append(name, _model(name, label, time_column, task, classes, keys, days)),
    )
    return Sketch({CONFIG_FILE: tomlkit.dumps(head), f"features/{name}.toml": tomlkit.dumps(features)}, name)


def _config(name: str, regions: list[str]) -> tomlkit.TOMLDocument:
    document = tomlkit.document()
    document.add("project", tomlkit.table().append("name", name))
    document.add("regions", tomlkit.table().append("order", regions))
    return document


def _model(
    name: str, label: str, time_column: str, task: str, classes: list[object], keys: list[str], days: float
) -> tomlkit.items.Table:
    kind = "Regressor" if task == "regression" else "Classifier"
    model = tomlkit.table()
    model["features"] = f"features/{name}.toml"
    model["label"] = label
    model["time"] = time_column
    model["task"] = task
    if classes:
        model["classes"] = classes
    if keys:
        model["key"] = keys
    model["holdout_days"] = max(1, round(days / 5))
    model["estimator"] = f"sklearn.neural_network.MLP{kind}"
    model["params"] = {"hidden_layer_sizes": [16], "max_iter": 30}
    model["precompute"] = {"budget_bytes": 262_144}
    return model


def _task(values: list[object], label: str) -> tuple[str, list[object]]:
    """Tell the task from the label: two values, a few words, or numbers."""
    seen = {_number(value) for value in values if value is not None}
    if len(seen) < 2:  # noqa: PLR2004 - one value can not be predicted
        raise DataError(f"the label has {len(seen)} different values", field=label, fix="Choose another column.")
    numbers = all(isinstance(value, int | float) for value in seen)
    if len(seen) == 2:  # noqa: PLR2004 - two classes
        return "binary", sorted(seen, key=str)
    if numbers and len(seen) > _FEW:
        return "regression", []
    if len(seen) > max(_FEW, _MANY_WORDS * len(values)):
        said = f"the label has {len(seen):,} different words in {len(values):,} rows"
        raise DataError(said, field=label, fix="Choose a column that says what came of a row, not one that names it.")
    return "multiclass", sorted(seen, key=str)


def _number(value: object) -> object:
    if isinstance(value, str):
        try:
            number = float(value)
        except ValueError:
            return value
        return int(number) if number.is_integer() else number
    return value


def _features(table: typing.Any, label: str, time_column: str) -> tuple[tomlkit.TOMLDocument, list[str]]:  # noqa: ANN401
    """Return a feature set, and the columns that name a row."""
    listed = tomlkit.aot()
    for part in ("hour", "weekday"):
        listed.append(
            _table({"kind": "time", "name": f"{_name(time_column)}-{part}", "source": time_column, "part": part})
        )
    keys: list[str] = []
    for column in table.column_names:
        if column in (label, time_column):
            continue
        values = [value for value in plain(table[column], number=True) if value is not None]
        has_gaps = len(values) < table.num_rows
        if values and all(isinstance(value, int | float) for value in values):
            listed.append(_table(_numeric(column, values, has_gaps=has_gaps)))
        elif len(set(map(str, values))) > _MANY_WORDS * table.num_rows:
            keys += [column] if not has_gaps and len(set(map(str, values))) == table.num_rows else []
        else:
            listed.append(_table({"kind": "categorical", "name": _name(column), "source": column, "min_count": 5}))
    document = tomlkit.document()
    document["name"] = _name(label)
    left_out = [c for c in table.column_names if c not in (label, time_column, *keys) and c not in _sources(listed)]
    if left_out:
        document["keep"] = left_out
    document["feature"] = listed
    return document, keys


def _sources(listed: typing.Iterable[typing.Mapping[str, object]]) -> set[object]:
    return {feature["source"] for feature in listed}


def _numeric(column: str, values: list[object], *, has_gaps: bool) -> dict[str, object]:
    """Cut numbers into buckets, since a table of precomputed answers needs few different inputs."""
    numbers = np.array(values, float)
    distinct = np.unique(numbers)
    if len(distinct) <= _FEW:
        cuts = ((distinct[1:] + distinct[:-1]) / 2).tolist() or [float(distinct[0])]
    else:
        cuts = sorted({float(f"{cut:.6g}") for cut in np.quantile(numbers, _QUANTILES)})
    feature: dict[str, object] = {"kind": "bucketed", "name": _name(column), "source": column, "cuts": cuts}
    if has_gaps:
        feature["missing"] = "bucket"
    return feature


def _table(values: dict[str, object]) -> tomlkit.items.Table:
    table = tomlkit.table()
    table.update({key: value for key, value in values.items() if key != "source" or value != values["name"]})
    table["source"] = values["source"]
    return table


def _name(column: str) -> str:
    """Make a feature's name from a column's."""
    words = "".join(c.lower() if c.isascii() and c.isalnum() else "-" for c in column).strip("-")
    name = "-".join(part for part in words.split("-") if part)
    return name if name[:1].isalpha() else f"f-{name}" if name else "f"
