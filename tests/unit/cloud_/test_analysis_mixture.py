from __future__ import annotations

import math
import typing

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import integrate, stats

from cloud.analysis.mixture import log_e_above, log_e_drop, log_mean_exp

SCALES = [0.05, 0.3, 1.0, 4.0, 20.0]


@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize("z", [-6.0, -1.0, 0.0, 1.5, 4.0])
def test_half_normal_mixture_is_the_integral_it_stands_for(z: float, scale: float) -> None:
    def mixed(mean: float) -> float:
        return math.exp(mean * z - 0.5 * mean * mean) * 2.0 * stats.norm.pdf(mean, scale=scale)

    integral, _ = integrate.quad(mixed, 0.0, 12.0 * min(scale, 6.0), limit=400)

    assert math.exp(log_e_above(z, scale)) == pytest.approx(integral, rel=1e-6)


def mean_without_effect(log_e: typing.Callable[[float, float], float], scale: float, far: float) -> float:
    """Integrate an e-value over the standard normal distribution, as far out as its mixture reaches."""
    z = np.linspace(-40.0, far + 40.0, 40_001)
    logs = np.array([log_e(x, scale) for x in z.tolist()])
    return float(np.trapezoid(np.exp(logs - 0.5 * z**2) / math.sqrt(2.0 * math.pi), z))


@pytest.mark.parametrize("scale", SCALES)
def test_half_normal_e_value_has_mean_one_without_effect(scale: float) -> None:
    assert mean_without_effect(log_e_above, scale, 10.0 * scale) == pytest.approx(1.0, rel=1e-6)


@pytest.mark.parametrize("margin", [0.01, 0.1, 0.5, 2.0])
def test_drop_e_value_has_mean_one_without_effect(margin: float) -> None:
    assert mean_without_effect(log_e_drop, margin, 32.0 * margin) == pytest.approx(1.0, rel=1e-6)


@given(st.floats(-50.0, 50.0), st.floats(0.0, 5.0), st.floats(1e-3, 1e3))
def test_a_higher_score_is_never_weaker_evidence(z: float, step: float, scale: float) -> None:
    assert log_e_above(z + step, scale) >= log_e_above(z, scale) - 1e-9
    assert log_e_drop(z + step, scale) >= log_e_drop(z, scale) - 1e-9


@given(st.floats(-1e100, 1e100), st.floats(1e-80, 1e80))
def test_no_score_overflows(z: float, scale: float) -> None:
    assert math.isfinite(log_e_above(z, scale))
    assert math.isfinite(log_e_drop(z, scale))


def test_drops_far_below_the_margin_are_no_evidence_in_the_long_run() -> None:
    margin = 200.0  # in standard errors: an estimate this sure

    assert log_e_drop(0.2 * margin, margin) < -1000.0
    assert log_e_drop(1.0 * margin, margin) > 1000.0


@given(st.lists(st.tuples(st.floats(-700.0, 700.0), st.floats(0.01, 1.0)), min_size=1, max_size=8))
def test_log_mean_exp_is_the_weighted_mean(terms: list[tuple[float, float]]) -> None:
    total = sum(weight for _, weight in terms)
    values, weights = [value for value, _ in terms], [weight / total for _, weight in terms]
    top = max(values)
    expected = top + math.log(math.fsum(w * math.exp(v - top) for v, w in zip(values, weights, strict=True)))

    assert log_mean_exp(values, weights) == pytest.approx(expected, abs=1e-9)
    assert log_mean_exp(values, weights) <= top + 1e-12
