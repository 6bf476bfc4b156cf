"""Mistakes that other devices' update clients make, each tried here: who makes it stands in the test."""

from __future__ import annotations

import collections
import contextlib
import pathlib
import socketserver
import threading
import typing
import wsgiref.simple_server

import msgspec
import pytest

from cloud.web.front import Environ, Front, StartResponse
from edge_agent.config import Settings
from edge_agent.sync import Sync
from edge_agent.telemetry.spool import Spool
from edge_agent.update.machine import LOOP_STORES
from tests import fakes

POLL_S = 7.0
PATIENCE_S = 0.05
SLOW = ("/metadata/", "/blobs/")


class Line:
    """What lies between a device and its cloud: while `slow`, a file whose path has that in it never comes whole."""

    def __init__(self, front: Front) -> None:
        self._front = front
        self.slow = ""
        self.dripped: collections.Counter[str] = collections.Counter()
        self.hangs_up = threading.Event()

    def __call__(self, environ: Environ, start: StartResponse) -> typing.Iterable[bytes]:
        answer = self._front(environ, start)
        if not self.slow or self.slow not in environ["PATH_INFO"]:
            return answer
        self.dripped[self.slow] += 1
        return self._dripping(answer)

    def _dripping(self, answer: typing.Iterable[bytes]) -> typing.Iterator[bytes]:
        first = b"".join(answer)[:1]
        getattr(answer, "close", lambda: None)()
        yield first
        self.hangs_up.wait(10 * PATIENCE_S)


class Server(socketserver.ThreadingMixIn, wsgiref.simple_server.WSGIServer):
    """Answers many at once: those that the device has turned away from go on for a moment."""


class Quiet(wsgiref.simple_server.WSGIRequestHandler):
    """A handler that says nothing."""

    def log_message(self, *_args: object) -> None:
        """Say nothing."""


class World(typing.NamedTuple):
    """A device that polls, the cloud that signs, and the line."""

    cloud: fakes.SignedRepository
    folder: pathlib.Path
    line: Line
    sync: Sync

    def publish(self, sequence: int, version: str) -> None:
        """Sign a version, and let it be fetched."""
        self.cloud.publish_bundle(fakes.make_bundle(version, slope=float(version[1:])))
        self.cloud.publish_channel(sequence, version, poll_interval_s=POLL_S)
        for path, data in self.cloud.files.items():
            (self.folder / path).parent.mkdir(parents=True, exist_ok=True)
            (self.folder / path).write_bytes(typing.cast("bytes", data))

    def until_it_arrives(self) -> int:
        """Poll until something new runs; return how often that took, which is once unless this machine is slow too."""
        return next(n for n in range(1, 20) if self.sync.one_pass().changed)


@pytest.fixture
def world(tmp_path: pathlib.Path) -> typing.Iterator[World]:
    cloud, folder = fakes.SignedRepository(), tmp_path / "repository"
    line = Line(Front(_nothing_else, folder))
    server = wsgiref.simple_server.make_server(
        "127.0.0.1", 0, typing.cast("typing.Any", line), server_class=Server, handler_class=Quiet
    )
    thread = threading.Thread(target=server.serve_forever, args=(0.02,))
    thread.start()
    layout = fakes.join(tmp_path / "store", root=cloud.root, cloud_url=f"http://127.0.0.1:{server.server_port}")
    Spool(layout.spool_db, 1 << 20).close()
    settings = Settings()
    settings = msgspec.structs.replace(settings, sync=msgspec.structs.replace(settings.sync, timeout_s=PATIENCE_S))
    with contextlib.closing(Sync(layout, layout.load_identity(), settings)) as sync:
        yield World(cloud, folder, line, sync)
    line.hangs_up.set()
    server.shutdown()
    thread.join()
    server.server_close()


def _nothing_else(_environ: Environ, start: StartResponse) -> list[bytes]:
    start("418 I'm a teapot", [])
    return []


def test_retries_do_not_stop_for_good_after_a_slow_link(world: World) -> None:
    """RAUC, streaming: what timed out on a bad line has failed, until somebody asks for it anew."""
    world.publish(1, "v1")
    world.until_it_arrives()
    world.publish(2, "v2")
    tries = LOOP_STORES  # far more steps than an update may store without coming to rest
    n = 0
    # On a busy machine a pass may time out before it comes to the file that is slow.
    while min(world.line.dripped[what] for what in SLOW) < tries // 2:
        world.line.slow = SLOW[n % 2]
        done = world.sync.one_pass()
        assert (done.ok, done.changed) == (False, False)
        assert 0 < done.next_s <= POLL_S
        assert n < done.failures <= 10 * tries, world.line.dripped
        n += 1
    world.line.slow = ""
    world.until_it_arrives()
    assert world.sync.one_pass().models == ("late@v2",)
