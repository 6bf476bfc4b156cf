"""What the sync child asks the serving process over its private socket."""

from __future__ import annotations

import contextlib
import pathlib
import socket
import threading
import typing

import msgspec
import pytest

from edge_agent.control import ServerProxy
from shared.errors import UnreachableError


class Server:
    """Answers as the serving process does, and notes what it was asked."""

    def __init__(self, path: pathlib.Path) -> None:
        self.asked: list[str] = []
        self.serves = "one"
        self._socket = socket.socket(socket.AF_UNIX)
        self._socket.bind(str(path))
        self._socket.listen()
        self._thread = threading.Thread(target=self._answer)
        self._thread.start()

    def _answer(self) -> None:
        while True:
            line, _ = self._socket.accept()
            with line, line.makefile("rwb") as file:
                request = msgspec.json.decode(file.readline(), type=dict[str, str | float])
                if request["command"] == "end":
                    return
                self.asked.append(str(request["command"]))
                self.serves = str(request.get("generation", self.serves))
                file.write(msgspec.json.encode({"active": self.serves}) + b"\n")

    def close(self, path: pathlib.Path) -> None:
        with socket.socket(socket.AF_UNIX) as line:
            line.connect(str(path))
            line.sendall(b'{"command": "end"}\n')
        self._thread.join()
        self._socket.close()
        path.unlink()


@pytest.fixture
def path(tmp_path: pathlib.Path) -> pathlib.Path:
    return tmp_path / "socket"


@pytest.fixture
def server(path: pathlib.Path) -> typing.Iterator[Server]:
    made = Server(path)
    yield made
    if path.exists():
        made.close(path)


def test_what_the_server_said_a_moment_ago_is_not_asked_again(path: pathlib.Path, server: Server) -> None:
    now_s = [100.0]
    proxy = ServerProxy(path, lambda: now_s[0])
    proxy.flush()
    assert [proxy.active(), proxy.active(), server.asked] == ["one", "one", ["flush"]]
    proxy.activate("two")
    assert [proxy.active(), server.asked] == ["two", ["flush", "activate"]]
    server.serves = "three"
    now_s[0] += 0.25
    assert [proxy.active(), server.asked] == ["three", ["flush", "activate", "active"]]


def test_a_server_that_is_gone_serves_nothing(path: pathlib.Path, server: Server) -> None:
    proxy = ServerProxy(path)
    proxy.flush()
    server.close(path)
    with contextlib.suppress(UnreachableError):
        proxy.flush()
    with pytest.raises(UnreachableError):
        proxy.active()
