"""What a disk has spoiled is found, fetched again and served, and nobody ever reads half of a file."""

from __future__ import annotations

import contextlib
import mmap
import os
import pathlib
import shutil
import subprocess
import sys
import typing

import pytest

from edge_agent import cli, control, doctor
from edge_agent.config import Layout, Settings
from edge_agent.files import write_atomic
from edge_agent.passes import Pass
from edge_agent.sync import Sync
from edge_agent.telemetry.spool import Spool
from edge_agent.update.repair import damaged, spoiled
from edge_agent.update.state import State
from shared.bundle import MODEL_FILE, TABLE_FILE
from tests import fakes

NAME = f"{fakes.MODEL}@v1 {MODEL_FILE}"


class Device:
    """A device that runs what a stick has brought it.

    Attributes
    ----------
    digest : str
        The generation that runs.
    model : Path
        The model's file in the generation's folder.
    blob : Path
        The same file among the blobs.
    """

    def __init__(self, folder: pathlib.Path) -> None:
        self.cloud, self.stick = fakes.SignedRepository(), folder / "stick"
        self.layout = fakes.join(folder / "store", root=self.cloud.root)
        Spool(self.layout.spool_db, 1 << 20).close()
        self.v1 = fakes.make_bundle("v1", table={0: (0.5, 0.5)})
        self.cloud.publish_bundle(self.v1)
        self.publish(1, "v1")
        self.digest = self.sync().generation
        self.generations = fakes.generations_of(self.layout)
        self.model = self.generations.version_folder(self.digest, fakes.MODEL, "v1") / MODEL_FILE
        (sha256,) = [file.sha256 for file in self.v1.manifest.files if file.name == MODEL_FILE]
        self.served = self.stick / self.cloud.blob(sha256)
        self.blob, self.whole = self.generations.blobs.path(sha256), self.model.read_bytes()

    def publish(self, sequence: int, version: str) -> None:
        """Sign a channel and put all that is signed on the stick."""
        self.cloud.publish_channel(sequence, version)
        for path, data in self.cloud.files.items():
            (self.stick / path).parent.mkdir(parents=True, exist_ok=True)
            (self.stick / path).write_bytes(typing.cast("bytes", data))

    @contextlib.contextmanager
    def syncing(self) -> typing.Iterator[Sync]:
        layout = self.layout
        with contextlib.closing(Sync(layout, layout.load_identity(), Settings(), source=self.stick)) as sync:
            yield sync

    def sync(self) -> Pass:
        with self.syncing() as sync:
            return sync.one_pass()

    def events(self) -> list[tuple[str, str]]:
        with self.syncing() as sync:
            rows = sync.outbox._db.execute("select kind, detail from events order by id")
            return [row for row in rows if row[0] in ("damaged", "repaired")]

    def is_whole(self) -> bool:
        return (
            damaged(self.generations) == []
            and spoiled(self.generations.blobs) == []
            and self.model.samefile(self.blob)
            and self.model.read_bytes() == self.whole
        )


@pytest.fixture
def device(tmp_path: pathlib.Path) -> Device:
    return Device(tmp_path)


def flip(path: pathlib.Path) -> None:
    """Spoil a byte where it lies, as a disk does: the length stays, and so do the links."""
    with path.open("r+b") as file:
        byte = file.read(1)
        file.seek(0)
        file.write(bytes([byte[0] ^ 1]))


def cut(path: pathlib.Path) -> None:
    os.truncate(path, 10)


# ---- what each pass sees


def metadata(device: Device, name: str) -> pathlib.Path:
    folder = device.layout.generations / device.digest
    return {"generation": folder / "generation.json", "manifest": device.model.with_name("manifest.json")}[name]


SEEN: dict[str, tuple[typing.Callable[[Device], object], set[str]]] = {
    "a blob is gone": (lambda device: device.blob.unlink(), {NAME}),
    "a blob was cut short": (lambda device: cut(device.blob), {NAME}),
    "a link is gone": (lambda device: device.model.unlink(), {NAME}),
    "a file of its own where a link was": (lambda device: write_atomic(device.model, b"other"), {NAME}),
    "a manifest is garbage": (
        lambda device: metadata(device, "manifest").write_bytes(b"{}"),
        {f"{fakes.MODEL}@v1 manifest.json"},
    ),
    "the generation's own file is garbage": (
        lambda device: metadata(device, "generation").write_bytes(b"{"),
        {"generation.json"},
    ),
    "the whole folder is gone": (
        lambda device: shutil.rmtree(device.layout.generations / device.digest),
        {NAME, "generation.json", f"{fakes.MODEL}@v1 manifest.json"},
    ),
}


@pytest.mark.parametrize("what", SEEN)
def test_what_is_missing_is_put_right_by_the_next_pass_which_says_so_once(device: Device, what: str) -> None:
    spoil, names = SEEN[what]
    spoil(device)
    assert not device.is_whole()
    done = device.sync()
    assert (done.ok, done.generation) == (True, device.digest), done
    assert set(done.repaired) >= names
    assert device.is_whole()
    ((kind, detail),) = device.events()
    assert kind == "repaired"
    assert all(name in detail for name in names)
    assert device.sync().repaired == ()
    assert len(device.events()) == 1


