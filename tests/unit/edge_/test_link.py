"""A busy cloud is left alone for as long as it asks, and no longer than a day."""

from __future__ import annotations

import contextlib
import http.server
import threading
import typing

import pytest

from edge_agent.device_key import new_key
from edge_agent.link import Link, retry_after_s
from shared.errors import NotFoundError, UnreachableError


@pytest.mark.parametrize(
    ("said", "seconds"),
    [
        ("", 0.0), ("0", 0.0), ("7", 7.0), (" 90 ", 90.0), ("999999999", 86_400.0), ("9" * 400, 86_400.0), ("-5", 0.0),
        ("1.5", 0.0), ("soon", 0.0), ("Thu, 01 Jan 1970 00:05:00 GMT", 200.0), ("Thu, 01 Jan 1970 00:00:01 GMT", 0.0),
        ("Thu, 99 Jan 1970 00:00:01 GMT", 0.0), ("\u0663", 3.0),
    ],
)  # fmt: skip
def test_what_a_server_asks_for_is_understood_and_nonsense_is_nothing(said: str, seconds: float) -> None:
    assert retry_after_s({"Retry-After": said} if said else {}, 100.0) == seconds


class Busy(http.server.BaseHTTPRequestHandler):
    """A cloud that has no time."""

    def do_GET(self) -> None:
        self.rfile.read(int(self.headers.get("Content-Length", 0)))
        body = b"here" if self.path == "/file" else b""
        self.send_response(200 if body else 503)
        self.send_header("Retry-After", "77")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    do_POST = do_GET  # noqa: N815 - the library's name

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@pytest.fixture
def link() -> typing.Iterator[Link]:
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Busy) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        made = Link(f"http://127.0.0.1:{server.server_port}", "till-1", new_key())
        yield made
        made.close()
        server.shutdown()
        thread.join()


def test_a_refused_fetch_and_a_refused_delivery_are_both_heard(link: Link) -> None:
    assert link.retry_after_s == 0.0
    with pytest.raises(UnreachableError, match="answered 503"):
        list(link.stream(f"{link.url}/repo/metadata/timestamp.json"))
    assert link.retry_after_s == 77.0
    link.retry_after_s = 0.0
    with pytest.raises(UnreachableError):
        link.deliver(b"batch")
    assert link.retry_after_s == 77.0


def test_what_goes_over_the_line_shows_that_the_pass_goes_on(link: Link) -> None:
    beats: list[int] = []
    other = Link(link.url, "till-1", new_key(), beat=lambda: beats.append(1))
    assert b"".join(other.stream(f"{link.url}/file")) == b"here"
    assert len(beats) > 0
    beats.clear()
    with pytest.raises(UnreachableError):
        other.deliver(b"batch")
    assert len(beats) > 0
    other.close()


class Thrifty(http.server.BaseHTTPRequestHandler):
    """Keeps connections open, and notes from which each request came."""

    protocol_version = "HTTP/1.1"
    ports: typing.ClassVar[list[int]] = []

    def do_GET(self) -> None:
        self.ports.append(self.client_address[1])
        body = b"" if self.path == "/empty" else b"x" * 1000
        self.send_response(200 if self.path == "/file" else 404)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Say nothing."""


def test_a_file_that_is_not_there_ends_no_connection() -> None:
    """Each poll asks for a root that is not there; a handshake costs more than all the rest of it."""
    Thrifty.ports.clear()
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Thrifty) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        link = Link(f"http://127.0.0.1:{server.server_port}")
        for name in ("empty", "page", "file", "empty"):
            with pytest.raises(NotFoundError) if name != "file" else contextlib.nullcontext():
                list(link.stream(f"{link.url}/{name}"))
        link.close()
        server.shutdown()
        thread.join()
    assert len(Thrifty.ports) == 4
    assert len(set(Thrifty.ports)) == 1


def test_a_proxy_that_the_environment_names_is_used_except_for_whom_it_names_too(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    paths: list[str] = []

    class Proxy(Thrifty):
        def do_GET(self) -> None:
            paths.append(self.path)
            super().do_GET()

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Proxy) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        here = f"127.0.0.1:{server.server_port}"
        monkeypatch.setenv("HTTP_PROXY", f"http://{here}")
        monkeypatch.setenv("NO_PROXY", "127.0.0.1")
        for host in ("cloud.example", here):
            link = Link(f"http://{host}")
            with pytest.raises(NotFoundError):
                list(link.stream(f"{link.url}/empty"))
            link.close()
        server.shutdown()
        thread.join()
    assert paths == ["http://cloud.example/empty", "/empty"]
