"""Too much to do: who needs nothing slow waits for nobody, the rest is bounded, and what is turned away is told so."""

from __future__ import annotations

import asyncio
import contextlib
import pathlib
import socket
import struct
import threading
import typing

import pytest

from edge_agent.generation import Generation
from edge_agent.predict.engine import Engine
from edge_agent.records import Answered, Failed
from shared.bundle import TABLE_FILE
from tests import fakes
from tests.unit.edge_.test_http_answer_order import never_ends
from tests.unit.edge_.test_http_server import Address, assert_answers, parse, request

STORED = (0.875, 0.125)
KNOWN, UNKNOWN = dict(fakes.ROWS[0]), {"x": 1, "colour": "red", "size": 0}


@pytest.fixture(scope="module", params=["asyncio", "uvloop"], autouse=True)
def loop(request: pytest.FixtureRequest) -> typing.Iterator[None]:
    with fakes.using_loop(request.param):
        yield


def predict(row: object, *headers: str) -> bytes:
    return request("/v1/predict", {"features": row}, *headers)


class Line:
    """A client's connection."""

    def __init__(self, address: Address) -> None:
        self.socket = socket.create_connection(address, timeout=20)
        self._got = b""

    def __enter__(self) -> typing.Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.socket.close()

    def send(self, data: bytes) -> None:
        self.socket.sendall(data)

    def reply(self) -> tuple[int, typing.Any]:
        """Read one reply."""
        while b"\r\n\r\n" not in self._got:
            self._more()
        head, _, _ = self._got.partition(b"\r\n\r\n")
        end = len(head) + 4 + int(head.lower().partition(b"content-length: ")[2].split(b"\r\n")[0])
        while len(self._got) < end:
            self._more()
        (reply,) = parse(self._got[:end])
        self._got = self._got[end:]
        return reply.status, reply

    def _more(self) -> None:
        piece = self.socket.recv(1 << 16)
        assert piece, "hung up"
        self._got += piece

    def is_silent(self) -> bool:
        """Whether nothing has come."""
        self.socket.settimeout(0.1)
        try:
            return not self.socket.recv(1, socket.MSG_PEEK)
        except TimeoutError:
            return True
        finally:
            self.socket.settimeout(20)


@contextlib.contextmanager
def stuck(tmp_path: pathlib.Path, **limits: typing.Any) -> typing.Iterator[tuple[fakes.Served, Address]]:
    """Serve a model that never ends, with a table that knows one row."""
    made = fakes.make_bundle(fault="endless", table={0: STORED})
    served = fakes.serve(tmp_path, made, load=False)
    never_ends(served.engine.model(None).incumbent, made)
    assert TABLE_FILE in made.files
    with fakes.listening(served.api, **{"model_timeout_s": 100.0} | limits) as address:
        yield served, address


def test_what_the_table_knows_is_answered_while_every_model_thread_is_taken(tmp_path: pathlib.Path) -> None:
    with stuck(tmp_path, model_threads=1) as (_, address), Line(address) as one, Line(address) as two:
        one.send(predict(UNKNOWN))
        two.send(predict(UNKNOWN))
        with Line(address) as other:
            for _ in range(50):
                other.send(predict(KNOWN))
                assert other.reply()[1].body["parameters"]["source"] == "precomputed"
        assert one.is_silent()
        assert two.is_silent()


def test_a_run_that_never_began_is_no_fault_of_the_model(tmp_path: pathlib.Path) -> None:
    with stuck(tmp_path, model_threads=1, model_timeout_s=0.7) as (served, address), contextlib.ExitStack() as stack:
        lines = [stack.enter_context(Line(address)) for _ in range(3)]
        for line in lines:
            line.send(predict(UNKNOWN))
        replies = [line.reply()[1] for line in lines]
        kinds = [reply.body["type"].rpartition(":")[2] for reply in replies]
        assert set(kinds) == {"model", "busy"}
        assert {reply.status for reply in replies} == {503}
        ran = [reply for reply, kind in zip(replies, kinds, strict=True) if kind == "model"]
        assert all("no answer within 0.7 s" in reply.body["error"] for reply in ran)
        assert sum(isinstance(record, Failed) for record in served.records) == len(ran)


def gauge(address: Address, name: str) -> float:
    """Read a number of ``GET /metrics``."""
    text = fakes.get_text(f"http://{address[0]}:{address[1]}", "/metrics")
    return next(float(line.split()[-1]) for line in text.splitlines() if line.startswith(name))


def test_more_than_may_wait_are_told_to_come_back_and_nobody_else_notices(tmp_path: pathlib.Path) -> None:
    with stuck(tmp_path, max_waiting=3) as (_, address), contextlib.ExitStack() as stack:
        lines = [stack.enter_context(Line(address)) for _ in range(8)]
        for line in lines[:3]:
            line.send(predict(UNKNOWN))
            assert line.is_silent()
        for line in lines[3:]:
            line.send(predict(UNKNOWN))
            status, reply = line.reply()
            assert (status, reply.headers["retry-after"]) == (503, "1")
            assert reply.body["type"] == "urn:covey:error:busy"
            line.send(predict(KNOWN))
            assert line.reply()[0] == 200
        assert all(line.is_silent() for line in lines[:3])


