"""What all connections share: limits, room for bodies, turns, and an end in which nobody is cut off."""

from __future__ import annotations

import asyncio
import typing

from edge_agent.predict import wire
from edge_agent.predict.apart import SlowModelError
from edge_agent.predict.asking import Finishing, Paused, finishing
from edge_agent.predict.connection import Connection
from edge_agent.predict.engine import Engine, Prediction
from edge_agent.predict.hosts import Hosts
from edge_agent.predict.patience import BusyError, Patience
from edge_agent.predict.quick import Quick
from edge_agent.predict.replies import Response
from edge_agent.predict.routes import Api

_TICKS = 8
_MIN_TICK_S, _MAX_TICK_S = 0.02, 5.0
_EVICTED_SHARE = 32
_NEW_SHARE = 2
_STEP_S = 0.02


class Limits(typing.NamedTuple):
    """How much is taken on.

    Parameters
    ----------
    max_body_bytes : int
        Larger requests are refused.
    max_connections : int
        Beyond that the one that has been silent longest makes room.
    idle_timeout_s : float
        Who sends no whole request, or reads nothing, for so long is hung up on.
    max_waiting : int
        Requests that may wait for a model or for their turn.
    max_held_bytes : int
        What large requests, and replies that nobody reads, may take up together.
    model_threads : int
        Slow models that run at a time.
    model_timeout_s : float
        A slow model's run is stopped after so long.
    """

    max_body_bytes: int = 4 << 20
    max_connections: int = 1024
    idle_timeout_s: float = 75.0
    max_waiting: int = 256
    max_held_bytes: int = 64 << 20
    model_threads: int = 2
    model_timeout_s: float = 5.0


