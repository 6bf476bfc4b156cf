"""What the device's tests are built from: a clock, bundles, a signed repository in memory, a store on disk, a server.

Nothing here imitates Covey: bundles hold real ONNX models, the repository is signed by python-tuf, the store is what a
device has after it joined. Tests import it as ``from tests import fakes``, which importlib mode resolves from the root.
"""

from __future__ import annotations

import asyncio
import contextlib
import datetime as dt
import functools
import http.client
import json
import math
import pathlib
import threading
import time
import typing
import urllib.parse

import msgspec
import numpy as np
from onnx import TensorProto, helper, numpy_helper
from securesystemslib.signer import CryptoSigner
from tuf.api.metadata import (
    DelegatedRole,
    Delegations,
    Metadata,
    MetaFile,
    Root,
    Snapshot,
    TargetFile,
    Targets,
    Timestamp,
)

from edge_agent.agent import Agent
from edge_agent.config import Identity, Layout, ServeSettings, Settings, SpoolSettings
from edge_agent.files import BlobStore, write_atomic
from edge_agent.generation import Generation, GenerationModel, Generations
from edge_agent.predict.engine import ActiveModel, Engine
from edge_agent.predict.loaded import LoadedBundle
from edge_agent.predict.meters import Meters
from edge_agent.predict.routes import Api, EventClock
from edge_agent.predict.server import HttpServer, Limits
from edge_agent.records import AnyRecord
from edge_agent.update.state import GenerationState, State
from shared import bundle, codec, precomputed
from shared.bundle import Golden, Manifest
from shared.channel import BundleRef, Channel, Experiment, Guard, Mode, ModelChannel
from shared.errors import NotFoundError
from shared.features import Bucketed, Categorical, Encoder, FeatureSet, Numeric

T = typing.TypeVar("T")
MODEL, DEVICE, REGION = "late", "till-1", "north"
SALT = "salt-of-a-rollout"
URL = "http://cloud.test/repo"
ID_KEY = bytes(range(32))
NOW_S = 1_700_000_000.0
FEATURES = FeatureSet(
    name="late",
    feature=(
        Numeric(name="x", min=-10.0, max=10.0),
        Categorical(name="colour", categories=("red", "green"), missing="category"),
        Bucketed(name="size", cuts=(1.0, 2.0), missing="bucket"),
    ),
    keep=("note",),
)
ROWS: tuple[dict[str, str | float | bool | None], ...] = (
    {"x": 0.5, "colour": "red", "size": 1},
    {"x": -3, "colour": "mauve", "size": None},
    {"x": 2.25, "colour": None, "size": 7},
)


class Clock:
    """A clock that stands still until it is moved."""

    def __init__(self, now_s: float = NOW_S) -> None:
        self.now_s = now_s

    def __call__(self) -> float:
        return self.now_s


# ---- bundles


class Bundle(typing.NamedTuple):
    """A manifest, its bytes, and the files it names."""

    manifest: Manifest
    data: bytes
    files: dict[str, bytes]

    @property
    def sha256(self) -> str:
        return bundle.digest_of(self.data)


Fault = typing.Literal["", "nan", "fails", "garbage", "wrong", "endless", "hungry", "slow", "slow at times"]
SLOW_ROUNDS = 20_000  # some twenty milliseconds


def weights(slope: float, n: int, width: int) -> np.ndarray:
    """Weights of `n` linear scores: of x the slope, of everything else small different numbers."""
    table = np.linspace(-0.5, 0.5, width * n).reshape(width, n)
    table[0] = slope * np.arange(1, n + 1) / n
    return table.astype(np.float32)


