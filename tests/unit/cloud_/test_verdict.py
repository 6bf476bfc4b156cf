"""The verdict on a stage and the counting of its devices, as pure functions."""

from __future__ import annotations

import math
import typing

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cloud.analysis.decide import decide
from cloud.analysis.records import DecideInput
from cloud.config import CanarySettings, RolloutSettings, ShadowSettings
from cloud.rollout import plan
from cloud.rollout.devices import AHEAD_S, Counts, Wanted, count, fleet_event_s
from cloud.rollout.quality import Judged
from cloud.rollout.verdict import Evidence, Verdict, judge
from shared.errors import PlanError
from shared.labels import Group
from shared.metrics import get_metric
from shared.summary import quantise

NOW_S, WINDOW_S, TIMEOUT_S = 1_000_000.0, 900.0, 3600.0
Row = dict[str, typing.Any]
NOTHING = Evidence([], [], [], [], [])
ALL_FINE = Counts(total=20, online=20, verified=20)
PLAN = RolloutSettings(
    min_devices=2,
    shadow=ShadowSettings(min_days=3, min_outcomes=100),
    canary=CanarySettings(min_days=2, min_outcomes=50),
)


# ---- devices of a stage


def device(name: str = "d", **more: typing.Any) -> Row:
    """A device that was heard from a minute ago, has been online for ages, and runs v1."""
    said = {"version": "v1", "candidate": "", "epoch": 0, "state": "good", "refused": {}, "waits": ""} | more
    runs = {
        "model": "m", "incumbent": said["version"], "candidate": said["candidate"], "epoch": said["epoch"],
        "refused": said["refused"],
    }  # fmt: skip
    row = {"device": name, "region": "west", "seen_s": NOW_S - 60, "online_since_s": 0.0, "labels": {}}
    return (
        row | more | {"report": {"generation": "g", "state": said["state"], "models": [runs], "waits": said["waits"]}}
    )


def counted(*devices: Row, **wanted: typing.Any) -> Counts:
    said: Row = {"model": "m", "version": "v2", "epoch": 7, "salt": "salt-salt", "groups": (Group(),)}
    stage = Wanted(**(said | {"opened_s": NOW_S - 9e5} | wanted))
    return count(devices, stage, now_s=NOW_S, online_window_s=WINDOW_S, install_timeout_s=TIMEOUT_S)


@pytest.mark.parametrize(
    ("said", "verified", "failed", "timed_out"),
    [
        ({"candidate": "v2", "epoch": 7}, 1, 0, 0),
        ({"candidate": "v2", "epoch": 7, "state": "trial"}, 0, 0, 1),
        ({"candidate": "v2", "epoch": 6}, 0, 0, 1),
        ({"version": "v2"}, 0, 0, 1),
        ({"refused": {"v2": "golden"}}, 0, 1, 0),
        ({"candidate": "v2", "epoch": 7, "refused": {"v2": "the standard form"}}, 1, 0, 0),
        ({"refused": {"v2": "golden"}, "seen_s": 0.0}, 0, 1, 0),
        ({"refused": {"v9": "golden"}}, 0, 0, 1),
        ({"seen_s": 0.0}, 0, 0, 0),
        ({"seen_s": 0.0, "candidate": "v2", "epoch": 7}, 0, 0, 0),
        ({"online_since_s": NOW_S - 60}, 0, 0, 0),
        ({"waits": "it is 12:00 here"}, 0, 0, 0),
        ({"waits": "it is 12:00 here", "refused": {"v2": "golden"}}, 0, 1, 0),
    ],
)
def test_a_device_counts_as_what_it_says_it_is(said: Row, verified: int, failed: int, timed_out: int) -> None:
    seen = counted(device(**said))
    assert (seen.verified, seen.failed, seen.timed_out) == (verified, failed, timed_out)
    assert seen.executed == verified + failed + timed_out


def test_an_incumbent_is_verified_by_its_version_alone() -> None:
    assert counted(device(version="v2"), epoch=0).verified == 1
    assert counted(device(candidate="v2", epoch=7), epoch=0).verified == 0


