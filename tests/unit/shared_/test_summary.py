"""Sums merge exactly, in any order; bins and what is read from them agree with a count of every single value."""

from __future__ import annotations

import itertools
import math
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shared.summary import (
    LIMIT,
    N_LATENCY_BINS,
    N_SCORE_BINS,
    SCALE,
    auc_of_bins,
    latency_bin,
    latency_quantile,
    quantise,
    restore,
    score_bin,
    square,
)

finite = st.floats(allow_nan=False)


@given(st.lists(finite, max_size=30), st.randoms())
def test_sums_are_the_same_in_every_order_and_grouping(values: list[float], rng: random.Random) -> None:
    total = sum(map(quantise, values))
    rng.shuffle(values)
    cut = rng.randint(0, len(values))
    assert sum(map(quantise, values[:cut])) + sum(map(quantise, values[cut:])) == total


@given(st.floats(-LIMIT, LIMIT))
def test_a_square_is_that_of_the_value_that_was_kept(value: float) -> None:
    kept = quantise(value)
    assert 0 <= restore(kept) ** 2 - restore(square(kept)) < 1 / SCALE + 1e-9


@given(st.floats(-LIMIT, LIMIT))
def test_a_value_within_the_limit_comes_back_to_half_a_step(value: float) -> None:
    assert abs(restore(quantise(value)) - value) <= 0.5 / SCALE


@pytest.mark.parametrize(("value", "kept"), [(1e9, LIMIT), (-math.inf, -LIMIT), (math.inf, LIMIT), (-1000.5, -LIMIT)])
def test_a_value_beyond_the_limit_counts_as_the_limit(value: float, kept: float) -> None:
    assert restore(quantise(value)) == kept


def test_not_a_number_is_nothing_that_can_be_added() -> None:
    with pytest.raises(ValueError, match="NaN"):
        quantise(math.nan)


@given(st.floats(-1, 2), st.sampled_from([0.0, 1.0, 2.0]))
def test_a_score_goes_into_one_of_forty_bins_by_value_and_label(score: float, label: float) -> None:
    found = score_bin(score, label)
    assert (found >= N_SCORE_BINS) == (label != 0)
    place = found % N_SCORE_BINS
    assert place / N_SCORE_BINS <= min(max(score, 0), 1)
    assert min(max(score, 0), 1 - 1e-9) < (place + 1) / N_SCORE_BINS + 1e-9


@given(st.floats(0, 100))
def test_a_latency_goes_into_the_first_bin_that_ends_above_it(seconds: float) -> None:
    found = latency_bin(seconds)
    if found < N_LATENCY_BINS - 1:
        assert seconds <= 2**found * 1e-6 * (1 + 1e-12)
    if found:
        assert seconds > 2 ** (found - 1) * 1e-6 * (1 - 1e-12)


def test_latencies_beyond_any_bin_go_into_the_last_and_impossible_ones_into_the_first() -> None:
    assert latency_bin(1e9) == N_LATENCY_BINS - 1
    assert latency_bin(-1.0) == latency_bin(0.0) == 0


@given(st.lists(st.floats(1e-6, 1.0), min_size=1, max_size=50), st.sampled_from([0.01, 0.5, 0.9, 0.99, 1.0]))
def test_a_quantile_from_bins_is_the_upper_edge_above_the_true_one(latencies: list[float], q: float) -> None:
    bins = [0] * N_LATENCY_BINS
    for seconds in latencies:
        bins[latency_bin(seconds)] += 1
    true = sorted(latencies)[math.ceil(q * len(latencies)) - 1]
    assert latency_quantile(bins, q) == pytest.approx(2 ** latency_bin(true) * 1e-6)


def test_a_quantile_of_nothing_is_nought() -> None:
    assert latency_quantile([0] * N_LATENCY_BINS, 0.5) == 0.0


@settings(deadline=None)
@given(st.lists(st.tuples(st.floats(0, 0.999), st.integers(0, 1)), max_size=25))
def test_area_under_the_curve_counts_every_pair_once(scored: list[tuple[float, int]]) -> None:
    bins = [0] * 2 * N_SCORE_BINS
    for score, label in scored:
        bins[score_bin(score, label)] += 1
    places = [(score_bin(score, 0), label) for score, label in scored]
    pairs = [
        (one > other) + 0.5 * (one == other)
        for (one, a), (other, b) in itertools.product(places, places)
        if (a, b) == (1, 0)
    ]
    if pairs:
        assert auc_of_bins(bins) == pytest.approx(sum(pairs) / len(pairs))
    else:
        assert math.isnan(auc_of_bins(bins))
