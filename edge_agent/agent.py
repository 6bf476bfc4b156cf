"""The serving process: answers requests, keeps the journal, and runs the sync child."""

from __future__ import annotations

import asyncio
import logging
import pathlib
import signal
import sys
import typing

import msgspec

from edge_agent import control
from edge_agent.config import Identity, Layout, Settings
from edge_agent.files import lock
from edge_agent.loading import give_memory_back, wait_until_idle
from edge_agent.notify import Notifier
from edge_agent.predict import listen
from edge_agent.predict.engine import ActiveModel, Engine
from edge_agent.predict.hosts import Hosts, is_loopback
from edge_agent.predict.meters import Meters
from edge_agent.predict.numbers import MemoryMeter
from edge_agent.predict.routes import Api, EventClock
from edge_agent.predict.server import HttpServer, Limits
from edge_agent.predict.shelf import Shelf
from edge_agent.records import AnyRecord
from edge_agent.supervise import PATIENCE_S, SyncChild
from edge_agent.switch import Switch
from edge_agent.telemetry.recorder import Recorder
from edge_agent.update.retreat import EVERYTHING
from edge_agent.update.state import State
from shared import __version__
from shared.errors import ModelError

log = logging.getLogger("covey.edge")
_ROOM_EVERY_FOLDS = 60
_LOADING_PATIENCE_S = 5.0
# A thread that adds up or loads holds an answer up for so long at each of its system calls; 5 ms by default.
_THREAD_TURN_S = 0.0005


