"""Whether a candidate among several reports its share: also once another has left a device, or the rollout."""

from __future__ import annotations

import typing

import numpy as np
import pytest

from cloud.config import CanarySettings, RolloutSettings
from cloud.rollout import look
from cloud.rollout.devices import Counts
from cloud.rollout.quality import Judged
from cloud.rollout.split import Others, beside, uneven_split
from cloud.rollout.verdict import Around, Evidence, judge
from shared.metrics import get_metric
from tests.unit.cloud_.simulated import Fleet

SETTINGS = RolloutSettings(canary=CanarySettings(request_share=0.25))


def shared_out(*n: int, failed: int = 0) -> Evidence:
    """Answers of the incumbent and of candidates on 24 devices; what arm 2 fails at the incumbent answers too."""
    rows = [
        {
            "epoch": 7, "arm": arm, "device": f"d{i}", "region": "west", "day": 1, "requests": own,
            "failed": failed * (arm == 2), "timed_out": 0, "fallback": 0, "outcomes": own, "metric_sum": 0,
            "metric_sumsq": 0,
        }
        for arm, own in enumerate((n[0] + failed, *n[1:]))
        for i in range(24)
    ]  # fmt: skip
    return Evidence([], [], rows, rows, [])


@pytest.mark.parametrize(
    ("evidence", "is_uneven"),
    [
        (shared_out(500, 250, 250), False),
        (shared_out(500, 210, 250), True),
        (shared_out(500, 250, 250, failed=100), False),
    ],
)
def test_a_candidate_that_reports_fewer_requests_than_it_was_given_waits(evidence: Evidence, is_uneven: bool) -> None:
    assert is_held(evidence, Others((2,))) == is_uneven


def is_held(seen: Evidence, others: Others, arm: int = 1) -> bool:
    """Whether a candidate waits since its share is not the planned one; promotion waits too then."""
    judged = Judged(get_metric("log_loss", "binary"), 0.02, 1, n_candidates=2)
    fine = Counts(total=24, online=24, verified=24)
    around = Around(beside(seen.stage_served, others))
    said = judge("canary", fine, look.of_arm(seen, arm, others.dropped.values()), SETTINGS, judged, around)
    held = [any("some were never reported" in reason for reason in waits) for waits in (said.reasons, said.waits)]
    assert held[0] == held[1]
    assert not (held[1] and said.promote)
    return held[1]


def mixed(
    rng: np.random.Generator, *, days: int = 12, left: typing.Mapping[int, int] | None = None, lost: float = 0.0
) -> Evidence:
    """Answers of arms 0, 1 and 2 on 40 devices with a share of 1/4 for each candidate.

    Parameters
    ----------
    left : mapping
        Device to the day in the middle of which arm 1 left it: -1 if it never ran there.
    lost : float
        Share of arm 2's requests that it never reports.
    """
    rows = []
    for i in range(40):
        gone = (left or {}).get(i, days)
        for day in range(days):
            n, part = 40, 1.0 if day < gone else 0.5 if day == gone else 0.0
            first = int(rng.binomial(n, 0.25 * part))
            second = int(rng.binomial(n - first, 0.25 / (1 - 0.25 * part)))
            own = (n - first - second, first, second - int(rng.binomial(second, lost)))
            rows += [
                {"epoch": 7, "arm": arm, "device": f"d{i}", "region": "west", "day": day, "requests": count,
                 "failed": 0, "timed_out": 0, "fallback": 0, "outcomes": count, "metric_sum": 0, "metric_sumsq": 0}
                for arm, count in enumerate(own) if count
            ]  # fmt: skip
    return Evidence([], [], rows, rows, [])


HEARD_LATE = {i: 5 + i % 3 for i in range(40)}  # of a drop on day 5: at once, or up to two days later


@pytest.mark.parametrize("days", [6, 7, 12])
def test_dropping_one_candidate_frees_no_other_from_what_it_never_reported(days: int) -> None:
    seen = mixed(np.random.default_rng(1), days=days, left=HEARD_LATE, lost=0.3)
    assert is_held(seen, Others((1,), {1: 5}), 2)


def test_after_a_drop_alone_a_gap_is_seen_too() -> None:
    seen = mixed(np.random.default_rng(1), left=HEARD_LATE, lost=0.3)
    later = [row for row in seen.stage_served if row["day"] > 7]
    assert is_held(Evidence([], [], later, later, []), Others((1,), {1: 5}), 2)


def test_a_candidate_that_reports_all_is_hardly_ever_held_by_a_drop_of_which_devices_hear_late() -> None:
    held = 0
    for seed in range(30):
        seen = mixed(np.random.default_rng(seed), left=HEARD_LATE)
        held += is_held(seen, Others((1,), {1: 5}), 2)
    assert held <= 1


