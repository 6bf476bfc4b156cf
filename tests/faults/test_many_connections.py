"""A real agent with ten thousand silent connections, and one that is stopped while it is asked all the time."""

from __future__ import annotations

import contextlib
import http.client
import json
import pathlib
import resource
import socket
import subprocess
import sys
import threading
import typing
import urllib.parse

import pytest

from edge_agent.config import Layout
from tests import fakes

ROW = {"x": 1, "colour": "red", "size": 0}
WANTED, SPARE = 10_000, 500


@contextlib.contextmanager
def agent(layout: Layout) -> typing.Iterator[tuple[subprocess.Popen[str], str]]:
    """Run the serving process; yield it and its address."""
    command = [sys.executable, "-m", "edge_agent.cli", "--store", str(layout.store), "run", "--no-sync", "--port", "0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        address = process.stdout.readline().split()[-1]
        try:
            fakes.wait_for(lambda: fakes.post(address, "/v1/predict", {"features": ROW})[0] == 200)
            yield process, address
        finally:
            process.kill()


@pytest.fixture
def layout(tmp_path: pathlib.Path) -> Layout:
    made = fakes.join(tmp_path / "s")
    fakes.install(made, fakes.make_bundle())
    return made


@pytest.fixture
def n_lines() -> typing.Iterator[int]:
    """As many connections as the system lets one process have, up to ten thousand."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    n = min(WANTED, hard - SPARE) if hard != resource.RLIM_INFINITY else WANTED
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, n + SPARE), hard))
    yield n
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def gauge(address: str, name: str) -> float:
    lines = fakes.get_text(address, "/metrics").splitlines()
    return next(float(line.split()[-1]) for line in lines if line.startswith(name + " "))


@pytest.mark.parametrize("max_connections", [1024, WANTED + SPARE])
def test_ten_thousand_silent_connections_keep_nobody_out(layout: Layout, n_lines: int, max_connections: int) -> None:
    layout.settings.write_text(f"[serve]\nmax_connections = {max_connections}\n")
    with agent(layout) as (_, address), contextlib.ExitStack() as stack:
        where = urllib.parse.urlsplit(address)
        before = gauge(address, "process_resident_memory_bytes")
        for i in range(n_lines):
            stack.enter_context(socket.create_connection((where.hostname, where.port), timeout=30))
            if i % 1000 == 0:
                assert fakes.post(address, "/v1/predict", {"features": ROW})[0] == 200
        status, said = fakes.post(address, "/v1/predict", {"features": ROW})
        assert (status, said["label"]) == (200, 1)
        n = gauge(address, "covey_http_connections")
        assert n <= max_connections
        if max_connections > n_lines:
            assert n > n_lines
        grown = gauge(address, "process_resident_memory_bytes") - before
        assert grown < n * 64_000, f"{grown:,.0f} bytes for {n:,.0f} connections"


def test_an_agent_that_is_stopped_while_it_is_asked_loses_no_answer(layout: Layout) -> None:
    with agent(layout) as (process, address):
        clients = [Asker(address) for _ in range(8)]
        for client in clients:
            client.start()
        fakes.wait_for(lambda: all(client.n_answered > 20 for client in clients))
        process.terminate()
        for client in clients:
            client.join()
        assert process.wait(30) == 0
    assert [client.ended_by for client in clients] == ["the last reply"] * 8


class Asker(threading.Thread):
    """Asks again and again on one connection, until it is told that this was the last reply."""

    def __init__(self, address: str) -> None:
        super().__init__()
        where = urllib.parse.urlsplit(address)
        self._connection = http.client.HTTPConnection(where.hostname or "", where.port, timeout=30)
        self.n_answered = 0
        self.ended_by = ""

    def run(self) -> None:
        """Ask."""
        while not self.ended_by:
            try:
                self._connection.request("POST", "/v1/predict", json.dumps({"features": ROW}))
                reply = self._connection.getresponse()
                assert json.loads(reply.read())["label"] == 1
                self.n_answered += 1
                if reply.getheader("Connection") == "close":
                    self.ended_by = "the last reply"
            except (OSError, http.client.HTTPException) as err:
                self.ended_by = repr(err)
        self._connection.close()
