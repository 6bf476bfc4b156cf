"""Bring the device to what its channel says: check, download, verify, stage, self-test, activate. One story."""

from __future__ import annotations

import functools
import pathlib
import time
import typing

from edge_agent.config import Identity, Layout, UpdateSettings
from edge_agent.files import BlobStore, sweep
from edge_agent.generation import Generation, Generations
from edge_agent.update.choose import choose
from edge_agent.update.consent import Consent
from edge_agent.update.desire import check_channel, concerning, desired_generation
from edge_agent.update.download import DELTA_MEMORY_BYTES, Downloader, Tail, Tell, ignore
from edge_agent.update.metadata_folder import accept_channel
from edge_agent.update.parts import keep_parts
from edge_agent.update.repair import mend, stage
from edge_agent.update.retreat import keep_last, last_good, retreat
from edge_agent.update.signed import Manifests, Signed
from edge_agent.update.state import State
from edge_agent.update.trust import Repository, Stream
from shared import bundle
from shared.channel import BundleRef, Channel
from shared.errors import ConflictError, ModelError, StorageError, UnreachableError
from shared.labels import Held

Asker = typing.Callable[[float], Consent]
SelfTest = typing.Callable[[pathlib.Path, bundle.Manifest], None]
_CHANNEL_FLOOR = "channel"


class Server(typing.Protocol):
    """The serving process, asked over its private socket; both raise UnreachableError if none runs."""

    def active(self) -> str:
        """Return the digest of what it serves."""

    def activate(self, digest: str) -> None:
        """Make it serve a generation; ModelError if it can not."""


class Outcome(typing.NamedTuple):
    """What an update did."""

    channel: Channel
    generation: str
    changed: bool
    note: str = ""
    fetched_bytes: int = 0
    waits: str = ""
    repaired: tuple[str, ...] = ()


