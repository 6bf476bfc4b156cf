"""Rows are judged against the feature set: what is wrong is named with row and column, and nothing slips through."""

from __future__ import annotations

import math
import typing

import pyarrow as pa
import pytest

from cloud.config import ModelSettings
from cloud.data.check import Checked, check_table
from shared.clock import DAY_S, format_time, parse_time
from shared.errors import DataError
from shared.features import Bucketed, Categorical, FeatureSet, Numeric, TimePart

NOW_S = parse_time("2025-06-01")
FEATURES = FeatureSet(
    name="f",
    feature=(
        Bucketed(name="price", cuts=(10.0,), min=0, max=100),
        Categorical(name="colour", missing="error"),
        Numeric(name="weight", min=0, max=9, missing=1.0),
        TimePart(name="hour", source="at", part="hour"),
    ),
    keep=("note",),
)
MODEL = ModelSettings(features="f", label="sold", time="at", classes=(0, 1), estimator="x.Y")
GOOD: dict[str, list[typing.Any]] = {
    "at": ["2025-05-01T10:00:00Z", "2025-05-02T10:00:00Z", "2025-05-03T10:00:00Z"],
    "price": ["5", "15", "100"],
    "colour": ["red", "blue", "red"],
    "weight": ["1", None, "3"],
    "sold": ["0", "1", "1"],
}


def check(
    changes: dict[str, typing.Any] | None = None, *, model: ModelSettings = MODEL, max_bad_ratio: float = 0.0
) -> Checked:
    """Check good rows, changed; a column that is None is left out."""
    columns = {name: values for name, values in (GOOD | (changes or {})).items() if values is not None}
    return check_table(pa.table(columns), FEATURES, model, max_bad_ratio=max_bad_ratio, now_s=NOW_S)


def refusal(changes: dict[str, typing.Any], *, model: ModelSettings = MODEL, max_bad_ratio: float = 0.0) -> str:
    """What is said about rows that do not fit."""
    with pytest.raises(DataError) as caught:
        check(changes, model=model, max_bad_ratio=max_bad_ratio)
    return str(caught.value)


def test_good_rows_pass_and_come_out_as_plain_values() -> None:
    checked = check({"note": ["a", None, "c"]})
    assert checked.columns["price"] == [5.0, 15.0, 100.0]
    assert checked.columns["sold"] == [0, 1, 1]
    assert checked.columns["note"] == ["a", None, "c"]
    assert checked.event_s.tolist() == [parse_time(value) for value in GOOD["at"]]
    assert checked.report["rows"] == 3
    assert checked.report["missing"] == {"weight": 1, "note": 1}


@pytest.mark.parametrize(
    ("changes", "part"),
    [
        ({"price": ["x", "1", "2"]}, "row 1: price: 'x' is not a number"),
        ({"price": ["1", "101", "2"]}, "row 2: price: 101 is outside 0..100"),
        ({"price": ["1", "2", None]}, "row 3: price: the value is missing"),
        ({"price": ["1", "2", "inf"]}, "row 3: price: inf is not a finite number"),
        ({"price": ["1", "2", "1e999"]}, "row 3: price: inf is not a finite number"),
        ({"price": [1.0, math.nan, 2.0]}, "row 2: price: the value is missing"),
        ({"colour": ["red", "", "red"]}, "row 2: colour: the value is missing"),
        ({"colour": [1.5, 2.5, 3.5]}, "row 1: colour: 1.5 is not a word"),
        ({"weight": ["1", "-1", "2"]}, "row 2: weight: -1 is outside 0..9"),
        ({"sold": ["0", "1", "2"]}, "row 3: sold: 2 is not one of [0, 1]"),
        ({"sold": ["0", "", "1"]}, "row 2: sold: the label is missing"),
        ({"sold": ["0", "yes", "1"]}, "row 2: sold: 'yes' is not one of [0, 1]"),
        ({"sold": ["0", "0.5", "1"]}, "row 2: sold: 0.5 is not one of [0, 1]"),
        ({"at": ["2025-05-01", "soon", "2025-05-03"]}, "row 2: at: 'soon' is not a time"),
        ({"at": ["2025-05-01", None, "2025-05-03"]}, "row 2: at: the time is missing"),
        ({"at": ["2025-05-01", "1969-12-31", "2025-05-03"]}, "row 2: at: '1969-12-31' is not between 1970 and 2100"),
        ({"at": ["2025-05-01", "2025-06-03", "2025-05-03"]}, "row 2: at: 2025-06-03 is in the future"),
    ],
)
def test_a_bad_value_is_named_with_its_row_and_column(changes: dict[str, typing.Any], part: str) -> None:
    said = refusal(changes)
    assert "of 3 rows are bad" in said
    assert part in said


