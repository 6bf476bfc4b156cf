"""Folding: what records add up to, against a recomputation that keeps every answer and uses plain floats."""

from __future__ import annotations

import collections
import math
import random
import typing

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edge_agent.records import CANDIDATE, INCUMBENT, Answered, AnyRecord, Failed, OutcomeSeen, Scored, Spec, Visited
from edge_agent.telemetry.fold import Folded, Waiting, fold
from edge_agent.telemetry.sums import Sums
from edge_agent.telemetry.visits import Closed
from shared.clock import DAY_S, day_of
from shared.summary import N_SCORE_BINS, SCALE, latency_bin, restore

WINDOW_S = 2 * DAY_S
NOW = 100 * DAY_S


class Memory:
    """What folding looks up, in dictionaries."""

    def __init__(self, *specs: Spec) -> None:
        self.specs = {(spec.model, spec.version): spec for spec in specs}
        self.waiting: dict[bytes, Waiting] = {}
        self.seen: set[bytes] = set()

    def take_waiting(self, nonce: bytes, _event_s: int) -> Waiting | None:
        return self.waiting.pop(nonce, None)

    def see_outcome(self, nonce: bytes, _event_s: int) -> bool:
        fresh = nonce not in self.seen
        self.seen.add(nonce)
        return fresh

    def spec(self, model: str, version: str) -> Spec | None:
        return self.specs.get((model, version))

    def open_visit(self, visited: Visited) -> None:
        raise NotImplementedError  # see test_visits.py

    def take_gain(self, nonce: bytes, gain: float, seen_s: float) -> None:
        del nonce, gain, seen_s

    def note_others(self, nonce: bytes, others: tuple[Scored, ...]) -> None:
        raise NotImplementedError

    def close_visits(self, up_to_s: float) -> list[Closed]:
        del up_to_s
        return []


def spec(version: str = "v1", task: str = "binary", metric: str = "log_loss", **changes: typing.Any) -> Spec:
    fields = {"model": "late", "metric_scale": 1.0, "label_window_s": WINDOW_S}
    return Spec(version=version, task=task, metric=metric, **fields | changes)


def answered(nonce: int = 1, score: float = 0.25, **changes: typing.Any) -> Answered:
    fields: dict[str, typing.Any] = {
        "model": "late", "version": "v1", "epoch": 0, "arm": INCUMBENT, "source": 1, "event_s": NOW, "latency_us": 100,
        "slow": False, "nonce": nonce.to_bytes(6, "big"), "outputs": (1 - score, score),
    }  # fmt: skip
    return Answered(**fields | changes)


def outcome(to: Answered, label: float = 1.0, after_s: int = 60, **changes: typing.Any) -> OutcomeSeen:
    score = to.outputs[-1] if len(to.outputs) <= 2 else to.outputs[0]
    fields: dict[str, typing.Any] = {
        "model": to.model, "version": to.version, "epoch": to.epoch, "arm": to.arm, "event_s": to.event_s,
        "nonce": to.nonce, "score": score, "label": label, "seen_s": to.event_s + after_s,
    }  # fmt: skip
    return OutcomeSeen(**fields | changes)


def row(folded: Folded, version: str = "v1", arm: int = INCUMBENT, *, served: bool = True, epoch: int = 0) -> Sums:
    return folded.sums["late", version, epoch, arm, served, day_of(NOW)]


def test_an_answer_counts_as_a_request_by_source_latency_and_slowness() -> None:
    records = [answered(i, source=i % 4, slow=i == 0, latency_us=3**i) for i in range(8)]
    counts = row(found := fold(records, Memory()))
    assert counts.counts["requests"] == 8
    assert (counts.counts["precomputed"], counts.counts["onnx"], counts.counts["fallback"]) == (2, 2, 4)
    assert counts.counts["timed_out"] == 1
    assert sum(counts.latency_bins) == 8
    assert counts.latency_bins[latency_bin(3e-6)] == 1
    assert found.waiting == {}


def test_an_outcome_is_judged_from_the_score_in_its_id_when_nothing_waits() -> None:
    first = answered(1, 0.25)
    found = row(fold([first, outcome(first, 1.0)], Memory(spec())))
    assert found.counts["outcomes"] == found.counts["positives"] == 1
    assert restore(found.counts["metric_sum"]) == pytest.approx(-math.log(0.25), abs=2 / SCALE)
    entropy = -0.25 * math.log(0.25) - 0.75 * math.log(0.75)
    assert restore(found.counts["excess_sum"]) == pytest.approx(-math.log(0.25) - entropy, abs=2 / SCALE)
    assert found.score_bins[N_SCORE_BINS + 5] == 1


