"""The demonstration's line to an agent: whole replies, in whatever pieces they come, over one connection."""

from __future__ import annotations

import socket
import threading
import time

import pytest

from cloud.demo.line import Line
from shared.errors import UnreachableError

REPLIES = (
    b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello",
    b"HTTP/1.1 404 Not Found\r\nX: y\r\ncontent-length: 0\r\nZ: z\r\n\r\n",
    b"HTTP/1.1 503 Busy\r\nCONTENT-LENGTH:  9\r\nRetry-After: 1\r\n\r\n\r\n\r\nwhole",
)


def answer(listener: socket.socket, heard: list[bytes], piece_bytes: int) -> None:
    """Take one connection; answer as many requests as there are replies, then hang up."""
    line, _ = listener.accept()
    line.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    with line:
        for reply in REPLIES:
            heard.append(line.recv(4096))
            for at in range(0, len(reply), piece_bytes):
                line.sendall(reply[at : at + piece_bytes])
                time.sleep(0.0005)
        heard.append(line.recv(4096))


@pytest.mark.parametrize("piece_bytes", [1, 7, 1000])
def test_replies_are_read_whole_and_an_agent_that_hangs_up_is_named(piece_bytes: int) -> None:
    heard: list[bytes] = []
    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=answer, args=(listener, heard, piece_bytes))
        thread.start()
        port = listener.getsockname()[1]
        line = Line("127.0.0.1", port, 10.0)
        got = [line.ask("POST", "/v1/x", b"body"), line.ask("GET", "/", b""), line.ask("GET", "/", b"")]
        with pytest.raises(UnreachableError, match=f"127.0.0.1:{port} hung up"):
            line.ask("GET", "/", b"")
        line.close()
        thread.join()
    assert got == [(200, b"hello"), (404, b""), (503, b"\r\n\r\nwhole")]
    assert heard[0] == b"POST /v1/x HTTP/1.1\r\nHost: 127.0.0.1:%d\r\nContent-Length: 4\r\n\r\nbody" % port