@functools.cache
def onnx_model(task: str, slope: float, n_outputs: int, width: int, fault: Fault) -> bytes:
    """Build a linear model; ``nan``, ``fails`` and ``slow at times`` strike where x > 5, the other faults always."""
    if fault == "garbage":
        return b"\x08\x0anot a model"
    n = 1 if task in ("binary", "regression") else n_outputs
    constants = {"w": weights(slope, n, width), "one": np.ones((1, 1), np.float32), "five": np.full(1, 5, np.float32)}
    nodes = [helper.make_node("MatMul", ["inputs", "w"], ["z"])]
    score = "z"
    if fault:
        nodes += _faulty(fault, constants)
        score = "broken"
    if task == "binary":
        nodes += [
            helper.make_node("Sigmoid", [score], ["p"]),
            helper.make_node("Sub", ["one", "p"], ["q"]),
            helper.make_node("Concat", ["q", "p"], ["probabilities"], axis=1),
        ]
    elif task == "multiclass":
        nodes.append(helper.make_node("Softmax", [score], ["probabilities"], axis=1))
    else:
        nodes.append(helper.make_node("Identity", [score], ["value"]))
    out = "value" if task == "regression" else "probabilities"
    graph = helper.make_graph(
        nodes,
        "linear",
        [helper.make_tensor_value_info("inputs", TensorProto.FLOAT, [None, width])],
        [helper.make_tensor_value_info(out, TensorProto.FLOAT, [None, n_outputs])],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    return bytes(model.SerializeToString(deterministic=True))


def _faulty(fault: Fault, constants: dict[str, np.ndarray]) -> list[typing.Any]:
    """Nodes that turn the score z into one that does what the fault says."""
    constants["first"] = np.zeros(1, np.int64)
    nodes = [
        helper.make_node("Gather", ["inputs", "first"], ["x"], axis=1),
        helper.make_node("Greater", ["x", "five"], ["large"]),
    ]
    if fault == "fails":
        nodes += [
            helper.make_node("Cast", ["large"], ["row"], to=TensorProto.INT64),
            helper.make_node("Mul", ["row", "far"], ["index"]),
            helper.make_node("Gather", ["five", "index"], ["picked"], axis=0),
            helper.make_node("Mul", ["picked", "none"], ["nought"]),
        ]
        constants |= {"far": np.full((1, 1), 99, np.int64), "none": np.zeros(1, np.float32)}
    elif fault in ("endless", "slow", "slow at times"):
        step = helper.make_graph(
            [helper.make_node("Identity", ["go"], ["go_on"]), helper.make_node("Identity", ["seen"], ["next"])],
            "step",
            [
                helper.make_tensor_value_info("i", TensorProto.INT64, []),
                helper.make_tensor_value_info("go", TensorProto.BOOL, []),
                helper.make_tensor_value_info("seen", TensorProto.FLOAT, None),
            ],
            [
                helper.make_tensor_value_info("go_on", TensorProto.BOOL, []),
                helper.make_tensor_value_info("next", TensorProto.FLOAT, None),
            ],
        )
        nodes.append(helper.make_node("Loop", ["rounds", "yes", "z"], ["again"], body=step))
        nodes.append(helper.make_node("Sub", ["again", "z"], ["nought"]))
        constants |= {"yes": np.ones((), bool)}
        if fault == "slow at times":
            nodes[-2:-2] = [
                helper.make_node("Squeeze", ["large"], ["is_large"]),
                helper.make_node("Where", ["is_large", "many", "none_at_all"], ["rounds"]),
            ]
            constants |= {"many": np.array(SLOW_ROUNDS), "none_at_all": np.array(0)}
        else:
            constants["rounds"] = np.array(SLOW_ROUNDS if fault == "slow" else 1 << 60)
    elif fault == "hungry":
        nodes += [
            helper.make_node("Cast", ["large"], ["some"], to=TensorProto.INT64),
            helper.make_node("Add", ["some", "huge"], ["shape"]),
            helper.make_node("Squeeze", ["shape"], ["flat"]),
            helper.make_node("Unsqueeze", ["flat", "first"], ["line"]),
            helper.make_node("ConstantOfShape", ["line"], ["much"]),
            helper.make_node("ReduceSum", ["much"], ["nought"], keepdims=0),
        ]
        constants["huge"] = np.array([[1 << 34]])
    else:
        nodes += [helper.make_node("Where", ["large", "bad", "none"], ["nought"])]
        bad = math.nan if fault == "nan" else 1.0
        constants |= {"bad": np.full(1, bad, np.float32), "none": np.zeros(1, np.float32)}
    nodes.append(helper.make_node("Add", ["z", "nought"], ["broken"]))
    return nodes


def expected(row: typing.Mapping[str, object], *, task: str, slope: float, n_outputs: int) -> tuple[float, ...]:
    """Answer of `onnx_model`, worked out with numpy from the definition of the features."""
    encoder = Encoder(FEATURES)
    inputs = np.array(encoder.vector(encoder.encode(row)), np.float64)
    z = inputs @ weights(slope, 1 if task in ("binary", "regression") else n_outputs, FEATURES.width).astype(np.float64)
    if task == "regression":
        return (float(z[0]),)
    if task == "binary":
        p = 1 / (1 + math.exp(-z[0]))
        return (1 - p, p)
    powers = np.exp(z - z.max())
    return tuple(float(p) for p in powers / powers.sum())


_TASKS: dict[str, tuple[str, int, tuple[str | int, ...]]] = {
    "binary": ("log_loss", 2, (0, 1)),
    "multiclass": ("log_loss", 3, ("bus", "tram", "walk")),
    "regression": ("squared_error", 1, ()),
}


def make_bundle(
    version: str = "v1",
    *,
    model: str = MODEL,
    task: typing.Any = "binary",
    slope: float = 1.0,
    fault: Fault = "",
    table: typing.Mapping[int, typing.Sequence[float]] | None = None,
    with_model: bool = True,
    **changes: typing.Any,
) -> Bundle:
    """Build a bundle with golden rows `ROWS`.

    Parameters
    ----------
    slope : float
        Tells models apart.
    fault : str
        See `onnx_model`; ``wrong`` spoils the golden outputs instead.
    table : mapping, optional
        Index into `ROWS` to the precomputed answer.
    with_model : bool
        Whether there is a model file.
    changes : object
        Fields of the manifest.
    """
    metric, n_outputs, classes = _TASKS[task]
    encoder = Encoder(FEATURES)
    keys = [encoder.key(encoder.encode(row)) for row in ROWS]
    golden = [expected(row, task=task, slope=slope, n_outputs=n_outputs) for row in ROWS]
    if changes.get("answer_order") == "precomputed_only":
        golden = [tuple((table or {}).get(i, answer)) for i, answer in enumerate(golden)]
    if fault == "wrong":
        golden[1] = tuple(number + 0.01 for number in golden[1])
    files = {
        bundle.FEATURES_FILE: codec.to_json(FEATURES),
        bundle.GOLDEN_FILE: codec.to_json(Golden(rows=ROWS, outputs=tuple(golden))),
        bundle.CARD_FILE: b"{}",
    }
    onnx = b""
    if with_model:
        onnx = files[bundle.MODEL_FILE] = onnx_model(
            task, slope, n_outputs, FEATURES.width, "" if fault == "wrong" else fault
        )
    if table is not None:
        files[bundle.TABLE_FILE] = precomputed.build(
            {keys[i]: answer for i, answer in table.items()},
            n_outputs=n_outputs,
            features_sha256=FEATURES.digest,
            model_sha256=bundle.digest_of(onnx),
        )
    return seal(
        Manifest(
            model=model,
            version=version,
            task=task,
            metric=metric,
            classes=classes,
            n_outputs=n_outputs,
            features_sha256=FEATURES.digest,
            files=(),
            lineage=bundle.Lineage(kind="stateless"),
        ),
        files,
        **changes,
    )


def seal(manifest: Manifest, files: dict[str, bytes], **changes: typing.Any) -> Bundle:
    """Put hashes of the files into a manifest."""
    listed = tuple(
        bundle.File(name=name, sha256=bundle.digest_of(data), length=len(data)) for name, data in sorted(files.items())
    )
    made = msgspec.structs.replace(manifest, files=listed, **changes)
    return Bundle(made, made.to_bytes(), files)


# ---- a device's store, and what serves from it


def join(store: pathlib.Path, *, cloud_url: str = "http://127.0.0.1:9", root: bytes = b"{}") -> Layout:
    """Make the store of a device that has joined."""
    from edge_agent.device_key import key_bytes, new_key

    layout = Layout(store)
    layout.keys.mkdir(parents=True, mode=0o700)
    write_atomic(layout.device_key, key_bytes(new_key()), 0o600)
    write_atomic(layout.id_key, ID_KEY, 0o600)
    write_atomic(layout.root, root)
    write_atomic(layout.identity, codec.to_json(Identity(device=DEVICE, region=REGION, cloud_url=cloud_url)))
    return layout


def generations_of(layout: Layout) -> Generations:
    """Open the generations of a store."""
    return Generations(layout.generations, layout.current, BlobStore(layout.blobs))


def trial(mode: Mode = "canary", **changes: typing.Any) -> Experiment:
    """An experiment with half of the requests, unless said otherwise."""
    fields = {"mode": mode, "epoch": 7, "salt": SALT, "request_share_bp": 0 if mode == "shadow" else 5000}
    return Experiment(**fields | changes)


def entry_of(
    incumbent: Bundle,
    candidate: Bundle | None = None,
    experiment: Experiment | None = None,
    *,
    also: typing.Sequence[Bundle] = (),
    guard: Guard | None = None,
) -> GenerationModel:
    """What a generation says of one model."""
    return GenerationModel(
        model=incumbent.manifest.model,
        incumbent=incumbent.manifest.version,
        incumbent_sha256=incumbent.sha256,
        candidate=candidate.manifest.version if candidate else "",
        candidate_sha256=candidate.sha256 if candidate else "",
        also=tuple((one.manifest.version, one.sha256) for one in also),
        experiment=experiment,
        guard=guard or Guard(),
    )


def install(
    layout: Layout,
    incumbent: Bundle,
    candidate: Bundle | None = None,
    experiment: Experiment | None = None,
    *,
    also: typing.Sequence[Bundle] = (),
    state: GenerationState | None = "good",
    guard: Guard | None = None,
    **changes: typing.Any,
) -> str:
    """Put a generation on disk and point ``current`` at it, as an update does; return its digest."""
    generations = generations_of(layout)
    bundles = [one for one in (incumbent, candidate, *also) if one]
    for one in bundles:
        for file in one.manifest.files:
            generations.blobs.put([one.files[file.name]], file.sha256, file.length)
    entry = entry_of(incumbent, candidate, experiment, also=also, guard=guard)
    fields: dict[str, typing.Any] = {"region": REGION, "probation_s": 600.0, "models": (entry,)}
    digest = generations.write(Generation(**fields | changes), {one.sha256: one.data for one in bundles})
    generations.switch(digest)
    database = State(layout.state_db)
    if state == "trial":
        database.add_trial(digest)
    elif state:
        database.mark(digest, state)
    database.close()
    return digest


def unpack(folder: pathlib.Path, made: Bundle, *, load: bool = True) -> LoadedBundle:
    """Write a bundle's files to a folder and open it."""
    folder.mkdir(parents=True)
    for name, data in made.files.items():
        (folder / name).write_bytes(data)
    opened = LoadedBundle(folder, made.manifest)
    if load:
        opened.load_model()
    return opened


class Served(typing.NamedTuple):
    """An engine with one model, what it records, its clock and its routes."""

    engine: Engine
    records: list[AnyRecord]
    clock: EventClock
    api: Api


def serve(
    folder: pathlib.Path,
    incumbent: Bundle,
    candidate: Bundle | None = None,
    experiment: Experiment | None = None,
    *,
    also: typing.Sequence[Bundle] = (),
    load: bool = True,
    replay: bool = False,
    wall: typing.Callable[[], float] | None = None,
) -> Served:
    """Load bundles into an engine that keeps its records in a list."""
    entry = entry_of(incumbent, candidate, experiment, also=also)
    opened = {
        one.manifest.version: unpack(folder / one.manifest.version, one, load=load)
        for one in (incumbent, candidate, *also)
        if one
    }
    records: list[AnyRecord] = []
    meters = Meters()

    def record(one: AnyRecord) -> None:
        records.append(one)
        meters.take(one)

    engine = Engine(DEVICE, ID_KEY, record)
    generation = Generation(region=REGION, models=(entry,), probation_s=1.0, replay=replay)
    engine.activate(generation, {entry.model: ActiveModel(entry, opened, DEVICE)})
    clock = EventClock(wall or Clock())
    clock.replay = replay
    return Served(engine, records, clock, Api(engine, clock, lambda: {"device": DEVICE}, meters=meters))


@contextlib.contextmanager
def listening(api: Api, **limits: typing.Any) -> typing.Iterator[tuple[str, int]]:
    """Serve routes on a loopback socket, on an event loop in a thread; yield (host, port)."""
    settings = {"max_body_bytes": 100_000, "max_connections": 100, "idle_timeout_s": 20.0} | limits
    with running(api, **settings) as (loop, server):
        listener = on_loop(loop, loop.create_server(server.new_connection, "127.0.0.1", backlog=1024))
        try:
            yield listener.sockets[0].getsockname()
        finally:
            loop.call_soon_threadsafe(listener.close)


def on_loop(loop: asyncio.AbstractEventLoop, what: typing.Coroutine[typing.Any, typing.Any, T]) -> T:
    """Have something done on a loop that runs in another thread."""
    return asyncio.run_coroutine_threadsafe(what, loop).result(60)


_new_loop: list[typing.Callable[[], asyncio.AbstractEventLoop]] = [asyncio.new_event_loop]


@contextlib.contextmanager
def using_loop(name: str) -> typing.Iterator[None]:
    """Have servers run on asyncio's own loop, or on uvloop's."""
    import uvloop

    _new_loop.append({"asyncio": asyncio.new_event_loop, "uvloop": uvloop.new_event_loop}[name])
    yield
    _new_loop.pop()


@contextlib.contextmanager
def running(api: Api, **limits: typing.Any) -> typing.Iterator[tuple[asyncio.AbstractEventLoop, HttpServer]]:
    """Run an event loop in a thread, with a server that listens nowhere yet."""
    loop = _new_loop[-1]()
    faults: list[object] = []
    loop.set_exception_handler(lambda _loop, context: faults.append(context.get("exception") or context))
    server = HttpServer(api, Limits(**limits))
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    try:
        yield loop, server
    finally:
        on_loop(loop, server.stop(grace_s=0.0, patience_s=0.5))
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()
    assert faults == [], faults


# ---- the signed repository

_ROLES = ("root", "targets", "bundles", "channels", "snapshot", "timestamp")


class SignedRepository:
    """A TUF repository in memory, laid out as devices expect it.

    `files` holds what is served, by path below the repository's address; tests change it to attack. `fetched` lists
    what was asked for. `stream` is what a device's line would be.
    """

    def __init__(self) -> None:
        self.signers = {role: CryptoSigner.generate_ed25519() for role in _ROLES}
        self.files: dict[str, bytes | typing.Iterable[bytes]] = {}
        self.fetched: list[str] = []
        self.expires = dt.datetime.now(dt.UTC).replace(microsecond=0) + dt.timedelta(days=1)
        root = Root(expires=self.expires, consistent_snapshot=True)
        for role in ("root", "targets", "snapshot", "timestamp"):
            root.add_key(self.signers[role].public_key, role)
        targets = Targets(expires=self.expires)
        targets.delegations = Delegations(
            keys={},
            roles={
                role: DelegatedRole(role, [], threshold=1, terminating=True, paths=[pattern])
                for role, pattern in (("bundles", "bundles/*/*/*.json"), ("channels", "channels/*.json"))
            },
        )
        for role in ("bundles", "channels"):
            targets.add_key(self.signers[role].public_key, role)
        names = ("targets.json", "bundles.json", "channels.json")
        self.signed: dict[str, typing.Any] = {
            "root": root,
            "targets": targets,
            "bundles": Targets(expires=self.expires),
            "channels": Targets(expires=self.expires),
            "snapshot": Snapshot(expires=self.expires, meta={name: MetaFile(1) for name in names}),
            "timestamp": Timestamp(expires=self.expires, snapshot_meta=MetaFile(1)),
        }
        for role in _ROLES:
            self.write(role)

    @property
    def root(self) -> bytes:
        """The first root metadata."""
        return typing.cast("bytes", self.files["metadata/1.root.json"])

    def path(self, role: str) -> str:
        """Where the newest metadata of a role is served."""
        return f"metadata/{'' if role == 'timestamp' else f'{self.signed[role].version}.'}{role}.json"

    def write(self, role: str, *, signed_by: str = "") -> None:
        """Sign a role's metadata and serve it."""
        meta = Metadata(self.signed[role])
        meta.sign(self.signers[signed_by or role])
        self.files[self.path(role)] = meta.to_bytes()

    def bump(self, role: str) -> None:
        """Serve the next version of a role, and of the roles that vouch for it."""
        self.signed[role].version += 1
        self.write(role)
        if role in ("targets", "bundles", "channels"):
            self.signed["snapshot"].meta[f"{role}.json"] = MetaFile(self.signed[role].version)
            self.bump("snapshot")
        elif role == "snapshot":
            self.signed["timestamp"].snapshot_meta = MetaFile(self.signed["snapshot"].version)
            self.bump("timestamp")

    def publish(self, role: str, path: str, data: bytes) -> None:
        """Sign a target."""
        info = TargetFile.from_data(path, data, ["sha256"])
        self.signed[role].targets[path] = info
        self.files[self.target(path)] = data
        self.bump(role)

    def target(self, path: str) -> str:
        """Where a target is served."""
        role = path.split("/", maxsplit=1)[0]
        folder, _, name = path.rpartition("/")
        return f"targets/{folder}/{self.signed[role].targets[path].hashes['sha256']}.{name}"

    def publish_bundle(self, made: Bundle) -> None:
        """Sign a bundle and serve its files."""
        for file in made.manifest.files:
            self.files[self.blob(file.sha256)] = made.files[file.name]
        self.publish("bundles", made.manifest.target_path, made.data)

    def blob(self, sha256: str) -> str:
        """Where a blob is served."""
        return f"blobs/{sha256[:2]}/{sha256}"

    def publish_channel(
        self,
        sequence: int,
        incumbent: str = "v1",
        candidate: str = "",
        experiment: Experiment | None = None,
        *,
        also: typing.Sequence[str] = (),
        pins: typing.Mapping[str, str] | None = None,
        **changes: typing.Any,
    ) -> Channel:
        """Sign a channel with one model."""
        entry = ModelChannel(
            model=MODEL,
            incumbent=BundleRef(version=incumbent),
            candidate=BundleRef(version=candidate) if candidate else None,
            also=tuple(BundleRef(version=version) for version in also),
            experiment=(experiment or trial()) if candidate else None,
            pins={device: BundleRef(version=version) for device, version in (pins or {}).items()},
        )
        fields = {"region": REGION, "sequence": sequence, "models": (entry,), "probation_s": 0.1}
        made = Channel(**fields | changes)
        self.publish("channels", made.target_path, made.to_bytes())
        return made

    def stream(self, url: str) -> typing.Iterator[bytes]:
        """Fetch a file, in pieces."""
        path = url.removeprefix(URL).lstrip("/")
        self.fetched.append(path)
        found = self.files.get(path)
        if found is None:
            raise NotFoundError(f"{url} is not there")
        if not isinstance(found, bytes):
            yield from found
            return
        for at in range(0, len(found), 1000):
            yield found[at : at + 1000]


# ---- a running agent


class _Loop(asyncio.SelectorEventLoop):
    """An event loop for a thread: signals belong to the main thread, which is the test's."""

    def add_signal_handler(self, *_args: object) -> None:
        """Leave signals alone."""


@contextlib.contextmanager
def running_agent(layout: Layout) -> typing.Iterator[Agent]:
    """Run the serving process' agent in a thread, without its sync child; yield it once it answers."""
    loop = _Loop()
    settings = Settings(serve=ServeSettings(port=0), spool=SpoolSettings(fold_interval_s=0.05))
    agent = Agent(layout, layout.load_identity(), settings)
    ready = threading.Event()
    faults: list[BaseException] = []

    def run() -> None:
        try:
            loop.run_until_complete(agent.run(lambda _: ready.set(), with_sync=False))
        except BaseException as err:  # noqa: BLE001 - told by the test's own thread
            faults.append(err)
        finally:
            loop.close()
            ready.set()

    thread = threading.Thread(target=run)
    thread.start()
    ready.wait()
    try:
        yield agent
    finally:
        with contextlib.suppress(RuntimeError):  # it has ended by itself
            loop.call_soon_threadsafe(agent._stop.set)
        thread.join()
    assert faults == [], faults


def post(address: str, path: str, body: object) -> tuple[int, dict[str, typing.Any]]:
    """Post JSON to an agent; return status and reply."""
    where = urllib.parse.urlsplit(address)
    connection = http.client.HTTPConnection(where.hostname or "", where.port, timeout=30)
    try:
        connection.request("POST", path, json.dumps(body))
        response = connection.getresponse()
        return response.status, json.loads(response.read())
    finally:
        connection.close()


def get_text(address: str, path: str) -> str:
    """Get something that is not JSON from an agent."""
    where = urllib.parse.urlsplit(address)
    connection = http.client.HTTPConnection(where.hostname or "", where.port, timeout=30)
    try:
        connection.request("GET", path)
        response = connection.getresponse()
        assert response.status == 200
        return response.read().decode()
    finally:
        connection.close()


def wait_for(is_so: typing.Callable[[], object], timeout_s: float = 20.0) -> None:
    """Wait until something is so."""
    deadline = time.monotonic() + timeout_s
    while not is_so():
        assert time.monotonic() < deadline, "it did not come to pass"
        time.sleep(0.005)