class Installer:
    """Updates one device.

    Parameters
    ----------
    layout, identity : Layout, Identity
        Where and who.
    state, generations, repository, server : State, Generations, Repository, Server
        What it works with.
    stream : callable
        Fetches a URL in pieces.
    self_test : callable
        Tries a bundle in a process of its own; raises ModelError.
    consent : callable
        Given how long a generation has lain ready, in seconds, says whether to switch to it now.
    tail, tell, delta_memory_bytes : callable, callable, int
        See `Downloader`.
    wants, labels : UpdateSettings, callable
        Which variants the owner wants and how much memory a model may have; the labels that this device goes by.
    """

    def __init__(
        self,
        layout: Layout,
        identity: Identity,
        *,
        state: State,
        repository: Repository,
        server: Server,
        stream: Stream,
        self_test: SelfTest,
        tail: Tail | None = None,
        consent: Asker = lambda _waited_s: Consent(granted=True),
        tell: Tell = ignore,
        delta_memory_bytes: int = DELTA_MEMORY_BYTES,
        wants: UpdateSettings = UpdateSettings(),  # noqa: B008 - frozen
        labels: typing.Callable[[], Held] = dict,
    ) -> None:
        self._layout, self._identity = layout, identity
        self._state, self._repository, self._server = state, repository, server
        self._self_test, self._consent, self._tell = self_test, consent, tell
        self._job, self._wants, self._labels = state.update, wants, labels
        self._signed = Signed(repository, layout.tuf)
        self._blobs = BlobStore(layout.blobs)
        self._download = Downloader(
            self._blobs, stream, repository.blob_url, tail=tail, tell=tell, memory_bytes=delta_memory_bytes
        )
        self._generations = Generations(layout.generations, layout.current, self._blobs)

    def bring_up_to_date(self) -> Outcome:
        """Run one update.

        Raises
        ------
        UnreachableError, TrustError, WireError, ModelError
            Nothing has changed then: what ran goes on running.
        """
        self._finish_roll_back()
        # Asked by each pass: what one that broke off had fetched is old by the next. What was refused is told anew.
        is_news = not self._repository.is_as_marked() or bool(self._job.read().outcome)
        says = self._look() if is_news else self._read_channel()
        note, repaired, before_bytes = "", [], self._download.fetched_bytes
        for _ in range(1 + says.n_bundles):
            manifests = self._signed.manifests(says, self._identity.device)
            chosen = functools.partial(self._choose, manifests)
            generation = desired_generation(says, self._identity.device, self._state.refused(), chosen)
            self._refuse_known_bad(generation)
            digest = generation.digest
            keep_parts(self._blobs.folder, manifests.files())
            if digest == self._generations.running():
                repaired = mend(self._generations, generation, manifests.by_sha256, self._download.fetch)
                changed = self._ensure_served(digest)
                break
            if not is_news:
                self._job.begin()
                is_news = True
            self._job.check_loop(digest)
            self._fetch(generation, digest, manifests)
            self._job.move("stage")
            stage(self._generations, generation, manifests.by_sha256, self._download.fetch)
            note = self._test(generation, digest, manifests)
            if note:
                continue
            waits = self._objection(generation, digest)
            changed = not waits
            if waits:
                self._job.move("ready", outcome=f"ready, and waits: {waits}")
                return Outcome(says, digest, changed, "", self._download.fetched_bytes - before_bytes, waits)
            self._activate(digest)
            break
        else:
            raise ModelError(note, field="self-test")
        self._state.raise_floor(_CHANNEL_FLOOR, says.sequence)
        if is_news or changed:
            self._repository.mark()
            self._job.end(note, told=not (changed or note))
        if changed:
            keep_last(self._state, self._generations, digest)
        return Outcome(
            says, digest, changed, note, self._download.fetched_bytes - before_bytes, repaired=tuple(repaired)
        )

    def _look(self) -> Channel:
        """Begin an update, and see what is signed now."""
        for folder in (self._layout.store, self._layout.tuf, self._layout.blobs):
            sweep(folder)
        self._job.begin()
        self._repository.refresh()
        return self._read_channel()

    def _finish_roll_back(self) -> None:
        """End what a process that died in the middle of going back had begun."""
        if self._job.restart() == "roll_back":
            now = self._job.read()
            before = last_good(self._state, self._generations, now.generation)
            retreat(self._state, self._generations, now.generation, before, now.outcome)
            self._job.end()

    def _read_channel(self) -> Channel:
        says = self._signed.channel(self._identity.region)
        check_channel(says, self._identity.region, self._state.floor(_CHANNEL_FLOOR))
        accept_channel(self._layout.tuf)
        return concerning(says, self._labels())

    def _choose(self, manifests: Manifests, model: str, ref: BundleRef) -> str:
        """Hash of the manifest of the form that this device takes; empty if none fits, which is kept on record."""
        offers = manifests.offers(model, ref)
        choice = choose(
            offers,
            wanted=self._wants.variants,
            memory_bytes=self._wants.memory_bytes,
            refused=self._state.refused(),
        )
        self._state.note_fit(model, ref.version, choice.reason if not choice.sha256 else "")
        return choice.sha256

    def _refuse_known_bad(self, generation: Generation) -> None:
        """Stay with what runs if the incumbent itself has failed here."""
        refused = self._state.refused()
        for entry in generation.models:
            reason = refused.get((entry.model, entry.incumbent, entry.incumbent_sha256))
            if reason:
                raise ModelError(
                    f"failed here before: {reason}",
                    field=f"{entry.model}@{entry.incumbent}",
                    fix="Publish another version, or: covey-edge sync --retry",
                )

    def _fetch(self, generation: Generation, digest: str, manifests: Manifests) -> None:
        """Download what is missing, then read all that is new once more; what is damaged is fetched again, once."""
        files = [
            (file, f"{entry.model}@{version} {file.name}", sha256)
            for entry in generation.models
            for version, sha256 in entry.versions.items()
            for file in manifests.manifest(sha256).files
        ]
        for _ in range(2):
            self._job.move("download", digest)
            for file, name, _ in files:
                if not self._blobs.has(file.sha256, file.length):
                    self._download.fetch(file, name)
            self._job.move("verify")
            untested = [(file, name) for file, name, sha256 in files if not self._state.has_passed(sha256)]
            damaged = [(file, name) for file, name in untested if not self._blobs.verify(file.sha256)]
            if not damaged:
                return
            for file, name in damaged:
                self._tell("damaged", f"{name} is fetched again")
                self._blobs.drop(file.sha256)
        raise StorageError(f"{damaged[0][1]} does not stay what it was", fix="Look at the disk.")

    def _test(self, generation: Generation, digest: str, manifests: Manifests) -> str:
        """Self-test what is new here; what fails is refused.

        Returns
        -------
        str
            Why there is to be another generation: without this candidate, or with another variant.
        """
        self._job.move("self_test")
        for entry in generation.models:
            for version, sha256 in entry.versions.items():
                if self._state.has_passed(sha256):
                    continue
                folder = self._generations.version_folder(digest, entry.model, version)
                try:
                    self._self_test(folder, manifests.manifest(sha256))
                except ModelError as err:
                    self._state.refuse(entry.model, version, sha256, str(err))
                    self._state.mark(digest, "bad", str(err))
                    if version in entry.candidates.values() or self._has_other(manifests, entry.model, version, sha256):
                        return str(err)
                    raise
                self._state.passed_self_test(sha256)
        return ""

    def _has_other(self, manifests: Manifests, model: str, version: str, sha256: str) -> bool:
        """Whether the version can be had in a form that has not failed here."""
        refused = self._state.refused()
        return any((model, version, other) not in refused for other in manifests.like(sha256))

    def _objection(self, generation: Generation, digest: str) -> str:
        """Return why the switch has to wait; what this device has run before, and its first versions, never wait."""
        known = {version for other in self._state.good() for version in self._versions_of(other)}
        if not self._generations.running() or set(generation.all_versions) <= known:
            return ""
        since_s = self._state.ready_since(digest)
        consent = self._consent(max(0.0, time.time() - since_s))
        return "" if consent.granted else consent.reason

    def _versions_of(self, digest: str) -> list[tuple[str, str]]:
        return self._generations.read(digest).all_versions if digest in self._generations.list() else []

    def _activate(self, digest: str) -> None:
        """Switch, then tell the server; if it can not serve the generation, switch back."""
        before = self._generations.running()
        if self._state.state_of(digest) == "bad":
            raise ConflictError(f"generation {digest[:12]} was rolled back here before", fix="covey-edge sync --retry")
        self._job.move("activate")
        self._state.add_trial(digest)
        self._generations.switch(digest)
        try:
            self._server.activate(digest)
        except UnreachableError:
            return  # none runs; it will serve this when it starts
        except ModelError as err:
            self._job.move("roll_back", outcome=str(err))
            retreat(self._state, self._generations, digest, before, str(err))
            raise

    def _ensure_served(self, digest: str) -> bool:
        """Activate again if a crash came between the switch and the server's hearing of it."""
        try:
            if self._server.active() == digest:
                return False
            self._server.activate(digest)
        except UnreachableError:
            return False
        except ModelError as err:
            if self._state.state_of(digest) == "trial":  # it never came to answer
                retreat(
                    self._state, self._generations, digest, last_good(self._state, self._generations, digest), str(err)
                )
            raise
        return True