class HttpServer:
    """Answers connections; make it where the event loop runs.

    Parameters
    ----------
    api : Api
        The routes.
    limits : Limits
        How much is taken on.
    """

    def __init__(self, api: Api, limits: Limits) -> None:
        self.api, self.limits = api, limits
        self.patience = Patience(
            max_waiting=limits.max_waiting, n_threads=limits.model_threads, run_timeout_s=limits.model_timeout_s
        )
        # Heads are known by their bytes, and what one listener lets in another may not.
        self._quick, self._quick_private = (Quick(api.engine, api.clock.now) for _ in range(2))
        self.hosts: Hosts | None = None
        self.connections: set[Connection] = set()
        self.tick = self.n_turns = self._n_admitted = 0
        self.is_stopping = False
        self._held_bytes = 0
        self._full: dict[Connection, int] = {}
        self._finishing: set[asyncio.Task[None]] = set()
        self._sweeper: asyncio.Task[None] | None = None
        self.n_evicted = self.n_refused = 0
        api.gauges.append(self.gauges)

    @property
    def engine(self) -> Engine:
        """What answers."""
        return self.api.engine

    def new_connection(self) -> Connection:
        """Return the protocol for a new connection, which may have to name one of `hosts`."""
        self._start_sweeping()
        return Connection(self, self._quick, self.hosts)

    def new_private_connection(self) -> Connection:
        """Return the protocol for a new connection that no web page can have opened."""
        self._start_sweeping()
        return Connection(self, self._quick_private, None)

    def _start_sweeping(self) -> None:
        if self._sweeper is None:
            self._sweeper = asyncio.get_running_loop().create_task(self._sweep())

    def gauges(self) -> dict[str, float]:
        """Numbers for ``GET /metrics``."""
        return {
            "http_connections": len(self.connections),
            "http_waiting": self.patience.n_waiting,
            "http_full": len(self._full),
            "http_held_bytes": self._held_bytes,
            "http_evicted_total": self.n_evicted,
            "http_refused_total": self.n_refused,
        }

    # ---- room

    def admit(self, connection: Connection) -> None:
        """Let a connection in; where there are too many, some that have been silent longest go.

        Raises
        ------
        BusyError
            All the others are being answered.
        """
        if len(self.connections) >= self.limits.max_connections:
            idle = [one for one in self.connections if not one.is_busy]
            if not idle:
                self.n_refused += 1
                raise BusyError("too many connections", fix="Try again later.")
            idle.sort(key=self._worth)
            for one in idle[: max(1, len(idle) // _EVICTED_SHARE)]:  # the scan is paid for by many newcomers
                self.n_evicted += 1
                self.connections.discard(one)
                one.abort()
        self._n_admitted += 1
        connection.born = self._n_admitted
        self.connections.add(connection)

    def _worth(self, one: Connection) -> tuple[int, int]:
        """Order in which connections make room: silent ones, those answered long ago, and new ones last."""
        if one.turn:
            return 1, one.turn
        is_new = self._n_admitted - one.born < self.limits.max_connections // _NEW_SHARE
        return (2 if is_new else 0), one.born

    def forget(self, connection: Connection) -> None:
        """A connection is gone."""
        self.connections.discard(connection)
        self._full.pop(connection, None)
        self.release(connection)

    def hold(self, connection: Connection, n_bytes: int) -> None:
        """Take up room for a large body.

        Raises
        ------
        BusyError
            There is none.
        """
        if self._held_bytes + n_bytes > self.limits.max_held_bytes:
            raise BusyError("no room for another large body", field="body", fix="Try again later.")
        self._held_bytes += n_bytes
        connection.held_bytes += n_bytes

    def release(self, connection: Connection) -> None:
        """Give back the room of a connection's bodies."""
        self._held_bytes -= connection.held_bytes
        connection.held_bytes = 0

    def note_full(self, connection: Connection) -> None:
        """A client does not read; of many, those go that have been at it longest."""
        self._full[connection] = connection.n_unsent()
        while len(self._full) > 1 and sum(self._full.values()) > self.limits.max_held_bytes:
            oldest = next(iter(self._full))
            del self._full[oldest]
            oldest.abort()

    def note_read(self, connection: Connection) -> None:
        """A client reads again."""
        self._full.pop(connection, None)

    # ---- time

    async def _sweep(self) -> None:
        """Count ticks, and hang up on who has been silent for too many: one timer for all connections."""
        tick_s = min(max(self.limits.idle_timeout_s / _TICKS, _MIN_TICK_S), _MAX_TICK_S)
        patience = max(1, round(self.limits.idle_timeout_s / tick_s))
        while True:
            await asyncio.sleep(tick_s)
            self.tick += 1
            for one in list(self.connections):
                if one.is_busy or one.reads_on():
                    one.seen = self.tick
                elif self.tick - one.seen > patience:
                    one.shut()

    def finish_one(self, answer: Prediction) -> None:
        """`finish` for a single answer, at once where no slow model is to be asked."""
        try:
            self.engine.finish(answer)
        except SlowModelError:
            self.finish([answer])

    def finish(self, answers: typing.Sequence[Prediction]) -> None:
        """Score other arms and record answers whose replies are on their way."""
        steps = finishing(self.engine, answers)
        for pause in steps:
            task = asyncio.get_running_loop().create_task(self._finish_later(steps, pause))
            self._finishing.add(task)
            task.add_done_callback(self._finishing.discard)
            return

    async def complete(self, paused: Paused, accepts: bytes) -> Response:
        """Answer what has to wait; compress a large reply where that holds nobody up."""
        response = await self.patience.complete(paused)
        if accepts and len(response.body) > wire.LARGE_BYTES:
            return await asyncio.to_thread(wire.packed, response, accepts)
        return response

    async def _finish_later(self, steps: Finishing, pause: typing.Any) -> None:  # noqa: ANN401 - see Finishing
        await self.patience.finish(steps, pause)

    # ---- the end

    async def stop(self, *, grace_s: float = 0.25, patience_s: float = 10.0) -> None:
        """Answer what is asked, tell everybody that this is the last reply, and end.

        Parameters
        ----------
        grace_s : float
            Who is silent has so long to ask once more, and learn that way that this is the end.
        patience_s : float
            Who is still being answered after so long is cut off.
        """
        self.is_stopping = True
        loop = asyncio.get_running_loop()
        began = loop.time()
        while self.connections and loop.time() < began + patience_s:
            if loop.time() >= began + grace_s:
                for one in list(self.connections):
                    if not one.is_busy and not one.n_unsent():
                        one.shut()
            await asyncio.sleep(_STEP_S)
        for one in list(self.connections):
            one.abort()
        self.patience.close()
        left = list(self._finishing)
        if self._sweeper:
            self._sweeper.cancel()
            left.append(self._sweeper)
        await asyncio.gather(*left, return_exceptions=True)
