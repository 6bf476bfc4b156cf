"""The items that lists are made of: those of the training data, with the values that each had last."""

from __future__ import annotations

import collections
import typing

import numpy as np
import numpy.typing as npt

from shared.errors import DataError
from shared.lists import ItemId, Items, Value

Columns = typing.Mapping[str, typing.Sequence[object]]


class Catalogue(typing.NamedTuple):
    """The items, and the row of the training data in which each was seen last."""

    items: Items
    rows: npt.NDArray[np.int64]


def catalogue(columns: Columns, item: str, own: typing.Sequence[str], max_items: int) -> Catalogue:
    """Collect the items of the training data with the values that they had last.

    They stand in the order in which they were first seen: new ones come last, so that the places of the others, and
    with them most lists, are those of the version before.

    Parameters
    ----------
    columns : mapping
        Raw columns, oldest row first.
    item, own : str, sequence of str
        The column that names an item, and further ones of its own.
    max_items : int
        Of more than that the most frequent stay.

    Raises
    ------
    DataError
        A name is neither a word nor a whole number, or there are none.
    """
    newest: dict[ItemId, int] = {}
    counts: collections.Counter[ItemId] = collections.Counter()
    for i, value in enumerate(columns[item]):
        name = name_of(value, i, item)
        if name is not None:
            newest[name] = i
            counts[name] += 1
    if not newest:
        raise DataError("no row names an item", field=item, fix="Name another column as lists.item.")
    kept = {name for name, _ in counts.most_common(max_items)}
    ids = [name for name in newest if name in kept]
    rows = [newest[name] for name in ids]
    values = tuple(tuple(typing.cast("Value", columns[column][i]) for column in own) for i in rows)
    return Catalogue(Items(ids=tuple(ids), columns=tuple(own), rows=values), np.array(rows, np.int64))


def name_of(value: object, row: int, item: str) -> ItemId | None:
    """Return an item's name; nothing where there is none."""
    if value is None or value == "" or value != value:  # noqa: PLR0124 - only NaN differs from itself
        return None
    if isinstance(value, float) and value.is_integer():
        return int(value)
    if isinstance(value, bool) or not isinstance(value, str | int):
        raise DataError(
            f"{value!r:.60} names no item", field=f"row {row + 1}, {item}", fix="Name items by words or whole numbers."
        )
    return value
