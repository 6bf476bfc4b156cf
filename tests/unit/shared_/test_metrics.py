"""Metrics of single answers, against values worked out by hand."""

from __future__ import annotations

import math
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.errors import UsageError
from shared.metrics import FLOOR, METRICS, expected_log_loss, get_metric, ndcg


@pytest.mark.parametrize(
    ("name", "outputs", "label", "value"),
    [
        ("log_loss", (0.75, 0.25), 0, -math.log(0.75)),
        ("log_loss", (0.75, 0.25), 1, -math.log(0.25)),
        ("log_loss", (1.0, 0.0), 1, -math.log(FLOOR)),
        ("log_loss", (0.2, 0.3, 0.5), 2, -math.log(0.5)),
        ("brier", (0.75, 0.25), 1, 0.75**2 + 0.75**2),
        ("brier", (0.2, 0.3, 0.5), 0, 0.8**2 + 0.3**2 + 0.5**2),
        ("accuracy", (0.4, 0.6), 1, 1.0),
        ("accuracy", (0.4, 0.6), 0, 0.0),
        ("accuracy", (0.5, 0.5), 0, 1.0),
        ("accuracy", (0.2, 0.5, 0.3), 1, 1.0),
        ("absolute_error", (2.5,), 4, 1.5),
        ("squared_error", (2.5,), 4, 2.25),
    ],
)
def test_a_metric_gives_the_value_worked_out_by_hand(
    name: str, outputs: tuple[float, ...], label: float, value: float
) -> None:
    assert METRICS[name].score(outputs, label) == pytest.approx(value)


@pytest.mark.parametrize("name", sorted(name for name, metric in METRICS.items() if not metric.of_lists))
def test_gain_is_positive_when_the_candidate_is_better(name: str) -> None:
    metric = METRICS[name]
    outputs = ((0.1, 0.9), (0.6, 0.4)) if "binary" in metric.tasks else ((1.1,), (3.0,))
    good, bad = (metric.score(one, 1) for one in outputs)
    assert metric.gain(good, bad) > 0
    assert metric.gain(bad, good) == -metric.gain(good, bad)


@pytest.mark.parametrize("name", ["absolute_error", "squared_error"])
def test_an_error_as_large_as_floats_go_is_still_a_number(name: str) -> None:
    assert METRICS[name].score((3e38,), -1e300) > 0


@pytest.mark.parametrize(
    ("gains", "value"),
    [
        ([3, 2, 3, 0, 1, 2], 0.9608081943),  # 6.8611 over 7.1410, that of 3, 3, 2, 2, 1, 0
        ([1], 1.0),
        ([0, 0, 1], 0.5),
        ([], 0.0),
        ([-1, 0], 0.0),
        ([-5, 2], 1 / math.log2(3)),
        ([1e308, 1e308], 1.0),
    ],
)
def test_the_gain_of_a_list_is_that_worked_out_by_hand(gains: list[float], value: float) -> None:
    assert ndcg(gains) == pytest.approx(value)


@given(st.lists(st.floats(-10, 1e300), max_size=12), st.randoms(use_true_random=False))
def test_no_order_of_a_list_is_better_than_that_of_its_gains(gains: list[float], rng: random.Random) -> None:
    best = ndcg(sorted(gains, reverse=True))
    rng.shuffle(gains)
    assert 0.0 <= ndcg(gains) <= best + 1e-12
    assert best == pytest.approx(float(any(gain > 0 for gain in gains)))


def test_a_metric_of_another_task_is_refused_with_those_that_fit() -> None:
    assert get_metric("log_loss", "multiclass").name == "log_loss"
    with pytest.raises(UsageError, match="Use absolute_error, ndcg, squared_error") as caught:
        get_metric("log_loss", "regression")
    assert caught.value.field == "metric"
    with pytest.raises(UsageError):
        get_metric("", "binary")


def test_excess_log_loss_is_zero_on_average_when_the_model_is_calibrated() -> None:
    rng = random.Random(5)
    excess = []
    for _ in range(50_000):
        p = rng.random()
        label = rng.random() < p
        excess.append(METRICS["log_loss"].score((1 - p, p), label) - expected_log_loss((1 - p, p)))
    assert abs(sum(excess) / len(excess)) < 0.01


def test_a_sure_answer_expects_no_loss() -> None:
    assert expected_log_loss((1.0, 0.0)) == 0.0
    assert expected_log_loss((0.25,) * 4) == pytest.approx(math.log(4))
