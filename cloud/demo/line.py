"""An application's line to the agent on its device: one connection, and no more of HTTP than its replies need."""

from __future__ import annotations

import socket

from shared.errors import UnreachableError

_CHUNK_BYTES = 64 << 10
_END, _LENGTH = b"\r\n\r\n", b"\r\ncontent-length:"


class Line:
    """A connection that stays open. A library would take five times as long for a request as the agent does.

    Parameters
    ----------
    host, port : str, int
        Where the agent answers.
    timeout_s : float
        For connecting, and for each piece of a reply.
    """

    def __init__(self, host: str, port: int, timeout_s: float) -> None:
        self._socket = socket.create_connection((host, port), timeout=timeout_s)
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._host = f"{host}:{port}"

    def ask(self, method: str, path: str, body: bytes) -> tuple[int, bytes]:
        """Send a request; return status and body of the reply.

        Raises
        ------
        UnreachableError
            The agent has hung up.
        """
        head = f"{method} {path} HTTP/1.1\r\nHost: {self._host}\r\nContent-Length: {len(body)}\r\n\r\n"
        self._socket.sendall(head.encode() + body)
        data = self._more(b"")
        while (end := data.find(_END)) < 0:
            data = self._more(data)
        said = data[:end].lower() + b"\r\n"
        at = said.index(_LENGTH) + len(_LENGTH)
        whole = end + len(_END) + int(said[at : said.index(b"\r\n", at)])
        while len(data) < whole:
            data = self._more(data)
        return int(data[9:12]), data[end + len(_END) : whole]

    def _more(self, data: bytes) -> bytes:
        piece = self._socket.recv(_CHUNK_BYTES)
        if not piece:
            raise UnreachableError(f"the agent on {self._host} hung up", fix="See its log.")
        return data + piece

    def close(self) -> None:
        """Hang up."""
        self._socket.close()
