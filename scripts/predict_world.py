"""What bench_predict.py measures: models trained here, exported as Covey exports them, and devices with them."""

from __future__ import annotations

import collections.abc
import contextlib
import os
import pathlib
import subprocess
import sys
import tempfile
import time
import typing

import numpy as np
from onnx import TensorProto, compose, helper
from onnx import load_from_string as load_onnx
from sklearn.ensemble import HistGradientBoostingClassifier, RandomForestClassifier
from sklearn.linear_model import LogisticRegression

from cloud.export.onnx_file import export
from edge_agent.config import Identity, Layout
from edge_agent.device_key import key_bytes, new_key
from edge_agent.files import BlobStore, write_atomic
from edge_agent.generation import Generation, GenerationModel, Generations
from edge_agent.update.state import State
from shared import bundle, codec, precomputed
from shared.bundle import Golden, Manifest
from shared.channel import Experiment
from shared.features import Categorical, Encoder, FeatureSet, Numeric
from shared.features.columns import encode_columns, expand

MODEL, DEVICE = "late", "bench-1"
CARRIERS = ("UA", "B6", "EV", "DL", "AA", "MQ", "US", "9E", "WN", "VX", "FL", "AS")
FEATURES = FeatureSet(
    name="late",
    feature=(
        Numeric(name="hour", min=0.0, max=24.0),
        Numeric(name="distance_km", min=0.0, max=10_000.0),
        Numeric(name="temperature_c", min=-60.0, max=60.0),
        Numeric(name="wind_ms", min=0.0, max=100.0),
        Numeric(name="visibility_km", min=0.0, max=50.0),
        Numeric(name="rain_mm", min=0.0, max=500.0),
        Categorical(name="carrier", categories=CARRIERS),
    ),
)
Row = dict[str, float | str]
Answers = typing.Any


def rows(n: int, seed: int) -> list[Row]:
    """Make flights."""
    rng = np.random.default_rng(seed)
    drawn = zip(
        rng.uniform(5, 23, n).round(2).tolist(),
        rng.gamma(3, 500, n).clip(50, 9999).round(1).tolist(),
        rng.normal(12, 10, n).clip(-59, 59).round(1).tolist(),
        rng.gamma(2, 2.5, n).clip(0, 99).round(1).tolist(),
        rng.uniform(0.1, 16, n).round(1).tolist(),
        (rng.exponential(1, n) * (rng.random(n) < 0.2)).round(1).tolist(),  # noqa: PLR2004 - it rains at times
        rng.choice(CARRIERS, n).tolist(),
        strict=True,
    )
    names = [feature.name for feature in FEATURES.feature]
    return [dict(zip(names, one, strict=True)) for one in drawn]


def inputs_of(some: typing.Sequence[Row]) -> np.ndarray:
    """Encode rows as training does: the model's input, shape (n, width)."""
    columns = {name: [row[name] for row in some] for name in FEATURES.columns}
    return expand(FEATURES, encode_columns(FEATURES, columns))


def labels(some: typing.Sequence[Row], seed: int) -> np.ndarray:
    """Say which flights were late."""
    rng = np.random.default_rng(seed)
    score = [
        0.12 * (float(row["hour"]) - 14) + 0.8 * float(row["rain_mm"]) - 0.1 * float(row["visibility_km"])
        + 0.3 * (CARRIERS.index(str(row["carrier"])) % 3) + 0.05 * abs(float(row["temperature_c"]) - 10)
        for row in some
    ]  # fmt: skip
    return (np.array(score) + rng.logistic(size=len(some)) > 0).astype(np.int64)


class Trained(typing.NamedTuple):
    """A model as it is shipped, the same one with a named input for each raw feature, and rows with their answers."""

    name: str
    shipped: bytes
    named: bytes
    rows: list[Row]
    answers: np.ndarray


ESTIMATORS: dict[str, typing.Callable[[int], Answers]] = {
    "boosting": lambda seed: HistGradientBoostingClassifier(max_iter=20, random_state=seed),
    "logistic": lambda seed: LogisticRegression(max_iter=300, random_state=seed),
    "forest of 500": lambda seed: RandomForestClassifier(500, random_state=seed, n_jobs=1),
}


