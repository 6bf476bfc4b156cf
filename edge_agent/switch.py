"""Which generation is served: load it, check it, swap it in, watch it on trial, commit it or roll it back."""

from __future__ import annotations

import asyncio
import functools
import logging
import sqlite3
import typing

from edge_agent.config import Layout
from edge_agent.files import BlobStore
from edge_agent.generation import Generation, Generations
from edge_agent.loading import give_memory_back, load_all
from edge_agent.predict.engine import ActiveModel, Engine
from edge_agent.predict.loaded import LoadedBundle
from edge_agent.predict.routes import EventClock
from edge_agent.probation import Watch
from edge_agent.records import AnyRecord, Spec
from edge_agent.telemetry.recorder import Recorder
from edge_agent.update.retreat import last_good, retreat
from edge_agent.update.state import State
from shared.errors import ConflictError, CoveyError, ModelError

_AGAIN_S = 30.0
_HEAD_START_S = 0.1  # loading takes the processor from the first answers, for which somebody waits already
log = logging.getLogger("covey.edge")


class Switch:
    """Everything about the generation that is served.

    Parameters
    ----------
    layout, device : Layout, str
        Where, and who.
    engine, clock, recorder, state : Engine, EventClock, Recorder, State
        What it acts upon.
    """

    def __init__(
        self, layout: Layout, device: str, *, engine: Engine, clock: EventClock, recorder: Recorder, state: State
    ) -> None:
        self.generations = Generations(layout.generations, layout.current, BlobStore(layout.blobs))
        self.state = state
        self._device, self._engine, self._clock, self._recorder = device, engine, clock, recorder
        self._bundles: dict[str, LoadedBundle] = {}
        self._on_trial: asyncio.Task[None] | None = None
        self._switching = asyncio.Lock()
        self.begun = asyncio.Event()  # as far as the tables, which answer from then on; or there is nothing to serve
        self._watch: Watch | None = None
        self._job = state.trial

    async def boot(self) -> None:
        """End what a process that died was about to do, then serve what `current` names.

        A generation on trial that keeps killing the process is rolled back.
        """
        try:
            await self._boot()
        finally:
            self.begun.set()

    async def _boot(self) -> None:
        self._restart()
        digest = self.generations.running()
        if not digest:
            log.info("nothing to serve yet", extra={"device": self._device})
            return
        died = "the process died again and again while this was on trial"
        if self._count_boot(digest) == 0 and await self._try_roll_back(died):
            return
        try:
            await self.activate(digest, at_start=True)
        except (CoveyError, OSError, sqlite3.Error) as err:
            log.exception("the generation can not be served", extra={"generation": digest})
            if self.state.state_of(digest) == "trial":
                await self._try_roll_back(str(err))

    def _count_boot(self, digest: str) -> int:
        """Count a start; a disk that takes no more keeps nothing from being served."""
        try:
            return self.state.boot(digest)
        except sqlite3.Error:
            log.exception("this start could not be counted", extra={"generation": digest})
            return -1

    def _restart(self) -> None:
        """Do what the table says of the position in which the last process was."""
        now, todo = self._job.read(), self._job.restart()
        if todo == "commit":
            self._commit(now.generation)
        elif todo == "roll_back":
            before = last_good(self.state, self.generations, now.generation)
            retreat(self.state, self.generations, now.generation, before, now.outcome)
            self._job.end(told=True)

    def watch(self, record: AnyRecord) -> None:
        """Count answers and failures while a generation is on trial."""
        if self._watch:
            self._watch.add(record)

    def stop(self) -> None:
        """Stop watching; a generation on trial stays on trial."""
        if self._on_trial:
            self._on_trial.cancel()
        self._on_trial = self._watch = None

    async def activate(self, digest: str, *, at_start: bool = False) -> None:
        """Load, check against the golden rows, swap, and begin probation if it is new.

        Raises
        ------
        CoveyError
            It can not be served; what was served before still is.
        """
        async with self._switching:
            failures = await self._activate(digest, at_start=at_start)
        await asyncio.to_thread(self._note_activation, digest, failures)

    async def _activate(self, digest: str, *, at_start: bool = False, back: bool = False) -> list[ModelError]:
        """Do so, while nobody else may; whatever waits for the disk or for a model does so in a thread."""
        generation, bundles, models = await asyncio.to_thread(self._open, digest)
        await asyncio.to_thread(self._note, lambda: self._recorder.add_specs([_spec(one) for one in bundles.values()]))
        if at_start:
            # Tables answer at once, while models still load.
            self._swap(generation, models, bundles)
            self.begun.set()
            if any(bundle.table for bundle in bundles.values()):
                await asyncio.sleep(_HEAD_START_S)
        # One that was put away for want of memory comes back when it is asked for.
        new = [bundle for bundle in bundles.values() if not bundle.is_loaded.is_set() and not bundle.is_parked]
        may_lack_model = (at_start or back) and self.state.state_of(digest) == "good"
        failures = await load_all(new)
        if failures and not may_lack_model:
            raise failures[0]
        if not at_start:
            self._swap(generation, models, bundles)
        await asyncio.to_thread(give_memory_back)
        self.stop()
        if self.state.state_of(digest) is None:  # the database was lost: what runs has to prove itself again
            await asyncio.to_thread(self.state.add_trial, digest)
        if self.state.state_of(digest) == "trial":
            await self._begin_probation(generation)
        elif self._job.read().position == "probation":
            await asyncio.to_thread(self._job.end, "another generation took its place", told=True)
        return failures

    def _open(self, digest: str) -> tuple[Generation, dict[str, LoadedBundle], dict[str, ActiveModel]]:
        """Read a generation from its files: what it is, its bundles by hash of their manifests, and its models."""
        generation = self.generations.read(digest)
        bundles = self._open_bundles(generation, digest)
        models = {
            entry.model: ActiveModel(
                entry, {version: bundles[sha256] for version, sha256 in entry.versions.items()}, self._device
            )
            for entry in generation.models
        }
        return generation, bundles, models

    async def reload(self) -> None:
        """Serve what runs from its files as they are now: nothing that is open is used again.

        Raises
        ------
        CoveyError
            It can not be served; what was served before still is.
        """
        self._bundles = {}
        await self.activate(self.generations.running())

    def _note_activation(self, digest: str, failures: list[ModelError]) -> None:
        self._note(lambda: self._recorder.add_event("activated", digest[:12]))
        for failure in failures:
            log.error("a model that was good does not work any more", extra={"reason": str(failure)})
            self._note(functools.partial(self._recorder.add_event, "model-broken", str(failure)))

    def _note(self, write: typing.Callable[[], None]) -> None:
        """Write something for people; a disk that takes no more stops nothing else."""
        try:
            write()
        except (OSError, sqlite3.Error):
            log.exception("this could not be kept")

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
        self._clock.replay = generation.replay
        if generation.replay:
            self._clock.advance(self._recorder.spool.watermark_s)
        self._engine.activate(generation, models)
        self._bundles = bundles

    async def _begin_probation(self, generation: Generation) -> None:
        await asyncio.to_thread(self._job.move, "probation", generation.digest, "")
        self._watch = Watch(generation, self.generations.manifests(generation.digest))
        self._on_trial = asyncio.get_running_loop().create_task(self._probation(generation, self._watch))

    async def _probation(self, generation: Generation, watch: Watch) -> None:
        """Watch a new generation; commit needs nothing but what this device sees itself."""
        deadline = asyncio.get_running_loop().time() + generation.probation_s
        verdict = None
        while verdict is None and asyncio.get_running_loop().time() < deadline:
            await asyncio.sleep(min(generation.probation_s, 1.0) / 2)
            verdict = watch.verdict()
        self._on_trial = self._watch = None
        while True:
            try:
                if verdict:
                    await self._try_roll_back(verdict.reason, (verdict.to_blame,), only=generation.digest)
                else:
                    await self._keep(generation.digest)
            except (CoveyError, OSError, sqlite3.Error):
                log.exception("a trial could not be ended; it is tried again", extra={"generation": generation.digest})
                await asyncio.sleep(_AGAIN_S)
            else:
                return

    async def _keep(self, digest: str) -> None:
        """Commit a generation, if it is still the one that runs and is watched."""
        async with self._switching:
            now = self._job.read()
            if self.generations.running() != digest or now.generation != digest:
                return
            if now.position != "commit":
                await asyncio.to_thread(self._job.move, "commit")
            await asyncio.to_thread(self._commit, digest)

    def _commit(self, digest: str) -> None:
        self.state.mark(digest, "good")
        self._note(lambda: self._recorder.add_event("committed", digest[:12]))
        self._job.end("committed", told=True)

    async def _try_roll_back(self, reason: str, models: tuple[str, ...] = (), *, only: str = "") -> bool:
        """Go back if there is anything to go back to; else what is there goes on, as good as it can."""
        try:
            await self.roll_back(reason, models, only=only)
        except ConflictError:
            return False
        return True

    async def roll_back(self, reason: str, models: tuple[str, ...] = (), *, only: str = "") -> str:
        """Go back to the last good generation; return its digest.

        Parameters
        ----------
        models : tuple of str
            Who is to blame, as `retreat` takes it: what is new of them is not tried again.
        only : str
            Do nothing if another generation runs by now.

        Raises
        ------
        ConflictError
            There is none.
        """
        async with self._switching:
            bad = self.generations.running()
            if only and bad != only:
                return bad
            before = last_good(self.state, self.generations, bad)
            said = "rolled-back" if before else "failing"
            await asyncio.to_thread(self._note, lambda: self._recorder.add_event(said, f"{bad[:12]}: {reason}"))
            log.error("rolling back", extra={"generation": bad, "to": before, "reason": reason})
            if not before:
                raise ConflictError("there is no good generation to go back to", fix="It goes on with what it has.")
            self.stop()
            await asyncio.to_thread(self._leave, bad, before, reason, models)
            failures = await self._activate(before, back=True)
            if self._job.read().position == "roll_back":
                await asyncio.to_thread(self._job.end, f"rolled back from {bad[:12]}: {reason}", told=True)
        await asyncio.to_thread(self._note_activation, before, failures)
        return before

    def _leave(self, bad: str, before: str, reason: str, models: tuple[str, ...]) -> None:
        if self._job.read().position != "roll_back":
            self._job.move("roll_back", bad, reason)
        retreat(self.state, self.generations, bad, before, reason, models)


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
