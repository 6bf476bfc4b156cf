from __future__ import annotations

import itertools
import json
import math
import typing

import msgspec
import pytest

from cloud.analysis.decide import decide, word_of
from cloud.analysis.guardrails import decide_with_guardrails
from cloud.analysis.records import Arm, Assigned, Cross, Days, DecideInput, Decision, Metric, Minimum, Pairs, Stratum

GOOD, BAD, FAST = Metric("bernoulli", "higher"), Metric("bernoulli", "lower"), Metric("continuous", "lower")
EMPTY = Arm(0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0)
replace = msgspec.structs.replace


def arm(n: float, rate: float, *, g: float | None = None, days: float = 0.0, assigned: float | None = None) -> Arm:
    """Sums of ``n`` outcomes which devices and days share evenly, up to what chance would add."""
    g = n if g is None else g
    s, noise = n * rate, n * rate * (1.0 - rate)
    clusters = (g, n * n / g, n * s / g, s * s / g + noise)
    by_day = Days(days, n * n / days, n * s / days, s * s / days + noise) if days else None
    return Arm(n, s, s, *clusters, assigned=assigned, days=by_day)


def ask(*strata: Stratum, **other: typing.Any) -> DecideInput:
    settings: dict[str, typing.Any] = {
        "schema": "covey.decide/1",
        "mode": "ab",
        "alpha": 0.05,
        "alpha_promote": 0.01,
        "margin": 0.02,
        "n_candidates": 1.0,
        "metric": GOOD,
    }
    return DecideInput(**{**settings, **other}, strata=strata)


def two(n0: float, rate0: float, n1: float, rate1: float, **other: typing.Any) -> Stratum:
    return Stratum(arm(n0, rate0), arm(n1, rate1), **other)


def paired(n: float, pos: float, neg: float, *, g: float = 50.0, days: float = 0.0) -> Pairs:
    s, apart = pos - neg, pos + neg
    by_day = Days(days, n * n / days, n * s / days, s * s / days + apart) if days else None
    return Pairs(n, s, apart, g, n * n / g, n * s / g, s * s / g + apart, days=by_day, pos=pos, neg=neg)


@pytest.mark.parametrize(
    ("stratum", "metric", "word"),
    [
        (two(2000, 0.9, 2000, 0.85), GOOD, "rollback"),
        (two(9000, 0.9, 9000, 0.9), GOOD, "promote"),
        (two(9000, 0.9, 9000, 0.93), GOOD, "promote"),
        (two(300, 0.9, 300, 0.9), GOOD, "continue"),
        (two(9000, 0.9, 9000, 0.88), GOOD, "rollback"),
        (two(2000, 0.1, 2000, 0.15), BAD, "rollback"),
        (two(9000, 0.1, 9000, 0.07), BAD, "promote"),
        (two(9500, 0.005, 500, 0.03), BAD, "rollback"),
        (two(2000, 0.0, 2000, 0.0), BAD, "promote"),
    ],
)
def test_clear_cases_are_decided_as_anyone_would(stratum: Stratum, metric: Metric, word: str) -> None:
    assert decide(ask(stratum, metric=metric)).word == word


@pytest.mark.parametrize("mode", ["ab", "canary", "shadow", "interleave"])
@pytest.mark.parametrize("metric", [GOOD, BAD, FAST])
def test_no_data_is_never_decided_on(mode: str, metric: Metric) -> None:
    full = arm(9000.0, 0.5)
    for strata in [(), (Stratum(EMPTY, EMPTY),), (Stratum(full, EMPTY),), (Stratum(EMPTY, full),)]:
        record = ask(*strata, mode=mode, metric=metric, minimum=Minimum(outcomes=0.0, devices=0.0))

        assert decide(record).word == "continue"
        assert decide(replace(record, pairs=Pairs(0, 0, 0, 0, 0, 0, 0, pos=0, neg=0))).word == "continue"


def test_one_device_is_never_decided_on() -> None:
    lone = [arm(5000.0, rate, g=1.0) for rate in (0.9, 0.2)]

    assert decide(ask(Stratum(*lone))).word == "continue"
    assert decide(ask(mode="shadow", pairs=paired(5000.0, 0.0, 900.0, g=1.0))).word == "continue"


