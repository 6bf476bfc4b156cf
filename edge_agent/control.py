"""The device's private Unix socket: one JSON line asks, one JSON line answers."""

from __future__ import annotations

import pathlib
import socket
import time
import typing

import msgspec

from shared.errors import CoveyError, ModelError, UnreachableError

if typing.TYPE_CHECKING:
    import asyncio

Handler = typing.Callable[[dict[str, typing.Any]], typing.Awaitable[dict[str, object]]]
_MAX_LINE_BYTES = 1 << 20
_SOCKET_MODE = 0o600
_ACTIVATE_TIMEOUT_S, _FLUSH_TIMEOUT_S = 300.0, 30.0
_MOMENT_S = 0.25
_REFUSED = "refused"  # not "error": what a sync did is a reply that may tell of an error, and has that key always


def ask(path: pathlib.Path, command: str, *, timeout_s: float = 30.0, **arguments: object) -> dict[str, typing.Any]:
    """Ask the running server something.

    Raises
    ------
    UnreachableError
        No server is running here, or it does not answer in time.
    ModelError
        It could not do what it was asked; the message is its own.
    """
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
            connection.settimeout(timeout_s)
            connection.connect(_short(path))
            connection.sendall(msgspec.json.encode({"command": command} | arguments) + b"\n")
            with connection.makefile("rb") as file:
                line = file.readline(_MAX_LINE_BYTES)
    except OSError as err:
        raise UnreachableError(f"the agent does not answer: {err}", fix="Start it: covey-edge run") from err
    try:
        reply: dict[str, typing.Any] = msgspec.json.decode(line, type=dict)
    except msgspec.DecodeError as err:
        raise UnreachableError("the agent hung up", fix="See its log.") from err
    if _REFUSED in reply:
        raise ModelError(str(reply[_REFUSED]))
    return reply


def _short(path: pathlib.Path) -> str:
    """Return the path, relative if that is what fits into the 107 bytes a socket's address has."""
    try:
        relative = str(path.relative_to(pathlib.Path.cwd()))
    except ValueError:
        return str(path)
    return min(str(path), relative, key=len)


async def serve(path: pathlib.Path, handler: Handler) -> asyncio.AbstractServer:
    """Listen; only this user may connect."""
    import asyncio  # those who only ask do without, and many of them are short-lived

    async def one(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            line = await reader.readline()
            reply = await _answer(handler, line)
            writer.write(msgspec.json.encode(reply) + b"\n")
            await writer.drain()
        except (ConnectionError, ValueError):
            return
        finally:
            writer.close()

    _make_way(path)
    server = await asyncio.start_unix_server(one, _short(path), limit=_MAX_LINE_BYTES)
    _make_private(path)
    return server


def _make_way(path: pathlib.Path) -> None:
    """Delete the socket of a server that is gone; the caller holds the lock that says so."""
    path.unlink(missing_ok=True)


def _make_private(path: pathlib.Path) -> None:
    path.chmod(_SOCKET_MODE)


async def _answer(handler: Handler, line: bytes) -> dict[str, object]:
    try:
        request = msgspec.json.decode(line, type=dict[str, typing.Any])
        return await handler(request)
    except msgspec.DecodeError as err:
        return {_REFUSED: f"not a command: {err}"}
    except CoveyError as err:
        return {_REFUSED: str(err)}


class ServerProxy:
    """The serving process behind its private socket.

    Each of its answers tells what it serves; what it said a moment ago is not asked again.

    Parameters
    ----------
    path : Path
        The socket.
    clock : callable
        Seconds that never go back.
    """

    def __init__(self, path: pathlib.Path, clock: typing.Callable[[], float] = time.monotonic) -> None:
        self._path, self._clock = path, clock
        self._active, self._heard_s = "", -_MOMENT_S

    def active(self) -> str:
        """Return the digest of what it serves."""
        if self._clock() >= self._heard_s + _MOMENT_S:
            self._ask("active")
        return self._active

    def activate(self, digest: str) -> None:
        """Make it serve a generation."""
        self._ask("activate", generation=digest, timeout_s=_ACTIVATE_TIMEOUT_S)

    def reload(self) -> None:
        """Make it read anew what it serves."""
        self._ask("reload", timeout_s=_ACTIVATE_TIMEOUT_S)

    def flush(self) -> None:
        """Make it add up everything it has written."""
        self._ask("flush", timeout_s=_FLUSH_TIMEOUT_S)

    def _ask(self, command: str, *, timeout_s: float = 30.0, **arguments: object) -> None:
        self._heard_s = -_MOMENT_S
        self._active = str(ask(self._path, command, timeout_s=timeout_s, **arguments).get("active", ""))
        self._heard_s = self._clock()
