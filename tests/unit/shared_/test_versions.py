"""Versions and names: read, ordered, counted up, and nothing else let through."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.errors import UsageError
from shared.versions import ModelVersion, check_name, next_stateful, next_stateless, parse_version

versions = st.builds(ModelVersion, st.integers(1, 65535), st.integers(0, 65535))


@given(versions)
def test_a_version_survives_being_written_down(version: ModelVersion) -> None:
    assert parse_version(str(version)) == version
    assert version.is_stateful == ("." in str(version))


@pytest.mark.parametrize(
    "text",
    ["", "v", "1", "v0", "v01", "v1.0", "v1.", "v1.1.1", "V1", " v1", "v1\n", "v65536", "v1.65536", "v1\u0662", "v-1"],
)
def test_what_is_no_version_is_refused_with_how_to_write_one(text: str) -> None:
    with pytest.raises(UsageError, match=r"Write it like v1 or v1\.1") as caught:
        parse_version(text)
    assert caught.value.field == "version"


def test_versions_order_as_the_field_does() -> None:
    texts = ["v1", "v1.1", "v1.2", "v1.10", "v2", "v2.1", "v10"]
    assert sorted(map(parse_version, reversed(texts))) == [parse_version(text) for text in texts]


@given(st.sets(versions, max_size=9), versions)
def test_a_next_version_is_new_and_larger(taken: set[ModelVersion], base: ModelVersion) -> None:
    fresh = next_stateless(taken)
    assert not fresh.is_stateful
    assert all(fresh > version for version in taken)
    more = next_stateful(base, taken | {base})
    assert more.is_stateful
    assert more > base
    assert more not in taken
    assert more.major == base.major


@pytest.mark.parametrize("name", ["a", "late", "north-1", "a_b.c", "x" * 63, "a1"])
def test_a_name_is_let_through(name: str) -> None:
    assert check_name(name, "model") == name


@pytest.mark.parametrize(
    "name",
    ["", "A", "1a", "-a", "a-", "a--b", "a..b", "..", ".", "a/b", "a\\b", "a b", "a\n", "ä", "x" * 64, "a\0", "a%2e"],
)
def test_what_could_be_a_path_or_confuse_one_is_no_name(name: str) -> None:
    with pytest.raises(UsageError, match="is not a name") as caught:
        check_name(name, "model")
    assert caught.value.field == "model"