@pytest.mark.parametrize(
    "minimum", [Minimum(outcomes=9001.0), Minimum(devices=101.0), Minimum(outcomes=0.0, devices=0.0, days=1.0)]
)
def test_minimums_hold_a_promotion_back(minimum: Minimum) -> None:
    ready = ask(Stratum(arm(9000.0, 0.9, g=100.0), arm(9000.0, 0.9, g=100.0)))

    assert decide(ready).word == "promote"
    held = decide(replace(ready, minimum=minimum))
    assert held.word == "continue"
    assert any(reason.startswith("no ") for reason in held.reasons)


def test_twenty_devices_and_five_hundred_outcomes_are_the_least_for_a_promotion() -> None:
    few_devices, few_outcomes = (
        Stratum(arm(n, 0.9, g=g), arm(n, 0.9, g=g)) for n, g in ((20000.0, 19.0), (499.0, 499.0))
    )

    assert decide(ask(few_devices)).word == "continue"
    assert decide(ask(few_outcomes, margin=0.2)).word == "continue"
    assert decide(ask(few_outcomes, margin=0.2, minimum=Minimum(outcomes=499.0))).word == "promote"
    assert decide(ask(few_outcomes, margin=0.2, minimum=None)).word == "continue"


@pytest.mark.parametrize(("days", "word"), [(6.0, "continue"), (7.0, "rollback")])
def test_days_hold_a_rollback_back_too(days: float, word: str) -> None:
    least = Minimum(days=7.0)
    worse = Stratum(arm(9000.0, 0.9, g=100.0, days=days), arm(9000.0, 0.8, g=100.0, days=days))

    assert decide(ask(worse, minimum=least)).word == word
    assert decide(ask(pairs=paired(5000, 50, 600, days=days), mode="shadow", minimum=least)).word == word


def test_without_days_in_the_sums_a_minimum_of_days_is_never_met() -> None:
    assert decide(ask(two(9000, 0.9, 9000, 0.8), minimum=Minimum(days=1.0))).word == "continue"


def test_few_outcomes_and_devices_do_not_hold_a_rollback_back() -> None:
    found = decide(ask(two(200, 0.9, 200, 0.6), minimum=Minimum(outcomes=1e6, devices=1e6)))

    assert found.word == "rollback"


def test_rollback_wins_when_both_could_be_said() -> None:
    # Surely worse, and surely not worse by as much as a wide margin.
    found = decide(ask(two(90000, 0.9, 90000, 0.88), margin=0.05, alpha=0.05))

    assert found.numbers["log_e_not_worse_by_margin"] > found.numbers["log_e_not_worse_by_margin_needed"]
    assert found.word == "rollback"


def test_more_candidates_need_more_evidence() -> None:
    close = two(1000, 0.9, 1000, 0.85)

    assert decide(ask(close)).word == "rollback"
    assert decide(ask(close, n_candidates=50.0)).word == "continue"


def test_the_order_of_strata_changes_nothing_at_all() -> None:
    strata = [
        Stratum(arm(n0, p, g=20.0, days=4.0), arm(n1, p - drop, g=20.0, days=4.0), region=name)
        for n0, n1, p, drop, name in [
            (990, 10, 0.91, 0.02, "a"),
            (700, 300, 0.87, 0.03, "b"),
            (500, 501, 0.83, 0.01, "a"),
        ]
    ]
    rare = [two(900 + i, 0.003 * i, 300 - i, 0.004 * i) for i in range(1, 4)]

    for group, metric in ((strata, GOOD), (rare, BAD)):
        decisions = [
            decide(ask(*order, metric=metric, assigned=Assigned(3000.0, 1000.0)))
            for order in itertools.permutations(group)
        ]
        assert all(other == decisions[0] for other in decisions)


def test_pooled_strata_would_blame_the_candidate_for_a_falling_base_rate() -> None:
    early, late = two(99000, 0.9, 1000, 0.9), two(50000, 0.7, 50000, 0.7)

    assert decide(ask(early, late)).word == "promote"


def test_only_closed_windows_are_judged() -> None:
    now = two(9000, 0.9, 9000, 0.95)  # the failures of the candidate come later

    assert decide(ask(now)).word == "promote"
    assert decide(ask(now, matured=())).word == "continue"
    assert decide(ask(now, matured=(two(4000, 0.9, 4000, 0.8),))).word == "rollback"


