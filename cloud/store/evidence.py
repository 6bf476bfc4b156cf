"""Read what devices have sent: sums by device and by day, for decisions, triggers and pages."""

from __future__ import annotations

import typing

import numpy as np

from cloud.store.database import Database, sum_bins

Row = dict[str, typing.Any]
_COUNTS = (
    "requests", "precomputed", "onnx", "fallback", "failed", "timed_out",
    "outcomes", "metric_sum", "metric_sumsq", "excess_sum", "positives",
)  # fmt: skip
# Unlike sum(), total() does not fail when a device sends nonsense that is too large to add up; what is real is exact.
_TOTAL = "cast(total({0}) as integer) as {0}"
_TOTALS = ", ".join(_TOTAL.format(name) for name in _COUNTS)
_FAULTS = ", ".join(_TOTAL.format(name) for name in ("requests", "failed", "timed_out", "fallback"))


class Evidence:
    """Sums and pairs of the fleet.

    Parameters
    ----------
    db : Database
        The project's database.
    """

    def __init__(self, db: Database) -> None:
        self._db = db

    def pairs(self, model: str, epochs: typing.Collection[int], *, before_day: int) -> list[Row]:
        """Pairs of (epoch, arm, device, day) in some epochs, event days before `before_day`."""
        marks = ", ".join("?" * len(epochs))
        return self._db.seen_rows(
            "select p.epoch, p.arm, p.device, d.region, p.day, p.n, p.sum, p.sumsq, p.pos, p.neg"
            " from pairs p join devices d on d.device = p.device"
            f" where p.model = ? and p.epoch in ({marks}) and p.day < ?",
            (model, *epochs, before_day),
        )

    def served(self, model: str, epochs: typing.Collection[int], *, before_day: int) -> list[Row]:
        """What each arm answered: sums of (epoch, arm, device, region, day)."""
        marks = ", ".join("?" * len(epochs))
        return self._db.seen_rows(
            f"select s.epoch, s.arm, s.device, d.region, s.day, {_TOTALS} from sums s"
            " join devices d on d.device = s.device"
            f" where s.model = ? and s.epoch in ({marks}) and s.served = 1 and s.day < ?"
            " group by s.epoch, s.arm, s.device, s.day",
            (model, *epochs, before_day),
        )

    def faults(self, model: str, epochs: typing.Collection[int]) -> list[Row]:
        """What each arm was asked, served or only scored, and failed at: sums of (epoch, arm, device, region, day)."""
        marks = ", ".join("?" * len(epochs))
        return self._db.seen_rows(
            f"select s.epoch, s.arm, s.device, d.region, s.day, {_FAULTS} from sums s"
            " join devices d on d.device = s.device"
            f" where s.model = ? and s.epoch in ({marks}) group by s.epoch, s.arm, s.device, s.day",
            (model, *epochs),
        )

    def faults_of_version(self, model: str, version: str, *, from_day: int, before_day: int) -> list[Row]:
        """What a version was asked and failed at: sums of (device, day) in some event days."""
        return self._db.rows(
            f"select device, day, {_FAULTS} from sums where model = ? and version = ? and served = 1 and day >= ?"
            " and day < ? group by device, day",
            (model, version, from_day, before_day),
        )

    def log_latencies(self, model: str, epochs: typing.Collection[int]) -> list[Row]:
        """How long each arm took to answer: sums of (epoch, arm, device, region, day), as logarithms to the base of 2.

        The counts are by powers of two, so a bin's number is the logarithm, rounded up.
        """
        marks = ", ".join("?" * len(epochs))
        return self._db.seen_rows(
            "select s.epoch, s.arm, s.device, d.region, s.day, s.latency_bins as bins from sums s"
            " join devices d on d.device = s.device"
            f" where s.model = ? and s.epoch in ({marks}) and s.served = 1",
            (model, *epochs),
            _log_latencies,
        )

    def by_day(self, model: str, *, from_day: int, before_day: int, version: str = "") -> list[Row]:
        """What a model answered, by version and event day."""
        return self._db.rows(
            f"select version, day, {_TOTALS} from sums where model = ? and served = 1 and day >= ? and day < ?"
            " and ? in ('', version) group by version, day order by day, version",
            (model, from_day, before_day, version),
        )

    def by_region(self, model: str, *, from_day: int) -> list[Row]:
        """What a model answered, by region, version and event day, from `from_day` on."""
        return self._db.rows(
            f"select d.region, s.version, s.day, {_TOTALS} from sums s join devices d on d.device = s.device"
            " where s.model = ? and s.served = 1 and s.day >= ? group by d.region, s.version, s.day"
            " order by s.day, s.version, d.region",
            (model, from_day),
        )

    def latencies(self, model: str, *, from_day: int) -> list[Row]:
        """Latency counts of a model's answers, by region and event day, from `from_day` on."""
        rows = self._db.rows(
            "select d.region, s.day, s.latency_bins as bins from sums s join devices d on d.device = s.device"
            " where s.model = ? and s.served = 1 and s.day >= ?",
            (model, from_day),
        )
        merged: dict[tuple[str, int], np.ndarray[tuple[int], np.dtype[np.int64]]] = {}
        for row in rows:
            counts = np.frombuffer(row["bins"], np.int64)
            key = row["region"], row["day"]
            merged[key] = merged[key] + counts if key in merged else counts
        return [{"region": region, "day": day, "bins": bins.tolist()} for (region, day), bins in sorted(merged.items())]

    def devices_by_day(self, model: str, *, from_day: int) -> dict[int, int]:
        """How many devices answered on each event day, from `from_day` on."""
        rows = self._db.rows(
            "select day, count(distinct device) as n from sums where model = ? and served = 1 and day >= ?"
            " group by day",
            (model, from_day),
        )
        return {row["day"]: row["n"] for row in rows}

    def online(self, since_s: float, *, joined_by_s: float, status: str = "accepted") -> dict[str, int]:
        """Count devices heard from since some time, by region, of those that had joined by another."""
        rows = self._db.rows(
            "select region, count(*) as n from devices where status = ? and joined_s <= ? and seen_s >= ?"
            " group by region order by region",
            (status, joined_by_s, since_s),
        )
        return {row["region"]: row["n"] for row in rows}

    def totals(self, device: str = "") -> Row:
        """All that was ever answered, by one device or by all."""
        row = self._db.row(f"select {_TOTALS} from sums where served = 1 and ? in ('', device)", (device,))
        return {name: value or 0 for name, value in (row or {}).items()}

    def bins(
        self, model: str, version: str, *, epochs: typing.Collection[int] = (), what: str = "score_bins"
    ) -> list[int]:
        """Merged counts of a version: scores by outcome, or latencies; in some epochs or in all."""
        if what not in ("score_bins", "latency_bins"):
            raise ValueError(what)
        where = f" and epoch in ({', '.join('?' * len(epochs))})" if epochs else ""
        rows = self._db.rows(
            f"select {what} as bins from sums where model = ? and version = ?{where}",
            (model, version, *epochs),
        )
        return sum_bins([row["bins"] for row in rows])

    def devices_that_answered(self, model: str, epochs: typing.Collection[int], arm: int = 0) -> int:
        """How many devices answered a request with a candidate's arm; by default with any candidate's."""
        if not epochs:
            return 0
        marks = ", ".join("?" * len(epochs))
        row = self._db.row(
            f"select count(distinct device) as n from sums where model = ? and epoch in ({marks})"
            " and (arm = ? or ? = 0) and arm > 0 and served = 1 and requests > failed",
            (model, *epochs, arm, arm),
        )
        return int(row["n"]) if row else 0

    def revision(self) -> int:
        """Grows with every batch that was taken in."""
        row = self._db.row("select value from meta where key = 'revision'")
        return int(row["value"]) if row else 0


def _log_latencies(rows: list[Row]) -> list[Row]:
    """Put sums in the place of the counts."""
    if not rows:
        return []
    counts = np.stack([np.frombuffer(row.pop("bins"), np.int64) for row in rows]).astype(np.float64)
    places = np.arange(counts.shape[1], dtype=np.float64)
    sums = zip(counts.sum(axis=1), counts @ places, counts @ places**2, strict=True)
    return [
        row | {"requests": float(n), "log2_sum": float(total), "log2_sumsq": float(square)}
        for row, (n, total, square) in zip(rows, sums, strict=True)
    ]