def test_rows_that_wait_are_bounded_too(tmp_path: pathlib.Path) -> None:
    loading = fakes.serve(tmp_path, fakes.make_bundle(), load=False)
    many = request("/v1/predict", b'{"rows": [' + b",".join([b'{"x":1}'] * 10_000) + b"]}")
    with fakes.listening(loading.api, max_body_bytes=1 << 20) as address, contextlib.ExitStack() as stack:
        lines = [stack.enter_context(Line(address)) for _ in range(12)]
        for line in lines:
            line.send(many)
        fakes.wait_for(lambda: gauge(address, "covey_http_waiting") == 10)
        refused = [line for line in lines if not line.is_silent()]
        assert [line.reply()[0] for line in refused] == [503, 503]
        loading.engine.model(None).incumbent.load_model()
        assert [line.reply()[0] for line in lines if line not in refused] == [200] * 10


def test_who_goes_away_while_a_model_runs_frees_its_thread(tmp_path: pathlib.Path) -> None:
    with stuck(tmp_path, model_threads=1) as (_, address):
        lines = [Line(address) for _ in range(3)]
        for line in lines:
            line.send(predict(UNKNOWN))
            assert line.is_silent()
        for line in lines:
            line.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            line.socket.close()
        fakes.wait_for(lambda: gauge(address, "covey_http_waiting") == 0)


def test_a_request_of_many_rows_lets_others_have_their_turn(tmp_path: pathlib.Path) -> None:
    served = fakes.serve(tmp_path, fakes.make_bundle())
    turns = Turns(served.engine)
    with fakes.listening(served.api, max_body_bytes=4 << 20) as address, Line(address) as large, Line(address) as small:
        small.send(predict(UNKNOWN))
        assert small.reply()[0] == 200
        turns.watch()
        large.send(request("/v1/predict", {"rows": [UNKNOWN] * 10_000}))
        fakes.wait_for(lambda: turns.n > 0)
        small.send(predict(UNKNOWN | {"x": 9}))
        assert small.reply()[0] == 200
        status, reply = large.reply()
        assert (status, len(reply.body["predictions"])) == (200, 10_000)
    assert 0 < turns.seen < 10_000


class Turns:
    """Notes how many rows of the others were answered before the row with x = 9."""

    def __init__(self, engine: Engine) -> None:
        self._engine, self._predict = engine, engine.predict
        self.n, self.seen = 0, -1

    def watch(self) -> None:
        def predict(active: typing.Any, row: typing.Any, **more: typing.Any) -> typing.Any:
            self.n += 1
            if row["x"] == 9:
                self.seen = self.n
            return self._predict(active, row, **more)

        self._engine.predict = predict  # type: ignore[method-assign]


def test_while_all_threads_are_busy_a_slow_arm_is_not_scored_and_the_answers_go_on(tmp_path: pathlib.Path) -> None:
    shadow = fakes.make_bundle("v2", slope=2.0, fault="slow")
    served = fakes.serve(tmp_path, fakes.make_bundle(), shadow, fakes.trial("shadow"))
    with fakes.listening(served.api, model_threads=1) as address, Line(address) as line:
        line.send(predict(UNKNOWN) * 60)
        for _ in range(60):
            assert line.reply()[1].body["parameters"]["version"] == "v1"
        fakes.wait_for(lambda: len(served.records) == 60)
    answered = [record for record in served.records if isinstance(record, Answered)]
    scored = [record for record in answered if record.others]
    assert len(answered) == 60
    assert 1 <= len(scored) < 60
    assert all([(one.version, len(one.outputs)) for one in record.others] == [("v2", 2)] for record in scored)


# ---- room for large bodies, and for replies


def large(n_bytes: int) -> bytes:
    return request("/v1/predict", b" " * n_bytes)


def test_large_bodies_have_bounded_room_together_and_small_requests_always_fit(tmp_path: pathlib.Path) -> None:
    served = fakes.serve(tmp_path, fakes.make_bundle())
    limits = {"max_body_bytes": 1 << 20, "max_held_bytes": 3 << 20}
    with fakes.listening(served.api, **limits) as address, contextlib.ExitStack() as stack:
        lines = [stack.enter_context(Line(address)) for _ in range(3)]
        for line in lines:
            line.send(large(1 << 20)[:-1000])
        fakes.wait_for(lambda: not lines[0].is_silent() or refuses(address))
        assert_answers(address)
        lines.pop().socket.close()
        fakes.wait_for(lambda: not refuses(address))
        for line in lines:
            line.send(b" " * 1000)
            assert line.reply()[1].body["field"] == "body"


def refuses(address: Address) -> bool:
    """Whether there is no room for another large body."""
    with Line(address) as line:
        with contextlib.suppress(OSError):
            line.send(large(1 << 20))
        status, reply = line.reply()
        assert (status, reply.body["field"]) in ((503, "body"), (400, "body"))
        return status == 503


