"""Read the channel and the manifests that it names from the signed repository; an error names the target."""

from __future__ import annotations

import pathlib
import typing

from edge_agent.update.desire import refs_for
from edge_agent.update.metadata_folder import OFFERED
from edge_agent.update.trust import Repository
from shared import bundle, channel
from shared.channel import BundleRef, Channel
from shared.errors import TrustError, WireError

T = typing.TypeVar("T")


class Manifests:
    """Signed manifests, by reference and by hash."""

    def __init__(self) -> None:
        self.by_sha256: dict[str, bytes] = {}
        self._parsed: dict[str, bundle.Manifest] = {}
        self._offers: dict[tuple[str, BundleRef], list[tuple[str, bundle.Manifest]]] = {}

    def add(self, ref: BundleRef, manifest: bundle.Manifest, data: bytes) -> None:
        """Take a manifest in."""
        sha256 = bundle.digest_of(data)
        self.by_sha256[sha256] = data
        self._parsed[sha256] = manifest
        self._offers.setdefault((manifest.model, ref), []).append((sha256, manifest))

    def offers(self, model: str, ref: BundleRef) -> list[tuple[str, bundle.Manifest]]:
        """Hash and manifest of each variant of a version, in the order of the channel."""
        return self._offers[model, ref]

    def like(self, sha256: str) -> list[str]:
        """Hashes of all variants of the version that one of them belongs to."""
        several = ([one for one, _ in offers] for offers in self._offers.values())
        return next(hashes for hashes in several if sha256 in hashes)

    def files(self) -> frozenset[str]:
        """Hashes of all files of all of them."""
        return frozenset(file.sha256 for manifest in self._parsed.values() for file in manifest.files)

    def manifest(self, sha256: str) -> bundle.Manifest:
        """Look a manifest up by hash."""
        return self._parsed[sha256]


class Signed:
    """The signed targets that an update needs.

    Parameters
    ----------
    repository : Repository
        Verifies.
    folder : Path
        Keeps what was fetched last.
    """

    def __init__(self, repository: Repository, folder: pathlib.Path) -> None:
        self._repository, self._folder = repository, folder
        self._read: dict[str, tuple[typing.Any, bytes]] = {}
        self._edition = -1

    def channel(self, region: str) -> Channel:
        """Return the channel of a region, as it is signed now."""
        path = channel.target_path(region)
        says, _ = self._target(path, self._folder / OFFERED, channel.parse_channel)
        return says

    def manifests(self, says: Channel, device: str) -> Manifests:
        """Return the signed manifests of everything that a channel names for a device."""
        found = Manifests()
        for entry in says.models:
            for ref in refs_for(entry, device):
                for variant in ref.variants:
                    found.add(ref, *self._manifest(entry.model, ref.version, variant))
        return found

    def _manifest(self, model: str, version: str, variant: str) -> tuple[bundle.Manifest, bytes]:
        path = bundle.target_path(model, version, variant)
        cache = self._folder / "manifests" / f"{model}@{version}@{variant}.json"
        manifest, data = self._target(path, cache, bundle.parse_manifest)
        if (manifest.model, manifest.version, manifest.variant) != (model, version, variant):
            raise TrustError(f"the manifest is of {manifest.model}@{manifest.version} ({manifest.variant})", field=path)
        return manifest, data

    def _target(self, path: str, cache: pathlib.Path, parse: typing.Callable[[bytes], T]) -> tuple[T, bytes]:
        """Read a target, once for each time that the repository was refreshed."""
        if self._edition != self._repository.edition:
            self._read.clear()
            self._edition = self._repository.edition
        if path not in self._read:
            data = self._repository.target(path, cache=cache)
            self._read[path] = (_parse(parse, data, path), data)
        return self._read[path]


def _parse(parse: typing.Callable[[bytes], T], data: bytes, path: str) -> T:
    """Parse a signed target; an error names it."""
    try:
        return parse(data)
    except WireError as err:
        raise type(err)(err.message, field=f"{path} {err.field}", fix=err.fix) from err
