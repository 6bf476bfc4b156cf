"""Ranked lists made beforehand: the best items for the most frequent contexts, and what they are worth."""

from __future__ import annotations

import collections
import typing

import msgspec
import numpy as np
import numpy.typing as npt

from cloud.export.catalogue import Catalogue, name_of
from cloud.export.precompute import Answerer, Floats, n_keys_in
from shared import codec, precomputed
from shared.bundle import Lists
from shared.errors import ConfigError, ModelError
from shared.features import FeatureSet
from shared.features.columns import expand, row_keys
from shared.lists import Split
from shared.precomputed import PrecomputedTable

Columns = typing.Mapping[str, typing.Sequence[object]]
Ints = npt.NDArray[np.int64]
Scores = npt.NDArray[np.float32]
_BATCH_BYTES, _MOST_ROWS = 64 << 20, 1 << 16
_TELL_EVERY_ROWS = 5_000_000
_SAMPLE = 64


class ListsReport(msgspec.Struct, frozen=True, kw_only=True):
    """What the ranked lists are worth.

    Parameters
    ----------
    n_contexts, n_items, length, size_bytes : int
        Contexts that have a list of their own, items to choose from, items in a list, and both files together.
    coverage, known : float
        Share of later rows (the hold-out) whose context has a list; and whose item is one of the catalogue.
    agreement : float
        Share of a list's items that are among the ONNX model's own best, over a sample of the later rows' contexts.
    source : str
        ``model``, or the teacher's class.
    """

    n_contexts: int
    n_items: int
    length: int
    size_bytes: int
    coverage: float
    known: float
    agreement: float
    source: str = "model"

    @property
    def said(self) -> str:
        """All of it in one line."""
        return (
            f"lists: {self.length} of {self.n_items:,} items for {self.n_contexts:,} contexts ({self.source}),"
            f" {self.size_bytes:,} bytes; {self.coverage:.1%} of later rows have one,"
            f" {self.agreement:.1%} of their items are among the model's best"
        )


class Ranked(typing.NamedTuple):
    """What a bundle brings: as the manifest says it, and both files."""

    says: Lists
    table: bytes
    items: bytes