@pytest.mark.parametrize("path", ["/v1/predict", "/metrics"])
def test_a_client_that_never_reads_is_dropped_and_takes_little_meanwhile(tmp_path: pathlib.Path, path: str) -> None:
    served = fakes.serve(tmp_path, fakes.make_bundle())
    ask = request("/v1/predict", {"rows": [UNKNOWN] * 200}) if path == "/v1/predict" else request(path, method="GET")
    with fakes.running(served.api, idle_timeout_s=0.5) as (loop, server):
        listener = fakes.on_loop(loop, loop.create_server(server.new_connection, "127.0.0.1"))
        address = listener.sockets[0].getsockname()
        with socket.create_connection(address, timeout=0.2) as line:
            line.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            sent, most = 0, 0
            with contextlib.suppress(OSError):
                while sent < 500_000_000:
                    sent += line.send(ask * 20)
                    most = max([most, *(one.n_unsent() for one in list(server.connections))])
            assert 0 < sent < 100_000_000
            assert most < 1_000_000
            assert_answers(address)
            fakes.wait_for(lambda: not server.connections)
        loop.call_soon_threadsafe(listener.close)


def test_a_client_that_reads_late_gets_everything(tmp_path: pathlib.Path) -> None:
    served = fakes.serve(tmp_path, fakes.make_bundle())
    with fakes.listening(served.api) as address, Line(address) as line:
        line.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 16)
        n = 250
        sender = threading.Thread(target=line.send, args=(request("/v1/predict", {"rows": [UNKNOWN] * 100}) * n,))
        sender.start()
        fakes.wait_for(lambda: gauge(address, "covey_http_full") == 1)
        assert all(line.reply()[0] == 200 for _ in range(n))
        sender.join()
        assert gauge(address, "covey_http_full") == 0


# ---- the end


def test_what_was_asked_is_answered_when_the_server_stops_and_told_to_be_the_last(tmp_path: pathlib.Path) -> None:
    loading = fakes.serve(tmp_path, fakes.make_bundle(), load=False)
    with fakes.running(loading.api) as (loop, server):
        listener = fakes.on_loop(loop, loop.create_server(server.new_connection, "127.0.0.1"))
        address = listener.sockets[0].getsockname()
        with Line(address) as busy, Line(address) as silent, Line(address) as late:
            busy.send(predict(UNKNOWN) * 3)
            assert busy.is_silent()
            loop.call_soon_threadsafe(listener.close)
            ending = asyncio.run_coroutine_threadsafe(server.stop(grace_s=0.5, patience_s=20.0), loop)
            fakes.wait_for(lambda: server.is_stopping)
            late.send(request("/v2/health/live", method="GET"))
            status, reply = late.reply()
            assert (status, reply.headers["connection"]) == (200, "close")
            assert silent.socket.recv(100) == b""
            loading.engine.model(None).incumbent.load_model()
            replies = [busy.reply() for _ in range(3)]
            assert [status for status, _ in replies] == [200] * 3
            assert [reply.headers.get("connection") for _, reply in replies] == [None, None, "close"]
            ending.result(20)


def test_a_server_that_stops_while_a_model_never_ends_says_so_and_ends(tmp_path: pathlib.Path) -> None:
    made = fakes.make_bundle(fault="endless")
    served = fakes.serve(tmp_path, made, load=False)
    never_ends(served.engine.model(None).incumbent, made)
    with fakes.running(served.api, model_timeout_s=1000.0) as (loop, server):
        listener = fakes.on_loop(loop, loop.create_server(server.new_connection, "127.0.0.1"))
        with Line(listener.sockets[0].getsockname()) as line:
            line.send(predict(UNKNOWN))
            assert line.is_silent()
            loop.call_soon_threadsafe(listener.close)
            fakes.on_loop(loop, server.stop(grace_s=0.0, patience_s=0.2))
            with contextlib.suppress(ConnectionResetError):
                assert line.socket.recv(100) == b""
    assert served.records == []


def test_a_swap_of_generations_interrupts_nobody(tmp_path: pathlib.Path) -> None:
    one = fakes.serve(tmp_path / "1", fakes.make_bundle("v1"))
    two = fakes.serve(tmp_path / "2", fakes.make_bundle("v2", slope=2.0))
    active = one.engine.model(None), two.engine.model(None)
    generation = Generation(region=fakes.REGION, models=(), probation_s=1.0)
    with fakes.running(one.api) as (loop, server):
        listener = fakes.on_loop(loop, loop.create_server(server.new_connection, "127.0.0.1"))
        with Line(listener.sockets[0].getsockname()) as line:
            for i in range(100):
                line.send(predict(UNKNOWN) * 3)
                loop.call_soon_threadsafe(one.engine.activate, generation, {"late": active[i % 2]})
                for _ in range(3):
                    status, reply = line.reply()
                    assert status == 200
                    slope = {"v1": 1.0, "v2": 2.0}[reply.body["parameters"]["version"]]
                    wanted = fakes.expected(UNKNOWN, task="binary", slope=slope, n_outputs=2)
                    assert reply.body["probabilities"] == pytest.approx(wanted, abs=1e-6)
        loop.call_soon_threadsafe(listener.close)
