"""Labels and selectors: what is one, which devices one means, and what a group of them takes."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.errors import UsageError
from shared.labels import (
    MAX_LABELS,
    Group,
    Labels,
    Selector,
    check_labels,
    check_where,
    covers,
    in_force,
    matches,
    parse_labels,
    share_of,
    without_needless,
)

LABELS = st.dictionaries(st.sampled_from("abc"), st.sampled_from("xyz"), max_size=3)
WHERE = st.dictionaries(st.sampled_from("abc"), st.sets(st.sampled_from("xyz"), min_size=1).map(tuple), max_size=3)
GROUPS = st.lists(st.builds(Group, where=WHERE, device_share_bp=st.sampled_from([0, 1, 2500, 10_000])), max_size=5)


@pytest.mark.parametrize(
    ("texts", "says"),
    [
        (["store"], "is not KEY=VALUE"),
        (["=flagship"], "not the name of a label"),
        (["Store=flagship"], "not the name of a label"),
        (["a b=flagship"], "not the name of a label"),
        ([f"{'k' * 64}=x"], "not the name of a label"),
        (["store="], "not a label's value"),
        (["store=a b"], "not a label's value"),
        (["store=-a"], "not a label's value"),
        (["store=a\n"], "not a label's value"),
        ([f"store={'v' * 64}"], "not a label's value"),
        (["store=a", "store=b"], "named twice"),
        ([f"k{i}=x" for i in range(MAX_LABELS + 1)], "at most 16"),
    ],
)
def test_what_is_no_label_is_refused_by_name(texts: list[str], says: str) -> None:
    with pytest.raises(UsageError, match=says) as refused:
        parse_labels(texts, "--label")
    assert refused.value.field.startswith("--label")


@pytest.mark.parametrize(
    ("where", "field"),
    [
        ({"store": ()}, "where.store"),
        ({"Store": ("a",)}, "where"),
        ({"store": ("",)}, "where.store"),
        ({"store": tuple(f"v{i}" for i in range(65))}, "where.store"),
        ({f"k{i}": ("a",) for i in range(9)}, "where"),
    ],
)
def test_a_selector_that_means_nobody_or_too_much_is_refused(where: dict[str, tuple[str, ...]], field: str) -> None:
    with pytest.raises(UsageError) as refused:
        check_where(where, "where")
    assert refused.value.field == field


@given(st.dictionaries(st.text(max_size=5), st.text(max_size=5), max_size=3))
def test_what_people_may_write_is_what_goes_over_the_wire(labels: dict[str, str]) -> None:
    def good(labels: dict[str, str]) -> bool:
        try:
            check_labels(labels, "labels")
        except UsageError:
            return False
        return True

    try:
        msgspec.json.decode(msgspec.json.encode(labels), type=Labels)
    except msgspec.ValidationError:
        assert not good(labels)
    else:
        assert good(labels)


@given(LABELS, LABELS)
def test_what_the_fleet_has_given_counts_over_what_the_owner_says(
    owners: dict[str, str], given: dict[str, str]
) -> None:
    said = in_force(owners, given, ["int8"])
    assert given.items() <= said.items()
    assert {key: value for key, value in owners.items() if key not in given}.items() <= said.items()
    assert said["class"] == given.get("class", owners.get("class", "int8"))
    assert set(said) == {"class", *owners, *given}


def test_the_class_of_a_device_of_which_nobody_says_one_is_a_label() -> None:
    assert [in_force({}, {}, variants)["class"] for variants in ([], ["int8"], ["no label!"])] == [
        "standard", "int8", "standard",
    ]  # fmt: skip


@given(WHERE, WHERE, LABELS)
def test_a_wider_selector_means_whomever_the_narrower_one_means(
    wide: dict[str, tuple[str, ...]], narrow: dict[str, tuple[str, ...]], labels: dict[str, str]
) -> None:
    if covers(wide, narrow) and matches(narrow, labels):
        assert matches(wide, labels)
    assert covers({}, narrow)
    assert covers(narrow, narrow)


@given(GROUPS, LABELS)
def test_groups_that_others_hold_are_left_out_and_nobodys_share_changes(
    groups: list[Group], labels: dict[str, str]
) -> None:
    kept = without_needless(groups)
    assert set(map(repr, kept)) <= set(map(repr, groups))
    assert share_of(kept, labels) == share_of(groups, labels)
    for i, one in enumerate(kept):
        rest = [*kept[:i], *kept[i + 1 :]]
        assert not any(
            covers(other.where, one.where) and other.device_share_bp >= one.device_share_bp for other in rest
        )


def test_selectors_are_read_back_from_the_wire() -> None:
    where = {"store": ("flagship", "test")}
    assert msgspec.json.decode(msgspec.json.encode(where), type=Selector) == where
