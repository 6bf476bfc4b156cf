"""Files of rows: CSV and Parquet as the world writes them are read, anything else is refused with a reason."""

from __future__ import annotations

import contextlib
import datetime as dt
import decimal
import pathlib
import tempfile

import hypothesis
import pyarrow as pa
import pytest
from hypothesis import strategies as st

from cloud.data.read import coerce, plain, read_table
from shared.errors import DataError
from shared.features import Categorical, FeatureSet, Numeric
from tests.unit.cloud_.builders import parquet_bytes

PARQUET = parquet_bytes({"at": ["2025-01-01", "2025-01-02"], "x": [1.5, None], "w": ["a", "b"]})


def read(data: bytes) -> dict[str, list[object]]:
    """Read a file with this content."""
    with tempfile.TemporaryDirectory() as folder:
        path = pathlib.Path(folder) / "rows"
        path.write_bytes(data)
        return read_table(path).to_pydict()


@pytest.mark.parametrize(
    ("data", "columns"),
    [
        (b"a,b\n1,2\n", {"a": ["1"], "b": ["2"]}),
        (b"a,b\n1,2", {"a": ["1"], "b": ["2"]}),
        (b"\xef\xbb\xbfa,b\r\n1,2\r\n", {"a": ["1"], "b": ["2"]}),
        (b'a,"b"\n"x, ""y""",""\n', {"a": ['x, "y"'], "b": [None]}),
        (b'a,b\n"two\nlines",2\n', {"a": ["two\nlines"], "b": ["2"]}),
        ("a,b\nzoë,東京\n".encode(), {"a": ["zoë"], "b": ["東京"]}),
        (b"a,b\nNA,null\n,x\n", {"a": [None, None], "b": [None, "x"]}),
        (b"a,b\n007,1e3\n", {"a": ["007"], "b": ["1e3"]}),
    ],
    ids=["plain", "no-last-newline", "bom-crlf", "quotes", "newline-in-quotes", "utf-8", "missing", "stays-text"],
)
def test_csv_is_read_as_text_whatever_its_line_ends_and_quotes(data: bytes, columns: dict[str, list[object]]) -> None:
    assert read(data) == columns


