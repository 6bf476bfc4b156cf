"""A line on loopback between a TUF repository and the client program, which answers as it is told."""

from __future__ import annotations

import functools
import http.server
import os
import pathlib
import tempfile
import threading
import typing
import urllib.parse

import pytest
from tuf.api.metadata import Metadata

from tests.contract import tuf_client
from tests.tuf_repository import TOP, TufRepository

PATIENCE_S = 10.0
FILE = "file"
Handler = http.server.BaseHTTPRequestHandler
Answer = typing.Callable[[Handler], None]


class _Handler(http.server.BaseHTTPRequestHandler):
    """Answers with what the repository serves, or as the test says."""

    server: Line

    def do_GET(self) -> None:
        """Answer one request; a client that hangs up in the middle is nobody's fault."""
        raw = self.path.removeprefix("/")
        path = urllib.parse.unquote(raw)
        self.server.asked.append(raw)
        answer = self.server.answers.get(path)
        try:
            if answer is not None:
                answer(self)
            elif path in self.server.repository.files:
                send(self, self.server.repository.files[path])
            else:
                self.send_error(404)
        except OSError:
            self.close_connection = True

    def log_message(self, *_args: object) -> None:
        """Say nothing."""


class Line(http.server.ThreadingHTTPServer):
    """A server on loopback.

    Attributes
    ----------
    asked : list
        Paths in the order in which they were asked for, quoted as they were on the line.
    answers : dict
        Path to how it is answered instead of honestly.
    """

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.repository = TufRepository()
        self.asked: list[str] = []
        self.answers: dict[str, Answer] = {}
        self.url = f"http://127.0.0.1:{self.server_port}"
        self._thread = threading.Thread(target=functools.partial(self.serve_forever, 0.02))
        self._thread.start()

    def serve(self, repository: TufRepository) -> TufRepository:
        """Serve a repository from now on, honestly."""
        self.repository, self.asked, self.answers = repository, [], {}
        return repository

    def take_asked(self) -> list[str]:
        """Return what was asked for since the last time, below ``metadata/`` and ``targets/``."""
        taken, self.asked = self.asked, []
        return [path.partition("/")[2] for path in taken]

    def close(self) -> None:
        """End the server."""
        self.shutdown()
        self._thread.join()
        self.server_close()


def send(handler: Handler, data: bytes, status: int = 200, length: int | None = None) -> None:
    """Answer with data, whatever length is announced."""
    handler.send_response(status)
    handler.send_header("Content-Length", str(len(data) if length is None else length))
    handler.end_headers()
    handler.wfile.write(data)


class Client:
    """The client program with folders of its own; each command is a call of its `main`.

    Parameters
    ----------
    folder : Path
        For metadata, targets and what never falls.
    line : Line
        Where it fetches.

    Attributes
    ----------
    patience_s : float
        How long it waits for a byte.
    """

    def __init__(self, folder: pathlib.Path, line: Line) -> None:
        self.folder, self._line = folder, line
        self.metadata, self.targets = folder / "metadata", folder / "targets"
        self.floors = folder / ".metadata.state.db"
        self.targets.mkdir()
        self.patience_s = PATIENCE_S

    def arguments(self, *command: str) -> list[str]:
        """Return the arguments of the conformance suite for a command."""
        urls = ["--metadata-url", f"{self._line.url}/metadata/", "--target-base-url", f"{self._line.url}/targets/"]
        return ["--metadata-dir", str(self.metadata), *urls, "--target-dir", str(self.targets), *command]

    def init(self, root: bytes | None = None) -> int:
        """Trust a root: the first of the repository by default."""
        file = self.folder / "first.json"
        file.write_bytes(self._line.repository.files["metadata/1.root.json"] if root is None else root)
        return tuf_client.main(["--metadata-dir", str(self.metadata), "init", str(file)])

    def refresh(self) -> int:
        """Bring metadata up to date."""
        return tuf_client.main(self.arguments("--timeout", str(self.patience_s), "refresh"))

    def download(self, name: str) -> int:
        """Fetch a target."""
        return tuf_client.main(self.arguments("--timeout", str(self.patience_s), "--target-name", name, "download"))

    def bytes_of(self, role: str) -> bytes:
        """Trusted metadata of a role."""
        return (self.metadata / f"{urllib.parse.quote(role, safe='')}.json").read_bytes()

    def trusts(self) -> dict[str, int]:
        """Role to the version that is trusted."""
        files = {urllib.parse.unquote(path.stem): path for path in self.metadata.glob("*.json")}
        return {role: Metadata.from_file(str(path)).signed.version for role, path in files.items()}

    def downloaded(self) -> list[bytes]:
        """Content of the targets that it has kept."""
        return [path.read_bytes() for path in sorted(self.targets.rglob("*")) if path.is_file()]


def at_version(version: int) -> dict[str, int]:
    """Every role but root at one version."""
    return dict.fromkeys(TOP, version) | {"root": 1}


@pytest.fixture(scope="module")
def line() -> typing.Iterator[Line]:
    """One server for the tests of a module."""
    made = Line()
    yield made
    made.close()


@pytest.fixture
def repo(line: Line) -> TufRepository:
    """A new repository, served honestly."""
    return line.serve(TufRepository())


@pytest.fixture
def client(line: Line, repo: TufRepository, tmp_path: pathlib.Path) -> typing.Iterator[Client]:
    """A client that trusts the first root of the repository and has seen nothing else.

    Its folder is in memory where there is such a place: thousands of waits for a disk would take minutes.
    """
    del repo
    memory = pathlib.Path("/dev/shm")
    with tempfile.TemporaryDirectory(dir=memory if os.access(memory, os.W_OK) else tmp_path) as folder:
        own = pathlib.Path(folder) / "device" / "client"
        own.mkdir(parents=True)
        made = Client(own, line)
        assert made.init() == 0
        yield made


@pytest.fixture
def version_three(client: Client, repo: TufRepository) -> None:
    """The client has version 3 of everything but the root, and of a delegated role that signs one target."""
    repo.delegate("targets", "more", "*")
    repo.add_target(FILE, b"1", "more")
    repo.release("targets", "more")
    repo.release("targets", "more")
    assert client.download(FILE) == 0
    assert client.trusts() == at_version(3) | {"more": 3}
