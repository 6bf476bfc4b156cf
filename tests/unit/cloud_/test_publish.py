"""The signed repository, as python-tuf's own client sees it: old or new, never half, however publishing ends."""

from __future__ import annotations

import datetime as dt
import pathlib
import shutil
import tempfile
import threading
import typing
import urllib.parse

import pytest
from tuf.api.exceptions import DownloadHTTPError, ExpiredMetadataError, RepositoryError
from tuf.api.metadata import Metadata, Targets
from tuf.ngclient import FetcherInterface, Updater

from cloud.publish import keys as signing_keys
from cloud.publish import repository as repository_module
from cloud.publish.keys import create_keys
from cloud.publish.repository import LIFETIME, SignedRepository
from shared.errors import ConflictError, NotFoundError
from tests.small_fleet import SmallFleet

PATH = "channels/north.json"
BUNDLE = "bundles/sales/v1/standard.json"
NO_TIME = dt.timedelta(seconds=-5)


class Folder(FetcherInterface):
    """Fetches from a folder, as a web server would serve it."""

    def __init__(self, folder: pathlib.Path) -> None:
        self.folder, self.fetched = folder, 0

    def _fetch(self, url: str) -> typing.Iterator[bytes]:
        self.fetched += 1
        try:
            yield (self.folder / urllib.parse.urlparse(url).path.lstrip("/")).read_bytes()
        except FileNotFoundError as err:
            raise DownloadHTTPError("not there", 404) from err


class Client:
    """A device's view: it trusts the first root and remembers what it has seen."""

    def __init__(self, repository: SignedRepository, folder: pathlib.Path) -> None:
        self.repository, self.folder = repository, folder
        folder.mkdir(parents=True)
        (folder / "root.json").write_bytes(repository.root_bytes())

    def updater(self) -> Updater:
        targets = self.folder / "targets"
        targets.mkdir(exist_ok=True)
        return Updater(
            str(self.folder), "http://x/metadata/", str(targets), "http://x/targets/", Folder(self.repository.folder),
            bootstrap=None,
        )  # fmt: skip

    def see(self, path: str = PATH) -> bytes | None:
        """Refresh, and return what is signed at a path."""
        updater = self.updater()
        updater.refresh()
        info = updater.get_targetinfo(path)
        return pathlib.Path(updater.download_target(info)).read_bytes() if info else None


def make(folder: pathlib.Path, **lifetime: dt.timedelta) -> SignedRepository:
    create_keys(folder / "keys")
    repository = SignedRepository(folder / "repo", folder / "keys", lifetime)
    repository.create()
    return repository


@pytest.fixture
def repository(tmp_path: pathlib.Path) -> SignedRepository:
    return make(tmp_path / "cloud")


@pytest.fixture
def client(repository: SignedRepository, tmp_path: pathlib.Path) -> Client:
    return Client(repository, tmp_path / "client")


# ---- as it should go


def test_a_client_sees_what_was_published_last(repository: SignedRepository, client: Client) -> None:
    assert client.see() is None
    for body in (b"one", b"two", b"three"):
        repository.publish("channels", {PATH: body})
        assert client.see() == body
        assert repository.target("channels", PATH) == body


def test_bundles_and_channels_are_signed_by_roles_of_their_own(repository: SignedRepository, client: Client) -> None:
    repository.publish("bundles", {BUNDLE: b"bundle"})
    repository.publish("channels", {PATH: b"channel"})
    assert (client.see(BUNDLE), client.see(PATH)) == (b"bundle", b"channel")
    repository.publish("channels", {"bundles/sales/v2/standard.json": b"smuggled"})
    assert client.see("bundles/sales/v2/standard.json") is None  # the online key may not say which bundles exist


def test_publishing_nothing_writes_nothing(repository: SignedRepository) -> None:
    before = repository.versions()
    repository.publish("channels", {})
    assert repository.versions() == before


def test_a_repository_is_made_once(repository: SignedRepository) -> None:
    with pytest.raises(ConflictError):
        repository.create()
    with pytest.raises(NotFoundError, match="nothing signed at"):
        repository.target("channels", PATH)


def test_there_is_one_channel_for_each_region(tmp_path: pathlib.Path) -> None:
    fleet = SmallFleet(tmp_path / "project")
    fleet.install()
    signed = fleet._repository
    version = signed.versions()["channels"]
    meta = Metadata[Targets].from_bytes((signed.folder / "metadata" / f"{version}.channels.json").read_bytes())
    assert sorted(meta.signed.targets) == ["channels/east.json", "channels/west.json"]
    client = Client(signed, tmp_path / "client")
    assert client.see("channels/west.json") == signed.target("channels", "channels/west.json")
    assert client.see("channels/north.json") is None
    fleet.store.close()