@pytest.mark.parametrize(("metric", "rates"), [(GOOD, (0.9, 0.934)), (BAD, (0.1, 0.066))])
def test_failures_that_a_crash_swallowed_are_counted(metric: Metric, rates: tuple[float, float]) -> None:
    crashing = two(10000, rates[0], 9100, rates[1])

    assert decide(ask(crashing, metric=metric)).word == "promote"
    assert decide(ask(crashing, metric=metric, assigned=Assigned(10000.0, 10000.0, 0.5))).word == "rollback"
    own = Stratum(arm(10000, rates[0], assigned=10000.0), arm(9100, rates[1], assigned=10000.0))
    assert decide(ask(own, metric=metric)).word == "rollback"


def test_what_is_missing_by_accident_is_held_against_a_promotion_alone() -> None:
    few = ask(two(2000, 0.9, 1992, 0.9))
    plain, lost = decide(few).numbers, decide(replace(few, assigned=Assigned(2000.0, 2000.0))).numbers

    assert 0.0 < lost["missing_ratio"] < 0.005
    assert lost["log_e_missing"] < math.log(100.0)
    assert lost["log_e_worse"] == plain["log_e_worse"]
    assert lost["log_e_not_worse_by_margin"] < plain["log_e_not_worse_by_margin"]


def test_missing_latencies_hold_a_promotion_back() -> None:
    control, candidate = (Arm(n, 10.0 * n, 101.0 * n, n, n, 10.0 * n, 101.0 * n) for n in (9000.0, 8000.0))
    record = ask(Stratum(control, candidate), metric=FAST, margin=0.5)

    assert decide(record).word == "promote"
    assert decide(replace(record, assigned=Assigned(9000.0, 9000.0))).word == "continue"


def test_outcomes_that_both_arms_lose_alike_do_not_stop_a_promotion() -> None:
    assert decide(ask(two(40000, 0.9, 40000, 0.9), assigned=Assigned(42000.0, 42000.0, 0.5))).word == "promote"


def test_a_wrong_split_holds_a_promotion_back() -> None:
    lopsided = two(10000, 0.9, 8000, 0.9)

    assert decide(ask(lopsided, assigned=Assigned(10000.0, 8000.0))).word == "promote"
    held = decide(ask(lopsided, assigned=Assigned(10000.0, 8000.0, 0.5)))
    assert held.word == "continue"
    assert "no promotion while inputs are not split as planned" in held.reasons
    # A share among several candidates says nothing about two arms alone.
    assert decide(ask(lopsided, assigned=Assigned(10000.0, 8000.0, 0.2), n_candidates=2.0)).word == "promote"


def test_pairs_decide_quality_where_they_are_kept() -> None:
    split = two(9000, 0.9, 9000, 0.8)

    assert decide(ask(split, mode="canary", pairs=paired(5000, 200, 200))).word == "promote"
    assert decide(ask(mode="shadow", pairs=paired(5000, 100, 350))).word == "rollback"
    assert decide(ask(mode="interleave", pairs=paired(5000, 1000, 1300))).word == "rollback"
    assert decide(ask(split, mode="ab", pairs=paired(5000, 200, 200))).word == "rollback"
    assert decide(ask(split, mode="shadow")).word == "rollback"


@pytest.mark.parametrize("metric", [GOOD, BAD, FAST])
def test_pairs_are_oriented_already(metric: Metric) -> None:
    assert decide(ask(mode="shadow", metric=metric, pairs=paired(5000, 100, 500))).word == "rollback"
    assert decide(ask(mode="shadow", metric=metric, pairs=paired(5000, 500, 100))).word == "promote"


def test_pairs_that_were_assigned_and_never_came_stop_a_promotion() -> None:
    good = ask(mode="shadow", pairs=paired(5000, 200, 200))

    assert decide(good).word == "promote"
    assert decide(replace(good, assigned=Assigned(5500.0, 5500.0))).word == "continue"
    assert decide(replace(good, pairs=replace(good.pairs, assigned=5500.0))).word == "continue"
    # Late labels are no loss: the pairs are those of closed windows.
    assert decide(replace(good, assigned=Assigned(5500.0, 5500.0), matured=())).word == "promote"


def test_a_crash_in_the_canary_counts_against_its_pairs() -> None:
    crashing = ask(two(10000, 0.9, 9000, 0.93), mode="canary", pairs=paired(9000, 400, 100))

    assert decide(crashing).word == "promote"
    assert decide(replace(crashing, assigned=Assigned(10000.0, 10000.0))).word == "rollback"


