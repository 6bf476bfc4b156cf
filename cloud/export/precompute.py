"""Precomputed answers: the most frequent inputs within a byte budget, and an honest report of what they are worth."""

from __future__ import annotations

import collections
import typing

import msgspec
import numpy as np
import numpy.typing as npt

from cloud.analysis.gates import day_interval, values
from shared import precomputed
from shared.features import Encoder
from shared.features.columns import expand, row_keys
from shared.metrics import Metric

Floats = npt.NDArray[np.float64]
Answerer = typing.Callable[[npt.NDArray[np.float32]], npt.NDArray[typing.Any]]


class TableReport(msgspec.Struct, frozen=True, kw_only=True):
    """What the precomputed answers are worth.

    Parameters
    ----------
    n_keys, size_bytes : int
        Size.
    coverage : float
        Share of later rows (the hold-out) that the table answers.
    agreement : float
        Share of those answers that equal the ONNX model's (to 1e-5).
    source : str
        ``model``, or the teacher's class.
    teacher_gain, teacher_gain_low, teacher_gain_high : float
        How much better the teacher's answers are than the model's on the covered later rows, in units of the metric,
        with a 95 % interval over days; nothing is promised if it contains zero.
    """

    n_keys: int
    size_bytes: int
    coverage: float
    agreement: float
    source: str = "model"
    teacher_gain: float = 0.0
    teacher_gain_low: float = 0.0
    teacher_gain_high: float = 0.0


def n_keys_in(budget_bytes: int, n_outputs: int) -> int:
    """Return the largest number of keys whose table fits the budget.

    >>> n_keys_in(0, 2), precomputed.size_bytes(n_keys_in(1 << 20, 2), 2) <= 1 << 20
    (0, True)
    """
    low, high = 0, max(budget_bytes, 0) // precomputed.KEY_BYTES + 1
    while low + 1 < high:
        middle = (low + high) // 2
        if precomputed.size_bytes(middle, n_outputs) <= budget_bytes:
            low = middle
        else:
            high = middle
    return low


def frequent(encoder: Encoder, codes: Floats, n_keys: int) -> dict[bytes, int]:
    """Return key to row number for the most frequent coded rows; ties go to the smaller key."""
    keys = row_keys(encoder, codes)
    counts = collections.Counter(keys)
    first = {key: i for i, key in reversed(list(enumerate(keys)))}
    ranked = sorted(counts, key=lambda key: (-counts[key], key))[:n_keys]
    return {key: first[key] for key in ranked}


def build_table(
    encoder: Encoder, codes: Floats, answer: Answerer, *, n_keys: int, n_outputs: int, model_sha256: str
) -> bytes:
    """Precompute the answers to the most frequent inputs.

    Parameters
    ----------
    codes : array, shape (n, n_features)
        Rows of the training data; their frequencies decide.
    answer : callable
        Model inputs to answers: the exported file by ONNX Runtime, or a teacher.
    """
    chosen = frequent(encoder, codes, n_keys)
    rows = list(chosen.values())
    outputs = np.asarray(answer(expand(encoder.feature_set, codes[rows])), np.float32).reshape(len(rows), n_outputs)
    entries = dict(zip(chosen, outputs.tolist(), strict=True))
    return precomputed.build(
        entries, n_outputs=n_outputs, features_sha256=encoder.feature_set.digest, model_sha256=model_sha256
    )


def build_coarse(
    encoder: Encoder,
    codes: Floats,
    answers: npt.NDArray[typing.Any],
    names: typing.Sequence[str],
    *,
    n_keys: int,
    model_sha256: str,
) -> bytes:
    """Precompute what is answered where nothing better is left: the mean answer over rows that share some codes.

    Parameters
    ----------
    codes, answers : array, shape (n, n_features) and (n, n_outputs)
        Rows of the training data, and the exported model's answers to them.
    names : sequence of str
        Features whose codes make the key.
    n_keys : int
        At most so many keys, the most frequent.
    """
    key_of = encoder.coarse_key(names)
    keys, groups = np.unique(
        np.array([key_of(encoder.codes_of(row)).hex() for row in codes.tolist()]), return_inverse=True
    )
    counts = np.bincount(groups)
    means = np.stack([np.bincount(groups, column) / counts for column in np.asarray(answers, np.float64).T], axis=1)
    ranked = np.lexsort((keys, -counts))[:n_keys]
    entries = {bytes.fromhex(keys[i]): means[i].tolist() for i in ranked}
    return precomputed.build(
        entries, n_outputs=means.shape[1], features_sha256=encoder.feature_set.digest, model_sha256=model_sha256
    )


def bind(table: bytes, model_sha256: str) -> bytes:
    """Return the same answers as the table of another model with the same features and outputs."""
    ends_at = precomputed.HEADER_BYTES
    belongs_to = bytes.fromhex(model_sha256)
    return table[: ends_at - len(belongs_to)] + belongs_to + table[ends_at:]


def served(
    table: precomputed.PrecomputedTable | None, encoder: Encoder, codes: Floats, model: npt.NDArray[typing.Any]
) -> tuple[Floats, npt.NDArray[np.bool_]]:
    """Answers as the device gives them, table first: (outputs, shape (n, m); which came from the table)."""
    out = np.asarray(model, np.float64).copy()
    hit = np.zeros(len(out), bool)
    if table is not None:
        for i, key in enumerate(row_keys(encoder, codes)):
            found = table.get(key)
            if found is not None:
                out[i], hit[i] = found, True
    return out, hit


def report(
    table: precomputed.PrecomputedTable,
    size: int,
    *,
    served_outputs: Floats,
    hit: npt.NDArray[np.bool_],
    model_outputs: Floats,
    labels: npt.NDArray[typing.Any],
    event_s: Floats,
    metric: Metric,
    source: str,
) -> TableReport:
    """Measure a table on later rows."""
    covered, model = served_outputs[hit], model_outputs[hit]
    agreement = float(np.mean(np.max(np.abs(covered - model), axis=1) <= 1e-5)) if len(covered) else 1.0  # noqa: PLR2004
    gain = low = high = 0.0
    if source != "model" and len(covered):
        of_table, of_model = values(metric, covered, labels[hit]), values(metric, model, labels[hit])
        gains = of_table - of_model if metric.direction == "higher" else of_model - of_table
        gain = float(np.mean(gains))
        low, high = day_interval(gains, event_s[hit])
    return TableReport(
        n_keys=table.n_keys,
        size_bytes=size,
        coverage=float(np.mean(hit)) if len(hit) else 0.0,
        agreement=agreement,
        source=source,
        teacher_gain=gain,
        teacher_gain_low=low,
        teacher_gain_high=high,
    )
