"""A bundle's ranked lists, ready to look up: the catalogue, the key of a context, and a list's items."""

from __future__ import annotations

import functools
import itertools
import threading
import typing

from shared.bundle import ITEMS_FILE, Lists
from shared.errors import DataError, TrustError, WireError
from shared.features import Encoder
from shared.features.compiled import Codes
from shared.lists import ItemId, Split, check_lists, read_items
from shared.precomputed import PrecomputedTable

Placed = tuple[int, float]
"""An item of a list: its place in the catalogue, and its score."""
_MOST_KEPT = 10_000
_MOST_KEPT_BYTES = 16 << 20


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
    encoder : Encoder
        The bundle's.

    Attributes
    ----------
    ids : tuple
        What the business calls each item.
    own : frozenset
        Raw columns that come from the catalogue, and never from a request.
    code : callable
        Raw values of a context to its codes; DataError as for a row.
    item_s : float
        Seconds that the model took for an item when it scored some of the catalogue last; 0 before that.

    Raises
    ------
    WireError, TrustError, DataError
        The catalogue is another one, or it does not fit the features.
    """

    def __init__(self, table: PrecomputedTable, items: bytes, says: Lists, encoder: Encoder) -> None:
        self.says, self._table, self._packed = says, table, encoder.packed
        features = encoder.feature_set
        self._split = Split(features, says.item, says.columns)
        self.own = frozenset((says.item, *says.columns))
        if {column for column in features.columns if column not in self.own} != set(says.context):
            raise TrustError("the context is not what the features leave for it", field="manifest lists.context")
        read = read_items(items, says)
        self.ids, self._rows = read.ids, read.rows
        self.code, self._key = self._split.context.code, self._split.context.key
        self.n_contexts = table.n_keys - 1
        self.item_s = 0.0
        self._coded: dict[int, Codes] = {}
        starts = itertools.accumulate((feature.width for feature in features.feature), initial=0)
        inputs = [range(start, stop) for start, stop in itertools.pairwise(starts)]
        self._of_context = [i for place in self._split.context_places for i in inputs[place]]
        self._shape = says.n_items, encoder.width
        self._inputs: typing.Any = None
        self._n_inputs, self._keeping = 0, threading.Lock()

    def find(self, codes: Codes) -> list[Placed] | None:
        """Return the list of a coded context, best first; None if it has none."""
        return self._read(self._table.get(self._key(codes)))

    def anyway(self) -> list[Placed]:
        """Return the list over all contexts."""
        return self._read(self._table.get(self._split.anyway)) or []

    def _read(self, found: tuple[float, ...] | None) -> list[Placed] | None:
        n = self.says.length
        return None if found is None else list(zip(map(int, found[:n]), found[n:], strict=True))

    def row(self, place: int) -> dict[str, object]:
        """Return an item's own raw values."""
        values: dict[str, object] = dict(zip(self.says.columns, self._rows[place], strict=True))
        values[self.says.item] = self.ids[place]
        return values

    def codes(self, context: Codes, place: int) -> Codes:
        """Return the codes of a whole row: of an item in a coded context."""
        own = self._coded.get(place)
        if own is None:
            own = self._split.item.code(self.row(place))
            if len(self._coded) < _MOST_KEPT:
                self._coded[place] = own
        return self._split.codes(context + own)

    def inputs(self, context: Codes, start: int, stop: int) -> bytes:
        """Return the model's inputs for some items of the catalogue in a coded context, row after row.

        What is an item's own in them is worked out once, and kept unless it is too much.
        """
        if 4 * self._shape[0] * self._shape[1] > _MOST_KEPT_BYTES:
            return self._coded_inputs(context, start, stop)
        with self._keeping:
            if self._n_inputs < stop:
                self._keep_inputs(context, stop)
        rows = self._inputs[start:stop].copy()
        first = memoryview(self._packed(self.codes(context, start))).cast("f")
        rows[:, self._of_context] = [first[i] for i in self._of_context]
        made: bytes = rows.tobytes()
        return made

    def _coded_inputs(self, context: Codes, start: int, stop: int) -> bytes:
        return b"".join([self._packed(self.codes(context, place)) for place in range(start, stop)])

    def _keep_inputs(self, context: Codes, stop: int) -> None:
        """Keep the inputs of the items up to one."""
        import numpy as np  # which is there wherever there is a model to be run

        if self._inputs is None:
            self._inputs = np.zeros(self._shape, np.float32)
        start = self._n_inputs
        made = np.frombuffer(self._coded_inputs(context, start, stop), np.float32)
        self._inputs[start:stop] = made.reshape(stop - start, self._shape[1])
        self._n_inputs = stop

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
