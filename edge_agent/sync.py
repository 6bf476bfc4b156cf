"""One pass of the sync child: refresh, update, deliver; a crash or a hang of it delays no prediction."""

from __future__ import annotations

import contextlib
import datetime as dt
import pathlib
import random
import sqlite3
import time
import typing

import msgspec

from edge_agent import control
from edge_agent.config import Identity, Layout, Settings
from edge_agent.device_key import KeyFile
from edge_agent.files import BlobStore, lock
from edge_agent.generation import Generations
from edge_agent.link import Link
from edge_agent.passes import Pass
from edge_agent.telemetry.forward import forward, parse_acknowledgement, status_digest
from edge_agent.telemetry.outbox import Outbox
from edge_agent.update.consent import Consent, ask_consent
from edge_agent.update.desire import check_channel
from edge_agent.update.folder import URL as FOLDER_URL
from edge_agent.update.folder import stream_from
from edge_agent.update.install import Installer
from edge_agent.update.job import OUTCOME_CHARACTERS
from edge_agent.update.machine import SWITCHED_NOTHING
from edge_agent.update.repair import spoiled
from edge_agent.update.retry import next_pass_s
from edge_agent.update.self_test import run_self_test
from edge_agent.update.state import State
from edge_agent.update.trust import Repository, Where
from shared import __version__, bundle, protocol
from shared.channel import CAN, Channel, parse_channel
from shared.errors import CoveyError, StorageError, UnreachableError
from shared.labels import in_force
from shared.telemetry import Acknowledgement, DeviceStatus, ModelStatus

_FIRST_POLL_S = 5.0
_DEFAULT_POLL_S = 60.0
_ERROR_CHARACTERS = 2000
_WAITS_CHARACTERS = 300
_CHANNEL_FLOOR = "channel"


def _note(done: Pass, err: CoveyError) -> None:
    done.ok, done.error, done.code = False, str(err)[:_ERROR_CHARACTERS], err.code


