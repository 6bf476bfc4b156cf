"""Keys are added, replaced and revoked, and python-tuf's client and the agent's own follow through all of it."""

from __future__ import annotations

import datetime as dt
import json
import pathlib
import random
import shutil
import typing

import pytest
from securesystemslib.signer import CryptoSigner, Key
from tuf.api.exceptions import DownloadHTTPError, RepositoryError
from tuf.api.metadata import Metadata, Root, Targets
from tuf.ngclient import FetcherInterface, Updater

from cloud.publish import journal as journal_module
from cloud.publish import rotation, signing_request
from cloud.publish.changes import Change, find_key, key_role, signs
from cloud.publish.keys import ROLES, create_keys, key_path, load_signer, write_key
from cloud.publish.repository import SignedRepository
from cloud.publish.roles import SIGNED_BY, is_signed, trusted
from edge_agent.update.trust import Repository, Where
from shared.errors import ConfigError, ConflictError, CoveyError, NotFoundError, TrustError, UsageError, WireError

PATH = "channels/north.json"
BUNDLE = "bundles/sales/v1/standard.json"
WHY: typing.Any = {"reason": "a test", "action": "a test", "note": lambda: None}


# ---- who reads


class FromDisk(FetcherInterface):
    """Fetches from the repository's folder."""

    def __init__(self, folder: pathlib.Path) -> None:
        self._folder = folder

    def _fetch(self, url: str) -> typing.Iterator[bytes]:
        try:
            yield (self._folder / url.removeprefix("http://x/")).read_bytes()
        except FileNotFoundError as err:
            raise DownloadHTTPError("not there", 404) from err


class Memory:
    """Floors that a device keeps."""

    def __init__(self) -> None:
        self._known: dict[str, int] = {}

    def floor(self, name: str) -> int:
        return self._known.get(name, 0)

    def raise_floor(self, name: str, value: int) -> None:
        self._known[name] = max(value, self.floor(name))


class Readers:
    """Python-tuf's client and the agent's, which joined at the same time and have to see the same."""

    def __init__(self, repository: SignedRepository, folder: pathlib.Path) -> None:
        self._repository, self._folder, self._root = repository, folder, repository.root_bytes()
        for name in ("ng", "cache"):
            (folder / name).mkdir(parents=True)
        where = Where("http://x/metadata/", "http://x/targets/")
        self._agent = Repository(folder / "agent", self._root, where, self._stream, Memory())

    def _stream(self, url: str) -> typing.Iterator[bytes]:
        path = self._repository.folder / url.removeprefix("http://x/")
        if not path.exists():
            raise NotFoundError(url)
        yield path.read_bytes()

    def see(self, path: str = PATH) -> bytes | None:
        updater = Updater(
            str(self._folder / "ng"), "http://x/metadata/", str(self._folder / "cache"), "http://x/targets/",
            FromDisk(self._repository.folder), bootstrap=self._root,
        )  # fmt: skip
        updater.refresh()
        info = updater.get_targetinfo(path)
        seen = pathlib.Path(updater.download_target(info)).read_bytes() if info else None
        self._agent.refresh()
        try:
            by_agent: bytes | None = self._agent.target(path, cache=self._folder / "agent-cache" / path)
        except NotFoundError:
            by_agent = None
        assert by_agent == seen
        return seen


@pytest.fixture
def repository(tmp_path: pathlib.Path) -> SignedRepository:
    create_keys(tmp_path / "cloud" / "keys")
    made = SignedRepository(tmp_path / "cloud" / "repo", tmp_path / "cloud" / "keys")
    made.create()
    made.publish("bundles", {BUNDLE: b"bundle"})
    made.publish("channels", {PATH: b"old"})
    return made


@pytest.fixture
def readers(repository: SignedRepository, tmp_path: pathlib.Path) -> Readers:
    made = Readers(repository, tmp_path / "device")
    assert made.see() == b"old"
    return made


def fresh(repository: SignedRepository, role: str) -> Key:
    """Make a key for a role and keep it with the others."""
    signer = CryptoSigner.generate_ed25519()
    write_key(repository.keyring.folder, role, signer)
    return signer.public_key


