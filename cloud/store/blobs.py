"""Files named by their SHA-256: written whole or not at all."""

from __future__ import annotations

import hashlib
import os
import pathlib
import secrets

from shared.errors import NotFoundError, TrustError


def write_file(path: pathlib.Path, data: bytes, mode: int = 0o644) -> None:
    """Write a file so that a reader or a restart sees the old content or the new one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(6)}.tmp")
    handle = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
    try:
        with open(handle, "wb") as file:  # noqa: PTH123 - it is an open descriptor
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


class Blobs:
    """A folder of files named by hash.

    Parameters
    ----------
    folder : Path
        Made when the first blob is put.
    """

    def __init__(self, folder: pathlib.Path) -> None:
        self._folder = folder

    def path(self, sha256: str) -> pathlib.Path:
        """Where a blob is."""
        return self._folder / sha256[:2] / sha256

    def put(self, data: bytes) -> str:
        """Store bytes; return their hash."""
        sha256 = hashlib.sha256(data).hexdigest()
        if not self.path(sha256).exists():
            write_file(self.path(sha256), data)
        return sha256

    def get(self, sha256: str) -> bytes:
        """Read a blob and check it against its name.

        Raises
        ------
        NotFoundError, TrustError
            It is not there; or its content has changed.
        """
        try:
            data = self.path(sha256).read_bytes()
        except FileNotFoundError as err:
            raise NotFoundError(f"blob {sha256[:12]} is not there", fix="Restore it from a backup.") from err
        if hashlib.sha256(data).hexdigest() != sha256:
            raise TrustError(f"the content of {self.path(sha256)} has changed", fix="Restore it from a backup.")
        return data
