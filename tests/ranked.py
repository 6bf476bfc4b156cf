"""A catalogue and ranked lists for the bundles of `fakes`: items have an x, the context is a colour and a size."""

from __future__ import annotations

import typing

import numpy as np

from shared import bundle, codec, precomputed
from shared.bundle import Lists
from shared.lists import ItemId, Items, Split
from tests import fakes

CATALOGUE: dict[ItemId, float] = {"tea": 1.0, 7: -3.0, "milk": 4.0, "bread": 0.0, "salt": 3.0}
RED: dict[str, typing.Any] = {"colour": "red", "size": 1}
GREEN: dict[str, typing.Any] = {"colour": "green", "size": 1}
SPLIT = Split(fakes.FEATURES, "note", ("x",))
Stored = typing.Sequence[tuple[int, float]]


def score(x: float, context: typing.Mapping[str, object], *, slope: float = 1.0, task: str = "binary") -> float:
    """What the model of `fakes` says of an item."""
    n_outputs = 2 if task == "binary" else 1
    return fakes.expected({"x": x, **context}, task=task, slope=slope, n_outputs=n_outputs)[-1]


def key(context: typing.Mapping[str, object]) -> bytes:
    """Key of a context."""
    return SPLIT.context.key(SPLIT.context.encode(context))


def best(
    context: typing.Mapping[str, object],
    length: int,
    *,
    slope: float = 1.0,
    task: str = "binary",
    catalogue: typing.Mapping[ItemId, float] = CATALOGUE,
) -> list[tuple[int, float]]:
    """List that the model of `fakes` makes: places and scores."""
    scores = [float(np.float32(score(x, context, slope=slope, task=task))) for x in catalogue.values()]
    places = sorted(range(len(scores)), key=scores.__getitem__, reverse=True)[:length]
    return [(place, scores[place]) for place in places]


def numbers(stored: Stored) -> list[float]:
    """A list as it lies in the table."""
    return [float(place) for place, _ in stored] + [value for _, value in stored]


def with_lists(
    made: fakes.Bundle,
    *,
    lists: typing.Mapping[str, Stored] | None = None,
    anyway: Stored | None = None,
    length: int = 3,
    catalogue: typing.Mapping[ItemId, float] = CATALOGUE,
    slope: float = 1.0,
    says: typing.Mapping[str, typing.Any] | None = None,
) -> fakes.Bundle:
    """Put lists into a bundle.

    Parameters
    ----------
    lists : mapping, optional
        Colour to what is stored for it, at size 1; by default what the model says for red, and nothing for green.
    anyway : sequence, optional
        The list over all contexts; by default the first items of the catalogue, with scores that no model has.
    says : mapping, optional
        Changes to what the manifest says.
    """
    task = made.manifest.task
    if lists is None:
        lists = {"red": best(RED, length, slope=slope, task=task, catalogue=catalogue)}
    entries = {key({"colour": colour, "size": 1}): numbers(stored) for colour, stored in lists.items()}
    entries[SPLIT.anyway] = numbers(anyway or [(i, 0.75 - i / 8) for i in range(length)])
    model = made.files.get(bundle.MODEL_FILE, b"")
    table = precomputed.build(
        entries, n_outputs=2 * length, features_sha256=fakes.FEATURES.digest, model_sha256=bundle.digest_of(model)
    )
    items = Items(ids=tuple(catalogue), columns=("x",), rows=tuple((x,) for x in catalogue.values()))
    fields: dict[str, typing.Any] = {
        "length": length, "n_items": len(catalogue), "item": "note", "columns": ("x",), "context": ("colour", "size"),
    }  # fmt: skip
    files = made.files | {bundle.LISTS_FILE: table, bundle.ITEMS_FILE: codec.to_json(items)}
    return fakes.seal(made.manifest, files, lists=Lists(**fields | dict(says or {})))
