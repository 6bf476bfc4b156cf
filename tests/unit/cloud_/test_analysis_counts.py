from __future__ import annotations

import itertools
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from cloud.analysis.counts import Count, log_e_below, log_e_fewer, log_e_more

ODDS = [0.01, 1.0 / 19.0, 0.5, 1.0, 3.0]


@pytest.mark.parametrize("odds", ODDS)
@pytest.mark.parametrize("log_e", [log_e_more, log_e_fewer])
def test_mean_is_one_when_failures_fall_by_the_traffic(log_e: object, odds: float) -> None:
    n, theta = 40, odds / (1.0 + odds)
    mean = math.fsum(
        stats.binom.pmf(k, n, theta) * math.exp(log_e([Count(n - k, k, odds)]))  # type: ignore[operator]
        for k in range(n + 1)
    )

    assert mean == pytest.approx(1.0, rel=1e-9)


def test_mean_is_one_over_strata_with_different_shares() -> None:
    strata = [(6, 0.02), (5, 1.0)]
    mean = 0.0
    for counts in itertools.product(*(range(n + 1) for n, _ in strata)):
        chance = math.prod(
            stats.binom.pmf(k, n, odds / (1.0 + odds)) for k, (n, odds) in zip(counts, strata, strict=True)
        )
        seen = [Count(n - k, k, odds) for k, (n, odds) in zip(counts, strata, strict=True)]
        mean += chance * math.exp(log_e_more(seen))

    assert mean == pytest.approx(1.0, rel=1e-9)


@pytest.mark.parametrize(("rate", "mean"), [(0.05, 1.0), (0.08, None), (0.5, None)])
def test_one_arm_has_mean_one_at_the_limit_and_less_above(rate: float, mean: float | None) -> None:
    seen = math.fsum(stats.binom.pmf(k, 60, rate) * math.exp(log_e_below(60.0, k, 0.05)) for k in range(61))

    assert seen == pytest.approx(mean, rel=1e-9) if mean else seen < 1.0


@given(st.floats(0.0, 1e6), st.floats(0.0, 1e6), st.floats(1e-6, 1e6))
def test_fewer_is_more_with_the_arms_exchanged(control: float, candidate: float, odds: float) -> None:
    mirrored = log_e_more([Count(candidate, control, 1.0 / odds)])

    assert log_e_fewer([Count(control, candidate, odds)]) == pytest.approx(mirrored, rel=1e-9, abs=1e-9)


@given(st.integers(0, 200), st.integers(0, 200), st.sampled_from(ODDS))
def test_one_more_failure_of_the_candidate_is_never_evidence_for_it(control: int, candidate: int, odds: float) -> None:
    before = log_e_more([Count(control, candidate, odds)])

    assert log_e_more([Count(control, candidate + 1, odds)]) >= before - 1e-9


@given(st.floats(1.0, 1e9), st.floats(0.0, 1.0), st.floats(1e-9, 5.0))
def test_one_arm_is_finite_for_every_limit(n: float, share: float, limit: float) -> None:
    assert math.isfinite(log_e_below(n, n * share, limit))


def test_no_failures_say_nothing_about_two_arms() -> None:
    assert log_e_more([Count(0.0, 0.0, 1.0)]) == pytest.approx(0.0, abs=1e-12)
    assert log_e_fewer([]) == pytest.approx(0.0, abs=1e-12)
