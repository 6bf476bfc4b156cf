"""What bench_predict.py times: plain runs, a client that checks every answer, answers in process, look-ups."""

from __future__ import annotations

import json
import pathlib
import socket
import time
import typing

import numpy as np
import predict_world as world

from edge_agent import Predictor
from edge_agent.predict.loaded import LoadedBundle
from shared.features import Encoder
from shared.precomputed import PrecomputedTable

TOLERANCE = 1e-5
_END = b"\r\n\r\n"
_SILENCE_S = 1.0
Times = list[float]


class Slice(typing.NamedTuple):
    """Times of some calls, and the CPU that their server took, in seconds."""

    times: Times
    cpu_s: float = 0.0


Case = typing.Callable[[int], Slice]


def timed(call: typing.Callable[[typing.Any], object], arguments: typing.Sequence[typing.Any]) -> Case:
    """Time a call on one argument after the other."""

    def case(n: int) -> Slice:
        clock, times = time.perf_counter, []
        cpu = time.process_time()
        for i in range(n):
            one = arguments[i % len(arguments)]
            start = clock()
            call(one)
            times.append(clock() - start)
        return Slice(times, time.process_time() - cpu)

    return case


def plain_runs(trained: world.Trained) -> dict[str, Case]:
    """Return the runs that everything is compared with: all outputs, as one writes it down."""
    named, shipped = world.session(trained.named), world.session(trained.shipped)
    inputs = world.inputs_of(trained.rows)
    feeds = [{"inputs": inputs[i : i + 1]} for i in range(len(inputs))]
    named_feeds = [world.named_feed(row) for row in trained.rows]
    for feed, answer in zip(named_feeds, trained.answers, strict=True):
        if np.abs(named.run(["probabilities"], feed)[0] - answer).max() > TOLERANCE:
            raise AssertionError("the model with named inputs is another one")
    return {
        "run, named inputs": timed(lambda feed: named.run(None, feed), named_feeds),
        "run, as shipped": timed(lambda feed: shipped.run(None, feed), feeds),
    }


# ---- over HTTP


class Client:
    """One connection with requests that are ready to be sent, on a server that is asked for JSON.

    Parameters
    ----------
    port, pid : int
        Where, and whose CPU is counted.
    path : str
        Route.
    bodies : list of bytes
        Requests, in the order of the answers.
    read : callable
        Takes a reply's JSON; returns the probability of the second class, and a text that must be new each time.
    """

    def __init__(
        self,
        process: world.Process,
        path: str,
        bodies: list[bytes],
        answers: np.ndarray,
        read: typing.Callable[[typing.Any], tuple[float, str]],
    ) -> None:
        self._pids, self._read, self._answers = process.pids, read, answers[:, 1].tolist()
        head = f"POST {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\nAccept: */*\r\n"
        self._requests = [f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body for body in bodies]
        self._address = "127.0.0.1", process.port
        self._line = self._connect()
        self._seen: set[str] = set()
        self._at = 0
        self._last_s = time.monotonic()

    def _connect(self) -> socket.socket:
        line = socket.create_connection(self._address)
        line.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return line

    def __call__(self, n: int) -> Slice:
        """Send n requests, one after the other; check all answers afterwards."""
        if time.monotonic() > self._last_s + _SILENCE_S:  # some hang up on who is silent
            self._line.close()
            self._line = self._connect()
        clock, times, said = time.perf_counter, [], []
        send, receive, requests = self._line.sendall, self._line.recv, self._requests
        lengths: dict[bytes, int] = {}  # of whole replies, by their heads: a cheap look, since the client is timed too
        cpu = sum(map(world.cpu_s, self._pids))
        for i in range(self._at, self._at + n):
            request = requests[i % len(requests)]
            start = clock()
            send(request)
            data = receive(65536)
            while lengths.get(data[: data.find(_END)]) != len(data):
                if not _note_length(data, lengths):
                    data += receive(65536) or _gone()
            times.append(clock() - start)
            said.append(data)
        cpu = sum(map(world.cpu_s, self._pids)) - cpu
        for i, data in enumerate(said, self._at):
            self._check(data, i % len(requests))
        self._at += n
        self._last_s = time.monotonic()
        return Slice(times, cpu)

    def _check(self, data: bytes, i: int) -> None:
        status, _, body = data.partition(b"\r\n\r\n")
        if not status.startswith(b"HTTP/1.1 200"):
            raise AssertionError(data[:500])
        score, unique = self._read(json.loads(body))
        if abs(score - self._answers[i]) > TOLERANCE or (unique and unique in self._seen):
            raise AssertionError(data[:500])
        self._seen.add(unique)

    def forget(self) -> None:
        """Forget the ids that were seen; there may be millions."""
        self._seen.clear()

    def close(self) -> None:
        """Hang up."""
        self._line.close()


