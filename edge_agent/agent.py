"""The serving process: answers requests, keeps the journal, runs the sync child, commits or rolls back generations."""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import gc
import logging
import signal
import typing

from edge_agent import control
from edge_agent.config import Identity, Layout, Settings
from edge_agent.files import BlobStore, lock
from edge_agent.generation import Generation, Generations
from edge_agent.predict.engine import ActiveModel, Engine
from edge_agent.predict.loaded import LoadedBundle
from edge_agent.predict.routes import Api, EventClock
from edge_agent.predict.server import HttpServer
from edge_agent.records import Answered, AnyRecord, Failed, Spec
from edge_agent.supervise import SyncChild
from edge_agent.telemetry.recorder import Recorder
from edge_agent.update.state import State
from shared import __version__
from shared.errors import ConflictError, CoveyError, ModelError

log = logging.getLogger("covey.edge")
_ROOM_EVERY_FOLDS = 60


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
        self.generations = Generations(layout.generations, layout.current, BlobStore(layout.blobs))
        self.recorder = Recorder(layout, settings.spool.limit_bytes)
        self.clock = EventClock()
        self.engine = Engine(identity.device, layout.id_key.read_bytes(), self._record)
        self.api = Api(self.engine, self.clock, self.status)
        self.sync = SyncChild(layout.store)
        self.address = ""
        self._bundles: dict[str, LoadedBundle] = {}
        self._on_trial: asyncio.Task[None] | None = None
        self._switching = asyncio.Lock()
        self._trial_requests = self._trial_failures = 0
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
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._stop.set)
        limits = self.settings.serve
        http = HttpServer(
            self.api,
            max_body_bytes=limits.max_body_bytes,
            max_connections=limits.max_connections,
            idle_timeout_s=limits.idle_timeout_s,
        )
        with lock(self.layout.serve_lock):
            listener = await loop.create_server(http.new_connection, limits.host, limits.port, backlog=512)
            host, port = listener.sockets[0].getsockname()[:2]
            self.address = f"http://{host}:{port}"
            private = await control.serve(self.layout.control, self._command)
            tasks = [loop.create_task(self._boot()), loop.create_task(self._keep_folding())]
            if with_sync:
                tasks.append(loop.create_task(self.sync.run()))
            on_ready(self.address)
            await self._stop.wait()
            listener.close()
            private.close()
            http.close()
            await self._end(tasks)

    async def _end(self, tasks: list[asyncio.Task[None]]) -> None:
        """Stop in an orderly way: nothing that was written is left unfolded."""
        await self.sync.stop()
        for task in tasks:
            task.cancel()
        if self._on_trial:
            self._on_trial.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await asyncio.to_thread(self._fold)
        self.recorder.close()
        self.state.close()

    async def _boot(self) -> None:
        """Serve what `current` names; a generation on trial that keeps killing the process is rolled back."""
        digest = self.generations.running()
        if not digest:
            log.info("nothing to serve yet", extra={"device": self.identity.device})
            return
        if self.state.boot(digest) == 0:
            await self._roll_back("the process died again and again while this was on trial")
            return
        try:
            await self._activate(digest, at_start=True)
        except CoveyError as err:
            log.exception("the generation can not be served", extra={"generation": digest})
            if self.state.state_of(digest) == "trial":
                await self._roll_back(str(err))

    async def _keep_folding(self) -> None:
        n = 0
        while True:
            await asyncio.sleep(self.settings.spool.fold_interval_s)
            try:
                await asyncio.to_thread(self._fold)
                n += 1
                if n % _ROOM_EVERY_FOLDS == 0:
                    await asyncio.to_thread(self.recorder.make_room, self.clock.now())
            except Exception:
                log.exception("folding failed; it will be tried again")

    def _fold(self) -> int:
        """Add up the journal; before there is a channel nobody knows whether event time is now or a replay's."""
        return self.recorder.fold(self.clock.now()) if self.engine.generation else 0

    def _record(self, record: AnyRecord) -> None:
        self.recorder.record(record)
        if self._on_trial and isinstance(record, Answered | Failed):
            self._trial_requests += 1
            self._trial_failures += isinstance(record, Failed)

    # ---- generations

    async def _activate(self, digest: str, *, at_start: bool = False) -> None:
        """Load, check against the golden rows, swap, and begin probation if it is new.

        Raises
        ------
        CoveyError
            It can not be served; what was served before still is.
        """
        async with self._switching:
            generation = self.generations.read(digest)
            bundles = self._open_bundles(generation, digest)
            models = {
                entry.model: ActiveModel(
                    entry,
                    {version: bundles[sha256] for version, sha256 in entry.versions.items()},
                    self.identity.device,
                )
                for entry in generation.models
            }
            if at_start:
                # Tables answer at once, while models still load.
                self._swap(generation, models, bundles)
            new = [bundle for sha256, bundle in bundles.items() if not bundle.is_loaded.is_set()]
            may_lack_model = at_start and self.state.state_of(digest) == "good"
            failures = await asyncio.to_thread(_load_all, new)
            if failures and not may_lack_model:
                raise failures[0]
            if not at_start:
                self._swap(generation, models, bundles)
            if self.state.state_of(digest) != "good":
                self._begin_probation(generation)
        await asyncio.to_thread(self._note_activation, digest, failures)

    def _note_activation(self, digest: str, failures: list[ModelError]) -> None:
        self.recorder.add_event("activated", digest[:12])
        for failure in failures:
            log.error("a model that was good does not work any more", extra={"reason": str(failure)})
            self.recorder.add_event("model-broken", str(failure))

    def _open_bundles(self, generation: Generation, digest: str) -> dict[str, LoadedBundle]:
        """Manifest hash to bundle; one that is open already is used again."""
        manifests = self.generations.manifests(digest)
        return {
            sha256: self._bundles.get(sha256)
            or LoadedBundle(
                self.generations.version_folder(digest, entry.model, version), manifests[entry.model, version]
            )
            for entry in generation.models
            for version, sha256 in entry.versions.items()
        }

    def _swap(self, generation: Generation, models: dict[str, ActiveModel], bundles: dict[str, LoadedBundle]) -> None:
        self.recorder.add_specs([_spec(bundle) for bundle in bundles.values()])
        self.clock.replay = generation.replay
        if generation.replay:
            self.clock.advance(self.recorder.spool.watermark_s)
        self.engine.activate(generation, models)
        self._bundles = bundles
        _give_memory_back()

    def _begin_probation(self, generation: Generation) -> None:
        if self._on_trial:
            self._on_trial.cancel()
        self._trial_requests = self._trial_failures = 0
        self._on_trial = asyncio.get_running_loop().create_task(self._probation(generation))

    async def _probation(self, generation: Generation) -> None:
        """Watch a new generation; commit needs nothing but what this device sees itself."""
        deadline = asyncio.get_running_loop().time() + generation.probation_s
        reason = ""
        while not reason and asyncio.get_running_loop().time() < deadline:
            await asyncio.sleep(min(generation.probation_s, 1.0) / 2)
            reason = self._guard(generation)
        self._on_trial = None
        if reason:
            await self._roll_back(reason)
        else:
            await asyncio.to_thread(self.state.mark, generation.digest, "good")
            await asyncio.to_thread(self.recorder.add_event, "committed", generation.digest[:12])

    def _guard(self, generation: Generation) -> str:
        """Return why the generation must go, or nothing."""
        for entry in generation.models:
            ratio = self._trial_failures / max(self._trial_requests, 1)
            if self._trial_requests >= entry.guard.min_requests and ratio > entry.guard.failed_ratio:
                return f"{self._trial_failures} of {self._trial_requests} answers failed during probation"
        return ""

    async def _roll_back(self, reason: str) -> str:
        """Go back to the last good generation; return its digest.

        Raises
        ------
        ConflictError
            There is none.
        """
        bad = self.generations.running()
        on_disk = set(self.generations.list())
        before = next((digest for digest in self.state.good() if digest in on_disk and digest != bad), "")
        self.recorder.add_event("rolled-back" if before else "failing", f"{bad[:12]}: {reason}")
        log.error("rolling back", extra={"generation": bad, "to": before, "reason": reason})
        if not before:
            raise ConflictError("there is no good generation to go back to", fix="It goes on with what it has.")
        self.state.move("roll_back", bad, reason)
        old = self.generations.read(before)
        known = {(entry.model, v): sha256 for entry in old.models for v, sha256 in entry.versions.items()}
        for entry in self.generations.read(bad).models:
            for version, sha256 in entry.versions.items():
                if known.get((entry.model, version)) != sha256:
                    self.state.refuse(entry.model, version, sha256, reason)
        self.state.mark(bad, "bad", reason)
        self.generations.switch(before)
        await self._activate(before)
        self.state.move("idle", before, f"rolled back from {bad[:12]}: {reason}")
        return before

    # ---- commands on the private socket

    async def _command(self, request: dict[str, typing.Any]) -> dict[str, object]:
        command = request.get("command")
        if command == "activate":
            await self._activate(str(request.get("generation")))
            return {"active": self.engine.generation}
        if command == "active":
            return {"active": self.engine.generation}
        if command == "flush":
            folded = await asyncio.to_thread(self._fold)
            return {"active": self.engine.generation, "folded": folded}
        if command == "sync":
            return await self.sync.request(float(request.get("timeout_s", 60)))
        if command == "rollback":
            return {"active": await self._roll_back(str(request.get("reason") or "asked for on the device"))}
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
            "event_time_s": self.clock.now(),
            "update": self.state.job(),
            "sync": self.sync.last,
        }


def _load_all(bundles: list[LoadedBundle]) -> list[ModelError]:
    """Load models and reproduce their golden rows; return what failed.

    A bundle without its model still has its table and its default, so a generation that once was good goes on.
    """
    failures = []
    for bundle in bundles:
        bundle.load_model()
        try:
            bundle.check_golden()
        except ModelError as err:
            failures.append(err)
    return failures


def _spec(bundle: LoadedBundle) -> Spec:
    manifest = bundle.manifest
    return Spec(
        model=manifest.model,
        version=manifest.version,
        task=manifest.task,
        metric=manifest.metric,
        metric_scale=manifest.metric_scale,
        label_window_s=manifest.label_window_s,
    )


def _describe(active: ActiveModel) -> dict[str, object]:
    return {
        "incumbent": active.entry.incumbent,
        "candidate": active.entry.candidate,
        "epoch": active.epoch,
        "candidate_share_bp": active.share_bp,
        "error": active.incumbent.error,
    }


def _give_memory_back() -> None:
    """Return what loading left behind to the system."""
    gc.collect()
    gc.freeze()
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).malloc_trim(0)
