"""``covey serve`` and ``covey worker``."""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import sys
import threading
import typing

import click

from cloud.cli.base import Here, pass_here
from cloud.web.app import PROJECT_VARIABLE
from cloud.worker import Worker
from shared import logs
from shared.errors import UsageError

_PARENT_POLL_S = 0.5
_MAX_PORT = 65535


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
    here.store.close()
    os.environ[PROJECT_VARIABLE] = str(here.project.folder)
    beside = None if no_worker else _start_worker(here)
    click.echo(f"http://{address}:{number}")
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
        ).serve()
    finally:
        if beside is not None:
            beside.terminate()
            beside.wait(timeout=30)
    return 0


def _start_worker(here: Here) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "cloud.cli", "--project", str(here.project.folder), "worker", "--with-parent"]
    return subprocess.Popen(command, stdin=subprocess.DEVNULL)


@click.command()
@click.option("--once", is_flag=True, help="Do one tick and end.")
@click.option("--with-parent", is_flag=True, hidden=True, help="End when the parent process does.")
@pass_here
def worker(here: Here, once: bool, with_parent: bool) -> int:
    """Run triggers, training and the rollout controller, until stopped."""
    logs.set_up(logging.INFO)
    runner = Worker(here.project)
    if once:
        done = runner.once()
        for line in done.happened if done else ():
            click.echo(line)
        return 0
    stop = threading.Event()

    def end(_number: int, _frame: object) -> None:
        stop.set()

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, end)
    if with_parent:
        threading.Thread(target=_watch_parent, args=(stop.set,), daemon=True).start()
    runner.run(stop)
    return 0


def _watch_parent(on_end: typing.Callable[[], None]) -> None:
    """Call back once the process that started this one is gone."""
    parent = os.getppid()
    event = threading.Event()
    while os.getppid() == parent:
        event.wait(_PARENT_POLL_S)
    on_end()