@pytest.mark.parametrize(
    ("data", "part"),
    [
        (b"", "the file is empty"),
        (b"a,b\n", "there are no rows"),
        (b"a,b", "can not be read"),
        (b"\n\n\n", "can not be read"),
        (b"a,b\n1,2\n1,2,3\n", "Expected 2 columns, got 3"),
        (b"a,b\n1\n", "Expected 2 columns, got 1"),
        (b"a,a\n1,2\n", "the column 'a' stands twice"),
        (b",b\n1,2\n", "a column has no name"),
        (b'a,b\n"x,2\n', "can not be read"),
        (b"a,b\n\xe9,2\n", "UTF8"),
        (b"\xe9,b\n1,2\n", "utf-8"),
        ("a,b\n1,2\n".encode("utf-16"), "can not be read"),
        (bytes(range(256)) * 20, "can not be read"),
        (b"PAR1" + bytes(64), "can not be read"),
        (PARQUET[:-9], "can not be read"),
        (PARQUET[: len(PARQUET) // 2], "can not be read"),
        (parquet_bytes({"a": pa.array([], pa.string())}), "there are no rows"),
        (parquet_bytes({"a": [[1, 2]]}), "the column 'a' holds list"),
        (parquet_bytes({"a": [{"b": 1}]}), "the column 'a' holds struct"),
    ],
)
def test_a_file_that_is_no_table_is_refused_with_its_name_and_why(data: bytes, part: str) -> None:
    with pytest.raises(DataError, match="rows") as caught:
        read(data)
    assert part in str(caught.value)


@pytest.mark.parametrize(
    ("name", "says"),
    [("nowhere.csv", "no such file or directory"), (".", "is a directory"), ("rows/deeper", "not a directory")],
)
def test_a_path_that_is_no_file_is_refused_and_not_taken_for_a_broken_csv(
    tmp_path: pathlib.Path, name: str, says: str
) -> None:
    (tmp_path / "rows").touch()
    with pytest.raises(DataError) as caught:
        read_table(tmp_path / name)
    assert str(caught.value) == f"{tmp_path / name}: {says}"


def read_or_refused(data: bytes) -> dict[str, list[object]]:
    """Read a file; nothing if it is refused as it should be."""
    with contextlib.suppress(DataError):
        return read(data)
    return {}


@hypothesis.given(st.binary(max_size=400))
def test_any_bytes_are_rows_or_a_data_error(data: bytes) -> None:
    columns = read_or_refused(data)
    assert len({len(values) for values in columns.values()}) <= 1


@hypothesis.given(st.integers(0, len(PARQUET) - 1), st.integers(1, 255))
def test_a_parquet_file_with_a_flipped_byte_is_rows_or_a_data_error(at: int, flip: int) -> None:
    data = bytearray(PARQUET)
    data[at] ^= flip
    assert len({len(values) for values in read_or_refused(bytes(data)).values()}) <= 1


def test_a_folder_whose_name_has_an_equals_sign_adds_no_column(tmp_path: pathlib.Path) -> None:
    path = tmp_path / "month=6" / "rows.parquet"
    path.parent.mkdir()
    path.write_bytes(PARQUET)
    assert read_table(path).column_names == ["at", "x", "w"]


def column(values: list[object], kind: pa.DataType | None = None) -> pa.ChunkedArray:
    """A column of a table."""
    return pa.chunked_array([pa.array(values, kind)])


@pytest.mark.parametrize(
    ("values", "numbers"),
    [
        (["1", " 2.5 ", "-3e2", None], [1.0, 2.5, -300.0, None]),
        (["1", "x", "true", "False", None], [1.0, "x", True, False, None]),
        (["1_0", "x"], ["1_0", "x"]),
        (["0x1F", "1"], ["0x1F", 1.0]),
    ],
)
def test_text_becomes_a_number_where_it_is_one_and_stays_text_to_be_refused_otherwise(
    values: list[object], numbers: list[object]
) -> None:
    assert plain(column(values), number=True) == numbers


_NOON = dt.datetime(2025, 1, 2, 12, 30, tzinfo=dt.UTC)


@pytest.mark.parametrize(
    ("array", "text"),
    [
        (column([_NOON], pa.timestamp("us", "UTC")), "2025-01-02T12:30:00+00:00"),
        (column([_NOON.replace(tzinfo=None)], pa.timestamp("s")), "2025-01-02T12:30:00"),
        (column([1_735_821_000_000_000_001], pa.int64()).cast(pa.timestamp("ns")), "2025-01-02T12:30:00"),
        (column([_NOON.date()]), "2025-01-02"),
        (column([_NOON.date()], pa.date64()), "2025-01-02"),
        (column([_NOON.time()]), "12:30:00"),
        (column([dt.timedelta(hours=1)]), "1:00:00"),
    ],
    ids=["utc", "naive", "nanoseconds", "date", "date64", "time", "duration"],
)
def test_every_kind_of_time_becomes_text_as_a_csv_would_have_it(array: pa.ChunkedArray, text: str) -> None:
    assert plain(array, number=False) == [text]


def test_a_time_that_no_calendar_has_is_refused() -> None:
    far = column([9_000_000_000_000_000_000], pa.int64()).cast(pa.timestamp("us"))
    with pytest.raises(DataError, match="can not be read"):
        plain(far, number=False)


def test_words_and_numbers_of_every_arrow_type_come_out_plain() -> None:
    assert plain(column(["a", "b", "a"]).dictionary_encode(), number=False) == ["a", "b", "a"]
    assert plain(column(["1"], pa.large_string()), number=True) == [1.0]
    assert plain(column(["1"], pa.string_view()), number=True) == [1.0]
    assert plain(column([decimal.Decimal("1.5")]), number=True) == [1.5]
    assert plain(column([1.0, 2.5, None]), number=False) == [1, 2.5, None]
    assert plain(column([True, None]), number=True) == [True, None]


def test_kept_text_becomes_numbers_once_a_feature_wants_numbers() -> None:
    features = FeatureSet(name="f", feature=(Numeric(name="x", min=0, max=9), Categorical(name="w", categories=("1",))))
    columns = {"x": ["1", "", None, "bad", 2.0], "w": ["1"] * 5}
    assert coerce(columns, features) == {"x": [1.0, "", None, "bad", 2.0], "w": ["1"] * 5}
