from __future__ import annotations

import math

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cloud.analysis.decide import word_of
from cloud.analysis.difference import design_effect
from cloud.analysis.missing import find_missing, log_e_split
from cloud.analysis.records import Arm, Assigned, Cross, Metric, Stratum
from cloud.analysis.simulate import question

CERTAIN = math.log(100.0)


def alone(n: float, total: float, assigned: float | None = None) -> Arm:
    return Arm(n, total, total, n, n, total, total, assigned=assigned)


def stratum(n0: float, n1: float) -> Stratum:
    return Stratum(alone(n0, 0.9 * n0), alone(n1, 0.9 * n1))


def test_nothing_is_missing_when_nothing_was_said() -> None:
    strata = [stratum(1000.0, 500.0)]

    assert find_missing(strata, strata, None, pending=False) == ((0.0,), 0.0, 0.0, 0.0)


def test_arms_that_lose_alike_have_no_excess() -> None:
    strata = [stratum(8000.0, 800.0)]
    missing = find_missing(strata, strata, Assigned(10000.0, 1000.0), pending=False)

    assert missing.excess == (0.0,)
    assert missing.error > 10.0
    assert missing.log_e < 1.0


def test_what_only_the_candidate_lost_is_its_excess() -> None:
    strata = [stratum(8000.0, 700.0)]
    missing = find_missing(strata, strata, Assigned(10000.0, 1000.0), pending=False)

    assert missing.excess == (pytest.approx(100.0),)
    assert missing.fraction == pytest.approx(0.1)
    assert missing.log_e > CERTAIN


def test_devices_that_are_off_are_no_proof_that_a_candidate_loses_outcomes() -> None:
    # Of 50 devices in each arm with 200 inputs each, two of the control's and six of the candidate's are off.
    arms = [Arm(n * 200, n * 180, n * 180, n, n * 4e4, n * 3.6e4, n * 3.24e4 + n * 18) for n in (48.0, 44.0)]
    apart = [Stratum(arms[0], arms[1])]
    shared = [Stratum(arms[0], arms[1], Cross(44.0, 44 * 4e4, 44 * 3.6e4, 44 * 3.6e4, 44 * 3.24e4))]
    owned = [Stratum(*(msgspec.structs.replace(arm, assigned=1e4) for arm in arms))]
    unknown, each = (
        find_missing(apart, apart, Assigned(1e4, 1e4), pending=False, alike=alike) for alike in (None, 1.0)
    )

    assert unknown.excess == each.excess == (800.0,)
    assert unknown.log_e < 1.0 < CERTAIN < each.log_e
    assert unknown.error > 3.0 * each.error
    assert find_missing(owned, owned, None, pending=False).log_e < 1.0
    assert find_missing(shared, shared, Assigned(1e4, 1e4), pending=False).log_e > CERTAIN


def test_inputs_counted_by_the_arms_themselves_count_instead_of_the_totals() -> None:
    honest = Stratum(alone(900.0, 800.0, 1000.0), alone(900.0, 800.0, 1000.0))
    totals = Assigned(1000.0, 5000.0)

    assert find_missing([honest], [honest], totals, pending=False).excess == (0.0,)
    assert find_missing([stratum(900.0, 900.0)], [stratum(900.0, 900.0)], totals, pending=False).excess[0] > 1000.0


def test_what_one_stratum_lost_by_chance_another_gained() -> None:
    strata = [Stratum(alone(90.0, 80.0, 100.0), alone(n, 0.9 * n, 100.0)) for n in (80.0, 100.0)]

    assert find_missing(strata, strata, None, pending=False).excess == (0.0, 0.0)


def test_only_the_balance_is_shared_out_among_the_strata_that_lost() -> None:
    strata = [Stratum(alone(100.0, 90.0, 100.0), alone(n, 0.9 * n, 100.0)) for n in (60.0, 80.0, 100.0)]

    assert find_missing(strata, strata, None, pending=False).excess == pytest.approx((40.0, 20.0, 0.0))


def test_closed_windows_have_their_share_of_what_is_missing() -> None:
    everything, closed = [stratum(1000.0, 800.0)], [stratum(500.0, 400.0)]

    assert find_missing(everything, closed, Assigned(1000.0, 1000.0), pending=True).excess == pytest.approx((100.0,))
    assert find_missing(everything, everything, Assigned(1000.0, 1000.0), pending=True).excess == pytest.approx(
        (200.0,)
    )


def test_pending_outcomes_of_a_growing_canary_are_not_missing() -> None:
    # A tenth of the inputs so far went to the candidate, half of the newest ones, which have no outcome yet.
    strata = [stratum(8000.0, 0.0), stratum(1000.0, 1000.0)]
    growing = Assigned(9000.0 + 1000.0, 1000.0 + 1000.0, 0.5)

    assert find_missing(strata, strata, growing, pending=True).excess == (0.0, 0.0)
    assert find_missing(strata, strata, growing, pending=False).excess[1] > 500.0


def test_losses_that_come_by_device_are_weaker_evidence() -> None:
    n, g = 1000.0, 20.0
    clustered = Arm(n, 0.5 * n, 0.5 * n, g, n * n / g, 0.5 * n * n / g, 0.45 * n * n / g)
    shared = find_missing([Stratum(clustered, clustered)], (), Assigned(1010.0, 1060.0), pending=False)
    single = find_missing([Stratum(alone(n, 500.0), alone(n, 500.0))], (), Assigned(1010.0, 1060.0), pending=False)

    assert shared.log_e < 0.3 * single.log_e


