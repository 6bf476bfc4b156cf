"""A device and its cloud with somebody on the line between them, and with a cloud that signs what it should not.

Everything is real: the project's own signed repository, served by the cloud's own application over loopback; a device
that joined with a token, its serving process' agent, its sync. Only bytes on the line and what is signed are spoiled.
"""

from __future__ import annotations

import contextlib
import datetime as dt
import functools
import hashlib
import os
import pathlib
import shutil
import socketserver
import threading
import typing
import wsgiref.simple_server

import msgspec
from securesystemslib.signer import CryptoSigner
from tuf.api.metadata import Metadata
from tuf.api.serialization.json import JSONSerializer

from cloud.config import Project, load_project
from cloud.publish.keys import load_signer
from cloud.publish.repository import SIGNED_BY, SignedRepository
from cloud.publish.seal import SealedBundle, load_bundle, publish_bundle, seal
from cloud.store.store import Store
from cloud.web.app import create_app
from cloud.web.front import Environ, Front, StartResponse, Wsgi
from edge_agent import cli
from edge_agent.agent import Agent
from edge_agent.config import Layout, Settings
from edge_agent.passes import Pass
from edge_agent.sync import Sync
from edge_agent.update.state import State
from shared import bundle
from shared.channel import BundleRef, Channel, ModelChannel
from shared.protocol import REPOSITORY_PATH
from tests import fakes
from tests.unit.cloud_ import builders

MODEL, REGION, DEVICE = builders.MODEL, builders.REGIONS[0], "till-1"
FIRST_SEQUENCE = 5
QUESTION = {"colour": "red", "price": 5}
STRANGER = "stranger"
Spoil = typing.Callable[[bytes], typing.Iterable[bytes]]


class _Quiet(wsgiref.simple_server.WSGIRequestHandler):
    """Says nothing on the terminal."""

    def log_message(self, *_args: object) -> None:
        """Say nothing."""


class _Server(socketserver.ThreadingMixIn, wsgiref.simple_server.WSGIServer):
    """A thread for each request; a client that hangs up in the middle is nobody's fault."""

    daemon_threads = True

    def handle_error(self, *_args: object) -> None:
        """Say nothing."""


class Line:
    """A server on loopback in front of an application; `spoiled` maps paths of the repository to what is done to them.

    Attributes
    ----------
    headers : list
        Sent with spoiled files.
    """

    def __init__(self) -> None:
        self.spoiled: dict[str, Spoil] = {}
        self.headers: list[tuple[str, str]] = []
        self.app: Wsgi
        self.repository: SignedRepository
        self._server = wsgiref.simple_server.make_server("127.0.0.1", 0, self._answer, _Server, _Quiet)
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        self._thread = threading.Thread(target=functools.partial(self._server.serve_forever, 0.02))
        self._thread.start()

    def serve(self, project: Project, store: Store) -> None:
        """Serve a project from now on, honestly."""
        self.spoiled, self.headers = {}, []
        self.repository = SignedRepository(project.repository, project.keys)
        self.app = Front(typing.cast("Wsgi", create_app(project, store).wsgi_app), project.repository)

    def _answer(self, environ: Environ, start_response: StartResponse) -> typing.Iterable[bytes]:
        path = environ["PATH_INFO"].removeprefix(REPOSITORY_PATH)
        spoil = self.spoiled.get(path)
        if spoil is None:
            return self.app(environ, start_response)
        file = self.repository.folder / path
        start_response("200 OK", list(self.headers))
        return spoil(file.read_bytes() if file.exists() else b"")

    def close(self) -> None:
        """End the server."""
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


