"""Files that are whole or absent: atomic writes, content-addressed blobs, the switch of a link, and locks."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import pathlib
import typing

from shared.errors import ConflictError, TrustError

_CHUNK_BYTES = 1 << 20


def fsync_folder(folder: pathlib.Path) -> None:
    """Make names in a folder durable."""
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _aside(path: pathlib.Path) -> pathlib.Path:
    """Name of a temporary file beside a path; it tells whose it is."""
    return path.with_name(f".{path.name}.{os.getpid()}-{os.urandom(6).hex()}.tmp")


def sweep(folder: pathlib.Path) -> int:
    """Delete what processes that are gone have left behind half done; return how many files."""
    gone = 0
    for path in folder.glob(".*.tmp"):
        owner = path.name.split(".")[-2].partition("-")[0]
        if not pathlib.Path("/proc", owner).exists():
            path.unlink(missing_ok=True)
            gone += 1
    return gone


def write_atomic(path: pathlib.Path, data: bytes, mode: int = 0o644) -> None:
    """Write a file so that a reader, or a restart, sees the old content or the new one and nothing between."""
    temporary = _aside(path)
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
    fsync_folder(path.parent)


def switch_link(link: pathlib.Path, target: str) -> None:
    """Point a symbolic link at `target` in one step."""
    temporary = _aside(link)
    temporary.symlink_to(target)
    try:
        temporary.replace(link)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    fsync_folder(link.parent)


def replace_with_link(path: pathlib.Path, source: pathlib.Path) -> None:
    """Let a name be another file's too, in one step; whoever has the file of that name open keeps the old one."""
    temporary = _aside(path)
    os.link(source, temporary)
    try:
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    fsync_folder(path.parent)


def sha256_of(path: pathlib.Path) -> str:
    """Read a file; return its hash, hex."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK_BYTES):
            digest.update(chunk)
    return digest.hexdigest()


@contextlib.contextmanager
def lock(path: pathlib.Path, *, wait: bool = False, fix: str = "Wait for it to end.") -> typing.Iterator[None]:
    """Hold an exclusive lock; it ends with the process, however that ends.

    Parameters
    ----------
    wait : bool
        Until whoever holds it lets go.
    fix : str
        What is to be done about somebody who holds it.

    Raises
    ------
    ConflictError
        Somebody else holds it, and `wait` is false.
    """
    handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except BlockingIOError as err:
            raise ConflictError(f"{path} is locked by another process", fix=fix) from err
        yield
    finally:
        os.close(handle)


class BlobStore:
    """Files named by their SHA-256.

    Parameters
    ----------
    folder : Path
        Made if absent.
    """

    def __init__(self, folder: pathlib.Path) -> None:
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)

    def path(self, sha256: str) -> pathlib.Path:
        """Where a blob is or will be."""
        return self.folder / sha256

    def has(self, sha256: str, length: int) -> bool:
        """Whether a blob is there with its full length; its content was checked when it was put there."""
        return self.length(sha256) == length

    def length(self, sha256: str) -> int | None:
        """Length of a blob; None if it is not there."""
        try:
            return self.path(sha256).stat().st_size
        except FileNotFoundError:
            return None

    def put(self, chunks: typing.Iterable[bytes], sha256: str, length: int) -> None:
        """Store a blob.

        Raises
        ------
        TrustError
            Length or hash differ from what was signed; nothing is kept then.
        """
        temporary = _aside(self.folder / sha256)
        digest, size = hashlib.sha256(), 0
        try:
            with temporary.open("xb") as file:
                for chunk in chunks:
                    size += len(chunk)
                    if size > length:
                        raise TrustError(f"more than the signed {length:,} bytes", field=f"blob {sha256[:12]}")
                    digest.update(chunk)
                    file.write(chunk)
                if size != length or digest.hexdigest() != sha256:
                    raise TrustError(
                        f"got {size:,} bytes with hash {digest.hexdigest()[:12]}, signed are {length:,} bytes",
                        field=f"blob {sha256[:12]}",
                    )
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(self.path(sha256))
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise
        fsync_folder(self.folder)

    def verify(self, sha256: str) -> bool:
        """Read a blob again and compare its hash."""
        return sha256_of(self.path(sha256)) == sha256

    def drop(self, sha256: str) -> None:
        """Delete a blob; generations that hold it keep theirs."""
        self.path(sha256).unlink(missing_ok=True)

    def keep_only(self, wanted: typing.Collection[str]) -> int:
        """Delete all other blobs and left-over temporary files; return how many went."""
        gone = 0
        for path in list(self.folder.iterdir()):
            if path.name not in wanted:
                path.unlink(missing_ok=True)
                gone += 1
        return gone


def remove_tree(folder: pathlib.Path) -> None:
    """Delete a folder by moving it aside first, so that no half-deleted folder keeps its name."""
    import shutil  # with every kind of compression in it, while most processes delete nothing

    aside = _aside(folder)
    folder.rename(aside)
    shutil.rmtree(aside)
