"""A pass that finds everything as it was: two questions, nothing stored; and what it must notice all the same."""

from __future__ import annotations

import contextlib
import pathlib
import sqlite3
import typing

import pytest

from edge_agent.update.install import Installer, Outcome
from edge_agent.update.state import State
from edge_agent.update.trust import Repository, Where
from shared.errors import TrustError, UnreachableError
from tests import fakes

ASKED = ["metadata/2.root.json", "metadata/timestamp.json"]


class Server:
    """The serving process."""

    serves = ""

    def active(self) -> str:
        return self.serves

    def activate(self, digest: str) -> None:
        self.serves = digest


class Device:
    """A device whose sync child stays between passes."""

    def __init__(self, folder: pathlib.Path) -> None:
        self.cloud, self.server = fakes.SignedRepository(), Server()
        self.cloud.publish_bundle(fakes.make_bundle("v1"))
        self.cloud.publish_bundle(fakes.make_bundle("v2", slope=2.0))
        self.cloud.publish_channel(1, "v1")
        self.layout = fakes.join(folder, root=self.cloud.root)
        self.state = State(self.layout.state_db)
        self.line_is_up = True
        where = Where.below(fakes.URL)
        self.repository = Repository(self.layout.tuf, self.cloud.root, where, self._stream, self.state)
        self._installer = Installer(
            self.layout,
            self.layout.load_identity(),
            state=self.state,
            repository=self.repository,
            server=self.server,
            stream=self._stream,
            self_test=lambda _folder, _manifest: None,
        )

    def _stream(self, url: str) -> typing.Iterator[bytes]:
        if not self.line_is_up:
            raise UnreachableError("no line")
        yield from self.cloud.stream(url)

    def update(self) -> Outcome:
        done = self._installer.bring_up_to_date()
        self.state.mark(done.generation, "good")  # probation is the serving process' affair
        return done

    def asked(self) -> list[str]:
        """Do a pass; return what was fetched."""
        self.cloud.fetched.clear()
        self.update()
        return list(self.cloud.fetched)

    def stored(self) -> dict[str, int]:
        """When each file of trusted metadata was written, and when the update's position was."""
        files = {path.name: path.stat().st_mtime_ns for path in self.layout.tuf.glob("*.json")}
        return files | {"position": int(self.state.update.read().since_s * 1e6)}


@pytest.fixture
def device(tmp_path: pathlib.Path) -> typing.Iterator[Device]:
    made = Device(tmp_path / "store")
    made.update()
    made.state.update.end(told=True)
    with contextlib.closing(made.state):
        yield made


def test_a_pass_that_finds_nothing_new_asks_two_questions_and_stores_nothing(device: Device) -> None:
    before = device.stored()
    assert [device.asked() for _ in range(3)] == [ASKED] * 3
    assert device.stored() == before
    assert device.state.update.read().position == "idle"


def test_a_pass_that_tells_anew_what_was_refused_asks_no_more_than_two_questions(device: Device) -> None:
    device.update()
    device.state.update.end("refused")
    assert device.asked() == ASKED


def test_what_is_new_after_quiet_passes_is_taken_and_nothing_is_fetched_twice(device: Device) -> None:
    device.update()
    device.cloud.publish_channel(2, "v2")
    fetched = device.asked()
    assert fetched[:2] == ASKED
    assert len(set(fetched)) == len(fetched)
    assert device.server.serves == device.update().generation
    assert device.state.floor("channel") == 2
    assert device.asked() == ASKED


def test_a_new_root_is_noticed_though_the_timestamp_is_the_same(device: Device) -> None:
    device.update()
    device.cloud.signed["root"].version = 2
    device.cloud.write("root")
    assert device.asked()[:2] == ["metadata/2.root.json", "metadata/3.root.json"]
    assert device.asked() == ["metadata/3.root.json", "metadata/timestamp.json"]


def test_what_has_expired_is_refused_though_the_cloud_serves_the_same_as_before(device: Device) -> None:
    device.update()
    device.state.raise_floor("time", int(device.cloud.expires.timestamp()) + 1)
    for _ in range(2):
        with pytest.raises(TrustError, match="expired"):
            device.update()


def test_another_timestamp_of_the_same_version_is_looked_at(device: Device) -> None:
    device.update()
    device.cloud.write("timestamp", signed_by="channels")
    with pytest.raises(TrustError):
        device.update()
    device.cloud.write("timestamp")
    assert not device.update().changed


@pytest.mark.parametrize("name", ["timestamp", "snapshot", "targets", "channels", "bundles", "channel"])
@pytest.mark.parametrize("spoil", [pathlib.Path.unlink, lambda path: path.write_bytes(b"{}")])
def test_metadata_that_were_damaged_meanwhile_are_mended(
    device: Device, name: str, spoil: typing.Callable[[pathlib.Path], object]
) -> None:
    path = device.layout.tuf / f"{name}.json"
    before = path.read_bytes()
    device.update()
    spoil(path)
    device.update()
    assert path.read_bytes() == before
    assert device.asked() == ASKED


def test_a_file_of_the_model_that_was_lost_meanwhile_is_repaired(device: Device) -> None:
    folder = next(device.layout.generations.glob("*/*"))
    path = next(folder.rglob("model.onnx"))
    path.unlink()
    assert device.update().repaired
    assert path.exists()


def test_a_server_that_serves_something_else_is_told_again(device: Device) -> None:
    device.server.serves = "another"
    done = device.update()
    assert (done.changed, device.server.serves) == (True, done.generation)
    assert device.state.update.read().position == "report"


def test_a_version_that_is_refused_meanwhile_is_left_without_a_word_of_the_cloud(device: Device) -> None:
    device.cloud.publish_channel(2, "v1", "v2")
    digest = device.update().generation
    (entry,) = fakes.generations_of(device.layout).read(digest).models
    device.state.refuse(entry.model, "v2", entry.candidate_sha256, "it answers 42")
    done = device.update()
    assert (done.changed, done.generation != digest) == (True, True)


def test_a_line_that_is_down_is_said_and_changes_nothing(device: Device) -> None:
    device.update()
    before = device.stored()
    device.line_is_up = False
    with pytest.raises(UnreachableError):
        device.update()
    device.line_is_up = True
    assert device.asked() == ASKED
    assert device.stored() == before


def test_what_a_pass_that_broke_off_had_fetched_is_not_taken_for_news_later(device: Device) -> None:
    device.update()
    device.cloud.publish_channel(2, "v2")
    device.state._db.execute("create trigger broken before update on jobs begin select raise(abort, 'disk full'); end")
    with pytest.raises(sqlite3.IntegrityError, match="disk full"):
        device.update()
    device.state._db.execute("drop trigger broken")
    device.state.update.end("the disk was full")
    device.cloud.publish_channel(3, "v1")
    device.update()
    assert device.state.floor("channel") == 3
