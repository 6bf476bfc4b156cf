"""A step that grows beside a control group, while the days differ: both arms are compared on the same days."""

from __future__ import annotations

import typing

import msgspec
import numpy as np
import pytest

from cloud.config import CanarySettings, RolloutSettings, ShadowSettings
from cloud.rollout.devices import Counts
from cloud.rollout.level import levelled
from cloud.rollout.quality import Judged
from cloud.rollout.verdict import Evidence, Verdict, judge
from shared.metrics import get_metric
from shared.summary import quantise, restore
from shared.telemetry import SumsRow
from tests.unit.cloud_.simulated import MODEL, Fleet

Make = typing.Callable[..., Fleet]
Row = dict[str, typing.Any]
FINE = Counts(total=60, online=60, verified=60)
DAYS = 11


def ramped(unit: str, *, worse: float, drift: float, seed: int = 1, n: int = 60) -> list[Row]:
    """Answers of a step that asks a tenth of its devices each day, beside as many that it never asks."""
    rng, rows = np.random.default_rng(seed), []
    for place in range(2 * n):
        asked = 10 * place // n if place < n else 0
        differs = rng.normal(0.0, 0.02)
        for day in range(asked, DAYS):
            n1 = 0 if place >= n else 60 if unit == "device" else int(rng.binomial(60, 0.5))
            for arm, k in ((0, 60 - n1), (1, n1)):
                good = int(rng.binomial(k, 0.7 + differs + drift * day / DAYS - worse * arm))
                row = {
                    "region": "west", "epoch": 7, "by_day": True, "arm": arm, "device": f"d{place}", "day": day,
                    "requests": k, "failed": k - good, "fallback": 0, "timed_out": 0, "outcomes": k,
                    "metric_sum": quantise(1.0) * good, "metric_sumsq": quantise(1.0) * good,
                }  # fmt: skip
                rows += [row] if k else []
    return rows


def judged(rows: list[Row], unit: typing.Literal["request", "device"], *, failing: bool) -> Verdict:
    canary = CanarySettings(min_days=3, min_outcomes=100, keep_pairs=False, unit=unit, device_share=0.5)
    plan = RolloutSettings(guardrails="watch", shadow=ShadowSettings(min_days=3, min_outcomes=100), canary=canary)
    well = [row | {"failed": 0} for row in rows]
    found = Evidence([], [], well, well, rows if failing else [])
    return judge("canary", FINE, found, plan, Judged(metric=get_metric("accuracy", "binary"), margin=0.02, n_regions=1))


@pytest.mark.parametrize("unit", ["request", "device"])
@pytest.mark.parametrize("failing", [False, True])
@pytest.mark.parametrize("drift", [0.25, -0.25])
def test_days_that_differ_roll_no_equal_model_back_and_hide_no_worse_one(
    unit: typing.Literal["request", "device"], *, failing: bool, drift: float
) -> None:
    equal = judged(ramped(unit, worse=0.0, drift=drift), unit, failing=failing)
    assert equal.word == "PASS", equal.reasons
    worse = judged(ramped(unit, worse=0.06, drift=drift), unit, failing=failing)
    assert worse.word == "FAIL", worse.reasons


def test_each_day_has_the_same_part_of_both_arms_and_no_rate_looks_surer() -> None:
    rows = ramped("device", worse=0.0, drift=0.2)
    found = levelled(rows, "outcomes")
    parts = [
        {
            day: sum(row["outcomes"] for row in found if (row["arm"], row["day"]) == (arm, day))
            / sum(row["outcomes"] for row in found if row["arm"] == arm)
            for day in range(DAYS)
        }
        for arm in (0, 1)
    ]
    assert parts[0] == pytest.approx(parts[1])
    before, after = (sum(row["outcomes"] for row in some if not row["arm"]) for some in (rows, found))
    assert after < before
    assert [row for row in found if row["arm"]] == [row for row in rows if row["arm"]]
    alone = [row for row in rows if not row["arm"]]
    assert levelled(alone, "outcomes") == alone, "nothing is thrown away before the candidate has answered"


RAMP = "\n[rollout.canary.ramp]\nbase_per_minute = 7e-4"


@pytest.mark.parametrize("late", ["since the step grows", "since it takes long to arrive"])
def test_the_controller_compares_the_same_days_where_the_candidate_is_late(make_fleet: Make, late: str) -> None:
    grows = late == "since the step grows"
    canary = f"keep_pairs = false\ndevice_share = 0.75\ncontrol_share = 0.25{RAMP if grows else ''}"
    fleet = make_fleet(n=8, rollout='max_days = 60\nguardrails = "watch"', canary=canary)
    number = fleet.trial()
    answers, first = fleet.answers, fleet.now_s

    def drifting(*args: typing.Any, day: int, **more: typing.Any) -> SumsRow:
        row = answers(args[0], day, **more)
        loss = restore(row.metric_sum) / max(row.outcomes, 1) + 0.1 * (day - first // 86_400)
        n = row.outcomes
        return msgspec.structs.replace(row, metric_sum=quantise(loss) * n, metric_sumsq=quantise(loss * loss) * n)

    fleet.answers = lambda status, day, **more: drifting(status, day=day, **more)  # type: ignore[method-assign]
    fleet.until(lambda: bool(fleet.stages(number)["west"]["opened_s"]))
    candidates = [device for device in fleet.devices if device.region == "west" and device.arms.get(MODEL)]
    for device in candidates if not grows else []:
        device.installs = "hangs"
    fleet.days(2)
    for device in candidates:
        device.installs = "ok"
    fleet.until(lambda: bool(fleet.stages(number)["west"]["passed_s"]))
    assert (len(fleet.stages(number)["west"]["growth"]) > 2) == grows
    numbers = fleet.store.rollouts.verdicts(number)[-1]["inputs"]["decision"]["numbers"]
    assert abs(numbers["difference"]) < 0.01
