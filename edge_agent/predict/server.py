"""HTTP/1.1 on asyncio and httptools: keep-alive, pipelining, limits; replies in the order of the requests."""

from __future__ import annotations

import asyncio
import collections
import functools
import http
import typing

import httptools

from edge_agent.predict import replies
from edge_agent.predict.apart import in_place
from edge_agent.predict.engine import Engine
from edge_agent.predict.loaded import NotReadyError
from edge_agent.predict.replies import JSON, Response
from edge_agent.predict.routes import Api
from shared.errors import CoveyError, LimitError, ModelError, WireError

_MAX_HEAD_BYTES = 64 << 10
_MAX_PIPELINED = 64
_RETRY_LOADING_S = 0.05
_LOADING_PATIENCE_S = 60.0
_REASONS = {status.value: status.phrase for status in http.HTTPStatus}


class TooLargeError(LimitError):
    """The request is larger than this device reads."""

    code = "too-large"
    http_status = 413
    retry = False


class Request(typing.NamedTuple):
    """A whole request."""

    method: str
    path: str
    body: bytes
    keep_alive: bool


_NOBODY = Request("POST", "", b"", keep_alive=False)


class HttpServer:
    """What all connections share.

    Parameters
    ----------
    api : Api
        The routes.
    max_body_bytes, max_connections, idle_timeout_s : int, int, float
        Limits.
    """

    def __init__(self, api: Api, *, max_body_bytes: int, max_connections: int, idle_timeout_s: float) -> None:
        self.api = api
        self.max_body_bytes, self.max_connections = max_body_bytes, max_connections
        self.idle_timeout_s = idle_timeout_s
        self.connections: set[Connection] = set()

    @property
    def engine(self) -> Engine:
        """What answers."""
        return self.api.engine

    def new_connection(self) -> Connection:
        """Return the protocol for a new connection."""
        return Connection(self)

    def close(self) -> None:
        """Close all connections once what they wrote is out."""
        for connection in list(self.connections):
            connection.shut()


