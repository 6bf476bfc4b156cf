"""Guardrails of a rollout: any may roll back, all must be proven harmless; and what a promotion still waits for."""

from __future__ import annotations

import math
import re
import typing

import msgspec
import pytest

from cloud.analysis.decide import decide
from cloud.analysis.forecast import more_outcomes, more_outcomes_of
from cloud.analysis.records import Arm, DecideInput, Metric, Minimum, Pairs, Stratum
from cloud.config import NumberSettings, RolloutSettings
from cloud.rollout.guardrails import FAILS, LARGE, POSTED, SLOW, decide_all, failed, guardrails_of, unproven
from shared.summary import MEMORY_SCALE, N_LATENCY_BINS, latency_bin, quantise, square
from tests.unit.cloud_.simulated import Fleet

Row = dict[str, typing.Any]
PLAN = RolloutSettings()


def faults(bad0: int, bad1: int, *, n: int = 500, devices: int = 10) -> list[Row]:
    base = {"epoch": 7, "region": "west", "day": 1, "requests": n, "timed_out": 0, "fallback": 0}
    return [
        base | {"arm": arm, "device": f"d{i}", "failed": bad}
        for arm, bad in ((0, bad0), (1, bad1))
        for i in range(devices)
    ]


def latencies(ratio: float, *, n: int = 100, devices: int = 10) -> list[Row]:
    """Answers of about 100 us, and of `ratio` times that; each device a little different."""
    rows = []
    for arm, factor in ((0, 1.0), (1, ratio)):
        for i in range(devices):
            places = [latency_bin(100e-6 * factor * math.exp(0.6 * math.sin(12.9 * k + i))) for k in range(n)]
            rows.append(
                {"epoch": 7, "region": "west", "day": 1, "arm": arm, "device": f"d{i}", "requests": float(n),
                 "log2_sum": float(sum(places)), "log2_sumsq": float(sum(p * p for p in places))}
            )  # fmt: skip
    return rows


def words(fails: list[Row], slow: list[Row], plan: RolloutSettings = PLAN) -> dict[str, str]:
    return {name: one.word for name, one in decide_all(guardrails_of(fails, slow, plan)).items()}


def test_a_candidate_that_does_no_harm_is_proven_so_and_one_that_does_is_not() -> None:
    assert words(faults(0, 0), latencies(1.0)) == {FAILS: "promote", SLOW: "promote"}
    assert words(faults(0, 50), latencies(1.0)) == {FAILS: "rollback", SLOW: "promote"}
    assert words(faults(0, 0), latencies(3.0)) == {FAILS: "promote", SLOW: "rollback"}
    assert words(faults(2, 2, n=20, devices=2), latencies(1.0, n=2, devices=2)) == {FAILS: "continue", SLOW: "continue"}
    assert words([], []) == {FAILS: "continue", SLOW: "continue"}


def test_a_cost_within_half_of_what_is_allowed_is_certain_and_rolls_nothing_back() -> None:
    assert words(faults(0, 0), latencies(1.1, n=4000, devices=60))[SLOW] == "promote"
    asked = guardrails_of(faults(0, 0), latencies(1.45, n=4000, devices=60), PLAN)
    assert (asked[SLOW].margin, asked[SLOW].tolerance) == (math.log2(1.5), math.log2(1.25))
    assert decide_all(asked)[SLOW].word == "rollback"
    assert re.match(r"latency: about 1\.\d\d times that of the incumbent; roll back: ", failed(decide_all(asked))[0])
    strict = {SLOW: msgspec.structs.replace(asked[SLOW], tolerance=0.0)}
    reasons = decide_all(strict)[SLOW].reasons
    assert not any("by more than" in reason for reason in reasons)
    assert any("worse by more than 0.322" in reason for reason in decide_all(asked)[SLOW].reasons)