def test_an_outcome_may_arrive_without_its_answer_in_the_same_stretch() -> None:
    memory = Memory(spec())
    first = answered(1)
    fold([first], memory)
    found = fold([outcome(first)], memory)
    assert row(found).counts["outcomes"] == 1
    assert row(found).counts["requests"] == 0


def test_a_second_outcome_for_an_answer_counts_once_whatever_it_says() -> None:
    memory = Memory(spec())
    first = answered(1)
    found = fold([first, outcome(first, 1.0), outcome(first, 0.0)], memory)
    assert row(found).counts["outcomes"] == 1
    assert found.n_duplicates == 1
    assert fold([outcome(first)], memory).n_duplicates == 1


@pytest.mark.parametrize(("after_s", "late"), [(0, 0), (WINDOW_S, 0), (WINDOW_S + 1, 1), (10 * WINDOW_S, 1)])
def test_an_outcome_after_its_window_is_late_and_left_out(after_s: int, late: int) -> None:
    memory = Memory(spec())
    first = answered(1)
    found = fold([first, outcome(first, after_s=after_s)], memory)
    assert (found.n_late, row(found).counts["outcomes"]) == (late, 1 - late)


def test_a_late_outcome_does_not_use_up_the_answer() -> None:
    memory = Memory(spec())
    first = answered(1)
    found = fold([first, outcome(first, after_s=WINDOW_S + 1), outcome(first)], memory)
    assert (found.n_late, found.n_duplicates, row(found).counts["outcomes"]) == (1, 0, 1)


def test_an_outcome_of_a_version_that_nobody_knows_is_counted_as_unknown() -> None:
    first = answered(1, version="v9")
    assert fold([outcome(first)], Memory(spec())).n_unknown == 1


def test_a_failure_is_a_request_that_failed_served_or_only_scored() -> None:
    records = [
        Failed("late", "v1", 0, INCUMBENT, served=True, event_s=NOW),
        Failed("late", "v2", 0, CANDIDATE, served=False, event_s=NOW),
    ]
    found = fold(records, Memory())
    for one in (row(found), row(found, "v2", CANDIDATE, served=False)):
        assert (one.counts["requests"], one.counts["failed"]) == (1, 1)


def shadowed(nonce: int, incumbent: float, candidate: float, **changes: typing.Any) -> Answered:
    return answered(
        nonce, incumbent, epoch=3, keep=True, others=(Scored(CANDIDATE, "v2", (1 - candidate, candidate)),), **changes
    )


def test_a_pair_is_good_candidate_less_good_incumbent_whichever_arm_answered() -> None:
    memory = Memory(spec("v1"), spec("v2"))
    by_incumbent = shadowed(1, 0.25, 0.5)
    by_candidate = answered(
        2, 0.5, epoch=3, version="v2", arm=CANDIDATE, keep=True, others=(Scored(INCUMBENT, "v1", (0.75, 0.25)),)
    )
    for one in (by_incumbent, by_candidate):
        found = fold([one, outcome(one)], memory)
        (pairs,) = found.pairs.values()
        assert (pairs.n, pairs.pos, pairs.neg) == (1, 1, 0)
        assert restore(pairs.sum) == pytest.approx(math.log(2), abs=4 / SCALE)
        assert restore(pairs.sumsq) == pytest.approx(math.log(2) ** 2, abs=4 / SCALE)
        assert found.waiting == {}


def test_pairs_wait_across_stretches_until_the_outcome_takes_them() -> None:
    memory = Memory(spec("v1"), spec("v2"))
    first = shadowed(1, 0.25, 0.5)
    held = fold([first], memory)
    ((nonce, (event_s, waits)),) = held.waiting.items()
    assert (nonce, event_s) == (first.nonce, NOW)
    memory.waiting[nonce] = waits
    found = fold([outcome(first)], memory)
    assert found.pairs["late", 3, day_of(NOW), CANDIDATE].n == 1
    assert memory.waiting == {}


def test_the_other_arm_is_scored_but_not_served() -> None:
    memory = Memory(spec("v1"), spec("v2"))
    first = shadowed(1, 0.25, 0.5)
    found = fold([first, outcome(first)], memory)
    scored = row(found, "v2", CANDIDATE, served=False, epoch=3)
    assert (scored.counts["requests"], scored.counts["outcomes"], scored.counts["onnx"]) == (1, 1, 0)
    assert row(found, epoch=3).counts["requests"] == 1


