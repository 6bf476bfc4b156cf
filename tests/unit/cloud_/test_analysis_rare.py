from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cloud.analysis.evidence import NOTHING
from cloud.analysis.rare import Rates, compare_rare

rates = st.tuples(st.integers(1, 10**6), st.integers(0, 50), st.integers(1, 10**6), st.integers(0, 50)).map(
    lambda t: Rates(float(t[0]), float(min(t[1], t[0])), float(t[2]), float(min(t[3], t[2])))
)


def test_models_that_never_fail_are_soon_proven_not_to_be_worse() -> None:
    seen = [compare_rare([Rates(n, 0.0, n, 0.0)], 1.0, 0.005).log_e_fine for n in (500.0, 2000.0)]

    assert seen[0] < math.log(100.0) < seen[1]


def test_a_lucky_control_does_not_make_a_candidate_look_fine() -> None:
    assert compare_rare([Rates(200.0, 0.0, 2000.0, 20.0)], 1.0, 0.005).log_e_fine < 0.0


def test_four_times_the_errors_are_found_in_a_small_canary() -> None:
    assert compare_rare([Rates(9500.0, 48.0, 500.0, 10.0)], 1.0, 0.005).log_e_worse > math.log(20.0)


def test_failures_that_come_in_clusters_count_for_less() -> None:
    alone, clustered = (compare_rare([Rates(9500.0, 48.0, 500.0, 10.0)], design, 0.005) for design in (1.0, 4.0))

    assert 0.0 < clustered.log_e_worse < 0.5 * alone.log_e_worse
    assert clustered.error == pytest.approx(2.0 * alone.error)


def test_a_candidate_that_never_fails_needs_as_many_outcomes_more_as_devices_resemble_themselves() -> None:
    alone, clustered = (compare_rare([Rates(n, 0.0, n, 0.0)], d, 0.005) for n, d in ((1500.0, 1.0), (6000.0, 4.0)))

    assert clustered.log_e_fine == pytest.approx(alone.log_e_fine)


def test_nothing_is_known_while_the_design_effect_is_not() -> None:
    assert compare_rare([Rates(1000.0, 0.0, 1000.0, 30.0)], math.inf, 0.005) == NOTHING


def test_doubt_weakens_the_evidence_for_the_candidate_alone() -> None:
    sure, doubtful = (compare_rare([Rates(9000.0, 9.0, 9000.0, 9.0)], 1.0, 0.005, doubt=d) for d in (0.0, 20.0))

    assert doubtful.log_e_worse == sure.log_e_worse
    assert doubtful.log_e_fine < sure.log_e_fine


@given(st.lists(rates, min_size=1, max_size=5), st.floats(1.0, 50.0), st.floats(1e-4, 2.0))
def test_every_table_gives_finite_evidence(strata: list[Rates], design: float, margin: float) -> None:
    seen = compare_rare(strata, design, margin)

    assert all(math.isfinite(value) for value in seen)
    assert compare_rare(strata[::-1], design, margin) == seen
