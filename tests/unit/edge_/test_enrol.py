"""A device joins, waits for approval and replaces its key, against a real cloud on loopback; killed at every step."""

from __future__ import annotations

import collections
import contextlib
import pathlib
import re
import shutil
import socket
import socketserver
import stat
import subprocess
import sys
import threading
import typing
import wsgiref.simple_server

import msgspec
import pytest

from cloud import enrol as cloud_enrol
from cloud.config import Project
from cloud.config.fleet import ServeSettings
from cloud.store.store import Store
from cloud.web.app import create_app
from cloud.web.limits import Limits
from edge_agent import cli, device_key
from edge_agent.config import Layout, Settings
from edge_agent.device_key import KeyFile, public_hex
from edge_agent.link import Link, NotApprovedError
from edge_agent.passes import Pass
from edge_agent.sync import Sync
from edge_agent.telemetry.spool import Spool
from edge_agent.update import enrol
from edge_agent.update.enrol import wait_for_approval
from edge_agent.update.state import State
from shared import protocol
from shared.errors import AuthError, ForbiddenError, UnreachableError, UsageError
from tests import fakes
from tests.unit.cloud_ import builders


class _Quiet(wsgiref.simple_server.WSGIRequestHandler):
    """Says nothing on the terminal."""

    def log_message(self, *_args: object) -> None:
        """Say nothing."""


class _Server(socketserver.ThreadingMixIn, wsgiref.simple_server.WSGIServer):
    """A thread for each request."""

    daemon_threads = True


class Cloud:
    """A cloud on loopback; what it answers can be lost on the way back."""

    def __init__(self, project: Project, store: Store) -> None:
        self.project, self.store = project, store
        self.app = create_app(project, store)
        self.lose_answers_of = ""
        self._server = wsgiref.simple_server.make_server("127.0.0.1", 0, self._answer, _Server, _Quiet)
        self._thread = threading.Thread(target=self._server.serve_forever)
        self._thread.start()
        self.url = f"http://127.0.0.1:{self._server.server_port}"

    def _answer(self, environ: typing.Any, start_response: typing.Any) -> typing.Any:
        try:
            if self.lose_answers_of and environ["PATH_INFO"].endswith(self.lose_answers_of):
                list(self.app.wsgi_app(environ, lambda *_: None))
                start_response("504 Gateway Timeout", [("Content-Length", "0")])
                return [b""]
            return self.app.wsgi_app(environ, start_response)
        finally:
            self.store.db.close()

    def token(self, *, approve: bool = False, uses: int = 9, **labels: str) -> str:
        made = cloud_enrol.new_join_token(
            self.project, self.store, region="north", uses=uses, lifetime_s=60, actor="ada", approve=approve,
            labels=labels,
        )  # fmt: skip
        return str(made)

    def key_of(self, device: str) -> str:
        return str(self.store.fleet.get(device)["public_key"])

    def close(self) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


@pytest.fixture
def cloud(tmp_path: pathlib.Path) -> typing.Iterator[Cloud]:
    project = builders.make_project(tmp_path / "shop")
    with builders.opened(project) as store:
        made = Cloud(project, store)
        yield made
        made.close()


class Said(typing.NamedTuple):
    """What a command said."""

    status: int
    out: str
    err: str


Run = typing.Callable[..., Said]


