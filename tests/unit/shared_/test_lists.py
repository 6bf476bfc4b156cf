"""Ranked lists: whose each feature is, what a catalogue must be, and that no damaged file passes for a sound one."""

from __future__ import annotations

import itertools
import struct
import typing

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shared import codec
from shared.bundle import MAX_ITEMS, Lists, parse_manifest
from shared.errors import CoveyError, DataError, WireError
from shared.features import Encoder, FeatureSet, Numeric, TimePart
from shared.lists import Items, Split, check_lists, read_items
from shared.precomputed import PrecomputedTable
from tests import fakes, ranked

SPLIT = ranked.split_of(ranked.CATALOGUE)
SAYS = Lists(length=2, n_items=5, item="note", columns=("x",), context=("colour", "size"))
SOUND = [(3, 0.5), (0, 0.25)]

# ---- whose each feature is


def test_features_are_split_by_the_column_that_they_read() -> None:
    features = FeatureSet(
        name="two",
        feature=(
            TimePart(name="hour", source="at", part="hour"),
            Numeric(name="price", min=0, max=9),
            TimePart(name="weekday", source="at", part="weekday"),
            Numeric(name="age", min=0, max=9),
        ),
    )
    split = Split(features, "film", ("price",))
    assert (split.item_places, split.context_places) == ([1], [0, 2, 3])
    row = {"at": "2025-03-04T17:00:00", "price": 2.5, "age": 7}
    whole = Encoder(features)
    context = split.context.encode({"at": row["at"], "age": row["age"]})
    assert split.codes(context + split.item.encode({"price": 2.5})) == whole.encode(row)


def test_the_column_that_names_an_item_may_be_a_feature_of_it() -> None:
    split = Split(fakes.FEATURES, "colour", ())
    assert (split.item_places, split.context_places) == ([1], [0, 2])


@pytest.mark.parametrize(
    ("item", "columns", "says"),
    [
        ("note", ("price",), "no feature reads 'price'"),
        ("note", ("x", "x"), "or it stands twice"),
        ("x", ("x",), "or it stands twice"),
        ("note", (), "no feature is an item's own"),
        ("x", ("colour", "size"), "no feature is left for the context"),
    ],
)
def test_a_split_that_can_not_work_is_refused(item: str, columns: tuple[str, ...], says: str) -> None:
    with pytest.raises(DataError, match=says) as caught:
        Split(fakes.FEATURES, item, columns)
    assert caught.value.field == "lists.columns"


def test_a_context_keeps_its_key_where_only_the_features_of_items_change() -> None:
    changed = FeatureSet(
        name="late", feature=(Numeric(name="x", min=-99, max=99), *fakes.FEATURES.feature[1:]), keep=("note",)
    )
    assert changed.digest != fakes.FEATURES.digest
    again, codes = Split(changed, "note", ("x",)), SPLIT.context.encode(ranked.RED)
    assert again.context.key(codes) == SPLIT.context.key(codes)
    assert again.anyway == SPLIT.anyway


# ---- the catalogue


def catalogue(**changes: typing.Any) -> bytes:
    fields: dict[str, typing.Any] = {"ids": ("a", 7, "7"), "columns": ("x",), "rows": ((1.5,), (None,), (2,))}
    return codec.to_json(Items(**fields | changes))


def test_a_catalogue_is_read_as_it_was_written() -> None:
    says = Lists(length=1, n_items=3, item="note", columns=("x",), context=("colour",))
    read = read_items(catalogue(), says)
    assert (read.ids, read.columns, read.rows) == (("a", 7, "7"), ("x",), ((1.5,), (None,), (2,)))


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"ids": ("a", "b")}, "2 items, the manifest says 3"),
        ({"rows": ((1,), (2,))}, "the manifest says 3"),
        ({"columns": ("y",)}, "the manifest says 3"),
        ({"ids": ("a", 7, 7)}, "an id is there twice"),
        ({"rows": ((1,), (2, 3), (4,))}, "2 values for 1 columns"),
        ({"ids": ("a", 7, 1.5)}, "expected"),
        ({"ids": ("a", 7, None)}, "expected"),
        ({"rows": ((1,), ([],), (4,))}, "expected"),
    ],
)
def test_another_catalogue_than_the_manifests_is_refused(changes: dict[str, typing.Any], says: str) -> None:
    manifest = Lists(length=1, n_items=3, item="note", columns=("x",), context=("colour",))
    with pytest.raises(WireError, match=says):
        read_items(catalogue(**changes), manifest)


# ---- the file


def checked(lists: typing.Mapping[bytes, typing.Sequence[tuple[float, float]]], says: Lists = SAYS) -> None:
    check_lists(PrecomputedTable(ranked.table(lists, 2, b"")), says, SPLIT.anyway)  # type: ignore[arg-type]


