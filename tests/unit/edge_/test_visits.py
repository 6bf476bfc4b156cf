"""Visits: clicks become one pair a list, once its window has closed and before the watermark has passed it."""

from __future__ import annotations

import math
import pathlib
import random

import msgspec
import pytest

from edge_agent.records import Answered, AnyRecord, OutcomeSeen, Scored, Spec, Visited
from edge_agent.telemetry.fold import fold
from edge_agent.telemetry.journal import Position
from edge_agent.telemetry.outbox import Outbox
from edge_agent.telemetry.recorder import Recorder
from edge_agent.telemetry.spool import Spool
from shared.clock import DAY_S
from shared.summary import SCALE
from tests import fakes

DAY = 100
NOW = DAY * DAY_S
WINDOW_S = 3600.0
CLOSED_S = NOW + WINDOW_S + 1
ARM = 3
LIMIT = 8 << 20


def nonce(visit: int, place: int = 255) -> bytes:
    return visit.to_bytes(4, "big") + bytes([0, place])


def visited(visit: int = 1, arms: tuple[int, ...] = (0, ARM, ARM, 0), event_s: int = NOW) -> Visited:
    shown = tuple((nonce(visit, place), arm) for place, arm in enumerate(arms))
    return Visited("late", 7, ARM, event_s, event_s + WINDOW_S, nonce(visit), shown)


def outcome(of: Visited, place: int, label: float = 1.0, *, after_s: int = 60, source: int = 1) -> OutcomeSeen:
    name, arm = of.shown[place]
    version = "v1" if arm == 0 else "v2"
    return OutcomeSeen("late", version, 7, arm, of.event_s, name, 0.5, label, of.event_s + after_s, source)


@pytest.fixture
def spool(tmp_path: pathlib.Path) -> Spool:
    return open_spool(tmp_path)


def open_spool(folder: pathlib.Path, task: str = "binary", metric: str = "log_loss") -> Spool:
    made = Spool(folder / "spool.db", LIMIT)
    made.add_specs(
        Spec(model="late", version=v, task=task, metric=metric, metric_scale=1.0, label_window_s=WINDOW_S)
        for v in ("v1", "v2")
    )
    return made


def store(spool: Spool, *records: AnyRecord, watermark_s: float | None = None) -> None:
    spool.store(lambda: fold(records, spool, watermark_s), Position(1, 0), watermark_s)


def pairs(spool: Spool) -> list[tuple[object, ...]]:
    return [tuple(row) for row in spool._db.execute("select * from pairs order by day, arm")]


def row(n: int, total: int, pos: int, neg: int, day: int = DAY) -> tuple[object, ...]:
    return ("late", 7, day, ARM, n, total * SCALE, (pos + neg) * SCALE, pos, neg)


@pytest.mark.parametrize(
    ("clicked", "d"),
    [((), 0), ((0,), -1), ((1,), 1), ((0, 1), 0), ((1, 2, 0), 1), ((0, 3, 1), -1), ((0, 1, 2, 3), 0)],
)
def test_a_visit_is_one_pair_whatever_was_clicked_and_also_if_nothing_was(
    spool: Spool, clicked: tuple[int, ...], d: int
) -> None:
    one = visited()
    store(spool, one, *(outcome(one, place) for place in clicked), watermark_s=CLOSED_S)
    assert pairs(spool) == [row(1, d, int(d > 0), int(d < 0))]


def test_a_visit_waits_for_its_window_and_closes_before_the_watermark_has_passed_it(spool: Spool) -> None:
    one = visited()
    store(spool, one, watermark_s=NOW)
    store(spool, outcome(one, 1), watermark_s=NOW + 61)
    store(spool, watermark_s=CLOSED_S - 0.01)
    assert (pairs(spool), spool.watermark_s) == ([], CLOSED_S - 0.01)
    store(spool, watermark_s=CLOSED_S)
    assert (pairs(spool), spool.watermark_s) == ([row(1, 1, 1, 0)], CLOSED_S)
    assert [spool._db.execute(f"select count(*) from {name}").fetchone() for name in ("visits", "shown")] == [(0,)] * 2


def test_a_day_that_counts_as_mature_never_changes(spool: Spool) -> None:
    """The last visit of a day, with a click in the last second that counts, and one a second later."""
    last = visited(event_s=NOW + int(DAY_S) - 1)
    mature_s = NOW + DAY_S + WINDOW_S  # when all outcomes of the day are in
    store(spool, last, watermark_s=last.event_s)
    store(
        spool,
        outcome(last, 1, after_s=int(WINDOW_S)),
        outcome(last, 0, after_s=int(WINDOW_S) + 1),
        watermark_s=mature_s,
    )
    assert pairs(spool) == [row(1, 1, 1, 0)]
    store(spool, outcome(last, 2, after_s=int(WINDOW_S)), watermark_s=mature_s + 5)
    assert pairs(spool) == [row(1, 1, 1, 0)]