@pytest.fixture
def run(tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Run:
    """Run ``covey-edge`` on a store."""
    monkeypatch.delenv("COVEY_STORE", raising=False)

    def call(*arguments: str, store: str = "store") -> Said:
        try:
            status = cli.main(["--store", str(tmp_path / store), *arguments])
        except SystemExit as err:
            status = int(err.code or 0)
        said = capsys.readouterr()
        assert "Traceback" not in said.err
        return Said(status, said.out, said.err)

    return call


@pytest.fixture
def layout(cloud: Cloud, run: Run, tmp_path: pathlib.Path) -> Layout:
    """A device that is in the fleet."""
    assert run("join", cloud.url, "--token", cloud.token(), "--name", "till-1", "--no-sync").status == 0
    return Layout(tmp_path / "store")


def sync(layout: Layout) -> Pass:
    """One pass, as the sync child does it."""
    Spool(layout.spool_db, 1 << 20).close()
    passing = Sync(layout, layout.load_identity(), Settings())
    try:
        return passing.one_pass()
    finally:
        passing.close()


def key_of(layout: Layout) -> str:
    return public_hex(KeyFile(layout.device_key).load())


def files(layout: Layout) -> list[str]:
    return sorted(path.name for path in layout.keys.iterdir())


def can_sign_in(layout: Layout, path: pathlib.Path) -> bool:
    """Whether a key by itself is the one that the cloud accepts."""
    identity = layout.load_identity()
    link = Link(identity.cloud_url, identity.device, device_key.load_key(path))
    try:
        return bool(link.sign_in())
    except AuthError:
        return False
    finally:
        link.close()


@contextlib.contextmanager
def meanwhile(cloud: Cloud, action: str) -> typing.Iterator[None]:
    """Somebody who approves or rejects the device once it has asked."""

    def act() -> None:
        fakes.wait_for(lambda: cloud.store.fleet.all(status="pending"))
        cloud.store.fleet.change("till-1", action)
        cloud.store.db.close()

    thread = threading.Thread(target=act)
    thread.start()
    yield
    thread.join()


# ---- approval


def test_a_device_that_waits_says_so_and_goes_on_once_it_is_approved(cloud: Cloud, run: Run) -> None:
    said = run("join", cloud.url, "--token", cloud.token(approve=True), "--name", "till-1", "--wait", "0")
    assert said.status == 0
    assert said.out.startswith("asked to join as till-1 in region north, with the key " + cloud.key_of("till-1"))
    assert "covey device approve till-1" in said.out
    assert "not approved yet" in said.err
    assert run("join", cloud.url, "--token", cloud.token(), "--if-needed").out == "joined already, as till-1\n"
    waits = run("sync")
    assert (waits.status, "'till-1' waits for approval. covey device approve till-1" in waits.err) == (1, True)
    cloud.store.fleet.change("till-1", "approve")
    run("sync")
    assert cloud.store.fleet.get("till-1")["seen_s"] > 0


def test_join_goes_on_as_soon_as_somebody_approves(cloud: Cloud, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(enrol, "_PAUSE_S", 0.05)
    with meanwhile(cloud, "approve"):
        said = run("join", cloud.url, "--token", cloud.token(approve=True), "--name", "till-1", "--wait", "2")
    assert "joined as till-1 in region north" in said.out


def test_what_a_device_counts_while_it_waits_is_delivered_afterwards(cloud: Cloud, layout: Layout) -> None:
    cloud.store.db.connection.execute("update devices set status = 'pending'")
    first = sync(layout)
    assert (first.code, first.delivered) in {("pending", 0), ("not-found", 0)}
    assert not cloud.store.fleet.events()
    cloud.store.fleet.change("till-1", "approve")
    assert sync(layout).delivered == 1
    assert "approval" not in str(cloud.store.fleet.events())  # to wait is no trouble that is told


def test_a_rejected_device_belongs_to_no_fleet_and_may_ask_under_its_key_again(cloud: Cloud, run: Run) -> None:
    token = cloud.token(approve=True)
    assert run("join", cloud.url, "--token", token, "--name", "till-1", "--no-sync").status == 0
    cloud.store.fleet.change("till-1", "reject")
    said = run("sync")
    assert "was rejected" in said.err
    other = run("join", cloud.url, "--token", token, "--name", "till-1", "--no-sync", store="other")
    assert (other.status, "waits" in other.err) == (0, False)  # another key: the name was free again
    cloud.store.fleet.change("till-1", "reject")
    again = run("join", cloud.url, "--token", token, "--name", "till-1", store="third")
    assert "asked to join" in again.out


def test_a_device_that_is_rejected_while_it_waits_is_told(
    cloud: Cloud, run: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: pathlib.Path
) -> None:
    monkeypatch.setattr(enrol, "_PAUSE_S", 0.05)
    with meanwhile(cloud, "reject"):
        said = run("join", cloud.url, "--token", cloud.token(approve=True), "--name", "till-1", "--wait", "5")
    assert (said.status, "was rejected" in said.err) == (4, True)
    assert not Layout(tmp_path / "store").identity.exists()
    assert run("sync").status == 5


@pytest.mark.parametrize(("approved_after", "asked", "expected"), [(0, 1, True), (3, 4, True), (99, 6, False)])
def test_waiting_ends_with_the_approval_or_with_the_time(approved_after: int, asked: int, expected: bool) -> None:
    now, calls = [0.0], [0]

    def sign_in() -> None:
        calls[0] += 1
        if calls[0] <= approved_after:
            raise UnreachableError("gone") if calls[0] == 1 else NotApprovedError("waits")

    def sleep(seconds: float) -> None:
        now[0] += seconds

    assert wait_for_approval(sign_in, 9.0, clock=lambda: now[0], sleep=sleep) is expected
    assert (calls[0], now[0] <= 9.0) == (asked, True)


def test_waiting_ends_at_once_when_the_device_is_rejected() -> None:
    def sign_in() -> None:
        raise ForbiddenError("was rejected")

    with pytest.raises(ForbiddenError):
        wait_for_approval(sign_in, 9.0, clock=lambda: 0.0, sleep=lambda _s: None)


def test_a_device_that_is_expected_shows_its_key_before_and_joins_with_a_token_that_is_used_up(
    cloud: Cloud, run: Run, layout: Layout
) -> None:
    token = cloud.token(uses=1)
    assert run("join", cloud.url, "--token", token, "--name", "till-2", "--no-sync", store="second").status == 0
    key = run("key", store="third").out.strip()
    assert run("key", "--json", store="third").out == f'{{"public_key": "{key}"}}\n'
    assert run("key").out.strip() == key_of(layout)
    cloud.store.fleet.preauthorise("till-3", key, "south")
    said = run("join", cloud.url, "--token", token, "--name", "till-3", "--no-sync", store="third")
    assert said.out == "joined as till-3 in region south\n"


@pytest.mark.parametrize(
    ("token", "name", "status", "says"),
    [
        ("@nothing", "till-1", 5, "--token: 'nothing' can not be read: No such file or directory"),
        ("here", "till-1", 2, "--token: 'here' is a file. To read the token from it: --token @here"),
        ("@here", "till 1", 2, "--name: 'till 1' is no name of a device. Letters, digits"),
        ("@here", "till-1", 7, "/api/v1/devices/join: connection refused"),
    ],
)
def test_what_is_mistyped_when_joining_is_named(
    run: Run, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch, token: str, name: str, status: int, says: str
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "here").write_text("covey-join.a.b.c\n")
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))  # and does not listen
        url = f"http://127.0.0.1:{nobody.getsockname()[1]}"
        said = run("join", url, "--token", token, "--name", name, "--no-sync")
    assert (said.status, says in said.err) == (status, True), said
    assert len(said.err.splitlines()) == 1


