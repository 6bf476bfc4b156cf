"""What a device sees of a generation on trial, model by model, and whether a model must go. Pure."""

from __future__ import annotations

import typing

from edge_agent.generation import Generation
from edge_agent.records import Answered, AnyRecord, Failed
from shared.bundle import Manifest
from shared.channel import Guard

Manifests = typing.Mapping[tuple[str, str], Manifest]


class Verdict(typing.NamedTuple):
    """A model that must go, and why."""

    model: str
    reason: str


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
            counts.failed += 1
        elif isinstance(record, Answered):
            counts.n += 1
            counts.slow += record.slow
            if record.other_outputs:
                counts.pairs += 1
                counts.disagree += self._disagree(record)

    def _disagree(self, record: Answered) -> bool:
        ours = self._manifests.get((record.model, record.version))
        other = self._manifests.get((record.model, record.other_version))
        if ours is None or other is None:
            return False
        if ours.task == "regression":
            return abs(record.outputs[0] - record.other_outputs[0]) > ours.metric_scale
        return _decision(ours, record.outputs) != _decision(other, record.other_outputs)

    def verdict(self) -> Verdict | None:
        """Return the first model that is over a limit."""
        for model, counts in self._counts.items():
            reason = counts.reason()
            if reason:
                return Verdict(model, reason)
        return None


class _Counts:
    """What was seen of one model."""

    def __init__(self, guard: Guard) -> None:
        self._guard = guard
        self.n = self.failed = self.slow = self.pairs = self.disagree = 0

    def reason(self) -> str:
        guard = self._guard
        if self.n >= guard.min_requests and self.failed > guard.failed_ratio * self.n:
            return f"{self.failed} of {self.n} answers failed during probation"
        if self.n >= guard.min_requests and self.slow > guard.slow_ratio * self.n:
            return f"{self.slow} of {self.n} answers took longer than the budget during probation"
        if self.pairs >= guard.min_requests and self.disagree > guard.disagree_ratio * self.pairs:
            return f"the arms decide differently on {self.disagree} of {self.pairs} inputs during probation"
        return ""


def _decision(manifest: Manifest, outputs: typing.Sequence[float]) -> object:
    if manifest.task == "binary":
        return manifest.classes[int(outputs[1] >= manifest.threshold)]
    return manifest.classes[max(range(len(outputs)), key=outputs.__getitem__)]
