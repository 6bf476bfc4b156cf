"""The recorder: takes records off the reply path into the journal, and folds the journal into the spool."""

from __future__ import annotations

import threading
import typing

from edge_agent.config import Layout
from edge_agent.records import AnyRecord, Spec
from edge_agent.telemetry import journal
from edge_agent.telemetry.fold import Folded, fold
from edge_agent.telemetry.spool import Spool

_BATCH_RECORDS = 5000


class Recorder:
    """Remembers what was answered.

    Parameters
    ----------
    layout : Layout
        The device's paths.
    limit_bytes : int
        Budget of the spool; the journal may take a quarter of it.

    Attributes
    ----------
    record : callable
        Writes one record; survives a kill of the process at any later instant.
    """

    def __init__(self, layout: Layout, limit_bytes: int) -> None:
        self._folder = layout.journal
        self.spool = Spool(layout.spool_db, limit_bytes)
        self._writer = journal.JournalWriter(
            layout.journal, limit_bytes // 4, after_segment=self.spool.position.segment
        )
        self.record: typing.Callable[[AnyRecord], None] = self._writer.append
        self._lock = threading.Lock()
        self._n_dropped = 0
        self._folded_to: journal.Position | None = None
        self._totals = self.spool.totals()

    def add_specs(self, specs: list[Spec]) -> None:
        """Keep how versions are judged."""
        with self._lock:
            self.spool.add_specs(specs)

    def add_event(self, kind: str, detail: str = "") -> None:
        """Keep something for people to read."""
        with self._lock:
            self.spool.add_event(kind, detail)

    def fold(self, event_s: float, *, is_asked: bool = True) -> int:
        """Add up everything that was written before this call; return the number of records.

        Parameters
        ----------
        event_s : float
            Event time now; it becomes the watermark once all is added up.
        is_asked : bool
            Somebody wants the watermark. Else nothing is stored where nothing was written: a device that nobody asks
            anything would force its clock to the disk each second.
        """
        done = 0
        with self._lock:
            end = self._writer.position()
            if not is_asked and end == self._folded_to and self._writer.n_dropped == self._n_dropped:
                return 0
            while True:
                records, position = journal.read_from(self._folder, self.spool.position, max_records=_BATCH_RECORDS)
                caught_up = position >= end or not records
                if not records and position.segment < end.segment and not end.offset:
                    position = end  # there is no file to go on in yet; those before it are done with
                self._store(records, position, event_s, caught_up=caught_up)
                done += len(records)
                if caught_up:
                    break
            self._writer.folded(self.spool.position)
            if self._writer.n_dropped > self._n_dropped:
                self.spool.add_event(
                    "records-dropped", f"{self._writer.n_dropped - self._n_dropped} records: disk or journal full"
                )
                self._n_dropped = self._writer.n_dropped
            self._totals = self.spool.totals()
            self._folded_to = end
        return done

    def _store(self, records: list[AnyRecord], position: journal.Position, event_s: float, *, caught_up: bool) -> None:
        watermark_s = event_s if caught_up else None

        def add_up() -> Folded:
            return fold(records, self.spool, watermark_s)

        if records or (watermark_s or 0.0) > self.spool.watermark_s:
            self.spool.store(add_up, position, watermark_s)

    def make_room(self, event_s: float) -> None:
        """Forget what no outcome can need, and keep to the budget."""
        with self._lock:
            self.spool.make_room(event_s)

    def totals(self) -> dict[str, int]:
        """Counts since the device joined, as of the last fold; never waits."""
        return self._totals | {"dropped_records": self._writer.n_dropped}

    def close(self) -> None:
        """Close files."""
        self._writer.close()
        self.spool.close()