def test_without_knowledge_of_the_other_version_there_is_no_pair_but_still_an_outcome() -> None:
    first = shadowed(1, 0.25, 0.5)
    found = fold([first, outcome(first)], Memory(spec("v1")))
    assert row(found, epoch=3).counts["outcomes"] == 1
    assert not found.pairs


def test_answers_of_many_classes_wait_and_are_judged_by_their_label() -> None:
    memory = Memory(spec(task="multiclass"))
    first = answered(1, outputs=(0.2, 0.3, 0.5), keep=True)
    found = row(fold([first, outcome(first, 2.0)], memory))
    assert restore(found.counts["metric_sum"]) == pytest.approx(-math.log(0.5), abs=2 / SCALE)
    assert {place for place, n in enumerate(found.score_bins) if n} == {N_SCORE_BINS + 10}  # 0.5 for what was right


def test_an_outcome_of_many_classes_whose_outputs_are_gone_is_unknown() -> None:
    first = answered(1, outputs=(0.2, 0.3, 0.5), keep=True)
    assert fold([outcome(first)], Memory(spec(task="multiclass"))).n_unknown == 1


@pytest.mark.parametrize("label", [3.0, 7.0, -1.0, 0.5])
def test_a_class_that_the_answering_version_did_not_know_is_unknown_and_stops_nothing(label: float) -> None:
    memory = Memory(spec(task="multiclass"))
    records = [answered(i, outputs=(0.2, 0.3, 0.5), keep=True) for i in (1, 2)]
    found = fold([*records, outcome(records[0], label), outcome(records[1], 2.0)], memory)
    assert (found.n_unknown, row(found).counts["outcomes"]) == (1, 1)


def test_a_class_that_the_other_arm_does_not_know_gives_no_pair() -> None:
    memory = Memory(spec("v1", task="multiclass"), spec("v2", task="multiclass"))
    first = answered(1, outputs=(0.2, 0.3, 0.5), keep=True, others=(Scored(CANDIDATE, "v2", (0.4, 0.6)),))
    found = fold([first, outcome(first, 2.0)], memory)
    assert row(found).counts["outcomes"] == 1
    assert not found.pairs


def test_a_regression_is_judged_in_units_of_its_scale() -> None:
    memory = Memory(spec(task="regression", metric="absolute_error", metric_scale=10.0))
    first = answered(1, outputs=(40.0,))
    found = row(fold([first, outcome(first, 25.0)], memory))
    assert restore(found.counts["metric_sum"]) == 1.5
    assert (found.counts["positives"], found.counts["excess_sum"], sum(found.score_bins)) == (0, 0, 0)


@pytest.mark.parametrize("label", [1e300, -1e300, 3e38])
def test_an_absurd_value_counts_as_the_limit_and_stops_nothing(label: float) -> None:
    memory = Memory(*(spec(v, task="regression", metric="squared_error") for v in ("v1", "v2")))
    first = answered(1, outputs=(40.0,), keep=True, others=(Scored(CANDIDATE, "v2", (3e38,)),))
    found = fold([first, outcome(first, label)], memory)
    assert restore(row(found).counts["metric_sum"]) == 1000
    assert found.pairs["late", 0, day_of(NOW), CANDIDATE].n == 1


class Truth:
    """Every single answer and outcome, added up at the end in floats."""

    def __init__(self, specs: dict[str, Spec]) -> None:
        self.specs = specs
        self.n: collections.Counter[tuple[typing.Any, ...]] = collections.Counter()
        self.judged: dict[tuple[typing.Any, ...], list[float]] = collections.defaultdict(list)
        self.gains: dict[tuple[int, int, int], list[float]] = collections.defaultdict(list)

    def add(self, record: AnyRecord, answers: dict[bytes, Answered], told: set[bytes]) -> None:
        key = (record.version, record.epoch, record.arm, day_of(record.event_s))
        if isinstance(record, Answered):
            self.n["requests", *key] += 1
        elif isinstance(record, Failed):
            self.n["requests", *key] += 1
            self.n["failed", *key] += 1
        elif record.seen_s <= record.event_s + WINDOW_S and record.nonce not in told:
            told.add(record.nonce)
            answer = answers[record.nonce]
            value = -math.log(max(answer.outputs[int(record.label)], 1e-6))
            self.judged[key].append(value)
            values = {one.arm: -math.log(max(one.outputs[int(record.label)], 1e-6)) for one in answer.others}
            values[record.arm] = value
            for arm in values.keys() - {INCUMBENT}:
                if INCUMBENT in values:
                    self.gains[record.epoch, day_of(record.event_s), arm].append(values[INCUMBENT] - values[arm])


