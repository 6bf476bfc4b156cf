"""Check rows against a feature set: columns, types, ranges, missing values, labels, keys and time order."""

from __future__ import annotations

import collections
import datetime as dt
import math
import time
import typing

import msgspec
import numpy as np
import numpy.typing as npt
import pyarrow as pa

from cloud.config import ModelSettings
from cloud.data.read import Columns, plain
from shared.clock import parse_time
from shared.errors import DataError, nearest, shown
from shared.features import Bucketed, FeatureSet, Numeric
from shared.features.coding import is_missing
from shared.features.columns import code_column
from shared.features.kinds import AnyFeature

EVENT_COLUMN = "__event_s"  # the event time, as parts keep it
_SHOWN = 5
_TOMORROW_S = 86_400
Key = tuple[str, ...]


class Checked(typing.NamedTuple):
    """Rows that passed.

    Parameters
    ----------
    columns : dict
        Raw column to values, in the order of time.
    event_s : array, shape (n,)
        Event time of each row, increasing.
    report : dict
        What was found.
    """

    columns: Columns
    event_s: npt.NDArray[np.float64]
    report: dict[str, object]


class Report(msgspec.Struct):
    """What checking found."""

    rows: int
    missing: dict[str, int]
    rejected: int = 0
    problems: list[str] = []
    out_of_order: int = 0
    duplicate_rows: int = 0


def check_table(
    table: pa.Table,
    features: FeatureSet,
    model: ModelSettings,
    *,
    max_bad_ratio: float = 0.0,
    known: typing.Container[Key] = frozenset(),
    now_s: float | None = None,
) -> Checked:
    """Check a table.

    Parameters
    ----------
    known : container of keys
        Keys of rows that are there already, as `key_of` writes them.
    max_bad_ratio : float
        Share of bad rows that are left out (and counted) instead of refusing the file.

    Raises
    ------
    DataError
        Names the first problems with row and column.
    """
    _check_columns(table.column_names, features, model)
    columns = {name: plain(table[name], number=_is_number(name, features, model)) for name in table.column_names}
    bad: dict[int, str] = {}
    for feature in features.feature:
        _check_feature(feature, columns[feature.column], bad)
    event_s = _times(columns[model.time], model.time, bad, time.time() if now_s is None else now_s)
    columns[model.label] = _labels(columns[model.label], model, bad)
    _check_keys(columns, model, known, bad)
    n = table.num_rows
    # Written so that a limit that is no number allows nothing.
    if bad and not len(bad) <= max_bad_ratio * n:
        shown = [f"row {row + 1}: {message}" for row, message in sorted(bad.items())[:_SHOWN]]
        raise DataError(
            f"{len(bad):,} of {n:,} rows are bad: " + "; ".join(shown),
            field="rows",
            fix="Mend them, or leave out a share of them with --max-bad-ratio.",
        )
    if len(bad) == n:
        raise DataError("no row is left", field="rows", fix="Mend the rows.")
    report = Report(rows=n - len(bad), missing=_missing(columns), rejected=len(bad))
    report.problems = [f"row {row + 1}: {message}" for row, message in sorted(bad.items())[:50]]
    return _sorted(columns, event_s, [i for i in range(n) if i not in bad], report)


def _sorted(columns: Columns, event_s: npt.NDArray[np.float64], good: list[int], report: Report) -> Checked:
    """Keep the good rows, in the order of time."""
    keep = np.array(good, np.int64)
    times = event_s[keep]
    report.out_of_order = int(np.sum(np.diff(times) < 0)) if len(times) > 1 else 0
    order = keep[np.argsort(times, kind="stable")]
    kept: Columns = {name: [values[i] for i in order] for name, values in columns.items()}
    rows = collections.Counter(zip(*kept.values(), strict=True))
    report.duplicate_rows = sum(count - 1 for count in rows.values())
    return Checked(kept, event_s[order], msgspec.structs.asdict(report))


