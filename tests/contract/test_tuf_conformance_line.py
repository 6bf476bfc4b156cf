"""The line: files that are not there, servers that fail, hang, stop in the middle or never stop."""

from __future__ import annotations

import gzip
import threading

import pytest

from tests import tuf_line
from tests.tuf_line import FILE, Answer, Client, Handler, Line, send
from tests.tuf_repository import TufRepository

line, repo, client = tuf_line.line, tuf_line.repo, tuf_line.client
version_three = tuf_line.version_three
pytestmark = pytest.mark.usefixtures("version_three")
WHAT = ("root", "timestamp", "snapshot", "targets", "more", "target")
NEVER = threading.Event()


def renewed(repo: TufRepository, what: str) -> str:
    """Sign everything anew, so that everything has to be fetched; return where something is served."""
    at = repo.add_target(FILE, b"2", "more")
    repo.new_root()
    repo.release("targets", "more")
    return at if what == "target" else repo.path(what)


def status(code: int) -> Answer:
    def answer(handler: Handler) -> None:
        handler.send_error(code)

    return answer


def elsewhere(handler: Handler) -> None:
    """It is to be fetched from somewhere else; signatures would protect the device, but not who asked it to look."""
    handler.send_response(302)
    handler.send_header("Location", "http://127.0.0.1:9/")
    handler.end_headers()


def nothing(handler: Handler) -> None:
    send(handler, b"")


def login_page(handler: Handler) -> None:
    send(handler, b"<html>a hotel's login page</html>")


def hang_up(handler: Handler) -> None:
    handler.connection.close()


def cut(handler: Handler) -> None:
    send(handler, b'{"sign', length=500)


def silence(_handler: Handler) -> None:
    NEVER.wait(2)


def silence_in_the_middle(handler: Handler) -> None:
    send(handler, b'{"sign', length=500)
    handler.wfile.flush()
    NEVER.wait(2)


def drip(handler: Handler) -> None:
    """It is never silent for long, and never ends."""
    handler.send_response(200)
    handler.end_headers()
    while handler.wfile.write(b" "):
        NEVER.wait(0.1)


def nonsense(handler: Handler) -> None:
    handler.wfile.write(b"\x00\xff\r\n\r\n")


def packed_wrongly(handler: Handler) -> None:
    handler.send_response(200)
    handler.send_header("Content-Encoding", "gzip")
    handler.end_headers()
    handler.wfile.write(b"this is not gzip")


ANSWERS: dict[str, Answer] = {
    "404": status(404),
    "403": status(403),
    "429": status(429),
    "500": status(500),
    "503": status(503),
    "302": elsewhere,
    "empty": nothing,
    "login page": login_page,
    "hangs up": hang_up,
    "cut": cut,
    "silence": silence,
    "silence in the middle": silence_in_the_middle,
    "drips": drip,
    "nonsense": nonsense,
    "packed wrongly": packed_wrongly,
}


SOME = ("404", "403", "503", "cut", "silence", "login page")
CASES = [(what, says) for what in WHAT for says in (ANSWERS if what in {"timestamp", "target"} else SOME)]


@pytest.mark.parametrize(("what", "says"), CASES)
def test_what_can_not_be_had_is_refused_and_had_later(
    client: Client, line: Line, repo: TufRepository, what: str, says: str
) -> None:
    path = renewed(repo, what)
    before = client.trusts()
    line.answers[path] = ANSWERS[says]
    client.patience_s = 0.3
    # So a repository says that there is no newer root; the old one goes on to count.
    no_newer_root = what == "root" and says in {"404", "403"}
    assert client.download(FILE) == (0 if no_newer_root else 1)
    after = client.trusts()
    if what != "target":
        assert after[what] == before[what]
    assert client.downloaded() == [b"2" if no_newer_root else b"1"]
    line.answers, client.patience_s = {}, tuf_line.PATIENCE_S
    assert client.download(FILE) == 0
    assert (client.trusts()["root"], client.downloaded()) == (2, [b"2"])


LIMITS = {
    "root": 512_000,
    "timestamp": 16 << 10,
    "snapshot": 2 << 20,
    "targets": 5 << 20,
    "more": 5 << 20,
    "target": 1,
}
_PIECE = bytes(64 << 10)
_ON_THE_WAY = 64 << 20  # what two sockets hold, and what is sent until the sender hears of the end


@pytest.mark.parametrize("what", WHAT)
def test_what_never_ends_is_read_up_to_its_limit(client: Client, line: Line, repo: TufRepository, what: str) -> None:
    sent = 0

    def endless(handler: Handler) -> None:
        nonlocal sent
        handler.send_response(200)
        handler.end_headers()
        while True:
            sent += handler.wfile.write(_PIECE)

    line.answers[renewed(repo, what)] = endless
    assert client.download(FILE) == 1
    assert sent <= LIMITS[what] + _ON_THE_WAY
    line.answers = {}
    assert client.download(FILE) == 0


@pytest.mark.parametrize("what", ["snapshot", "targets", "more"])
def test_where_a_length_is_signed_it_is_the_limit(client: Client, line: Line, repo: TufRepository, what: str) -> None:
    repo.hashes = True
    path = renewed(repo, what)
    data = repo.files[path]
    line.answers[path] = lambda handler: send(handler, data + b" ")
    before = client.trusts()[what]
    assert client.download(FILE) == 1
    assert client.trusts()[what] == before


@pytest.mark.parametrize("depth", [10, 10_000])
@pytest.mark.parametrize("what", ["timestamp", "snapshot"])
def test_nested_brackets_are_refused(client: Client, repo: TufRepository, what: str, depth: int) -> None:
    repo.files[renewed(repo, what)] = b"[" * depth + b"]" * depth
    assert client.refresh() == 1
    assert client.trusts()[what] == 3


def test_a_server_that_is_not_there_changes_nothing(client: Client, line: Line, repo: TufRepository) -> None:
    before = {role: client.bytes_of(role) for role in client.trusts()}
    renewed(repo, "target")
    gone = [word.replace(line.url, "http://127.0.0.1:9") for word in client.arguments("refresh")]
    assert tuf_line.tuf_client.main(gone) == 1
    assert {role: client.bytes_of(role) for role in client.trusts()} == before


@pytest.mark.parametrize("header", ["chunked", "gzip"])
def test_a_file_may_be_sent_in_chunks_or_packed(client: Client, line: Line, repo: TufRepository, header: str) -> None:
    path = renewed(repo, "snapshot")
    data = repo.files[path]

    def answer(handler: Handler) -> None:
        handler.protocol_version = "HTTP/1.1"
        handler.close_connection = True
        handler.send_response(200)
        handler.send_header("Connection", "close")
        if header == "gzip":
            handler.send_header("Content-Encoding", "gzip")
            handler.end_headers()
            handler.wfile.write(gzip.compress(data))
            return
        handler.send_header("Transfer-Encoding", "chunked")
        handler.end_headers()
        for piece in (data[:100], data[100:], b""):
            handler.wfile.write(b"%x\r\n%s\r\n" % (len(piece), piece))

    line.answers[path] = answer
    assert client.download(FILE) == 0


def test_a_packed_bomb_is_refused(client: Client, line: Line, repo: TufRepository) -> None:
    def bomb(handler: Handler) -> None:
        handler.send_response(200)
        handler.send_header("Content-Encoding", "gzip")
        handler.end_headers()
        handler.wfile.write(gzip.compress(bytes(64 << 20)))

    line.answers[renewed(repo, "timestamp")] = bomb
    assert client.refresh() == 1
