"""After a promotion: failures that rise bring the version before back, once, and nothing else does."""

from __future__ import annotations

import random
import typing

import pytest

from cloud.rollout.alarm import design_effect, fine_rate, level
from tests.unit.cloud_.simulated import MODEL, Fleet

Row = dict[str, typing.Any]
Make = typing.Callable[..., Fleet]


def day(number: int, bad: typing.Sequence[int], n: int = 100) -> list[Row]:
    return [
        {"day": number, "device": f"d{i}", "requests": n, "failed": failed, "timed_out": 0, "fallback": 0}
        for i, failed in enumerate(bad)
    ]


def test_more_failures_raise_the_alarm_and_the_usual_ones_do_not() -> None:
    usual = [row for number in range(300) for row in day(number, [1] * 20)]
    assert not level(usual, 0.02).is_alarm
    worse = [row for number in range(300, 304) for row in day(number, [5] * 20)]
    seen = level(usual + worse, 0.02)
    assert seen.is_alarm
    assert (seen.day, seen.bad, seen.n) == (303, 300 * 20 + 400, 304 * 2000)
    assert level(usual[::-1], 0.02) == level(usual, 0.02)


def test_a_false_alarm_is_rarer_than_one_in_a_thousand_days() -> None:
    rng = random.Random(1)
    alarms, days = 0, 0
    for _ in range(40):
        rows = [
            row
            for number in range(100)
            for row in day(number, [sum(rng.random() < 0.02 for _ in range(25)) for _ in range(20)], n=25)
        ]
        alarms, days = alarms + level(rows, 0.02).is_alarm, days + 100
    assert alarms <= days / 1000


def test_one_broken_device_is_not_a_broken_version() -> None:
    alone = day(1, [100] + [0] * 19)
    assert design_effect(alone) > 50
    assert not level([row for number in range(4) for row in day(number, [100] + [0] * 19)], 0.02).is_alarm
    assert design_effect(day(1, [1] * 20)) == 1.0
    assert design_effect([]) == 1.0


def test_what_is_fine_is_the_incumbents_rate_and_the_margin() -> None:
    rows = [row | {"arm": arm} for arm in (0, 1) for row in day(1, [3 if arm == 0 else 90] * 10)]
    assert fine_rate(rows, 0.01) == pytest.approx(32 / 1004 + 0.01)
    assert fine_rate([], 0.01) == 0.5


# ---- in a fleet


def promote(fleet: Fleet) -> int:
    number = fleet.trial()
    fleet.gain = 0.05
    fleet.until(lambda: fleet.row(number)["state"] == "promoted")
    return number


def answering(fleet: Fleet) -> set[str]:
    return set(fleet.store.models.incumbents(MODEL).values())


def test_a_version_that_begins_to_fail_after_its_promotion_is_undone_once(make_fleet: Make) -> None:
    fleet = make_fleet()
    number = promote(fleet)
    fleet.days(5)
    assert answering(fleet) == {"v2"}
    fleet.incumbent_failed_ratio = 0.2
    fleet.until(lambda: fleet.row(number)["state"] == "undone", most=6)
    assert answering(fleet) == {"v1"}
    (order,) = fleet.store.db.rows("select actor, action, reason, result from orders where rollout = ?", (number,))
    assert (order["actor"], order["action"], order["result"]) == ("controller", "undo", "done")
    assert "answers since the promotion failed or were slow" in order["reason"]
    fleet.days(10)
    assert len([said for said in fleet.said if "alarm" in said]) == 1
    assert answering(fleet) == {"v1"}


def test_an_alarm_while_a_later_rollout_runs_undoes_once_that_has_ended(make_fleet: Make) -> None:
    fleet = make_fleet()
    number = promote(fleet)
    later = fleet.start()
    fleet.tick()
    fleet.gain = 0.0
    fleet.incumbent_failed_ratio = 0.2
    fleet.days(5)
    assert fleet.row(number)["state"] == "promoted"
    assert len([said for said in fleet.said if "alarm" in said]) == 1
    if fleet.row(later)["state"] == "running":
        fleet.order(later, "abort")
    fleet.until(lambda: fleet.row(number)["state"] == "undone", most=3)
    assert answering(fleet) == {"v1"}


@pytest.mark.parametrize("policy", ["tell", "off"])
def test_the_plan_may_leave_it_to_people(make_fleet: Make, policy: str) -> None:
    fleet = make_fleet(rollout=f'max_days = 40\nalarm = "{policy}"')
    number = promote(fleet)
    fleet.incumbent_failed_ratio = 0.2
    fleet.days(8)
    assert (fleet.row(number)["state"], answering(fleet)) == ("promoted", {"v2"})
    told = [row for row in fleet.store.audit.all(100) if row["action"] == "alarm"]
    assert len(told) == (policy == "tell")


def test_after_its_window_and_under_a_later_version_nothing_is_undone(make_fleet: Make) -> None:
    fleet = make_fleet(rollout="max_days = 40\nundo_window_days = 3")
    number = promote(fleet)
    fleet.days(6)
    fleet.incumbent_failed_ratio = 0.2
    fleet.days(8)
    assert (fleet.row(number)["state"], answering(fleet)) == ("promoted", {"v2"})
