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
        name = url.removeprefix(f"{URL}/")
        path = (home / name).resolve()
        if not path.is_relative_to(home) or not path.is_file():
            fix = "Write it anew, for the region of this device: covey bundle export FOLDER --region NAME"
            raise NotFoundError(f"{name} is not in the folder", fix=fix)
        try:
            with path.open("rb") as file:
                while chunk := file.read(_CHUNK_BYTES):
                    yield chunk
        except OSError as err:
            raise UnreachableError(f"{path} can not be read: {err}") from err

    return stream
