"""A candidate that dies before it reports what it did badly: no verdict promotes it, whatever is lost on the way."""

from __future__ import annotations

import typing

import numpy as np
import pytest

from cloud.config import CanarySettings, RolloutSettings, ShadowSettings
from cloud.rollout.devices import Counts
from cloud.rollout.quality import Judged
from cloud.rollout.split import uneven_split
from cloud.rollout.verdict import Evidence, Verdict, judge
from shared.metrics import get_metric
from shared.summary import quantise, square

Row = dict[str, typing.Any]
FINE = Counts(total=30, online=30, verified=30)
PLAN = RolloutSettings(
    guardrails="watch",  # quality alone must not be fooled
    shadow=ShadowSettings(min_days=3, min_outcomes=100),
    canary=CanarySettings(min_days=3, min_outcomes=100, keep_pairs=False),
)
LOSS = {True: 0.2, False: 1.5}


class Fate(typing.NamedTuple):
    """Share of the candidate's bad answers of which the outcome is lost, and share of which all is lost."""

    outcome: float = 0.0
    all: float = 0.0


def rows_of(rng: np.random.Generator, metric: str, fate: Fate, good: tuple[float, float], days: int) -> list[Row]:
    """Sums of both arms of 30 devices, half of whose requests are the candidate's."""
    rows = []
    for i in range(30):
        for day in range(days):
            n1 = int(rng.binomial(40, 0.5))
            for arm, n in ((0, 40 - n1), (1, n1)):
                well = int(rng.binomial(n, good[arm]))
                bad = n - well
                gone = int(rng.binomial(bad, fate.all)) if arm else 0
                silent = int(rng.binomial(bad - gone, fate.outcome)) if arm else 0
                seen = bad - gone - silent
                values = (1.0, 0.0) if metric == "accuracy" else (LOSS[True], LOSS[False])
                parts = [(well, quantise(values[0])), (seen, quantise(values[1]))]
                rows.append(
                    {"epoch": 7, "region": "west", "device": f"d{i}", "day": day, "arm": arm,
                     "requests": n - gone, "failed": 0, "fallback": 0, "timed_out": 0, "outcomes": well + seen,
                     "metric_sum": sum(k * value for k, value in parts),
                     "metric_sumsq": sum(k * square(value) for k, value in parts)}
                )  # fmt: skip
    return rows


def verdict(rows: list[Row], metric: str, plan: RolloutSettings = PLAN, pairs: list[Row] | None = None) -> Verdict:
    judged = Judged(metric=get_metric(metric, "binary"), margin=0.02 if metric == "accuracy" else 0.03, n_regions=1)
    evidence = Evidence(pairs or [], pairs or [], rows, rows, rows)
    return judge("canary", FINE, evidence, plan, judged)


def promoted(metric: str, fate: Fate, good: tuple[float, float], plan: RolloutSettings = PLAN) -> int:
    """How many of some experiments are promoted at any of their looks."""
    count = 0
    for seed in range(4):
        rows = rows_of(np.random.default_rng(seed), metric, fate, good, days=12)
        looks = [[row for row in rows if row["day"] < day] for day in (4, 8, 12)]
        count += any(verdict(seen, metric, plan).promote for seen in looks)
    return count


@pytest.mark.parametrize("metric", ["accuracy", "log_loss"])
@pytest.mark.parametrize("fate", [Fate(outcome=0.6), Fate(all=0.6), Fate(outcome=0.3, all=0.4)])
def test_a_candidate_that_loses_six_in_ten_of_its_bad_answers_is_never_promoted(metric: str, fate: Fate) -> None:
    assert promoted(metric, fate, (0.9, 0.8)) == 0


@pytest.mark.parametrize("metric", ["accuracy", "log_loss"])
def test_one_that_is_good_and_loses_nothing_is(metric: str) -> None:
    assert promoted(metric, Fate(), (0.8, 0.9)) == 4


