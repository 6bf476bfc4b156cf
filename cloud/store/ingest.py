"""Take a batch in, in one transaction, once: an inbox row gates sums, pairs, events and the device's report."""

from __future__ import annotations

import hashlib
import sqlite3
import time
import typing

from cloud.store import measures
from cloud.store.database import Database, pack_bins
from shared import codec
from shared.clock import FUTURE_SLACK_S, MAX_EVENT_S
from shared.errors import ConflictError, ForbiddenError, NotFoundError, WireError
from shared.telemetry import Batch, PairsRow, SumsRow

_MAX_REPORT_BYTES = 1 << 18  # it is read again at every tick
_ADD = "{0} = {0} + excluded.{0}"
_COUNTS = (
    "requests", "precomputed", "onnx", "fallback", "failed", "timed_out", "outcomes",
    "metric_sum", "metric_sumsq", "excess_sum", "positives",
)  # fmt: skip
_SUMS = (
    f"insert into sums values (?, ?, ?, ?, ?, ?, ?, {', '.join('?' * len(_COUNTS))}, ?, ?)"
    " on conflict (device, model, version, epoch, arm, served, day) do update set "
    + ", ".join(_ADD.format(name) for name in _COUNTS)
    + ", score_bins = add_bins(score_bins, excluded.score_bins)"
    + ", latency_bins = add_bins(latency_bins, excluded.latency_bins)"
)
_PAIRS = (
    "insert into pairs values (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"
    " on conflict (model, epoch, arm, device, day) do update set "
    + ", ".join(_ADD.format(name) for name in ("n", "sum", "sumsq", "pos", "neg"))
)


def ingest(db: Database, batch: Batch, online_window_s: float, received: bytes = b"") -> bool:
    """Take a batch in; return false if it had come before.

    Parameters
    ----------
    received : bytes
        The batch as its device wrote it, decompressed: a batch that comes again is known by these bytes, whatever
        fields this cloud or the one before it knows. Left out, the batch is written out again.

    Raises
    ------
    NotFoundError, ForbiddenError
        The device is unknown, or not accepted: it waits for approval, was rejected or retired.
    ConflictError
        Another batch came under this number before: one of the two would be lost if it were acknowledged.
    WireError
        The status is too large to keep.
    """
    now = time.time()
    report = codec.to_json(batch.status).decode()
    if len(report) > _MAX_REPORT_BYTES:
        raise WireError(f"{len(report):,} bytes, at most {_MAX_REPORT_BYTES:,} are kept", field="status")
    with db.transaction() as connection:
        device = _accepted(db, batch.device)
        fresh = _is_fresh(connection, batch, received, now)
        since = device["online_since_s"] if now - device["seen_s"] <= online_window_s else now
        connection.execute(
            "update devices set seen_s = ?, online_since_s = ? where device = ?", (now, since, batch.device)
        )
        if not fresh:
            return False
        connection.execute("insert into meta values ('revision', 1) on conflict (key) do update set value = value + 1")
        connection.executemany(_SUMS, [_sums(batch.device, row) for row in batch.sums])
        connection.executemany(_PAIRS, [_pairs(batch.device, row) for row in batch.pairs])
        connection.executemany(measures.ADD, [measures.to_row(batch.device, row) for row in batch.measures])
        connection.executemany(
            "insert into device_events (device, at_s, kind, detail, received_s) values (?, ?, ?, ?, ?)",
            [
                (batch.device, min(event.at_s, now + FUTURE_SLACK_S), event.kind, event.detail, now)
                for event in batch.events
            ],
        )
        # Batches may arrive out of order (a file carried by hand): only a newer one says what the device does now.
        key = f"{batch.spool}/{batch.sequence:020d}"
        if not device["report_key"].startswith(f"{batch.spool}/") or device["report_key"] < key:
            _report(db, batch, key, report)
    return True


def _accepted(db: Database, name: str) -> dict[str, typing.Any]:
    """Return what is known of a device that may deliver."""
    device = db.row("select status, seen_s, online_since_s, report_key from devices where device = ?", (name,))
    if device is None:
        raise NotFoundError(f"no device {name!r}", field="device", fix="Join again.")
    if device["status"] != "accepted":
        said = "waits for approval" if device["status"] == "pending" else f"was {device['status']}"
        raise ForbiddenError(f"{name!r} {said}", field="device")
    return device


def _is_fresh(connection: sqlite3.Connection, batch: Batch, received: bytes, now: float) -> bool:
    """Note a batch in the inbox; false if the same one is there."""
    sha256 = hashlib.sha256(received or codec.to_msgpack(batch)).hexdigest()
    number = (batch.device, batch.spool, batch.sequence)
    fresh = connection.execute("insert or ignore into inbox values (?, ?, ?, ?, ?)", (*number, now, sha256)).rowcount
    if fresh:
        return True
    (before,) = connection.execute(
        "select sha256 from inbox where device = ? and spool = ? and sequence = ?", number
    ).fetchone()
    # Earlier clouds kept the hash of what they had read and written out again.
    if before not in ("", sha256, hashlib.sha256(codec.to_msgpack(batch)).hexdigest()):
        raise ConflictError(
            f"another batch came as number {batch.sequence} of spool {batch.spool!r}",
            field="sequence",
            fix="Its spool was put back to an older state: keep a copy of spool.db, and let it make a new one.",
        )
    return False


def _report(db: Database, batch: Batch, key: str, report: str) -> None:
    status = batch.status
    watermark_s = min(status.watermark_s, MAX_EVENT_S)  # a clock that is wrong by millennia has no date
    db.connection.execute(
        "update devices set generation = ?, generation_state = ?, channel_sequence = ?, report = ?, report_key = ?,"
        " moved_s = iif(watermark_s = ?, moved_s, ?), watermark_s = ? where device = ?",
        (
            status.generation,
            status.state,
            status.channel_sequence,
            report,
            key,
            watermark_s,
            time.time(),
            watermark_s,
            batch.device,
        ),
    )


def _sums(device: str, row: SumsRow) -> tuple[object, ...]:
    counts = tuple(getattr(row, name) for name in _COUNTS)
    head = (device, row.model, row.version, row.epoch, row.arm, int(row.served), row.day)
    return (*head, *counts, pack_bins(row.score_bins), pack_bins(row.latency_bins))


def _pairs(device: str, row: PairsRow) -> tuple[object, ...]:
    return (device, row.model, row.epoch, row.arm, row.day, row.n, row.sum, row.sumsq, row.pos, row.neg)
