"""Read CSV and Parquet into plain columns."""

from __future__ import annotations

import datetime as dt
import pathlib
import typing

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
import pyarrow.parquet as pq

from shared.errors import DataError, line_words
from shared.features import Bucketed, FeatureSet, Numeric

Columns = dict[str, list[object]]
MAX_ROWS = 200_000_000
_PARQUET = b"PAR1"
_UNREADABLE = (OSError, pa.ArrowException, ValueError, OverflowError, KeyError)


def read_table(path: pathlib.Path) -> pa.Table:
    """Read a file; Parquet is known by its first bytes, anything else is taken for CSV with a header.

    Raises
    ------
    DataError
        Not there, empty, not readable, a column twice or without a name, or several values in a cell; the message has
        the line where the reader has it.
    """
    try:
        with path.open("rb") as file:
            start = file.read(4)
        if not start:
            raise DataError("the file is empty", field=str(path), fix="A CSV begins with the names of its columns.")
        table = read_parquet(path) if start == _PARQUET else _read_csv(path)
        table.validate(full=True)
        names = table.column_names
    except (FileNotFoundError, IsADirectoryError, NotADirectoryError, PermissionError) as err:
        raise DataError(line_words(err), field=str(path)) from err
    except _UNREADABLE as err:
        raise DataError(
            f"can not be read: {err}", field=str(path), fix="Send CSV (UTF-8, with a header) or Parquet."
        ) from err
    repeated = [name for i, name in enumerate(names) if name in names[:i]]
    if repeated:
        raise DataError(f"the column {repeated[0]!r} stands twice", field=str(path), fix="Rename one.")
    if "" in names:
        raise DataError("a column has no name", field=str(path), fix="Name it, or take it out.")
    nested = next((field for field in table.schema if pa.types.is_nested(field.type)), None)
    if nested is not None:
        raise DataError(
            f"the column {nested.name!r} holds {nested.type}", field=str(path), fix="Send one value in each cell."
        )
    if table.num_rows == 0:
        raise DataError("there are no rows", field=str(path))
    return table


def read_parquet(source: pathlib.Path | bytes) -> pa.Table:
    """Read Parquet in this thread alone.

    `pyarrow.parquet.read_table` lets go of a Python file in a thread of its own; where that happens while the
    interpreter ends, the process aborts after its work is done (github.com/apache/arrow/issues/33975).
    """
    with pq.ParquetFile(pa.BufferReader(source) if isinstance(source, bytes) else source, pre_buffer=False) as file:
        return file.read(use_threads=False)


def _read_csv(path: pathlib.Path) -> pa.Table:
    """Read every column as text, so that each value is judged by its feature and not by a guess about the column."""
    header = pyarrow.csv.open_csv(path).schema.names
    options = pyarrow.csv.ConvertOptions(
        column_types={name: pa.string() for name in header}, strings_can_be_null=True, null_values=["", "NA", "null"]
    )
    return pyarrow.csv.read_csv(path, convert_options=options)


def plain(column: pa.ChunkedArray, *, number: bool) -> list[object]:
    """Return a column as Python values: numbers where the feature wants numbers, else text; times as ISO 8601.

    A text that is no number stays text, so that the feature's coder refuses it with its row.

    Raises
    ------
    DataError
        A value is beyond what Python can hold, such as a time after the year 9999.
    """
    try:
        return _plain(column, number=number)
    except _UNREADABLE as err:
        raise DataError(f"values of type {column.type} can not be read: {err}", field="rows") from err


def _plain(column: pa.ChunkedArray, *, number: bool) -> list[object]:
    if pa.types.is_dictionary(column.type):
        column = column.cast(column.type.value_type)
    if pa.types.is_string_view(column.type) or pa.types.is_large_string(column.type):
        column = column.cast(pa.string())
    if number:
        return _numbers(column)
    if pa.types.is_temporal(column.type):
        return _times(column)
    if pa.types.is_floating(column.type):
        return [int(v) if isinstance(v, float) and v.is_integer() else v for v in column.to_pylist()]
    values: list[object] = column.to_pylist()
    return values


def _times(column: pa.ChunkedArray) -> list[object]:
    """Return text; Python has no nanoseconds, so these are cut off."""
    if pa.types.is_timestamp(column.type):
        column = column.cast(pa.timestamp("us", column.type.tz), safe=False)
    elif pa.types.is_duration(column.type):
        column = column.cast(pa.duration("us"), safe=False)
    elif pa.types.is_time(column.type):
        column = column.cast(pa.time64("us"), safe=False)
    values = column.to_pylist()
    return [value.isoformat() if isinstance(value, dt.date | dt.time) else _text(value) for value in values]


def _text(value: object) -> str | None:
    return None if value is None else str(value)


def _numbers(column: pa.ChunkedArray) -> list[object]:
    if pa.types.is_string(column.type):
        try:
            return typing.cast("list[object]", pc.cast(column, pa.float64()).to_pylist())
        except pa.ArrowInvalid:
            return [_number(value) for value in column.to_pylist()]
    if pa.types.is_decimal(column.type):
        column = column.cast(pa.float64())
    return typing.cast("list[object]", column.to_pylist())


def _number(value: str | None) -> object:
    if value is None:
        return None
    word = value.strip().lower()
    if word in ("true", "false"):
        return word == "true"
    try:
        return value if "_" in word else float(word)
    except ValueError:
        return value


def coerce(columns: Columns, features: FeatureSet) -> Columns:
    """Turn text into numbers where a feature wants numbers.

    A column that was only kept, since no feature read it yet, was stored as the text it came as.
    """
    wanted = {feature.column for feature in features.feature if isinstance(feature, Numeric | Bucketed)}
    return {
        name: [_number(value) if isinstance(value, str) else value for value in values] if name in wanted else values
        for name, values in columns.items()
    }
