"""The worker: ticks the rollout controller, reads triggers, runs training in processes of its own. One at a time."""

from __future__ import annotations

import contextlib
import fcntl
import logging
import subprocess
import sys
import threading
import time
import typing

from cloud import trigger
from cloud.config import CONFIG_FILE, Project
from cloud.hooks.telling import Messenger
from cloud.publish.repository import SignedRepository
from cloud.rollout import controller
from cloud.store.restored import BEHIND
from cloud.store.store import Store
from shared.clock import day_of
from shared.errors import ConflictError, CoveyError

log = logging.getLogger("covey.worker")
_ACTOR = "worker"
_REFRESH_S = 600.0
_IDLE_TICK_S = 1.0
_PATIENCE_S = 1.0


class Flock:
    """Batches come in flocks, and a tick costs the same for one as for all: it waits for the last, but not for long.

    Where ticks are as far apart as its patience lasts, none waits.

    Attributes
    ----------
    took_s : float
        How long the last tick took: the next one waits as long for what may still be coming.
    """

    def __init__(self) -> None:
        self._revision, self._moved_s, self._since_s = -1, -_PATIENCE_S, -_PATIENCE_S
        self.took_s = 0.0

    def is_in(self, revision: int, now_s: float) -> bool:
        """Whether to tick: nothing has come for a while, or too much time has passed since a tick."""
        is_coming = revision != self._revision
        if is_coming:
            self._revision, self._moved_s = revision, now_s
        if (is_coming or now_s < self._moved_s + self.took_s) and now_s < self._since_s + _PATIENCE_S:
            return False
        self._since_s = now_s
        return True