ARMS = (INCUMBENT, CANDIDATE, 3)


def scored(rng: random.Random, answered_by: int) -> tuple[Scored, ...]:
    """Any of the other arms."""
    others = [arm for arm in ARMS if arm != answered_by and rng.random() < 0.7]
    return tuple(Scored(arm, f"v{arm + 1}", (1 - q, q)) for arm in others for q in [rng.random()])


def story(rng: random.Random, n: int) -> tuple[list[AnyRecord], dict[bytes, Answered]]:
    """Some days of a canary: answers of both arms, failures, outcomes twice, late and in any order."""
    stream: list[AnyRecord] = []
    answers: dict[bytes, Answered] = {}
    for i in range(n):
        arm = rng.choice(ARMS)
        p = rng.random()
        one = answered(
            i, p, version=f"v{arm + 1}", arm=arm, epoch=rng.randrange(2), event_s=NOW + rng.randrange(3 * DAY_S),
            keep=True, others=scored(rng, arm),
        )  # fmt: skip
        answers[one.nonce] = one
        stream.append(one)
        stream += [
            outcome(one, float(rng.random() < 0.4), after_s=rng.randrange(2 * WINDOW_S))
            for _ in range(rng.randrange(3))
        ]
        if rng.random() < 0.1:
            stream.append(Failed("late", one.version, one.epoch, arm, served=True, event_s=one.event_s))
    return stream, answers


@settings(deadline=None, max_examples=25)
@given(st.randoms(use_true_random=False), st.integers(0, 60))
def test_sums_and_pairs_are_those_of_every_single_record(rng: random.Random, n: int) -> None:
    specs = {v: spec(v) for v in ("v1", "v2", "v4")}
    stream, answers = story(rng, n)
    truth, told = Truth(specs), set[bytes]()
    for record in stream:
        truth.add(record, answers, told)
    found = fold(stream, Memory(*specs.values()))
    for (_, version, epoch, arm, served, day), sums in found.sums.items():
        if not served:
            continue
        key = (version, epoch, arm, day)
        assert sums.counts["requests"] == truth.n["requests", *key]
        assert sums.counts["failed"] == truth.n["failed", *key]
        values = truth.judged[key]
        assert sums.counts["outcomes"] == len(values)
        assert restore(sums.counts["metric_sum"]) == pytest.approx(sum(values), abs=(len(values) + 1) / SCALE)
        squares = sum(value * value for value in values)
        assert restore(sums.counts["metric_sumsq"]) == pytest.approx(squares, abs=40 * (len(values) + 1) / SCALE)
    assert sum(len(values) for values in truth.judged.values()) == sum(
        sums.counts["outcomes"] for key, sums in found.sums.items() if key[4]
    )
    assert {key[1:]: pairs.n for key, pairs in found.pairs.items()} == {k: len(v) for k, v in truth.gains.items()}
    for key, gains in truth.gains.items():
        pairs = found.pairs["late", *key]
        assert restore(pairs.sum) == pytest.approx(sum(gains), abs=(len(gains) + 1) / SCALE)
        assert restore(pairs.sumsq) == pytest.approx(sum(g * g for g in gains), abs=40 * (len(gains) + 1) / SCALE)
        assert (pairs.pos, pairs.neg) == (sum(g > 0 for g in gains), sum(g < 0 for g in gains))


@settings(deadline=None, max_examples=15)
@given(st.randoms(use_true_random=False), st.integers(1, 30))
def test_folding_in_any_portions_gives_the_same_sums(rng: random.Random, n: int) -> None:
    stream, _ = story(rng, n)
    whole = fold(stream, Memory(*(spec(v) for v in ("v1", "v2", "v4"))))
    memory = Memory(*(spec(v) for v in ("v1", "v2", "v4")))
    total: collections.Counter[tuple[typing.Any, ...]] = collections.Counter()
    while stream:
        cut = rng.randint(1, len(stream))
        part, stream = fold(stream[:cut], memory), stream[cut:]
        memory.waiting |= {nonce: waits for nonce, (_, waits) in part.waiting.items()}
        total.update({(key, name): value for key, sums in part.sums.items() for name, value in sums.counts.items()})
        total.update(
            {
                (key, name): value
                for key, pairs in part.pairs.items()
                for name, value in msgspec.structs.asdict(pairs).items()
            }
        )
    for key, sums in whole.sums.items():
        assert {name: total[key, name] for name in sums.counts} == sums.counts
    for pair_key, pairs in whole.pairs.items():
        assert {name: total[pair_key, name] for name in msgspec.structs.asdict(pairs)} == msgspec.structs.asdict(pairs)