def silent(rng: np.random.Generator, *, whole_devices: bool) -> list[Row]:
    """Equal arms on 40 devices; one in five devices, or of a device's ten users, never posts an outcome."""
    rows = []
    for i in range(40):
        for arm in (0, 1):
            quiet = float(rng.random() < 0.2) if whole_devices else rng.binomial(5, 0.2) / 5
            outcomes = round(50 * (1 - quiet))
            for day in range(12):
                well = int(rng.binomial(outcomes, 0.9))
                rows.append(
                    {"epoch": 7, "region": "west", "device": f"{arm}/{i}" if whole_devices else f"d{i}", "day": day,
                     "arm": arm, "requests": 50, "failed": 0, "fallback": 0, "timed_out": 0, "outcomes": outcomes,
                     "metric_sum": well * quantise(1.0), "metric_sumsq": well * square(1.0)}
                )  # fmt: skip
    return rows


@pytest.mark.parametrize("whole_devices", [True, False])
def test_devices_and_users_who_never_say_how_it_went_are_no_fault_of_an_equal_candidate(*, whole_devices: bool) -> None:
    said = [verdict(silent(np.random.default_rng(seed), whole_devices=whole_devices), "accuracy") for seed in range(12)]
    assert [one.word for one in said if one.word == "FAIL"] == []
    assert not [reason for one in said for reason in one.inputs["decision"]["reasons"] if "no accident" in reason]
    assert sum(one.promote for one in said) > 0, "and they do not stand in its way for ever"


# ---- whether requests were shared out as planned


def shared(n0: int, n1: int, *, devices: int = 24, failed: int = 0, uneven: int = 0) -> list[Row]:
    """Requests of devices; `uneven` more or fewer of the candidate's on every other device."""
    return [
        {"epoch": 7, "region": "west", "device": f"d{i}", "day": 1, "arm": arm, "failed": failed * arm,
         "requests": (n1 + uneven * (-1) ** i if arm else n0 - uneven * (-1) ** i + failed)}
        for i in range(devices)
        for arm in (0, 1)
    ]  # fmt: skip


def control(n: int = 1000, devices: int = 24) -> list[Row]:
    return [row | {"device": f"c{row['device']}"} for row in shared(n, 0, devices=devices) if not row["arm"]]


@pytest.mark.parametrize(
    ("rows", "is_uneven"),
    [
        (shared(500, 500), False),
        (shared(500, 505), False),
        (shared(540, 460), True),
        (shared(460, 540), True),  # the incumbent loses some
        (shared(500, 500, failed=100), False),  # whatever failed was answered once more, by the incumbent
        (shared(540, 460, uneven=300), False),  # units stay in their arms, and devices have few of them
        (shared(540, 460, devices=10), False),  # too few devices to know that
        (shared(500, 500) + control(), False),
        (shared(540, 460) + control(), True),
        (shared(9, 1), False),
        ([], False),
    ],
)
def test_a_gap_in_what_an_arm_reports_is_seen_and_nothing_else(rows: list[Row], is_uneven: bool) -> None:
    assert bool(uneven_split(rows, PLAN)) == is_uneven


def test_a_stage_with_a_gap_waits_and_says_so() -> None:
    rows = rows_of(np.random.default_rng(1), "accuracy", Fate(all=0.6), (0.9, 0.8), days=12)
    said = verdict(rows, "accuracy")
    assert (said.word, said.promote) == ("HOLD", False)
    assert any("some were never reported" in reason for reason in said.reasons)
    assert any("some were never reported" in waits for waits in said.waits)


def test_equal_arms_are_hardly_ever_held_for_a_gap() -> None:
    held = 0
    for seed in range(100):
        counts = np.random.default_rng(seed).binomial(200, 0.5, 30)
        rows = [
            {"epoch": 7, "region": "west", "device": f"d{i}", "day": 1, "arm": arm, "failed": 0, "requests": int(n)}
            for i, n1 in enumerate(counts)
            for arm, n in ((0, 200 - n1), (1, n1))
        ]
        held += bool(uneven_split(rows, PLAN))
    assert held <= 2
