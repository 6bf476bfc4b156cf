"""Stages that draw lists from both arms: what people prefer decides, beside and never mixed with the metric."""

from __future__ import annotations

import re
import typing

import msgspec
import pytest

from cloud.cli.draw import rollout_lines
from cloud.config import CanarySettings, RolloutSettings, ShadowSettings
from cloud.rollout import overview
from cloud.rollout.plan_file import traffic_of
from cloud.rollout.quality import Judged, Seen, questions
from cloud.rollout.verdict import Evidence, Verdict, judge
from shared.metrics import get_metric
from shared.summary import quantise
from tests.unit.cloud_.simulated import MODEL, ORDER, Fleet
from tests.unit.cloud_.test_verdict import ALL_FINE, faults, harmless, pairs

Make = typing.Callable[..., Fleet]
Row = dict[str, typing.Any]
LISTS = 'mode = "interleave"\nrequest_share = 0.4'


@pytest.fixture
def fleet(make_fleet: Make) -> Fleet:
    return make_fleet(n=2, canary=LISTS, rollout="max_days = 40")


def test_a_candidate_that_people_prefer_is_promoted_though_its_metric_is_no_better(fleet: Fleet) -> None:
    number = fleet.trial()
    fleet.liked = {"v2": 0.15}
    fleet.until(lambda: fleet.answering() == ["west"])
    (entry,) = fleet.channels["west"].models
    assert entry.experiment is not None
    assert (entry.experiment.mode, entry.experiment.request_share_bp) == ("interleave", 4000)
    (entry,) = fleet.channels["mid"].models
    assert entry.experiment is not None
    assert entry.experiment.mode == "shadow"
    fleet.until(lambda: fleet.row(number)["state"] == "promoted")
    (passed,) = [v for v in fleet.store.rollouts.verdicts(number) if v["word"] == "PASS" and v["stage"] == 5]
    assert "preferred v2" in passed["reasons"][0]
    assert passed["inputs"]["question"] == "preference"
    metric = passed["inputs"]["also_asked"]["log_loss"]["decide"]["pairs"]
    assert metric["sumsq"] / metric["n"] < 0.01, "a list won or lost is a whole one"
    assert re.search(r"; of [\d,]+ lists, [\d,]+ preferred v2, [\d,]+ v1; ", fleet.row(number)["outcome"])


def test_devices_too_old_to_read_a_channel_of_lists_take_no_part_and_hold_nothing_up(make_fleet: Make) -> None:
    fleet = make_fleet(n=4, canary=LISTS, rollout="max_days = 40")
    old = [device for device in fleet.devices if device.region == "west"][:2]
    for device in old:
        device.agent = "0.1.0"
    number = fleet.trial()
    fleet.liked = {"v2": 0.15}
    fleet.until(lambda: fleet.answering() == ["west"])
    for device in old:
        device.installs = "hangs"
    lines = rollout_lines(overview.rollout(fleet.project, fleet.store, number))
    assert "  without the candidate, since their agents are too old for such a stage: west-0, west-1" in lines
    fleet.until(lambda: bool(fleet.stages(number)["west"]["passed_s"]))
    (passed,) = [v for v in fleet.store.rollouts.verdicts(number) if v["word"] == "PASS" and v["stage"] == 5]
    said = passed["inputs"]["devices"]
    assert (said["total"], said["verified"], said["timed_out"], said["too_old"]) == (2, 2, 0, 2)


def test_a_candidate_whose_items_people_leave_is_rolled_back_though_its_metric_is_better(fleet: Fleet) -> None:
    number = fleet.trial()
    fleet.gain, fleet.liked = 0.05, {"v2": -0.3}
    fleet.until(lambda: fleet.row(number)["state"] == "rolled_back")
    assert fleet.row(number)["outcome"].startswith("canary west: preference: of ")
    assert fleet.stages(number)["*"]["verdict"] == "PASS"


def test_a_worse_metric_in_shadow_rolls_back_before_any_list_is_drawn(fleet: Fleet) -> None:
    number = fleet.trial()
    fleet.gain, fleet.liked = -1.0, {"v2": 0.3}
    fleet.until(lambda: fleet.row(number)["state"] == "rolled_back")
    assert fleet.row(number)["outcome"].startswith("shadow: log_loss: roll back")


def test_a_better_metric_alone_promotes_nothing(make_fleet: Make) -> None:
    fleet = make_fleet(canary=f"{LISTS}\npreference_margin = 0.005", rollout="max_days = 40")
    number = fleet.trial()
    fleet.gain, fleet.liked = 0.05, {"v2": 0.004}  # so small a margin is not proven soon
    fleet.until(lambda: bool(fleet.stages(number)["east"]["opened_s"]))
    fleet.days(4)
    assert fleet.row(number)["state"] == "running"


def test_of_several_the_one_whose_lists_people_prefer_most_is_promoted(make_fleet: Make) -> None:
    fleet = make_fleet(n=2, canary=LISTS, rollout="max_days = 40")
    number = fleet.trial(also=1)
    fleet.gains, fleet.liked = {"v2": 0.05, "v3": 0.0}, {"v2": 0.05, "v3": 0.25}
    fleet.until(lambda: fleet.row(number)["state"] == "promoted")
    assert fleet.candidates(number) == {"v2": "dropped", "v3": "promoted"}


def test_what_people_took_is_no_deviation_of_the_metric(fleet: Fleet) -> None:
    _, model = fleet.project.model(MODEL)
    fleet.trial()
    fleet.gain, fleet.liked = 0.05, {"v2": 0.15}
    fleet.until(lambda: bool(fleet.store.evidence.pairs(MODEL, [5], before_day=1 << 31)))
    traffic, _ = traffic_of(fleet.project, fleet.store, MODEL, model, outcomes_per_day=None, deviation=None)
    assert 0 < traffic.deviation < 0.1