@pytest.mark.parametrize("field", ["opened_s", "told_s", "online_since_s"])
def test_time_runs_from_when_a_device_could_have_begun(field: str) -> None:
    late, soon = NOW_S - TIMEOUT_S - 1, NOW_S - TIMEOUT_S + 1
    for at_s, timed_out in ((late, 1), (soon, 0)):
        said: Row = {field: {"west": at_s} if field == "told_s" else at_s}
        row = device(**said) if field == "online_since_s" else device()
        stage = {} if field == "online_since_s" else said
        assert counted(row, **({"opened_s": 0.0} | stage)).timed_out == timed_out


def test_a_device_share_takes_the_same_part_of_the_fleet_each_time() -> None:
    fleet = [device(f"d{i}", candidate="v2", epoch=7) for i in range(400)]
    quarter = counted(*fleet, groups=(Group(device_share_bp=2500),))
    assert 60 < quarter.total < 140
    assert quarter == counted(*reversed(fleet), groups=(Group(device_share_bp=2500),))
    assert counted(*fleet, groups=(Group(device_share_bp=0),)).total == 0


def test_shares_are_of_devices_that_tried() -> None:
    seen = Counts(total=100, online=50, verified=3, failed=1, timed_out=1)
    assert (seen.executed, seen.error_ratio, seen.verified_ratio) == (5, 0.4, 0.06)
    assert (Counts().error_ratio, Counts().verified_ratio) == (0.0, 0.0)


# ---- event time


def clock(watermark_s: float, *, seen_ago_s: float = 0.0, moved_ago_s: float = 0.0) -> Row:
    return {"watermark_s": watermark_s, "seen_s": NOW_S - seen_ago_s, "moved_s": NOW_S - moved_ago_s}


def event_s(*devices: Row, replay: bool = False) -> float:
    return fleet_event_s(devices, now_s=NOW_S, online_window_s=WINDOW_S, stuck_s=5400, replay=replay)


def test_event_time_is_what_all_online_devices_have_passed() -> None:
    assert event_s() == 0.0
    assert event_s(clock(NOW_S - 100), clock(NOW_S - 50)) == NOW_S - 100
    assert event_s(clock(NOW_S - 100, seen_ago_s=1000), clock(NOW_S - 50)) == NOW_S - 50
    assert event_s(clock(0.0), clock(NOW_S - 50)) == NOW_S - 50


def test_in_a_replay_a_slow_device_is_waited_for_while_it_moves() -> None:
    slow, fast = clock(5e5), clock(9e5)
    assert event_s(slow, fast, replay=True) == 5e5
    assert event_s(slow | {"moved_s": NOW_S - 6000}, fast, replay=True) == 9e5
    assert event_s(slow | {"moved_s": NOW_S - 6000}, replay=True) == 5e5
    assert event_s(clock(9e12), replay=True) == 9e12


def test_outside_a_replay_wrong_clocks_are_left_out() -> None:
    assert event_s(clock(9e12)) == NOW_S + AHEAD_S
    assert event_s(clock(9e12), clock(NOW_S - 60)) == NOW_S - 60
    assert event_s(clock(NOW_S - 6000), clock(NOW_S - 60)) == NOW_S - 60


# ---- verdicts


def pairs(
    gain: float, *, days: int = 5, devices: int = 4, n: int = 50, epoch: int = 7, region: str = "west"
) -> list[Row]:
    """Pairs whose gain differs a little by device and by day."""
    return [
        {
            "epoch": epoch, "device": f"{region}{i}", "region": region, "day": day, "n": n,
            "sum": quantise(d) * n, "sumsq": quantise(d * d) * n, "pos": n, "neg": 0,
        }
        for day in range(days)
        for i in range(devices)
        for d in [gain + 0.004 * math.sin(7 * i + 3 * day)]
    ]  # fmt: skip


def faults(failed: int, *, n: int = 500) -> list[Row]:
    base = {"epoch": 7, "region": "west", "day": 1, "requests": n, "timed_out": 0, "fallback": 0}
    return [base | {"arm": arm, "device": f"d{i}", "failed": failed if arm else 0} for arm in (0, 1) for i in range(20)]


def verdict(
    kind: str, evidence: Evidence, counts: Counts = ALL_FINE, settings: RolloutSettings = PLAN, **more: typing.Any
) -> Verdict:
    said: Row = {"metric": get_metric("log_loss", "binary"), "margin": 0.02, "n_regions": 2} | more
    return judge(kind, counts, evidence, settings, Judged(**said))