def test_a_faster_candidate_is_fine_and_no_margin_looks_at_no_latency() -> None:
    assert words(faults(0, 0), latencies(0.5))[SLOW] == "promote"
    alone = msgspec.structs.replace(PLAN, latency_margin=0.0)
    assert words(faults(0, 0), latencies(5.0), alone) == {FAILS: "promote"}


def test_they_share_the_alpha() -> None:
    asked = guardrails_of(faults(0, 0), latencies(1.0), PLAN)
    assert [record.alpha for record in asked.values()] == [PLAN.alpha / 2] * 2


def test_reasons_name_the_guardrail() -> None:
    said = decide_all(guardrails_of(faults(0, 50), latencies(1.0, n=2, devices=2), PLAN))
    assert [one.split(":")[0] for one in failed(said)] == [FAILS]
    assert [one.split(":")[0] for one in unproven(said)] == [FAILS, SLOW]
    assert "not proven harmless yet" in unproven(said)[1]


# ---- in a rollout


@pytest.fixture
def fleet(tmp_path: typing.Any, monkeypatch: pytest.MonkeyPatch) -> typing.Iterator[Fleet]:
    made = Fleet(tmp_path / "p", monkeypatch)
    yield made
    made.store.close()


def test_the_latencies_of_both_arms_are_read_as_logarithms(fleet: Fleet) -> None:
    bins = [0] * N_LATENCY_BINS
    bins[7], bins[8] = 3, 1
    packed = memoryview(bytes(b"".join(n.to_bytes(8, "little") for n in bins)))
    device = fleet.devices[0].name
    fleet.store.db.connection.execute(
        "insert into sums values (?, 'late', 'v2', 5, 1, 1, 9, 4, 0, 4, 0, 0, 0, 0, 0, 0, 0, 0, ?, ?)",
        (device, bytes(40 * 8), bytes(packed)),
    )
    (row,) = fleet.store.evidence.log_latencies("late", [5])
    assert (row["requests"], row["log2_sum"], row["log2_sumsq"]) == (4.0, 29.0, 211.0)
    assert (row["device"], row["arm"], row["epoch"], row["day"]) == (device, 1, 5, 9)
    assert fleet.store.evidence.log_latencies("late", [6]) == []


# ---- how many more


def pairs(n: float, gain: float, sd: float = 0.5, clusters: int = 50) -> DecideInput:
    size, total = n / clusters, n * gain
    spread = sd * sd * n  # independent outcomes: devices differ no more than chance makes them
    square = size * size * clusters
    within = square * gain * gain + spread
    return DecideInput(
        schema="covey.decide/1", mode="shadow", alpha=0.05, alpha_promote=0.01, margin=0.05, n_candidates=1,
        metric=Metric("continuous", "higher"), strata=(),
        pairs=Pairs(n, total, n * (sd * sd + gain * gain), clusters, square, size * total, within),
        minimum=Minimum(0, 0, 0),
    )  # fmt: skip


@pytest.mark.parametrize(("gain", "n"), [(0.0, 500), (0.02, 200), (-0.02, 500), (0.05, 100)])
def test_the_forecast_is_what_the_rule_then_finds(gain: float, n: int) -> None:
    said = decide(pairs(n, gain)).numbers
    more = more_outcomes_of(said, 0.05)
    assert more is not None
    assert more > 0
    # Of few pairs the rule is cautious, and less so of more: then it takes less than their error says.
    after = [decide(pairs(n + share * more, gain)) for share in (0.8 if n >= 500 else 0.6, 1.25)]
    assert [one.word for one in after] == ["continue", "promote"]


def halves(n: float, given: float) -> DecideInput:
    """Two equal arms with `n` outcomes each, of so many answers."""
    size = n / 100
    arm = Arm(n, 0.9 * n, 0.9 * n, 100.0, size * n, 0.9 * size * n, 0.81 * size * n, assigned=given)
    return DecideInput(
        schema="covey.decide/1", mode="ab", alpha=0.05, alpha_promote=0.01, margin=0.02, n_candidates=1,
        metric=Metric("bernoulli", "higher"), strata=(Stratum(arm, arm),), lost_alike=1.0,
    )  # fmt: skip


