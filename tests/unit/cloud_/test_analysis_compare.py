from __future__ import annotations

import math

import msgspec
import numpy as np
import pytest
from scipy import stats

from cloud.analysis.compare import from_pairs, from_strata
from cloud.analysis.evidence import NOTHING
from cloud.analysis.minimums import Amount, of_pairs, of_strata
from cloud.analysis.mixture import log_e_above
from cloud.analysis.records import Arm, Days, Metric, Pairs, Stratum

GOOD, BAD, FAST = Metric("bernoulli", "higher"), Metric("bernoulli", "lower"), Metric("continuous", "lower")
ROLL_BACK, PROMOTE = math.log(20.0), math.log(100.0)
EMPTY = Arm(0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0)


def alone(n: float, total: float, sumsq: float | None = None) -> Arm:
    sumsq = total if sumsq is None else sumsq
    return Arm(n, total, sumsq, n, n, total, sumsq)


def paired(n: float, pos: float, neg: float, g: float | None = None) -> Pairs:
    total, apart = pos - neg, pos + neg
    if g is None:
        return Pairs(n, total, apart, n, n, total, apart, pos=pos, neg=neg)
    return Pairs(n, total, apart, g, n * n / g, n * total / g, total * total / g, pos=pos, neg=neg)


@pytest.mark.parametrize("kind", [GOOD, BAD, FAST])
def test_no_data_is_no_evidence(kind: Metric) -> None:
    assert from_strata([], [], kind, 0.02) == NOTHING
    assert from_strata([Stratum(alone(50.0, 40.0), EMPTY)], [0.0], kind, 0.02) == NOTHING
    assert from_strata([Stratum(EMPTY, alone(50.0, 40.0))], [0.0], kind, 0.02) == NOTHING


def test_empty_strata_change_nothing() -> None:
    full, lone = Stratum(alone(2000.0, 1800.0), alone(2000.0, 1700.0)), Stratum(alone(300.0, 270.0), EMPTY)

    assert from_strata([full, lone], [0.0, 0.0], GOOD, 0.02) == from_strata([full], [0.0], GOOD, 0.02)


@pytest.mark.parametrize("failures", [20.0, 59.0, 61.0, 200.0])
def test_successes_and_failures_are_the_same_metric_turned_round(failures: float) -> None:
    one = Stratum(alone(2000.0, failures), alone(2000.0, 1.4 * failures))
    other = Stratum(alone(2000.0, 2000.0 - failures), alone(2000.0, 2000.0 - 1.4 * failures))

    assert from_strata([one], [0.0], BAD, 0.01) == pytest.approx(from_strata([other], [0.0], GOOD, 0.01), rel=1e-6)


def test_no_jump_in_evidence_where_failures_stop_being_rare() -> None:
    rare, common = (
        from_strata([Stratum(alone(20000.0, bad), alone(4000.0, 170.0))], [0.0], BAD, 0.01) for bad in (599.0, 601.0)
    )

    assert rare.log_e_worse == pytest.approx(common.log_e_worse, rel=0.25)
    assert rare.difference == pytest.approx(common.difference, abs=2e-4)
    assert rare.error == pytest.approx(common.error, rel=0.1)


def test_missing_outcomes_of_a_latency_have_no_value_to_count() -> None:
    strata = [Stratum(alone(500.0, 5000.0, 60000.0), alone(500.0, 5100.0, 62000.0))]

    assert from_strata(strata, [100.0], FAST, 1.0) == from_strata(strata, [0.0], FAST, 1.0)


def test_doubt_about_what_is_missing_weakens_only_the_evidence_for_the_candidate() -> None:
    strata = [Stratum(alone(9000.0, 8100.0), alone(9000.0, 8100.0))]
    sure, doubtful = (from_strata(strata, [0.0], GOOD, 0.02, doubt=doubt) for doubt in (0.0, 300.0))

    assert doubtful.log_e_worse == sure.log_e_worse
    assert doubtful.log_e_fine < sure.log_e_fine - 1.0


@pytest.mark.parametrize(("pos", "neg"), [(10.0, 35.0), (2.0, 12.0), (30.0, 60.0)])
def test_pairs_are_at_most_as_sure_as_an_exact_mcnemar_test(pos: float, neg: float) -> None:
    seen = from_pairs(paired(500.0, pos, neg), 0.0, GOOD, 0.02)
    exact = stats.binomtest(int(neg), int(pos + neg), alternative="greater").pvalue

    assert stats.norm.sf(-seen.difference / seen.error) > 0.6 * exact
    # An e-value is at most the inverse of the p-value that a look of its own would give.
    assert seen.log_e_worse < -math.log(exact)


def test_pairs_that_never_disagree_promote_after_a_count_that_fits_the_margin() -> None:
    seen = [from_pairs(paired(n, 0.0, 0.0), 0.0, GOOD, 0.01).log_e_fine for n in (500.0, 1200.0)]

    assert seen[0] < PROMOTE < seen[1]


