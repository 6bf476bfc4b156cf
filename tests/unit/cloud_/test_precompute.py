"""What is precomputed: the most frequent inputs, as many as fit, with the answers that the model gives."""

from __future__ import annotations

import numpy as np
import pytest

from cloud.export import precompute
from shared.features import Bucketed, Categorical, Encoder, FeatureSet
from shared.features.columns import encode_columns
from shared.precomputed import PrecomputedTable

FEATURES = FeatureSet(
    name="f",
    feature=(Categorical(name="w", categories=("a", "b", "c", "d")), Bucketed(name="x", cuts=(1.0,), missing="bucket")),
)
ENCODER = Encoder(FEATURES)
TIMES = {"a": 1, "b": 5, "c": 3, "d": 2}
WORDS = [word for word, n in TIMES.items() for _ in range(n)]
CODES = encode_columns(FEATURES, {"w": WORDS, "x": [0.0] * len(WORDS)})


def key(word: str) -> bytes:
    return ENCODER.key(ENCODER.encode({"w": word, "x": 0.0}))


def answer(inputs: np.ndarray) -> np.ndarray:
    """A model whose answer is the number of the word."""
    return inputs[:, :4] @ np.arange(4, dtype=np.float32).reshape(4, 1)


@pytest.mark.parametrize(("n_keys", "words"), [(0, ""), (1, "b"), (2, "bc"), (3, "bcd"), (9, "bcda")])
def test_the_most_frequent_inputs_are_kept_and_their_answers_are_the_models(n_keys: int, words: str) -> None:
    data = precompute.build_table(ENCODER, CODES, answer, n_keys=n_keys, n_outputs=1, model_sha256="ab" * 32)
    table = PrecomputedTable(data)
    assert dict(table.items()) == {key(word): (float("abcd".index(word)),) for word in words}


def test_ties_go_to_the_same_keys_whatever_the_order_of_the_rows() -> None:
    tied = encode_columns(FEATURES, {"w": ["a", "b", "c", "d"], "x": [0.0] * 4})
    kept = [set(precompute.frequent(ENCODER, rows, 2)) for rows in (tied, tied[::-1], tied[[2, 0, 3, 1]])]
    assert kept[0] == kept[1] == kept[2]
    assert len(kept[0]) == 2


def test_what_is_served_is_the_table_where_it_knows_and_the_model_elsewhere() -> None:
    data = precompute.build_table(
        ENCODER, CODES, lambda inputs: answer(inputs) + 100, n_keys=1, n_outputs=1, model_sha256="ab" * 32
    )
    model = np.zeros((len(CODES), 1))
    outputs, hit = precompute.served(PrecomputedTable(data), ENCODER, CODES, model)
    assert hit.tolist() == [word == "b" for word in WORDS]
    assert outputs[:, 0].tolist() == [101.0 if word == "b" else 0.0 for word in WORDS]
