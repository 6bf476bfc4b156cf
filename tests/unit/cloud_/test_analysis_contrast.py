from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import special

from cloud.analysis.contrast import Contrast, combine, has_data, stratum_contrast
from cloud.analysis.difference import clustered_difference, design_effect
from cloud.analysis.records import Arm, Cross, CrossDays, Days, Metric, Stratum

GOOD, BAD = Metric("bernoulli", "higher"), Metric("bernoulli", "lower")
FAST, SCORE = Metric("continuous", "lower"), Metric("continuous", "higher")
cell = st.tuples(st.integers(1, 40), st.floats(0.0, 1.0), st.integers(1, 40), st.floats(0.0, 1.0))


def cluster_sums(n: np.ndarray, s: np.ndarray) -> tuple[float, float, float, float]:
    return float((n > 0).sum()), float((n * n).sum()), float((n * s).sum()), float((s * s).sum())


def arm(n: np.ndarray, s: np.ndarray, days: Days | None = None) -> Arm:
    return Arm(float(n.sum()), float(s.sum()), float(s.sum()), *cluster_sums(n, s), days=days)


def alone(n: float, total: float, sumsq: float | None = None) -> Arm:
    """Every outcome from a device of its own."""
    sumsq = total if sumsq is None else sumsq
    return Arm(n, total, sumsq, n, n, total, sumsq)


def both(n0: np.ndarray, s0: np.ndarray, n1: np.ndarray, s1: np.ndarray) -> Stratum:
    products = (float((x * y).sum()) for x, y in ((n0, n1), (n0, s1), (s0, n1), (s0, s1)))
    return Stratum(arm(n0, s0), arm(n1, s1), Cross(float(len(n0)), *products))


@given(st.lists(cell, min_size=2, max_size=10))
def test_cross_sums_give_the_variance_of_the_difference_by_device(cells: list[tuple[int, float, int, float]]) -> None:
    n0, s0, n1, s1 = (np.array(x, float) for x in zip(*((a, a * p, b, b * q) for a, p, b, q in cells), strict=True))
    spread = clustered_difference(both(n0, s0, n1, s1))
    gap = (s1 - s1.sum() / n1.sum() * n1) / n1.sum() - (s0 - s0.sum() / n0.sum() * n0) / n0.sum()
    least = min(n.sum() ** 2 / (n * n).sum() for n in (n0, n1))
    most = max(n.sum() ** 2 / (n * n).sum() for n in (n0, n1))

    assert spread is not None
    if least == pytest.approx(most):
        assert spread.variance == pytest.approx((gap * gap).sum() * least / (least - 1.0), rel=1e-6, abs=1e-9)
    assert spread.df == pytest.approx(least - 1.0)
    assert spread.variance >= 0.0


def test_devices_that_differ_do_not_blur_a_difference_inside_them() -> None:
    rng = np.random.default_rng(2)
    rate = rng.beta(4.0, 1.0, 60)
    n = np.full(60, 50.0)
    s0, s1 = rng.binomial(50, rate).astype(float), rng.binomial(50, rate).astype(float)
    split = both(n, s0, n, s1)
    apart = Stratum(split.control, split.candidate)

    assert stratum_contrast(split, GOOD, 0.02).variance < 0.4 * stratum_contrast(apart, GOOD, 0.02).variance


UNEVEN = np.tile([8.0, 10.0], 50)  # of ten outcomes on each of 100 devices
FOUR_DAYS = np.full(4, 250.0)


@pytest.mark.parametrize(
    ("good", "by_day"), [([225.0, 226.0, 224.0, 225.0], False), ([250.0, 170.0, 240.0, 240.0], True)]
)
def test_the_larger_of_device_and_day_variance_counts(good: list[float], by_day: bool) -> None:
    days = Days(*cluster_sums(FOUR_DAYS, np.array(good)))
    plain, dated = (arm(np.full(100, 10.0), UNEVEN, given) for given in (None, days))
    devices_only, seen = clustered_difference(Stratum(plain, plain)), clustered_difference(Stratum(dated, dated))

    assert (seen.variance > devices_only.variance) is by_day
    assert seen.df == pytest.approx(6.0 if by_day else 198.0)


def test_a_storm_that_hits_both_arms_on_the_same_days_cancels() -> None:
    stormy = np.array([250.0, 170.0, 240.0, 240.0])
    dated = arm(np.full(100, 10.0), UNEVEN, Days(*cluster_sums(FOUR_DAYS, stormy)))
    products = [float((x * y).sum()) for x in (FOUR_DAYS, stormy) for y in (FOUR_DAYS, stormy)]
    apart = Cross(0.0, 0.0, 0.0, 0.0, 0.0)
    crossed = Cross(0.0, 0.0, 0.0, 0.0, 0.0, days=CrossDays(4.0, *products))

    assert clustered_difference(Stratum(dated, dated, apart)).df == pytest.approx(6.0)
    assert clustered_difference(Stratum(dated, dated, crossed)).df == pytest.approx(198.0)