class Attacked:
    """One device that runs v1, while v2 is on its way to it.

    Parameters
    ----------
    folder : Path
        Holds ``cloud`` and ``device``.
    line : Line
        Between the two.
    """

    def __init__(self, folder: pathlib.Path, line: Line) -> None:
        self.line, self.project = line, load_project(folder / "cloud")
        self.layout = Layout(folder / "device")
        self.store = Store(self.project)
        self.repository = SignedRepository(self.project.repository, self.project.keys)
        line.serve(self.project, self.store)
        self.agent: Agent

    # ---- what the cloud signs

    def publish_bundle(self, version: str = "v2", files: typing.Mapping[str, bytes] | None = None) -> SealedBundle:
        """Sign a version that answers as v1 does, each file of which is another one; or has other files."""
        v1 = load_bundle(self.repository, MODEL, "v1")
        mark = version.encode()
        these = {name: b" " * len(mark) + data for name, data in v1.files.items()}
        these[bundle.MODEL_FILE] = v1.files[bundle.MODEL_FILE] + b"\x32" + bytes([len(mark)]) + mark  # ONNX: doc_string
        table = bytearray(v1.files[bundle.TABLE_FILE])
        table[64:96] = hashlib.sha256(these[bundle.MODEL_FILE]).digest()
        these[bundle.TABLE_FILE] = bytes(table)
        made = seal(msgspec.structs.replace(v1.manifest, version=version), these | (files or {}))
        publish_bundle(self.repository, made)
        return made

    def publish_manifest(self, data: bytes, version: str = "v2") -> None:
        """Sign bytes as the manifest of a version, whatever they are."""
        self.repository.publish("bundles", {f"bundles/{MODEL}/{version}/standard.json": data})

    def channel(self, sequence: int, incumbent: str = "v2", **changes: typing.Any) -> Channel:
        """Make a channel with one model."""
        entry = ModelChannel(model=MODEL, incumbent=BundleRef(version=incumbent))
        fields = {"region": REGION, "sequence": sequence, "models": (entry,), "probation_s": 0.05}
        return Channel(**fields | changes)

    def publish_channel(self, data: bytes | Channel) -> None:
        """Sign what the device's region is told."""
        body = data if isinstance(data, bytes) else data.to_bytes()
        self.repository.publish("channels", {f"channels/{REGION}.json": body})

    def forge(self, role: str, *, key: str = "", expired: bool = False, version: int = 0, lives_s: float = 0.0) -> None:
        """Sign a role's newest metadata again: with another key, (soon) expired, or under another version."""
        role = role.removeprefix("next ")
        path = self.repository.folder / self.path(role)
        meta = Metadata.from_bytes(path.read_bytes())
        if expired or lives_s:
            now = dt.datetime.now(dt.UTC).replace(microsecond=0)
            meta.signed.expires = now + dt.timedelta(seconds=lives_s or -3600)
        meta.signed.version += version
        meta.signatures.clear()
        stranger = key == STRANGER
        meta.sign(
            CryptoSigner.generate_ed25519() if stranger else load_signer(self.project.keys, key or SIGNED_BY[role])
        )
        if role == "root":
            path = path.with_name(f"{meta.signed.version}.root.json")
        path.write_bytes(meta.to_bytes(JSONSerializer(compact=True)))

    # ---- where things are served

    def path(self, what: str) -> str:
        """Path below the repository of a role's newest metadata, of a signed target, or of a file of v2."""
        if what == "timestamp":
            return "metadata/timestamp.json"
        if what == "next root":
            return "metadata/2.root.json"
        versions = self.repository.versions()
        if what in versions:
            return f"metadata/{versions[what]}.{what}.json"
        if "/" in what:
            role = what.partition("/")[0]
            found = self.repository._target_path(what, bundle.digest_of(self.repository.target(role, what)))
        else:
            (file,) = [file for file in load_bundle(self.repository, MODEL, "v2").manifest.files if file.name == what]
            found = self.repository.blob_path(file.sha256)
        return str(found.relative_to(self.repository.folder))

    def read(self, what: str) -> bytes:
        """Read what is served for something."""
        return (self.repository.folder / self.path(what)).read_bytes()

    # ---- the device

    def sync(self) -> Pass:
        """Make one pass of the sync child, in this process."""
        settings = Settings()
        sync = Sync(self.layout, self.layout.load_identity(), settings)
        try:
            return sync.one_pass()
        finally:
            sync.close()

    def answering(self) -> str:
        """Version that answers a customer."""
        status, reply = fakes.post(self.agent.address, "/v1/predict", {"features": QUESTION})
        assert status == 200, reply
        return str(reply["parameters"]["version"])

    def on_disk(self) -> tuple[str, list[str]]:
        """What `current` names, and the generations there are."""
        generations = fakes.generations_of(self.layout)
        return generations.running(), generations.list()

    def floor(self) -> int:
        """Sequence of the newest channel that the device has acted upon."""
        state = State(self.layout.state_db)
        try:
            return state.floor("channel")
        finally:
            state.close()

    def reports(self, kind: str = "update-refused") -> list[str]:
        """What the cloud was told of a kind, oldest first."""
        events = reversed(self.store.fleet.events())
        return [event["detail"] for event in events if event["kind"] == kind and event["device"] == DEVICE]


def make_template(folder: pathlib.Path, line: Line) -> pathlib.Path:
    """Make a cloud whose region runs v1, and a device that has it."""
    project = builders.trained_project(folder / "cloud")
    with builders.opened(project) as store:
        line.serve(project, store)
        made = Attacked.__new__(Attacked)
        made.repository = SignedRepository(project.repository, project.keys)
        made.publish_channel(made.channel(FIRST_SEQUENCE, "v1"))
        token = f"@{project.keys / 'join-token'}"
        with pathlib.Path(os.devnull).open("w") as nowhere, contextlib.redirect_stdout(nowhere):
            status = cli.main(["--store", str(folder / "device"), "join", line.url, "--token", token, "--name", DEVICE])
        assert status == 0
    return folder


@contextlib.contextmanager
def attacked(template: pathlib.Path, folder: pathlib.Path, line: Line) -> typing.Iterator[Attacked]:
    """Copy the template and let the device serve v1."""
    shutil.copytree(template, folder, symlinks=True)
    made = Attacked(folder, line)
    with fakes.running_agent(made.layout) as agent:
        made.agent = agent
        wait_for(lambda: bool(agent.engine.generation))
        yield made
    made.store.close()


def wait_for(is_so: typing.Callable[[], bool], timeout_s: float = 20.0) -> None:
    """Wait until something is so."""
    fakes.wait_for(is_so, timeout_s)
