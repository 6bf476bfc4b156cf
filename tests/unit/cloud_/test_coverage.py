"""Outcomes that come for bad answers alone promote nobody; those that come by accident hold nobody up."""

from __future__ import annotations

import typing

import numpy as np
import pytest

from cloud.config import CanarySettings, RolloutSettings, ShadowSettings
from cloud.rollout.coverage import answer_decides
from cloud.rollout.devices import Counts
from cloud.rollout.quality import Judged
from cloud.rollout.verdict import Evidence, Verdict, judge
from shared.metrics import get_metric
from shared.summary import quantise, square

Row = dict[str, typing.Any]
METRICS = ("accuracy", "log_loss")
MARGIN = {"accuracy": 0.02, "log_loss": 0.03}
VALUES = {"accuracy": (1.0, 0.0), "log_loss": (0.2, 1.5)}
PLAN = RolloutSettings(
    guardrails="watch",
    shadow=ShadowSettings(min_days=3, min_outcomes=100),
    canary=CanarySettings(min_days=3, min_outcomes=100, keep_pairs=False),
)


class Said(typing.NamedTuple):
    """How likely an answer gets an outcome: a good one, a bad one, and by how much devices differ."""

    good: float
    bad: float
    differ: float = 0.0


def rows_of(seed: int, metric: str, good: tuple[float, float], said: tuple[Said, Said], *, days: int = 10) -> list[Row]:
    """Mature sums of both arms, which have half of the requests of 40 devices each."""
    rng = np.random.default_rng(seed)
    rows = []
    values = VALUES[metric]
    for i in range(40):
        level = float(np.clip(1 + rng.normal(0, said[0].differ), 0, 1 / max(max(one[:2]) for one in said)))
        for day in range(days):
            n1 = int(rng.binomial(40, 0.5))
            for arm, n in ((0, 40 - n1), (1, n1)):
                well = int(rng.binomial(n, good[arm]))
                parts = [(int(rng.binomial(k, p * level)), value) for k, p, value in
                         zip((well, n - well), said[arm][:2], values, strict=True)]  # fmt: skip
                rows.append(
                    {"epoch": 7, "region": "west", "device": f"d{i}", "day": day, "arm": arm, "requests": n,
                     "failed": 0, "fallback": 0, "timed_out": 0, "outcomes": sum(k for k, _ in parts),
                     "metric_sum": sum(k * quantise(value) for k, value in parts),
                     "metric_sumsq": sum(k * square(quantise(value)) for k, value in parts)}
                )  # fmt: skip
    return rows


def verdict(rows: list[Row], metric: str) -> Verdict:
    judged = Judged(metric=get_metric(metric, "binary"), margin=MARGIN[metric], n_regions=1)
    return judge("canary", Counts(total=40, online=40, verified=40), Evidence([], [], rows, rows, rows), PLAN, judged)


@pytest.mark.parametrize("metric", METRICS)
def test_where_only_bad_answers_get_outcomes_a_worse_model_is_not_taken_for_an_equal_one(metric: str) -> None:
    only_bad = Said(0.0, 1.0)
    for seed in range(3):
        found = verdict(rows_of(seed, metric, (0.9, 0.8), (only_bad, only_bad)), metric)
        assert (found.word, found.promote) == ("HOLD", False)
        assert any("they depend on the answer" in said for said in found.reasons), found.reasons
        assert any("they depend on the answer" in said for said in found.waits)


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("said", [Said(1.0, 1.0), Said(0.5, 0.5), Said(0.4, 0.4, 0.6), Said(0.1, 0.1)])
def test_outcomes_that_come_by_accident_hold_no_equal_model_up(metric: str, said: Said) -> None:
    doubted = 0
    for seed in range(8):
        found = verdict(rows_of(seed, metric, (0.9, 0.9), (said, said)), metric)
        assert found.word == "PASS"
        doubted += any("outcomes come for" in said for said in found.waits)
    assert doubted <= 1


def test_an_incumbent_so_slow_that_some_give_up_on_it_is_no_reason_to_doubt_a_faster_one() -> None:
    rows = rows_of(1, "accuracy", (0.9, 0.9), (Said(0.95, 0.95), Said(1.0, 1.0)))
    metric = get_metric("accuracy", "binary")
    assert not answer_decides(rows, metric, 0.02, 0.01, or_may=True)
    assert answer_decides(rows, metric, 0.005, 0.01), "what it misses could matter here"


def test_before_both_have_answered_there_is_nothing_to_say() -> None:
    metric = get_metric("accuracy", "binary")
    assert not answer_decides([], metric, 0.02, 0.01, or_may=True)
    rows = [row for row in rows_of(1, "accuracy", (0.9, 0.9), (Said(1, 1), Said(1, 1))) if not row["arm"]]
    assert not answer_decides(rows, metric, 0.02, 0.01, or_may=True)


def test_what_may_be_an_accident_lets_the_stage_go_on_and_promotes_nobody() -> None:
    some, more = Said(0.0, 0.3), Said(0.0, 0.36)
    found = verdict(rows_of(1, "accuracy", (0.9, 0.9), (some, more), days=8), "accuracy")
    assert (found.word, found.promote) == ("PASS", False)
    assert any("perhaps by accident" in said for said in found.waits), found.waits