class Worker:
    """Everything that happens by itself.

    Parameters
    ----------
    project : Project
        Only one worker at a time acts on a project; another one waits.
    """

    def __init__(self, project: Project) -> None:
        self.project = project
        self._settings_s = (project.folder / CONFIG_FILE).stat().st_mtime
        self.store = Store(project)
        self._repository = SignedRepository(project.repository, project.keys)
        self._children: dict[int, subprocess.Popen[bytes]] = {}
        self._refreshed_s = 0.0
        self._read_at = (-1, -1)
        self._seen: tuple[int, ...] = ()
        self._still: tuple[int, ...] | None = None
        self._ticked_s = 0.0
        self._flock = Flock()

    def run(self, stop: threading.Event) -> None:
        """Tick until told to stop."""
        with self._alone(stop):
            self.store.set_meta("settings_s", self._settings_s)
            messenger = Messenger(self.project)
            while not stop.is_set():
                try:
                    began_s = time.monotonic()
                    if self._flock.is_in(self.store.evidence.revision(), began_s) and self.once():
                        self._flock.took_s = time.monotonic() - began_s
                except CoveyError as err:
                    log.exception("a tick failed; the next one tries again", extra={"code": err.code})
                except Exception:
                    log.exception("a tick failed; the next one tries again")
                stop.wait(self.project.settings.serve.tick_interval_s)
            messenger.stop()
        self._end_children()
        self.store.close()

    def run_once(self) -> controller.Tick | None:
        """Tick once, alone.

        Raises
        ------
        ConflictError
            Another worker is at work.
        """
        with self._lock_file() as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as err:
                raise ConflictError("another worker is at work on this project", fix="Let it, or stop it.") from err
            return self.once()

    def _lock_file(self) -> typing.TextIO:
        return (self.project.var / "worker.lock").open("w")

    def once(self) -> controller.Tick | None:
        """Do one tick of everything; nothing at all if nothing has come since the last."""
        # Where nothing was changed and no child has ended, there is no need to read what a tick reacts to.
        now, is_early = self._stirred(), time.monotonic() - self._ticked_s < _IDLE_TICK_S
        if is_early and (now == self._still or self._signature() == self._seen):
            self._still = now
            return None
        behind = int(self.store.get_meta(BEHIND))
        if behind:
            self._repository.move_on(behind)
            self.store.set_meta(BEHIND, 0)
            log.info("the project is a copy: devices that have seen more take what is signed now")
        if not self._refreshed_s or time.monotonic() - self._refreshed_s > _REFRESH_S:
            for role in self._repository.refresh():
                log.info("signed anew", extra={"role": role})
            self._refreshed_s = time.monotonic()
        done = controller.tick(self.project, self.store, self._publish)
        for line in done.happened:
            log.info(line)
        if done.published:
            log.info("channels", extra={"published": done.published, "event_s": done.event_s})
        self._read_triggers(done.event_s)
        self._do_jobs()
        # Last, so that whoever waits for this tick finds everything done that it caused.
        with self.store.db.transaction():
            self.store.set_meta("tick_revision", done.revision)
            self.store.set_meta("ticked_s", time.time())
        # What came while it went on was not seen by it, and is for the next one, at once.
        self._still, self._seen = None, (done.revision, *self._signature()[1:])
        self._ticked_s = time.monotonic()
        return done

    def _stirred(self) -> tuple[int, ...]:
        return *self.store.db.changes(), sum(child.poll() is not None for child in self._children.values())

    def _signature(self) -> tuple[int, ...]:
        """Everything a tick reacts to but time."""
        open_jobs = [job["id"] for job in self.store.jobs.open()]
        finished = sum(child.poll() is not None for child in self._children.values())
        return (
            self.store.evidence.revision(),
            len(self.store.rollouts.open_orders()),
            sum(row["id"] for row in self.store.rollouts.all_running()),
            len(open_jobs),
            finished,
        )

    def _publish(self, files: typing.Mapping[str, bytes]) -> None:
        self._repository.publish("channels", files)

    @contextlib.contextmanager
    def _alone(self, stop: threading.Event) -> typing.Iterator[None]:
        """Hold the project's worker lock; it ends with the process, however that ends."""
        with self._lock_file() as file:
            while not stop.is_set():
                try:
                    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                except BlockingIOError:
                    stop.wait(1.0)
                else:
                    break
            yield

    # ---- triggers

    def _read_triggers(self, event_s: float) -> None:
        """Read triggers when a day has passed or data has come; queue a training for the first that fires."""
        now = (day_of(event_s), len(self.store.jobs.open()))
        if now == self._read_at:
            return
        self._read_at = now
        for name, model in self.project.settings.models.items():
            for settings in model.trigger:
                reading = trigger.read(self.store, name, model, settings, event_s)
                if reading.fires:
                    self._fire(name, settings.action, settings.rollout, reading, event_s)
                    break

    def _fire(self, name: str, action: str, rollout: bool, reading: trigger.Reading, event_s: float) -> None:
        with self.store.db.transaction():
            job = self.store.jobs.add(name, action, {"rollout": rollout}, reading.why)
            self.store.jobs.trigger_fired(name, reading.trigger, day_of(event_s), reading.value, reading.why)
            self.store.audit.add("trigger fired", name, actor=_ACTOR, reason=reading.why, job=job)
        log.info("trigger fired", extra={"model": name, "why": reading.why, "job": job})

    # ---- jobs

    def _do_jobs(self) -> None:
        """Start a process for each queued job, and take up jobs again whose process is gone."""
        for job, child in list(self._children.items()):
            if child.poll() is not None:
                del self._children[job]
        self.store.jobs.requeue_orphans()
        for row in self.store.jobs.open():
            if row["state"] == "queued" and row["id"] not in self._children:
                command = [
                    sys.executable,
                    "-m",
                    "cloud.cli",
                    "--project",
                    str(self.project.folder),
                    "job",
                    str(row["id"]),
                ]
                self._children[row["id"]] = subprocess.Popen(command, stdin=subprocess.DEVNULL)
                break

    def _end_children(self) -> None:
        for child in self._children.values():
            child.terminate()
        for child in self._children.values():
            with contextlib.suppress(subprocess.TimeoutExpired):
                child.wait(timeout=10)
