"""What the tests of the cloud are built from: a real project in a folder, a shop's sales as rows, files of them.

Nothing is imitated: projects have keys, a signed repository and a database; versions are trained by scikit-learn and
exported to ONNX. Making one costs a second, so tests that only need *a* trained project get a copy of the same one.
"""

from __future__ import annotations

import atexit
import contextlib
import csv
import functools
import io
import pathlib
import random
import shutil
import tempfile
import typing

import pyarrow as pa
import pyarrow.parquet as pq

from cloud.config import Project, load_project
from cloud.data.parts import Added, add_file
from cloud.pipeline import Order, Trained, train
from cloud.setup import create_project
from cloud.store.store import Store
from shared.clock import DAY_S, format_time

MODEL = "sales"
START_S = 1_740_960_000.0  # 2025-03-03
REGIONS = ("north", "south")
COLUMNS = ("at", "colour", "price", "sold")
LOGISTIC = 'estimator = "sklearn.linear_model.LogisticRegression"'
SGD = 'estimator = "sklearn.linear_model.SGDClassifier"\nparams = { loss = "log_loss" }'
EASY_GATES = "gate = { worse_by = 9.0, forget_by = 9.0 }"
FEATURES = """\
name = "sales"
[[feature]]
kind = "categorical"
name = "colour"
categories = ["red", "green", "blue"]
[[feature]]
kind = "bucketed"
name = "price"
cuts = [10, 20, 50]
min = 0
missing = "bucket"
"""
Row = dict[str, object]


def config(*, model: str = SGD, more: str = "", rollout: str = "", serve: str = "", regions: str = "") -> str:
    """Return a ``covey.toml``; `model` and `more` go into the model's table, `rollout` and `serve` into theirs."""
    order = regions or ", ".join(f'"{region}"' for region in REGIONS)
    return f"""\
[project]
name = "shop"
[serve]
online_window_s = 3600.0
tick_interval_s = 60.0
{serve}
[regions]
order = [{order}]
[rollout]
min_devices = 2
{rollout}
[rollout.shadow]
min_days = 2
min_outcomes = 100
[rollout.canary]
min_days = 1
min_outcomes = 20
[models.{MODEL}]
features = "features/sales.toml"
label = "sold"
time = "at"
holdout_days = 3
{model}
{more}
"""


def make_project(folder: pathlib.Path, *, features: str = FEATURES, **settings: str) -> Project:
    """Make a project with one model and no data."""
    files = {"covey.toml": config(**settings), "features/sales.toml": features}
    return create_project(folder, files, actor="ada")


def write(project: Project, path: str, text: str) -> Project:
    """Change a file of a project, and read the project again."""
    (project.folder / path).write_text(text)
    return load_project(project.folder)


# ---- rows


def sales(days: int = 20, per_day: int = 20, *, first_day: int = 0, seed: int = 1, liked: str = "red") -> list[Row]:
    """Sales in a world that likes one colour; a number of a day for each of them."""
    rng = random.Random(seed)
    rows: list[Row] = []
    for day in range(first_day, first_day + days):
        for i in range(per_day):
            colour, price = rng.choice(["red", "green", "blue"]), rng.choice([5.0, 15.0, 30.0, None])
            odds = 0.9 if colour == liked else 0.2
            at = format_time(START_S + day * DAY_S + i * DAY_S / (2 * per_day))
            rows.append({"at": at, "colour": colour, "price": price, "sold": int(rng.random() < odds)})
    return rows


def csv_bytes(rows: typing.Sequence[Row]) -> bytes:
    """Rows as CSV, as a business hands them over."""
    out = io.StringIO()
    writer = csv.DictWriter(out, list(rows[0]))
    writer.writeheader()
    writer.writerows([{name: "" if value is None else value for name, value in row.items()} for row in rows])
    return out.getvalue().encode()


def parquet_bytes(columns: typing.Mapping[str, object]) -> bytes:
    """Columns as Parquet."""
    out = io.BytesIO()
    pq.write_table(pa.table(dict(columns)), out)
    return out.getvalue()


def columns_of(rows: typing.Sequence[Row]) -> dict[str, list[object]]:
    """Turn rows into columns."""
    return {name: [row[name] for row in rows] for name in rows[0]}


def add(
    project: Project,
    store: Store,
    data: bytes | typing.Sequence[Row],
    *,
    dataset: str = MODEL,
    features: str = "",
    max_bad_ratio: float = 0.0,
) -> Added:
    """Add a file to a data set."""
    _, model = project.model(MODEL)
    path = project.folder / "rows"
    path.write_bytes(data if isinstance(data, bytes) else csv_bytes(data))
    return add_file(
        project,
        store,
        path,
        model=model,
        dataset=dataset,
        features=project.feature_set(features or model.features),
        max_bad_ratio=max_bad_ratio,
        actor="ada",
    )


# ---- versions


def fit(project: Project, store: Store, **order: typing.Any) -> Trained:
    """Train a version."""
    return train(project, store, Order(**{"model": MODEL, "actor": "ada"} | order))


@functools.cache
def _template() -> pathlib.Path:
    """A project with twenty days of sales and a signed v1; made once in a process."""
    folder = pathlib.Path(tempfile.mkdtemp(prefix="covey-test-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    project = make_project(folder / "shop")
    store = Store(project)
    add(project, store, sales())
    fit(project, store, why="the first")
    store.close()
    return project.folder


def trained_project(folder: pathlib.Path) -> Project:
    """Return a copy of a project with a signed v1."""
    shutil.copytree(_template(), folder)
    return load_project(folder)


@contextlib.contextmanager
def opened(project: Project) -> typing.Iterator[Store]:
    """Open a project's store, and close it."""
    store = Store(project)
    try:
        yield store
    finally:
        store.close()
