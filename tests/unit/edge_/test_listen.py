"""The Unix socket: found with its permissions, left clean, and never at the cost of anything that is no socket."""

from __future__ import annotations

import contextlib
import doctest
import http.client
import json
import os
import pathlib
import resource
import socket
import stat
import subprocess
import sys
import typing

import pytest

from edge_agent.config import Layout
from edge_agent.predict import listen
from shared.errors import ConfigError, ConflictError, CoveyError
from tests import fakes

ROW = {"x": 1, "colour": "red", "size": 0}
Listening = tuple[listen.UnixListener, typing.Any]


@pytest.fixture(scope="module", params=["asyncio", "uvloop"], autouse=True)
def loop(request: pytest.FixtureRequest) -> typing.Iterator[None]:
    with fakes.using_loop(request.param):
        yield


class UnixHttp(http.client.HTTPConnection):
    """Speaks HTTP on a Unix socket."""

    def __init__(self, path: pathlib.Path) -> None:
        super().__init__("device", timeout=20)
        self._path = path

    def connect(self) -> None:
        """Connect."""
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(20)
        self.sock.connect(str(self._path))


def ask(path: pathlib.Path) -> dict[str, typing.Any]:
    connection = UnixHttp(path)
    with contextlib.closing(connection):
        connection.request("POST", "/v1/predict", json.dumps({"features": ROW}))
        said: dict[str, typing.Any] = json.loads(connection.getresponse().read())
        return said


@contextlib.contextmanager
def opened(tmp_path: pathlib.Path, path: pathlib.Path, mode: int = 0o660) -> typing.Iterator[listen.UnixListener]:
    served = fakes.serve(tmp_path / "served", fakes.make_bundle())
    with fakes.running(served.api) as (loop, server):
        listener = listen.UnixListener(path, mode)
        fakes.on_loop(loop, listener.open(server.new_connection))

        async def close() -> None:
            listener.close()

        try:
            yield listener
        finally:
            fakes.on_loop(loop, close())


@pytest.mark.parametrize("mode", [0o600, 0o660, 0o666])
def test_it_answers_with_its_permissions_and_is_gone_afterwards(tmp_path: pathlib.Path, mode: int) -> None:
    path = tmp_path / "agent.sock"
    with opened(tmp_path, path, mode):
        assert ask(path)["label"] == 1
        assert stat.S_IMODE(path.stat().st_mode) == mode
        assert [one.name for one in tmp_path.iterdir() if "sock" in one.name or one.name.startswith(".")] == [
            "agent.sock"
        ]
    assert not path.exists()


def test_a_socket_that_a_killed_server_left_is_replaced(tmp_path: pathlib.Path) -> None:
    path = tmp_path / "agent.sock"
    left = socket.socket(socket.AF_UNIX)
    left.bind(str(path))
    left.close()
    with pytest.raises(ConnectionRefusedError):
        ask(path)
    with opened(tmp_path, path):
        assert ask(path)["label"] == 1


@pytest.mark.parametrize("kind", ["file", "folder", "link to a file", "pipe"])
def test_what_is_no_socket_is_left_alone_and_named(tmp_path: pathlib.Path, kind: str) -> None:
    path = tmp_path / "agent.sock"
    if kind == "file":
        path.write_text("precious")
    elif kind == "folder":
        path.mkdir()
    elif kind == "pipe":
        os.mkfifo(path)
    else:
        (tmp_path / "precious").write_text("precious")
        path.symlink_to(tmp_path / "precious")
    before = path.lstat()
    with pytest.raises(ConfigError, match="is there and is no socket") as raised, opened(tmp_path, path):
        pass
    assert raised.value.field == "serve.socket"
    assert path.lstat() == before
    assert kind != "file" or path.read_text() == "precious"
    assert [one for one in tmp_path.iterdir() if one.name.startswith(".")] == []


def test_a_socket_that_somebody_else_put_there_meanwhile_is_not_taken_away(tmp_path: pathlib.Path) -> None:
    path = tmp_path / "agent.sock"
    with opened(tmp_path, path):
        path.unlink()
        other = socket.socket(socket.AF_UNIX)
        other.bind(str(path))
    assert path.is_socket()
    other.close()


