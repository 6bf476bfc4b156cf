"""One value, one code: rows and columns are encoded alike for every kind of value, and keys tell inputs apart."""

from __future__ import annotations

import datetime as dt
import math
import typing

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from shared.errors import DataError
from shared.features import Bucketed, Categorical, Encoder, Feature, FeatureSet, Numeric, TimePart
from shared.features.columns import MAX_PROBLEMS, code_column, encode_columns, expand, row_keys
from shared.features.encoder import check_columns

KINDS: tuple[typing.Any, ...] = (
    Numeric(name="n", min=-1e6, max=1e6),
    Numeric(name="n_clip", min=-2.0, max=2.0, missing=0.5, out_of_range="clip"),
    Bucketed(name="b", cuts=(-1.0, 0.0, 1.0)),
    Bucketed(name="b_clip", cuts=(0.0,), min=-1.0, max=5.0, missing="bucket", out_of_range="clip", encoding="ordinal"),
    Categorical(name="c", categories=("1", "a", "ä", "True")),
    Categorical(name="c_missing", categories=("a",), missing="category", encoding="ordinal"),
    Categorical(name="c_error", categories=("a",), missing="error"),
    TimePart(name="t", part="hour"),
    TimePart(name="t_cut", part="minute_of_day", cuts=(60.0, 720.0)),
    TimePart(name="t_day", part="day_of_year", encoding="ordinal"),
)
numbers = st.one_of(
    st.floats(),
    st.floats(-3, 3),
    st.integers(-3, 3),
    st.integers(),
    st.sampled_from([0, -0.0, 0.0, True, False, 1, 1.0, 10**400, math.nan, math.inf, -math.inf, 2.0**-149]),
)
words = st.one_of(st.text(), st.sampled_from(["a", "ä", "a\u0308", "1", "True", "", "\x00none", " a", "nan"]))
times = st.one_of(
    st.datetimes(timezones=st.one_of(st.none(), st.timezones(), st.just(dt.timezone(dt.timedelta(hours=5))))),
    st.datetimes().map(dt.datetime.isoformat),
    st.sampled_from(["2013-06-01", "2013-06-01T17:30-04:00", "2013-06-01 24:00", "17:30", "20130601T173000Z"]),
)
values = st.one_of(st.none(), numbers, words, times, st.lists(st.integers(), max_size=2), st.binary(max_size=3))


def code_or_refusal(feature: Feature, value: object) -> float | str:
    try:
        (code,) = Encoder(FeatureSet(name="one", feature=(feature,))).encode({feature.name: value})
    except DataError as err:
        return str(err)
    return code


@settings(deadline=None, max_examples=150)
@given(feature=st.sampled_from(KINDS), column=st.lists(values, max_size=8))
@example(feature=Categorical(name="c", categories=("a",)), column=[0.0, -0.0])
def test_a_column_is_coded_as_its_rows_are(feature: Feature, column: list[object]) -> None:
    codes, problems = code_column(feature, column)
    refused = dict(problems)
    for i, value in enumerate(column):
        said = code_or_refusal(feature, value)
        if isinstance(said, str):
            assert str(refused[i]) == said
            assert refused[i].field == feature.name
            assert math.isnan(codes[i])
        else:
            assert i not in refused
            assert codes[i] == said


@settings(deadline=None, max_examples=150)
@given(feature=st.sampled_from(KINDS), value=values)
def test_every_code_that_is_given_fits_into_vector_and_key(feature: Feature, value: object) -> None:
    said = code_or_refusal(feature, value)
    if isinstance(said, str):
        return
    encoder = Encoder(FeatureSet(name="one", feature=(feature,)))
    assert not isinstance(feature, Numeric) or (
        math.isfinite(said) and math.copysign(1, said) == (-1 if said < 0 else 1)
    )
    vector = encoder.vector((said,))
    assert len(vector) == feature.width
    if feature.is_onehot:
        assert list(vector) == [float(i == said) for i in range(feature.width)]
    else:
        assert list(vector) == [said]
    assert len(encoder.key((said,))) == 16


@st.composite
def feature_sets(draw: st.DrawFn) -> tuple[FeatureSet, list[dict[str, object]]]:
    """Some features, and rows that they take."""
    chosen = draw(st.lists(st.sampled_from(KINDS), min_size=1, max_size=6, unique_by=lambda f: f.name))
    feature_set = FeatureSet(name="some", feature=tuple(chosen))
    fitting = {
        Numeric: st.floats(-1e6, 1e6),
        Bucketed: st.one_of(st.floats(-1, 5), st.integers(-1, 5), st.booleans()),
        Categorical: st.one_of(st.text(min_size=1), st.integers()),
        TimePart: st.datetimes(),
    }
    row = st.fixed_dictionaries({f.name: fitting[type(f)] for f in chosen})
    return feature_set, draw(st.lists(row, min_size=1, max_size=5))


