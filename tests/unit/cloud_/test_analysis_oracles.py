"""The rule's pieces against textbook tests of scipy, and the rule itself on simulated experiments with known truth."""

from __future__ import annotations

import functools
import math
import typing

import msgspec
import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from scipy import stats

from cloud.analysis import simulate as sim
from cloud.analysis import simulate_devices as dev
from cloud.analysis.array_decide import Verdicts, decide_all
from cloud.analysis.batch import Batch
from cloud.analysis.compare import from_pairs, from_strata
from cloud.analysis.contrast import stratum_contrast
from cloud.analysis.difference import clustered_difference
from cloud.analysis.mixture import log_e_above, log_e_drop
from cloud.analysis.records import Arm, DecideInput, Metric, Minimum, Pairs, Stratum
from cloud.analysis.tails import z_from_t

GOOD, BAD, FAST = Metric("bernoulli", "higher"), Metric("bernoulli", "lower"), Metric("continuous", "lower")
samples = st.lists(st.integers(0, 1000), min_size=3, max_size=30).filter(lambda values: len(set(values)) > 1)


def alone(x: np.ndarray) -> Arm:
    """Each value from a device of its own."""
    n, s, ss = float(len(x)), float(x.sum()), float((x * x).sum())
    return Arm(n, s, ss, n, n, s, ss)


@settings(deadline=None)
@given(st.integers(0, 10**6), st.sampled_from([(25, 25), (40, 400), (400, 40)]))
def test_without_clusters_the_variance_and_its_degrees_of_freedom_are_those_of_welch(
    seed: int, sizes: tuple[int, int]
) -> None:
    rng = np.random.default_rng(seed)
    first, second = (rng.normal(rng.uniform(0.0, 3.0), rng.uniform(0.5, 3.0), size) for size in sizes)
    spread = clustered_difference(Stratum(alone(first), alone(second)))
    welch = stats.ttest_ind(second, first, equal_var=False)

    assert spread is not None
    assert (second.mean() - first.mean()) / math.sqrt(spread.variance) == pytest.approx(welch.statistic, rel=1e-6)
    assert spread.df == pytest.approx(welch.df, rel=1e-6)


@settings(deadline=None)
@given(st.integers(0, 10**6))
def test_between_arms_of_one_size_a_latency_is_judged_by_the_score_of_welch(seed: int) -> None:
    rng = np.random.default_rng(seed)
    first, second = (rng.lognormal(4.0, 0.8, 60) for _ in range(2))
    seen = from_strata([Stratum(alone(first), alone(second))], [0.0], FAST, 10.0)
    welch = stats.ttest_ind(second, first, equal_var=False)
    score = stats.norm.isf(stats.t.sf(abs(welch.statistic), welch.df)) * np.sign(welch.statistic)
    unit = 10.0 / seen.error
    margin = stats.norm.isf(stats.t.sf(unit, welch.df))

    assert -seen.difference / seen.error == pytest.approx(welch.statistic, rel=1e-6)
    assert seen.log_e_worse == pytest.approx(log_e_drop(score, margin), rel=1e-5, abs=1e-6)


@settings(deadline=None)
@given(samples)
def test_pairs_of_losses_are_judged_by_the_one_sample_t_test_with_a_hundred_pairs_of_caution(values: list[int]) -> None:
    d = np.array(values) / 1000.0 - 0.4
    arm = alone(d)
    seen = from_pairs(Pairs(*msgspec.structs.astuple(arm)[:7]), 0.0, FAST, 1e-4)
    n = len(d)
    assume(stats.sem(d) > 20.0 * 1e-4 / n)
    caution = math.sqrt(1.0 + 100.0 / n)
    student = stats.ttest_1samp(d, -1e-4)
    statistic = student.statistic / caution
    score = math.copysign(stats.norm.isf(stats.t.sf(abs(statistic), student.df)), statistic)
    slack = stats.norm.isf(stats.t.sf(1e-4 / seen.error, student.df))

    assert (seen.difference + 1e-4) / seen.error == pytest.approx(statistic, rel=1e-6)
    assert seen.log_e_fine == pytest.approx(log_e_above(score, slack), rel=1e-4, abs=1e-6)


@pytest.mark.parametrize("df", [1.0, 4.0, 9.0, 19.0])
def test_the_margin_is_scored_as_the_differences_are(df: float) -> None:
    # A few devices that all agree, at a difference of many margins: as sure as the t test is, not less.
    t = 60.0
    surest = log_e_drop(z_from_t(t, df), z_from_t(t / 3.0, df))

    assert surest > log_e_drop(z_from_t(t, df), t / 3.0)