@pytest.mark.parametrize(
    ("path", "says"),
    [("gone/agent.sock", "can not listen on"), ("a" * 120, "is longer than 107 bytes"), ("a\0b", "null byte")],
)
def test_a_path_that_can_not_be_is_refused_with_a_reason(tmp_path: pathlib.Path, path: str, says: str) -> None:
    with pytest.raises(ConfigError, match=says), opened(tmp_path, tmp_path / path):
        pass


@pytest.mark.parametrize(
    ("host", "kind", "field", "says"),
    [
        ("127.0.0.1", ConflictError, "serve.port", "in use"),
        ("192.0.2.1", ConfigError, "serve.host", "assign"),
        ("a..b", ConfigError, "serve.host", "Invalid"),
        ("a" * 70, ConfigError, "serve.host", "Invalid"),
    ],
)
def test_a_port_that_can_not_be_had_is_named_with_what_to_do(
    tmp_path: pathlib.Path, host: str, kind: type[CoveyError], field: str, says: str
) -> None:
    served = fakes.serve(tmp_path, fakes.make_bundle())
    with fakes.running(served.api) as (loop, server), socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(kind, match=f"can not listen on {host}:{port}: .*{says}.*--port") as caught:
            fakes.on_loop(loop, listen.on_port(server.new_connection, host, port))
    assert caught.value.field == field


def test_an_address_of_six_is_written_as_in_a_url() -> None:
    assert doctest.testmod(listen) == (0, 1)


def test_the_agent_answers_on_port_and_socket_alike_and_cleans_up(tmp_path: pathlib.Path) -> None:
    layout = fakes.join(tmp_path / "s")
    fakes.install(layout, fakes.make_bundle())
    path = tmp_path / "agent.sock"
    layout.settings.write_text(f'[serve]\nport = 0\nsocket = "{path}"\nsocket_mode = "600"\n')
    with run_agent(layout) as (process, address):
        assert ask(path)["label"] == 1
        assert fakes.post(address, "/v1/predict", {"features": ROW})[1]["label"] == 1
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        process.kill()
        process.wait()
        assert path.is_socket()
    with run_agent(layout) as (process, _):
        assert ask(path)["label"] == 1
        process.terminate()
        assert process.wait(20) == 0
    assert not path.exists()


def test_a_second_agent_takes_nothing_from_the_first(tmp_path: pathlib.Path) -> None:
    layout = fakes.join(tmp_path / "s")
    fakes.install(layout, fakes.make_bundle())
    path = tmp_path / "agent.sock"
    layout.settings.write_text(f'[serve]\nport = 0\nsocket = "{path}"\n')
    with run_agent(layout):
        done = subprocess.run(command(layout), capture_output=True, text=True, timeout=60, check=False)
        assert (done.returncode, "locked" in done.stderr or "runs" in done.stderr) == (6, True), done.stderr
        assert ask(path)["label"] == 1


def command(layout: Layout) -> list[str]:
    return [sys.executable, "-m", "edge_agent.cli", "--store", str(layout.store), "run", "--no-sync"]


@contextlib.contextmanager
def run_agent(layout: Layout) -> typing.Iterator[tuple[subprocess.Popen[str], str]]:
    """Run the serving process; yield it and its address."""
    with subprocess.Popen(command(layout), stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        address = process.stdout.readline().split()[-1]
        fakes.wait_for(lambda: fakes.post(address, "/v1/predict", {"features": ROW})[0] == 200)
        try:
            yield process, address
        finally:
            process.kill()


LIMITS = """
import resource, sys
from edge_agent.predict import listen
resource.setrlimit(resource.RLIMIT_NOFILE, (int(sys.argv[1]), int(sys.argv[2])))
try:
    print(listen.connections_that_fit(int(sys.argv[3])), resource.getrlimit(resource.RLIMIT_NOFILE)[0])
except Exception as err:
    print(type(err).__name__)
"""


@pytest.mark.parametrize(
    ("soft", "hard", "wanted", "gets"),
    [
        (256, 4096, 1024, "1024 1152"),
        (256, 600, 1024, "472 600"),
        (2048, 4096, 1024, "1024 2048"),
        (100, 128, 1024, ConflictError.__name__),
    ],
)
def test_as_many_connections_are_let_in_as_the_system_lets_the_process_have(
    soft: int, hard: int, wanted: int, gets: str
) -> None:
    assert resource.getrlimit(resource.RLIMIT_NOFILE)[1] >= hard
    arguments = [sys.executable, "-c", LIMITS, str(soft), str(hard), str(wanted)]
    done = subprocess.run(arguments, capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.strip() == gets
