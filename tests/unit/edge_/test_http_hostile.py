"""Clients that mean harm: whatever they do, the server lives, its memory is bounded, and the next one is answered."""

from __future__ import annotations

import contextlib
import gzip
import json
import pathlib
import socket
import struct
import threading
import time
import typing

import pytest

from tests import fakes
from tests.unit.edge_.test_http_overload import UNKNOWN, Line, gauge, predict
from tests.unit.edge_.test_http_server import Address, assert_answers, chunked, parse, request, talk

INFER = "/v2/models/late/infer"


@pytest.fixture(scope="module", params=["asyncio", "uvloop"], autouse=True)
def loop(request: pytest.FixtureRequest) -> typing.Iterator[None]:
    with fakes.using_loop(request.param):
        yield


@pytest.fixture
def served(tmp_path: pathlib.Path) -> fakes.Served:
    return fakes.serve(tmp_path, fakes.make_bundle())


def is_cut(line: socket.socket) -> bool:
    """Whether the server has hung up."""
    line.settimeout(20)
    try:
        return line.recv(1000) == b""
    except ConnectionResetError:
        return True


@pytest.mark.parametrize("what", ["head", "body", "chunks"])
def test_clients_that_drip_are_cut_and_others_are_answered_meanwhile(served: fakes.Served, what: str) -> None:
    whole = chunked(b" " * 5000) if what == "chunks" else request("/v1/predict", b" " * 5000, "X: " + "y" * 2000)
    start = whole[: 20 if what == "head" else whole.index(b"\r\n\r\n") + 10]
    with fakes.listening(served.api, idle_timeout_s=1.0) as address:
        lines = [socket.create_connection(address, timeout=20) for _ in range(40)]
        for line in lines:
            line.sendall(start)
        cut: set[socket.socket] = set()
        deadline = time.monotonic() + 30
        at = len(start)
        while len(cut) < len(lines) and time.monotonic() < deadline:
            for line in set(lines) - cut:
                try:
                    line.sendall(whole[at : at + 1])
                except OSError:
                    cut.add(line)
            at += 1
            assert_answers(address)
            time.sleep(0.05)
        assert len(cut) == len(lines)
        for line in lines:
            line.close()


def test_many_silent_connections_keep_nobody_out(served: fakes.Served) -> None:
    with fakes.listening(served.api, max_connections=64, idle_timeout_s=60.0) as address, Line(address) as regular:
        regular.send(predict(UNKNOWN))
        assert regular.reply()[0] == 200
        lines = []
        for i in range(2000):
            lines.append(socket.create_connection(address, timeout=20))
            if i % 100 == 0:
                assert_answers(address)
                # Who has been served before is not the one that goes.
                regular.send(predict(UNKNOWN))
                assert regular.reply()[0] == 200
        assert gauge(address, "covey_http_connections") <= 64
        assert gauge(address, "covey_http_evicted_total") > 1900
        for line in lines:
            line.close()


def test_connections_that_come_and_go_leave_nothing_behind(served: fakes.Served) -> None:
    with fakes.listening(served.api) as address:
        for i in range(1000):
            line = socket.create_connection(address, timeout=20)
            if i % 3 == 0:
                line.sendall(predict(UNKNOWN)[: i % 150])
            if i % 2 == 0:
                line.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            line.close()
        fakes.wait_for(lambda: gauge(address, "covey_http_connections") == 1)
        assert gauge(address, "covey_http_held_bytes") == 0


@pytest.mark.parametrize("body", ["announced", "in chunks", "packed"])
def test_huge_bodies_are_refused_and_the_sender_hears_of_it(served: fakes.Served, body: str) -> None:
    if body == "announced":
        sent = request("/v1/predict", b"", length=20_000_000) + b" " * 20_000_000
    elif body == "in chunks":
        sent = chunked(*[b" " * 100_000] * 200)
    else:
        sent = request("/v1/predict", gzip.compress(bytes(50_000_000)), "Content-Encoding: gzip")
    with fakes.listening(served.api) as address:
        (reply,) = talk(address, sent)
        assert (reply.status, reply.body["type"]) == (413, "urn:covey:error:too-large")
        assert_answers(address)
        assert gauge(address, "covey_http_held_bytes") == 0


