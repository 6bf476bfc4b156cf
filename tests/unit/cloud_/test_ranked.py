"""Ranked lists made beforehand: the catalogue, the best items of each context, the budget, and what they are worth."""

from __future__ import annotations

import math
import typing

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cloud.export import ranked
from cloud.export.catalogue import Catalogue, catalogue
from shared.errors import ConfigError, DataError, ModelError
from shared.features import Categorical, FeatureSet, Numeric
from shared.features.columns import encode_columns, expand
from shared.lists import Items, Split, check_lists
from shared.precomputed import PrecomputedTable

FEATURES = FeatureSet(
    name="f",
    feature=(
        Categorical(name="w", categories=("a", "b", "c")),
        Numeric(name="price", min=-9, max=9),
        Numeric(name="hour", min=0, max=23),
    ),
)
COLUMNS: dict[str, list[typing.Any]] = {
    "film": ["up", "heat", "up", "jaws", "heat", "up"],
    "w": ["a", "b", "a", "a", "b", "c"],
    "price": [1.0, 2.0, 1.5, -1.0, 2.5, 3.0],
    "hour": [9.0] * 6,
}
CODES = encode_columns(FEATURES, COLUMNS)
SPLIT = Split(FEATURES, "film", ("price",))


def answer(inputs: np.ndarray) -> np.ndarray:
    """A model of two classes: dear films are liked, cheap ones where the word is b."""
    words, price = inputs[:, :4], inputs[:, 4]
    p = 1 / (1 + np.exp(-price * (1 - 2 * words[:, 1])))
    return np.stack([1 - p, p], axis=1).astype(np.float32)


def build(model: typing.Any = answer, **changes: typing.Any) -> ranked.Ranked:
    known = catalogue(COLUMNS, "film", ("price",), changes.pop("max_items", 9))
    fields = {"item": "film", "length": 2, "budget_bytes": 1 << 16, "model_sha256": "ab" * 32, "say": lambda _: None}
    return ranked.build(FEATURES, known, CODES, model, **fields | changes)


def lists(made: ranked.Ranked) -> dict[bytes, list[int]]:
    return {key: [int(n) for n in numbers[: made.says.length]] for key, numbers in PrecomputedTable(made.table).items()}


def key(word: str) -> bytes:
    return SPLIT.context.key(SPLIT.context.encode({"w": word, "hour": 9}))


# ---- the catalogue


def test_items_stand_as_they_were_first_seen_with_the_values_they_had_last() -> None:
    known = catalogue(COLUMNS, "film", ("price", "hour"), 9)
    assert known.items == Items(
        ids=("up", "heat", "jaws"), columns=("price", "hour"), rows=((3.0, 9.0), (2.5, 9.0), (-1.0, 9.0))
    )
    assert known.rows.tolist() == [5, 4, 3]


def test_later_rows_leave_the_places_of_known_items_as_they_are() -> None:
    later = {name: [*values, values[0]] for name, values in COLUMNS.items()} | {"film": [*COLUMNS["film"], "alien"]}
    assert catalogue(later, "film", ("price",), 9).items.ids == ("up", "heat", "jaws", "alien")


def test_of_too_many_items_the_most_frequent_stay_in_their_order() -> None:
    assert catalogue(COLUMNS, "film", (), 2).items.ids == ("up", "heat")
    assert catalogue(COLUMNS | {"film": ["x", "jaws", "jaws", "up", "up", "up"]}, "film", (), 2).items.ids == (
        "jaws",
        "up",
    )


def test_items_are_named_by_words_and_whole_numbers_and_may_be_missing() -> None:
    known = catalogue({"film": [7.0, "7", None, "", math.nan, 7, -1]}, "film", (), 9)
    assert known.items.ids == (7, "7", -1)
    for odd in (1.5, True, math.inf):
        with pytest.raises(DataError, match="names no item") as caught:
            catalogue({"film": ["up", odd]}, "film", (), 9)
        assert caught.value.field == "row 2, film"
    with pytest.raises(DataError, match="no row names an item"):
        catalogue({"film": [None, ""]}, "film", (), 9)


# ---- lists


def test_each_context_has_the_best_items_of_the_whole_catalogue_whoever_was_seen_in_it() -> None:
    made = build()
    assert made.says == msgspec.structs.replace(made.says, length=2, n_items=3, columns=("price",))
    assert made.says.context == ("w", "hour")
    assert lists(made) == {key("a"): [0, 1], key("b"): [2, 1], key("c"): [0, 1], SPLIT.anyway: [0, 1]}
    table = PrecomputedTable(made.table)
    check_lists(table, made.says, SPLIT.anyway)
    assert (table.features_sha256, table.model_sha256) == (FEATURES.digest, "ab" * 32)
    found = table.get(key("b"))
    assert found is not None
    assert found[2:] == pytest.approx([1 / (1 + math.exp(-1)), 1 / (1 + math.exp(2.5))], abs=1e-6)