@pytest.mark.parametrize("coverage", [1.0, 0.8, 0.5, 0.2])
def test_the_forecast_knows_that_outcomes_which_never_come_make_it_take_longer(coverage: float) -> None:
    n = 1500.0
    more = more_outcomes_of(decide(halves(n, n / coverage)).numbers, 0.02)
    assert more is not None
    after = [decide(halves(n + share * more, (n + share * more) / coverage)) for share in (0.7, 1.4)]
    assert [one.word for one in after] == ["continue", "promote"]


def test_what_is_certain_and_waits_for_a_minimum_is_not_called_uncertain() -> None:
    enough = pairs(4000, 0.0)
    held = msgspec.structs.replace(enough, minimum=Minimum(0, 51, 0))
    soon = msgspec.structs.replace(pairs(4000, -0.2), minimum=Minimum(0, 0, 7))
    assert [decide(one).reasons[0] for one in (pairs(100, 0.0), held, soon)] == [
        "continue: neither is certain yet",
        "continue: the candidate is not worse by the margin, but something else is missing",
        "continue: the candidate looks worse, but a verdict takes more days",
    ]


def test_there_is_no_forecast_where_there_is_nothing_to_go_by() -> None:
    assert more_outcomes_of({}, 0.05) is None
    assert more_outcomes_of(decide(pairs(500, -0.06)).numbers, 0.05) is None
    assert more_outcomes(difference=0.0, error=1e9, outcomes=1, margin=1e-9, need=5.0) is None


# ---- numbers and memory

_CELL = {"epoch": 7, "region": "west"}
MARGIN = {"revenue": NumberSettings(margin=0.2, scale=10.0)}
MEASURED = msgspec.structs.replace(PLAN, min_devices=10, memory_margin=0.2)


