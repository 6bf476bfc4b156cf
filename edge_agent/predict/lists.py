"""A bundle's ranked lists, ready to look up: the catalogue, the key of a context, and a list's items."""

from __future__ import annotations

import functools
import typing

from shared.bundle import ITEMS_FILE, Lists
from shared.errors import DataError, TrustError, WireError
from shared.features import FeatureSet
from shared.features.compiled import Codes
from shared.lists import ItemId, Split, check_lists, read_items
from shared.precomputed import PrecomputedTable


class Placed(typing.NamedTuple):
    """An item of a list: its place in the catalogue, and its score."""

    place: int
    score: float


class LoadedLists:
    """The ranked lists of one bundle.

    Parameters
    ----------
    table : PrecomputedTable
        ``lists.bin``.
    items : bytes
        ``items.json``.
    says : Lists
        What the manifest says of both.
    feature_set : FeatureSet
        The bundle's.

    Attributes
    ----------
    ids : tuple
        What the business calls each item.
    own : frozenset
        Raw columns that come from the catalogue, and never from a request.
    code : callable
        Raw values of a context to its codes; DataError as for a row.

    Raises
    ------
    WireError, TrustError, DataError
        The catalogue is another one, or it does not fit the features.
    """

    def __init__(self, table: PrecomputedTable, items: bytes, says: Lists, feature_set: FeatureSet) -> None:
        self.says, self._table = says, table
        self._split = Split(feature_set, says.item, says.columns)
        self.own = frozenset((says.item, *says.columns))
        if {column for column in feature_set.columns if column not in self.own} != set(says.context):
            raise TrustError("the context is not what the features leave for it", field="manifest lists.context")
        read = read_items(items, says)
        self.ids, self._rows = read.ids, read.rows
        self.code, self._key = self._split.context.code, self._split.context.key
        self.n_contexts = table.n_keys - 1

    def find(self, codes: Codes) -> list[Placed] | None:
        """Return the list of a coded context, best first; None if it has none."""
        return self._read(self._table.get(self._key(codes)))

    def anyway(self) -> list[Placed]:
        """Return the list over all contexts."""
        return self._read(self._table.get(self._split.anyway)) or []

    def _read(self, found: tuple[float, ...] | None) -> list[Placed] | None:
        n = self.says.length
        return None if found is None else [Placed(int(found[i]), found[n + i]) for i in range(n)]

    def row(self, index: int) -> dict[str, object]:
        """Return an item's own raw values."""
        values: dict[str, object] = dict(zip(self.says.columns, self._rows[index], strict=True))
        values[self.says.item] = self.ids[index]
        return values

    def codes(self, context: Codes, index: int) -> Codes:
        """Return the codes of a whole row: of an item in a coded context."""
        return self._split.codes(context + self._split.item.code(self.row(index)))

    @functools.cached_property
    def places(self) -> dict[ItemId, int]:
        """Id to place in the catalogue."""
        return {name: i for i, name in enumerate(self.ids)}

    def check(self) -> None:
        """Look at every list and every item.

        Raises
        ------
        WireError
            What is wrong; no look-up fails after this.
        """
        check_lists(self._table, self.says, self._split.anyway)
        for i in range(len(self.ids)):
            try:
                self._split.item.code(self.row(i))
            except DataError as err:
                raise WireError(f"the values of {self.ids[i]!r:.60} are refused: {err}", field=ITEMS_FILE) from err