# ---- the verdict alone

PLAN = RolloutSettings(
    min_devices=2,
    shadow=ShadowSettings(min_days=3, min_outcomes=100),
    canary=CanarySettings(mode="interleave", min_days=2, min_outcomes=50),
)
JUDGED = Judged(get_metric("log_loss", "binary"), 0.02, 2, incumbent="v1", candidate="v2")


def lists(won: int, lost: int, *, n: int = 50, region: str = "west", days: int = 5, devices: int = 4) -> list[Row]:
    """Lists of each day and device, of which the candidate won and lost some."""
    return [
        {
            "epoch": 8, "arm": 1, "device": f"{region}{i}", "region": region, "day": day, "n": n,
            "sum": quantise(won - lost), "sumsq": quantise(won + lost), "pos": won, "neg": lost,
        }
        for day in range(days)
        for i in range(devices)
    ]  # fmt: skip


def verdict(kind: str, metric_pairs: list[Row], seen: list[Row]) -> Verdict:
    here = metric_pairs if kind == "shadow" else seen
    evidence = Evidence(metric_pairs, here, [], [], faults(0), harmless(), seen)
    return judge(kind, ALL_FINE, evidence, PLAN, JUDGED)


def test_lists_are_counted_in_words() -> None:
    said = verdict("canary", pairs(0.0), lists(24, 16, devices=20))
    assert said.reasons == ("20 of 20 online devices verified, of 5,000 lists, 2,400 preferred v2, 1,600 v1",)
    assert (said.word, said.promote, said.waits) == ("PASS", True, ())


def test_each_question_has_its_own_pairs_and_half_of_the_chance_of_error() -> None:
    said = verdict("canary", pairs(0.01), lists(12, 8, n=30))
    asked, other = said.inputs["decide"], said.inputs["also_asked"]["log_loss"]["decide"]
    assert (asked["mode"], asked["margin"], asked["metric"]["kind"]) == ("interleave", 0.05, "bernoulli")
    assert (asked["pairs"]["n"], other["pairs"]["n"]) == (400, 1000)
    assert (asked["pairs"]["pos"], asked["pairs"]["neg"]) == (240, 160)
    assert asked["alpha"] == other["alpha"] == PLAN.alpha / 2
    shadow = verdict("shadow", pairs(0.01), lists(2, 12)).inputs
    assert (shadow["decide"]["pairs"]["n"], shadow["decide"]["alpha"]) == (1000, PLAN.alpha / 2)
    assert "question" not in shadow


@pytest.mark.parametrize(
    ("kind", "metric_pairs", "seen", "says"),
    [
        ("canary", pairs(0.05), lists(2, 12), "preference: of 1,000 lists, 40 preferred v2, 240 v1; roll back"),
        ("canary", pairs(-0.5), lists(12, 2), "log_loss: roll back"),
        (
            "canary",
            pairs(0.05),
            [*lists(14, 2, devices=20), *lists(1, 14, region="east")],
            "preference in east: of 1,000 lists, 20 preferred v2, 280 v1",
        ),
    ],
)
def test_either_question_rolls_back_in_the_fleet_or_in_a_region(
    kind: str, metric_pairs: list[Row], seen: list[Row], says: str
) -> None:
    said = verdict(kind, metric_pairs, seen)
    assert said.word == "FAIL"
    assert any(reason.startswith(says) for reason in said.reasons), said.reasons


@pytest.mark.parametrize(
    ("seen", "says"),
    [
        (lists(5, 5, days=1), "1 of 2 days"),
        (lists(0, 0, n=1), "20 of 50 lists"),
        (lists(24, 26), "preference looks 0.0400 worse"),
    ],
)
def test_a_stage_of_lists_waits_for_its_own_minimums(seen: list[Row], says: str) -> None:
    said = verdict("canary", pairs(0.05), seen)
    assert said.word == "HOLD"
    assert any(says in reason for reason in said.reasons), said.reasons


@pytest.mark.parametrize(("won", "lost"), [(0, 1), (3, 7), (9, 11)])
def test_a_worse_ranker_is_not_promoted_because_few_lists_are_clicked(won: int, lost: int) -> None:
    few = [row | {"day": day} for day in range(40) for row in lists(won, lost, n=1000, days=1, devices=40)]
    said = verdict("canary", pairs(0.05), few)
    assert not said.promote
    assert said.word != "PASS", "it looks worse"


def test_without_a_list_nothing_is_promoted_whatever_the_metric_says() -> None:
    said = verdict("canary", pairs(0.5), [])
    assert not said.promote
    assert said.waits[0].startswith("preference: ")


def test_regions_come_one_after_the_other_as_in_any_rollout(fleet: Fleet) -> None:
    number = fleet.trial()
    fleet.liked = {"v2": 0.15}
    fleet.until(lambda: fleet.answering() == list(ORDER[:2]))
    assert fleet.stages(number)["west"]["passed_s"]


@pytest.mark.parametrize(
    ("canary", "share"),
    [(CanarySettings(), 1.0), (CanarySettings(keep_pairs=False), 0.5), (CanarySettings(mode="interleave"), 0.5)],
)
def test_where_the_canary_asks_anew_shadow_and_canary_share_the_chance_of_error(
    canary: CanarySettings, share: float
) -> None:
    plan = msgspec.structs.replace(PLAN, canary=canary)
    for kind in ("shadow", "canary"):
        found = questions(kind, Seen(pairs(0.0), [], []), plan, JUDGED, alpha=0.05)
        assert {one.asked.alpha for one in found} == {0.05 * share}