class Sync:
    """Everything a pass needs, kept between passes while the child stays.

    Parameters
    ----------
    layout, identity, settings : Layout, Identity, Settings
        Where, who and how.
    source : Path, optional
        Folder with the repository, in place of the cloud; nothing is delivered then.
    failures : int
        Failed passes in a row, so far.
    beat : callable
        Is called whenever something has happened, so that nobody takes a slow pass for one that hangs.
    """

    def __init__(
        self,
        layout: Layout,
        identity: Identity,
        settings: Settings,
        *,
        source: pathlib.Path | None = None,
        failures: int = 0,
        beat: typing.Callable[[], None] = lambda: None,
    ) -> None:
        self._layout, self._identity, self._update = layout, identity, settings.update
        self._own_labels = settings.device.labels
        self.state = State(layout.state_db)
        self.outbox = Outbox(layout.spool_db)
        self._generations = Generations(layout.generations, layout.current, BlobStore(layout.blobs))
        self._link = Link(
            identity.cloud_url,
            identity.device,
            KeyFile(layout.device_key),
            timeout_s=settings.sync.timeout_s,
            beat=beat,
        )
        self._server, self._source = control.ServerProxy(layout.control), source
        stream = stream_from(source) if source else self._link.stream
        where = Where.below(FOLDER_URL if source else self._link.url + protocol.REPOSITORY_PATH)
        self._repository = Repository(layout.tuf, layout.root.read_bytes(), where, stream, self.state)

        def self_test(folder: pathlib.Path, manifest: bundle.Manifest) -> None:
            beat()
            run_self_test(folder, manifest, timeout_s=settings.sync.self_test_timeout_s)

        self._installer = Installer(
            layout,
            identity,
            state=self.state,
            repository=self._repository,
            server=self._server,
            stream=stream,
            tail=None if source else self._link.tail,
            self_test=self_test,
            consent=self._ask_consent,
            tell=self.outbox.add_event,
            delta_memory_bytes=settings.sync.delta_memory_bytes,
            wants=settings.update,
            labels=self.labels,
        )
        self._told: bytes = b""
        self._told_at = 0.0
        self._waits = ""
        self._failures, self._beat = failures, beat

    def _ask_consent(self, waited_s: float) -> Consent:
        """Ask the owner's settings and the application whether to switch now."""
        now = dt.datetime.now().astimezone()
        return ask_consent(self._update, ask=self._link.objection, now=now, waited_s=waited_s)

    def one_pass(self) -> Pass:
        """Update, then deliver; a failure of the first does not stop the second unless there is no network."""
        done = Pass()
        self._link.retry_after_s = 0.0
        try:
            with lock(self._layout.sync_lock, wait=True):
                self.flush()
                self._update_and_deliver(done)
            self._describe(done)
        except CoveyError as err:
            if done.ok:  # what went wrong first says more
                _note(done, err)
        except (OSError, sqlite3.Error) as err:
            _note(done, StorageError(f"{type(err).__name__}: {err}", fix="Free some space, or look at the disk."))
        self._failures = done.failures = 0 if done.ok else self._failures + 1
        done.next_s = self._next_s()
        return done

    def _describe(self, done: Pass) -> None:
        done.channel_sequence = self.state.floor(_CHANNEL_FLOOR)
        running = self._generations.running()
        if running:
            entries = self._generations.read(running).models
            done.models = tuple(f"{entry.model}@{entry.incumbent}" for entry in entries)

    def _update_and_deliver(self, done: Pass) -> None:
        before = self.state.update.read().outcome
        try:
            outcome = self._installer.bring_up_to_date()
            done.changed, done.generation = outcome.changed, outcome.generation
            done.fetched_bytes = outcome.fetched_bytes
            done.error = outcome.note
            done.waits = self._waits = outcome.waits
            if outcome.repaired:
                done.repaired = outcome.repaired
                self._tell_repaired(outcome.repaired)
        except UnreachableError as err:
            self.state.update.end(before, told=True)
            _note(done, err)
        except CoveyError as err:
            self._remember(err, before)
            _note(done, err)
        except (OSError, sqlite3.Error) as err:
            self._rest(err)
            raise
        if self._source:
            return
        try:
            done.delivered = self._deliver()
            if self.state.update.read().position == "report":
                self.state.update.end(told=True)
        except CoveyError as err:
            if done.ok and not isinstance(err, UnreachableError):
                self._remember(err, before)
            _note(done, err)
        finally:
            if self._link.labels is not None:
                self.state.set_labels(self._link.labels)

    def close(self) -> None:
        """Close databases and connections."""
        self.state.close()
        self.outbox.close()
        self._link.close()

    def _remember(self, err: CoveyError, before: str) -> None:
        """Keep a refusal once, however often it repeats."""
        said = f"{err.code}: {err}"
        self.state.update.end(said)
        if said[:OUTCOME_CHARACTERS] != before:
            self.outbox.add_event("update-refused", said)

    def _rest(self, err: Exception) -> None:
        """Come to rest where nothing was switched: a disk that is full for a day is no update that never ends."""
        with contextlib.suppress(OSError, sqlite3.Error, CoveyError):
            if self.state.update.read().position in SWITCHED_NOTHING:
                self.state.update.end(f"{type(err).__name__}: {err}")

    def _tell_repaired(self, names: tuple[str, ...]) -> None:
        """Say what was repaired, and let it be served."""
        self.outbox.add_event("repaired", ", ".join(names))
        with contextlib.suppress(UnreachableError):  # no server runs: it reads the files when it starts
            self._server.reload()

    def check_files(self) -> list[str]:
        """Read all blobs; let those that are spoiled be fetched again by the next pass; return their names."""
        with lock(self._layout.sync_lock, wait=True):
            found = spoiled(self._generations.blobs, self._beat)
            for sha256 in found:
                self._generations.blobs.drop(sha256)
                self.outbox.add_event("damaged", f"blob {sha256[:12]} is not what it was; it will be fetched again")
        return found

    def flush(self) -> None:
        """Make the serving process add up what it has written, if one runs."""
        try:
            self._server.flush()
        except CoveyError:
            return  # no server runs: what it had written before is added up when it starts

    def _deliver(self) -> int:
        channel = self._channel()
        heartbeat_s = channel.heartbeat_s if channel else 0.0
        status = self.status()
        digest = status_digest(status)
        hello = digest != self._told or time.monotonic() - self._told_at >= heartbeat_s
        delivered = forward(
            self.outbox, self._identity.device, self.status, self._send, now_s=time.time, say_hello=hello
        )
        if delivered:
            self._told, self._told_at = digest, time.monotonic()
        return delivered

    def _send(self, body: bytes) -> Acknowledgement:
        return parse_acknowledgement(self._link.deliver(body))

    def _channel(self) -> Channel | None:
        """Return the channel that this device acts upon; one that was refused says nothing here."""
        try:
            channel = parse_channel((self._layout.tuf / "channel.json").read_bytes())
            check_channel(channel, self._identity.region, self.state.floor(_CHANNEL_FLOOR))
        except (OSError, sqlite3.Error, CoveyError):
            return None
        return channel

    def _next_s(self) -> float:
        channel, asked_s = self._channel(), self._link.retry_after_s
        if channel is None:
            poll_s = _DEFAULT_POLL_S if self._generations.running() else _FIRST_POLL_S
            return next_pass_s(self._failures, poll_s, asked_s, random.uniform)
        return next_pass_s(self._failures, channel.poll_interval_s, asked_s, random.uniform, channel.poll_jitter_ratio)

    def labels(self) -> dict[str, str]:
        """Return the labels that this device goes by."""
        return in_force(self._own_labels, self.state.labels(), self._update.variants)

    def status(self) -> DeviceStatus:
        """Return what the device is doing, as the serving process has it."""
        try:
            active = self._server.active()
        except CoveyError:
            active = ""
        models = self._generations.read(active).models if active else ()
        refused: dict[str, dict[str, str]] = {}
        unfit: dict[str, tuple[str, ...]] = {}
        running = {(entry.model, version) for entry in models for version in entry.versions}
        for (model, version, manifest), reason in self.state.blamed().items():
            if (model, version) not in running:  # in another form, perhaps
                refused.setdefault(model, {})[version] = reason[:200]
                if not manifest:  # it was not tried: no form of it fits
                    unfit[model] = (*unfit.get(model, ()), version)
        return DeviceStatus(
            generation=active,
            state=self.state.state_of(active) or "",
            watermark_s=self.outbox.watermark_s,
            channel_sequence=self.state.floor(_CHANNEL_FLOOR),
            agent=__version__,
            models=tuple(
                ModelStatus(
                    model=entry.model,
                    incumbent=entry.incumbent,
                    candidate=entry.candidate,
                    also=tuple(version for version, _ in entry.also),
                    epoch=entry.epoch,
                    refused=refused.get(entry.model, {}),
                    unfit=unfit.get(entry.model, msgspec.UNSET),
                )
                for entry in models
            ),
            spool_bytes=self.outbox.size_bytes(),
            stale_s=self._repository.stale_s(),
            waits=self._waits[:_WAITS_CHARACTERS],
            can=CAN,
            labels=self.labels(),
        )
