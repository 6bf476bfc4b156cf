"""A catalogue and ranked lists for the bundles of `fakes`: items have an x, the context is a colour and a size."""

from __future__ import annotations

import typing

import numpy as np

from shared import bundle, codec, precomputed
from shared.bundle import Lists
from shared.lists import ItemId, Items, Split, Value
from tests import fakes

Catalogue = typing.Mapping[ItemId, typing.Mapping[str, Value]]
Context = typing.Mapping[str, typing.Any]
Stored = typing.Sequence[tuple[int, float]]


def of_x(xs: typing.Mapping[ItemId, float]) -> Catalogue:
    """Items that differ by their x."""
    return {name: {"x": x} for name, x in xs.items()}


CATALOGUE = of_x({"tea": 1.0, 7: -3.0, "milk": 4.0, "bread": 0.0, "salt": 3.0})
RED: dict[str, typing.Any] = {"colour": "red", "size": 1}
GREEN: dict[str, typing.Any] = {"colour": "green", "size": 1}


def split_of(catalogue: Catalogue) -> Split:
    """Whose each feature is; the kept column `note` names an item, and is no feature."""
    return Split(fakes.FEATURES, "note", tuple(next(iter(catalogue.values()))))


def scores(context: Context, catalogue: Catalogue, *, slope: float = 1.0, task: str = "binary") -> list[float]:
    """What the model of `fakes` says of every item, to the precision of a file."""
    n_outputs = 2 if task == "binary" else 1
    rows = [{**context, **own} for own in catalogue.values()]
    exact = [fakes.expected(row, task=task, slope=slope, n_outputs=n_outputs)[-1] for row in rows]
    return np.array(exact, np.float32).tolist()  # type: ignore[no-any-return]


def best(
    context: Context, length: int, catalogue: Catalogue = CATALOGUE, **model: typing.Any
) -> list[tuple[int, float]]:
    """List that the model of `fakes` makes: places and scores, best first, equals as they are in the catalogue."""
    found = scores(context, catalogue, **model)
    places = sorted(range(len(found)), key=found.__getitem__, reverse=True)[:length]
    return [(place, found[place]) for place in places]


def table(
    stored: typing.Mapping[bytes, Stored], length: int, model: bytes, features_sha256: str = fakes.FEATURES.digest
) -> bytes:
    """Lists as they lie in a file."""
    entries = {key: [float(at) for at, _ in one] + [score for _, score in one] for key, one in stored.items()}
    return precomputed.build(
        entries, n_outputs=2 * length, features_sha256=features_sha256, model_sha256=bundle.digest_of(model)
    )


def with_lists(
    made: fakes.Bundle,
    *,
    catalogue: Catalogue = CATALOGUE,
    length: int = 3,
    contexts: typing.Sequence[Context] = (RED,),
    stored: typing.Mapping[bytes, Stored] | None = None,
    **model: typing.Any,
) -> fakes.Bundle:
    """Put lists into a bundle.

    Parameters
    ----------
    contexts : sequence
        Those that have a list, as the model makes it; RED does and GREEN does not.
    stored : mapping, optional
        Lists under their keys in place of all that. Otherwise the list over all contexts has the first items of the
        catalogue, and scores that no model gives.
    model : object
        What `best` must know of the bundle's model.
    """
    split = split_of(catalogue)
    model = {"task": made.manifest.task} | model
    if stored is None:
        lists = {
            split.context.key(split.context.encode(one)): best(one, length, catalogue, **model) for one in contexts
        }
        stored = {**lists, split.anyway: [(i, 0.75 - i / 8) for i in range(length)]}
    columns = tuple(next(iter(catalogue.values())))
    items = Items(ids=tuple(catalogue), columns=columns, rows=tuple(tuple(own.values()) for own in catalogue.values()))
    context = tuple(name for name in fakes.FEATURES.columns if name not in columns)
    says = Lists(length=length, n_items=len(catalogue), item="note", columns=columns, context=context)
    files = {
        bundle.LISTS_FILE: table(stored, length, made.files.get(bundle.MODEL_FILE, b"")),
        bundle.ITEMS_FILE: codec.to_json(items),
    }
    return fakes.seal(made.manifest, made.files | files, lists=says)
