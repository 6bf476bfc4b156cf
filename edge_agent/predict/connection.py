"""One client: replies in the order of the requests, only as fast as the client reads, and never more than its turn."""

from __future__ import annotations

import asyncio
import typing

from edge_agent.predict import wire
from edge_agent.predict.asking import Paused
from edge_agent.predict.engine import Prediction
from edge_agent.predict.hosts import Hosts
from edge_agent.predict.incoming import PLAIN, Incoming, Request, plain
from edge_agent.predict.quick import PATH, Quick
from edge_agent.predict.replies import JSON, Response
from shared.errors import CoveyError, ModelError

if typing.TYPE_CHECKING:
    from edge_agent.predict.server import HttpServer

_TURN_REQUESTS = 4
_READ_AHEAD = 64
_READ_BYTES = 64 << 10
_LINGER_S = 2.0
_MAX_LINGER_BYTES = 256 << 20


class Connection(asyncio.Protocol):
    """One client.

    Parameters
    ----------
    server : HttpServer
        Limits, and what answers.
    quick : Quick
        Knows the heads of requests that came the same way.
    hosts : Hosts, optional
        What the header Host may say; anything by default.
    """

    def __init__(self, server: HttpServer, quick: Quick, hosts: Hosts | None) -> None:
        self._server, self._quick = server, quick
        self._loop = asyncio.get_running_loop()
        self._transport: asyncio.Transport | None = None
        self._incoming = Incoming(
            server.limits.max_body_bytes, self._hold, self._give_leave, hosts.check if hosts else bool
        )
        self._queue = self._incoming.queue
        self._busy: asyncio.Task[None] | None = None
        self._refusal: Response | None = None
        self._is_full = self._is_scheduled = self._is_paused = False
        self._is_last = self._has_eof = self._lingers = False
        self._linger_bytes = self._n_unsent = 0
        self.held_bytes = self.born = self.turn = 0
        self.seen = server.tick

    @property
    def is_busy(self) -> bool:
        """Whether an answer is due, so that it is not the client who keeps us waiting."""
        return self._busy is not None or bool(self._queue and not self._is_full)

    # ---- asyncio calls these

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Take a connection, or say that there are too many."""
        self._transport = typing.cast("asyncio.Transport", transport)
        if hasattr(transport, "max_size"):  # asyncio's own: it makes room for so much at each read, by default 256 KiB
            transport.max_size = _READ_BYTES
        try:
            self._server.admit(self)
        except CoveyError as err:
            self._transport.write(wire.written(self._failed(err), is_head=False, is_last=True))
            self._transport.close()

    def connection_lost(self, _exc: Exception | None) -> None:
        """Forget the connection."""
        self._server.forget(self)
        self._transport = None
        self._queue.clear()
        if self._busy:
            self._busy.cancel()

    def data_received(self, data: bytes) -> None:
        """Take requests, and answer them."""
        if self._refusal or self._is_last:
            self._pass_over(len(data))
            return
        incoming, quick = self._incoming, self._quick
        is_alone = incoming.is_between and not (self._queue or self._busy or self._is_full or self._server.is_stopping)
        if is_alone and (found := quick.find(data)) is not None:
            if found[0] == PATH and (said := quick.answer(found[1])) is not None:
                self._answer_quickly(said)
            else:
                self._queue.append(plain(*found))
                self._pump()
            return
        try:
            incoming.feed(data)
        except CoveyError as err:
            self._refusal = self._failed(err)
        if is_alone and incoming.is_between and len(self._queue) == 1 and self._queue[0].is_plain:
            first = self._queue[0]
            quick.learn(data, first.path, first.body, first.head)
        self._pump()

    def _answer_quickly(self, said: tuple[bytes, Prediction] | CoveyError) -> None:
        """Send what the short way has made, and have it recorded once it is on its way."""
        if isinstance(said, CoveyError):
            out: list[bytes] = []
            self._say(PLAIN, self._failed(said), out, [])
            self._flush(out, [])
            return
        reply, made = said
        server = self._server
        server.n_turns += 1
        self.seen, self.turn = server.tick, server.n_turns
        server.api.meters.replies[200] += 1
        if self._transport is not None:
            self._transport.write(reply)
        # What is still to be sent goes out when the loop is next asked; what is recorded can wait for that.
        if self._transport is not None and not self._transport.get_write_buffer_size():
            server.finish_one(made)
        else:
            self._loop.call_soon(server.finish_one, made)

    def eof_received(self) -> bool:
        """Keep a half-closed connection open while answers are due."""
        self._is_last = self._has_eof = True
        return not self._lingers and bool(self._busy or self._queue)

    def pause_writing(self) -> None:
        """Answer no more, and read no more, until the client reads."""
        self._is_full = True
        self._pace()
        self._server.note_full(self)

    def resume_writing(self) -> None:
        """Go on."""
        self._is_full = False
        self._server.note_read(self)
        self._pump()

    # ---- what comes in asks these

    def _hold(self, n_bytes: int) -> None:
        self._server.hold(self, n_bytes)

    def _give_leave(self) -> None:
        """Tell a client that it may send its body; not before the replies that are due."""
        if not self._queue and self._busy is None and self._transport:
            self._transport.write(wire.CONTINUE)

    # ---- answering

    def _pump(self) -> None:
        """Answer in order; a request that must wait holds back the ones behind it."""
        self._is_scheduled = False
        out: list[bytes] = []
        after: list[Prediction] = []
        queue, n = self._queue, 0
        while queue and self._busy is None and not self._is_full and not self._lingers:
            if n == _TURN_REQUESTS:  # others have theirs
                self._schedule()
                break
            n += 1
            request = queue.popleft()
            said = self._start(request)
            if type(said) is Paused:
                self._busy = self._loop.create_task(self._answer_later(request, said))
                break
            self._say(request, typing.cast("Response", said), out, after)
        self._flush(out, after)

    def _schedule(self) -> None:
        if not self._is_scheduled:
            self._is_scheduled = True
            self._loop.call_soon(self._pump)

    def _start(self, request: Request) -> Response | Paused:
        try:
            return self._server.api.start(request.method, request.path, request.body, request.head)
        except Exception as err:  # noqa: BLE001 - a fault of ours must not take the connection down
            return self._fault(err)

    async def _answer_later(self, request: Request, paused: Paused) -> None:
        try:
            response = await self._server.complete(paused, request.head.accepts)
        except CoveyError as err:
            response = self._failed(err)
        except Exception as err:  # noqa: BLE001 - the same
            response = self._fault(err)
        self._busy = None
        out: list[bytes] = []
        after: list[Prediction] = []
        self._say(request, response, out, after)
        self._flush(out, after)
        self._pump()

    def _fault(self, err: Exception) -> Response:
        self._loop.call_exception_handler({"message": "a request failed", "exception": err})
        return self._failed(ModelError(f"internal error: {type(err).__name__}", fix="See the agent's log."))

    def _failed(self, err: CoveyError) -> Response:
        return self._server.api.failed(err)

    def _say(self, request: Request, response: Response, out: list[bytes], after: list[Prediction]) -> None:
        """Put a reply to what goes out next."""
        response = wire.packed(response, request.head.accepts)
        self._server.api.meters.replies[response.status] += 1
        after += response.after
        is_head = request.method == "HEAD"
        is_last = not request.keep_alive or (self._server.is_stopping and not self._queue)
        if response.status == 200 and response.kind is JSON and not (response.headers or is_last or is_head):  # noqa: PLR2004
            out.append(wire.OK % (len(response.body), response.body))
            return
        out.append(wire.written(response, is_head=is_head, is_last=is_last))
        if is_last:
            self._is_last, self._refusal = True, None
            self._queue.clear()

    def _flush(self, out: list[bytes], after: list[Prediction]) -> None:
        """Send, hang up if that was the last, and have answers recorded once they are on their way."""
        is_through = not self._queue and self._busy is None and not self._lingers
        if self._refusal and is_through:
            self._server.api.meters.replies[self._refusal.status] += 1
            out.append(wire.written(self._refusal, is_head=False, is_last=True))
        if out and self._transport is not None:
            server = self._server
            server.n_turns += 1
            self.seen, self.turn = server.tick, server.n_turns
            self._transport.write(out[0] if len(out) == 1 else b"".join(out))
        if is_through:
            if self.held_bytes and not self._incoming.is_in_body:
                self._server.release(self)
            if self._is_last or self._refusal:
                self._hang_up()
        if after:
            self._loop.call_soon(self._server.finish, after)
        if self._is_paused or self._is_full or self._queue:
            self._pace()

    def _pace(self) -> None:
        """Read on only while what was read is answered and taken."""
        transport = self._transport
        if transport is None or transport.is_closing():
            return
        too_fast = self._is_full or len(self._queue) > _READ_AHEAD or (self._busy is not None and bool(self._queue))
        if too_fast and not self._is_paused:
            self._is_paused = True
            transport.pause_reading()
        elif self._is_paused and not too_fast:
            self._is_paused = False
            transport.resume_reading()

    # ---- hanging up

    def _hang_up(self) -> None:
        """Say that nothing more comes, and pass over what still does: a line cut under a sender loses the reply."""
        self._lingers = True
        self._server.release(self)
        transport = self._transport
        if transport is None:
            return
        if self._has_eof or not transport.can_write_eof():
            transport.close()
            return
        transport.write_eof()
        self._loop.call_later(_LINGER_S, self._end_lingering)

    def _end_lingering(self) -> None:
        """Close what the client has not closed; one that is still reading its reply has the idle time-out for it."""
        if self._transport and not self._transport.get_write_buffer_size():
            self._transport.close()

    def _pass_over(self, size: int) -> None:
        self._linger_bytes += size
        if self._linger_bytes > _MAX_LINGER_BYTES:
            self.abort()

    def n_unsent(self) -> int:
        """Bytes that the client has not taken yet."""
        return self._transport.get_write_buffer_size() if self._transport else 0

    def reads_on(self) -> bool:
        """Whether the client has taken something since this was asked last, and has more to take."""
        before, self._n_unsent = self._n_unsent, self.n_unsent()
        return 0 < self._n_unsent < before

    def shut(self) -> None:
        """Close; at once if something is still to be written, for it has had its time."""
        if self._transport is None:
            return
        if self._transport.get_write_buffer_size():
            self._transport.abort()
        else:
            self._transport.close()

    def abort(self) -> None:
        """Close at once, whatever is still to be written."""
        if self._transport:
            self._transport.abort()