def test_a_click_that_is_posted_twice_counts_once(spool: Spool) -> None:
    one = visited()
    clicks = [outcome(one, 0), outcome(one, 1), outcome(one, 0), outcome(one, 0)]
    store(spool, one, *clicks, watermark_s=NOW + 100)
    store(spool, *clicks, watermark_s=CLOSED_S)
    assert pairs(spool) == [row(1, 0, 0, 0)]


def test_an_outcome_that_is_no_click_is_none(spool: Spool) -> None:
    one = visited()
    store(spool, one, outcome(one, 0, 0.0), outcome(one, 1, 1.0), watermark_s=CLOSED_S)
    assert pairs(spool) == [row(1, 1, 1, 0)]


def test_in_a_regression_a_number_above_nought_is_a_click(tmp_path: pathlib.Path) -> None:
    spool = open_spool(tmp_path, "regression", "absolute_error")
    one = visited()
    store(spool, one, outcome(one, 0, 0.01), outcome(one, 1, -3.0), outcome(one, 2, 0.0), watermark_s=CLOSED_S)
    assert pairs(spool) == [row(1, -1, 0, 1)]


def test_visits_and_clicks_survive_a_kill_between_any_two(tmp_path: pathlib.Path) -> None:
    layout = fakes.join(tmp_path)
    one, other = visited(1), visited(2)
    for record in (one, other, outcome(one, 1), outcome(other, 0), outcome(other, 0)):
        recorder = open_recorder(layout)
        recorder.record(record)
        recorder._writer._map = None  # a killed process closes nothing
        recorder.spool.close()
    recorder = open_recorder(layout)
    recorder.fold(NOW + 100.0)
    recorder.close()
    recorder = open_recorder(layout)
    recorder.fold(CLOSED_S)
    assert pairs(recorder.spool) == [row(2, 0, 1, 1)]
    recorder.close()
    outbox = Outbox(layout.spool_db)
    assert outbox.counts()["pairs"] == 1
    outbox.close()


def open_recorder(layout: fakes.Layout) -> Recorder:
    recorder = Recorder(layout, LIMIT)
    recorder.add_specs(
        [
            Spec(model="late", version=v, task="binary", metric="log_loss", metric_scale=1.0, label_window_s=WINDOW_S)
            for v in ("v1", "v2")
        ]
    )
    return recorder


def test_a_click_after_the_visit_has_closed_counts_for_neither_even_if_it_is_no_late_outcome(
    tmp_path: pathlib.Path,
) -> None:
    """The candidate's label window is longer than the incumbent's, which is the visit's."""
    spool = open_spool(tmp_path)
    spec = Spec(model="late", version="v2", task="binary", metric="log_loss", metric_scale=1.0, label_window_s=9e9)
    spool.add_specs([spec])
    one = visited()
    store(spool, one, outcome(one, 0), outcome(one, 1, after_s=int(WINDOW_S) + 1), watermark_s=NOW + 9)
    store(spool, outcome(one, 2, after_s=int(WINDOW_S)), watermark_s=CLOSED_S)
    assert pairs(spool) == [row(1, 0, 0, 0)]
    assert spool._db.execute("select sum(outcomes) from sums").fetchone() == (3,)


# ---- lists whose metric judges them as a whole


def answers(of: Visited, *others: tuple[int, str, tuple[float, ...]]) -> list[Answered]:
    """An answer for each item, with the scores of other arms in the order of the places."""
    return [
        Answered(
            "late", of.version, 7, of.arm, 1, of.event_s, 100, slow=False, nonce=name, outputs=(0.5, 0.5), keep=True,
            others=tuple(Scored(arm, version, (1 - scores[i], scores[i])) for arm, version, scores in others),
        )
        for i, (name, _) in enumerate(of.shown)
    ]  # fmt: skip


def shown_by(arm: int = 0, version: str = "v1", visit: int = 1) -> Visited:
    made = visited(visit, (arm,) * 4)
    return msgspec.structs.replace(made, arm=arm, version=version)


def sums(spool: Spool) -> list[tuple[object, ...]]:
    found = spool._db.execute("select version, arm, served, outcomes, metric_sum from sums where outcomes order by arm")
    return [(*row[:4], pytest.approx(row[4] / SCALE, abs=1e-5)) for row in found]