def test_sound_lists_pass() -> None:
    checked({SPLIT.anyway: SOUND, bytes(16): [(4, 0.5), (0, 0.5)]})


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ([(5, 0.5), (0, 0.25)], "a place is none of 0 to 4"),
        ([(-1, 0.5), (0, 0.25)], "a place is none of 0 to 4"),
        ([(0.5, 0.5), (0, 0.25)], "a place is none of 0 to 4"),
        ([(1e30, 0.5), (0, 0.25)], "a place is none of 0 to 4"),
        ([(3, 0.5), (3, 0.25)], "an item is there twice"),
        ([(3, 0.25), (0, 0.5)], "a score is higher"),
    ],
)
def test_a_list_that_makes_no_sense_is_found(wrong: list[tuple[float, float]], says: str) -> None:
    with pytest.raises(WireError, match=says):
        checked({SPLIT.anyway: SOUND, bytes(16): wrong})
    with pytest.raises(WireError, match=says):
        checked({SPLIT.anyway: wrong})


def test_lists_of_another_length_and_without_the_one_over_all_are_found() -> None:
    with pytest.raises(WireError, match="4 numbers a list, not 6"):
        checked({SPLIT.anyway: SOUND}, Lists(length=3, n_items=5, item="note", columns=("x",), context=("colour",)))
    with pytest.raises(WireError, match="the list over all contexts is missing"):
        checked({bytes(16): SOUND})


CONTEXTS = st.fixed_dictionaries(
    {"colour": st.sampled_from(["red", "green", "mauve", None]), "size": st.sampled_from([0, 1, 1.5, 7, None])}
)
PLACES = st.permutations(range(5)).map(lambda order: order[:2])
SCORES = st.lists(st.floats(-1e6, 1e6, width=32), min_size=2, max_size=2).map(lambda two: sorted(two, reverse=True))


@settings(deadline=None)
@given(lists=st.lists(st.tuples(CONTEXTS, PLACES, SCORES), max_size=20))
def test_what_was_stored_for_a_context_is_found_again_and_nothing_else(lists: list[typing.Any]) -> None:
    def code(context: dict[str, typing.Any]) -> tuple[float, ...]:
        return SPLIT.context.code(context)

    said = {code(context): list(zip(places, scores, strict=True)) for context, places, scores in lists}
    stored = {SPLIT.context.key(codes): one for codes, one in said.items()} | {SPLIT.anyway: SOUND}
    table = PrecomputedTable(ranked.table(stored, 2, b""))
    check_lists(table, SAYS, SPLIT.anyway)
    assert table.n_keys == len(said) + 1
    for colour, size in itertools.product(["red", "green", "mauve", None], [0, 1, 1.5, 7, None]):
        codes = code({"colour": colour, "size": size})
        found = table.get(SPLIT.context.key(codes))
        assert (found and list(zip(found[:2], found[2:], strict=True))) == said.get(codes)


@settings(deadline=None, max_examples=200)
@given(at=st.integers(0, 10_000), bit=st.integers(0, 7))
def test_a_flipped_bit_is_found_or_leaves_lists_that_can_be_answered_from(at: int, bit: int) -> None:
    stored = {bytes([i]) * 16: [((i + j) % 5, 0.5 - j / 8) for j in range(2)] for i in range(9)}
    data = bytearray(ranked.table(stored | {SPLIT.anyway: SOUND}, 2, b""))
    data[at % len(data)] ^= 1 << bit
    try:
        table = PrecomputedTable(bytes(data))
        check_lists(table, SAYS, SPLIT.anyway)
    except CoveyError:
        return
    for first, second, high, low in dict(table.items()).values():
        assert {first, second} < set(range(5))
        assert high >= low


def test_the_largest_catalogues_places_survive_a_float32() -> None:
    for place in (MAX_ITEMS - 1, MAX_ITEMS - 2):
        assert struct.unpack("<f", struct.pack("<f", place))[0] == place


# ---- the manifest


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"lists": None}, r"it goes with (lists\.bin|items\.json), and one of them is missing"),
        ({"lists": Lists(length=9, n_items=5, item="note", columns=("x",), context=("colour", "size"))}, "9 places"),
        ({"lists": Lists(length=1, n_items=5, item="x", columns=("x",), context=("colour",))}, "there twice"),
        ({"lists": Lists(length=1, n_items=5, item="note", columns=("x",), context=("x",))}, "there twice"),
        ({"task": "multiclass", "classes": (0, 1)}, "no one score"),
    ],
)
def test_a_manifest_that_speaks_of_impossible_lists_is_refused(changes: dict[str, typing.Any], says: str) -> None:
    made = ranked.with_lists(fakes.make_bundle())
    assert parse_manifest(made.data).lists is not None
    with pytest.raises(WireError, match=says):
        parse_manifest(fakes.seal(made.manifest, made.files, **changes).data)


@pytest.mark.parametrize("name", ["lists.bin", "items.json"])
def test_both_files_are_there_or_none(name: str) -> None:
    made = ranked.with_lists(fakes.make_bundle())
    files = {other: data for other, data in made.files.items() if other != name}
    with pytest.raises(WireError, match="one of them is missing"):
        parse_manifest(fakes.seal(made.manifest, files).data)


def test_an_agent_that_knows_nothing_of_lists_reads_the_manifest_as_before() -> None:
    """As every agent does with a field and a file that it does not know."""
    made = fakes.make_bundle()
    data = fakes.seal(made.manifest, made.files | {"later.bin": b"?"}).manifest.to_bytes()
    later = data.replace(b'"model":', b'"later":{"length":3},"model":', 1)
    assert later != data
    read = parse_manifest(later)
    assert (read.model, read.file("later.bin") is not None) == ("late", True)
