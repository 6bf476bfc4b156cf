"""Try a bundle in this process: confined, whole, and within its budgets of memory and time."""

from __future__ import annotations

import pathlib
import re
import statistics
import time

from edge_agent.confine import confine
from edge_agent.predict.loaded import LoadedBundle
from edge_agent.predict.runtime import resident_bytes
from edge_agent.update.self_test import limit_memory
from shared import codec
from shared.bundle import GOLDEN_FILE, MODEL_FILE, Golden, parse_manifest
from shared.errors import ModelError

_PEAK = re.compile(r"^VmHWM:\s+(\d+) kB", re.MULTILINE)


def try_bundle(folder: pathlib.Path, limit_bytes: int) -> int:
    """Open, check, load and ask a bundle; return how many golden rows came out as signed.

    Parameters
    ----------
    limit_bytes : int
        Address space of this process, from now on; it also loses the network, and other programs.

    Raises
    ------
    CoveyError
        What is wrong with it.
    """
    limit_memory(limit_bytes)
    manifest = parse_manifest((folder / "manifest.json").read_bytes())
    confine()
    bundle = LoadedBundle(folder, manifest)
    for table in filter(None, (bundle.table, bundle.coarse)):
        table.check()
    if bundle.lists:
        bundle.lists.check()
    bundle.admit_model()
    n_rows = load_within_budgets(bundle)
    bundle.check_encoding()
    return n_rows


def load_within_budgets(bundle: LoadedBundle) -> int:
    """Load a bundle and reproduce its golden rows; return how many there are.

    Raises
    ------
    ModelError
        It gives other answers; or it takes more memory or time than its manifest says.
    """
    budgets = bundle.manifest.budgets
    if bundle.manifest.file(MODEL_FILE):
        resident_bytes()  # begins the runtime: what that takes is not the model's
    before_bytes, start = peak_bytes(), time.monotonic()
    bundle.load_model()
    took_s = time.monotonic() - start
    if took_s > budgets.load_s:
        raise ModelError(f"loading took {took_s:.1f} s, {budgets.load_s:g} s are allowed", field="model")
    n_rows = bundle.check_golden()
    took_bytes = peak_bytes() - before_bytes
    if took_bytes > budgets.memory_bytes:
        raise ModelError(f"it took {took_bytes:,} bytes of memory, {budgets.memory_bytes:,} are allowed", field="model")
    usual_s = _usual_s(bundle)
    if usual_s > budgets.predict_s:
        raise ModelError(f"an answer takes {usual_s:.3f} s, {budgets.predict_s:g} s are allowed", field="model")
    return n_rows


def _usual_s(bundle: LoadedBundle) -> float:
    """Median time of an answer, over the golden rows, in seconds."""
    golden = codec.from_json((bundle.folder / GOLDEN_FILE).read_bytes(), Golden, limit_bytes=64 << 20)
    took_s = []
    for row in golden.rows:
        start = time.perf_counter()
        bundle.answer(row)
        took_s.append(time.perf_counter() - start)
    return statistics.median(took_s) if took_s else 0.0


def peak_bytes() -> int:
    """Most memory that this process ever had resident."""
    match = _PEAK.search(pathlib.Path("/proc/self/status").read_text())
    return int(match.group(1)) * 1024 if match else 0