@pytest.mark.parametrize("arm", [0, ARM])
def test_a_list_is_one_outcome_judged_in_the_order_shown_and_in_that_of_each_other_arm(
    tmp_path: pathlib.Path, arm: int
) -> None:
    spool = open_spool(tmp_path, metric="ndcg")
    one = shown_by(arm, "v2" if arm else "v1")
    other = (0, "v1", (0.1, 0.9, 0.2, 0.3)) if arm else (ARM, "v2", (0.1, 0.9, 0.2, 0.3))
    store(spool, one, *answers(one, other), watermark_s=NOW)
    store(spool, outcome(one, 1), outcome(one, 0, 0.0), outcome(one, 1), watermark_s=CLOSED_S - 1)
    assert sums(spool) == []
    store(spool, watermark_s=CLOSED_S)
    second, first = 1 / math.log2(3), 1.0  # the shown order has the gain in its second place, the other in its first
    by_arm = {arm: second, other[0]: first}
    assert [(one[1], one[2], one[3], one[4]) for one in sums(spool)] == [
        (a, int(a == arm), 1, by_arm[a]) for a in sorted(by_arm)
    ]
    ((*_, n, total, _, pos, neg),) = pairs(spool)
    assert (n, pos, neg) == (1, int(arm == 0), int(arm != 0))
    assert int(str(total)) / SCALE == pytest.approx(by_arm[ARM] - by_arm[0], abs=1e-5)


def test_a_list_without_any_gain_counts_nought_and_an_arm_that_missed_an_item_is_not_judged(
    tmp_path: pathlib.Path,
) -> None:
    spool = open_spool(tmp_path, metric="ndcg")
    one = shown_by()
    made = answers(one, (ARM, "v2", (0.1, 0.9, 0.2, 0.3)))
    made[2] = msgspec.structs.replace(made[2], others=())
    store(spool, one, *made, watermark_s=CLOSED_S)
    assert sums(spool) == [("v1", 0, 1, 1, 0.0)]
    assert pairs(spool) == []


def test_answers_that_are_in_no_list_judge_nobody_where_lists_are_judged(tmp_path: pathlib.Path) -> None:
    spool = open_spool(tmp_path, metric="ndcg")
    one = shown_by()
    store(spool, *answers(one), *(outcome(one, place) for place in range(4)), watermark_s=CLOSED_S)
    assert (sums(spool), pairs(spool)) == ([], [])


def test_what_is_shown_is_judged_as_an_answer_too(spool: Spool) -> None:
    one = visited()
    answers = [
        Answered("late", "v2" if arm else "v1", 7, arm, 1, NOW, 100, slow=False, nonce=name, outputs=(0.5, 0.5))
        for name, arm in one.shown
    ]
    store(spool, one, *answers, outcome(one, 1), watermark_s=CLOSED_S)
    sums = spool._db.execute("select version, arm, requests, outcomes from sums order by arm").fetchall()
    assert sums == [("v1", 0, 2, 0), ("v2", ARM, 2, 1)]


def test_without_room_the_oldest_open_visits_go_and_are_counted(tmp_path: pathlib.Path) -> None:
    spool = Spool(tmp_path / "spool.db", 200_000)
    store(spool, *(visited(i, event_s=NOW + i) for i in range(1200)), watermark_s=NOW)
    spool.make_room(NOW)
    dropped = spool.totals()["dropped_visits"]
    assert 0 < dropped < 1200
    store(spool, watermark_s=CLOSED_S + 2000)
    assert pairs(spool) == [row(1200 - dropped, 0, 0, 0)]


def test_any_order_and_any_portions_of_outcomes_give_the_same_pairs(tmp_path: pathlib.Path) -> None:
    rng = random.Random(5)
    made = [
        visited(i, tuple(rng.choice((0, ARM)) for _ in range(6)), NOW + rng.randrange(2 * int(DAY_S)))
        for i in range(60)
    ]
    clicks = [outcome(one, place, float(rng.random() < 0.5)) for one in made for place in rng.sample(range(6), 3)]
    found = []
    for name in ("one", "another"):
        (tmp_path / name).mkdir()
        spool = open_spool(tmp_path / name)
        store(spool, *made, watermark_s=NOW)
        rng.shuffle(clicks)
        left = list(clicks)
        while left:
            cut = rng.randint(1, len(left))
            store(spool, *left[:cut], watermark_s=NOW)
            left = left[cut:]
        store(spool, watermark_s=NOW + 3 * DAY_S)
        found.append(pairs(spool))
    assert found[0] == found[1]
    assert sum(int(str(one[4])) for one in found[0]) == 60
    assert all(int(str(one[7])) and int(str(one[8])) for one in found[0])
