"""Labels that come days late, in any order: once their days count as mature, the verdict is that of labels on time."""

from __future__ import annotations

import random
import typing

from hypothesis import given, settings
from hypothesis import strategies as st

from cloud.config import CanarySettings, RolloutSettings, ShadowSettings
from cloud.rollout.devices import Counts
from cloud.rollout.quality import Judged
from cloud.rollout.verdict import Evidence, Verdict, judge
from edge_agent.records import Answered, AnyRecord, NumbersSeen, OutcomeSeen, Scored, Spec
from edge_agent.telemetry.fold import Folded, Waiting, fold
from shared.clock import DAY_S
from shared.metrics import get_metric

Row = dict[str, typing.Any]
DAYS, DEVICES, A_DAY, WINDOW_DAYS = 5, 4, 8, 4
LATE_S = 3 * DAY_S
PLAN = RolloutSettings(
    min_devices=2,
    shadow=ShadowSettings(min_days=2, min_outcomes=20),
    canary=CanarySettings(min_days=2, min_outcomes=20),
)
SPECS = {
    version: Spec(model="m", version=version, task="binary", metric="log_loss", metric_scale=1.0,
                  label_window_s=WINDOW_DAYS * DAY_S)
    for version in ("v1", "v2")
}  # fmt: skip


class Memory:
    """What folding looks up, from one part of the journal to the next."""

    def __init__(self) -> None:
        self.seen: set[bytes] = set()
        self.waiting: dict[bytes, Waiting] = {}

    def take_waiting(self, nonce: bytes, _event_s: int) -> Waiting | None:
        return self.waiting.pop(nonce, None)

    def see_outcome(self, nonce: bytes, _event_s: int) -> bool:
        fresh = nonce not in self.seen
        self.seen.add(nonce)
        return fresh

    def spec(self, _model: str, version: str) -> Spec | None:
        return SPECS.get(version)

    def take_gain(self, _nonce: bytes, _gain: float, _seen_s: float) -> None:
        """No answer is in a list."""


def records_of(device: int, delays_s: typing.Sequence[int]) -> list[AnyRecord]:
    """A device's journal: answers of both arms, and outcomes with revenue after so many seconds each."""
    rng = random.Random(device)
    timed: list[tuple[float, int, AnyRecord]] = []
    for i in range(DAYS * A_DAY):
        at_s = (10 + i // A_DAY) * DAY_S + (i % A_DAY) * 3600
        nonce, arm, truth = i.to_bytes(6, "big"), i % 2, rng.random()
        label = float(rng.random() < truth)
        outputs = [(1 - p, p) for p in (truth * 0.8 + 0.1, 0.5)]
        version, other = ("v1", "v2") if arm == 0 else ("v2", "v1")
        answer = Answered("m", version, 7, arm, 1, int(at_s), 100, slow=False, nonce=nonce, outputs=outputs[arm],
                          keep=True, others=(Scored(1 - arm, other, outputs[1 - arm], 1),))  # fmt: skip
        seen_s = int(at_s + delays_s[i % len(delays_s)])
        timed.append((at_s, 0, answer))
        about = ("m", version, 7, arm, int(at_s), nonce)
        timed.append((seen_s, 1, OutcomeSeen(*about, outputs[arm][1], label, seen_s, 1)))
        timed.append((seen_s, 2, NumbersSeen(*about, seen_s, (("revenue", 5.0 + arm * label, 10.0),))))
    rng.shuffle(timed)
    return [record for _, _, record in sorted(timed, key=lambda one: one[:2])]


def rows_of(folded: typing.Iterable[tuple[str, Folded]]) -> tuple[list[Row], list[Row]]:
    """What the cloud adds up: sums of answers that were given, and pairs."""
    sums: dict[tuple[typing.Any, ...], Row] = {}
    pairs: dict[tuple[typing.Any, ...], Row] = {}
    for device, one in folded:
        for (_, _, epoch, arm, served, day), row in one.sums.items():
            if served:
                key = {"region": "west", "epoch": epoch, "device": device, "arm": arm, "day": day}
                _add(sums, key, dict(row.counts))
        for (_, epoch, day, arm), pair in one.pairs.items():
            key = {"region": "west", "epoch": epoch, "device": device, "arm": arm, "day": day}
            _add(pairs, key, {name: getattr(pair, name) for name in ("n", "sum", "sumsq", "pos", "neg")})
    return list(sums.values()), list(pairs.values())


def _add(rows: dict[tuple[typing.Any, ...], Row], key: Row, more: dict[str, int]) -> None:
    row = rows.setdefault(tuple(key.values()), key | dict.fromkeys(more, 0))
    for name, n in more.items():
        row[name] += n


def verdict(sums: list[Row], pairs: list[Row], before_day: int, plan: RolloutSettings) -> Verdict:
    served, seen = ([row for row in rows if row["day"] < before_day] for rows in (sums, pairs))
    judged = Judged(metric=get_metric("log_loss", "binary"), margin=0.05, n_regions=1)
    evidence = Evidence(seen, seen, served, served, sums)
    return judge("canary", Counts(total=4, online=4, verified=4), evidence, plan, judged)


def folded(delays_s: typing.Sequence[int], parts: int) -> list[tuple[str, Folded]]:
    found = []
    for device in range(DEVICES):
        memory, records = Memory(), records_of(device, delays_s)
        step = -(-len(records) // parts)
        for start in range(0, len(records), step):
            one = fold(records[start : start + step], typing.cast("typing.Any", memory))
            memory.waiting |= {nonce: waits for nonce, (_, waits) in one.waiting.items()}
            found.append((f"d{device}", one))
    return found


ON_TIME = folded([60], parts=1)


@settings(deadline=None, max_examples=25)
@given(
    st.lists(st.integers(0, 3600), min_size=1, max_size=7), st.integers(1, 9), st.booleans(),
)  # fmt: skip
def test_labels_three_days_late_in_any_order_give_the_verdict_of_labels_on_time(
    jitter_s: list[int], parts: int, keep_pairs: bool
) -> None:
    late = folded([int(LATE_S) + more for more in jitter_s], parts)
    plan = PLAN if keep_pairs else RolloutSettings(
        min_devices=2, canary=CanarySettings(min_days=2, min_outcomes=20, keep_pairs=False)
    )  # fmt: skip
    (wanted, found) = (rows_of(one) for one in (ON_TIME, late))
    for before_day in range(10, 10 + DAYS + 1):
        assert verdict(*found, before_day, plan) == verdict(*wanted, before_day, plan)
    assert sum(row["n"] for row in wanted[1]) == DEVICES * DAYS * A_DAY
    numbers = [{key: sum(one.measures.rows.get(key, [0])[0] for _, one in many) for _, one in many for key in
                one.measures.rows} for many in (ON_TIME, late)]  # fmt: skip
    assert numbers[0] == numbers[1]


def test_a_label_after_its_window_changes_no_day_that_is_mature() -> None:
    late = folded([int(WINDOW_DAYS * DAY_S) + 1], 1)
    assert rows_of(late)[1] == []
    assert sum(one.n_late for _, one in late) == DEVICES * DAYS * A_DAY
    assert sum(one.measures.counts["late_numbers"] for _, one in late) == DEVICES * DAYS * A_DAY
