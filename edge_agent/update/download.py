"""Fetch one file of a bundle: by the smallest delta that fits what the device has, else whole."""

from __future__ import annotations

import hashlib
import shutil
import typing

from edge_agent.files import BlobStore
from edge_agent.update.parts import Piece, part_bytes, part_of, receive
from edge_agent.update.trust import Stream
from shared import delta
from shared.bundle import DeltaRef, File
from shared.errors import CoveyError, StorageError, TrustError

DELTA_MEMORY_BYTES = 128 << 20
Tell = typing.Callable[[str, str], None]
Locate = typing.Callable[[str], str]
Tail = typing.Callable[[str, int], typing.Iterator[Piece]]


def ignore(_kind: str, _detail: str) -> None:
    """Tell nobody."""


class Downloader:
    """Fetches files into a store of blobs; a file is kept only if its length and hash are the signed ones.

    Parameters
    ----------
    blobs : BlobStore
        What the device has, and where files go.
    stream, locate : callable
        Fetches a URL in pieces; says where a blob is served.
    tail : callable, optional
        Fetches what a URL has from a byte on, in pieces that say where they belong: a whole file that broke off then
        goes on where it was. Without it, it begins anew.
    tell : callable
        Is told of deltas that were of no use: a kind of event and what happened.
    memory_bytes : int
        A delta that would take more memory to apply is passed over.
    """

    def __init__(
        self,
        blobs: BlobStore,
        stream: Stream,
        locate: Locate,
        *,
        tail: Tail | None = None,
        tell: Tell = ignore,
        memory_bytes: int = DELTA_MEMORY_BYTES,
    ) -> None:
        self._blobs, self._stream, self._locate, self._tail = blobs, stream, locate, tail
        self._tell, self._memory_bytes = tell, memory_bytes
        self.fetched_bytes = 0

    def fetch(self, file: File, name: str) -> None:
        """Fetch a file.

        Parameters
        ----------
        name : str
            What errors and events call it.

        Raises
        ------
        UnreachableError, NotFoundError, TrustError
            The whole file can not be had; deltas that can not be had are no error.
        StorageError
            There is no room for it; nothing was fetched.
        """
        self._check_room(file, name)
        unused = []
        for ref in self._usable(file):
            try:
                self._blobs.put([self._made(ref, file)], file.sha256, file.length)
                part_of(self._blobs.folder, file.sha256).unlink(missing_ok=True)
                break
            except CoveyError as err:
                unused.append(f"{name}, {ref.method}: {err}")
        else:
            self._whole(file, name)
        for said in unused:
            self._tell("delta-unused", said)

    def _check_room(self, file: File, name: str) -> None:
        """What has come of a file takes its room already; a download that can not end is not begun."""
        needs = file.length - part_bytes(self._blobs.folder, file.sha256)
        free = shutil.disk_usage(self._blobs.folder).free
        if needs > free:
            raise StorageError(f"{needs:,} bytes are needed, {free:,} are free", field=name, fix="Make room.")

    def _usable(self, file: File) -> list[DeltaRef]:
        """Return deltas shorter than what is missing, of known methods, with a source here, that fit into memory."""
        missing = file.length - part_bytes(self._blobs.folder, file.sha256)
        found = []
        for ref in file.deltas:
            source_length = self._blobs.length(ref.source) if ref.source else 0
            if ref.method in delta.METHODS and source_length is not None and ref.length < missing:
                needs = delta.memory_bytes(ref.method, source_length, file.length)
                found += [ref] if needs <= self._memory_bytes else []
        return sorted(found, key=lambda ref: ref.length)

    def _made(self, ref: DeltaRef, file: File) -> bytes:
        data = self._small(ref)
        source = self._blobs.path(ref.source).read_bytes() if ref.source else b""
        return delta.apply(data, source, limit_bytes=file.length)

    def _small(self, ref: DeltaRef) -> bytes:
        """Fetch a delta into memory; not a byte of it is read before its hash is the signed one."""
        data = bytearray()
        for chunk in self._counted(ref.sha256):
            data += chunk
            if len(data) > ref.length:
                raise TrustError(f"more than the signed {ref.length:,} bytes", field="delta")
        if len(data) != ref.length or hashlib.sha256(data).hexdigest() != ref.sha256:
            raise TrustError(f"{len(data):,} bytes that are not the signed ones", field="delta")
        return bytes(data)

    def _whole(self, file: File, name: str) -> None:
        try:
            if self._tail is None:
                self._blobs.put(self._counted(file.sha256), file.sha256, file.length)
            else:
                receive(self._blobs, file, lambda at: self._rest(file.sha256, at))
        except TrustError as err:
            raise TrustError(err.message, field=name) from err

    def _counted(self, sha256: str) -> typing.Iterator[bytes]:
        for chunk in self._stream(self._locate(sha256)):
            self.fetched_bytes += len(chunk)
            yield chunk

    def _rest(self, sha256: str, at: int) -> typing.Iterator[Piece]:
        assert self._tail is not None  # noqa: S101 - asked before
        for begins, piece in self._tail(self._locate(sha256), at):
            self.fetched_bytes += len(piece)
            yield begins, piece
