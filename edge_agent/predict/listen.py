"""Where the device answers: a TCP port, and beside it a Unix socket that takes nothing away from anybody."""

from __future__ import annotations

import asyncio
import errno
import os
import pathlib
import resource
import socket
import stat
import typing

from shared.errors import ConfigError, ConflictError

_BACKLOG = 1024
_MAX_PATH_BYTES = 107
_SPARE_FILES = 128
Factory = typing.Callable[[], asyncio.BaseProtocol]


async def on_port(factory: Factory, host: str, port: int) -> asyncio.Server:
    """Listen on a TCP port.

    Raises
    ------
    ConflictError
        Another program listens there.
    ConfigError
        The address is none of this machine's.
    """
    try:
        return await asyncio.get_running_loop().create_server(factory, host, port, backlog=_BACKLOG)
    except (OSError, ValueError) as err:  # a name that no name server would take is a ValueError
        number = err.errno if isinstance(err, OSError) else errno.EINVAL
        why = err.strerror if isinstance(err, socket.gaierror) else os.strerror(number or 0)
        is_taken = number == errno.EADDRINUSE
        kind = ConflictError if is_taken else ConfigError
        raise kind(
            f"can not listen on {as_written(host)[:100]}:{port}: {why}",
            field="serve.port" if is_taken else "serve.host",
            fix="Choose another with --host or --port, or in edge.toml.",
        ) from err


def as_written(host: str) -> str:
    """Return an address as it stands in a URL.

    >>> as_written("::1"), as_written("127.0.0.1")
    ('[::1]', '127.0.0.1')
    """
    return f"[{host}]" if ":" in host else host


class UnixListener:
    """Listens on a Unix socket; call `open` and `close` under the lock that says that no other server is here.

    Parameters
    ----------
    path : Path
        Where clients find it. Its folder must exist.
    mode : int
        Who may connect, as file permissions.
    """

    def __init__(self, path: pathlib.Path, mode: int) -> None:
        self._path, self._mode = path, mode
        self._server: asyncio.Server | None = None
        self._inode = 0

    async def open(self, factory: Factory) -> None:
        """Listen. A socket that a server left behind is replaced; anything else at that path is left alone.

        Raises
        ------
        ConfigError
            The path is too long, its folder is not there, or something that is no socket is in the way.
        """
        self._check()
        # Made aside and renamed: it has its permissions, and listens, before anybody can find it.
        aside = self._path.with_name(f".{os.urandom(3).hex()}")
        line = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            line.bind(str(aside))
            aside.chmod(self._mode)
            line.listen(_BACKLOG)
            line.setblocking(False)  # noqa: FBT003 - that is how it is called
            self._inode = aside.stat().st_ino
            aside.rename(self._path)
        except OSError as err:
            line.close()
            aside.unlink(missing_ok=True)
            raise ConfigError(
                f"can not listen on {self._path}: {err.strerror or err}",
                field="serve.socket",
                fix="Make its folder, or name another.",
            ) from err
        self._server = await asyncio.get_running_loop().create_unix_server(factory, sock=line, backlog=_BACKLOG)

    def _check(self) -> None:
        if len(os.fsencode(self._path)) > _MAX_PATH_BYTES:
            raise ConfigError(
                f"{self._path} is longer than {_MAX_PATH_BYTES} bytes",
                field="serve.socket",
                fix="Choose a shorter path.",
            )
        try:
            found = self._path.lstat()
        except OSError:
            return
        except ValueError as err:
            raise ConfigError(
                f"{str(self._path)!r:.100}: {err}", field="serve.socket", fix="Name another path."
            ) from err
        if not stat.S_ISSOCK(found.st_mode):
            raise ConfigError(
                f"{self._path} is there and is no socket",
                field="serve.socket",
                fix="Move it away, or name another path.",
            )

    def close(self) -> None:
        """Listen no more, and take the socket away if it is still this one."""
        if self._server is None:
            return
        self._server.close()
        self._server = None
        try:
            if self._path.lstat().st_ino == self._inode:
                self._path.unlink()
        except OSError:
            return


def connections_that_fit(wanted: int) -> int:
    """Allow this process as many open files as so many connections take; return how many connections that gives.

    Raises
    ------
    ConflictError
        Not even one fits.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    need = wanted + _SPARE_FILES
    if soft < need:
        soft = min(need, hard) if hard != resource.RLIM_INFINITY else need
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    fits = min(wanted, soft - _SPARE_FILES)
    if fits < 1:
        raise ConflictError(f"this process may open {soft} files only", fix="Raise the limit: ulimit -n")
    return fits
