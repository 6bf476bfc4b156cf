from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import special, stats

from cloud.analysis.tails import log_ndtr, log_scaled_ndtr, log_t_tail, z_from_log_tail, z_from_t

DEGREES = [0.3, 1.0, 1.5, 2.0, 3.7, 5.0, 10.0, 19.0, 40.0, 99.0, 100.0, 101.0, 300.0, 1e4, 1e7, 1e12]
SCORES = [1e-9, 1e-3, 0.1, 0.5, 1.0, 1.7, 2.0, 3.0, 5.0, 8.0, 9.9]


@pytest.mark.parametrize("u", [-1e8, -100.0, -38.0, -30.001, -30.0, -29.999, -10.0, -1.0, 0.0, 1.0, 5.0, 9.0, 40.0])
def test_log_ndtr_agrees_with_scipy(u: float) -> None:
    assert log_ndtr(u) == pytest.approx(special.log_ndtr(u), rel=1e-9, abs=1e-300)


@given(st.floats(-37.0, 8.0))
def test_scaled_log_ndtr_is_log_ndtr_without_its_decay(u: float) -> None:
    assert log_scaled_ndtr(u) == pytest.approx(special.log_ndtr(u) + 0.5 * u * u, abs=1e-9)


@given(st.floats(-1e150, -1.0))
def test_scaled_log_ndtr_stays_finite_where_its_parts_overflow(u: float) -> None:
    # Mills' ratio lies between u / (1 + u^2) and 1 / u.
    upper = -math.log(-u) - 0.5 * math.log(2.0 * math.pi)

    assert upper - math.log1p(1.0 / (u * u)) - 1e-9 <= log_scaled_ndtr(u) <= upper + 1e-9


@pytest.mark.parametrize("df", [df for df in DEGREES if df < 1e3])
def test_t_tail_agrees_with_scipy(df: float) -> None:
    for t in SCORES:
        assert math.exp(log_t_tail(t, df)) == pytest.approx(stats.t.sf(t, df), rel=1e-9)


@pytest.mark.parametrize("df", DEGREES)
def test_z_has_the_tail_area_of_t(df: float) -> None:
    for t in SCORES:
        assert z_from_t(t, df) == pytest.approx(stats.norm.isf(stats.t.sf(t, df)), abs=1e-9)
        assert z_from_t(-t, df) == -z_from_t(t, df)


@given(st.floats(0.0, 1e6))
def test_z_is_the_inverse_of_the_log_tail_however_far_out(z: float) -> None:
    assert z_from_log_tail(log_ndtr(-z)) == pytest.approx(z, rel=1e-9, abs=1e-9)


@given(st.floats(0.01, 1e9), st.floats(0.0, 1e100), st.floats(0.0, 1e100))
def test_more_extreme_t_never_gives_less_extreme_z(df: float, one: float, other: float) -> None:
    low, high = sorted((one, other))

    assert z_from_t(low, df) <= z_from_t(high, df) * (1.0 + 1e-9) + 1e-9
    assert z_from_t(high, df) <= high * (1.0 + 1e-9) + 1e-12


def test_t_of_zero_is_no_evidence() -> None:
    assert z_from_t(0.0, 3.0) == 0.0
    assert z_from_t(0.0, 300.0) == 0.0
