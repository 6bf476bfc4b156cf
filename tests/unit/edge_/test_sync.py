"""When a device comes again after a pass that failed, at whose word, and how old it says its news are."""

from __future__ import annotations

import contextlib
import errno
import io
import json
import os
import pathlib
import threading
import time
import typing
import wsgiref.simple_server

import msgspec
import pytest

from cloud.web.front import Front
from edge_agent.config import Layout, Settings
from edge_agent.control import ServerProxy
from edge_agent.files import BlobStore, write_atomic
from edge_agent.passes import Beat, Pass, run_child
from edge_agent.sync import Sync
from edge_agent.telemetry.spool import Spool
from edge_agent.update.machine import LOOP_STORES
from edge_agent.update.parts import part_of
from edge_agent.update.state import State
from shared import bundle, codec
from shared.channel import CAN, Channel
from shared.telemetry import Batch
from tests import fakes

DAY_S = 86_400.0
REFUSED = (
    (Channel(region="south", sequence=9, poll_interval_s=3600.0).to_bytes(), "the channel is for 'south'"),
    (Channel(region=fakes.REGION, sequence=3, poll_interval_s=3600.0).to_bytes(), "sequence 3 after 4"),
    (b'{"schema": "covey.channel/9"}', "reads covey.channel major 1"),
)


@pytest.fixture
def cloud() -> fakes.SignedRepository:
    made = fakes.SignedRepository()
    made.publish_bundle(fakes.make_bundle("v1", table={0: (0.5, 0.5)}))
    made.publish_channel(1, "v1")
    return made


@pytest.fixture
def layout(tmp_path: pathlib.Path, cloud: fakes.SignedRepository) -> Layout:
    made = fakes.join(tmp_path / "store", root=cloud.root)
    Spool(made.spool_db, 1 << 20).close()
    return made


@contextlib.contextmanager
def syncing(layout: Layout, **settings: typing.Any) -> typing.Iterator[Sync]:
    with contextlib.closing(Sync(layout, layout.load_identity(), Settings(), **settings)) as made:
        yield made


def carried(cloud: fakes.SignedRepository, folder: pathlib.Path) -> pathlib.Path:
    """Write the repository into a folder, as a stick would hold it."""
    for path, data in cloud.files.items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_bytes(typing.cast("bytes", data))
    return folder


def put_channel(layout: Layout, **changes: typing.Any) -> None:
    """Leave a channel where the one that was fetched last is kept."""
    layout.tuf.mkdir(exist_ok=True)
    fields: dict[str, typing.Any] = {"region": fakes.REGION, "sequence": 9, "poll_interval_s": 3600.0}
    fields |= changes
    write_atomic(layout.tuf / "channel.json", Channel(**fields).to_bytes())


# ---- when it comes again


