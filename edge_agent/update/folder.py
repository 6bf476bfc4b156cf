"""A repository in a folder, such as a USB stick holds: read as if it were served."""

from __future__ import annotations

import pathlib
import typing

from shared.errors import NotFoundError, UnreachableError

URL = "file://folder"
_CHUNK_BYTES = 1 << 20


def stream_from(folder: pathlib.Path) -> typing.Callable[[str], typing.Iterator[bytes]]:
    """Return what fetches files of a folder in pieces, by addresses below `URL`.

    Raises
    ------
    NotFoundError, UnreachableError
        When something is fetched: it is not there, or lies outside; or it can not be read.
    """
    home = folder.resolve()

    def stream(url: str) -> typing.Iterator[bytes]:
        path = (home / url.removeprefix(f"{URL}/")).resolve()
        if not path.is_relative_to(home) or not path.is_file():
            raise NotFoundError(f"{url} is not there")
        try:
            with path.open("rb") as file:
                while chunk := file.read(_CHUNK_BYTES):
                    yield chunk
        except OSError as err:
            raise UnreachableError(f"{path} can not be read: {err}") from err

    return stream
