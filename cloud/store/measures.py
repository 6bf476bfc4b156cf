"""Numbers that came with outcomes, memory that versions take, and how devices did before a stage."""

from __future__ import annotations

import typing

from cloud.store.database import Database
from shared.summary import MEMORY
from shared.telemetry import MeasuresRow

Row = dict[str, typing.Any]
ADD = (
    "insert into measures values (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"
    " on conflict (device, model, version, epoch, arm, served, day, name, scale) do update set"
    " n = n + excluded.n, sum = sum + excluded.sum, sumsq = sumsq + excluded.sumsq"
)
# See `evidence`: total() takes whatever a device sends.
_TOTALS = ", ".join(f"cast(total(m.{name}) as integer) as {name}" for name in ("n", "sum", "sumsq"))


def to_row(device: str, row: MeasuresRow) -> tuple[object, ...]:
    """Return what `ADD` takes."""
    key = (device, row.model, row.version, row.epoch, row.arm, int(row.served), row.day, row.name, row.scale)
    return (*key, row.n, row.sum, row.sumsq)


class Measures:
    """What devices measured beside quality.

    Parameters
    ----------
    db : Database
        The project's database.
    """

    def __init__(self, db: Database) -> None:
        self._db = db

    def numbers(self, model: str, epochs: typing.Collection[int], *, before_day: int) -> list[Row]:
        """Sums of numbers by (name, scale, epoch, arm, device, region, day), event days before `before_day`."""
        marks = ", ".join("?" * len(epochs))
        return self._db.seen_rows(
            f"select m.name, m.scale, m.epoch, m.arm, m.device, d.region, m.day, {_TOTALS} from measures m"
            " join devices d on d.device = m.device"
            f" where m.model = ? and m.epoch in ({marks}) and m.name != ? and m.day < ?"
            " group by m.name, m.scale, m.epoch, m.arm, m.device, m.day",
            (model, *epochs, MEMORY, before_day),
        )

    def memory(self, model: str, epochs: typing.Collection[int]) -> list[Row]:
        """How much memory versions take, as `numbers` has it, up to now, with the version."""
        marks = ", ".join("?" * len(epochs))
        return self._db.seen_rows(
            f"select m.version, m.scale, m.epoch, m.arm, m.device, d.region, m.day, {_TOTALS} from measures m"
            " join devices d on d.device = m.device"
            f" where m.model = ? and m.epoch in ({marks}) and m.name = ?"
            " group by m.version, m.scale, m.epoch, m.arm, m.device, m.day",
            (model, *epochs, MEMORY),
        )

    def earlier(self, model: str, region: str, *, from_day: int, before_day: int) -> list[Row]:
        """How a region's devices did in some event days, whatever answered: sums of outcomes by device."""
        return self._db.rows(
            "select s.device, cast(total(s.outcomes) as integer) as outcomes,"
            " cast(total(s.metric_sum) as integer) as metric_sum from sums s join devices d on d.device = s.device"
            " where s.model = ? and d.region = ? and s.served = 1 and s.day >= ? and s.day < ? group by s.device",
            (model, region, from_day, before_day),
        )
