"""``covey serve`` and ``covey worker``."""

from __future__ import annotations

import errno
import logging
import os
import signal
import socket
import subprocess
import sys
import threading
import time

import click

from cloud.cli.base import Here, pass_here
from cloud.parent import call_when_parent_ends
from cloud.web.app import PROJECT_VARIABLE
from cloud.worker import Worker
from shared import logs
from shared.errors import ConflictError, UsageError

_MAX_PORT = 65535
_PORT_WAIT_S, _PORT_LOOK_S = 10.0, 0.2
_LOOK_S, _RESTART_S, _MAX_RESTART_S = 0.5, 0.5, 60.0


@click.command()
@click.option("--host", help="Address to answer on (default: from covey.toml).")
@click.option("--port", type=int, help="Port to answer on (default: from covey.toml).")
@click.option("--no-worker", is_flag=True, help="Do not start a worker beside the server.")
@pass_here
def serve(here: Here, host: str | None, port: int | None, no_worker: bool) -> int:
    """Serve devices and pages, with a worker beside, until stopped."""
    from granian import Granian
    from granian.constants import Interfaces
    from granian.log import LogLevels

    settings = here.project.settings.serve
    address, number = host or settings.host, settings.port if port is None else port
    if not 0 < number <= _MAX_PORT:
        raise UsageError(f"{number} is not a port to serve on", field="--port", fix="Use 1 to 65535.")
    address = find_address(address, number)
    here.store.close()
    os.environ[PROJECT_VARIABLE] = str(here.project.folder)
    beside = None if no_worker else Beside(here)
    click.echo(f"http://[{address}]:{number}" if ":" in address else f"http://{address}:{number}")
    sys.stdout.flush()
    try:
        Granian(
            "cloud.web.app:wsgi",
            address=address,
            port=number,
            interface=Interfaces.WSGI,
            workers=1,
            blocking_threads=settings.threads,
            factory=True,
            log_level=LogLevels.warning,
            workers_kill_timeout=10,
            respawn_failed_workers=True,
            respawn_interval=0.5,
        ).serve()
    finally:
        if beside is not None:
            beside.stop()
    return 0


def find_address(host: str, port: int, wait_s: float = _PORT_WAIT_S) -> str:
    """Return the address of this machine to serve on, once nobody else serves there.

    The server itself shares its port with whoever else would share it: two projects would answer on one port by turns,
    and devices would meet now the one, now the other.

    Parameters
    ----------
    host : str
        An address, or a name of this machine.
    port : int
        1 to 65535.
    wait_s : float
        How long to wait for a server that is about to end.

    Returns
    -------
    str
        An IP address, IPv4 where the name has one.

    Raises
    ------
    UsageError
        Not an address of this machine, or a port that this user may not take.
    ConflictError
        Somebody else serves there.
    """
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except OSError as err:
        fix = "Use 127.0.0.1, or 0.0.0.0 for all of this machine's."
        raise UsageError(f"{host!r} is no address of this machine", field="--host", fix=fix) from err
    family, _, _, _, place = min(found, key=lambda one: one[0] != socket.AF_INET)
    until, said = time.monotonic() + wait_s, False
    while not _is_free(family, place, host):
        if time.monotonic() >= until:
            fix = "End it, or take another port: covey serve --port N"
            raise ConflictError(f"another program answers on port {port} already", fix=fix)
        if not said:
            click.echo(f"port {port} is taken; waiting for it to be free", err=True)
            said = True
        time.sleep(_PORT_LOOK_S)
    return str(place[0])


def _is_free(family: int, place: tuple[object, ...], host: str) -> bool:
    """Return whether nobody listens there. Closed connections of a server that ended do not count."""
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(place)
        except OSError as err:
            if err.errno == errno.EADDRINUSE:
                return False
            if err.errno == errno.EACCES:
                fix = "Take one above 1023, and put a web server in front."
                raise UsageError(f"this user may not take port {place[1]}", field="--port", fix=fix) from err
            fix = "Use 127.0.0.1, or 0.0.0.0 for all of this machine's."
            raise UsageError(f"{host!r} is no address of this machine", field="--host", fix=fix) from err
    return True


class Beside:
    """A worker beside the server; it is started again when it dies.

    Parameters
    ----------
    here : Here
        The project.
    """

    def __init__(self, here: Here) -> None:
        folder = str(here.project.folder)
        self._command = [sys.executable, "-m", "cloud.cli", "--project", folder, "worker", "--with-parent"]
        self._stop = threading.Event()
        self._process = self._start()
        self._thread = threading.Thread(target=self._keep, name="worker-keeper", daemon=True)
        self._thread.start()

    def _start(self) -> subprocess.Popen[bytes]:
        return subprocess.Popen(self._command, stdin=subprocess.DEVNULL)

    def _keep(self) -> None:
        pause = _RESTART_S
        while not self._stop.wait(_LOOK_S):
            if self._process.poll() is None:
                continue
            click.echo(f"the worker ended with {self._process.returncode}; starting it again", err=True)
            if self._stop.wait(pause):
                return
            pause = min(2 * pause, _MAX_RESTART_S)
            self._process = self._start()

    def stop(self) -> None:
        """End the worker."""
        self._stop.set()
        self._thread.join()
        self._process.terminate()
        self._process.wait(timeout=30)


@click.command()
@click.option("--once", is_flag=True, help="Do one tick and end.")
@click.option("--with-parent", is_flag=True, hidden=True, help="End when the parent process does.")
@pass_here
def worker(here: Here, once: bool, with_parent: bool) -> int:
    """Run triggers, training and the rollout controller, until stopped."""
    logs.set_up(logging.INFO)
    runner = Worker(here.project)
    if once:
        done = runner.run_once()
        for line in done.happened if done else ():
            click.echo(line)
        return 0
    stop = threading.Event()

    def end(_number: int, _frame: object) -> None:
        stop.set()

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, end)
    if with_parent:
        call_when_parent_ends(stop.set)
    runner.run(stop)
    return 0
