"""Millions of answers by one process: does its memory grow? Run by ``bench_predict.py --soak``."""

from __future__ import annotations

import pathlib
import subprocess
import sys
import tempfile
import time
import typing

import numpy as np
import predict_cases as cases
import predict_world as world

LOOKS = 40
SLACK_KIB = 1024.0
_INSIDE = """
import sys, time
sys.path[:0] = sys.argv[4:]
import predict_world as world
from edge_agent import Predictor
some = world.rows(512, 99)
with Predictor(sys.argv[1], with_sync=False) as predictor:
    for look in range(int(sys.argv[3])):
        for i in range(int(sys.argv[2])):
            predictor.predict(some[i % 512])
        time.sleep(1.5)
        print(look, flush=True)
        sys.stdin.readline()
"""


# Up to 10,000 answers may wait to be scored by the other arm, which is megabytes and no growth: hence the pause above.


def grown_kib(looks: typing.Sequence[float]) -> float:
    """Growth over the second half of the looks, KiB, by the line of least squares: the first half fills caches."""
    half = looks[len(looks) // 2 :]
    return float(np.polyfit(np.arange(len(half)), half, 1)[0] * (len(half) - 1))


def soak(n_http: int, n_inside: int) -> list[dict[str, typing.Any]]:
    """Answer so many requests over HTTP and inside a program, with a shadow arm; return the bars."""
    trained, shadow = world.train("logistic"), world.train("logistic", seed=2)
    bundles = [world.sealed(trained, "v1", world.table_of(trained, 10_000, 100)), world.sealed(shadow, "v2", None)]
    bars = []
    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name)
        for kind, n, looked in (
            ("HTTP", n_http, _over_http(world.make_store(folder / "http", *bundles), trained, n_http)),
            ("in process", n_inside, _inside(world.make_store(folder / "inside", *bundles), n_inside)),
        ):
            value = grown_kib(looked)
            said = f"memory after {n:,} answers {kind}, growth over the second half, KiB"
            bars.append({"name": said, "value": value, "limit": SLACK_KIB, "ok": value <= SLACK_KIB})
    return bars


def _over_http(layout: world.Layout, trained: world.Trained, n: int) -> list[float]:
    with world.agent(layout) as process:
        client = cases.covey_client(process, trained)
        time.sleep(2)
        looks = []
        for _ in range(LOOKS):
            client.forget()
            client(n // LOOKS)
            looks.append(float(world.memory_kib(process.pids[0])))
        client.close()
        return looks


def _inside(layout: world.Layout, n: int) -> list[float]:
    here = pathlib.Path(__file__).parent
    command = [
        sys.executable,
        "-c",
        _INSIDE,
        str(layout.store),
        str(n // LOOKS),
        str(LOOKS),
        str(here),
        str(here.parent),
    ]
    looks = []
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        if not process.stdin or not process.stdout:
            raise AssertionError
        for _ in process.stdout:
            looks.append(float(world.memory_kib(process.pid)))
            process.stdin.write("\n")
            process.stdin.flush()
    if len(looks) != LOOKS:
        raise AssertionError(looks)
    return looks