class Ranker:
    """Scores all items of a catalogue in a context.

    Parameters
    ----------
    features : FeatureSet
        The model's.
    split : Split
        Which of them are an item's.
    items : array, shape (n_items, n_features)
        A coded row of each item; only its own features count.
    answer : callable
        Model inputs to answers.
    """

    def __init__(self, features: FeatureSet, split: Split, items: Floats, answer: Answerer) -> None:
        self._features, self._split, self._items, self._answer = features, split, items, answer
        bytes_a_row = 8 * len(features.feature) + 4 * features.width
        self._n_rows = max(1, min(_MOST_ROWS, _BATCH_BYTES // bytes_a_row))
        self.n_items = len(items)
        self.n_together = max(1, self._n_rows // self.n_items)

    def scores(self, contexts: Floats) -> Scores:
        """Return the main score of every item in every context, shape (n, n_items); at most a batch at a time.

        Parameters
        ----------
        contexts : array, shape (n, n_features)
            Coded rows; only the features of the context count.

        Raises
        ------
        ModelError
            A score is not finite.
        """
        out = np.empty(len(contexts) * self.n_items, np.float32)
        for start in range(0, len(out), self._n_rows):
            which, item = np.divmod(np.arange(start, min(start + self._n_rows, len(out))), self.n_items)
            codes = contexts[which].copy()
            codes[:, self._split.item_places] = self._items[item][:, self._split.item_places]
            answers = np.asarray(self._answer(expand(self._features, codes)))
            out[start : start + len(which)] = main_scores(answers)
        if not np.isfinite(out).all():
            raise ModelError("a score of the lists is not finite", field="lists")
        return out.reshape(len(contexts), self.n_items)


def main_scores(answers: npt.NDArray[typing.Any]) -> npt.NDArray[typing.Any]:
    """Return what rows are ordered by: the second of two classes' probability, or the value of a regression."""
    rows = answers.reshape(len(answers), -1)
    return rows[:, -1]


def best(scores: Scores, n: int) -> Ints:
    """Return the places of the n best, best first; equals in the order of the catalogue.

    >>> best(np.array([[0.5, 0.75, 0.5, 0.25]], np.float32), 3).tolist()
    [[1, 0, 2]]
    """
    return np.argsort(-scores, axis=1, kind="stable")[:, :n]


def n_lists_in(budget_bytes: int, items_bytes: int, length: int) -> int:
    """Return how many contexts fit the budget, beside the catalogue and the list over all contexts.

    Raises
    ------
    ConfigError
        Not even one.
    """
    n = n_keys_in(budget_bytes - items_bytes, 2 * length) - 1
    if n < 1:
        raise ConfigError(
            f"{budget_bytes:,} bytes are too few for the catalogue's {items_bytes:,} and a list",
            field="lists.budget_bytes",
            fix="Allow more, or set max_items lower.",
        )
    return n


def build(
    features: FeatureSet,
    known: Catalogue,
    codes: Floats,
    answer: Answerer,
    *,
    item: str,
    length: int,
    budget_bytes: int,
    model_sha256: str,
    say: typing.Callable[[str], None],
) -> Ranked:
    """Rank the catalogue for the most frequent contexts.

    Parameters
    ----------
    codes : array, shape (n, n_features)
        Rows of the training data; the frequencies of their contexts decide.
    length : int
        Items in a list, fewer where there are fewer.

    Raises
    ------
    ConfigError, ModelError
        The budget is too small; a score is not finite.
    """
    split = Split(features, item, known.items.columns)
    items, n_items = codec.to_json(known.items), len(known.rows)
    length = min(length, n_items)
    contexts = _frequent(split, codes, n_lists_in(budget_bytes, len(items), length))
    say(f"ranking {n_items:,} items for {len(contexts):,} contexts")
    entries = _rank(split, Ranker(features, split, codes[known.rows], answer), codes, contexts, length, say)
    table = precomputed.build(entries, n_outputs=2 * length, features_sha256=features.digest, model_sha256=model_sha256)
    context = dict.fromkeys(features.feature[i].column for i in split.context_places)
    says = Lists(length=length, n_items=n_items, item=item, columns=known.items.columns, context=tuple(context))
    return Ranked(says, table, items)


class _Context(typing.NamedTuple):
    key: bytes
    row: int
    n: int


def _frequent(split: Split, codes: Floats, n: int) -> list[_Context]:
    """Return the most frequent contexts, each with one of its rows; ties go to the smaller key."""
    keys = row_keys(split.context, codes[:, split.context_places])
    first = {key: i for i, key in reversed(list(enumerate(keys)))}
    found = [_Context(key, first[key], n) for key, n in collections.Counter(keys).items()]
    return sorted(found, key=lambda one: (-one.n, one.key))[:n]


def _rank(
    split: Split,
    ranker: Ranker,
    codes: Floats,
    contexts: list[_Context],
    length: int,
    say: typing.Callable[[str], None],
) -> dict[bytes, list[float]]:
    """Make each context's list, and the one over all of them: by the mean score, each as often as it was seen."""
    entries: dict[bytes, list[float]] = {}
    total, told = np.zeros(ranker.n_items), 0
    for start in range(0, len(contexts), ranker.n_together):
        part = contexts[start : start + ranker.n_together]
        scores = ranker.scores(codes[[one.row for one in part]])
        total += np.array([one.n for one in part], np.float64) @ scores
        entries |= zip((one.key for one in part), _lists(scores, length), strict=True)
        n_rows = (start + len(part)) * ranker.n_items
        if n_rows > told + _TELL_EVERY_ROWS:
            told = n_rows
            say(f"  {start + len(part):,} contexts are ranked")
    mean = (total / sum(one.n for one in contexts)).astype(np.float32)
    (entries[split.anyway],) = _lists(mean[None], length)
    return entries


def _lists(scores: Scores, length: int) -> list[list[float]]:
    """Write each context's list: places, then scores."""
    places = best(scores, length)
    made: list[list[float]] = np.hstack([places, np.take_along_axis(scores, places, axis=1)]).tolist()
    return made


def report(
    made: Ranked,
    features: FeatureSet,
    known: Catalogue,
    codes: Floats,
    later: Floats,
    later_items: typing.Sequence[object],
    answer: Answerer,
    *,
    source: str,
) -> ListsReport:
    """Measure lists on later rows.

    Parameters
    ----------
    codes, later : array, shape (n, n_features)
        Rows of the training data, in which the items were seen, and later rows.
    later_items : sequence
        Who is named in each later row.
    answer : callable
        Model inputs to the exported model's answers.
    """
    split, table = Split(features, made.says.item, made.says.columns), PrecomputedTable(made.table)
    keys = row_keys(split.context, later[:, split.context_places])
    hits = [i for i, key in enumerate(keys) if table.get(key) is not None]
    names = set(known.items.ids)
    sample = list({keys[i]: i for i in hits}.items())[:_SAMPLE]
    ranker = Ranker(features, split, codes[known.rows], answer)
    shares = []
    for key, row in sample:
        stored = (table.get(key) or ())[: made.says.length]
        own = best(ranker.scores(later[[row]]), made.says.length)[0].tolist()
        shares.append(len(set(own).intersection(map(int, stored))) / len(own))
    n_rows = max(len(keys), 1)
    return ListsReport(
        n_contexts=table.n_keys - 1,
        n_items=made.says.n_items,
        length=made.says.length,
        size_bytes=len(made.table) + len(made.items),
        coverage=len(hits) / n_rows,
        known=sum(name_of(value, i, made.says.item) in names for i, value in enumerate(later_items)) / n_rows,
        agreement=float(np.mean(shares)) if shares else 1.0,
        source=source,
    )