@pytest.mark.parametrize(
    ("changes", "part"),
    [
        ({"price": None, "prise": ["1", "2", "3"]}, "the column 'price' is missing. Is it 'prise'?"),
        ({"sold": None}, "the column 'sold' is missing. The file has at, price, colour, weight."),
        ({"at": None}, "the column 'at' is missing"),
        ({"colr": ["a", "b", "c"]}, "nothing reads the column 'colr'"),
        ({"__event_s": [1.0, 2.0, 3.0]}, "__event_s"),
    ],
)
def test_missing_and_unknown_columns_are_named_and_the_nearest_is_suggested(
    changes: dict[str, typing.Any], part: str
) -> None:
    assert part in refusal(changes)


@pytest.mark.parametrize(("seconds_ahead", "ok"), [(0, True), (DAY_S, True), (DAY_S + 1, False)])
def test_a_day_ahead_is_a_time_zone_and_more_is_the_future(seconds_ahead: int, ok: bool) -> None:
    times = [format_time(NOW_S), format_time(NOW_S), format_time(NOW_S + seconds_ahead)]
    if ok:
        check({"at": times})
    else:
        assert "is in the future" in refusal({"at": times})


def test_rows_are_sorted_by_time_and_ties_keep_their_order() -> None:
    checked = check({"at": ["2025-05-02", "2025-05-01", "2025-05-01"]})
    assert checked.columns["price"] == [15.0, 100.0, 5.0]
    assert checked.report["out_of_order"] == 1
    assert list(checked.event_s) == sorted(checked.event_s)


def test_rows_that_are_the_same_in_every_column_are_counted() -> None:
    same = {name: [values[0]] * 3 for name, values in GOOD.items()}
    assert check(same).report["duplicate_rows"] == 2


KEYED = ModelSettings(features="f", label="sold", time="at", key=("id", "colour"), estimator="x.Y")


def test_two_rows_with_the_same_key_are_an_error() -> None:
    assert "row 3: id, colour: the same as in row 1" in refusal({"id": ["1", "2", "1"]}, model=KEYED)
    check({"id": ["1", "1", "2"]}, model=KEYED)


def test_a_key_that_is_missing_is_an_error() -> None:
    assert "row 2: id, colour: the key is missing" in refusal({"id": ["1", None, "2"]}, model=KEYED)


@pytest.mark.parametrize("task", ["binary", "multiclass", "regression"])
@pytest.mark.parametrize("label", [0.5, math.inf, -math.inf, "inf", "nan", b"x", "a"])
def test_a_label_that_no_model_of_the_task_can_learn_is_refused(task: typing.Any, label: typing.Any) -> None:
    model = ModelSettings(features="f", label="sold", time="at", task=task, estimator="x.Y")
    fits = (task == "regression" and label == 0.5) or (task != "regression" and label == "a")
    labels = [label] * 3
    if fits:
        check({"sold": labels}, model=model)
    else:
        assert "row 1: sold" in refusal({"sold": labels}, model=model)


@pytest.mark.parametrize(
    ("labels", "classes", "seen"),
    [
        (["0", "1.0", "1"], (), [0, 1, 1]),
        ([0.0, 1.0, 1.0], (0, 1), [0, 1, 1]),
        ([True, False, True], (False, True), [True, False, True]),
        (["true", "False", "true"], (False, True), [True, False, True]),
        (["no", "yes", "no"], ("no", "yes"), ["no", "yes", "no"]),
        (["1", "2", "1"], ("1", "2"), ["1", "2", "1"]),
        ([1, 2, 1], ("1", "2"), ["1", "2", "1"]),
    ],
)
def test_labels_come_to_the_type_of_the_classes(
    labels: list[typing.Any], classes: tuple[typing.Any, ...], seen: list[object]
) -> None:
    model = ModelSettings(features="f", label="sold", time="at", classes=classes, estimator="x.Y")
    assert check({"sold": labels}, model=model).columns["sold"] == seen


# ---- bad rows that may be left out

MANY = 3000
MIXED: dict[str, typing.Any] = {
    "at": ["2025-05-01"] * MANY,
    "price": ["1" if i % 2 else "x" for i in range(MANY)],
    "colour": ["red"] * MANY,
    "weight": ["1"] * MANY,
    "sold": ["1"] * MANY,
}


def test_every_bad_row_is_left_out_however_many_there_are() -> None:
    checked = check(MIXED, max_bad_ratio=0.5)
    assert checked.report["rejected"] == MANY / 2
    assert set(checked.columns["price"]) == {1.0}
    assert len(typing.cast("list[str]", checked.report["problems"])) == 50


@pytest.mark.parametrize("ratio", [0.0, 0.49, math.nan, -1.0])
def test_more_bad_rows_than_allowed_refuse_the_file_and_a_limit_that_is_no_number_allows_none(ratio: float) -> None:
    assert "1,500 of 3,000 rows are bad" in refusal(MIXED, max_bad_ratio=ratio)


def test_a_file_of_which_nothing_is_left_is_refused() -> None:
    assert "no row is left" in refusal({"price": ["x", "y", "z"]}, max_bad_ratio=1.0)