def rotate(repository: SignedRepository, role: str) -> rotation.Done:
    old = find_key(repository.newest(), role, "")
    return rotation.change_keys(repository, Change(role, add=fresh(repository, role), drop=old), **WHY)


def file_of(repository: SignedRepository, role: str, keyid: str) -> pathlib.Path:
    return next(file.path for file in repository.keyring.files(role) if file.keyid == keyid)


def delete_what_counts_no_more(repository: SignedRepository) -> None:
    """As its owner should: then nothing can be signed with it by mistake."""
    for role in ROLES:
        for file in repository.keyring.files(role):
            if file.keyid not in key_role(repository.newest(), role).keyids:
                file.path.unlink()


def all_signed(repository: SignedRepository) -> bool:
    newest = repository.newest()
    return all(is_signed(newest, role) for role in SIGNED_BY)


# ---- one key takes the place of another


@pytest.mark.parametrize("role", ROLES)
def test_a_new_key_takes_the_place_of_the_old_one_and_readers_follow(
    repository: SignedRepository, readers: Readers, tmp_path: pathlib.Path, role: str
) -> None:
    before, old = repository.newest(), key_role(repository.newest(), role).keyids
    done = rotate(repository, role)
    assert (done.request, done.plan.lacking) == (b"", {})
    after = repository.newest()
    assert len(key_role(after, role).keyids) == 1
    assert not set(old) & set(key_role(after, role).keyids)
    concerned = {
        "root": {"root"},
        "targets": {"root", "targets", "snapshot", "timestamp"},
        "bundles": {"targets", "bundles", "snapshot", "timestamp"},
        "online": {"root", "targets", "channels", "snapshot", "timestamp"},
    }[role]
    assert set(done.plan.roles) == concerned
    assert {name for name in after if after[name].signed.version != before[name].signed.version} == concerned
    assert all_signed(repository)
    assert readers.see() == b"old"
    delete_what_counts_no_more(repository)
    repository.publish("channels", {PATH: b"new"})
    repository.publish("bundles", {"bundles/sales/v2/standard.json": b"two"})
    assert (readers.see(), readers.see(BUNDLE), readers.see("bundles/sales/v2/standard.json")) == (
        b"new", b"bundle", b"two",
    )  # fmt: skip
    assert Readers(repository, tmp_path / "newcomer").see() == b"new"
    assert set(repository.refresh(dt.datetime.now(dt.UTC) + dt.timedelta(days=200))) == set(SIGNED_BY)
    assert readers.see() == b"new"


def test_readers_follow_through_many_rotations_awake_or_asleep(
    repository: SignedRepository, readers: Readers, tmp_path: pathlib.Path
) -> None:
    asleep = Readers(repository, tmp_path / "asleep")
    fell_asleep = Readers(repository, tmp_path / "fell-asleep")
    assert fell_asleep.see() == b"old"
    for i, role in enumerate([*ROLES, *reversed(ROLES), "root", "root"]):
        rotate(repository, role)
        delete_what_counts_no_more(repository)
        repository.publish("channels", {PATH: str(i).encode()})
        assert readers.see() == str(i).encode()
    assert asleep.see() == fell_asleep.see() == b"9"
    assert repository.versions()["root"] == 1 + 8


@pytest.mark.parametrize("role", ["targets", "bundles", "online"])
def test_a_lost_key_can_be_replaced(repository: SignedRepository, readers: Readers, role: str) -> None:
    key_path(repository.keyring.folder, role).unlink()
    assert rotate(repository, role).request == b""
    repository.publish("channels", {PATH: b"new"})
    assert (readers.see(), readers.see(BUNDLE)) == (b"new", b"bundle")


def test_a_lost_root_key_can_not_be_replaced(repository: SignedRepository) -> None:
    key_path(repository.keyring.folder, "root").unlink()
    done = rotate(repository, "root")
    assert done.plan.lacking == {"root": 1}
    assert repository.versions()["root"] == 1


