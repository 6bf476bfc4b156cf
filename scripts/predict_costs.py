"""What a process of the agent takes: memory, and CPU up to its first answer; and the least that either can be."""

from __future__ import annotations

import os
import pathlib
import resource
import statistics
import subprocess
import sys
import time

import predict_cases as cases
import predict_floor as floor
import predict_world as world

COSTS = {
    "memory, model + shadow + 100,000 keys / import onnxruntime": 1.45,
    "memory, table only / import onnxruntime": 0.5,
    "CPU to the first precomputed answer / import onnxruntime": 0.45,
}
FLOORS = (
    "memory, two models loaded and nothing else / import onnxruntime",
    "memory, an empty server of asyncio and httptools / import onnxruntime",
    "CPU to the first answer of that server / import onnxruntime",
)
_IMPORT = "import onnxruntime, pathlib; print(pathlib.Path('/proc/self/status').read_text())"


def process_costs(code: str, *arguments: pathlib.Path) -> tuple[float, float]:
    """CPU seconds and KiB of a process that runs some code and prints its status."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    command = [sys.executable, "-c", code, *map(str, arguments)]
    done = subprocess.run(command, check=True, capture_output=True, text=True, env=os.environ | world.COMPILED)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return cpu, float(done.stdout.split("VmRSS:")[1].split()[0])


def first_answer(layout: world.Layout, trained: world.Trained) -> tuple[float, float]:
    """CPU seconds of a new agent up to its first answer, which is in the table; and its memory after some more."""
    with world.agent(layout, COVEY_SERVE__LOOP="asyncio") as process:
        client = cases.covey_client(process, trained)
        client(1)
        cpu = world.cpu_s(process.pids[0])
        client(20)
        time.sleep(2)  # so that the model is loaded
        client(480)
        client.close()
        time.sleep(1.2)
        return cpu, float(world.memory_kib(process.pids[0]))


def floor_costs(models: list[pathlib.Path]) -> tuple[float, float, float]:
    """KiB with two models, KiB of an empty server, and its CPU seconds up to the first answer."""
    _, models_kib = process_costs(floor.TWO_MODELS, *models)
    with world.started([floor.__file__]) as process:
        client = cases.hello_client(process)
        client(1)
        cpu = world.cpu_s(process.pids[0])
        client(500)
        client.close()
        return models_kib, float(world.memory_kib(process.pids[0])), cpu


def costs_of(folder: pathlib.Path, trained: world.Trained, shadow: world.Trained, n_starts: int) -> dict[str, float]:
    """Measure what a process takes; the rows that are asked are all in the table."""
    table = world.table_of(trained, 100_000, len(trained.rows))
    bundles = [world.sealed(trained, "v1", table), world.sealed(shadow, "v2", None)]
    full = world.make_store(folder / "full", *bundles)
    only = world.sealed(trained, "v1", table, answer_order="precomputed_only")
    light = world.make_store(folder / "light", only)
    found: dict[str, list[float]] = {name: [] for name in (*COSTS, *FLOORS)}
    models = [folder / "one.onnx", folder / "two.onnx"]
    for path, one in zip(models, (trained, shadow), strict=True):
        path.write_bytes(one.shipped)
    process_costs(_IMPORT), first_answer(full, trained), floor_costs(models)  # the first start of all compiles
    for _ in range(n_starts):
        base_cpu, base_kib = process_costs(_IMPORT)
        cpu, kib = first_answer(full, trained)
        _, light_kib = first_answer(light, trained)
        models_kib, hello_kib, hello_cpu = floor_costs(models)
        values = kib / base_kib, light_kib / base_kib, cpu / base_cpu
        floors = models_kib / base_kib, hello_kib / base_kib, hello_cpu / base_cpu
        for name, value in zip(found, values + floors, strict=True):
            found[name].append(value)
    return {name: statistics.median(values) for name, values in found.items()}