@settings(deadline=None, max_examples=50)
@given(feature_sets())
def test_the_model_sees_the_same_input_from_rows_and_from_columns(
    made: tuple[FeatureSet, list[dict[str, object]]],
) -> None:
    feature_set, rows = made
    encoder = Encoder(feature_set)
    matrix = encode_columns(feature_set, {name: [row[name] for row in rows] for name in feature_set.columns})
    inputs = expand(feature_set, matrix)
    assert inputs.dtype == np.float32
    assert inputs.shape == (len(rows), feature_set.width)
    one_by_one = [encoder.encode(row) for row in rows]
    assert [list(encoder.vector(codes)) for codes in one_by_one] == inputs.tolist()
    assert row_keys(encoder, matrix) == [encoder.key(codes) for codes in one_by_one]
    assert [encoder.codes_of(line) for line in matrix.tolist()] == one_by_one


@settings(deadline=None, max_examples=50)
@given(feature_sets())
def test_rows_share_a_key_only_if_the_model_sees_the_same_input(
    made: tuple[FeatureSet, list[dict[str, object]]],
) -> None:
    feature_set, rows = made
    encoder = Encoder(feature_set)
    coded = [encoder.encode(row) for row in rows]
    for one in coded:
        for other in coded:
            assert (encoder.key(one) == encoder.key(other)) == (encoder.vector(one) == encoder.vector(other))


def test_the_same_codes_have_another_key_under_another_feature_set() -> None:
    keys = set()
    for cut in (1.0, 2.0, 3.0):
        encoder = Encoder(FeatureSet(name="one", feature=(Bucketed(name="b", cuts=(cut,)),)))
        keys.add(encoder.key((0,)))
    assert len(keys) == 3


def test_equal_numbers_have_one_key_whatever_their_type() -> None:
    encoder = Encoder(FeatureSet(name="one", feature=(Numeric(name="n", min=-1.0, max=1.0),)))
    assert len({encoder.key(encoder.encode({"n": value})) for value in (0, 0.0, -0.0, False)}) == 1
    assert len({encoder.key(encoder.encode({"n": value})) for value in (1, 1.0, True)}) == 1


def test_a_number_between_two_float32_goes_to_the_nearest() -> None:
    encoder = Encoder(FeatureSet(name="one", feature=(Numeric(name="n", min=-1.0, max=1.0),)))
    assert encoder.encode({"n": 0.1}) == (float(np.float32(0.1)),)
    assert encoder.encode({"n": 1e-60}) == (0.0,)


def test_bounds_as_large_as_a_float32_are_coded_as_they_are() -> None:
    largest = float(np.finfo(np.float32).max)
    feature = Numeric(name="n", min=-largest, max=largest)
    assert feature.problem() == ("", "")
    encoder = Encoder(FeatureSet(name="one", feature=(feature,)))
    assert encoder.encode({"n": largest}) == (largest,)
    with pytest.raises(DataError, match="outside"):
        encoder.encode({"n": largest * 1.01})


@pytest.mark.parametrize(
    ("feature", "value", "code"),
    [
        (KINDS[1], 99, 2.0), (KINDS[1], -99, -2.0), (KINDS[1], None, 0.5), (KINDS[1], "", 0.5),
        (KINDS[1], math.nan, 0.5),
        (KINDS[2], -1.0, 1), (KINDS[2], math.nextafter(-1.0, -2), 0), (KINDS[2], 1, 3), (KINDS[2], 0.999, 2),
        (KINDS[3], None, 2), (KINDS[3], 99, 1), (KINDS[3], -99, 0),
        (KINDS[4], "a", 1), (KINDS[4], 1, 0), (KINDS[4], "a\u0308", 4), (KINDS[4], None, 4), (KINDS[4], "", 4),
        (KINDS[5], None, 2), (KINDS[5], "never seen", 1),
        (KINDS[7], "2013-06-01T17:30:00-04:00", 17), (KINDS[7], "2013-06-01", 0),
        (KINDS[8], "2013-06-01T00:59", 0), (KINDS[8], "2013-06-01T01:00", 1), (KINDS[8], "2013-06-01T12:00", 2),
        (KINDS[9], "2012-12-31", 366),
        (TimePart(name="t", part="weekday"), "2013-06-01", 5), (TimePart(name="t", part="weekend"), "2013-06-01", 1),
        (TimePart(name="t", part="weekend"), "2013-06-03", 0), (TimePart(name="t", part="month"), "2013-06-01", 6),
    ],
)  # fmt: skip
def test_values_have_the_codes_that_their_definition_says(feature: Feature, value: object, code: float) -> None:
    assert code_or_refusal(feature, value) == code


