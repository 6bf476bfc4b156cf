"""Encode many rows at once with the coders that encode one: what training sees is what the device sees."""

from __future__ import annotations

import datetime as dt
import typing

import numpy as np
import numpy.typing as npt

from shared.errors import DataError
from shared.features.coding import make_coder
from shared.features.definition import FeatureSet
from shared.features.encoder import Encoder
from shared.features.kinds import Feature, TimePart

Columns = typing.Mapping[str, typing.Sequence[object]]
Problem = tuple[int, DataError]
MAX_PROBLEMS = 1000


def code_column(feature: Feature, values: typing.Sequence[object]) -> tuple[npt.NDArray[np.float64], list[Problem]]:
    """Code a raw column, each distinct value once.

    Returns
    -------
    codes : array, shape (n,)
        NaN where the value was refused.
    problems : list of (row, DataError)
        The refused rows, at most `MAX_PROBLEMS` of them.
    """
    coder = make_coder(feature)
    memo: dict[object, float] = {}
    codes = np.full(len(values), np.nan)
    problems: list[Problem] = []
    for i, value in enumerate(_as_written(feature, values)):
        # True == 1 == 1.0 as dictionary keys, but they are not the same value to a coder.
        key = (value.__class__, value)
        try:
            code: float | DataError | None = memo.get(key)
            if code is None:
                code = _try(coder, value)
                if not isinstance(code, DataError):  # which says what it was: 0.0 and -0.0 are one key
                    memo[key] = code
        except TypeError:  # it has no hash, such as a list
            code = _try(coder, value)
        if isinstance(code, DataError):
            if len(problems) < MAX_PROBLEMS:
                problems.append((i, code))
        else:
            codes[i] = code
    return codes, problems


def _as_written(feature: Feature, values: typing.Sequence[object]) -> typing.Iterable[object]:
    """Take the offset from times: the same instant, equal and with the same hash, is another hour under another one."""
    if not isinstance(feature, TimePart):
        return values
    return (value.replace(tzinfo=None) if isinstance(value, dt.datetime) else value for value in values)


def _try(coder: typing.Callable[[object], float], value: object) -> float | DataError:
    try:
        return coder(value)
    except DataError as err:
        return err


def encode_columns(feature_set: FeatureSet, columns: Columns) -> npt.NDArray[np.float64]:
    """Code raw columns.

    Returns
    -------
    array, shape (n_rows, n_features)

    Raises
    ------
    DataError
        For the first value that is refused, with its row.
    """
    coded = []
    for feature in feature_set.feature:
        codes, problems = code_column(feature, columns[feature.column])
        if problems:
            row, err = problems[0]
            raise DataError(err.message, field=f"row {row + 1}, {err.field}", fix=err.fix)
        coded.append(codes)
    return np.column_stack(coded) if coded else np.empty((0, 0))


def expand(feature_set: FeatureSet, codes: npt.NDArray[np.float64]) -> npt.NDArray[np.float32]:
    """Turn codes, shape (n, n_features), into the model's input, shape (n, width), float32."""
    out = np.zeros((len(codes), feature_set.width), np.float32)
    rows = np.arange(len(codes))
    at = 0
    for i, feature in enumerate(feature_set.feature):
        if feature.is_onehot:
            out[rows, at + codes[:, i].astype(np.int64)] = 1.0
        else:
            out[:, at] = codes[:, i]
        at += feature.width
    return out


def row_keys(encoder: Encoder, codes: npt.NDArray[np.float64]) -> list[bytes]:
    """Return the 128-bit key of each coded row."""
    memo: dict[bytes, bytes] = {}
    keys = []
    for row in np.ascontiguousarray(codes):
        raw = row.tobytes()
        key = memo.get(raw)
        if key is None:
            memo[raw] = key = encoder.key(encoder.codes_of(row.tolist()))
        keys.append(key)
    return keys