# ---- a new key


def test_a_device_replaces_its_key_and_delivers_with_the_new_one(cloud: Cloud, run: Run, layout: Layout) -> None:
    sync(layout)
    before = key_of(layout)
    said = run("rotate-key", "--json")
    made = msgspec.json.decode(said.out)
    assert (said.status, made["device"]) == (0, "till-1")
    assert key_of(layout) == made["public_key"] == cloud.key_of("till-1") != before
    assert files(layout) == ["device.pem", "prediction-id.key"]
    assert stat.S_IMODE(layout.device_key.stat().st_mode) == 0o600
    assert sync(layout).delivered == 1


def test_a_sync_that_is_under_way_hears_of_the_new_key(cloud: Cloud, run: Run, layout: Layout) -> None:
    Spool(layout.spool_db, 1 << 20).close()
    passing = Sync(layout, layout.load_identity(), Settings())
    try:
        assert passing.one_pass().delivered == 1
        run("rotate-key")
        passing.outbox.add_event("hello", "there is something to deliver")
        assert passing.one_pass().delivered == 1
    finally:
        passing.close()
    assert key_of(layout) == cloud.key_of("till-1")


def test_a_key_that_the_cloud_asks_for_is_made_at_the_next_delivery(cloud: Cloud, layout: Layout) -> None:
    before = key_of(layout)
    cloud.store.fleet.change("till-1", "rotate")
    assert sync(layout).delivered == 1
    assert key_of(layout) == cloud.key_of("till-1") != before
    assert cloud.store.fleet.get("till-1")["rotate"] == 0
    after = key_of(layout)
    sync(layout)
    assert key_of(layout) == after  # once


STEPS = ("write_atomic", "nonce", "key", "key lost", "replace", "fsync_folder")


