"""What answers are counted in: rows of sums and of pairs, and a tally that becomes rows."""

from __future__ import annotations

import collections
import typing

import msgspec

from edge_agent.records import Answered
from shared.clock import day_of
from shared.summary import N_LATENCY_BINS, N_SCORE_BINS
from shared.telemetry import APPROXIMATE, SOURCES

SumsKey = tuple[str, str, int, int, bool, int]
PairsKey = tuple[str, int, int, int]
COUNTERS = ("requests", "precomputed", "onnx", "fallback", "failed", "timed_out")
QUALITY = ("outcomes", "metric_sum", "metric_sumsq", "excess_sum", "positives")
_N_SCORES = 2 * N_SCORE_BINS
_COUNTER_OF = tuple("fallback" if i in APPROXIMATE else source for i, source in enumerate(SOURCES))


class Sums(msgspec.Struct):
    """Increments of one row of sums."""

    counts: dict[str, int] = msgspec.field(default_factory=lambda: dict.fromkeys(COUNTERS + QUALITY, 0))
    score_bins: list[int] = msgspec.field(default_factory=lambda: [0] * _N_SCORES)
    latency_bins: list[int] = msgspec.field(default_factory=lambda: [0] * N_LATENCY_BINS)


class Pairs(msgspec.Struct):
    """Increments of one row of pairs."""

    n: int = 0
    sum: int = 0
    sumsq: int = 0
    pos: int = 0
    neg: int = 0


class Tally:
    """Counts answers that are alike in all that is counted, which nearly all are, before they become sums."""

    def __init__(self) -> None:
        self._served: dict[tuple[str, str, int, int, int, int, bool, int], int] = collections.defaultdict(int)
        self._scored: dict[tuple[str, str, int, int, int, int], int] = collections.defaultdict(int)

    def add(self, record: Answered) -> None:
        """Count an answer, and the other arms that were scored."""
        day, latency_us = day_of(record.event_s), record.latency_us
        bits = (latency_us - 1).bit_length() if latency_us > 0 else 0
        self._served[record.model, record.version, record.epoch, record.arm, day, record.source, record.slow, bits] += 1
        for other in record.others:
            self._scored[record.model, other.version, record.epoch, other.arm, day, other.source] += 1

    def empty_into(self, rows: typing.MutableMapping[SumsKey, Sums]) -> None:
        """Turn the counts into increments of sums."""
        for (model, version, epoch, arm, day, source, slow, bits), n in self._served.items():
            row = rows[model, version, epoch, arm, True, day]
            row.counts["requests"] += n
            row.counts[_COUNTER_OF[source]] += n
            row.counts["timed_out"] += n * slow
            # `latency_bin` of whole microseconds, without a logarithm.
            row.latency_bins[min(bits, N_LATENCY_BINS - 1)] += n
        for (model, version, epoch, arm, day, source), n in self._scored.items():
            counts = rows[model, version, epoch, arm, False, day].counts
            counts["requests"] += n
            counts["fallback"] += n * (source in APPROXIMATE)