def test_a_disk_that_is_full_for_long_is_no_update_that_never_ends(
    layout: Layout, cloud: fakes.SignedRepository, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    full = [True]
    honest = BlobStore.put

    def put(*arguments: typing.Any) -> None:
        if full[0]:
            raise OSError(errno.ENOSPC, "no space left on device")
        honest(*arguments)

    monkeypatch.setattr(BlobStore, "put", put)
    with syncing(layout, source=carried(cloud, tmp_path / "stick")) as sync:
        codes = {sync.one_pass().code for _ in range(LOOP_STORES)}
        assert codes == {"storage"}
        assert sync.state.update.read().n_stores == 0
        full[0] = False
        assert sync.one_pass().ok


def test_failed_passes_are_counted_wait_within_a_bound_and_a_good_one_resets_them(
    layout: Layout, cloud: fakes.SignedRepository, tmp_path: pathlib.Path
) -> None:
    """Nobody listens at the cloud's address; then what it signs comes by hand."""
    put_channel(layout)
    with syncing(layout) as sync:
        done = [sync.one_pass() for _ in range(4)]
    assert [(one.ok, one.code, one.failures) for one in done] == [(False, "unreachable", n) for n in (1, 2, 3, 4)]
    assert all(one.next_s <= 2.0 ** (one.failures - 1) for one in done)
    with syncing(layout, source=carried(cloud, tmp_path / "stick"), failures=4) as sync:
        good = sync.one_pass()
    assert (good.ok, good.failures, good.error) == (True, 0, "")
    assert good.next_s >= 0.2


def test_a_device_that_has_no_channel_yet_comes_again_within_seconds_however_often_it_failed(layout: Layout) -> None:
    with syncing(layout, failures=1000) as sync:
        assert all(sync.one_pass().next_s <= 5.0 for _ in range(3))


def test_a_damaged_generation_is_an_error_of_the_pass_and_not_the_end_of_the_child(
    layout: Layout, cloud: fakes.SignedRepository, tmp_path: pathlib.Path
) -> None:
    with syncing(layout, source=carried(cloud, tmp_path / "stick")) as sync:
        digest = sync.one_pass().generation
    (layout.generations / digest / "generation.json").write_bytes(b"{")
    with syncing(layout) as sync:
        done = sync.one_pass()
    assert (done.ok, done.failures) == (False, 1)


@pytest.mark.parametrize("refused", [{"region": "south"}, {"sequence": 3}], ids=["of another region", "of yesterday"])
def test_a_refused_channel_does_not_say_when_to_come_again(layout: Layout, refused: dict[str, typing.Any]) -> None:
    with contextlib.closing(State(layout.state_db)) as state:
        state.raise_floor("channel", 4)
    with syncing(layout, failures=30) as sync:
        put_channel(layout)
        assert any(sync.one_pass().next_s > 5.0 for _ in range(20))
        put_channel(layout, **refused)
        assert all(sync.one_pass().next_s <= 5.0 for _ in range(20))


def test_a_channel_that_is_refused_takes_no_place_of_the_one_that_is_acted_upon(
    layout: Layout, cloud: fakes.SignedRepository, tmp_path: pathlib.Path
) -> None:
    kept = layout.tuf / "channel.json"
    good = cloud.publish_channel(4, "v1", poll_interval_s=7.0)
    for data, words in ((good.to_bytes(), ""), *REFUSED):
        cloud.publish("channels", good.target_path, data)
        with syncing(layout, source=carried(cloud, tmp_path / "stick")) as sync:
            done = sync.one_pass()
        assert (done.ok, words in done.error) == (not words, True), done
        assert kept.read_bytes() == good.to_bytes()
    better = cloud.publish_channel(5, "v1", poll_interval_s=8.0)
    with syncing(layout, source=carried(cloud, tmp_path / "stick")) as sync:
        assert 8.0 <= sync.one_pass().next_s <= 8.0 * 1.2
    assert kept.read_bytes() == better.to_bytes()


# ---- a download that goes on


class Quiet(wsgiref.simple_server.WSGIRequestHandler):
    """A handler that says nothing."""

    def log_message(self, *_args: object) -> None:
        """Say nothing."""


def teapot(_environ: typing.Any, start: typing.Callable[..., object]) -> list[bytes]:
    start("418 I'm a teapot", [])
    return []


@pytest.fixture
def url(cloud: fakes.SignedRepository, tmp_path: pathlib.Path) -> typing.Iterator[str]:
    """Serve the repository as the cloud does, and nothing else."""
    front = Front(teapot, carried(cloud, tmp_path / "repo"))
    server = wsgiref.simple_server.make_server("127.0.0.1", 0, typing.cast("typing.Any", front), handler_class=Quiet)
    thread = threading.Thread(target=server.serve_forever, args=(0.02,))
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    thread.join()
    server.server_close()


def test_an_update_goes_on_with_the_part_that_it_has_and_clears_away_what_nobody_wants(
    layout: Layout, url: str
) -> None:
    identity = layout.load_identity()
    write_atomic(layout.identity, codec.to_json(msgspec.structs.replace(identity, cloud_url=url)))
    files = fakes.make_bundle("v1", table={0: (0.5, 0.5)}).files
    model = files[bundle.MODEL_FILE]
    layout.blobs.mkdir()
    part_of(layout.blobs, bundle.digest_of(model)).write_bytes(model[:-7])
    part_of(layout.blobs, "0" * 64).write_bytes(b"of a version that nobody wants any more")
    with syncing(layout) as sync:
        done = sync.one_pass()
        assert (done.changed, done.fetched_bytes) == (True, sum(map(len, files.values())) - len(model) + 7)
        assert list(layout.blobs.glob(".*")) == []
        part_of(layout.blobs, "0" * 64).write_bytes(b"of a version that was taken back")
        sync.one_pass()
        assert list(layout.blobs.glob(".*")) == []


# ---- what the cloud is told


def test_what_is_only_suspected_is_not_told_to_the_cloud_as_refused(
    tmp_path: pathlib.Path, layout: Layout, cloud: fakes.SignedRepository, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A sibling, or another model's candidate, may have failed: the cloud would take the wrong one back."""
    with syncing(layout, source=carried(cloud, tmp_path / "stick")) as sync:
        sync.one_pass()
        (digest,) = [path.name for path in layout.generations.iterdir()]
        monkeypatch.setattr(ServerProxy, "active", lambda _self: digest)
        sync.state.refuse(fakes.MODEL, "v2", "ab", "it died", on_suspicion=True)
        assert sync.status().models[0].refused == {}
        sync.state.refuse(fakes.MODEL, "v3", "cd", "it died alone")
        assert sync.status().models[0].refused == {"v3": "it died alone"}
        sync.state.acquit(but_last=True)
        assert set(sync.status().models[0].refused) == {"v2", "v3"}


def test_a_version_of_which_no_form_fits_is_told_apart_from_one_that_was_tried(
    tmp_path: pathlib.Path, layout: Layout, cloud: fakes.SignedRepository, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The cloud sets a device aside for what it fails at, and not for what its owner does not want."""
    with syncing(layout, source=carried(cloud, tmp_path / "stick")) as sync:
        sync.one_pass()
        (digest,) = [path.name for path in layout.generations.iterdir()]
        monkeypatch.setattr(ServerProxy, "active", lambda _self: digest)
        sync.state.refuse(fakes.MODEL, "v2", "ab", "it died")
        batch = Batch(device="d", spool="s", sequence=1, sent_s=1.0, status=sync.status())
        assert b"unfit" not in codec.to_msgpack(batch)
        sync.state.note_fit(fakes.MODEL, "v3", "it takes too much memory")
        (told,) = sync.status().models
        assert (set(told.refused), told.unfit) == ({"v2", "v3"}, ("v3",))
        sync.state.note_fit(fakes.MODEL, "v3", "")
        assert sync.status().models[0].unfit is msgspec.UNSET


# ---- how old the news are


def timestamp(layout: Layout, expires: str) -> None:
    layout.tuf.mkdir(exist_ok=True)
    (layout.tuf / "timestamp.json").write_text(json.dumps({"signed": {"expires": expires}}))


def test_a_lost_timestamp_makes_no_news_fresh(layout: Layout) -> None:
    with contextlib.closing(State(layout.state_db)) as state:
        state.raise_floor("time", int(time.time() - 30 * DAY_S))
    with syncing(layout) as sync:
        timestamp(layout, "2001-01-01T00:00:00Z")
        known = sync.status().stale_s
        assert known > 365 * DAY_S
        timestamp(layout, "2999-01-01T00:00:00Z")
        assert sync.status().stale_s == 0
        for damage in (b"{", b"[]", b'{"signed": {"expires": 3}}', None):
            if damage is None:
                (layout.tuf / "timestamp.json").unlink()
            else:
                (layout.tuf / "timestamp.json").write_bytes(damage)
            assert 30 * DAY_S - 5 <= sync.status().stale_s < 31 * DAY_S


def test_a_clock_that_was_turned_back_makes_no_news_fresh(layout: Layout) -> None:
    with contextlib.closing(State(layout.state_db)) as state:
        state.raise_floor("time", int(time.time() + 900 * DAY_S))
    with syncing(layout) as sync:
        timestamp(layout, "2027-01-01T00:00:00Z")
        assert sync.status().stale_s > 365 * DAY_S


def test_a_device_that_never_had_news_says_nothing_of_their_age(layout: Layout) -> None:
    with syncing(layout) as sync:
        assert sync.status().stale_s == 0


def test_a_device_says_what_it_understands_of_experiments(layout: Layout) -> None:
    with syncing(layout) as sync:
        assert sync.status().can == CAN


# ---- the child


def lines(pipe: io.BytesIO) -> list[bytes]:
    return pipe.getvalue().split(b"\n")[:-1]


def test_the_child_says_what_each_pass_did_until_nobody_listens_or_polls_are_rare() -> None:
    read, write = os.pipe()
    os.write(write, b"3\n")
    out = io.BytesIO()
    waits = iter([0.01, 0.01, 60.0])
    assert run_child(lambda: Pass(next_s=next(waits)), read=read, out=out) == 0
    said = [msgspec.json.decode(line, type=Pass) for line in lines(out)]
    assert [(one.done, one.next_s) for one in said] == [(3, 0.01), (3, 0.01), (3, 60.0)]
    fails = iter([Pass(failures=1, next_s=0.01), Pass(failures=2, next_s=20.0)])
    assert run_child(lambda: next(fails), read=read, out=out) == 0  # nobody waits in memory for a network
    assert next(fails, None) is None
    os.close(write)
    assert run_child(Pass, read=read, out=out) == 0
    assert len(lines(out)) == 5
    os.close(read)


class Deaf(io.BytesIO):
    """A pipe that nobody reads."""

    def write(self, _data: typing.Any) -> int:
        raise BrokenPipeError


def test_a_beat_is_said_once_a_minute_and_a_deaf_ear_is_no_error() -> None:
    seconds = iter([0.0, 1.0, 59.0, 61.0, 62.0, 121.0, 200.0])
    out = io.BytesIO()
    beat = Beat(out, lambda: next(seconds))
    for _ in range(5):
        beat()
    assert out.getvalue() == b"\n\n"
    deaf = Deaf()
    Beat(deaf, iter([0.0, 99.0]).__next__)()
    assert deaf.getvalue() == b""
