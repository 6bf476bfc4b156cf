"""Files that come in pieces: what has come of one stays on the disk, and the next try asks for the rest.

A part lies beside the blobs as ``.<sha256>.part`` and is never read as anything but a part. Nothing is taken on trust
from an earlier try: the hash of the whole file decides, and a part that does not lead to it is thrown away. So a part
is not forced to the disk either; what a power cut takes of it, or spoils in it, is fetched again.
"""

from __future__ import annotations

import hashlib
import os
import pathlib
import typing

from edge_agent.files import BlobStore, fsync_folder
from shared.bundle import File
from shared.errors import TrustError

_SUFFIX = ".part"
_CHUNK_BYTES = 1 << 20
Piece = tuple[int, bytes]
Ask = typing.Callable[[int], typing.Iterator[Piece]]


def part_of(folder: pathlib.Path, sha256: str) -> pathlib.Path:
    """Where the part of a file is kept."""
    return folder / f".{sha256}{_SUFFIX}"


def part_bytes(folder: pathlib.Path, sha256: str) -> int:
    """How much of a file has come; 0 if nothing has."""
    try:
        return part_of(folder, sha256).stat().st_size
    except OSError:
        return 0


def keep_parts(folder: pathlib.Path, wanted: typing.Collection[str]) -> int:
    """Delete the parts of files that nobody wants any more; return how many."""
    gone = 0
    for path in folder.glob(f".*{_SUFFIX}"):
        if path.name[1 : -len(_SUFFIX)] not in wanted:
            path.unlink(missing_ok=True)
            gone += 1
    return gone


def receive(blobs: BlobStore, file: File, ask: Ask) -> None:
    """Bring a file into the store, going on where an earlier try broke off.

    Parameters
    ----------
    ask : callable
        Given how many bytes are here, fetches the rest: pieces, each with the position of its first byte. A server
        that sends the whole file after all begins at 0.

    Raises
    ------
    TrustError
        The file, fetched whole, is not the signed one; nothing of it is kept.
    UnreachableError, NotFoundError
        The line broke off. What has come is kept.
    OSError
        The disk is full or broken. Nothing is kept, so that a part never keeps a disk full.
    """
    path = part_of(blobs.folder, file.sha256)
    try:
        with path.open("a+b") as part:
            wrong, is_whole = _fill(part, file, ask)
            if wrong and not is_whole:
                # Begun by an earlier try, and spoiled by it or since: that must not be in the way for ever.
                _cut(part)
                wrong, _ = _fill(part, file, ask)
            if wrong:
                raise TrustError(wrong, field=f"blob {file.sha256[:12]}")
            os.fsync(part.fileno())
        path.replace(blobs.path(file.sha256))
    except (TrustError, OSError):
        path.unlink(missing_ok=True)
        raise
    fsync_folder(blobs.folder)


def _fill(part: typing.BinaryIO, file: File, ask: Ask) -> tuple[str, bool]:
    """Bring a part to its full length; return what is wrong with it, if anything, and whether it all came just now."""
    digest, size = _read(part)
    is_whole = size == 0
    if size < file.length or not size:
        for at, piece in ask(size):
            if at != size:
                _cut(part)
                digest, size, is_whole = hashlib.sha256(), 0, True
            size += len(piece)
            if size > file.length:
                break
            digest.update(piece)
            part.write(piece)
            part.flush()  # so that it is still there if this process is killed
    if size > file.length:
        return f"more than the signed {file.length:,} bytes", is_whole
    if size != file.length or digest.hexdigest() != file.sha256:
        wrong = f"got {size:,} bytes with hash {digest.hexdigest()[:12]}, signed are {file.length:,} bytes"
        return wrong, is_whole
    return "", is_whole


def _read(part: typing.BinaryIO) -> tuple[typing.Any, int]:
    """Hash and length of what is there."""
    digest, size = hashlib.sha256(), 0
    part.seek(0)
    while chunk := part.read(_CHUNK_BYTES):
        digest.update(chunk)
        size += len(chunk)
    return digest, size


def _cut(part: typing.BinaryIO) -> None:
    """Begin anew; what is written goes to the end, which is then the beginning."""
    part.flush()
    part.seek(0)
    part.truncate(0)