def test_devices_that_are_more_alike_than_chance_make_no_rate_surer_than_chance_would() -> None:
    n = np.full(40, 10.0)
    alike = arm(n, np.full(40, 9.0))
    seen, independent = (stratum_contrast(Stratum(one, one), GOOD, 0.02) for one in (alike, alone(400.0, 360.0)))

    assert seen.variance == pytest.approx(independent.variance, rel=0.01)
    assert seen.variance_worse == pytest.approx(independent.variance_worse, rel=0.01)


def test_nothing_is_known_from_one_device_in_each_arm() -> None:
    one = arm(np.array([50.0]), np.array([40.0]))

    assert clustered_difference(Stratum(one, one)) is None
    assert stratum_contrast(Stratum(one, one), GOOD, 0.02) is None
    assert math.isinf(design_effect([Stratum(one, one)]))


def test_one_device_borrows_the_variance_between_the_many() -> None:
    rng = np.random.default_rng(3)
    n = np.full(50, 40.0)
    s = rng.binomial(40, rng.beta(4.0, 1.0, 50)).astype(float)
    lone = clustered_difference(Stratum(arm(n, s), arm(np.array([40.0]), np.array([20.0]))))
    means, rate = s / 40.0, s.sum() / 2000.0
    between = means.var(ddof=1) - rate * (1.0 - rate) / 40.0 * 50.0 / 49.0

    assert lone.variance == pytest.approx(means.var(ddof=1) / 50.0 + 0.5 * 0.5 / 40.0 + between)
    assert lone.df < 1.1


@pytest.mark.parametrize("fewer_first", [True, False])
def test_few_devices_that_are_alike_by_luck_vary_as_the_many_do(fewer_first: bool) -> None:
    rng = np.random.default_rng(5)
    rates = rng.beta(0.9, 0.1, 200)
    many = arm(np.full(200, 50.0), rng.binomial(50, rates).astype(float))
    lucky = arm(np.full(24, 417.0), np.full(24, 408.0))
    stratum = Stratum(lucky, many) if fewer_first else Stratum(many, lucky)

    # Such devices differ by 0.21, in standard deviations; of the lucky ones, nothing does.
    assert clustered_difference(stratum).variance == pytest.approx(rates.var() * (1.0 / 24.0 + 1.0 / 200.0), rel=0.1)
    assert design_effect([stratum]) > 100.0


@pytest.mark.parametrize("n1", [2000.0, 40000.0])
@pytest.mark.parametrize(("p0", "p1"), [(0.1, 0.15), (0.5, 0.4), (0.04, 0.06), (0.97, 0.95)])
def test_squared_score_is_twice_the_log_likelihood_ratio(p0: float, p1: float, n1: float) -> None:
    n0 = 20.0 * n1
    contrast = stratum_contrast(Stratum(alone(n0, n0 * p0), alone(n1, n1 * p1)), BAD, 0.02)
    pooled = (n0 * p0 + n1 * p1) / (n0 + n1)
    ratio = 0.0
    for n, p in ((n0, p0), (n1, p1)):
        ratio += n * (special.rel_entr(p, pooled) + special.rel_entr(1.0 - p, 1.0 - pooled))

    assert contrast.x**2 / contrast.variance == pytest.approx(2.0 * ratio, rel=0.05)


@given(st.floats(1.0, 1e6), st.floats(0.0, 1.0), st.floats(1.0, 1e6), st.floats(0.0, 1.0), st.floats(1e-4, 2.0))
def test_rates_are_never_certain(n0: float, p0: float, n1: float, p1: float, margin: float) -> None:
    many = (
        Arm(n, n * p, n * p, 100.0, n * n / 100.0, n * n * p / 100.0, n * n * p * p / 100.0)
        for n, p in ((n0, p0), (n1, p1))
    )
    contrast = stratum_contrast(Stratum(*many), GOOD, margin)

    assert contrast.variance > 0.0
    assert contrast.variance_worse > 0.0
    assert contrast.df > 0.0


def test_direction_turns_the_difference_round() -> None:
    stratum = Stratum(alone(1000.0, 300.0, 900.0), alone(1000.0, 360.0, 1000.0))

    assert stratum_contrast(stratum, SCORE, 0.1).x == pytest.approx(0.06)
    assert stratum_contrast(stratum, FAST, 0.1).x == pytest.approx(-0.06)
    assert stratum_contrast(stratum, GOOD, 0.1).x == pytest.approx(0.06)
    assert stratum_contrast(stratum, BAD, 0.1).x == pytest.approx(-0.06)