REGIONS = [two(9000, 0.9, 9000, 0.92, region=name) for name in ("africa", "america", "asia")]


def test_a_small_region_that_suffers_is_not_outvoted() -> None:
    small = two(800, 0.9, 800, 0.8, region="europe")
    found = decide(ask(*REGIONS, small))

    assert found.numbers["log_e_not_worse_by_margin"] > found.numbers["log_e_not_worse_by_margin_needed"]
    assert found.word == "continue"
    assert found.regions == {"africa": "promote", "america": "promote", "asia": "promote", "europe": "rollback"}
    assert "europe alone says roll back: it keeps its incumbent" in found.reasons


def test_the_fleet_waits_for_a_region_that_rather_looks_worse() -> None:
    few, fewer = two(80, 0.9, 80, 0.8, region="europe"), two(8, 0.9, 8, 0.8, region="europe")
    waits = decide(ask(*REGIONS, few))

    assert waits.word == "continue"
    assert waits.regions == {"africa": "promote", "america": "promote", "asia": "promote", "europe": "continue"}
    assert "no promotion while europe rather looks worse" in waits.reasons
    assert decide(ask(*REGIONS, fewer)).word == "promote"


@pytest.mark.parametrize("metric", [GOOD, BAD])
def test_the_fleet_waits_until_no_region_can_be_far_worse(metric: Metric) -> None:
    rate = 0.9 if metric == GOOD else 0.1
    better = [two(1500, rate, 1500, rate + (0.03 if metric == GOOD else -0.03), region=name) for name in ("a", "b")]
    unknown, known = (two(n, rate, n, rate, region="europe") for n in (70, 300))
    waits = decide(ask(*better, unknown, metric=metric))

    assert waits.word == "continue"
    assert waits.regions == {"a": "promote", "b": "promote", "europe": "continue"}
    assert "no promotion while so little is known of europe that it could be far worse there" in waits.reasons
    assert decide(ask(*better, known, metric=metric)).word == "promote"


def test_a_region_that_matters_little_holds_up_nobody() -> None:
    tiny = two(50, 0.9, 50, 0.9, region="europe")

    assert decide(ask(*REGIONS, tiny)).word == "promote"
    assert decide(ask(*(replace(one, region=None) for one in REGIONS), two(600, 0.9, 600, 0.9, region="z"))).word == (
        "promote"
    )


@pytest.mark.parametrize(("devices", "rate", "metric"), [(1.0, 0.9, GOOD), (2.0, 0.9, GOOD), (2.0, 0.0, BAD)])
def test_a_region_of_few_devices_can_be_known(devices: float, rate: float, metric: Metric) -> None:
    few = Stratum(arm(2000, rate, g=devices), arm(2000, rate, g=devices), region="europe")
    rest = [two(9000, rate, 9000, rate, region=name) for name in ("africa", "asia")]

    assert decide(ask(*rest, few, metric=metric)).word == "promote"


def test_pairs_promote_whatever_is_known_of_regions() -> None:
    strata = [two(60, 0.9, 60, 0.9, region=name) for name in ("a", "b")]

    assert decide(ask(*strata, mode="canary", pairs=paired(5000, 300, 100))).word == "promote"
    assert decide(ask(*strata, minimum=Minimum(outcomes=0), margin=0.1)).word == "continue"


def test_regions_follow_the_fleet_when_none_suffers() -> None:
    assert set(decide(ask(*REGIONS)).regions.values()) == {"promote"}
    assert decide(ask(two(2000, 0.9, 2000, 0.8, region="asia"))).regions == {"asia": "rollback"}
    assert decide(ask(two(2000, 0.9, 2000, 0.8))).regions == {}


def test_each_region_is_tested_at_its_share_of_alpha() -> None:
    suffering = two(600, 0.9, 600, 0.83, region="z")
    alone = decide(ask(suffering))
    crowd = [two(90000, 0.9, 90000, 0.92, region=f"r{i}") for i in range(200)]

    assert alone.word == "rollback"
    assert decide(ask(suffering, crowd[0])).regions["z"] == "rollback"
    assert decide(ask(suffering, *crowd)).regions["z"] == "continue"


def test_a_region_waits_for_its_own_days() -> None:
    young = Stratum(arm(2000, 0.9, days=4.0), arm(2000, 0.7, days=4.0), region="young")
    old = Stratum(arm(90000, 0.9, days=9.0), arm(90000, 0.9, days=9.0), region="old")

    assert decide(ask(young, old)).regions["young"] == "rollback"
    assert decide(ask(young, old, minimum=Minimum(days=5.0))).regions["young"] == "continue"


