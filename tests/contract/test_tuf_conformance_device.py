"""What a device keeps of a repository: files that are damaged, lost or restored, and a clock that is turned back."""

from __future__ import annotations

import datetime as dt
import pathlib
import shutil
import time
import typing

import pytest
from securesystemslib.signer import CryptoSigner

from edge_agent.link import Link
from edge_agent.update.state import State
from edge_agent.update.trust import Repository, Where
from shared.errors import TrustError
from tests import tuf_line
from tests.tuf_line import Client, Line
from tests.tuf_repository import DAY, TOP, TufRepository

line, repo, client = tuf_line.line, tuf_line.repo, tuf_line.client


# ---- files on the device are damaged


def emptied(path: pathlib.Path) -> None:
    path.write_bytes(b"")


def spoiled(path: pathlib.Path) -> None:
    path.write_bytes(b"\x00\xff not JSON")


def cut(path: pathlib.Path) -> None:
    path.write_bytes(path.read_bytes()[:-20])


def a_folder(path: pathlib.Path) -> None:
    path.unlink()
    path.mkdir()
    (path / "file").write_bytes(b"")


def missing(path: pathlib.Path) -> None:
    path.unlink()


def altered(path: pathlib.Path) -> None:
    path.write_bytes(path.read_bytes().replace(b'"version":1', b'"version":9'))


@pytest.mark.parametrize("damage", [emptied, spoiled, cut, a_folder, missing, altered])
@pytest.mark.parametrize("role", ["timestamp", "snapshot", "targets", "more"])
def test_damaged_metadata_on_the_device_are_fetched_again(
    client: Client, repo: TufRepository, role: str, damage: typing.Callable[[pathlib.Path], None]
) -> None:
    repo.delegate("targets", "more", "*")
    repo.add_target("file", b"1", "more")
    repo.release("targets", "more")
    assert client.download("file") == 0
    damage(client.metadata / f"{role}.json")
    assert client.download("file") == 0
    assert client.bytes_of(role) == repo.files[repo.path(role)]


def test_metadata_that_somebody_wrote_on_the_device_count_no_more_than_those_on_the_line(
    client: Client, repo: TufRepository
) -> None:
    """A timestamp of version 99 that a stranger signed would otherwise hold all later ones back."""
    assert client.refresh() == 0
    honest = repo.files["metadata/timestamp.json"]
    repo.signed["timestamp"].version = 99
    (client.metadata / "timestamp.json").write_bytes(repo.sign("timestamp", [CryptoSigner.generate_ed25519()]))
    repo.files["metadata/timestamp.json"] = honest
    assert client.refresh() == 0
    assert client.trusts() == tuf_line.at_version(1)


def test_what_a_killed_refresh_left_half_written_is_cleared_away(client: Client) -> None:
    (client.metadata / "tmpab12cd34").write_bytes(b"half")
    assert client.refresh() == 0
    assert sorted(path.name for path in client.metadata.iterdir() if path.suffix != ".json") == ["root_history"]


@pytest.mark.parametrize("damage", [emptied, spoiled, a_folder, missing])
@pytest.mark.parametrize("file", ["root.json", "root_history/1.root.json", "root_history/2.root.json", "root_history"])
def test_an_agent_that_keeps_its_first_root_elsewhere_gets_over_damaged_roots(
    client: Client, line: Line, repo: TufRepository, file: str, damage: typing.Callable[[pathlib.Path], None]
) -> None:
    repo.rotate("timestamp")
    first = repo.files["metadata/1.root.json"]
    repo.new_root()
    repo.stamp()
    assert client.refresh() == 0
    path = client.metadata / file
    if path.is_dir():
        shutil.rmtree(path)
        path.touch()
    damage(path)
    link, state = Link(line.url), State(client.floors)
    where = Where(f"{line.url}/metadata/", f"{line.url}/targets/")
    Repository(client.metadata, first, where, link.stream, state).refresh()
    assert client.trusts() == {"root": 2, "timestamp": 2, "snapshot": 1, "targets": 1}
    link.close()
    # Newer roots are hidden; the device has seen one.
    shutil.rmtree(client.metadata)
    del repo.files["metadata/2.root.json"]
    with pytest.raises(TrustError):
        Repository(client.metadata, first, where, link.stream, state).refresh()
    state.close()
    link.close()


# ---- floors: the folder is lost or old, the clock is turned back


def replayed(client: Client, repo: TufRepository) -> dict[str, bytes]:
    """Let the client see version 2 of everything, then serve what was served before; return the newer files."""
    old = dict(repo.files)
    repo.release("targets")
    assert client.refresh() == 0
    newer, repo.files = repo.files, old
    return newer


def test_the_repository_of_last_week_is_refused_when_the_metadata_were_lost(
    client: Client, repo: TufRepository
) -> None:
    newer = replayed(client, repo)
    root = client.bytes_of("root")
    shutil.rmtree(client.metadata)
    client.metadata.mkdir()
    (client.metadata / "root.json").write_bytes(root)
    for _ in range(2):
        assert client.refresh() == 1
        assert client.trusts() == {"root": 1}
    repo.files = newer
    assert client.refresh() == 0
    assert client.trusts() == tuf_line.at_version(2)


def test_an_older_root_is_refused_when_the_metadata_were_lost(client: Client, repo: TufRepository) -> None:
    """Whoever hides the newest root keeps keys alive that were replaced in it."""
    first = client.bytes_of("root")
    newer = repo.files
    repo.new_root()
    assert client.refresh() == 0
    shutil.rmtree(client.metadata)
    client.metadata.mkdir()
    (client.metadata / "root.json").write_bytes(first)
    repo.files = {path: data for path, data in newer.items() if "2.root" not in path}
    assert client.refresh() == 1
    assert client.trusts() == {"root": 1}
    repo.files = newer
    assert client.refresh() == 0


def test_the_repository_of_last_week_is_refused_when_the_metadata_were_restored_from_a_backup(
    client: Client, repo: TufRepository
) -> None:
    assert client.refresh() == 0
    shutil.copytree(client.metadata, client.folder / "backup", symlinks=True)
    repo.stamp()  # newer than the backup's timestamp, older than what the device will have seen
    newer = replayed(client, repo)
    shutil.rmtree(client.metadata)
    shutil.copytree(client.folder / "backup", client.metadata, symlinks=True)
    assert client.refresh() == 1
    assert client.trusts() == tuf_line.at_version(1)
    repo.files = newer
    assert client.refresh() == 0
    assert client.trusts() == tuf_line.at_version(2) | {"timestamp": 3}


def test_turning_the_clock_back_makes_nothing_fresh(client: Client, repo: TufRepository) -> None:
    """The device has seen a time at which all this had expired."""
    assert client.refresh() == 0
    state = State(client.floors)
    assert time.time() - 60 < state.floor("time") <= time.time()
    state.raise_floor("time", int(time.time() + 8 * DAY.total_seconds()))
    state.close()
    repo.stamp()
    assert client.refresh() == 1
    assert client.trusts() == tuf_line.at_version(1)
    for role in TOP:
        repo.signed[role].expires = (dt.datetime.now(dt.UTC) + 30 * DAY).replace(microsecond=0)
    repo.new_root()
    repo.release("targets")
    assert client.refresh() == 0