def test_missing_outcomes_count_as_failures() -> None:
    stratum = Stratum(alone(1000.0, 900.0), alone(910.0, 850.0))

    assert stratum_contrast(stratum, GOOD, 0.02, 90.0).x == pytest.approx(0.85 - 0.9)


def test_outcomes_that_are_all_alike_leave_room_for_one_that_is_not() -> None:
    same = alone(100.0, 500.0, 2500.0)
    contrast = stratum_contrast(Stratum(same, same), SCORE, 0.2)

    assert contrast.x == 0.0
    assert math.sqrt(contrast.variance) >= 0.2 / 100.0


def test_a_few_close_outcomes_of_a_small_canary_do_not_look_certain() -> None:
    rng = np.random.default_rng(4)
    x = rng.normal(10.0, 1.0, 500)
    control = alone(500.0, float(x.sum()), float((x * x).sum()))
    candidate = alone(2.0, 22.002, 11.0**2 + 11.002**2)
    contrast = stratum_contrast(Stratum(control, candidate), SCORE, 0.1)

    assert contrast.variance > 0.25 * 1.0 / 2.0


contrasts = st.builds(
    Contrast,
    x=st.floats(-1.0, 1.0),
    variance=st.floats(1e-6, 1.0),
    variance_worse=st.floats(1e-6, 1.0),
    df=st.floats(0.5, 1e6),
    weight=st.floats(0.1, 1e6),
)


@given(st.lists(contrasts, min_size=1, max_size=6), st.randoms(use_true_random=False))
@settings(max_examples=60)
def test_the_order_of_strata_changes_nothing(parts: list[Contrast], random: object) -> None:
    shuffled = list(parts)
    random.shuffle(shuffled)  # type: ignore[attr-defined]

    assert combine(shuffled) == combine(parts)


@given(st.lists(contrasts, min_size=1, max_size=6))
def test_combined_strata_stay_within_their_bounds(parts: list[Contrast]) -> None:
    whole = combine(parts)

    assert min(p.x for p in parts) - 1e-9 <= whole.x <= max(p.x for p in parts) + 1e-9
    assert min(p.df for p in parts) * (1.0 - 1e-9) <= whole.df <= sum(p.df for p in parts) * (1.0 + 1e-9)
    assert whole.variance <= max(p.variance for p in parts) * (1.0 + 1e-9)


def test_strata_are_weighed_and_never_pooled() -> None:
    # The candidate equals the control in both stages; it only joined when the base rate had fallen.
    early = Stratum(alone(9900.0, 8910.0), alone(100.0, 90.0))
    late = Stratum(alone(5000.0, 3500.0), alone(5000.0, 3500.0))
    parts = [stratum_contrast(stratum, GOOD, 0.02) for stratum in (early, late)]

    whole, shares = combine(parts), [part.weight / sum(p.weight for p in parts) for part in parts]
    assert whole.x == pytest.approx(0.0, abs=1e-12)
    assert whole.variance == pytest.approx(sum(w * w * p.variance for w, p in zip(shares, parts, strict=True)))
    worse = sum(w * w * p.variance_worse for w, p in zip(shares, parts, strict=True))
    assert whole.variance_worse == pytest.approx(worse)
    assert combine([]) is None


@given(st.lists(cell, min_size=2, max_size=10))
def test_a_design_effect_is_never_below_one(cells: list[tuple[int, float, int, float]]) -> None:
    n0, s0, n1, s1 = (np.array(x, float) for x in zip(*((a, a * p, b, b * q) for a, p, b, q in cells), strict=True))
    split = both(n0, s0, n1, s1)

    assert design_effect([split]) >= 1.0
    assert design_effect([Stratum(split.control, split.candidate)]) >= 1.0


def test_design_effect_is_what_clustering_costs() -> None:
    rng = np.random.default_rng(5)
    k, icc = 50, 0.1
    n = np.full(4000, float(k))
    arms = [arm(n, rng.binomial(k, rng.beta(0.9 * 9, 0.1 * 9, 4000)).astype(float)) for _ in range(2)]

    assert design_effect([Stratum(*arms)]) == pytest.approx(1.0 + (k - 1) * icc, rel=0.1)


def test_arms_without_outcomes_have_no_data() -> None:
    nothing = Arm(0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0)

    assert not has_data(Stratum(nothing, alone(5.0, 1.0)))
    assert not has_data(Stratum(alone(5.0, 1.0), nothing))
    assert has_data(Stratum(alone(5.0, 1.0), alone(5.0, 1.0)))
