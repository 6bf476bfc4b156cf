"""Event time: what is read, what is refused, what is written, and how it is kept within reason."""

from __future__ import annotations

import datetime as dt
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.clock import clamp_event_time, day_of, format_day, format_time, parse_time
from shared.errors import DataError

LAST_S = 4_102_444_800


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        ("1970-01-01", 0.0),
        ("2013-06-01T00:00:00Z", 1_370_044_800.0),
        ("2013-06-01T00:00:00", 1_370_044_800.0),
        ("2013-06-01T02:00:00+02:00", 1_370_044_800.0),
        ("2013-05-31 20:00-04:00", 1_370_044_800.0),
        ("2013-06-01T00:00:00.25Z", 1_370_044_800.25),
        (1_370_044_800, 1_370_044_800.0),
        (0.5, 0.5),
        (0, 0.0),
    ],
)
def test_a_time_is_read_from_iso_8601_and_from_seconds(value: object, seconds: float) -> None:
    assert parse_time(value) == seconds


@pytest.mark.parametrize(
    "value",
    [
        "", "yesterday", "2013-13-01", "17:30", "9999-12-31", "0001-01-01T00:00:00+23:59", "1969-12-31T23:59:59Z",
        "x" * 99,        None, True, [], {}, b"2013-06-01", dt.date(2013, 6, 1),
        -1, -0.001, LAST_S, 1e300, math.nan, math.inf, -math.inf,
        pytest.param(10**400, id="hundreds of digits"), pytest.param(-(10**5000), id="thousands of digits"),
    ],
)  # fmt: skip
def test_what_is_no_time_is_refused_by_field(value: object) -> None:
    with pytest.raises(DataError, match="is not") as caught:
        parse_time(value, "at")
    assert caught.value.field == "at"
    assert len(str(caught.value)) < 120


@given(st.one_of(st.text(), st.floats(), st.integers(), st.datetimes().map(dt.datetime.isoformat)))
def test_whatever_is_said_is_a_time_of_this_age_or_refused(value: object) -> None:
    try:
        seconds = parse_time(value)
    except DataError:
        return
    assert 0 <= seconds < LAST_S


@given(st.integers(0, LAST_S - 1))
def test_whole_seconds_survive_being_written_down(seconds: int) -> None:
    assert parse_time(format_time(seconds)) == seconds
    assert format_time(seconds).startswith(format_day(day_of(seconds)))


@given(st.floats(0, LAST_S), st.floats(0, LAST_S), st.floats(0, 1e8))
def test_a_clamped_time_is_within_the_window_and_kept_if_it_was(event_s: float, now_s: float, window_s: float) -> None:
    clamped = clamp_event_time(event_s, now_s, window_s)
    assert now_s - window_s <= clamped <= now_s + 300
    if now_s - window_s <= event_s <= now_s + 300:
        assert clamped == event_s