def test_the_list_over_all_contexts_goes_by_the_mean_score_each_context_as_often_as_it_was_seen() -> None:
    made = build(lambda inputs: (inputs[:, 4] * (1 - 5 * inputs[:, 1]))[:, None])  # where the word is b: times -4
    (numbers,) = [numbers for key, numbers in PrecomputedTable(made.table).items() if key == SPLIT.anyway]
    # b was seen two times of six, so that the mean is -2/3 of the price.
    assert numbers == pytest.approx((2, 1, 2 / 3, -5 / 3), abs=1e-6)


def test_a_list_is_no_longer_than_the_catalogue() -> None:
    assert build(length=20).says.length == 3


def test_a_regression_goes_by_its_value_and_equals_stay_in_the_order_of_the_catalogue() -> None:
    assert lists(build(lambda inputs: inputs[:, 4:5]))[key("a")] == [0, 1]
    assert lists(build(lambda inputs: np.zeros((len(inputs), 1))))[key("a")] == [0, 1]


def test_the_most_frequent_contexts_have_the_room_that_the_catalogue_leaves() -> None:
    room = len(build().table) + len(build().items)
    assert set(lists(build(budget_bytes=room))) == {key("a"), key("b"), key("c"), SPLIT.anyway}
    small = build(budget_bytes=room - 1)
    assert len(small.table) + len(small.items) <= room - 1
    assert set(lists(small)) == {key("a"), key("b"), SPLIT.anyway}
    with pytest.raises(ConfigError, match="too few for the catalogue's") as caught:
        build(budget_bytes=200)
    assert caught.value.field == "lists.budget_bytes"


def test_a_score_that_is_not_finite_is_refused() -> None:
    with pytest.raises(ModelError, match="not finite"):
        build(lambda inputs: np.full((len(inputs), 1), np.nan))


def test_whoever_waits_hears_how_far_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ranked, "_TELL_EVERY_ROWS", 4)
    monkeypatch.setattr(ranked, "_MOST_ROWS", 3)
    said: list[str] = []
    build(say=said.append)
    assert said == ["ranking 3 items for 3 contexts", "  2 contexts are ranked"]


@settings(deadline=None, max_examples=60)
@given(
    prices=st.lists(st.sampled_from([-2.0, 0.0, 1.0, 5.0]), min_size=1, max_size=12),
    words=st.lists(st.sampled_from("abcd"), min_size=1, max_size=12),
    rows=st.integers(1, 20),
)
def test_in_batches_of_any_size_every_item_is_scored_in_every_context(
    prices: list[float], words: list[str], rows: int
) -> None:
    items = encode_columns(FEATURES, {"w": ["a"] * len(prices), "price": prices, "hour": [1.0] * len(prices)})
    contexts = encode_columns(FEATURES, {"w": words, "price": [9.0] * len(words), "hour": [2.0] * len(words)})
    seen: list[int] = []

    def counted(inputs: np.ndarray) -> np.ndarray:
        seen.append(len(inputs))
        return answer(inputs)

    ranker = ranked.Ranker(FEATURES, SPLIT, items, counted)
    ranker._n_rows = rows
    got = ranker.scores(contexts)
    pairs = {
        "w": [w for w in words for _ in prices],
        "price": prices * len(words),
        "hour": [2.0] * len(words) * len(prices),
    }
    wanted = answer(expand(FEATURES, encode_columns(FEATURES, pairs)))[:, 1]
    assert got.ravel().tolist() == wanted.tolist()
    assert max(seen) <= rows


# ---- what they are worth


def test_a_report_counts_later_rows_and_looks_at_the_lists_beside_the_model() -> None:
    known = catalogue(COLUMNS, "film", ("price",), 9)
    later = encode_columns(FEATURES, {"w": ["a", "a", "d", "b"], "price": [0.0] * 4, "hour": [9.0, 9.0, 9.0, 8.0]})
    seen = ["up", "new", None, "jaws"]

    def worth(model: typing.Any) -> ranked.ListsReport:
        return ranked.report(build(), FEATURES, known, CODES, later, seen, model, source="model")

    same = worth(answer)
    assert (same.n_contexts, same.n_items, same.length) == (3, 3, 2)
    assert (same.coverage, same.known, same.agreement) == (0.5, 0.5, 1.0)
    assert same.size_bytes == len(build().table) + len(build().items)
    other = worth(lambda inputs: -inputs[:, 4:5])  # its best two are the third and the second
    assert other.agreement == 0.5
    assert "2 of 3 items for 3 contexts (model)" in same.said


def test_without_later_rows_nothing_is_covered() -> None:
    known: Catalogue = catalogue(COLUMNS, "film", ("price",), 9)
    worth = ranked.report(build(), FEATURES, known, CODES, CODES[:0], [], answer, source="model")
    assert (worth.coverage, worth.known, worth.agreement) == (0.0, 0.0, 1.0)