def train(name: str, *, seed: int = 1, n_rows: int = 8000, n_asked: int = 512) -> Trained:
    """Train, export, and answer the rows that will be asked."""
    some = rows(n_rows, seed)
    fitted = ESTIMATORS[name](seed).fit(inputs_of(some), labels(some, seed))
    properties = {"model": MODEL, "version": f"v{seed}", "features": FEATURES.digest}
    shipped = export(fitted, width=FEATURES.width, task="binary", properties=properties)
    asked = rows(n_asked, 99)
    return Trained(name, shipped, with_named_inputs(shipped), asked, run_file(shipped, inputs_of(asked)))


def session(model: bytes) -> Answers:
    """Load a model with the options of the device."""
    import onnxruntime as ort  # once Covey's packages have told it to report to nobody

    options = ort.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    return ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])


def run_file(model: bytes, inputs: np.ndarray) -> np.ndarray:
    """Answer rows one at a time with plain ONNX Runtime."""
    run = session(model).run
    return np.concatenate([run(["probabilities"], {"inputs": inputs[i : i + 1]})[0] for i in range(len(inputs))])


def with_named_inputs(shipped: bytes) -> bytes:
    """Put an input for each raw feature before the same model, as skl2onnx writes a pipeline with a one-hot step."""
    model = load_onnx(shipped)
    floats = [feature.name for feature in FEATURES.feature if isinstance(feature, Numeric)]
    words = helper.make_node(
        "OneHotEncoder", ["carrier"], ["onehot"], domain="ai.onnx.ml", cats_strings=[*CARRIERS, "\0other"], zeros=1
    )
    flat = helper.make_node("Flatten", ["onehot"], ["flat"], axis=1)
    joined = helper.make_node("Concat", [*floats, "flat"], ["all"], axis=1)
    graph = helper.make_graph(
        [words, flat, joined],
        "named",
        [
            *(helper.make_tensor_value_info(name, TensorProto.FLOAT, [None, 1]) for name in floats),
            helper.make_tensor_value_info("carrier", TensorProto.STRING, [None, 1]),
        ],
        [helper.make_tensor_value_info("all", TensorProto.FLOAT, [None, FEATURES.width])],
    )
    before = helper.make_model(graph, opset_imports=list(model.opset_import), ir_version=model.ir_version)
    merged = compose.merge_models(before, model, io_map=[("all", "inputs")])
    data: bytes = merged.SerializeToString()
    return data


def named_feed(row: Row) -> dict[str, np.ndarray]:
    """Inputs of the model with named inputs."""
    return {name: np.array([[value]], object if isinstance(value, str) else np.float32) for name, value in row.items()}


# ---- a device


def table_of(trained: Trained, n_keys: int, n_known: int) -> bytes:
    """Precompute: the first rows that are asked, and other keys up to a number."""
    encoder, rng = Encoder(FEATURES), np.random.default_rng(5)
    known = [encoder.key(encoder.encode(row)) for row in trained.rows[:n_known]]
    entries = dict(zip(known, trained.answers[:n_known].tolist(), strict=True))
    raw = rng.bytes(16 * n_keys)
    for i in range(n_keys - len(entries)):
        entries[raw[16 * i : 16 * i + 16]] = [0.5, 0.5]
    sha256 = bundle.digest_of(trained.shipped)
    return precomputed.build(entries, n_outputs=2, features_sha256=FEATURES.digest, model_sha256=sha256)


class Sealed(typing.NamedTuple):
    """A bundle."""

    manifest: Manifest
    files: dict[str, bytes]