def of(rows: list[Row], **more: list[Row]) -> Evidence:
    return Evidence(rows, rows, [], [], [])._replace(**more)


def test_a_good_shadow_passes_and_says_with_what() -> None:
    said = verdict("shadow", of(pairs(0.05)))
    assert (said.word, said.reasons) == ("PASS", ("20 of 20 online devices verified, 1,000 outcomes",))


@pytest.mark.parametrize(
    ("evidence", "counts", "says"),
    [
        (NOTHING, ALL_FINE, ("0 of 3 days", "0 of 100 outcomes")),
        (of(pairs(0.05, days=2)), ALL_FINE, ("2 of 3 days",)),
        (of(pairs(0.05, n=4)), ALL_FINE, ("80 of 100 outcomes",)),
        (
            of(pairs(0.05)),
            Counts(total=20, online=20, verified=18),
            ("18 of 20 online devices verified, 95% are needed",),
        ),
        (of(pairs(0.05)), Counts(total=20), ("no device of the stage is online",)),
        (of(pairs(-0.015, devices=2, days=3)), ALL_FINE, ("looks 0.01",)),
    ],
)
def test_a_stage_holds_and_says_what_it_waits_for(evidence: Evidence, counts: Counts, says: tuple[str, ...]) -> None:
    said = verdict("shadow", evidence, counts)
    assert said.word == "HOLD", said.reasons
    for words in says:
        assert any(words in reason for reason in said.reasons), said.reasons


@pytest.mark.parametrize(
    ("evidence", "counts", "says"),
    [
        (of(pairs(-0.5)), ALL_FINE, "log_loss: roll back"),
        (of(pairs(0.05), faults=faults(200)), ALL_FINE, "failed or slow answers"),
        (of(pairs(0.05)), Counts(total=20, online=20, verified=15, failed=3, timed_out=2), "25% where 20% are allowed"),
        (of([*pairs(0.2, devices=20), *pairs(-0.5, region="east")]), ALL_FINE, "log_loss in east"),
    ],
)
def test_a_stage_fails_and_says_why_and_never_promotes(evidence: Evidence, counts: Counts, says: str) -> None:
    said = verdict("canary", evidence, counts)
    assert (said.word, said.promote) == ("FAIL", False)
    assert any(says in reason for reason in said.reasons), said.reasons


@pytest.mark.parametrize(
    ("counts", "word"),
    [
        (Counts(total=3, online=3, verified=1, failed=2), "FAIL"),
        (Counts(total=3, online=3, verified=0, timed_out=3), "FAIL"),
        (Counts(total=20, online=20, verified=0, failed=2), "HOLD"),
        (Counts(total=20, online=20, verified=16, failed=4), "HOLD"),
        (Counts(total=20, online=20, verified=15, timed_out=5), "FAIL"),
        (Counts(total=20, online=20, verified=19, failed=1), "PASS"),
        (Counts(total=20, online=1, verified=1), "PASS"),
        (Counts(), "PASS"),
    ],
)
def test_an_installation_is_judged_by_shares_of_devices_that_tried_and_are_online(counts: Counts, word: str) -> None:
    assert verdict("install", NOTHING, counts).word == word


def harmless(n: int = 500) -> list[Row]:
    """Latencies of two arms that are alike."""
    base = {"epoch": 7, "region": "west", "day": 1, "requests": float(n)}
    return [
        base
        | {"arm": arm, "device": f"d{i}", "log2_sum": (7 + 0.01 * i) * n, "log2_sumsq": (7 + 0.01 * i) ** 2 * n + n}
        for arm in (0, 1)
        for i in range(20)
    ]


def test_promotion_is_for_evidence_over_the_whole_fleet() -> None:
    fine: Row = {"faults": faults(0), "latencies": harmless()}
    assert verdict("canary", of(pairs(0.05), **fine)).promote
    assert not verdict("canary", of(pairs(-0.019), **fine)).promote
    assert not verdict("canary", of(pairs(0.05), **fine), settings=msgspec.structs.replace(PLAN, min_devices=5)).promote
    assert not verdict("canary", NOTHING).promote