def test_who_has_a_replaced_online_key_can_sign_nothing_more(repository: SignedRepository, readers: Readers) -> None:
    stolen = load_signer(repository.keyring.folder, "online")
    rotate(repository, "online")
    assert readers.see() == b"old"
    path = repository.folder / "metadata" / "timestamp.json"
    meta = Metadata[Root].from_bytes(path.read_bytes())
    meta.signed.version += 1
    meta.sign(stolen)
    path.write_bytes(meta.to_bytes())
    with pytest.raises(RepositoryError):
        readers.see()


# ---- cut off


class Killed(BaseException):
    """The process ends here."""


def rotate_or_end(repository: SignedRepository, role: str, n: int, monkeypatch: pytest.MonkeyPatch) -> bool:
    """End the process at the n-th file that a rotation writes; tell whether it came to its end."""
    written: list[str] = []
    write = journal_module.write_file

    def write_or_end(path: pathlib.Path, data: bytes) -> None:
        if len(written) == n:
            raise Killed
        write(path, data)
        written.append(path.name)

    with monkeypatch.context() as patch:
        patch.setattr(journal_module, "write_file", write_or_end)
        try:
            rotate(repository, role)
        except Killed:
            return False
    return True


N_WRITES = {"root": 2, "targets": 5, "bundles": 5, "online": 6}


@pytest.mark.parametrize("role", ROLES)
def test_wherever_a_rotation_is_cut_off_readers_see_nothing_wrong_and_whoever_writes_next_finishes_it(
    repository: SignedRepository, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch, role: str
) -> None:
    cloud = tmp_path / "cloud"
    shutil.copytree(cloud, tmp_path / "kept")
    for n in range(N_WRITES[role] + 1):
        shutil.rmtree(cloud)
        shutil.copytree(tmp_path / "kept", cloud)
        readers = Readers(repository, tmp_path / f"device-{n}")
        assert readers.see() == b"old"
        old = find_key(repository.newest(), role, "")
        assert rotate_or_end(repository, role, n, monkeypatch) == (n == N_WRITES[role])
        assert readers.see() == b"old"
        assert Readers(repository, tmp_path / f"newcomer-{n}").see() == b"old"
        repository.publish("channels", {PATH: b"next"})
        assert readers.see() == b"next"
        assert Readers(repository, tmp_path / f"later-{n}").see() == b"next"
        assert (old in key_role(repository.newest(), role).keyids) == (n == 0)  # the journal is the first


@pytest.mark.parametrize("role", ["targets", "bundles", "online"])
def test_replacing_a_lost_key_is_finished_by_whoever_writes_next(
    repository: SignedRepository, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch, role: str
) -> None:
    cloud = tmp_path / "cloud"
    key_path(repository.keyring.folder, role).unlink()
    shutil.copytree(cloud, tmp_path / "kept")
    for n in range(1, N_WRITES[role]):
        shutil.rmtree(cloud)
        shutil.copytree(tmp_path / "kept", cloud)
        readers = Readers(repository, tmp_path / f"device-{n}")
        assert readers.see() == b"old"
        assert not rotate_or_end(repository, role, n, monkeypatch)
        repository.refresh()
        assert readers.see() == b"old"
        repository.publish("channels", {PATH: b"next"})
        assert readers.see() == b"next"


# ---- several keys


@pytest.mark.parametrize("role", ROLES)
def test_several_keys_have_to_sign_and_do(
    repository: SignedRepository, readers: Readers, tmp_path: pathlib.Path, role: str
) -> None:
    rotation.change_keys(repository, Change(role, add=fresh(repository, role)), **WHY)
    rotation.change_keys(repository, Change(role, threshold=2), **WHY)
    repository.publish("bundles", {BUNDLE: b"changed"})
    repository.publish("channels", {PATH: b"new"})
    rotation.renew(repository, "root", **WHY)
    rotation.renew(repository, "targets", **WHY)
    newest = repository.newest()
    for name in signs(role):
        assert trusted(newest, name).threshold == 2
        assert len(newest[name].signatures) == 2
    assert all_signed(repository)
    assert (readers.see(), readers.see(BUNDLE)) == (b"new", b"changed")
    assert Readers(repository, tmp_path / "newcomer").see() == b"new"
    # One of them alone can not.
    key_path(repository.keyring.folder, role).unlink()
    later = dt.datetime.now(dt.UTC) + dt.timedelta(days=200)
    if role == "online":
        with pytest.raises(NotFoundError, match="2 keys of online have to sign, and 1 of them"):
            repository.publish("channels", {PATH: b"newer"})
    else:
        assert role not in repository.refresh(later)
    assert readers.see() == b"new"


