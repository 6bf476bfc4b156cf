"""Shows what updates weigh: pairs of versions trained here, sent whole, by zstd, by bsdiff4 and by Covey's deltas.

Run ``python scripts/bench_update.py``; ``--quick`` trains smaller models, ``--json`` prints one object.
"""

from __future__ import annotations

import argparse
import copy
import json
import pathlib
import subprocess
import sys
import tempfile
import time
import typing
import warnings

import bench_report
import numpy as np
from sklearn.ensemble import HistGradientBoostingClassifier, RandomForestClassifier
from sklearn.exceptions import ConvergenceWarning
from sklearn.neural_network import MLPClassifier

from cloud.export.onnx_file import export
from shared import delta, precomputed
from shared.delta import int8

try:
    import bsdiff4  # type: ignore[import-not-found, unused-ignore]
except ImportError:
    bsdiff4 = None

WIDTH = 40
AGAINST_BSDIFF = 0.85
LIMITS = {
    "rolling forest": 0.12,
    "sparse table": 0.10,
    "MLP, head only": 0.01,
    "MLP, all layers": 0.83,
    "MLP, all layers, int8 steps": 0.25,
}
Estimator = typing.Any


class Sizes(typing.NamedTuple):
    """How large models and tables are."""

    rows: int
    trees: int
    iterations: int
    hidden: int
    keys: int


FULL, QUICK = Sizes(40_000, 100, 300, 256, 100_000), Sizes(5_000, 50, 200, 192, 10_000)


class Pair(typing.NamedTuple):
    """Two versions of a file, and whether the second is an update of the first."""

    name: str
    old: bytes
    new: bytes


# ---- what is updated


def rows(n: int, seed: int, shift: float = 0.0) -> tuple[np.ndarray, np.ndarray]:
    """Make rows of a world that moves a little."""
    rng = np.random.default_rng(seed)
    inputs = rng.normal(size=(n, WIDTH)).astype(np.float32)
    score = inputs[:, 0] + inputs[:, 1] * inputs[:, 2] + (1 + shift) * np.sin(2 * inputs[:, 3]) + shift * inputs[:, 4]
    return inputs, (score + rng.normal(size=n) > 0).astype(np.int64)


def written(estimator: Estimator, version: str) -> bytes:
    """Export a model as training does."""
    properties = {"model": "bench", "version": version, "features": "0" * 64}
    return export(estimator, width=WIDTH, task="binary", properties=properties)


