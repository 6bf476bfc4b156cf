"""Put right what a disk has spoiled: the files of the generation that runs, and the folder that links to them.

Each pass looks whether they are there, with their length, and linked; that takes a call or two for each file. What
only a hash can tell is looked for when the agent starts and when somebody asks (`spoiled`): reading every file at every
poll would cost a small device more than it gains. A spoiled blob loses its name at once. So no later version is made
from it, and the next pass misses it and fetches it, however often it is interrupted between.

A generation's folder holds links to blobs. A repaired blob is a new file, and takes the place of the old link in one
step. Whoever has the old one open or mapped goes on reading that one; nobody sees half of a file.
"""

from __future__ import annotations

import contextlib
import pathlib
import typing

from edge_agent.files import BlobStore, replace_with_link, sha256_of, write_atomic
from edge_agent.generation import FILE, MANIFEST, Generation, Generations
from shared import codec
from shared.bundle import File, Manifest, digest_of, parse_manifest
from shared.errors import CoveyError

Fetch = typing.Callable[[File, str], None]


def spoiled(blobs: BlobStore, beat: typing.Callable[[], None] = lambda: None) -> list[str]:
    """Read every blob; return the names of those whose content is not what the name says.

    Parameters
    ----------
    beat : callable
        Is called after each.
    """
    found = []
    for path in sorted(blobs.folder.glob("[!.]*")):
        try:
            is_whole = blobs.verify(path.name)
        except OSError:  # a sector that can not be read
            is_whole = False
        found += [] if is_whole else [path.name]
        beat()
    return found


def stage(
    generations: Generations, generation: Generation, manifests: typing.Mapping[str, bytes], fetch: Fetch
) -> None:
    """Make a generation's folder; one that an update before this one has left is repaired instead."""
    if (generations.folder / generation.digest).exists():
        mend(generations, generation, manifests, fetch)
    generations.write(generation, manifests)


def mend(
    generations: Generations, generation: Generation, manifests: typing.Mapping[str, bytes], fetch: Fetch
) -> list[str]:
    """Repair the generation that runs; return what was repaired, nothing if all is as it should be.

    Parameters
    ----------
    generation : Generation
        As the channel wants it, so that nothing on the disk has to be believed.
    manifests : mapping
        Manifest hash to its signed bytes.
    fetch : callable
        Fetches a file into the store, given what errors call it.

    Raises
    ------
    CoveyError
        A file can not be had. What was repaired before stays repaired.
    """
    home, repaired = generations.folder / generation.digest, []
    for entry in generation.models:
        for version, sha256 in entry.versions.items():
            name, folder = (
                f"{entry.model}@{version}",
                generations.version_folder(generation.digest, entry.model, version),
            )
            folder.mkdir(parents=True, exist_ok=True)
            for file in parse_manifest(manifests[sha256]).files:
                if not generations.blobs.has(file.sha256, file.length):
                    fetch(file, f"{name} {file.name}")
                if _relink(generations.blobs.path(file.sha256), folder / file.name):
                    repaired.append(f"{name} {file.name}")
                    _relink_elsewhere(generations, file)
            if _rewrite(folder / MANIFEST, manifests[sha256]):
                repaired.append(f"{name} {MANIFEST}")
    if _rewrite(home / FILE, codec.to_json(generation)):
        repaired.append(FILE)
    return repaired


def damaged(generations: Generations) -> list[str]:
    """Read everything of the generation that runs; return what is missing or not what was signed."""
    digest = generations.running()
    try:
        generation = generations.read(digest)
    except (CoveyError, OSError):
        return [FILE]
    found = [] if generation.digest == digest else [FILE]
    for entry in generation.models:
        for version, sha256 in entry.versions.items():
            name, folder = f"{entry.model}@{version}", generations.version_folder(digest, entry.model, version)
            manifest = _signed_manifest(folder / MANIFEST, sha256)
            if manifest is None:
                found.append(f"{name} {MANIFEST}")
                continue
            for file in manifest.files:
                is_there = generations.blobs.has(file.sha256, file.length)
                if not is_there or not _is_whole(folder / file.name, file):
                    found.append(f"{name} {file.name} ({file.sha256[:12]})")
    return found


def _signed_manifest(path: pathlib.Path, sha256: str) -> Manifest | None:
    try:
        data = path.read_bytes()
        return parse_manifest(data) if digest_of(data) == sha256 else None
    except (CoveyError, OSError):
        return None


def _is_whole(path: pathlib.Path, file: File) -> bool:
    try:
        return path.stat().st_size == file.length and sha256_of(path) == file.sha256
    except OSError:
        return False


def _relink(blob: pathlib.Path, path: pathlib.Path) -> bool:
    """Let a name in a generation's folder be a blob; return whether it was not."""
    with contextlib.suppress(OSError):
        if path.samefile(blob):
            return False
    replace_with_link(path, blob)
    return True


def _relink_elsewhere(generations: Generations, file: File) -> None:
    """Give other generations the repaired file too: the one that the device may go back to shares many."""
    for digest in generations.list():
        try:
            manifests = generations.manifests(digest)
        except (CoveyError, OSError):
            continue  # it does not run, and whoever goes back to it finds out
        for (model, version), manifest in manifests.items():
            for other in manifest.files:
                if other.sha256 == file.sha256:
                    path = generations.version_folder(digest, model, version) / other.name
                    _relink(generations.blobs.path(file.sha256), path)


def _rewrite(path: pathlib.Path, data: bytes) -> bool:
    """Let a small file hold what it should; return whether it did not."""
    with contextlib.suppress(OSError):
        if path.read_bytes() == data:
            return False
    write_atomic(path, data)
    return True
