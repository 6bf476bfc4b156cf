"""Serve the signed repository as static files, with ETag and Range; hand everything else on."""

from __future__ import annotations

import os
import pathlib
import re
import typing

from shared.protocol import REPOSITORY_PATH

StartResponse = typing.Callable[[str, list[tuple[str, str]]], object]
Environ = dict[str, typing.Any]
Wsgi = typing.Callable[[Environ, StartResponse], typing.Iterable[bytes]]
_SAFE = re.compile(r"(?:[A-Za-z0-9][A-Za-z0-9@._-]*/)*[A-Za-z0-9][A-Za-z0-9@._-]*")
_RANGE = re.compile(r"bytes=(\d{1,18})-(\d{0,18})")
_FRESH = "no-cache"
_FOREVER = "public, max-age=31536000, immutable"
_CHUNK_BYTES = 256 << 10


class Front:
    """The WSGI application in front.

    Parameters
    ----------
    inner : callable
        Answers what is not a file.
    folder : Path
        The repository.
    """

    def __init__(self, inner: Wsgi, folder: pathlib.Path) -> None:
        self._inner, self._folder = inner, folder

    def __call__(self, environ: Environ, start_response: StartResponse) -> typing.Iterable[bytes]:
        """Answer one request."""
        path = environ.get("PATH_INFO", "")
        if not path.startswith(REPOSITORY_PATH):
            return self._inner(environ, start_response)
        name = path[len(REPOSITORY_PATH) :]
        if environ["REQUEST_METHOD"] not in ("GET", "HEAD"):
            start_response("405 Method Not Allowed", [("Allow", "GET, HEAD"), ("Content-Length", "0")])
            return ()
        try:
            if not _SAFE.fullmatch(name):
                raise FileNotFoundError
            # Not closed here: it is handed to the server, which closes it. A folder is refused like what is not there.
            file = open(self._folder / name, "rb", opener=_open_file)  # noqa: SIM115
        except (OSError, ValueError):
            start_response("404 Not Found", [("Content-Length", "0")])
            return ()
        return self._send(file, name, environ, start_response)

    def _send(
        self, file: typing.BinaryIO, name: str, environ: Environ, start_response: StartResponse
    ) -> typing.Iterable[bytes]:
        stat = os.fstat(file.fileno())
        etag = f'"{stat.st_ino:x}-{stat.st_size:x}-{stat.st_mtime_ns:x}"'
        headers = [
            ("ETag", etag),
            ("Cache-Control", _FRESH if name == "metadata/timestamp.json" else _FOREVER),
            ("Accept-Ranges", "bytes"),
            ("Content-Type", "application/json" if name.endswith(".json") else "application/octet-stream"),
        ]
        if environ.get("HTTP_IF_NONE_MATCH") == etag:
            file.close()
            start_response("304 Not Modified", headers)
            return ()
        start, end, status = 0, stat.st_size, "200 OK"
        asked = _RANGE.fullmatch(environ.get("HTTP_RANGE", ""))
        if asked:
            start, end = int(asked[1]), min(int(asked[2] or stat.st_size - 1) + 1, stat.st_size)
            if start >= end:
                file.close()
                start_response(
                    "416 Range Not Satisfiable", [("Content-Range", f"bytes */{stat.st_size}"), ("Content-Length", "0")]
                )
                return ()
            status = "206 Partial Content"
            headers.append(("Content-Range", f"bytes {start}-{end - 1}/{stat.st_size}"))
        headers.append(("Content-Length", str(end - start)))
        start_response(status, headers)
        if environ["REQUEST_METHOD"] == "HEAD":
            file.close()
            return ()
        return _chunks(file, start, end)


def _open_file(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_NOFOLLOW)


def _chunks(file: typing.BinaryIO, start: int, end: int) -> typing.Iterator[bytes]:
    with file:
        file.seek(start)
        left = end - start
        while left > 0 and (data := file.read(min(left, _CHUNK_BYTES))):
            left -= len(data)
            yield data