def test_old_metadata_and_channels_are_cleared_away_and_clients_that_lag_catch_up(
    repository: SignedRepository, client: Client
) -> None:
    repository.publish("channels", {PATH: b"0"})
    assert client.see() == b"0"
    for i in range(1, 31):
        repository.publish("channels", {PATH: str(i).encode()})
    kept = sorted(path.name for path in (repository.folder / "metadata").glob("*.channels.json"))
    assert len(kept) <= 21
    assert len(list((repository.folder / "targets" / "channels").iterdir())) <= 21
    assert client.see() == b"30"


def test_many_may_publish_at_once(repository: SignedRepository, client: Client) -> None:
    def publish(i: int) -> None:
        other = SignedRepository(repository.folder, repository.folder.parent / "keys")
        for j in range(3):
            other.publish("channels", {f"channels/r{i}.json": f"{i}/{j}".encode()})

    threads = [threading.Thread(target=publish, args=(i,)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [client.see(f"channels/r{i}.json") for i in range(4)] == [f"{i}/2".encode() for i in range(4)]
    assert repository.versions()["channels"] == 1 + 12


# ---- cut off at every write


class Killed(BaseException):
    """The process ends here."""


def _writes(monkeypatch: pytest.MonkeyPatch, n: int) -> list[str]:
    """End the process at the n-th file that is written; return the list that will hold their names."""
    seen: list[str] = []
    write = repository_module.write_file

    def write_or_end(path: pathlib.Path, data: bytes, *mode: int) -> None:
        if len(seen) == n:
            # What a kill in the middle of a write leaves behind: a part of it, under another name.
            path.parent.mkdir(parents=True, exist_ok=True)
            path.with_name(f".{path.name}.half.tmp").write_bytes(data[: len(data) // 2])
            raise Killed
        write(path, data, *mode)
        seen.append(path.name)

    monkeypatch.setattr(repository_module, "write_file", write_or_end)
    return seen


Act = typing.Callable[[SignedRepository], object]
ACTS: dict[str, Act] = {
    "publish": lambda r: r.publish("channels", {PATH: b"new", "channels/south.json": b"new"}),
    "refresh all": lambda r: r.refresh(dt.datetime.now(dt.UTC) + LIFETIME["channels"] * 0.6),
    "refresh the timestamp": lambda r: r.refresh(dt.datetime.now(dt.UTC) + LIFETIME["timestamp"] * 0.6),
}


@pytest.mark.parametrize("what", ACTS)
def test_a_client_sees_the_old_or_the_new_whole_wherever_publishing_is_cut_off(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    cloud = tmp_path / "cloud"
    repository = make(cloud)
    repository.publish("channels", {PATH: b"old", "channels/south.json": b"old"})
    shutil.copytree(cloud, tmp_path / "kept")
    outcomes = []
    for n in range(20):
        shutil.rmtree(cloud)
        shutil.copytree(tmp_path / "kept", cloud)
        client = Client(repository, tmp_path / f"client-{n}")
        assert client.see() == b"old"
        with monkeypatch.context() as patch:
            _writes(patch, n)
            try:
                ACTS[what](repository)
                finished = True
            except Killed:
                finished = False
        seen = (client.see(), client.see("channels/south.json"))
        assert seen in ((b"old", b"old"), (b"new", b"new")), (n, seen)
        outcomes.append(seen[0])
        fresh = Client(repository, tmp_path / f"fresh-{n}")
        assert (fresh.see(), fresh.see("channels/south.json")) == seen
        # And the next one to publish goes on from there.
        repository.publish("channels", {PATH: b"next"})
        assert client.see() == fresh.see() == b"next"
        if finished:
            break
    else:
        raise AssertionError("it never finished")
    assert n >= {"publish": 5, "refresh all": 3, "refresh the timestamp": 1}[what]
    if what == "publish":
        assert outcomes == [b"old"] * n + [b"new"]


def test_a_repository_whose_making_was_cut_off_can_be_made_again(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for n in range(20):
        cloud = tmp_path / f"cloud-{n}"
        create_keys(cloud / "keys")
        repository = SignedRepository(cloud / "repo", cloud / "keys")
        with monkeypatch.context() as patch:
            _writes(patch, n)
            try:
                repository.create()
                break
            except Killed:
                pass
        assert not repository.exists
        repository.create()
        repository.publish("channels", {PATH: b"one"})
        assert Client(repository, tmp_path / f"client-{n}").see() == b"one"
    assert n >= 5


# ---- age


@pytest.mark.parametrize("role", ["timestamp", "snapshot", "channels", "targets"])
def test_a_client_refuses_metadata_that_has_expired(tmp_path: pathlib.Path, role: str) -> None:
    repository = make(tmp_path / "cloud", **{role: NO_TIME})
    repository.publish("channels", {PATH: b"one"})
    with pytest.raises(ExpiredMetadataError):
        Client(repository, tmp_path / "client").see()


@pytest.mark.parametrize(
    ("days", "roles"),
    [(0, []), (3, []), (4, ["timestamp"]), (14, ["timestamp"]), (16, ["channels", "snapshot", "timestamp"])],
)
def test_what_has_lived_half_its_time_is_signed_anew(
    repository: SignedRepository, client: Client, days: int, roles: list[str]
) -> None:
    repository.publish("channels", {PATH: b"one"})
    before = repository.versions()
    assert repository.refresh(dt.datetime.now(dt.UTC) + dt.timedelta(days=days)) == roles
    after = repository.versions()
    assert {role for role in after if after[role] != before[role]} == set(roles)
    assert client.see() == b"one"


def test_signing_anew_brings_an_expired_repository_back(tmp_path: pathlib.Path) -> None:
    old = make(tmp_path / "cloud", timestamp=NO_TIME, snapshot=NO_TIME, channels=NO_TIME)
    old.publish("channels", {PATH: b"one"})
    repository = SignedRepository(old.folder, tmp_path / "cloud" / "keys")
    assert repository.refresh() == ["channels", "snapshot", "timestamp"]
    assert Client(repository, tmp_path / "client").see() == b"one"


# ---- tampering


def test_no_file_can_be_changed_without_a_client_noticing(repository: SignedRepository, tmp_path: pathlib.Path) -> None:
    repository.publish("channels", {PATH: b"one"})
    files = [path for path in repository.folder.rglob("*") if path.is_file() and ".root." not in path.name]
    current = {f"{version}.{role}.json" for role, version in repository.versions().items()}
    current = current - {"1.bundles.json"} | {"timestamp.json"}  # which nobody reads on the way to a channel
    for path in [path for path in files if path.name in current or path.parent.name == "channels"]:
        data = path.read_bytes()
        path.write_bytes(data.replace(b"1", b"2") if b"1" in data else b"two")
        with pytest.raises((RepositoryError, ValueError)):
            Client(repository, pathlib.Path(tempfile.mkdtemp(dir=tmp_path)) / "client").see()
        path.write_bytes(data)
    assert Client(repository, tmp_path / "last").see() == b"one"


def test_keys_are_made_once_for_their_owner_alone(tmp_path: pathlib.Path) -> None:
    create_keys(tmp_path / "keys")
    before = {path.name: path.read_bytes() for path in (tmp_path / "keys").iterdir()}
    assert sorted(before) == ["bundles.pem", "online.pem", "root.pem", "targets.pem"]
    assert {path.stat().st_mode & 0o777 for path in (tmp_path / "keys").iterdir()} == {0o600}
    create_keys(tmp_path / "keys")
    assert {path.name: path.read_bytes() for path in (tmp_path / "keys").iterdir()} == before
    signers = {role: signing_keys.load_signer(tmp_path / "keys", role).public_key.keyid for role in signing_keys.ROLES}
    assert len(set(signers.values())) == 4


def test_publishing_channels_needs_the_online_key_alone(repository: SignedRepository, client: Client) -> None:
    keys = repository.folder.parent / "keys"
    for role in ("root", "targets", "bundles"):
        (keys / f"{role}.pem").unlink()
    repository.publish("channels", {PATH: b"one"})
    assert client.see() == b"one"
    with pytest.raises(NotFoundError, match="the key of bundles is not here"):
        repository.publish("bundles", {BUNDLE: b"x"})
    assert client.see(BUNDLE) is None
    repository.publish("channels", {PATH: b"two"})
    assert client.see() == b"two"


def test_devices_that_have_seen_more_than_a_restored_copy_take_what_it_signs(
    repository: SignedRepository, tmp_path: pathlib.Path
) -> None:
    client = Client(repository, tmp_path / "device")
    copy = tmp_path / "copy"
    shutil.copytree(repository.folder, copy / "repo")
    for n in range(3):
        repository.publish("channels", {PATH: f"later {n}".encode()})
        repository.publish("bundles", {BUNDLE: f"later {n}".encode()})
        assert client.see() == f"later {n}".encode()
    client.repository = restored = SignedRepository(copy / "repo", repository.keyring.folder)
    restored.publish("channels", {PATH: b"restored"})
    with pytest.raises(RepositoryError):
        client.see()
    restored.move_on(1_800_000_000)
    assert client.see() == b"restored"
    restored.publish("channels", {PATH: b"and on"})
    assert client.see() == b"and on"
    assert client.see(BUNDLE) is None