def test_losses_that_come_by_device_are_less_sure_a_number() -> None:
    n, g = 1000.0, 20.0
    clustered = Arm(n, 0.5 * n, 0.5 * n, g, n * n / g, 0.5 * n * n / g, 0.26 * n * n / g)
    stratum = Stratum(clustered, clustered)
    seen, apart = (find_missing([stratum], (), Assigned(1300.0, 1300.0), pending=False, alike=a) for a in (1.0, None))
    design = design_effect([stratum])

    assert 2.0 < design < n / g
    assert seen.error == pytest.approx(math.sqrt(2.0 * 300.0 * (1.0 - 300.0 / 1300.0) * design))
    assert seen.error < apart.error <= 300.0 / 3.0


def test_no_more_is_hidden_than_the_candidate_lost() -> None:
    arms = [Arm(n, 0.9 * n, 0.9 * n, 20.0, n * n / 20, 0.9 * n * n / 20, 0.81 * n * n / 20) for n in (1e4, 9990.0)]
    seen = find_missing([Stratum(*arms)], (), Assigned(11000.0, 10000.0), pending=False)

    assert seen.error == pytest.approx(10.0 / 3.0)


def test_a_control_whose_devices_are_off_hides_no_crashes() -> None:
    # Of 24 devices in each arm, three of the control's are off. The candidate fails in 15 %, and tells of 6 %.
    def arm(g: float, bad: float, told: float) -> Arm:
        n, s = 400 * (1.0 - bad + told), 400 * (1.0 - bad)
        return Arm(g * n, g * s, g * s, g, g * n * n, g * n * s, g * (s * s + 36.0))

    asked = question(Metric("bernoulli", "higher"), 0.02)
    crashed, given = (Stratum(arm(21.0, 0.1, 0.1), arm(24.0, 0.15, 0.06)),), Assigned(9600.0, 9600.0, 0.5)
    honest = (Stratum(arm(24.0, 0.1, 0.1), arm(24.0, 0.06, 0.06)),)

    assert word_of(msgspec.structs.replace(asked, strata=honest, assigned=given)) == "promote"
    assert word_of(msgspec.structs.replace(asked, strata=crashed, assigned=given)) == "continue"


counts = st.floats(0.0, 1e9)


@given(counts, counts, counts, counts, st.floats(0.0, 1.0), st.booleans())
def test_no_assignment_breaks_the_arithmetic(
    n0: float, n1: float, given0: float, given1: float, share: float, pending: bool
) -> None:
    strata = [stratum(n0, n1), stratum(n1, n0)]
    missing = find_missing(strata, strata, Assigned(given0, given1, share), pending=pending)

    assert all(math.isfinite(x) and x >= 0.0 for x in missing.excess)
    assert math.isfinite(missing.error)
    assert math.isfinite(missing.log_e)
    assert math.isfinite(log_e_split(strata[:1], Assigned(given0, given1, share)))


def test_a_share_of_nothing_is_not_a_split() -> None:
    assert log_e_split([stratum(5000.0, 4000.0)], Assigned(5000.0, 4000.0, 0.0)) == 0.0
    assert log_e_split([stratum(5000.0, 4000.0)], Assigned(5000.0, 4000.0, 5e-324)) == 0.0


def test_a_wrong_split_is_found_and_a_right_one_is_not() -> None:
    assert log_e_split([stratum(5000.0, 4000.0)], Assigned(5000.0, 4000.0, 0.5)) > CERTAIN
    assert log_e_split([stratum(4000.0, 5000.0)], Assigned(4000.0, 5000.0, 0.5)) > CERTAIN
    assert log_e_split([stratum(4980.0, 5020.0)], Assigned(4980.0, 5020.0, 0.5)) < 0.0


def test_devices_that_hold_one_arm_each_can_not_be_expected_to_split_evenly() -> None:
    sizes = [700.0, 100.0, 100.0, 100.0]
    nn = sum(n * n for n in sizes)
    busy = Arm(1000.0, 900.0, 900.0, 4.0, nn, 0.9 * nn, 0.81 * nn)
    quiet = Arm(400.0, 360.0, 360.0, 4.0, 40000.0, 36000.0, 32400.0)

    assert log_e_split([Stratum(busy, quiet)], Assigned(1000.0, 400.0, 0.5)) < CERTAIN


def test_devices_that_all_split_alike_are_held_to_the_plan() -> None:
    g, n0, n1 = 20.0, 1000.0, 400.0
    arms = [Arm(n, 0.9 * n, 0.9 * n, g, n * n / g, 0.9 * n * n / g, 0.81 * n * n / g) for n in (n0, n1)]
    products = Cross(g, n0 * n1 / g, 0.9 * n0 * n1 / g, 0.9 * n0 * n1 / g, 0.81 * n0 * n1 / g)

    assert log_e_split([Stratum(*arms, cross=products)], Assigned(n0, n1, 0.5)) > CERTAIN


def test_with_more_than_one_share_nothing_is_said_about_the_split() -> None:
    wrong, totals = stratum(5000.0, 4000.0), Assigned(5000.0, 4000.0, 0.5)

    assert log_e_split([wrong, wrong], totals) == 0.0
    assert log_e_split([wrong], msgspec.structs.replace(totals, share=None)) == 0.0
    assert log_e_split([], totals) == 0.0
