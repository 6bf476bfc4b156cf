"""Add records up: journal records in, increments of sums and pairs out. Pure; the spool stores the result."""

from __future__ import annotations

import collections
import operator
import sys
import typing

import msgspec

from edge_agent.interleave import preference
from edge_agent.records import INCUMBENT, Answered, AnyRecord, Failed, OutcomeSeen, Scored, Spec, Visited
from edge_agent.telemetry.measures import Measures
from edge_agent.telemetry.sums import Pairs, PairsKey, Sums, SumsKey, Tally
from edge_agent.telemetry.visits import Closed, Item
from shared.clock import day_of
from shared.metrics import expected_log_loss, get_metric, ndcg
from shared.summary import quantise, score_bin
from shared.telemetry import APPROXIMATE

_LARGEST = sys.float_info.max
_outputs_of_other = operator.attrgetter("outputs")


class Waiting(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """Outputs that wait for their outcome: of the arm that answered, and of the others that were scored."""

    outputs: tuple[float, ...]
    others: tuple[Scored, ...] = ()


class Memory(typing.Protocol):
    """What folding looks up."""

    def take_waiting(self, nonce: bytes, event_s: int) -> Waiting | None:
        """Return and forget the outputs that wait under the nonce of an answer, and its event time."""

    def see_outcome(self, nonce: bytes, event_s: int) -> bool:
        """Remember that an outcome came; false if it had come before."""

    def spec(self, model: str, version: str) -> Spec | None:
        """Return how a version's answers are judged."""

    def open_visit(self, visited: Visited) -> None:
        """Remember a list until its outcomes can no longer come."""

    def take_gain(self, nonce: bytes, gain: float, seen_s: float) -> None:
        """Remember what an answer in a list was worth, if it is in one that is open."""

    def note_others(self, nonce: bytes, others: tuple[Scored, ...]) -> None:
        """Remember what other arms say of an answer, if it is in an open list."""

    def close_visits(self, up_to_s: float) -> typing.Iterable[Closed]:
        """Return and forget the lists whose outcomes had to come before a time, with what came of their items."""


class Folded(msgspec.Struct):
    """What a stretch of the journal adds up to."""

    sums: dict[SumsKey, Sums] = msgspec.field(default_factory=lambda: collections.defaultdict(Sums))
    pairs: dict[PairsKey, Pairs] = msgspec.field(default_factory=lambda: collections.defaultdict(Pairs))
    waiting: dict[bytes, tuple[int, Waiting]] = msgspec.field(default_factory=dict)
    measures: Measures = msgspec.field(default_factory=Measures)
    n_duplicates: int = 0
    n_late: int = 0
    n_unknown: int = 0
    n_approximate: int = 0


def fold(records: typing.Iterable[AnyRecord], memory: Memory, watermark_s: float | None = None) -> Folded:
    """Add up records in the order of the journal.

    An outcome whose label window has closed is counted as late and left out, so that a day that counts as mature
    never changes any more. The outcome of an approximate answer is counted as such and judges nobody. A visit is
    judged when its window closes, before the watermark has passed that.

    Parameters
    ----------
    watermark_s : float, optional
        Event time up to which everything is added up with these records.
    """
    out = Folded()
    of_lists = _ListModels(memory)
    tally = Tally()
    for record in records:
        if isinstance(record, Answered):
            tally.add(record)
            if record.keep:
                _keep(out, record, memory, of_lists)
        elif isinstance(record, Failed):
            _failed(out, record)
        elif isinstance(record, OutcomeSeen):
            _outcome(out, record, memory)
        elif isinstance(record, Visited):
            memory.open_visit(record)
        else:
            out.measures.take(record, memory)
    tally.empty_into(out.sums)
    if watermark_s is not None:
        # Event times are whole seconds: the last that is within its window may have been cut off by nearly one.
        for visited, items in memory.close_visits(watermark_s - 1.0):
            if visited.version:
                _list(out, visited, [items[nonce] for nonce, _ in visited.shown], memory)
            else:
                _visit(out, visited, items)
    return out


class _ListModels(dict[tuple[str, str], bool]):
    """Whether a version is judged by its lists, by (model, version)."""

    def __init__(self, memory: Memory) -> None:
        super().__init__()
        self._memory = memory

    def __missing__(self, key: tuple[str, str]) -> bool:
        spec = self._memory.spec(*key)
        self[key] = spec is not None and get_metric(spec.metric, spec.task).of_lists
        return self[key]


def _visit(out: Folded, visited: Visited, items: typing.Mapping[bytes, Item]) -> None:
    """Judge a list by where it was clicked; one without a click counts as one in which neither arm was better."""
    clicks = collections.Counter(arm for nonce, arm in visited.shown if items[nonce].gain > 0)
    d = preference(clicks[INCUMBENT], clicks[visited.arm])
    _pair(out, (visited.model, visited.epoch, day_of(visited.event_s), visited.arm), d)


def _list(out: Folded, visited: Visited, items: list[Item], memory: Memory) -> None:
    """Judge the order in which a list was shown, and the orders in which other arms would have shown the same items."""
    spec = memory.spec(visited.model, visited.version)
    if spec is None:
        return
    day = day_of(visited.event_s)
    orders = {(visited.arm, visited.version): list(items)}
    for arm, version in {(one.arm, one.version) for item in items for one in item.others}:
        scores = [one.outputs[-1] for item in items for one in item.others if one.arm == arm]
        if len(scores) == len(items):  # equals stay as they were shown
            places = sorted(range(len(items)), key=scores.__getitem__, reverse=True)
            orders[arm, version] = [items[place] for place in places]
    values = {}
    for (arm, version), order in orders.items():
        values[arm] = ndcg([item.gain for item in order]) / spec.metric_scale
        counts = out.sums[visited.model, version, visited.epoch, arm, arm == visited.arm, day].counts
        counts["outcomes"] += 1
        counts["metric_sum"] += quantise(values[arm])
        counts["metric_sumsq"] += quantise_square(values[arm])
    incumbent = values.pop(INCUMBENT, None)
    if incumbent is not None:
        for arm, value in values.items():
            _pair(out, (visited.model, visited.epoch, day, arm), value - incumbent)


def _keep(out: Folded, record: Answered, memory: Memory, of_lists: _ListModels) -> None:
    """Keep outputs until their outcome comes, or with the list that they are in."""
    others = record.others
    if not all(map(_outputs_of_other, others)):
        others = tuple(filter(_outputs_of_other, others))
    if record.others and of_lists[record.model, record.version]:
        memory.note_others(record.nonce, others)
    else:
        out.waiting[record.nonce] = record.event_s, Waiting(record.outputs, others)


def _failed(out: Folded, record: Failed) -> None:
    key = (record.model, record.version, record.epoch, record.arm, record.served, day_of(record.event_s))
    out.sums[key].counts["requests"] += 1
    out.sums[key].counts["failed"] += 1


def _outcome(out: Folded, record: OutcomeSeen, memory: Memory) -> None:
    spec = memory.spec(record.model, record.version)
    if spec is None:
        out.n_unknown += 1
        return
    if record.seen_s > record.event_s + spec.label_window_s:
        out.n_late += 1
        return
    if not memory.see_outcome(record.nonce, record.event_s):
        out.n_duplicates += 1
        return
    memory.take_gain(record.nonce, record.label, record.seen_s)
    waits = _outputs(out, record, memory, spec.task)
    if record.source in APPROXIMATE:
        out.n_approximate += 1
        return
    if waits is None or not _is_known(record.label, waits.outputs, spec.task):
        out.n_unknown += 1
        return
    if not get_metric(spec.metric, spec.task).of_lists:
        _compare(out, record, spec, waits, memory)


def _compare(out: Folded, record: OutcomeSeen, spec: Spec, waits: Waiting, memory: Memory) -> None:
    """Judge all arms that were asked, and each candidate beside the incumbent."""
    values = {record.arm: _judge(out, record, spec, record.version, record.arm, waits.outputs, served=True)}
    for other in waits.others:
        other_spec = memory.spec(record.model, other.version)
        if other_spec is not None and _is_known(record.label, other.outputs, other_spec.task):
            values[other.arm] = _judge(out, record, other_spec, other.version, other.arm, other.outputs, served=False)
    incumbent = values.pop(INCUMBENT, None)
    if incumbent is not None:
        for arm, value in values.items():
            key = (record.model, record.epoch, day_of(record.event_s), arm)
            _pair(out, key, get_metric(spec.metric, spec.task).gain(value, incumbent))


def _outputs(out: Folded, record: OutcomeSeen, memory: Memory, task: str) -> Waiting | None:
    """Take the outputs that wait for an outcome, or make them from what the prediction id carries."""
    held = out.waiting.pop(record.nonce, None)
    waits = held[1] if held else memory.take_waiting(record.nonce, record.event_s)
    if waits is None and task != "multiclass":
        return Waiting(_outputs_of(record.score, task))
    return waits


def _outputs_of(score: float, task: str) -> tuple[float, ...]:
    """Outputs again from the one number that the prediction id carries."""
    return (score,) if task == "regression" else (1.0 - score, score)


def _is_known(label: float, outputs: tuple[float, ...], task: str) -> bool:
    """Whether the version that gave these outputs knows the class: another version may have had other ones."""
    return task == "regression" or (0 <= label < len(outputs) and label == int(label))


def _judge(
    out: Folded, record: OutcomeSeen, spec: Spec, version: str, arm: int, outputs: tuple[float, ...], *, served: bool
) -> float:
    """Add one judged answer to its row; return its value in units of the metric's scale."""
    # Finite, so that the difference of two of them is a number.
    value = min(get_metric(spec.metric, spec.task).score(outputs, record.label) / spec.metric_scale, _LARGEST)
    row = out.sums[record.model, version, record.epoch, arm, served, day_of(record.event_s)]
    row.counts["outcomes"] += 1
    row.counts["metric_sum"] += quantise(value)
    row.counts["metric_sumsq"] += quantise_square(value)
    if spec.task != "regression":
        loss = get_metric("log_loss", spec.task).score(outputs, record.label)
        row.counts["excess_sum"] += quantise(loss - expected_log_loss(outputs))
        row.counts["positives"] += int(record.label == 1)
        # Of two classes the second's probability; of several that of the first choice, and whether it was right.
        top = 1 if spec.task == "binary" else max(range(len(outputs)), key=outputs.__getitem__)
        right = record.label if spec.task == "binary" else float(record.label == top)
        row.score_bins[score_bin(outputs[top], right)] += 1
    return value


def quantise_square(value: float) -> int:
    """Fixed-point square of a value that `quantise` would clip."""
    restored = quantise(value)
    return (restored * restored) >> 20


def _pair(out: Folded, key: PairsKey, gain: float) -> None:
    row = out.pairs[key]
    row.n += 1
    row.sum += quantise(gain)
    row.sumsq += quantise_square(gain)
    row.pos += gain > 0
    row.neg += gain < 0