@pytest.mark.parametrize(
    ("feature", "value", "says"),
    [
        (KINDS[0], None, "n: the value is missing"),
        (KINDS[0], 2e6, "n: 2e+06 is outside -1e+06..1e+06. Send a value of the range or null."),
        (KINDS[0], math.inf, "n: inf is not a finite number"),
        (KINDS[0], 10**400, "n: the number is too large"),
        (KINDS[0], "7", "n: '7' is not a number. Send a number."),
        (KINDS[0], [1], "n: [1] is not a number. Send a number."),
        (KINDS[2], None, "b: the value is missing"),
        (KINDS[4], 1.0, "c: 1.0 is not a word. Send text."),
        (KINDS[4], True, "c: True is not a word. Send text."),
        pytest.param(KINDS[4], 10**5000, "c: this int is not a word. Send text.", id="thousands of digits"),
        (KINDS[6], None, "c_error: the value is missing"),
        (KINDS[7], None, "t: the time is missing"),
        (KINDS[7], 17, "t: 17 is not a time. Write it as ISO 8601."),
        (KINDS[7], "x" * 99, f"t: '{'x' * 39} is not a time. Write it as ISO 8601."),
    ],
)
def test_a_value_that_makes_no_sense_is_refused_by_name(feature: Feature, value: object, says: str) -> None:
    assert code_or_refusal(feature, value) == says


def test_a_time_is_read_as_it_is_written_even_if_two_are_the_same_instant() -> None:
    evening = dt.datetime(2013, 6, 1, 17, tzinfo=dt.timezone(dt.timedelta(hours=-4)))
    column = [evening, evening.astimezone(dt.UTC), evening]
    codes, _ = code_column(TimePart(name="t", part="hour"), column)
    assert codes.tolist() == [17, 21, 17]


def test_the_first_bad_value_of_many_rows_is_told_with_its_row() -> None:
    feature_set = FeatureSet(name="one", feature=(KINDS[0],))
    with pytest.raises(DataError) as caught:
        encode_columns(feature_set, {"n": [1, 2, "three", "four"]})
    assert str(caught.value) == "row 3, n: 'three' is not a number. Send a number."


def test_no_more_problems_are_kept_than_anybody_reads() -> None:
    codes, problems = code_column(KINDS[0], ["x"] * (MAX_PROBLEMS + 5))
    assert len(problems) == MAX_PROBLEMS
    assert np.isnan(codes).all()


def test_a_set_with_words_still_to_be_learned_can_not_encode() -> None:
    with pytest.raises(ValueError, match="still to be learned"):
        Encoder(FeatureSet(name="one", feature=(Categorical(name="c"),)))


def test_two_features_can_read_one_column() -> None:
    feature_set = FeatureSet(
        name="two",
        feature=(TimePart(name="h", source="at", part="hour"), TimePart(name="d", source="at", part="weekday")),
    )
    encoder = Encoder(feature_set)
    assert feature_set.columns == ("at",)
    assert encoder.encode({"at": "2013-06-01T05:00"}) == (5, 5)


def test_an_absent_column_counts_as_missing() -> None:
    encoder = Encoder(FeatureSet(name="one", feature=(KINDS[5],)))
    assert encoder.encode({}) == encoder.encode({"c_missing": None}) == (2,)


@pytest.mark.parametrize(
    ("column", "fix"), [("carier", "Did you mean 'carrier'?"), ("zzz", "Known are carrier, hour."), ("", "Known are")]
)
def test_a_column_that_nobody_reads_is_refused_with_the_nearest_known_one(column: str, fix: str) -> None:
    with pytest.raises(DataError, match="no feature reads this") as caught:
        check_columns({"hour": 1, column: 2}, frozenset({"hour", "carrier"}))
    assert (caught.value.field, caught.value.fix[: len(fix)]) == (column, fix)


def test_a_name_of_megabytes_is_cut_before_the_nearest_column_is_looked_for() -> None:
    with pytest.raises(DataError) as caught:
        check_columns({"ab" * 2_000_000: 1}, frozenset({"abab" * 15, "hour"}))
    assert caught.value.field == "ab" * 30
    assert caught.value.fix == f"Did you mean {'ab' * 30!r}?"