def forests(sizes: Sizes) -> list[Pair]:
    """A forest that grows by a fifth, and one that drops its oldest tenth for new trees."""
    forest = RandomForestClassifier(sizes.trees, max_leaf_nodes=400, warm_start=True, random_state=0, n_jobs=1)
    forest.fit(*rows(sizes.rows, 1))
    before = written(forest, "v1")
    n_new = sizes.trees // 10
    rolling = copy.deepcopy(forest)
    forest.set_params(n_estimators=sizes.trees + sizes.trees // 5).fit(*rows(sizes.rows, 2, 0.2))
    rolling.estimators_ = [*rolling.estimators_[n_new:], *forest.estimators_[-n_new:]]
    return [
        Pair(f"forest, +{sizes.trees // 5} trees", before, written(forest, "v1.1")),
        Pair("rolling forest", before, written(rolling, "v1.1")),
    ]


def boosting(sizes: Sizes) -> list[Pair]:
    """Histogram gradient boosting, a tenth more iterations on the same rows."""
    model = HistGradientBoostingClassifier(
        max_iter=sizes.iterations, warm_start=True, early_stopping=False, random_state=0
    )
    data = rows(sizes.rows, 1)
    before = written(model.fit(*data), "v1")
    more = sizes.iterations // 10
    model.set_params(max_iter=sizes.iterations + more).fit(*data)
    return [Pair(f"histogram boosting, +{more} iterations", before, written(model, "v1.1"))]


def networks(sizes: Sizes) -> list[Pair]:
    """A network of which the last layer learns on, all layers do, and all layers do in steps of int8."""
    network = MLPClassifier((sizes.hidden, sizes.hidden), max_iter=3, random_state=0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        network.fit(*rows(sizes.rows, 1))
    before = written(network, "v1")
    tuned = copy.deepcopy(network)
    inputs, labels = rows(sizes.rows // 4, 2, 0.2)
    for at in range(0, len(labels), 200):
        tuned.partial_fit(inputs[at : at + 200], labels[at : at + 200])
    head, stepped = copy.deepcopy(network), copy.deepcopy(tuned)
    head.coefs_[-1], head.intercepts_[-1] = tuned.coefs_[-1], tuned.intercepts_[-1]
    for part in ("coefs_", "intercepts_"):
        for i, (old, new) in enumerate(zip(getattr(network, part), getattr(tuned, part), strict=True)):
            flat = int8.near(old.astype(np.float32).ravel().tolist(), new.ravel().tolist())
            getattr(stepped, part)[i] = np.array(flat).reshape(new.shape)
    return [
        Pair("MLP, head only", before, written(head, "v1.1")),
        Pair("MLP, all layers", before, written(tuned, "v1.1")),
        Pair("MLP, all layers, int8 steps", before, written(stepped, "v1.1")),
    ]


def tables(sizes: Sizes) -> list[Pair]:
    """A table of precomputed answers in which one key of twenty gives way to another, and one answer of ten changes."""
    rng = np.random.default_rng(3)

    def entries(n: int) -> dict[bytes, tuple[float, float]]:
        p = rng.random(n, np.float32)
        return {rng.bytes(16): (float(1 - one), float(one)) for one in p}

    old = entries(sizes.keys)
    new = dict(list(old.items())[sizes.keys // 20 :])
    for key in list(new)[::10]:
        moved = float(np.float32(min(1.0, max(0.0, new[key][1] + rng.normal(0, 0.01)))))
        new[key] = (float(np.float32(1 - moved)), moved)
    new |= entries(sizes.keys // 20)
    ids = {"features_sha256": "0" * 64, "n_outputs": 2}
    made = [precomputed.build(one, model_sha256=sha * 64, **ids) for one, sha in ((old, "a"), (new, "b"))]
    return [Pair("sparse table", *made)]


# ---- what it weighs, and what it costs to apply


def weigh(pair: Pair) -> dict[str, typing.Any]:
    """Make every delta of a pair, and apply the smallest in a process of its own."""
    start = time.perf_counter()
    tried = {method: made for method in delta.METHODS if (made := delta.encode(method, pair.old, pair.new))}
    make_s = time.perf_counter() - start
    method, made = min(tried.items(), key=lambda one: len(one[1]))
    sizes = {method: len(made) for method, made in tried.items()}
    if delta.apply(made, pair.old, limit_bytes=len(pair.new)) != pair.new:
        raise AssertionError(pair.name)
    theirs = len(bsdiff4.diff(pair.old, pair.new)) if bsdiff4 else None
    needs = delta.memory_bytes(method, len(pair.old), len(pair.new))
    return {
        "name": pair.name,
        "full_bytes": len(pair.new),
        "zstd19_bytes": sizes["zstd"],
        "bsdiff4_bytes": theirs,
        "delta_bytes": len(made),
        "method": method,
        "ratio": len(made) / sizes["zstd"],
        "to_bsdiff4": len(made) / theirs if theirs else None,
        "by_method": sizes,
        "make_s": make_s,
        "memory_limit_bytes": needs,
    } | apply_apart(pair, made)


def apply_apart(pair: Pair, made: bytes) -> dict[str, float]:
    """Apply a delta in a process that does nothing else; return seconds, and bytes on top of what it began with."""
    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name)
        (folder / "old").write_bytes(pair.old)
        (folder / "delta").write_bytes(made)
        runs = []
        for _ in range(3):
            done = subprocess.run(
                [sys.executable, __file__, "--apply", name, "--limit", str(len(pair.new))],
                check=True,
                capture_output=True,
                text=True,
            )
            runs.append(json.loads(done.stdout))
    return {key: sorted(run[key] for run in runs)[1] for key in ("apply_s", "apply_peak_bytes")}


def _status_kib(key: str) -> int:
    lines = pathlib.Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(key))


def apply_here(folder: pathlib.Path, limit_bytes: int) -> None:
    """Apply ``delta`` to ``old``, files included in what is counted, and print what it cost."""
    delta.apply(delta.best(b"a" * 99, b"b" * 99), b"a" * 99, limit_bytes=99)  # so that no import is counted
    pathlib.Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew
    before, start = _status_kib("VmRSS"), time.perf_counter()
    delta.apply((folder / "delta").read_bytes(), (folder / "old").read_bytes(), limit_bytes=limit_bytes)
    seconds = time.perf_counter() - start
    print(json.dumps({"apply_s": seconds, "apply_peak_bytes": (_status_kib("VmHWM") - before) << 10}))


# ---- what is promised


def judge(measured: list[dict[str, typing.Any]]) -> list[dict[str, typing.Any]]:
    """Compare with the goals."""
    bars = []
    for row in measured:
        if row["name"] in LIMITS:
            bars.append((f"{row['name']} / zstd-19", row["ratio"], LIMITS[row["name"]]))
        if row["to_bsdiff4"] is not None:
            bars.append((f"{row['name']} / bsdiff4", row["to_bsdiff4"], AGAINST_BSDIFF))
        bars.append((f"{row['name']}: memory / limit", row["apply_peak_bytes"] / row["memory_limit_bytes"], 1.0))
    return [{"name": name, "value": value, "limit": limit, "ok": value <= limit} for name, value, limit in bars]


def show(measured: list[dict[str, typing.Any]], bars: list[dict[str, typing.Any]]) -> None:
    """Print tables."""
    heads = ("", "full", "zstd-19", "bsdiff4", "delta", "method", "/zstd-19", "/bsdiff4", "apply s", "peak MiB")
    print("{:34}{:>11}{:>11}{:>11}{:>11}  {:8}{:>9}{:>9}{:>9}{:>9}".format(*heads))
    for row in measured:
        sizes = [row[key] for key in ("full_bytes", "zstd19_bytes", "bsdiff4_bytes", "delta_bytes")]
        said = "".join(f"{size:>11,}" if size is not None else f"{'-':>11}" for size in sizes)
        to_bsdiff4 = f"{row['to_bsdiff4']:9.3f}" if row["to_bsdiff4"] is not None else f"{'-':>9}"
        peak = row["apply_peak_bytes"] / (1 << 20)
        print(
            f"{row['name']:34}{said}  {row['method']:8}{row['ratio']:9.3f}{to_bsdiff4}{row['apply_s']:9.3f}{peak:9.1f}"
        )
    if bsdiff4 is None:
        print("bsdiff4 is not installed: nothing was compared with it")
    print()
    for bar in bars:
        print(bench_report.line_of(bar, 50))


def main() -> int:
    """Train, weigh and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="smaller models")
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of a table")
    parser.add_argument("--apply", type=pathlib.Path, help=argparse.SUPPRESS)
    parser.add_argument("--limit", type=int, default=0, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.apply:
        apply_here(args.apply, args.limit)
        return 0
    sizes = QUICK if args.quick else FULL
    measured = [weigh(pair) for make in (forests, boosting, networks, tables) for pair in make(sizes)]
    bars = judge(measured)
    names = ["scikit-learn", "skl2onnx", "onnx", "backports.zstd", *(["bsdiff4"] if bsdiff4 else [])]
    if not args.json:
        show(measured, bars)
    return bench_report.end(measured, bars, packages=names, as_json=args.json)


if __name__ == "__main__":
    sys.exit(main())