def test_devices_that_hold_both_arms_sharpen_the_decision() -> None:
    n, g = 50.0, 40.0
    rates = [0.6 + 0.01 * i for i in range(int(g))]
    s0, s1 = ([n * (rate - drop) for rate in rates] for drop in (0.0, 0.05))
    arms = [Arm(n * g, sum(s), sum(s), g, g * n * n, n * sum(s), sum(x * x for x in s)) for s in (s0, s1)]
    cross = Cross(g, g * n * n, n * sum(s1), n * sum(s0), sum(x * y for x, y in zip(s0, s1, strict=True)))

    assert decide(ask(Stratum(*arms))).word == "continue"
    assert decide(ask(Stratum(*arms, cross=cross))).word == "rollback"


def test_a_decision_explains_itself_in_json() -> None:
    found = json.loads(decide(ask(*REGIONS)).to_json())

    assert set(found) == {"word", "reasons", "numbers", "regions"}
    assert found["word"] == "promote"
    assert found["reasons"][0] == "promote: the candidate is not worse by the margin"
    assert found["numbers"]["difference"] == pytest.approx(0.02)
    assert all(math.isfinite(number) for number in found["numbers"].values())


def test_the_word_alone_is_the_word_of_the_decision() -> None:
    for strata in ([*REGIONS], [*REGIONS, two(80, 0.9, 80, 0.8, region="europe")], [two(2000, 0.9, 2000, 0.8)]):
        assert word_of(ask(*strata)) == decide(ask(*strata)).word


def test_deciding_on_nothing_says_that_there_is_nothing() -> None:
    assert decide(ask()).reasons[0] == "continue: there is nothing to compare yet"
    assert "standard_error" not in decide(ask()).numbers


ERRORS = ask(two(9000, 0.01, 9000, 0.01), metric=BAD, margin=0.01)


def test_one_guardrail_rolls_back_and_all_must_be_fine_to_promote() -> None:
    quality = ask(two(9000, 0.9, 9000, 0.9))
    slow, unsure = (replace(ERRORS, strata=(two(n, 0.01, n, p),)) for n, p in ((9000, 0.03), (300, 0.01)))

    def joined(**guards: DecideInput) -> Decision:
        return decide_with_guardrails(quality, guards)

    assert joined().word == "promote"
    assert joined(errors=ERRORS).word == "promote"
    assert joined(errors=ERRORS, unsure=unsure).word == "continue"
    assert joined(errors=ERRORS, unsure=unsure, slow=slow).word == "rollback"
    assert "slow: roll back: the candidate is worse" in joined(slow=slow).reasons
    assert joined(slow=slow).numbers["slow.outcomes"] == 9000.0


def test_guardrails_share_their_alpha() -> None:
    barely = replace(ERRORS, strata=(two(1200, 0.1, 1200, 0.142),), margin=0.02)

    assert decide(barely).word == "rollback"
    crowd = {f"guard{i}": ERRORS for i in range(9)} | {"barely": barely}
    assert decide_with_guardrails(ERRORS, crowd).word == "continue"


def half_missing(n: float, lost1: float = 1.0) -> Stratum:
    """As many outcomes of both arms, of which as many again never came; of the candidate's `lost1` times as many."""
    return Stratum(arm(n, 0.9, assigned=2 * n), arm(n, 0.9, assigned=n + lost1 * n))


@pytest.mark.parametrize("pairs", [None, paired(9000, 400, 400)], ids=["own answers", "pairs"])
def test_outcomes_that_stay_away_alike_hold_nothing_up_where_the_plan_says_that_they_are(pairs: Pairs | None) -> None:
    record = ask(half_missing(9000), mode="canary", pairs=pairs, lost_alike=1.0)
    assert word_of(record) == "continue"
    assert word_of(replace(record, missing="alike")) == "promote"


@pytest.mark.parametrize("pairs", [None, paired(9000, 400, 400)], ids=["own answers", "pairs"])
def test_outcomes_of_the_candidate_alone_that_stay_away_count_whatever_the_plan_says(pairs: Pairs | None) -> None:
    record = ask(half_missing(9000, lost1=1.2), mode="canary", pairs=pairs, lost_alike=1.0, missing="alike")
    assert word_of(record) == "rollback"
