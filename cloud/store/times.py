"""What was written while the cloud's clock was ahead: once the clock is right again, no time is later than now."""

from __future__ import annotations

from cloud.store.database import Database

_TIMES = {
    "devices": ("seen_s", "online_since_s", "moved_s"),
    "stages": ("opened_s", "grown_s"),
    "channels": ("told_s",),
}
_DAYS = {"rollouts": ("created_day", "ended_day"), "stages": ("opened_day",)}


def newest(db: Database) -> float:
    """Return the latest time at which a device was heard, as far as is known; 0 if none ever was."""
    row = db.row("select max(seen_s) as at from devices")
    return float(row["at"] or 0.0) if row else 0.0


def bring_back(db: Database, now_s: float, event_day: int) -> None:
    """Let what happened later than now have happened now, and on this event day at the latest."""
    with db.transaction() as connection:
        for tables, most in ((_TIMES, now_s), (_DAYS, event_day)):
            for table, columns in tables.items():
                for column in columns:
                    connection.execute(f"update {table} set {column} = ? where {column} > ?", (most, most))