class Connection(asyncio.Protocol):
    """One client."""

    def __init__(self, server: HttpServer) -> None:
        self._server = server
        self._loop = asyncio.get_running_loop()
        self._transport: asyncio.Transport | None = None
        self._parser = httptools.HttpRequestParser(self)
        self._queue: collections.deque[Request] = collections.deque()
        self._busy: asyncio.Task[None] | None = None
        self._idle: asyncio.TimerHandle | None = None
        self._refusal: Response | None = None
        self._reset()

    def _reset(self) -> None:
        self._url, self._size, self._head, self._fields = b"", 0, 0, 0
        self._body: list[bytes] = []
        self._in_head = True

    # ---- asyncio calls these

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Take a connection, or say that there are too many."""
        self._transport = typing.cast("asyncio.Transport", transport)
        if len(self._server.connections) >= self._server.max_connections:
            self._refuse(LimitError("too many connections", fix="Try again later."), status=503)
            return
        self._server.connections.add(self)
        self._rest()

    def connection_lost(self, _exc: Exception | None) -> None:
        """Forget the connection."""
        self._server.connections.discard(self)
        self._transport = None
        if self._idle:
            self._idle.cancel()
        if self._busy:
            self._busy.cancel()

    def data_received(self, data: bytes) -> None:
        """Feed the parser, which answers what becomes whole."""
        if self._refusal:
            return
        self._head += len(data) if self._in_head else 0
        try:
            self._parser.feed_data(data)
            if self._in_head:
                _check_head(self._head)
        except httptools.HttpParserError as err:
            cause = err.__context__
            self._refuse(cause if isinstance(cause, CoveyError) else WireError(f"not HTTP: {err}", field="request"))
        except CoveyError as err:
            self._refuse(err)

    def eof_received(self) -> bool:
        """Keep a half-closed connection open while answers are due."""
        return bool(self._busy or self._queue)

    # ---- httptools calls these

    def on_url(self, url: bytes) -> None:
        """Collect the path."""
        self._url += url
        self._count_fields(len(url))

    def on_headers_complete(self) -> None:
        """From here on what comes is body."""
        self._in_head, self._head = False, 0

    def _count_fields(self, size: int) -> None:
        self._fields += size
        _check_head(self._fields)

    def on_header(self, name: bytes, value: bytes) -> None:
        """Look at the length and at what the client expects; a body announced too large is refused unread."""
        self._count_fields(len(name) + len(value) + len(b": \r\n"))
        name = name.lower()
        if name == b"content-length" and value.isdigit() and int(value[:19]) > self._server.max_body_bytes:
            raise TooLargeError(f"a body of {int(value[:19]):,} bytes", field="content-length")
        if name == b"expect" and value.lower() == b"100-continue" and self._transport:
            self._transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")

    def on_body(self, body: bytes) -> None:
        """Collect the body."""
        self._size += len(body)
        if self._size > self._server.max_body_bytes:
            raise TooLargeError(f"more than {self._server.max_body_bytes:,} bytes", field="body")
        self._body.append(body)

    def on_message_complete(self) -> None:
        """Take a whole request; it is answered before anything behind it is looked at."""
        if self._parser.should_upgrade():  # the parser has passed over its body
            raise WireError("upgrades are not spoken here", field="upgrade", fix="Send plain HTTP/1.1.")
        if len(self._queue) >= _MAX_PIPELINED:
            raise LimitError(f"more than {_MAX_PIPELINED} requests at once on one connection", field="request")
        method = self._parser.get_method().decode("latin-1")
        path = self._url.decode("latin-1")
        self._queue.append(Request(method, path, b"".join(self._body), self._parser.should_keep_alive()))
        self._reset()
        if self._idle:
            self._idle.cancel()
        self._pump()

    # ---- answering

    def _pump(self) -> None:
        """Answer in order; a request that must wait for a model holds back the ones behind it."""
        while self._queue and self._busy is None:
            request = self._queue.popleft()
            try:
                response = self._answer(request)
            except NotReadyError:
                self._busy = self._loop.create_task(self._answer_later(request))
                return
            self._send(request, response)
        if self._refusal and self._busy is None:
            self._send(_NOBODY, self._refusal)

    def _answer(self, request: Request) -> Response:
        try:
            return self._server.api.handle(request.method, request.path, request.body)
        except NotReadyError:
            raise
        except Exception as err:  # noqa: BLE001 - a fault of ours must not take the connection down
            loop = self._loop
            loop.call_exception_handler({"message": "a request failed", "exception": err})
            return replies.failed(ModelError(f"internal error: {type(err).__name__}", fix="See the agent's log."))

    async def _answer_later(self, request: Request) -> None:
        deadline = self._loop.time() + _LOADING_PATIENCE_S
        response: Response | None = None
        while response is None:
            await asyncio.sleep(_RETRY_LOADING_S)
            try:
                response = self._answer(request)
            except NotReadyError as err:
                if self._loop.time() > deadline:
                    response = replies.failed(err)
        self._busy = None
        self._send(request, response)
        self._pump()

    def _send(self, request: Request, response: Response) -> None:
        if self._transport is None:
            self._finish(response)
            return
        more = "".join(f"{name}: {value}\r\n" for name, value in response.headers)
        connection = "" if request.keep_alive else "Connection: close\r\n"
        head = (
            f"HTTP/1.1 {response.status} {_REASONS.get(response.status, '')}\r\nContent-Type: {JSON}\r\n"
            f"Content-Length: {len(response.body)}\r\n{more}{connection}\r\n"
        )
        body = b"" if request.method == "HEAD" else response.body
        self._transport.write(head.encode("latin-1") + body)
        if response.after:
            self._loop.call_soon(self._finish, response)
        if request.keep_alive:
            self._rest()
        else:
            self._transport.close()

    def _finish(self, response: Response) -> None:
        for prediction in response.after:
            in_place(functools.partial(self._server.engine.finish, prediction))

    def _refuse(self, err: CoveyError, status: int = 0) -> None:
        """Say what is wrong with what came last, after the answers to what came before it, and hang up."""
        if self._transport is None or self._transport.is_closing():
            return
        response = replies.failed(err)
        if status:
            response = response._replace(status=status)
        self._refusal = response
        self._pump()

    def _rest(self) -> None:
        """Start the idle time-out again."""
        if self._idle:
            self._idle.cancel()
        self._idle = self._loop.call_later(self._server.idle_timeout_s, self.shut)

    def shut(self) -> None:
        """Close once what was written is out."""
        if self._transport:
            self._transport.close()


def _check_head(size: int) -> None:
    if size > _MAX_HEAD_BYTES:
        raise TooLargeError(f"more than {_MAX_HEAD_BYTES:,} bytes of headers", field="headers")