def sealed(trained: Trained, version: str, table: bytes | None, **changes: Answers) -> Sealed:
    """Make the bundle of a model."""
    golden = Golden(rows=tuple(trained.rows[:8]), outputs=tuple(map(tuple, trained.answers[:8].tolist())))
    files = {
        bundle.MODEL_FILE: trained.shipped,
        bundle.FEATURES_FILE: codec.to_json(FEATURES),
        bundle.GOLDEN_FILE: codec.to_json(golden),
        bundle.CARD_FILE: b"{}",
    } | ({bundle.TABLE_FILE: table} if table else {})
    fields: dict[str, Answers] = {
        "model": MODEL,
        "version": version,
        "task": "binary",
        "metric": "log_loss",
        "classes": (0, 1),
        "n_outputs": 2,
        "features_sha256": FEATURES.digest,
        "lineage": bundle.Lineage(kind="stateless"),
        "files": tuple(
            bundle.File(name=name, sha256=bundle.digest_of(data), length=len(data)) for name, data in files.items()
        ),
    }
    return Sealed(Manifest(**fields | changes), files)


def make_store(folder: pathlib.Path, incumbent: Sealed, shadow: Sealed | None = None, settings: str = "") -> Layout:
    """Write what a device has that has joined and is in sync; the shadow is the candidate of an experiment."""
    layout = Layout(folder)
    layout.keys.mkdir(parents=True, mode=0o700)
    write_atomic(layout.device_key, key_bytes(new_key()), 0o600)
    write_atomic(layout.id_key, os.urandom(32), 0o600)
    write_atomic(layout.root, b"{}")
    write_atomic(
        layout.identity, codec.to_json(Identity(device=DEVICE, region="bench", cloud_url="http://127.0.0.1:9"))
    )
    generations = Generations(layout.generations, layout.current, BlobStore(layout.blobs))
    if settings:
        write_atomic(layout.settings, settings.encode())
    manifests = {}
    for manifest, files in filter(None, (incumbent, shadow)):
        manifests[manifest.version] = manifest.to_bytes()
        for file in manifest.files:
            generations.blobs.put([files[file.name]], file.sha256, file.length)
    entry = GenerationModel(
        model=MODEL,
        incumbent=incumbent.manifest.version,
        incumbent_sha256=bundle.digest_of(manifests[incumbent.manifest.version]),
        candidate=shadow.manifest.version if shadow else "",
        candidate_sha256=bundle.digest_of(manifests[shadow.manifest.version]) if shadow else "",
        experiment=Experiment(mode="shadow", epoch=1, salt="salt-of-the-bench") if shadow else None,
    )
    made = Generation(region="bench", models=(entry,), probation_s=1.0)
    digest = generations.write(made, {bundle.digest_of(data): data for data in manifests.values()})
    generations.switch(digest)
    state = State(layout.state_db)
    state.mark(digest, "good")
    state.close()
    return layout


# An installed program is compiled; one in a working tree may be told to leave no compiled files there.
COMPILED = {
    "PYTHONDONTWRITEBYTECODE": "",
    "PYTHONPYCACHEPREFIX": str(pathlib.Path(tempfile.gettempdir()) / "covey-bench"),
}


class Process(typing.NamedTuple):
    """A running server."""

    pids: tuple[int, ...]
    port: int


@contextlib.contextmanager
def agent(layout: Layout, **environment: str) -> collections.abc.Iterator[Process]:
    """Run ``covey-edge run`` on a store."""
    # What the installed program does; python -m looks for modules first.
    program = "import sys; from edge_agent.cli import main; sys.exit(main())"
    command = ["-c", program, "--store", str(layout.store), "run", "--port", "0", "--no-sync"]
    with started(command, **environment) as process:
        yield process


@contextlib.contextmanager
def started(arguments: list[str], **environment: str) -> collections.abc.Iterator[Process]:
    """Run a Python program that prints its address, until it is left."""
    command = [sys.executable, *arguments]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, env=os.environ | COMPILED | environment
    ) as process:
        try:
            if not process.stdout:
                raise AssertionError
            yield Process((process.pid,), int(process.stdout.readline().rsplit(":", 1)[1]))
        finally:
            process.terminate()


def cpu_s(pid: int) -> float:
    """Seconds of CPU that a process has used, all threads, from its own clock."""
    return time.clock_gettime((~pid << 3) | 2)


def memory_kib(pid: int) -> int:
    """Resident memory."""
    text = pathlib.Path(f"/proc/{pid}/status").read_text()
    return int(text.split("VmRSS:")[1].split()[0])
