"""Two clocks: event time (when something happened out there) and wall time (when this machine did something)."""

from __future__ import annotations

import datetime as dt
import math

from shared.errors import DataError, shown

DAY_S = 86_400
FUTURE_SLACK_S = 300
MAX_EVENT_S = 4_102_444_800  # the year 2100


def parse_time(value: object, field: str = "event_time") -> float:
    """Read ISO 8601 text or a number of seconds since 1970.

    Text without an offset counts as UTC.

    Raises
    ------
    DataError
        Neither, or outside 1970 to 2100.

    >>> parse_time("2013-06-01T00:00:00Z")
    1370044800.0
    """
    if isinstance(value, str):
        try:
            moment = dt.datetime.fromisoformat(value)
        except ValueError as err:
            raise DataError(f"{value[:40]!r} is not a time", field=field, fix="Write it as ISO 8601.") from err
        if moment.tzinfo is None:
            moment = moment.replace(tzinfo=dt.UTC)
        seconds = moment.timestamp()
    elif isinstance(value, int | float) and not isinstance(value, bool):
        seconds = float(value) if abs(value) < MAX_EVENT_S else math.inf
    else:
        raise DataError(f"{shown(value)} is not a time", field=field, fix="Write it as ISO 8601.")
    if not 0 <= seconds < MAX_EVENT_S:
        raise DataError(f"{shown(value)} is not between 1970 and 2100", field=field)
    return seconds


def format_time(seconds: float) -> str:
    """Write seconds since 1970 as ISO 8601, UTC, whole seconds.

    >>> format_time(1370044800.7)
    '2013-06-01T00:00:00Z'
    """
    return dt.datetime.fromtimestamp(int(seconds), dt.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def day_of(seconds: float) -> int:
    """Days since 1970 of an event time, UTC."""
    return int(seconds // DAY_S)


def format_day(day: int) -> str:
    """Write a day number as a date.

    >>> format_day(15857)
    '2013-06-01'
    """
    return dt.date.fromordinal(dt.date(1970, 1, 1).toordinal() + day).isoformat()


def clamp_event_time(seconds: float, now_s: float, label_window_s: float) -> float:
    """Keep an event time inside [now - label window, now + 5 minutes], as it must be outside replay mode."""
    return min(max(seconds, now_s - label_window_s), now_s + FUTURE_SLACK_S)
