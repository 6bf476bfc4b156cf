"""Turn one raw value into its code: the single place where a value's meaning is decided, for cloud and device alike."""

from __future__ import annotations

import bisect
import datetime as dt
import math
import struct
import typing

from shared.errors import DataError, shown
from shared.features.kinds import Bucketed, Categorical, Feature, Numeric, TimePart

Coder = typing.Callable[[object], float]
_FLOAT32 = struct.Struct("<f")


def make_coder(feature: Feature) -> Coder:
    """Return the function that codes a raw value of this feature.

    The code of a number is the number, rounded to float32; of anything else a small whole number. The function
    raises DataError with the feature's column as field.
    """
    if isinstance(feature, Numeric):
        return _numeric(feature)
    if isinstance(feature, Bucketed):
        return _bucketed(feature)
    if isinstance(feature, Categorical):
        return _categorical(feature)
    if isinstance(feature, TimePart):
        return _time_part(feature)
    raise TypeError(type(feature))


def is_missing(value: object) -> bool:
    """Whether a raw value says nothing: None, empty text or not-a-number."""
    if value is None or isinstance(value, str):
        return not value
    same: object = value == value  # noqa: PLR0124 - only NaN differs from itself
    return same is False or (same is not True and getattr(same, "shape", None) == () and not same)


def plain(value: object) -> object:
    """Return a single value of NumPy's as one of Python's, and anything else as it is."""
    if getattr(value, "shape", None) == () and hasattr(value, "item"):
        return value.item()
    return value


def word_of(value: object) -> str | None:
    """Return the word that a raw value stands for; None if it is not a word."""
    value = plain(value)
    if isinstance(value, bool) or not isinstance(value, str | int):
        return None
    try:
        return str(value)
    except ValueError:
        return None  # a whole number of thousands of digits


def _refuse(feature: Feature, message: str, fix: str = "") -> DataError:
    return DataError(message, field=feature.column, fix=fix)


def _number(feature: Feature, value: object) -> float:
    value = plain(value)
    if isinstance(value, bool | int | float):
        try:
            number = float(value)
        except OverflowError as err:
            raise _refuse(feature, "the number is too large") from err
        if math.isfinite(number):
            return number
        raise _refuse(feature, f"{number} is not a finite number")
    raise _refuse(feature, f"{shown(value)} is not a number", "Send a number.")


def _in_range(feature: Numeric | Bucketed, number: float) -> float:
    low = -math.inf if feature.min is None else feature.min
    high = math.inf if feature.max is None else feature.max
    if low <= number <= high:
        return number
    if feature.out_of_range == "clip":
        return min(max(number, low), high)
    raise _refuse(feature, f"{number:g} is outside {low:g}..{high:g}", "Send a value of the range or null.")


def _numeric(feature: Numeric) -> Coder:
    def code(value: object) -> float:
        if is_missing(value):
            if feature.missing is None:
                raise _refuse(feature, "the value is missing")
            value = feature.missing
        number = _in_range(feature, _number(feature, value))
        # + 0.0 makes -0.0 plain zero: equal numbers must share a key.
        return float(_FLOAT32.unpack(_FLOAT32.pack(number))[0]) + 0.0

    return code


def _bucketed(feature: Bucketed) -> Coder:
    cuts = feature.cuts

    def code(value: object) -> float:
        if is_missing(value):
            if feature.missing == "error":
                raise _refuse(feature, "the value is missing")
            return len(cuts) + 1
        return bisect.bisect_right(cuts, _in_range(feature, _number(feature, value)))

    return code


def _categorical(feature: Categorical) -> Coder:
    codes = {word: i for i, word in enumerate(feature.categories)}
    other = len(codes)

    def code(value: object) -> float:
        if is_missing(value):
            if feature.missing == "error":
                raise _refuse(feature, "the value is missing")
            return other + (feature.missing == "category")
        word = word_of(value)
        if word is None:
            raise _refuse(feature, f"{shown(value)} is not a word", "Send text.")
        return codes.get(word, other)

    return code


def _time_part(feature: TimePart) -> Coder:
    read = _PARTS[feature.part]
    cuts = feature.cuts

    def code(value: object) -> float:
        if is_missing(value):
            raise _refuse(feature, "the time is missing")
        try:
            moment = value if isinstance(value, dt.datetime) else dt.datetime.fromisoformat(value)  # type: ignore[arg-type]
        except (TypeError, ValueError) as err:
            raise _refuse(feature, f"{shown(value)} is not a time", "Write it as ISO 8601.") from err
        part = read(moment)
        return bisect.bisect_right(cuts, part) if cuts else part

    return code


_PARTS: dict[str, typing.Callable[[dt.datetime], int]] = {
    "hour": lambda moment: moment.hour,
    "minute_of_day": lambda moment: moment.hour * 60 + moment.minute,
    "weekday": lambda moment: moment.weekday(),
    "weekend": lambda moment: int(moment.weekday() >= 5),  # noqa: PLR2004 - Saturday is day 5
    "month": lambda moment: moment.month,
    "day_of_year": lambda moment: moment.timetuple().tm_yday,
}