def test_a_key_is_revoked_unless_the_threshold_could_not_be_met(repository: SignedRepository, readers: Readers) -> None:
    only = find_key(repository.newest(), "bundles", "")
    with pytest.raises(ConflictError, match="of the 0 keys that bundles would have 1 would have to sign"):
        rotation.change_keys(repository, Change("bundles", drop=only), **WHY)
    second = fresh(repository, "bundles")
    rotation.change_keys(repository, Change("bundles", add=second), **WHY)
    with pytest.raises(ConflictError, match="of the 2 keys that bundles would have 3"):
        rotation.change_keys(repository, Change("bundles", threshold=3), **WHY)
    rotation.change_keys(repository, Change("bundles", drop=only), **WHY)
    assert key_role(repository.newest(), "bundles").keyids == [second.keyid]
    delete_what_counts_no_more(repository)
    repository.publish("bundles", {BUNDLE: b"changed"})
    assert readers.see(BUNDLE) == b"changed"


def test_a_key_counts_once_and_for_one_role(repository: SignedRepository) -> None:
    key = load_signer(repository.keyring.folder, "targets").public_key
    for role in ("targets", "bundles"):
        with pytest.raises(ConflictError, match="is a key of targets already"):
            rotation.change_keys(repository, Change(role, add=key), **WHY)


def test_the_way_down_goes_over_the_threshold(repository: SignedRepository, readers: Readers) -> None:
    second = fresh(repository, "root")
    rotation.change_keys(repository, Change("root", add=second, threshold=2), **WHY)
    with pytest.raises(ConflictError, match="lower the threshold"):
        rotation.change_keys(repository, Change("root", drop=second.keyid), **WHY)
    rotation.change_keys(repository, Change("root", drop=second.keyid, threshold=1), **WHY)
    assert len(key_role(repository.newest(), "root").keyids) == 1
    assert readers.see() == b"old"


def test_the_log_is_written_before_anything_is_published(repository: SignedRepository) -> None:
    def full() -> None:
        raise OSError("the disk is full")

    before = repository.versions()
    with pytest.raises(OSError, match="full"):
        rotation.change_keys(
            repository, Change("online", add=fresh(repository, "online")), reason="x", action="x", note=full
        )
    assert repository.versions() == before


# ---- signed elsewhere


@pytest.fixture
def vault(repository: SignedRepository, tmp_path: pathlib.Path) -> pathlib.Path:
    """Another machine, with the keys of root and targets; the cloud has them no more."""
    folder = tmp_path / "vault"
    folder.mkdir()
    for role in ("root", "targets"):
        key_path(repository.keyring.folder, role).rename(folder / f"{role}.pem")
    return folder


def signed(data: bytes, *signers: CryptoSigner) -> bytes:
    """What comes back from the machines that have the keys."""
    for signer in signers:
        asked = signing_request.read(data)
        signing_request.add_signature(asked, signer)
        data = asked.to_bytes()
    return data


def applied(repository: SignedRepository, data: bytes) -> rotation.Plan:
    return rotation.apply(repository, signing_request.read(data), note=lambda: None)


