"""What the header Host may say, where a web page could have opened the connection."""

from __future__ import annotations

import json
import pathlib
import socket
import subprocess
import sys
import typing

import pytest

from edge_agent.predict.hosts import Hosts
from shared.errors import ForbiddenError
from tests import fakes

ROW = {"features": {"x": 1, "colour": "red", "size": 0}}
EVIL = "page.example:8765"


@pytest.mark.parametrize(
    "said",
    [
        "localhost",
        "LocalHost:8765",
        "localhost.",
        "127.0.0.1",
        "127.0.0.1:80",
        "127.3.2.1",
        "[::1]",
        "[::1]:8765",
        "shop.lan:1",
    ],
)
def test_names_of_this_machine_and_names_that_are_set_are_answered(said: str) -> None:
    Hosts(["shop.lan"]).check(said.encode())


@pytest.mark.parametrize(
    "said",
    [
        "page.example", EVIL, "127.0.0.1.page.example", "127.page.example.x", "localhost.page.example",
        "0.0.0.0", "10.0.0.1", "[::2]", "[::1].page.example", "[", "", ":8765", "xn--localhost", "127.0.0", "\xff",
    ],
)  # fmt: skip
def test_any_other_name_is_refused_and_the_message_says_what_to_set(said: str) -> None:
    with pytest.raises(ForbiddenError, match=r"serve\.names") as caught:
        Hosts().check(said.encode("latin-1"))
    assert caught.value.field == "host"


def ask(line: socket.socket, host: str | None, origin: str = "", page: str = "") -> tuple[int, typing.Any]:
    """Ask for an answer under some name, or by a target that names another, or from a page; return what was said."""
    body = json.dumps(ROW).encode()
    named = f"Host: {host}\r\n" if host is not None else ""
    named += f"Origin: {page}\r\n" if page else ""
    line.sendall(f"POST {origin}/v1/predict HTTP/1.1\r\n{named}Content-Length: {len(body)}\r\n\r\n".encode() + body)
    data = b""
    while b"\r\n\r\n" not in data:
        data += line.recv(65536) or pytest.fail(f"hung up after {data!r}")
    head, _, body = data.partition(b"\r\n\r\n")
    length = int(head.lower().partition(b"content-length:")[2].split()[0])
    while len(body) < length:
        body += line.recv(65536)
    return int(head.split()[1]), json.loads(body)


@pytest.fixture
def address(tmp_path: pathlib.Path) -> typing.Iterator[tuple[str, int]]:
    """An agent that answers on a port and on a Unix socket."""
    layout = fakes.join(tmp_path / "store")
    fakes.install(layout, fakes.make_bundle())
    layout.settings.write_text(f'[serve]\nsocket = "{tmp_path / "s"}"\nnames = ["shop.lan"]\n')
    command = [sys.executable, "-m", "edge_agent.cli", "--store", str(layout.store), "run", "--port", "0", "--no-sync"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout
        yield str(tmp_path / "s"), int(process.stdout.readline().rsplit(":", 1)[1])
        process.terminate()


def test_a_page_that_points_its_name_here_gets_nothing_and_the_unix_socket_is_exempt(address: tuple[str, int]) -> None:
    path, port = address
    with socket.socket(socket.AF_UNIX) as private:
        private.connect(path)
        assert [ask(private, EVIL)[0] for _ in range(3)] == [200] * 3
    for host, status in ((EVIL, 403), ("localhost", 200), ("shop.lan", 200), (None, 200), (EVIL, 403)):
        with socket.create_connection(("127.0.0.1", port)) as line:
            said, reply = ask(line, host)
            assert (said, host) == (status, host), reply
    assert "serve.names" in reply["error"]
    with socket.create_connection(("127.0.0.1", port)) as line:
        assert [ask(line, "localhost")[0] for _ in range(3)] == [200] * 3
        assert ask(line, EVIL)[0] == 403
    for origin, status in (("http://shop.lan:80", 200), (f"http://{EVIL}", 403)):
        with socket.create_connection(("127.0.0.1", port)) as line:
            assert (ask(line, "localhost", origin)[0], origin) == (status, origin)


def test_a_page_from_elsewhere_can_not_have_the_device_count_what_it_makes_up(address: tuple[str, int]) -> None:
    path, port = address
    pages = {"https://page.example": 403, "null": 403, "http://localhost:3000": 200, "https://shop.lan": 200}
    for page, status in pages.items():
        with socket.create_connection(("127.0.0.1", port)) as line:
            assert (ask(line, "localhost", page=page)[0], page) == (status, page)
    with socket.socket(socket.AF_UNIX) as private:
        private.connect(path)
        assert ask(private, "localhost", page="https://page.example")[0] == 200


@pytest.mark.skipif(not pathlib.Path("/proc/net/if_inet6").exists(), reason="this machine has no addresses of six")
def test_on_an_address_of_six_the_agent_names_itself_as_a_url_does(tmp_path: pathlib.Path) -> None:
    layout = fakes.join(tmp_path / "store")
    fakes.install(layout, fakes.make_bundle())
    edge = [sys.executable, "-m", "edge_agent.cli", "--store", str(layout.store)]
    command = [*edge, "run", "--host", "::1", "--port", "0", "--no-sync"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout
        assert " answers on http://[::1]:" in process.stdout.readline()
        asked = [*edge, "predict", "x=1", "colour=red", "size=0"]
        done = subprocess.run(asked, capture_output=True, text=True, timeout=60, check=False)
        process.terminate()
    assert (done.returncode, done.stdout[:2], done.stderr) == (0, "1 ", "")