def test_who_sends_without_end_after_being_refused_is_cut(served: fakes.Served) -> None:
    with fakes.listening(served.api) as address, socket.create_connection(address, timeout=20) as line:
        line.sendall(b"\x00 garbage\r\n\r\n")
        piece, n = b"x" * (1 << 20), 0
        with contextlib.suppress(OSError):
            for n in range(2000):  # noqa: B007 - counts what got out
                line.sendall(piece)
        assert n < 1999
        assert_answers(address)


def test_a_half_closed_client_gets_all_its_answers(served: fakes.Served) -> None:
    with fakes.listening(served.api) as address:
        replies = talk(address, predict(UNKNOWN) * 500)
        assert [reply.status for reply in replies] == [200] * 500


def test_half_closed_clients_that_wait_for_a_model_are_answered_and_let_go(tmp_path: pathlib.Path) -> None:
    loading = fakes.serve(tmp_path, fakes.make_bundle(), load=False)
    with fakes.listening(loading.api) as address, socket.create_connection(address, timeout=20) as line:
        line.sendall(predict(UNKNOWN) * 3)
        line.shutdown(socket.SHUT_WR)
        fakes.wait_for(lambda: gauge(address, "covey_http_waiting") == 1)
        loading.engine.model(None).incumbent.load_model()
        got = b""
        while piece := line.recv(1 << 16):
            got += piece
        assert [reply.status for reply in parse(got)] == [200] * 3
        fakes.wait_for(lambda: gauge(address, "covey_http_connections") == 1)


def test_everybody_at_once(served: fakes.Served) -> None:
    """Loris, garbage, floods and huge bodies together; a client that behaves is answered every time."""
    stop = threading.Event()
    limits = {"max_connections": 256, "idle_timeout_s": 5.0, "max_held_bytes": 1 << 20}
    with fakes.listening(served.api, **limits) as address, Line(address) as regular:
        attackers = [threading.Thread(target=attack, args=(address, stop)) for attack in ATTACKS]
        for attacker in attackers:
            attacker.start()
        try:
            for i in range(100):
                row = UNKNOWN | {"x": i % 10}
                regular.send(predict(row))
                status, reply = regular.reply()
                assert status == 200
                wanted = fakes.expected(row, task="binary", slope=1.0, n_outputs=2)
                assert reply.body["probabilities"] == pytest.approx(wanted, abs=1e-6)
                with Line(address) as newcomer:
                    newcomer.send(predict(row))
                    assert newcomer.reply()[0] == 200
        finally:
            stop.set()
            for attacker in attackers:
                attacker.join()
        fakes.wait_for(lambda: gauge(address, "covey_http_connections") <= 2)
        assert gauge(address, "covey_http_held_bytes") == 0


def attack_with(
    make: typing.Callable[[socket.socket], None],
) -> typing.Callable[[Address, threading.Event], None]:
    """Open connections and do something bad on each, until told to stop."""

    def attack(address: Address, stop: threading.Event) -> None:
        lines: list[socket.socket] = []
        while not stop.is_set():
            with contextlib.suppress(OSError):
                line = socket.create_connection(address, timeout=2)
                lines.append(line)
                make(line)
            while len(lines) > 60:
                lines.pop(0).close()
            time.sleep(0.02)
        for line in lines:
            line.close()

    return attack


ATTACKS = [
    attack_with(lambda line: line.sendall(b"POST /v1/predict HTTP/1.1\r\nHost")),
    attack_with(lambda line: line.sendall(b"\x16\x03\x01garbage\r\n\r\n")),
    attack_with(lambda line: line.sendall(request("/v1/predict", b"", length=99_000) + b" " * 90_000)),
    attack_with(lambda line: line.sendall(predict(UNKNOWN) * 20)),
    attack_with(lambda line: line.sendall(request(INFER, json.dumps({"inputs": [[[[]]]]}).encode()) * 50)),
]