@pytest.mark.parametrize("step", STEPS)
def test_killed_between_any_two_steps_it_holds_exactly_one_key_that_counts_and_finishes_later(
    cloud: Cloud, layout: Layout, step: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    class KilledError(BaseException):
        """The process is gone."""

    def killed(*_: object) -> typing.NoReturn:
        raise KilledError

    before, identity = key_of(layout), layout.load_identity()
    keys = KeyFile(layout.device_key)
    link = Link(identity.cloud_url, "till-1", keys)
    with monkeypatch.context() as patch:
        if step in {"write_atomic", "fsync_folder"}:
            patch.setattr(device_key, step, killed)
        elif step == "replace":
            patch.setattr(KeyFile, "finish", killed)
        elif step == "nonce":
            patch.setattr(Link, "_nonce", killed)
        elif step == "key":
            exchange = Link.exchange
            patch.setattr(
                Link, "exchange", lambda self, path, *more: killed() if "/key" in path else exchange(self, path, *more)
            )
        else:
            cloud.lose_answers_of = "/key"
        with pytest.raises((KilledError, UnreachableError)):
            link.rotate_key(keys)
    link.close()
    cloud.lose_answers_of = ""
    there = [layout.keys / name for name in files(layout) if name.endswith("device.pem")]
    assert sum(can_sign_in(layout, path) for path in there) == 1
    done = sync(layout)
    assert done.delivered == 1, done
    assert files(layout) == ["device.pem", "prediction-id.key"]
    assert key_of(layout) == cloud.key_of("till-1")
    assert (key_of(layout) == before) == (step == "write_atomic")
    assert len(cloud.store.audit.all(9, "device new-key")) == (step != "write_atomic")


def rotate_under_strace(layout: Layout, *options: str) -> int:
    """Run ``covey-edge rotate-key`` as a process, with what strace is told to do to it."""
    program = shutil.which("strace")
    assert program is not None
    command = [sys.executable, "-B", "-m", "edge_agent.cli", "--store", str(layout.store), "rotate-key"]
    return subprocess.run([program, "-qq", *options, *command], capture_output=True, check=False).returncode


@pytest.mark.skipif(shutil.which("strace") is None, reason="there is no strace: apt-get install strace")
@pytest.mark.parametrize("fault", ["signal=SIGKILL", "error=ENOSPC"])
def test_at_each_call_that_changes_a_file_one_key_counts_and_the_next_sync_finishes(
    cloud: Cloud, layout: Layout, tmp_path: pathlib.Path, fault: str
) -> None:
    log = tmp_path / "calls"
    calls = "openat,write,fsync,rename,unlink,chmod,fchmod"
    assert rotate_under_strace(layout, "-y", "-o", str(log), "-e", f"trace={calls}") == 0
    seen: collections.Counter[str] = collections.Counter()
    changing = []
    for name, said in re.findall(r"^(\w+)\((.*)$", log.read_text(), re.MULTILINE):
        seen[name] += 1
        if str(layout.keys) in said and (name != "openat" or "O_CREAT" in said):
            changing.append((name, seen[name]))
    assert [name for name, _ in changing] == ["openat", "write", "fsync", "rename", "fsync", "rename", "fsync"]
    for name, number in changing:
        inject = f"inject={name}:{fault}:when={number}"
        assert rotate_under_strace(layout, "-o", "/dev/null", "-e", inject) != 0
        there = [layout.keys / one for one in files(layout) if one.endswith("device.pem") and not one.startswith(".")]
        assert sum(can_sign_in(layout, path) for path in there) == 1, (name, number, files(layout))
        assert sync(layout).delivered == 1
        assert key_of(layout) == cloud.key_of("till-1")
        assert "next-device.pem" not in files(layout)
    assert files(layout) == ["device.pem", "prediction-id.key"]  # what killed ones left half written is cleared away


def test_without_a_network_the_old_key_stays_and_the_new_one_is_made_good_later(
    cloud: Cloud, run: Run, layout: Layout
) -> None:
    before = key_of(layout)
    identity = msgspec.json.decode(layout.identity.read_bytes())
    layout.identity.write_bytes(msgspec.json.encode(identity | {"cloud_url": "http://127.0.0.1:9"}))
    assert run("rotate-key").status == 7
    assert key_of(layout) == before
    layout.identity.write_bytes(msgspec.json.encode(identity))
    assert sync(layout).delivered == 1
    assert key_of(layout) == cloud.key_of("till-1") != before


def test_of_two_copies_the_one_that_replaces_its_key_first_stays(
    cloud: Cloud, run: Run, layout: Layout, tmp_path: pathlib.Path
) -> None:
    shutil.copytree(layout.store, tmp_path / "copy")
    assert run("rotate-key").status == 0
    said = run("rotate-key", store="copy")
    assert (said.status, "this key is not the device's" in said.err) == (4, True)
    assert sync(Layout(tmp_path / "copy")).code == "auth"
    assert sync(layout).delivered == 1
    assert cloud.key_of("till-1") == key_of(layout)


def test_a_cloud_that_knows_no_new_keys_is_no_reason_to_lose_the_old_one(
    cloud: Cloud, run: Run, layout: Layout, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(protocol, "ROTATE_KEY_PATH", "/api/v0/devices/{device}/key")
    before = key_of(layout)
    assert run("rotate-key").status == 5
    assert sync(layout).delivered == 1
    assert key_of(layout) == before == cloud.key_of("till-1")


# ---- garbage, and asking too fast


def test_commands_say_what_is_wrong(run: Run, cloud: Cloud, layout: Layout, tmp_path: pathlib.Path) -> None:
    nowhere = run("rotate-key", store="nowhere")
    assert (nowhere.status, "belongs to no fleet yet" in nowhere.err) == (5, True)
    assert run("rotate-key", "--jason").status == 2
    assert run("key", "--wait", "1").status == 2
    for path, verb in ((layout.device_key, "key"), (layout.keys / "next-device.pem", "rotate-key")):
        kept = path.read_bytes() if path.exists() else None
        path.write_bytes(b"\xff garbage")
        said = run(verb)
        assert (said.status, f"{path.name}: can not be read as a key" in said.err) == (2, True), said
        path.unlink()
        if kept:
            path.write_bytes(kept)
    layout.device_key.unlink()
    assert (run("key").status, layout.device_key.exists()) == (5, False)  # never a new key under an old name
    with pytest.raises(UsageError):
        KeyFile(tmp_path / "nothing.pem")
    assert cloud.key_of("till-1")


def test_a_device_that_asks_too_fast_waits_and_loses_nothing(cloud: Cloud, layout: Layout) -> None:
    seconds = [0.0]
    serve = ServeSettings(device_limit_per_s=0.01, limit_burst_s=100.0)
    cloud.app.extensions["covey-limits"] = Limits(serve, lambda: seconds[0])
    done = sync(layout)  # a nonce takes the only token
    assert (done.code, done.delivered, done.next_s >= 100) == ("unreachable", 0, True), done
    cloud.app.extensions["covey-limits"] = Limits(ServeSettings())
    assert sync(layout).delivered == 1


# ---- labels


def labels_of(layout: Layout) -> dict[str, str]:
    with contextlib.closing(State(layout.state_db)) as state:
        return state.labels()


def test_a_device_knows_its_labels_from_the_token_before_it_fetches_anything(
    cloud: Cloud, run: Run, tmp_path: pathlib.Path
) -> None:
    token = cloud.token(store="flagship")
    assert run("join", cloud.url, "--token", token, "--name", "till-1", "--no-sync").status == 0
    layout = Layout(tmp_path / "store")
    assert labels_of(layout) == {"store": "flagship"}
    sync(layout)
    assert cloud.store.fleet.get("till-1")["report"]["labels"] == {"class": "standard", "store": "flagship"}


def test_a_device_hears_of_new_labels_with_its_next_delivery_and_says_so_with_the_one_after(
    cloud: Cloud, layout: Layout, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []
    exchange = Link.exchange

    def noted(link: Link, path: str, *more: typing.Any) -> typing.Any:
        asked.append(path.rpartition("/")[2])
        return exchange(link, path, *more)

    monkeypatch.setattr(Link, "exchange", noted)
    Spool(layout.spool_db, 1 << 20).close()
    passing = Sync(layout, layout.load_identity(), Settings())

    def one_pass() -> list[str]:
        asked.clear()
        passing.outbox.add_event("noted", "so that there is something to deliver")
        passing.one_pass()
        return list(asked)

    with contextlib.closing(passing):
        assert one_pass() == ["nonce", "token"]
        assert one_pass() == [], "nothing has changed, and nothing is asked"
        cloud.store.fleet.label("till-1", {"store": "flagship"})
        assert one_pass() == ["nonce", "token"]
        assert labels_of(layout) == {"store": "flagship"}
        assert one_pass() == []
        assert cloud.store.fleet.get("till-1")["report"]["labels"]["store"] == "flagship"
        cloud.store.fleet.label("till-1", {}, ["store"])
        one_pass()
        assert labels_of(layout) == {}
        cloud.store.fleet.label("till-1", {"store": "test"})
        reply = protocol.SignInReply(token="t", expires_in_s=60.0)
        monkeypatch.setattr(Link, "exchange", lambda _link, path, _said, kind: _older(path, kind, reply))
        before = labels_of(layout)
        one_pass()
        assert labels_of(layout) == before, "a cloud that knows of no labels takes none away"


def _older(path: str, kind: type[typing.Any], reply: protocol.SignInReply) -> typing.Any:
    return reply if kind is protocol.SignInReply else protocol.NonceReply(nonce=path)