def _check_feature(feature: AnyFeature, values: list[object], bad: dict[int, str]) -> None:
    """Note every row that the feature refuses; only the first ones come with a message of their own."""
    codes, problems = code_column(feature, values)
    for row, err in problems:
        bad.setdefault(row, str(err))
    for row in np.flatnonzero(np.isnan(codes)).tolist():
        bad.setdefault(row, f"{feature.column}: the value does not fit")


def _check_columns(names: list[str], features: FeatureSet, model: ModelSettings) -> None:
    if EVENT_COLUMN in names:
        raise DataError(f"the name {EVENT_COLUMN!r} is taken", field="columns", fix="Rename the column.")
    needed = [*features.columns, model.label, model.time, *model.key]
    missing = [name for name in dict.fromkeys(needed) if name not in names]
    if missing:
        near = nearest(missing[0], names)
        fix = f"Is it {near!r}?" if near else f"The file has {', '.join(names[:20])}."
        raise DataError(f"the column {missing[0]!r} is missing", field="columns", fix=fix)
    unknown = [name for name in names if name not in {*needed, *features.keep}]
    if unknown:
        raise DataError(
            f"nothing reads the column {unknown[0]!r}",
            field="columns",
            fix="Take it out, add a feature, or list it under keep in the feature set.",
        )


def _is_number(name: str, features: FeatureSet, model: ModelSettings) -> bool:
    if name == model.label:
        return model.task == "regression" or not any(isinstance(known, str) for known in model.classes)
    return any(f.column == name and isinstance(f, Numeric | Bucketed) for f in features.feature)


def _times(values: list[object], name: str, bad: dict[int, str], now_s: float) -> npt.NDArray[np.float64]:
    memo: dict[object, float] = {}
    out = np.zeros(len(values))
    for i, value in enumerate(values):
        seconds = memo.get(value)
        if seconds is None:
            try:
                seconds = memo[value] = parse_time(value.isoformat() if isinstance(value, dt.date) else value, name)
            except DataError as err:
                bad.setdefault(i, str(err))
                continue
        if seconds > now_s + _TOMORROW_S:
            bad.setdefault(i, f"{name}: {value} is in the future")
        out[i] = seconds
    return out


def _labels(values: list[object], model: ModelSettings, bad: dict[int, str]) -> list[object]:
    """Bring labels to the type of the classes."""
    out: list[object] = list(values)
    words = bool(model.classes) and all(isinstance(known, str) for known in model.classes)
    for i, value in enumerate(values):
        if is_missing(value):
            bad.setdefault(i, f"{model.label}: the label is missing")
        elif model.task == "regression":
            if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
                bad.setdefault(i, f"{model.label}: {shown(value)} is not a number")
        else:
            label = out[i] = _label(value, words=words)
            if model.classes and label not in model.classes:
                bad.setdefault(i, f"{model.label}: {shown(label)} is not one of {list(model.classes)}")
            elif not isinstance(label, str | int):
                bad.setdefault(i, f"{model.label}: {shown(label)} can not be a class")
    return out


def _label(value: object, *, words: bool) -> object:
    if isinstance(value, float) and value.is_integer():
        return int(value)
    return str(value) if words and isinstance(value, int) and not isinstance(value, bool) else value


def key_of(values: typing.Iterable[object]) -> Key:
    """Return the key of a row: as text, since a number may come as one or the other."""
    return tuple(map(str, values))


def _check_keys(columns: Columns, model: ModelSettings, known: typing.Container[Key], bad: dict[int, str]) -> None:
    if not model.key:
        return
    names = ", ".join(model.key)
    seen: dict[Key, int] = {}
    for i, values in enumerate(zip(*(columns[name] for name in model.key), strict=True)):
        key = key_of(values)
        if any(map(is_missing, values)):
            bad.setdefault(i, f"{names}: the key is missing")
        elif (first := seen.setdefault(key, i)) != i:
            bad.setdefault(i, f"{names}: the same as in row {first + 1}")
        elif key in known:
            bad.setdefault(i, f"{names}: a row with this key was added before")


def _missing(columns: Columns) -> dict[str, int]:
    counts = {name: sum(is_missing(value) for value in values) for name, values in columns.items()}
    return {name: n for name, n in counts.items() if n}