@pytest.mark.parametrize("when", [-1, 4])
@pytest.mark.parametrize("says", [True, False])
def test_devices_that_refuse_one_candidate_hold_up_no_other(when: int, says: bool) -> None:
    refusing = range(15)
    said = {(f"d{i}", 1): False for i in refusing} if says or when >= 0 else {}
    held = 0
    for seed in range(10):
        seen = mixed(np.random.default_rng(seed), left=dict.fromkeys(refusing, when))
        held += is_held(seen, Others((1,), {}, said), 2)
    assert held == 0


def test_where_all_devices_refuse_one_the_gap_of_another_is_seen() -> None:
    seen = mixed(np.random.default_rng(1), left=dict.fromkeys(range(40), -1), lost=0.3)
    assert is_held(seen, Others((1,), {}, {(f"d{i}", 1): False for i in range(40)}), 2)


def test_what_a_candidate_reports_nothing_of_frees_no_other() -> None:
    seen = mixed(np.random.default_rng(1), lost=0.3)
    silent = [row for row in seen.stage_served if row["arm"] != 1]
    runs = {(f"d{i}", 1): True for i in range(40)}
    assert is_held(Evidence([], [], silent, silent, []), Others((1,), {}, runs), 2)


@pytest.mark.parametrize(("share", "units"), [(0.1, 4), (0.5, 3)])
def test_devices_with_few_units_that_report_all_are_hardly_ever_held(share: float, units: int) -> None:
    settings = RolloutSettings(canary=CanarySettings(request_share=share))
    held = 0
    for seed in range(30):
        rng = np.random.default_rng(seed)
        rows = [
            {"epoch": 7, "region": "west", "device": f"d{i}", "day": 1, "arm": arm, "failed": 0, "requests": 100 * n}
            for i, own in enumerate(rng.binomial(units, share, 200).tolist())
            for arm, n in ((0, units - own), (1, own))
            if n
        ]
        held += bool(uneven_split(rows, settings, runs={f"d{i}" for i in range(200)}))
    assert held <= 1


def days_of(last: int, others: Others, device: str = "d0") -> dict[int, int]:
    """For ten days of a device that answered with arm 1 up to one of them: how many others shared its requests."""
    rows = [
        {"device": device, "arm": arm, "day": day, "requests": 10}
        for day in range(10)
        for arm in (0, 1, 2)
        if arm != 1 or day <= last
    ]
    return {day: n for (_, day), n in sorted(beside(rows, others).items())}


@pytest.mark.parametrize(
    ("last", "others", "shared", "alone"),
    [
        (9, Others((1,)), range(10), []),
        (5, Others((1,), {1: 5}), range(5), range(6, 10)),  # it went in the middle of day 5
        (7, Others((1,), {1: 5}), range(6), range(8, 10)),  # the device heard late
        (7, Others((1,), {1: 5}, {("d0", 1): True}), range(6), []),  # or has not heard of it yet
        (4, Others((1,), {}, {("d0", 1): False}), [], range(5, 10)),
        (-1, Others((1,), {}, {("d0", 1): False}), [], range(10)),
        (-1, Others((1,), {}, {("d0", 1): True}), range(10), []),  # it reports nothing, and has its share
        (-1, Others((1,)), [], []),
    ],
)
def test_days_are_told_apart_by_who_shared_the_requests(
    last: int, others: Others, shared: typing.Iterable[int], alone: typing.Iterable[int]
) -> None:
    assert days_of(last, others) == dict.fromkeys(shared, 1) | dict.fromkeys(alone, 0)


# ---- in a rollout


@pytest.mark.parametrize("lost", [0.0, 0.5])
def test_a_candidate_is_held_for_what_it_loses_and_not_for_devices_that_refuse_another(
    make_fleet: typing.Callable[..., Fleet], lost: float
) -> None:
    fleet = make_fleet(
        n=1,
        canary="request_share = 0.2\n[rollout.region.west]\nmin_days = 6",
        rollout="max_days = 40\nerror_ratio = 0.9\nverified_share = 0.5",
    )
    fleet.devices += [fleet.join("west", i) for i in range(1, 40)]
    for device in fleet.devices[3:18]:
        device.refuses = "v2"
    number = fleet.trial(also=1)
    fleet.gain, fleet.lost = 0.05, {"v3": lost}
    fleet.until(lambda: fleet.answering() == ["west"])
    fleet.days(8)
    west = fleet.stages(number)["west"]["id"]
    last = [one for one in fleet.store.rollouts.verdicts(number) if (one["stage"], one["arm"]) == (west, 2)][-1]
    assert last["word"] == ("HOLD" if lost else "PASS"), last["reasons"]
    assert any("some were never reported" in reason for reason in last["reasons"]) == bool(lost)
