"""Ranked lists that were made beforehand: whose each feature is, the catalogue of items, and what a sound file holds.

A list lies in a table of ``shared.precomputed`` under the key of its context: first the places of its items in the
catalogue, best first, then their scores, all as float32. One more list, made over all contexts, lies under a key that
no context has.
"""

from __future__ import annotations

import itertools
import operator
import typing

from shared import codec
from shared.bundle import MAX_FILE_BYTES, Lists
from shared.errors import DataError, WireError
from shared.features import Encoder, FeatureSet
from shared.features.compiled import Codes
from shared.precomputed import PrecomputedTable

ItemId = str | int
Value = str | int | float | bool | None


class Items(codec.Record, frozen=True, kw_only=True):
    """``items.json``: what the lists choose from.

    Parameters
    ----------
    ids : tuple
        What the business calls each item; an item's place here is its number in the lists.
    columns : tuple of str
        Raw columns of an item's own.
    rows : tuple of tuple
        Their values for each item, as they were last seen in training.
    """

    SCHEMA: typing.ClassVar[str] = "covey.items/1"
    ids: tuple[ItemId, ...]
    columns: tuple[str, ...]
    rows: tuple[tuple[Value, ...], ...]


def read_items(data: bytes, lists: Lists) -> Items:
    """Read the catalogue that a manifest speaks of.

    Raises
    ------
    WireError
        It is another one, or an id is there twice.
    """
    items = codec.from_json(data, Items, limit_bytes=MAX_FILE_BYTES)
    if len(items.ids) != lists.n_items or len(items.rows) != lists.n_items or items.columns != lists.columns:
        raise WireError(f"{len(items.ids)} items, the manifest says {lists.n_items}", field=Items.SCHEMA)
    if len(set(items.ids)) != len(items.ids):
        raise WireError("an id is there twice", field=f"{Items.SCHEMA} ids")
    width = len(items.columns)
    for i, row in enumerate(items.rows):
        if len(row) != width:
            raise WireError(f"{len(row)} values for {width} columns", field=f"{Items.SCHEMA} rows[{i}]")
    return items


class Split:
    """A feature set in two: the features that are an item's own, and those of the context it is offered in.

    Parameters
    ----------
    feature_set : FeatureSet
        Must know its categories.
    item, columns : str, sequence of str
        The raw column that names an item, and further ones of its own. Who names an item need not be a feature.

    Attributes
    ----------
    item_places, context_places : list of int
        Where the features of each are in the whole set.
    item, context : Encoder
        Code the features of each alone; a key of the context does not change where only the items' features do.
    codes : callable
        Codes of the context followed by codes of an item, to the codes of the whole row.
    anyway : bytes
        Key of the list over all contexts.

    Raises
    ------
    DataError
        Nobody reads one of the columns; or nothing is left for an item, or for the context.
    """

    def __init__(self, feature_set: FeatureSet, item: str, columns: typing.Sequence[str]) -> None:
        for i, column in enumerate(columns):
            if column not in feature_set.columns or column == item or column in columns[:i]:
                known = ", ".join(name for name in feature_set.columns if name != item)
                what = f"no feature reads {column!r:.80}, or it stands twice"
                raise DataError(what, field="lists.columns", fix=f"Features read {known}.")
        own = {item, *columns}
        places = range(len(feature_set.feature))
        self.item_places = [i for i in places if feature_set.feature[i].column in own]
        self.context_places = [i for i in places if feature_set.feature[i].column not in own]
        if not self.item_places:
            raise DataError(
                "no feature is an item's own, so all items would score alike",
                field="lists.columns",
                fix="Name the columns that differ from item to item.",
            )
        if not self.context_places:
            raise DataError(
                "no feature is left for the context, so all lists would be the same",
                field="lists.columns",
                fix="Take out what is not the item's own.",
            )
        self.item, self.context = (
            Encoder(FeatureSet(name=feature_set.name, feature=tuple(feature_set.feature[i] for i in part)))
            for part in (self.item_places, self.context_places)
        )
        order = [*self.context_places, *self.item_places]
        self.codes: typing.Callable[[Codes], Codes] = operator.itemgetter(*map(order.index, places))
        self.anyway = self.context.coarse_key(())(())


def check_lists(table: PrecomputedTable, lists: Lists, anyway: bytes) -> None:
    """Look at every list: whole places within the catalogue, each once, scores that do not rise.

    Parameters
    ----------
    table : PrecomputedTable
        The table; its keys and numbers are checked too.
    anyway : bytes
        Key of the list over all contexts, which must be there.

    Raises
    ------
    WireError
        What is wrong; from lists that pass an answer can be read without further checks.
    """
    table.check()
    n = lists.length
    if table.n_outputs != 2 * n:
        raise WireError(f"{table.n_outputs} numbers a list, not {2 * n}", field="lists")
    for row, (_, numbers) in enumerate(table.items()):
        places, scores = numbers[:n], numbers[n:]
        if not all(place == int(place) and 0 <= place < lists.n_items for place in places):
            raise WireError(f"a place is none of 0 to {lists.n_items - 1}", field=f"lists[{row}]")
        if len(set(places)) != n:
            raise WireError("an item is there twice", field=f"lists[{row}]")
        if any(a < b for a, b in itertools.pairwise(scores)):
            raise WireError("a score is higher than the one before it", field=f"lists[{row}]")
    if table.get(anyway) is None:
        raise WireError("the list over all contexts is missing", field="lists")
