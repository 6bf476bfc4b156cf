"""One update of a device's store from a repository in a folder; run by test_every_call.py under strace.

    install_driver.py STORE REPOSITORY

It is the device's own installer. Only the line is a folder, so that no server's system calls are counted, and the
self-test, which is a process of its own, is left out. Exit status 0: installed; 1: refused, in one line that says why.
"""

from __future__ import annotations

import pathlib
import sqlite3
import sys
import typing

from edge_agent.config import Layout
from edge_agent.update.install import Installer
from edge_agent.update.state import State
from edge_agent.update.trust import Repository, Where
from shared.bundle import Manifest
from shared.errors import CoveyError, NotFoundError, UnreachableError

URL = "http://cloud.test/repo"


class Nobody:
    """No agent runs."""

    def active(self) -> str:
        """Nobody says what is served."""
        raise UnreachableError("no agent runs")

    def activate(self, digest: str) -> None:
        """Nobody can be told."""
        raise UnreachableError(f"no agent runs to serve {digest}")


def update(layout: Layout, repository: pathlib.Path) -> str:
    """Bring a store up to date; return the generation that runs."""

    def stream(url: str) -> typing.Iterator[bytes]:
        path = repository / url.removeprefix(f"{URL}/")
        if not path.is_file():
            raise NotFoundError(f"{url} is not there")
        yield path.read_bytes()

    def self_test(_folder: pathlib.Path, _manifest: Manifest) -> None:
        """A process of its own does this on a device."""

    state = State(layout.state_db)
    try:
        trusted = Repository(layout.tuf, layout.root.read_bytes(), Where.below(URL), stream, state)
        installer = Installer(
            layout,
            layout.load_identity(),
            state=state,
            repository=trusted,
            server=Nobody(),
            stream=stream,
            self_test=self_test,
        )
        return installer.bring_up_to_date().generation
    finally:
        state.close()


def main(store: str, repository: str) -> int:
    """Run one update; errors that a full or broken disk causes are told in one line."""
    try:
        update(Layout(pathlib.Path(store)), pathlib.Path(repository))
    except (CoveyError, OSError, sqlite3.Error) as err:
        sys.stderr.write(f"{type(err).__name__}: {err}\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
