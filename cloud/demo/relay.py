"""A line that can be cut: a TCP relay on loopback, between one device and the cloud."""

from __future__ import annotations

import contextlib
import selectors
import socket
import threading
import typing

_CHUNK_BYTES = 64 << 10


class Relay:
    """Passes bytes on while the line is whole; refuses and drops connections while it is cut.

    Parameters
    ----------
    port : int
        Where the cloud answers.
    """

    def __init__(self, port: int) -> None:
        self._target = ("127.0.0.1", port)
        self._listener = self._listen(0)
        self._port = int(self._listener.getsockname()[1])
        self._open: set[socket.socket] = set()
        self._lock = threading.Lock()
        self._thread = threading.Thread(target=self._accept, args=(self._listener,), daemon=True)
        self._thread.start()

    @staticmethod
    def _listen(port: int) -> socket.socket:
        listener = socket.create_server(("127.0.0.1", port), backlog=64)
        listener.settimeout(0.2)
        return listener

    @property
    def url(self) -> str:
        """Address of this end of the line."""
        return f"http://127.0.0.1:{self._port}"

    def cut(self) -> None:
        """Cut the line: nobody listens any more, and open connections end."""
        self._listener.close()
        self._thread.join()
        with self._lock:
            for end in list(self._open):
                with contextlib.suppress(OSError):
                    end.shutdown(socket.SHUT_RDWR)

    def mend(self) -> None:
        """Make the line whole again."""
        self._listener = self._listen(self._port)
        self._thread = threading.Thread(target=self._accept, args=(self._listener,), daemon=True)
        self._thread.start()

    def _accept(self, listener: socket.socket) -> None:
        while True:
            try:
                near, _ = listener.accept()
            except TimeoutError:
                continue
            except OSError:
                return
            try:
                far = socket.create_connection(self._target, timeout=5)
            except OSError:
                near.close()
                continue
            threading.Thread(target=self._pass_on, args=(near, far), daemon=True).start()

    def _pass_on(self, near: socket.socket, far: socket.socket) -> None:
        with self._lock:
            self._open |= {near, far}
        other = {near: far, far: near}
        with selectors.DefaultSelector() as ready, contextlib.suppress(OSError):
            for end in other:
                ready.register(end, selectors.EVENT_READ)
            done = False
            while not done:
                for key, _ in ready.select():
                    end = typing.cast("socket.socket", key.fileobj)
                    data = end.recv(_CHUNK_BYTES)
                    if not data:
                        done = True
                        break
                    other[end].sendall(data)
        with self._lock:
            self._open -= {near, far}
        near.close()
        far.close()

    def close(self) -> None:
        """End the relay."""
        self.cut()