@settings(deadline=None)
@given(st.integers(2, 60), st.integers(2, 60), st.integers(0, 60), st.integers(0, 60))
def test_no_rate_is_surer_than_the_agresti_smoothed_one(n0: int, n1: int, bad0: int, bad1: int) -> None:
    bad0, bad1 = min(bad0, n0), min(bad1, n1)
    arms = [Arm(n, n - bad, n - bad, n, n, n - bad, n - bad) for n, bad in ((n0, bad0), (n1, bad1))]
    contrast = stratum_contrast(Stratum(arms[0], arms[1]), GOOD, 0.02)
    pooled = (bad0 + bad1 + 2.0) / (n0 + n1 + 4.0)

    assert contrast is not None
    assert contrast.variance > pooled * (1.0 - pooled) * (1.0 / n0 + 1.0 / n1) / 3.0


def share(said: typing.Any) -> float:
    """Of experiments in which a word was said at any look."""
    return float(said.any(axis=1).mean())


def run(simulate: typing.Callable[..., Batch], *, size: int = 300) -> Verdicts:
    return decide_all(simulate(np.random.default_rng(11), size))


ASKED = sim.question(GOOD, 0.02)
SHADOW = sim.question(GOOD, 0.02, "shadow")
SLOW = sim.question(FAST, 10.0)
EQUAL: dict[str, typing.Callable[..., Batch]] = {
    "split": functools.partial(sim.rates, n=(100, 100), p=(0.9, 0.9), asked=ASKED),
    "a look at each": functools.partial(sim.rates, n=(1, 1), p=(0.9, 0.9), asked=ASKED, looks=400),
    "common failures": functools.partial(sim.rates, n=(190, 10), p=(0.5, 0.5), asked=ASKED),
    "rare": functools.partial(sim.rates, n=(380, 20), p=(0.005, 0.005), asked=sim.question(BAD, 0.005)),
    "latency": functools.partial(sim.latencies, slower=1.0, asked=SLOW),
    "pairs": functools.partial(sim.paired, pos=0.045, neg=0.045, asked=SHADOW),
    "ten devices": functools.partial(
        dev.clustered, devices=20, p=(0.9, 0.9), icc=0.1, split=False, asked=ASKED, looks=60
    ),
    "24 busy devices beside 200": functools.partial(
        dev.clustered,
        devices=224,
        p=(0.99, 0.99),
        icc=0.2,
        share=200 / 224,
        traffic=0.5,
        split=False,
        asked=ASKED,
        looks=60,
    ),
    "inside devices": functools.partial(
        dev.clustered, devices=24, p=(0.9, 0.9), icc=0.2, skew=1.0, joining=True, asked=ASKED, looks=60
    ),
    "ramp": functools.partial(sim.ramp, worse=0.0, asked=ASKED),
}


@pytest.mark.parametrize("name", EQUAL)
def test_equal_models_are_seldom_rolled_back_however_often_one_looks(name: str) -> None:
    assert share(run(EQUAL[name]).rollback) <= 0.05


WORSE: dict[str, typing.Callable[..., Batch]] = {
    "split": functools.partial(sim.rates, n=(100, 100), p=(0.9, 0.85), asked=ASKED),
    "latency": functools.partial(sim.latencies, slower=1.25, asked=SLOW),
    "pairs": functools.partial(sim.paired, pos=0.02, neg=0.07, asked=SHADOW),
    "inside devices": functools.partial(dev.clustered, devices=24, p=(0.9, 0.85), icc=0.2, asked=ASKED, looks=60),
    "lost": functools.partial(sim.lossy, crash=0.6, late=20, n=(100, 100), asked=ASKED),
}


@pytest.mark.parametrize("name", WORSE)
def test_much_worse_models_are_found_and_never_promoted(name: str) -> None:
    found = run(WORSE[name], size=100)

    assert share(found.rollback) > (0.9 if name == "lost" else 0.99)
    assert share(found.promote) == 0.0


def test_a_storm_that_hits_all_devices_is_not_blamed_on_the_candidate() -> None:
    asked: DecideInput = msgspec.structs.replace(SHADOW, minimum=Minimum(days=7))
    stormy = functools.partial(dev.stormy_pairs, days=40, drop=0.0, storm=0.03, asked=asked)
    blind = run(lambda rng, size: _without_days(stormy(rng, size), asked))

    assert share(run(stormy).rollback) <= 0.05
    assert share(blind.rollback) > 0.1


def _without_days(batch: Batch, asked: DecideInput) -> Batch:
    pairs = batch.pairs
    assert pairs is not None
    bare = pairs._replace(arm=pairs.arm._replace(days=None))
    return msgspec.structs.replace(batch, pairs=bare, asked=msgspec.structs.replace(asked, minimum=Minimum()))