@pytest.mark.parametrize("lacks", ["faults", "latencies"])
def test_a_candidate_that_is_not_proven_harmless_passes_its_stage_and_is_not_promoted(lacks: str) -> None:
    fine: Row = {"faults": faults(0), "latencies": harmless()}
    said = verdict("canary", of(pairs(0.05), **(fine | {lacks: []})))
    assert (said.word, said.promote) == ("PASS", False)
    (waits,) = said.waits
    assert waits.startswith({"faults": "failed or slow answers", "latencies": "latency"}[lacks])
    watching = msgspec.structs.replace(PLAN, guardrails="watch")
    assert verdict("canary", of(pairs(0.05), **(fine | {lacks: []})), settings=watching).promote
    assert verdict("canary", of(pairs(0.05), faults=faults(200)), settings=watching).word == "FAIL"


def test_anybody_can_recompute_a_verdict_from_its_inputs() -> None:
    for gain in (0.05, -0.5, 0.0):
        said = verdict("canary", of(pairs(gain)))
        plain = msgspec.json.decode(msgspec.json.encode(said.inputs))
        again = decide(msgspec.convert(plain["decide"], DecideInput))
        assert msgspec.to_builtins(again) == said.inputs["decision"]


def test_the_order_of_rows_changes_nothing_to_the_last_bit() -> None:
    rows = pairs(0.01)
    assert verdict("canary", of(rows)) == verdict("canary", of(rows[::-1]))


_COUNT = st.integers(0, 1 << 53)
_PAIRS = st.fixed_dictionaries(
    {"epoch": st.just(7), "device": st.sampled_from("abc"), "region": st.sampled_from(["west", "east"]),
     "day": st.integers(0, 9), "n": _COUNT, "sum": st.integers(-(1 << 62), 1 << 62),
     "sumsq": st.integers(0, 1 << 62), "pos": _COUNT, "neg": _COUNT}
)  # fmt: skip
_SERVED = st.fixed_dictionaries(
    {"epoch": st.just(7), "arm": st.integers(0, 3), "device": st.sampled_from("abc"),
     "region": st.sampled_from(["west", "east"]), "day": st.integers(0, 9), "requests": _COUNT, "failed": _COUNT,
     "timed_out": _COUNT, "fallback": _COUNT, "outcomes": _COUNT, "metric_sum": st.integers(-(1 << 62), 1 << 62),
     "metric_sumsq": st.integers(0, 1 << 62)}
)  # fmt: skip


@given(
    st.lists(_PAIRS, max_size=5), st.lists(_SERVED, max_size=6), st.sampled_from(["shadow", "canary"]),
    st.booleans(), st.sampled_from(["log_loss", "accuracy"]),
)  # fmt: skip
def test_whatever_devices_send_there_is_a_verdict(
    some_pairs: list[Row], served: list[Row], kind: str, keep_pairs: bool, metric: str
) -> None:
    settings = msgspec.structs.replace(PLAN, canary=CanarySettings(keep_pairs=keep_pairs, min_days=0))
    evidence = Evidence(some_pairs, some_pairs, served, served, served)
    said = verdict(kind, evidence, settings=settings, metric=get_metric(metric, "binary"))
    assert said.word in ("PASS", "HOLD", "FAIL")
    assert said.reasons
    assert not (said.promote and said.word == "FAIL")


# ---- plans that could not work


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"canary": CanarySettings(request_share=0.0)}, "rollout.canary"),
        ({"canary": CanarySettings(device_share=0.0)}, "rollout.canary"),
        ({"error_ratio": 1.0}, "rollout.error_ratio"),
        ({"max_days": 5}, "rollout.max_days"),
    ],
)
def test_a_plan_that_could_never_pass_or_never_fail_is_refused(change: Row, field: str) -> None:
    with pytest.raises(PlanError) as raised:
        plan.stages_of(["west"], is_first=False, settings=msgspec.structs.replace(PLAN, **change))
    assert raised.value.field == field


def test_a_plan_opens_regions_in_the_order_it_is_given() -> None:
    later = plan.stages_of(["b", "a"], is_first=False, settings=PLAN)
    assert [(stage.kind, stage.region) for stage in later] == [("shadow", "*"), ("canary", "b"), ("canary", "a")]
    first = plan.stages_of(["b", "a"], is_first=True, settings=PLAN)
    assert [(stage.kind, stage.region) for stage in first] == [("install", "b"), ("install", "a")]