def _gone() -> bytes:
    raise ConnectionResetError("the server has hung up")


def _note_length(data: bytes, lengths: dict[bytes, int]) -> bool:
    """Note how long a reply with such a head is; return whether that is what there is."""
    end = data.find(_END)
    if end < 0:
        return False
    at = data.lower().find(b"content-length:", 0, end)
    if at < 0:
        raise AssertionError(data[:500])
    lengths[data[:end]] = end + len(_END) + int(data[at + 15 : data.find(b"\r", at)])
    return lengths[data[:end]] == len(data)


def read_covey(reply: typing.Any) -> tuple[float, str]:  # noqa: ANN401 - JSON
    """Read an answer of ``/v1/predict``."""
    if reply["parameters"]["arm"] != "incumbent":
        raise AssertionError(reply)
    return reply["probabilities"][1], reply["parameters"]["prediction_id"]


def covey_client(process: world.Process, trained: world.Trained) -> Client:
    """Ask an agent for one row at a time."""
    bodies = [json.dumps({"features": row}).encode() for row in trained.rows]
    return Client(process, "/v1/predict", bodies, trained.answers, read_covey)


def hello_client(process: world.Process) -> Client:
    """Ask a server that says the same to everybody."""
    return Client(process, "/", [b"{}"], np.array([[0.5, 0.5]]), read_covey)


# ---- in process


def opened(folder: pathlib.Path, made: world.Sealed) -> LoadedBundle:
    """Open a bundle by itself."""
    folder.mkdir(parents=True)
    for name, data in made.files.items():
        (folder / name).write_bytes(data)
    loaded = LoadedBundle(folder, made.manifest)
    loaded.load_model()
    return loaded


def encode_and_run(loaded: LoadedBundle, trained: world.Trained) -> Case:
    """Answer rows from the model, and nothing else."""
    for row, answer in zip(trained.rows, trained.answers, strict=True):
        if abs(loaded.answer(row)[0][1] - answer[1]) > TOLERANCE:
            raise AssertionError(row)
    return timed(loaded.answer, trained.rows)


def predictor_case(predictor: Predictor, trained: world.Trained) -> Case:
    """Answer rows as an application does."""
    seen = {predictor.predict(row).prediction_id for row in trained.rows}
    for row, answer in zip(trained.rows, trained.answers, strict=True):
        made = predictor.predict(row)
        if abs(made.value - answer[1]) > TOLERANCE or made.source != "onnx" or made.prediction_id in seen:
            raise AssertionError(row)
    return timed(predictor.predict, trained.rows)


# ---- look-ups


def look_ups(trained: world.Trained, sizes: typing.Sequence[int]) -> dict[str, Case]:
    """Hits in tables of several sizes: codes to key, find, decode; and the same from the raw row."""
    encoder = Encoder(world.FEATURES)
    coded = [encoder.encode(row) for row in trained.rows]
    cases: dict[str, Case] = {}
    for n in sizes:
        table = PrecomputedTable(world.table_of(trained, n, len(trained.rows)))
        get, key = table.get, encoder.key
        for one, answer in zip(coded, trained.answers, strict=True):
            if get(key(one)) != tuple(answer.tolist()):
                raise AssertionError(one)

        def hit(one: tuple[float, ...], get: typing.Any = get, key: typing.Any = key) -> object:  # noqa: ANN401
            return get(key(one))

        def whole(row: typing.Any, get: typing.Any = get, key: typing.Any = key) -> object:  # noqa: ANN401
            return get(key(encoder.code(row)))

        cases[f"hit, {n:,} keys"] = timed(hit, coded)
        cases[f"hit from the row, {n:,} keys"] = timed(whole, trained.rows)
    return cases