@pytest.mark.parametrize("role", ROLES)
def test_what_has_no_key_here_is_signed_elsewhere_and_brought_back(
    repository: SignedRepository, readers: Readers, vault: pathlib.Path, role: str
) -> None:
    before = repository.versions()
    new = CryptoSigner.generate_ed25519()
    write_key(repository.keyring.folder if role in {"bundles", "online"} else vault, role, new)
    old = find_key(repository.newest(), role, "")
    done = rotation.change_keys(repository, Change(role, add=new.public_key, drop=old), **WHY)
    assert done.request
    assert repository.versions() == before
    with pytest.raises(ConflictError, match="not signed yet"):
        applied(repository, done.request)
    needed = {
        "root": [load_signer(vault, "root"), new],
        "targets": [load_signer(vault, "root"), load_signer(vault, "targets"), new],
        "bundles": [load_signer(vault, "targets")],
        "online": [load_signer(vault, "root"), load_signer(vault, "targets")],
    }[role]
    for left_out in needed:
        if role == "targets" and left_out is needed[1]:
            continue  # the old targets key only spares readers a moment of doubt
        with pytest.raises(ConflictError, match="not signed yet"):
            applied(repository, signed(done.request, *[one for one in needed if one is not left_out]))
    # The repository does not stand still meanwhile.
    repository.publish("channels", {PATH: b"meanwhile"})
    repository.publish("bundles", {"bundles/sales/v2/standard.json": b"two"})
    applied(repository, signed(done.request, *needed))
    assert all_signed(repository)
    assert (readers.see(), readers.see(BUNDLE)) == (b"meanwhile", b"bundle")
    delete_what_counts_no_more(repository)
    repository.publish("channels", {PATH: b"new"})
    assert readers.see() == b"new"
    with pytest.raises(ConflictError, match="Make the request anew"):
        applied(repository, signed(done.request, *needed))


def test_a_bundles_key_may_be_elsewhere_too_if_nothing_is_published_meanwhile(
    repository: SignedRepository, readers: Readers, vault: pathlib.Path
) -> None:
    new = CryptoSigner.generate_ed25519()
    old = find_key(repository.newest(), "bundles", "")
    request = rotation.change_keys(repository, Change("bundles", add=new.public_key, drop=old), **WHY).request
    request = signed(request, load_signer(vault, "targets"), new)
    repository.publish("channels", {PATH: b"meanwhile"})
    applied(repository, request)
    assert (readers.see(), readers.see(BUNDLE)) == (b"meanwhile", b"bundle")
    request = signed(rotation.renew(repository, "bundles", **WHY).request, new)
    write_key(repository.keyring.folder, "bundles", new)
    repository.publish("bundles", {BUNDLE: b"changed"})
    with pytest.raises(ConflictError, match="bundles: asks for version"):
        applied(repository, request)


@pytest.mark.parametrize("role", ["root", "targets"])
def test_metadata_is_renewed_by_a_key_that_never_comes_here(
    repository: SignedRepository, readers: Readers, vault: pathlib.Path, role: str
) -> None:
    done = rotation.renew(repository, role, **WHY)
    assert (done.plan.keys, list(done.plan.lacking)) == ([], [role])
    before = repository.versions()
    applied(repository, signed(done.request, load_signer(vault, role)))
    assert repository.versions()[role] == before[role] + 1
    assert readers.see() == b"old"


def test_two_people_on_two_machines_sign_for_a_threshold_of_two(
    repository: SignedRepository, readers: Readers, vault: pathlib.Path
) -> None:
    ada, bob = load_signer(vault, "root"), CryptoSigner.generate_ed25519()
    done = rotation.change_keys(repository, Change("root", add=bob.public_key, threshold=2), **WHY)
    with pytest.raises(ConflictError, match="root lacks 1"):
        applied(repository, signed(done.request, ada))
    with pytest.raises(ConflictError, match="root lacks 1"):
        applied(repository, signed(done.request, ada, ada))
    applied(repository, signed(done.request, bob, ada))
    assert readers.see() == b"old"
    request = rotation.renew(repository, "root", **WHY).request
    assert signing_request.describe(signing_request.read(request))[-1].count("2 more of") == 1
    applied(repository, signed(request, ada, bob))
    assert readers.see() == b"old"


def test_a_stranger_is_not_asked(repository: SignedRepository, vault: pathlib.Path) -> None:
    del vault
    request = rotation.renew(repository, "root", **WHY).request
    with pytest.raises(UsageError, match="is not asked to sign this"):
        signed(request, CryptoSigner.generate_ed25519())


