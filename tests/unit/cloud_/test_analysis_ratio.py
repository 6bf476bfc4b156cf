from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cloud.analysis.ratio import (
    clustered_spread,
    effective_clusters,
    few_clusters_factor,
    independent_variance,
)
from cloud.analysis.tails import z_from_t

Devices = list[tuple[int, float]]
devices = st.lists(st.tuples(st.integers(1, 50), st.floats(-100.0, 100.0)), min_size=2, max_size=12)


def sums(cells: Devices) -> tuple[float, float, float, float, float, float]:
    """Six sums of devices with n outcomes of one mean each."""
    n, s = np.array([n for n, _ in cells], float), np.array([n * mean for n, mean in cells])
    return n.sum(), s.sum(), float(len(cells)), (n * n).sum(), (n * s).sum(), (s * s).sum()


@given(devices)
def test_five_sums_give_the_variance_of_the_residuals_by_device(cells: Devices) -> None:
    n, total, g, nn, ns, ss = sums(cells)
    mean = total / n
    residuals = math.fsum((k * (m - mean)) ** 2 for k, m in cells)
    clusters = effective_clusters(n, g, nn)

    spread = clustered_spread(n, total, g, nn, ns, ss)

    expected = residuals / n**2 * clusters / (clusters - 1.0)
    assert spread.variance == pytest.approx(expected, rel=1e-6, abs=1e-9 * (1.0 + ss / n**2))
    assert spread.df == clusters - 1.0


def test_equal_devices_give_the_textbook_variance_of_their_means() -> None:
    means = [0.2, 0.5, 0.9, 0.4]
    spread = clustered_spread(*sums([(25, mean) for mean in means]))

    assert spread.variance == pytest.approx(np.var(means, ddof=1) / 4)
    assert spread.df == pytest.approx(3.0)


def test_variance_of_independent_outcomes_is_right_on_average_for_very_unequal_devices() -> None:
    rng = np.random.default_rng(1)
    n = np.array([400.0, 100.0, 50.0] + [5.0] * 30)
    s = rng.binomial(n.astype(int), 0.7, (4000, len(n))).astype(float)
    seen = [clustered_spread(n.sum(), x.sum(), len(n), (n * n).sum(), (n * x).sum(), (x * x).sum()).variance for x in s]

    assert np.mean(seen) == pytest.approx(0.7 * 0.3 / n.sum(), rel=0.03)


@given(devices)
def test_one_dominant_device_counts_as_little_more_than_one(cells: Devices) -> None:
    n, _, g, nn, _, _ = sums([*cells, (100_000, 0.0)])

    assert 1.0 <= effective_clusters(n, g, nn) < 1.02


def test_one_device_says_nothing_about_how_devices_differ() -> None:
    assert clustered_spread(*sums([(10, 0.5)])) == (0.0, 0.0)


def test_sums_that_cancel_never_give_a_negative_variance() -> None:
    spread = clustered_spread(*sums([(1000, 1e9)] * 20))

    assert 0.0 <= spread.variance < 1e6


@given(st.lists(st.floats(-1e3, 1e3), min_size=1, max_size=20))
def test_independent_variance_is_the_variance_of_the_mean(values: list[float]) -> None:
    n, total, sumsq = float(len(values)), math.fsum(values), math.fsum(v * v for v in values)

    assert independent_variance(n, total, sumsq) == pytest.approx(np.var(values) / n, rel=1e-6, abs=1e-6)


@pytest.mark.parametrize("df", [5.0, 10.0, 19.0, 50.0, 400.0])
def test_few_clusters_cost_what_a_t_score_costs(df: float) -> None:
    t = 3.0 * math.sqrt(few_clusters_factor(1.0 / df))

    assert z_from_t(t, df) == pytest.approx(3.0, rel=0.08)