def test_losing_the_margin_by_a_few_pairs_is_not_taken_for_luck() -> None:
    # Expected under a loss of one margin: six. Two came.
    assert from_pairs(paired(600.0, 0.0, 2.0), 0.0, GOOD, 0.01).log_e_fine < PROMOTE


def test_pairs_that_never_came_count_against_the_candidate() -> None:
    sure, lost = (from_pairs(paired(5000.0, 200.0, 200.0), missing, GOOD, 0.02) for missing in (0.0, 300.0))

    assert sure.log_e_fine > PROMOTE
    assert lost.log_e_fine < 0.0
    assert lost.difference == pytest.approx(-300.0 / 5300.0)


def test_doubt_about_lost_pairs_weakens_only_the_evidence_for_the_candidate() -> None:
    sure, doubtful = (from_pairs(paired(5000.0, 400.0, 400.0), 0.0, GOOD, 0.02, doubt=doubt) for doubt in (0.0, 60.0))
    # Standard errors add up as squares: 800 disagreements, and 60 pairs more or less.
    z = 0.02 * 5000.0 / math.sqrt(801.0 + 60.0**2)

    assert doubtful.log_e_worse == sure.log_e_worse
    assert sure.log_e_fine > PROMOTE
    assert doubtful.log_e_fine == pytest.approx(math.log(0.8) + log_e_above(z, z), abs=0.05)


def test_pairs_of_one_device_say_nothing() -> None:
    assert from_pairs(paired(500.0, 0.0, 100.0, g=1.0), 0.0, GOOD, 0.02) == NOTHING
    assert from_pairs(paired(0.0, 0.0, 0.0), 0.0, GOOD, 0.02) == NOTHING


def test_equal_losses_on_both_models_promote_a_continuous_metric_too() -> None:
    same = Pairs(600.0, 0.0, 0.0, 30.0, 12000.0, 0.0, 0.0)

    assert from_pairs(same, 0.0, FAST, 0.02).log_e_fine > PROMOTE
    assert from_pairs(same, 0.0, FAST, 0.02).log_e_worse < 0.0


@pytest.mark.parametrize(("n", "size"), [(50.0, 0.1), (500.0, 0.03), (20000.0, 0.049)])
def test_many_small_losses_are_no_evidence_before_the_rare_gains_have_come(n: float, size: float) -> None:
    # One pair in a hundred, or in a thousand, gains all of it back, and none of them has come yet.
    unlucky = Pairs(n, -n * size, n * size * size, n, n, -n * size, n * size * size)

    assert from_pairs(unlucky, 0.0, FAST, 0.2).log_e_worse <= 0.0


def test_a_clear_loss_is_found_within_a_hundred_pairs() -> None:
    clear = Pairs(100.0, -50.0, 100.0, 100.0, 100.0, -50.0, 100.0)

    assert from_pairs(clear, 0.0, FAST, 0.2).log_e_worse > ROLL_BACK


def test_pairs_take_the_larger_variance_of_devices_and_days() -> None:
    rng = np.random.default_rng(6)
    storm = rng.normal(0.0, 30.0, 8)
    n = np.full(8, 100.0)
    days = Days(8.0, float((n * n).sum()), float((n * storm).sum()), float((storm * storm).sum()))
    total = float(storm.sum())
    calm = Pairs(800.0, total, 800.0, 800.0, 800.0, total, 800.0)
    stormy = msgspec.structs.replace(calm, days=days)

    assert from_pairs(stormy, 0.0, FAST, 0.02).error > 2.0 * from_pairs(calm, 0.0, FAST, 0.02).error


DATED = Arm(90.0, 80.0, 80.0, 9.0, 900.0, 800.0, 720.0, days=Days(3.0, 2700.0, 2400.0, 2150.0))
BARE = Arm(90.0, 80.0, 80.0, 9.0, 900.0, 800.0, 720.0)


def test_stages_share_devices_and_regions_do_not() -> None:
    stages = [Stratum(DATED, DATED, region="east")] * 3

    assert of_strata(stages) == Amount(270.0, 9.0, 7.0)
    assert of_strata([*stages, Stratum(DATED, DATED, region="west")]) == Amount(360.0, 18.0, 7.0)
    assert of_strata([Stratum(DATED, DATED), Stratum(BARE, BARE)]) == Amount(180.0, 9.0, 3.0)


def test_empty_strata_add_no_devices_and_no_days() -> None:
    assert of_strata([Stratum(DATED, EMPTY)]) == Amount(0.0, 0.0, 0.0)
    assert of_strata([]) == Amount(0.0, 0.0, 0.0)


def test_pairs_count_their_own_devices_and_days() -> None:
    days = Days(4.0, 40.0, 0.0, 0.0)

    assert of_pairs(Pairs(10.0, 0.0, 0.0, 5.0, 20.0, 0.0, 0.0, days=days)) == Amount(10.0, 5.0, 4.0)
