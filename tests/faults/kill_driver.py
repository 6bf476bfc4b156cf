"""Kill a device's telemetry, and the cloud that takes it in, at random instants; run by test_thousand_kills.py.

    kill_driver.py STORE DATABASE KILLS SEED

Each life is a process that answers (records), adds up, delivers and takes in, as fast as it can, until it is killed. It
says on a pipe before and after each record what it is about to do and has done. One line of JSON at the end tells what
was said and what the cloud has.
"""

from __future__ import annotations

import json
import os
import pathlib
import random
import signal
import sys
import time
import typing

from cloud.store.database import Database
from cloud.store.ingest import ingest
from edge_agent.config import Layout
from edge_agent.records import Answered, OutcomeSeen, Spec
from edge_agent.telemetry.forward import forward
from edge_agent.telemetry.outbox import Outbox
from edge_agent.telemetry.recorder import Recorder
from shared import codec
from shared.telemetry import Acknowledgement, Batch, DeviceStatus

DEVICE, MODEL = "till-1", "late"
EVENT_S = 1_700_000_000
_FOLD_EVERY, _DELIVER_EVERY = 7, 20
_LONGEST_S = 0.05


def answered(number: int) -> tuple[Answered, OutcomeSeen]:
    """An answer and its outcome; the number makes them unlike any other."""
    nonce = number.to_bytes(6, "little")
    answer = Answered(MODEL, "v1", 0, 0, 1, EVENT_S, 100, slow=False, nonce=nonce, outputs=(0.25, 0.75))
    return answer, OutcomeSeen(MODEL, "v1", 0, 0, EVENT_S, nonce, 0.75, 1.0, EVENT_S + 60)


def live(layout: Layout, database: pathlib.Path, first: int, told: int) -> typing.NoReturn:
    """Record, add up and deliver until somebody ends it."""
    recorder, outbox = Recorder(layout, 64 << 20), Outbox(layout.spool_db)
    cloud = Database(database)
    number = first
    while True:
        number += 1
        os.write(told, b"?")
        for record in answered(number):
            recorder.record(record)
        os.write(told, b"!")
        if number % _FOLD_EVERY == 0:
            recorder.fold(EVENT_S + 100.0)
        if number % _DELIVER_EVERY == 0:
            deliver(outbox, cloud)


def deliver(outbox: Outbox, cloud: Database) -> int:
    """Deliver what waits into the cloud's database."""

    def send(body: bytes) -> Acknowledgement:
        batch = codec.from_msgpack(codec.decompress(body, limit_bytes=1 << 26), Batch, limit_bytes=1 << 26)
        fresh = ingest(cloud, batch, 3600.0)
        return Acknowledgement(spool=batch.spool, sequence=batch.sequence, duplicate=not fresh)

    status = DeviceStatus(generation="g", watermark_s=float(EVENT_S))
    return forward(outbox, DEVICE, lambda: status, send, now_s=time.time, say_hello=False)


def kill_one(layout: Layout, database: pathlib.Path, first: int, after_s: float) -> tuple[int, int]:
    """Let one life live for a while; return how many records it began and how many it finished."""
    read, told = os.pipe()
    child = os.fork()
    if not child:
        os.close(read)
        try:
            live(layout, database, first, told)
        finally:
            os._exit(3)
    os.close(told)
    begun = done = 0
    deadline = time.monotonic() + after_s
    os.set_blocking(read, False)
    is_killed = False
    while True:
        try:
            said = os.read(read, 4096)
        except BlockingIOError:
            said = None
        if said:
            begun, done = begun + said.count(b"?"), done + said.count(b"!")
        elif said == b"":
            break
        if not is_killed and time.monotonic() >= deadline:
            os.kill(child, signal.SIGKILL)
            is_killed = True
        time.sleep(0.0005)
    os.close(read)
    _, status = os.waitpid(child, 0)
    if os.waitstatus_to_exitcode(status) != -signal.SIGKILL:
        raise RuntimeError(f"a life ended by itself: {os.waitstatus_to_exitcode(status)}")
    return begun, done


def main(store: str, database: str, kills: str, seed: str) -> int:
    """Kill so many lives, then deliver what is left; print what came of it."""
    layout, path, rng = Layout(pathlib.Path(store)), pathlib.Path(database), random.Random(int(seed))
    recorder = Recorder(layout, 64 << 20)
    recorder.add_specs(
        [Spec(model=MODEL, version="v1", task="binary", metric="log_loss", metric_scale=1.0, label_window_s=86_400.0)]
    )
    recorder.close()
    begun = done = 0
    for _ in range(int(kills)):
        more, finished = kill_one(layout, path, begun, rng.uniform(0.002, _LONGEST_S))
        begun, done = begun + more, done + finished
    recorder, outbox, cloud = Recorder(layout, 64 << 20), Outbox(layout.spool_db), Database(path)
    recorder.fold(EVENT_S + 100.0)
    while deliver(outbox, cloud):
        pass
    (row,) = cloud.rows("select sum(requests) as requests, sum(outcomes) as outcomes from sums")
    batches = cloud.rows("select count(*) as n from inbox")[0]["n"]
    said = {"begun": begun, "done": done, "batches": batches, **row, "dropped": recorder.totals()["dropped_records"]}
    sys.stdout.write(json.dumps(said) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