def test_a_signature_that_is_none_does_not_count(repository: SignedRepository, vault: pathlib.Path) -> None:
    root = load_signer(vault, "root")
    record = json.loads(signed(rotation.renew(repository, "root", **WHY).request, root))
    good = record["drafts"]["root"]["signatures"][0]["sig"]
    other = "01" if good.endswith("00") else "00"  # one signature in sixteen ends with 00
    for garbage in ("", "zz", "00" * 64, good[:-2] + other):
        record["drafts"]["root"]["signatures"][0]["sig"] = garbage
        with pytest.raises(ConflictError, match="root lacks 1"):
            applied(repository, json.dumps(record).encode())
    # Nor does one that nobody asked for do harm.
    request = signing_request.read(signed(rotation.renew(repository, "root", **WHY).request, root))
    request.drafts["root"].sign(CryptoSigner.generate_ed25519(), append=True)
    applied(repository, request.to_bytes())
    assert len(repository.newest()["root"].signatures) == 1


def test_garbage_is_refused_as_garbage(repository: SignedRepository, vault: pathlib.Path) -> None:
    del vault
    good = rotation.change_keys(
        repository, Change("online", add=fresh(repository, "online"), drop=find_key(repository.newest(), "online", "")),
        **WHY,
    ).request  # fmt: skip
    bad = [b"", b"{}", b"null", b"\xff", b"[" * 100_000, good[:-1], good[: len(good) // 2], good + b"x"]
    bad.append(good.replace(b"covey.key-request/1", b"covey.key-request/2", 1))
    bad.append(good.replace(b"covey.key-request/1", b"covey.channel/1", 1))
    bad.append(b" " * (signing_request.LIMIT_BYTES + 1))
    for data in bad:
        with pytest.raises(WireError):
            signing_request.read(data)


def swap(keys: dict[str, typing.Any]) -> None:
    """Let a stranger's key go by an id that a signer knows."""
    keys[next(iter(keys))]["keyval"] = CryptoSigner.generate_ed25519().public_key.keyval


def _breakages() -> dict[str, typing.Callable[[typing.Any], object]]:
    root: typing.Callable[[typing.Any], typing.Any] = lambda r: r["drafts"]["root"]["signed"]  # noqa: E731
    targets: typing.Callable[[typing.Any], typing.Any] = lambda r: r["drafts"]["targets"]["signed"]  # noqa: E731
    return {
        "no drafts": lambda r: r["drafts"].clear(),
        "another role": lambda r: r["drafts"].update(snapshot=r["drafts"]["root"]),
        "no newest": lambda r: r["newest"].clear(),
        "the wrong kind": lambda r: r["drafts"].update(root=r["drafts"]["targets"]),
        "no type": lambda r: root(r).pop("_type"),
        "no roles": lambda r: root(r).pop("roles"),
        "a role less": lambda r: root(r)["roles"].pop("timestamp"),
        "keys that are none": lambda r: root(r).update(keys=[]),
        "a threshold of none": lambda r: root(r)["roles"]["root"].update(threshold=0),
        "signatures that are none": lambda r: r["drafts"]["root"].update(signatures=7),
        "no delegations": lambda r: targets(r).pop("delegations"),
        "a key under another's id": lambda r: swap(root(r)["keys"]),
        "a number that can not be signed": lambda r: root(r).update(x=1.5),
        "a key with such a number": lambda r: next(iter(root(r)["keys"].values()))["keyval"].update(x=1.5),
        "key ids that are none": lambda r: root(r)["roles"]["root"].update(keyids=[[]]),
        "a key less": lambda r: root(r)["keys"].popitem(),
        "a delegated key less": lambda r: targets(r)["delegations"]["keys"].popitem(),
        "a threshold beyond its keys": lambda r: root(r)["roles"]["snapshot"].update(threshold=2),
        "no keys": lambda r: root(r)["roles"]["snapshot"].update(keyids=[]),
        "a delegation less": lambda r: targets(r)["delegations"]["roles"].pop(),
        "a delegation more": lambda r: targets(r)["delegations"]["roles"].append(
            targets(r)["delegations"]["roles"][0] | {"name": "more"}
        ),
    }


@pytest.mark.parametrize("what", _breakages())
def test_metadata_that_is_none_is_refused_before_anybody_signs(
    repository: SignedRepository, vault: pathlib.Path, what: str
) -> None:
    del vault
    new = fresh(repository, "online")
    old = find_key(repository.newest(), "online", "")
    record = json.loads(rotation.change_keys(repository, Change("online", add=new, drop=old), **WHY).request)
    _breakages()[what](record)
    with pytest.raises(WireError):
        signing_request.read(json.dumps(record).encode())


@pytest.mark.parametrize("what", ["paths", "not terminating", "a target", "inconsistent", "expired"])
def test_a_request_that_changes_more_than_keys_is_refused_though_it_is_signed(
    repository: SignedRepository, vault: pathlib.Path, what: str
) -> None:
    targets = rotation.renew(repository, "targets", **WHY).request
    record = json.loads(rotation.renew(repository, "root", **WHY).request if what == "inconsistent" else targets)
    meta = next(iter(record["drafts"].values()))["signed"]
    if what == "paths":
        meta["delegations"]["roles"][1]["paths"] = ["*"]
    elif what == "not terminating":
        meta["delegations"]["roles"][1]["terminating"] = False
    elif what == "a target":
        meta["targets"] = {"x": {"length": 1, "hashes": {"sha256": "00" * 32}}}
    elif what == "inconsistent":
        meta["consistent_snapshot"] = False
    else:
        meta["expires"] = "2020-01-01T00:00:00Z"
    signers = [load_signer(vault, "root" if what == "inconsistent" else "targets")]
    with pytest.raises(TrustError, match="has expired" if what == "expired" else "changes more than keys"):
        applied(repository, signed(json.dumps(record).encode(), *signers))


def test_the_online_key_has_to_be_here(repository: SignedRepository, vault: pathlib.Path) -> None:
    request = signed(rotation.renew(repository, "targets", **WHY).request, load_signer(vault, "targets"))
    key_path(repository.keyring.folder, "online").unlink()
    before = repository.versions()
    with pytest.raises(NotFoundError, match="the key of online is not here"):
        applied(repository, request)
    assert repository.versions() == before


def test_a_key_that_is_here_and_locked_has_to_be_opened(repository: SignedRepository, vault: pathlib.Path) -> None:
    write_key(repository.keyring.folder, "root", load_signer(vault, "root"), b"correct horse")
    with pytest.raises(ConfigError, match="the key is encrypted"):
        rotation.renew(repository, "root", **WHY)
    # The worker signs what it can, and leaves the root to its owner.
    assert "root" not in repository.refresh(dt.datetime.now(dt.UTC) + dt.timedelta(days=200))


def test_once_trusted_is_never_taken_for_new(repository: SignedRepository) -> None:
    assert rotation.fresh_keys(repository, "bundles") == []
    new = fresh(repository, "bundles")
    assert [file.keyid for file in rotation.fresh_keys(repository, "bundles")] == [new.keyid]
    rotation.change_keys(
        repository, Change("bundles", add=new, drop=find_key(repository.newest(), "bundles", "")), **WHY
    )
    assert rotation.fresh_keys(repository, "bundles") == []
    assert Metadata[Targets].from_bytes(repository.newest()["targets"].to_bytes()).signed.version == 2


def test_a_request_with_any_byte_changed_is_refused_or_says_the_same(
    repository: SignedRepository, vault: pathlib.Path
) -> None:
    old = find_key(repository.newest(), "online", "")
    request = rotation.change_keys(
        repository, Change("online", add=fresh(repository, "online"), drop=old), **WHY
    ).request
    good = signed(request, load_signer(vault, "root"), load_signer(vault, "targets"))
    wanted = {role: meta.signed for role, meta in signing_request.read(good).drafts.items()}
    rng = random.Random(7)
    refused = 0
    for _ in range(400):
        at = rng.randrange(len(good))
        data = good[:at] + bytes([good[at] ^ (1 << rng.randrange(8))]) + good[at + 1 :]
        try:
            asked = signing_request.read(data)
            plan = rotation.preview(repository, asked)
            signing_request.describe(asked)
        except CoveyError:
            refused += 1
            continue
        assert plan.lacking or {role: meta.signed for role, meta in asked.drafts.items()} == wanted
    assert refused > 100
