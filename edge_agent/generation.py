"""A generation: everything that runs together on the device, written as one folder and switched as one link."""

from __future__ import annotations

import hashlib
import os
import pathlib
import typing

import msgspec

from edge_agent.files import BlobStore, fsync_folder, remove_tree, switch_link, write_atomic
from shared import codec
from shared.bundle import Manifest, parse_manifest
from shared.channel import Experiment, Guard
from shared.errors import NotFoundError

FILE = "generation.json"
MANIFEST = "manifest.json"


class GenerationModel(msgspec.Struct, frozen=True, kw_only=True):
    """The versions of one model that run, by version and by hash of their manifest.

    Parameters
    ----------
    candidate, also : str, tuple of (str, str)
        What is tried: one version, and further ones with the hashes of their manifests.
    experiment : Experiment, optional
        With candidates, how they are tried, and their arms. Without any, this device is in the control group.
    """

    model: str
    incumbent: str
    incumbent_sha256: str
    candidate: str = ""
    candidate_sha256: str = ""
    also: tuple[tuple[str, str], ...] = ()
    experiment: Experiment | None = None
    guard: Guard = Guard()

    @property
    def versions(self) -> dict[str, str]:
        """Version to manifest hash."""
        pairs = {self.incumbent: self.incumbent_sha256}
        return pairs | ({self.candidate: self.candidate_sha256} if self.candidate else {}) | dict(self.also)

    @property
    def candidates(self) -> dict[int, str]:
        """Arm to version of what is tried."""
        versions = ((self.candidate,) if self.candidate else ()) + tuple(version for version, _ in self.also)
        numbers = self.experiment.arms if self.experiment else ()
        return dict(zip(numbers or range(1, len(versions) + 1), versions, strict=True))

    @property
    def epoch(self) -> int:
        """Number of the experiment's stage; 0 without an experiment."""
        return self.experiment.epoch if self.experiment else 0


class Generation(codec.Record, frozen=True, kw_only=True):
    """What runs together: models, arms, and how to behave."""

    SCHEMA: typing.ClassVar[str] = "covey.generation/1"
    region: str
    models: tuple[GenerationModel, ...]
    probation_s: float
    replay: bool = False

    @property
    def incumbents(self) -> list[tuple[str, str]]:
        """(model, version) of what answers."""
        return [(entry.model, entry.incumbent) for entry in self.models]

    @property
    def all_versions(self) -> list[tuple[str, str]]:
        """(model, version) of everything in it."""
        return [(entry.model, version) for entry in self.models for version in entry.versions]

    @property
    def digest(self) -> str:
        """SHA-256 (hex) of the generation; the name of its folder."""
        return hashlib.sha256(codec.to_json(self)).hexdigest()


class Generations:
    """The generations on disk.

    Parameters
    ----------
    folder : Path
        Holds one folder for each, named by digest.
    current : Path
        The link that says which one runs: the only authority.
    blobs : BlobStore
        Where the files are.
    """

    def __init__(self, folder: pathlib.Path, current: pathlib.Path, blobs: BlobStore) -> None:
        self.folder, self.current, self.blobs = folder, current, blobs
        folder.mkdir(parents=True, exist_ok=True)

    def write(self, generation: Generation, manifests: typing.Mapping[str, bytes]) -> str:
        """Write a generation's folder of links to blobs that are all there; return its digest.

        Parameters
        ----------
        manifests : mapping
            Manifest hash to its bytes, for every version of the generation.
        """
        digest = generation.digest
        if (self.folder / digest / FILE).exists():
            fsync_folder(self.folder)  # whoever wrote it may have been killed before its name was durable
            return digest
        staging = self.folder / f".{digest}.{os.urandom(4).hex()}.tmp"
        staging.mkdir()
        for entry in generation.models:
            for version, sha256 in entry.versions.items():
                folder = staging / entry.model / version
                folder.mkdir(parents=True)
                write_atomic(folder / MANIFEST, manifests[sha256])
                for file in parse_manifest(manifests[sha256]).files:
                    os.link(self.blobs.path(file.sha256), folder / file.name)
                fsync_folder(folder)
            fsync_folder(staging / entry.model)
        write_atomic(staging / FILE, codec.to_json(generation))
        staging.rename(self.folder / digest)
        fsync_folder(self.folder)
        return digest

    def read(self, digest: str) -> Generation:
        """Read a generation that is on disk."""
        try:
            return codec.from_json((self.folder / digest / FILE).read_bytes(), Generation)
        except FileNotFoundError as err:
            raise NotFoundError(f"generation {digest[:12]} is not on this device") from err

    def manifest_bytes(self, digest: str, model: str, version: str) -> bytes:
        """Read the manifest of one version in a generation."""
        return (self.folder / digest / model / version / MANIFEST).read_bytes()

    def version_folder(self, digest: str, model: str, version: str) -> pathlib.Path:
        """Folder with the files of one version."""
        return self.folder / digest / model / version

    def running(self) -> str:
        """Digest of the generation that `current` points at; empty before the first."""
        try:
            return self.current.readlink().name
        except FileNotFoundError:
            return ""

    def switch(self, digest: str) -> None:
        """Make a generation the one that runs."""
        switch_link(self.current, f"{self.folder.name}/{digest}")

    def list(self) -> list[str]:
        """Digests on disk, oldest first."""
        folders = [path for path in self.folder.iterdir() if not path.name.startswith(".")]
        return [path.name for path in sorted(folders, key=lambda path: path.stat().st_mtime_ns)]

    def manifests(self, digest: str) -> dict[tuple[str, str], Manifest]:
        """Return (model, version) to manifest, for everything in a generation."""
        return {
            (entry.model, version): parse_manifest(self.manifest_bytes(digest, entry.model, version))
            for entry in self.read(digest).models
            for version in entry.versions
        }

    def collect_garbage(self, keep: typing.Collection[str]) -> None:
        """Delete generations that are not to be kept and blobs that no generation uses."""
        for path in list(self.folder.iterdir()):
            if path.name not in keep:
                remove_tree(path)
        used = {
            file.sha256 for digest in keep for manifest in self.manifests(digest).values() for file in manifest.files
        }
        self.blobs.keep_only(used)


def new_versions(generation: Generation, before: Generation | None) -> list[tuple[str, str, str]]:
    """Return (model, version, manifest hash) of what a generation has and the one before it had not."""
    known = {
        (entry.model, version): sha256
        for entry in (before.models if before else ())
        for version, sha256 in entry.versions.items()
    }
    return [
        (entry.model, version, sha256)
        for entry in generation.models
        for version, sha256 in entry.versions.items()
        if known.get((entry.model, version)) != sha256
    ]
