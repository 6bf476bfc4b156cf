"""Assignment is uniform, sticky, independent across salts; a prediction id says what was predicted, or is refused."""

from __future__ import annotations

import base64
import itertools
import string

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shared.errors import DataError
from shared.experiment import (
    BASIS_POINTS,
    PredictionId,
    in_stage,
    model_tag,
    open_prediction_id,
    pick_arm,
    share_of,
)
from shared.versions import ModelVersion

KEY = bytes(range(32))
UNITS = [f"unit-{i}" for i in range(20_000)]
ID = PredictionId(model_tag("late"), ModelVersion(1, 2), 1, 1, 7, 1_700_000_000, 0.25, b"nonce!")
TEXT = ID.seal(KEY)
ALPHABET = string.ascii_letters + string.digits + "-_"


def chi_squared(counts: list[int]) -> float:
    mean = sum(counts) / len(counts)
    return sum((count - mean) ** 2 / mean for count in counts)


@pytest.mark.parametrize("salt", ["a", "salt-of-a-rollout", "ü" * 40, "x" * 64, "x" * 200])
def test_places_are_uniform(salt: str) -> None:
    places = [share_of(salt, unit) for unit in UNITS]
    assert 0 <= min(places) <= max(places) < BASIS_POINTS
    bins = [0] * 100
    for place in places:
        bins[place // 100] += 1
    # 99 degrees of freedom: one in a million is beyond 180.
    assert chi_squared(bins) < 180


@pytest.mark.parametrize(
    ("one", "other"), [("salt-1", "salt-2"), ("x" * 64, "x" * 64 + "/stage"), ("y" * 70 + "1", "y" * 70 + "2")]
)
def test_places_under_two_salts_are_independent(one: str, other: str) -> None:
    cells = [0] * 16
    for unit in UNITS:
        cells[4 * (share_of(one, unit) * 4 // BASIS_POINTS) + share_of(other, unit) * 4 // BASIS_POINTS] += 1
    # 15 degrees of freedom: one in a million is beyond 56.
    assert chi_squared(cells) < 56


def test_a_fresh_salt_gives_the_candidate_to_other_units_and_stages_to_other_devices() -> None:
    for chosen in (lambda salt, unit: pick_arm(salt, unit, 5000), lambda salt, unit: in_stage(salt, unit, 5000)):
        both = sum(chosen("one", unit) and chosen("two", unit) for unit in UNITS) / len(UNITS)
        assert 0.2 < both < 0.3


def test_a_device_that_takes_part_is_not_more_often_given_the_candidate() -> None:
    salt = "x" * 64  # the longest a channel may have
    inside = [unit for unit in UNITS if in_stage(salt, unit, 5000)]
    arms = [pick_arm(salt, unit, 5000) for unit in inside]
    assert 0.47 < sum(arms) / len(arms) < 0.53


@given(st.text(), st.text(), st.integers(0, BASIS_POINTS), st.integers(0, BASIS_POINTS))
@settings(deadline=None)
def test_a_unit_stays_in_its_arm_and_a_growing_share_only_adds(salt: str, unit: str, low: int, high: int) -> None:
    low, high = sorted((low, high))
    assert pick_arm(salt, unit, low) == pick_arm(salt, unit, low)
    assert pick_arm(salt, unit, low) <= pick_arm(salt, unit, high)
    assert in_stage(salt, unit, low) <= in_stage(salt, unit, high)
    assert (pick_arm(salt, unit, 0), pick_arm(salt, unit, BASIS_POINTS)) == (0, 1)


def test_the_share_of_candidates_is_the_one_asked_for() -> None:
    for share in (100, 2500, 5000, 9900):
        got = sum(pick_arm("salt", unit, share) for unit in UNITS) / len(UNITS)
        assert abs(got - share / BASIS_POINTS) < 0.015


def test_places_never_change_from_one_program_to_the_next() -> None:
    assert [share_of("salt", unit) for unit in ("till-7", "", "ü")] == [4841, 9961, 9606]


def test_models_have_different_tags() -> None:
    tags = {model_tag(f"model-{i}") for i in range(1000)}
    assert len(tags) == 1000
    assert all(0 <= tag < 2**32 for tag in tags)


ids = st.builds(
    PredictionId,
    model=st.integers(0, 2**32 - 1),
    version=st.builds(ModelVersion, st.integers(1, 65535), st.integers(0, 65535)),
    arm=st.integers(0, 1),
    source=st.integers(0, 3),
    epoch=st.integers(0, 2**32 - 1),
    event_s=st.integers(0, 2**32 - 1),
    score=st.floats(width=32, allow_nan=False),
    nonce=st.binary(min_size=6, max_size=6),
)


@given(ids, st.binary(min_size=1, max_size=64))
@settings(deadline=None)
def test_an_id_says_all_that_was_put_in(made: PredictionId, key: bytes) -> None:
    text = made.seal(key)
    assert len(text) == 50
    assert set(text) <= set(ALPHABET)
    assert open_prediction_id(text, key) == made


def test_any_changed_character_is_refused() -> None:
    for at, letter in itertools.product(range(len(TEXT)), ALPHABET + "=!+/ \n"):
        changed = TEXT[:at] + letter + TEXT[at + 1 :]
        if changed != TEXT:
            with pytest.raises(DataError, match="prediction_id"):
                open_prediction_id(changed, KEY)


@pytest.mark.parametrize("more", ["=", "==", "A", "!", "\n", " ", "\0", "-"])
def test_an_added_or_a_lost_character_is_refused(more: str) -> None:
    for at in range(len(TEXT) + 1):
        with pytest.raises(DataError):
            open_prediction_id(TEXT[:at] + more + TEXT[at:], KEY)
    for at in range(len(TEXT)):
        with pytest.raises(DataError):
            open_prediction_id(TEXT[:at] + TEXT[at + 1 :], KEY)


def test_the_other_alphabet_of_base64_is_refused() -> None:
    plain = next(text for n in range(256) if {"-", "_"} & set(text := ID._replace(nonce=bytes([n]) * 6).seal(KEY)))
    with pytest.raises(DataError):
        open_prediction_id(plain.replace("-", "+").replace("_", "/"), KEY)


def test_an_id_of_another_device_is_refused_with_what_to_do() -> None:
    with pytest.raises(DataError, match=r"was not made by this device\. Post outcomes where you predicted") as caught:
        open_prediction_id(TEXT, KEY[::-1])
    assert caught.value.field == "prediction_id"


def test_an_id_of_another_format_is_refused() -> None:
    raw = bytearray(base64.urlsafe_b64decode(TEXT + "=="))
    raw[0] = 2
    with pytest.raises(DataError, match="is not a prediction id"):
        open_prediction_id(base64.urlsafe_b64encode(raw).decode().rstrip("="), KEY)


@given(st.text())
@settings(deadline=None)
def test_no_text_does_anything_but_a_data_error(text: str) -> None:
    with pytest.raises(DataError):
        open_prediction_id(text, KEY)


def test_a_text_of_megabytes_is_refused_and_not_repeated() -> None:
    with pytest.raises(DataError) as caught:
        open_prediction_id("A" * 5_000_000, KEY)
    assert len(str(caught.value)) < 200