def visits(ratio: float, *, devices: int = 12, days: int = 4, n: int = 200, per: float = 5.0) -> tuple[list[Row], ...]:
    """What two arms answered, and revenue of a fifth of the visits: the candidate's is `ratio` times as much."""
    posted, served = [], []
    for arm, factor in ((0, 1.0), (1, ratio)):
        for i in range(devices):
            for day in range(days):
                key = _CELL | {"arm": arm, "device": f"d{i}", "day": day}
                values = [per * factor * (1 + 0.3 * math.sin(7.3 * k + i + day)) for k in range(n // 5)]
                sums = [quantise(value / 10.0) for value in values]
                posted.append(key | {"name": "revenue", "scale": 10.0, "n": len(sums), "sum": sum(sums),
                                     "sumsq": sum(map(square, sums))})  # fmt: skip
                served.append(key | {"requests": n})
    return posted, served


def of_number(posted: list[Row], served: list[Row], plan: RolloutSettings = MEASURED, **changes: typing.Any) -> str:
    own = {"revenue": msgspec.structs.replace(MARGIN["revenue"], **changes)}
    asked = guardrails_of([], [], plan, posted=posted, served=served, numbers=own)
    return decide_all(asked)[POSTED.format("revenue")].word


def test_a_number_rolls_back_when_it_is_worse_and_is_proven_when_it_is_not() -> None:
    assert of_number(*visits(1.0)) == "promote"
    assert of_number(*visits(0.5)) == "rollback"
    assert of_number(*visits(0.5), direction="lower") == "promote"
    assert of_number(*visits(1.5), direction="lower") == "rollback"
    assert of_number([], []) == "continue"


def test_a_number_waits_for_as_many_days_and_devices_as_quality() -> None:
    assert of_number(*visits(0.5, days=2)) == "continue"
    assert of_number(*visits(1.0, days=2, n=400)) == "continue"
    assert of_number(*visits(1.0, devices=9)) == "continue"


def test_what_nobody_posts_counts_as_nothing_for_a_mean_over_answers() -> None:
    posted, served = visits(1.0)
    half = [  # the candidate sells half as often
        row | {name: row[name] // (1 + row["arm"]) for name in ("n", "sum", "sumsq")} for row in posted
    ]
    assert of_number(half, served) == "rollback"
    assert of_number(half, served, per="number") == "promote"


def test_sums_under_another_scale_are_the_same_money() -> None:
    posted, served = visits(1.0)
    other = [row | {"scale": 5.0, "sum": row["sum"] * 2, "sumsq": row["sumsq"] * 4} for row in posted if row["arm"]]
    mixed = [row for row in posted if not row["arm"]] + other
    kinds = {"revenue": MARGIN["revenue"]}
    assert guardrails_of([], [], MEASURED, posted=mixed, served=served, numbers=kinds) == guardrails_of(
        [], [], MEASURED, posted=posted, served=served, numbers=kinds
    )


def test_a_number_that_is_watched_keeps_nobody_waiting_and_still_rolls_back() -> None:
    watched = {"revenue": msgspec.structs.replace(MARGIN["revenue"], guardrail="watch")}
    said = decide_all(guardrails_of([], [], MEASURED, numbers=MARGIN))
    assert [one.split(":")[0] for one in unproven(said, MARGIN)] == [FAILS, SLOW, LARGE, "number revenue"]
    assert [one.split(":")[0] for one in unproven(said, watched)] == [FAILS, SLOW, LARGE]
    posted, served = visits(0.5)
    bad = decide_all(guardrails_of([], [], MEASURED, posted=posted, served=served, numbers=watched))
    assert [one.split(":")[0] for one in failed(bad)] == ["number revenue"]


def memory(ratio: float, devices: int = 12) -> list[Row]:
    """One sample for each device and day: devices differ threefold, the candidate takes `ratio` times as much."""
    return [
        _CELL | {"arm": arm, "device": f"d{i}", "day": day, "n": 1, "scale": MEMORY_SCALE,
                 "sum": quantise((40 << 20) * (1 + 0.2 * i) * factor * (1 + 0.01 * (day % 2)) / MEMORY_SCALE)}
        for arm, factor in ((0, 1.0), (1, ratio))
        for i in range(devices)
        for day in range(2)
    ]  # fmt: skip


def test_models_too_small_to_be_measured_are_alike() -> None:
    small = [row | {"sum": row["sum"] // 50} for row in memory(3.0)]
    (stratum,) = guardrails_of([], [], MEASURED, memory=small)[LARGE].strata
    assert stratum.candidate.sum / stratum.candidate.n == stratum.control.sum / stratum.control.n == 23.0


def test_memory_is_compared_within_each_device_and_only_if_the_plan_asks() -> None:
    words = {
        ratio: decide_all(guardrails_of([], [], MEASURED, memory=memory(ratio)))[LARGE].word
        for ratio in (0.5, 1, 1.05, 1.5)
    }
    assert words == {0.5: "promote", 1: "promote", 1.05: "promote", 1.5: "rollback"}
    assert LARGE not in guardrails_of([], [], PLAN, memory=memory(1.5))


def test_memory_of_days_that_one_arm_has_more_of_is_compared_day_by_day() -> None:
    grows = [row | {"sum": row["sum"] * (8 if row["day"] else 1)} for row in memory(1)]
    late = [row for row in grows if row["day"] or not row["arm"] or row["device"] < "d3"]
    plain, level = (
        decide_all(guardrails_of([], [], MEASURED, memory=[row | {"by_day": is_so} for row in late]))[LARGE]
        for is_so in (False, True)
    )
    assert plain.numbers["difference"] < -0.5, "days differ, and nothing else does"
    assert abs(level.numbers["difference"]) < 0.1


def test_all_that_is_asked_shares_the_alpha() -> None:
    asked = guardrails_of([], [], MEASURED, numbers=MARGIN)
    assert [record.alpha for record in asked.values()] == [PLAN.alpha / 4] * 4
