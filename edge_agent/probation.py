"""What a device sees of a generation on trial, model by model, and whether a model must go. Pure."""

from __future__ import annotations

import collections
import typing

from edge_agent.generation import Generation
from edge_agent.records import INCUMBENT, Answered, AnyRecord, Failed
from shared.bundle import Manifest
from shared.channel import Guard

Manifests = typing.Mapping[tuple[str, str], Manifest]
_Counter = collections.Counter[str]
_Said = tuple[str, tuple[float, ...]]


class Verdict(typing.NamedTuple):
    """A model that must go, why, and which of its versions has most of it."""

    model: str
    reason: str
    version: str

    @property
    def to_blame(self) -> str:
        """MODEL@VERSION."""
        return f"{self.model}@{self.version}"


class Watch:
    """Counts what one generation does while it is on trial.

    Parameters
    ----------
    generation : Generation
        Says what is watched, and the limits.
    manifests : mapping
        (model, version) to manifest; says what a decision is.
    """

    def __init__(self, generation: Generation, manifests: Manifests) -> None:
        self._counts = {entry.model: _Counts(entry.guard) for entry in generation.models}
        self._manifests = manifests

    def add(self, record: AnyRecord) -> None:
        """Count an answer or a failure; anything else says nothing about the generation."""
        counts = self._counts.get(record.model)
        if counts is None:
            return
        if isinstance(record, Failed):
            counts.n += 1
            counts.failed[record.version] += 1
        elif isinstance(record, Answered):
            counts.n += 1
            counts.slow[record.version] += record.slow
            self._compare(counts, record)

    def _compare(self, counts: _Counts, record: Answered) -> None:
        """Compare each candidate with the incumbent, where both were asked."""
        said = {one.arm: (one.version, one.outputs) for one in record.others if one.outputs}
        said[record.arm] = record.version, record.outputs
        incumbent = said.pop(INCUMBENT, None)
        if incumbent is None:
            return
        for version, outputs in said.values():
            counts.pairs[version] += 1
            counts.disagree[version] += self._disagree(record.model, incumbent, (version, outputs))

    def _disagree(self, model: str, one: _Said, another: _Said) -> bool:
        manifests = [self._manifests.get((model, version)) for version, _ in (one, another)]
        ours, other = manifests
        if ours is None or other is None:
            return False
        if ours.task == "regression":
            return abs(one[1][0] - another[1][0]) > ours.metric_scale
        return _decision(ours, one[1]) != _decision(other, another[1])

    def verdict(self) -> Verdict | None:
        """Return the first model that is over a limit."""
        for model, counts in self._counts.items():
            found = counts.reason()
            if found:
                return Verdict(model, *found)
        return None


class _Counts:
    """What was seen of one model."""

    def __init__(self, guard: Guard) -> None:
        self._guard = guard
        self.n = 0
        self.failed, self.slow, self.pairs, self.disagree = (_Counter() for _ in range(4))

    def reason(self) -> tuple[str, str] | None:
        """Why the model must go, and the version that has most of it."""
        guard = self._guard
        for seen, ratio, what in (
            (self.failed, guard.failed_ratio, "failed"),
            (self.slow, guard.slow_ratio, "took longer than the budget"),
        ):
            n = seen.total()
            if self.n >= guard.min_requests and n > ratio * self.n:
                return f"{n} of {self.n} answers {what} during probation", max(seen, key=seen.__getitem__)
        for version, pairs in self.pairs.items():
            disagree = self.disagree[version]
            if pairs >= guard.min_requests and disagree > guard.disagree_ratio * pairs:
                return f"the arms decide differently on {disagree} of {pairs} inputs during probation", version
        return None


def _decision(manifest: Manifest, outputs: typing.Sequence[float]) -> object:
    if manifest.task == "binary":
        return manifest.classes[int(outputs[1] >= manifest.threshold)]
    return manifest.classes[max(range(len(outputs)), key=outputs.__getitem__)]