def test_where_nothing_is_wrong_nothing_is_written(device: Device) -> None:
    before = {path: path.stat().st_mtime_ns for path in device.layout.generations.rglob("*")}
    assert device.sync().repaired == ()
    assert {path: path.stat().st_mtime_ns for path in device.layout.generations.rglob("*")} == before
    assert device.events() == []


def test_what_can_not_be_fetched_is_an_error_of_the_pass_and_is_repaired_later(device: Device) -> None:
    cut(device.blob)
    kept = device.served.read_bytes()
    device.served.unlink()
    done = device.sync()
    assert (done.ok, done.repaired, NAME.split()[1] in done.error) == (False, (), False), done
    device.served.write_bytes(kept)
    assert device.sync().repaired == (NAME,)
    assert device.is_whole()


# ---- what only a hash sees


def test_a_spoiled_byte_is_found_by_its_hash_and_the_blob_loses_its_name_until_it_is_fetched(device: Device) -> None:
    flip(device.blob)
    assert device.sync().repaired == ()  # the length is right, and nothing was read
    with device.syncing() as sync:
        assert sync.check_files() == [device.blob.name]
        assert sync.check_files() == []
    assert not device.blob.exists()
    assert device.model.exists()  # what is served stays where it is
    assert device.sync().repaired == (NAME,)
    assert device.is_whole()
    assert [kind for kind, _ in device.events()] == ["damaged", "repaired"]


def test_a_generation_to_go_back_to_gets_the_repaired_file_too(device: Device) -> None:
    """The second version has the same table as the first, and another model."""
    device.cloud.publish_bundle(fakes.make_bundle("v2", slope=2.0, table={0: (0.5, 0.5)}))
    shared = {file.sha256 for file in device.v1.manifest.files}
    device.publish(2, "v2")
    with contextlib.closing(State(device.layout.state_db)) as state:
        state.mark(device.digest, "good")
    done = device.sync()
    new = device.generations.manifests(done.generation).values()
    both = next(file for manifest in new for file in manifest.files if file.sha256 in shared)
    flip(device.generations.blobs.path(both.sha256))
    with device.syncing() as sync:
        assert sync.check_files() == [both.sha256]
    device.sync()
    for digest, version in ((device.digest, "v1"), (done.generation, "v2")):
        path = device.generations.version_folder(digest, fakes.MODEL, version) / both.name
        assert path.samefile(device.generations.blobs.path(both.sha256))
    assert damaged(device.generations) == []


def test_who_has_the_old_file_mapped_goes_on_reading_it_whole(device: Device) -> None:
    table = device.model.with_name(TABLE_FILE)
    flip(table)
    with table.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as mapped:
        before = bytes(mapped)
        with device.syncing() as sync:
            sync.check_files()
        assert len(device.sync().repaired) == 1
        assert bytes(mapped) == before
        assert table.read_bytes() == device.v1.files[TABLE_FILE] != before


def test_a_sector_that_can_not_be_read_counts_as_spoiled(device: Device) -> None:
    device.blob.unlink()
    device.blob.mkdir()  # reading it is an error, as it is of a broken sector
    assert spoiled(device.generations.blobs) == [device.blob.name]


# ---- people and processes


def test_doctor_names_what_is_damaged_and_the_command_that_repairs_it(
    device: Device, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def files() -> doctor.Finding:
        return next(one for one in doctor.examine(device.layout) if one.name == "files")

    assert files().ok
    flip(device.blob)
    metadata(device, "manifest").write_bytes(b"{")
    assert not files().ok
    assert files().detail.endswith("manifest.json is damaged. Fetch it again: covey-edge sync --repair")
    metadata(device, "generation").write_bytes(b"{")
    assert files().detail.startswith("generation.json is damaged")
    # Nobody listens at the cloud's address: what is spoiled is found all the same, and fetched once somebody does.
    monkeypatch.delenv("COVEY_STORE", raising=False)
    assert cli.main(["--store", str(device.layout.store), "sync", "--repair"]) == 7
    assert "connection refused" in capsys.readouterr().err
    assert not device.blob.exists()
    assert NAME in device.sync().repaired
    assert files().ok


@pytest.fixture
def agent(device: Device) -> typing.Iterator[typing.Callable[[], None]]:
    """Start the agent of a device; it is ended with the test."""
    started: list[subprocess.Popen[bytes]] = []

    def start() -> None:
        command = [sys.executable, "-m", "edge_agent.cli", "--store", str(device.layout.store)]
        child = subprocess.Popen([*command, "run", "--port", "0", "--no-sync"], stdout=subprocess.PIPE)
        started.append(child)
        assert child.stdout is not None
        assert b"answers on" in child.stdout.readline()

    yield start
    for child in started:
        child.terminate()
        child.communicate()


def model_error(layout: Layout) -> str:
    """Why the model does not answer, as the agent says; nothing while it loads, which it does in the background."""
    models = typing.cast("dict[str, dict[str, str]]", control.ask(layout.control, "status")["models"])
    return models[fakes.MODEL]["error"] if models else ""


def test_an_agent_that_started_on_a_spoiled_model_serves_the_repaired_one(
    device: Device, agent: typing.Callable[[], None]
) -> None:
    with contextlib.closing(State(device.layout.state_db)) as state:
        state.mark(device.digest, "good")
    device.blob.write_bytes(b"\0" * len(device.whole))
    agent()
    while not model_error(device.layout):
        pass
    with device.syncing() as sync:
        sync.check_files()
    assert device.sync().repaired == (NAME,)
    assert model_error(device.layout) == ""
