"""What this process has answered since it started, counted as it happens: small numbers, never an input."""

from __future__ import annotations

import bisect
import collections
import time
import typing

from edge_agent.records import Answered, AnyRecord, Failed, OutcomeSeen

BOUNDS_US = (50, 100, 200, 500, 1_000, 2_000, 5_000, 10_000, 50_000, 250_000, 1_000_000)
_MAX_SERIES = 256
_bucket_of, _now = bisect.bisect_left, time.time
K = typing.TypeVar("K")
V = typing.TypeVar("V")
AnsweredKey = tuple[str, str, int, int]
FailedKey = tuple[str, str, int, bool]


class Series:
    """Answers of one kind.

    Parameters
    ----------
    buckets : list of int
        Answers by latency: up to each of `BOUNDS_US`, and above.
    sum_us : int
        Microseconds of all of them.
    last_s : float
        When the last one was given, seconds since 1970.
    """

    __slots__ = ("buckets", "last_s", "sum_us")

    def __init__(self) -> None:
        self.buckets = [0] * (len(BOUNDS_US) + 1)
        self.sum_us = 0
        self.last_s = 0.0

    @property
    def n(self) -> int:
        """How many there were."""
        return sum(self.buckets)


class Meters:
    """Counters by what was answered, failed, learned of, refused and replied.

    Versions come and go with updates, so the number of series is bounded: the oldest one goes.
    """

    def __init__(self) -> None:
        self.answered: dict[AnsweredKey, Series] = {}
        self.failed: dict[FailedKey, int] = {}
        self.outcomes: dict[tuple[str, str], int] = {}
        self.lists: dict[tuple[str, str, int], int] = {}
        self.errors: collections.Counter[str] = collections.Counter()
        self.replies: collections.Counter[int] = collections.Counter()
        self.started_s = time.time()

    def take(self, record: AnyRecord) -> None:
        """Count a record."""
        if type(record) is Answered:
            key, latency_us = (record.model, record.version, record.arm, record.source), record.latency_us
            series = self.answered.get(key)
            if series is None:
                series = self.answered[key] = Series()
                _bound(self.answered)
            series.buckets[_bucket_of(BOUNDS_US, latency_us)] += 1
            series.sum_us += latency_us
            series.last_s = _now()
        elif isinstance(record, Failed):
            failed = (record.model, record.version, record.arm, record.served)
            self.failed[failed] = self.failed.get(failed, 0) + 1
            _bound(self.failed)
        elif isinstance(record, OutcomeSeen):
            outcome = (record.model, record.version)
            self.outcomes[outcome] = self.outcomes.get(outcome, 0) + 1
            _bound(self.outcomes)

    def take_list(self, model: str, version: str, source: int) -> None:
        """Count a list that was found without candidates."""
        key = (model, version, source)
        self.lists[key] = self.lists.get(key, 0) + 1
        _bound(self.lists)


def _bound(series: dict[K, V]) -> None:
    if len(series) > _MAX_SERIES:
        series.pop(next(iter(series)))