class Agent:
    """One device.

    Parameters
    ----------
    layout, identity, settings : Layout, Identity, Settings
        Where, who and how.
    """

    def __init__(self, layout: Layout, identity: Identity, settings: Settings) -> None:
        self.layout, self.identity, self.settings = layout, identity, settings
        self.state = State(layout.state_db)
        self.recorder = Recorder(layout, settings.spool.limit_bytes)
        self.clock = EventClock()
        self.meters = Meters()
        self.engine = Engine(identity.device, layout.id_key.read_bytes(), self._record)
        self._memory = MemoryMeter(self.engine)
        self.switch = Switch(
            layout,
            identity.device,
            engine=self.engine,
            clock=self.clock,
            recorder=self.recorder,
            state=self.state,
        )
        self.api = Api(
            self.engine,
            self.clock,
            self.status,
            meters=self.meters,
            gauges=self._gauges,
            max_body_bytes=settings.serve.max_body_bytes,
        )
        self.sync = SyncChild(layout.store, PATIENCE_S + settings.sync.self_test_timeout_s)
        self.address = ""
        self._stop = asyncio.Event()

    # ---- life

    async def run(self, on_ready: typing.Callable[[str], None], *, with_sync: bool = True) -> None:
        """Serve until SIGTERM or SIGINT.

        Parameters
        ----------
        on_ready : callable
            Told the address once requests are answered.
        with_sync : bool
            Start the sync child.
        """
        sys.setswitchinterval(_THREAD_TURN_S)
        loop, notifier = asyncio.get_running_loop(), Notifier()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._stop.set)
        serve = self.settings.serve
        http = HttpServer(self.api, self._limits())
        with lock(self.layout.serve_lock, fix="An agent or a Predictor serves from here already: ask it, or stop it."):
            listener = await listen.on_port(http.new_connection, serve.host, serve.port)
            host, port = listener.sockets[0].getsockname()[:2]
            self.address = f"http://{listen.as_written(host)}:{port}"
            if is_loopback(host) or serve.names:
                http.hosts = Hosts((*serve.names, listen.as_written(serve.host)))
            unix = listen.UnixListener(pathlib.Path(serve.socket), int(serve.socket_mode, 8))
            if serve.socket:
                await unix.open(http.new_private_connection)
            private = await control.serve(self.layout.control, self._command)
            tasks = [loop.create_task(self.switch.boot()), loop.create_task(self._keep_folding())]
            if with_sync:
                tasks.append(loop.create_task(self.sync.run()))
            tasks.append(loop.create_task(notifier.keep_beating()))
            if serve.memory_bytes:
                shelf = Shelf(self.engine, self.meters, serve.memory_bytes, give_memory_back)
                tasks.append(loop.create_task(shelf.run(http.patience.wanted)))
            await self.switch.begun.wait()
            notifier.say("READY=1", f"STATUS=answers on {self.address}")
            on_ready(self.address)
            await self._stop.wait()
            notifier.say("STOPPING=1")
            listener.close()
            unix.close()
            private.close()
            await http.stop(patience_s=serve.stop_timeout_s)
            await self._end(tasks)

    async def run_inside(self, on_ready: typing.Callable[[], None], *, with_sync: bool) -> None:
        """Do all of `run` but to listen for requests, inside another program that asks `engine` itself.

        The caller holds the lock of the store, and calls `stop` to end this.
        """
        loop = asyncio.get_running_loop()
        private = await control.serve(self.layout.control, self._command)
        tasks = [loop.create_task(self.switch.boot()), loop.create_task(self._keep_folding())]
        if with_sync:
            tasks.append(loop.create_task(self.sync.run()))
        await self.switch.begun.wait()
        on_ready()
        await self._stop.wait()
        private.close()
        await self._end(tasks)

    def stop(self) -> None:
        """Let `run` or `run_inside` come to its end; call it where the event loop runs."""
        self._stop.set()

    def _limits(self) -> Limits:
        serve = self.settings.serve
        return Limits(
            max_body_bytes=serve.max_body_bytes,
            max_connections=listen.connections_that_fit(serve.max_connections),
            idle_timeout_s=serve.idle_timeout_s,
            max_waiting=serve.max_waiting,
            max_held_bytes=max(serve.max_held_bytes, serve.max_body_bytes),
            model_threads=serve.model_threads,
            model_timeout_s=serve.model_timeout_s,
        )

    def _gauges(self) -> dict[str, float]:
        """What ``GET /metrics`` tells beside answers and connections."""
        spool = [*self.layout.store.glob("spool.db*"), *self.layout.journal.glob("*")]
        return {"spool_bytes": float(sum(path.stat().st_size for path in spool if path.is_file()))}

    async def _end(self, tasks: list[asyncio.Task[None]]) -> None:
        """Stop in an orderly way: nothing that was written is left unfolded."""
        await self.sync.stop()
        for task in tasks:
            task.cancel()
        self.switch.stop()
        await asyncio.gather(*tasks, return_exceptions=True)
        await asyncio.to_thread(self._fold)
        await asyncio.to_thread(wait_until_idle, _LOADING_PATIENCE_S)
        # A cancelled task leaves its thread running; a database that is closed under it would take the process down.
        await asyncio.get_running_loop().shutdown_default_executor()
        self.recorder.close()
        self.state.close()

    async def _keep_folding(self) -> None:
        n = 0
        while True:
            await asyncio.sleep(self.settings.spool.fold_interval_s)
            try:
                await asyncio.to_thread(self._fold, is_asked=False)
                n += 1
                if n % _ROOM_EVERY_FOLDS == 0:
                    await asyncio.to_thread(self.recorder.make_room, self.clock.now())
            except Exception:
                log.exception("folding failed; it will be tried again")

    def _fold(self, *, is_asked: bool = True) -> int:
        """Add up the journal; before there is a channel nobody knows whether event time is now or a replay's."""
        if not self.engine.generation:
            return 0
        for detail in self.engine.parity.news():
            self.recorder.add_event("table-differs", detail)
        for sample in self._memory.news(self.clock.now()):
            self.recorder.record(sample)
        return self.recorder.fold(self.clock.now(), is_asked=is_asked)

    def _record(self, record: AnyRecord) -> None:
        self.recorder.record(record)
        self.switch.watch(record)
        self.meters.take(record)

    # ---- commands on the private socket

    async def _command(self, request: dict[str, typing.Any]) -> dict[str, object]:
        command = request.get("command")
        if command in ("activate", "reload"):
            is_new = command == "activate"
            await (self.switch.activate(str(request.get("generation"))) if is_new else self.switch.reload())
            return {"active": self.engine.generation}
        if command == "active":
            return {"active": self.engine.generation}
        if command == "flush":
            folded = await asyncio.to_thread(self._fold)
            return {"active": self.engine.generation, "folded": folded}
        if command == "sync":
            return await self.sync.request(float(request.get("timeout_s", 60)))
        if command == "rollback":
            reason = str(request.get("reason") or "asked for on the device")
            return {"active": await self.switch.roll_back(reason, EVERYTHING)}
        if command == "status":
            return self.status()
        raise ModelError(f"no command {command!r:.40}")

    def status(self) -> dict[str, object]:
        """What ``GET /v1/status`` and ``covey-edge status`` show."""
        digest = self.engine.generation
        return {
            "device": self.identity.device,
            "region": self.identity.region,
            "agent": __version__,
            "address": self.address,
            "generation": digest,
            "state": self.state.state_of(digest) or "",
            "models": {name: _describe(active) for name, active in self.engine.models.items()},
            "totals": self.recorder.totals(),
            "table_checks": {name: one._asdict() for name, one in self.engine.parity.counts.items()},
            "event_time_s": self.clock.now(),
            "update": msgspec.to_builtins(self.state.update.read()),
            "trial": msgspec.to_builtins(self.state.trial.read()),
            "sync": self.sync.last,
        }


def _describe(active: ActiveModel) -> dict[str, object]:
    lists = active.incumbent.lists
    return {
        "incumbent": active.entry.incumbent,
        "variant": active.incumbent.manifest.variant,
        "candidate": active.entry.candidate,
        "also": [version for version, _ in active.entry.also],
        "epoch": active.epoch,
        "candidate_share_bp": active.share_bp,
        "lists": lists and {"length": lists.says.length, "items": lists.says.n_items, "contexts": lists.n_contexts},
        "error": active.incumbent.error,
    }
