"""Guardrails of a rollout: any may roll back, all must be proven harmless; and what a promotion still waits for."""

from __future__ import annotations

import math
import typing

import msgspec
import pytest

from cloud.analysis.decide import decide
from cloud.analysis.forecast import more_outcomes, more_outcomes_of
from cloud.analysis.records import DecideInput, Metric, Minimum, Pairs
from cloud.config import RolloutSettings
from cloud.rollout.guardrails import FAILS, SLOW, decide_all, failed, guardrails_of, unproven
from shared.summary import N_LATENCY_BINS, latency_bin
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
    after = [decide(pairs(n + share * more, gain)) for share in (0.8, 1.25)]
    assert [one.word for one in after] == ["continue", "promote"]


def test_there_is_no_forecast_where_there_is_nothing_to_go_by() -> None:
    assert more_outcomes_of({}, 0.05) is None
    assert more_outcomes_of(decide(pairs(500, -0.06)).numbers, 0.05) is None
    assert more_outcomes(difference=0.0, error=1e9, outcomes=1, margin=1e-9, need=5.0) is None
