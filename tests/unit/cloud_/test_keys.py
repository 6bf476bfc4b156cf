"""Files of keys, and ``covey key`` as a person types it: passphrases, refusals, questions, and what the log keeps."""

from __future__ import annotations

import io
import json
import os
import pathlib
import sys
import types
import typing

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import x25519
from securesystemslib.signer import CryptoSigner
from tuf.ngclient import Updater

from cloud.cli.main import main
from cloud.config import Project, load_project
from cloud.publish import keys
from cloud.publish.changes import key_role
from cloud.publish.keyring import Keyring
from cloud.publish.keys import PASSPHRASE_VARIABLE, create_keys, open_key, read_passphrase, read_public, write_key
from cloud.publish.repository import SignedRepository
from shared.errors import ConfigError, ConflictError, CoveyError, NotFoundError
from tests.unit.cloud_ import builders
from tests.unit.cloud_.test_renewal import FromDisk

PHRASE = b"correct horse battery"


def secret(path: pathlib.Path, data: bytes) -> pathlib.Path:
    path.write_bytes(data)
    path.chmod(0o600)
    return path


@pytest.fixture
def signer() -> CryptoSigner:
    return CryptoSigner.generate_ed25519()


# ---- files


def test_a_key_is_kept_for_its_owner_alone_with_its_public_half_beside(
    tmp_path: pathlib.Path, signer: CryptoSigner
) -> None:
    path = write_key(tmp_path / "keys", "root", signer)
    keyid = signer.public_key.keyid
    assert path.name == f"root-{keyid[:16]}.pem"
    assert path.stat().st_mode & 0o777 == 0o600
    assert path.parent.stat().st_mode & 0o777 == 0o700
    assert open_key(path).public_key.keyid == keyid
    assert read_public(path).keyid == read_public(path.with_suffix(".pub")).keyid == keyid
    assert b"PRIVATE" not in path.with_suffix(".pub").read_bytes()
    with pytest.raises(ConflictError, match="is there already"):
        write_key(tmp_path / "keys", "root", signer)


def test_an_encrypted_key_opens_with_its_passphrase_and_with_no_other(
    tmp_path: pathlib.Path, signer: CryptoSigner, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv(PASSPHRASE_VARIABLE, raising=False)
    path = write_key(tmp_path, "root", signer, PHRASE)
    assert b"ENCRYPTED" in path.read_bytes()
    with pytest.raises(ConfigError, match=PASSPHRASE_VARIABLE):
        open_key(path)
    with pytest.raises(ConfigError, match="the passphrase does not open this key"):
        open_key(path, passphrases=[b"incorrect horse"])
    assert open_key(path, passphrases=[b"incorrect horse", PHRASE]).public_key == signer.public_key
    right, wrong = secret(tmp_path / "right", PHRASE + b"\n"), secret(tmp_path / "wrong", b"incorrect horse\n")
    monkeypatch.setenv(PASSPHRASE_VARIABLE, str(wrong))
    with pytest.raises(ConfigError, match="does not open"):
        open_key(path)
    monkeypatch.setenv(PASSPHRASE_VARIABLE, os.pathsep.join([str(wrong), str(right)]))
    assert open_key(path).public_key == signer.public_key


def test_a_passphrase_is_a_private_file_of_some_length(tmp_path: pathlib.Path) -> None:
    with pytest.raises(ConfigError, match="the passphrase is not here"):
        read_passphrase(tmp_path / "none")
    with pytest.raises(ConfigError, match="7 characters are no passphrase"):
        read_passphrase(secret(tmp_path / "short", b"seven77\r\n"))
    path = secret(tmp_path / "good", b" with spaces \n")
    assert read_passphrase(path) == b" with spaces "
    path.chmod(0o640)
    with pytest.raises(ConfigError, match="can be read by others"):
        read_passphrase(path)


@pytest.mark.parametrize("mode", [0o644, 0o640, 0o604, 0o660])
def test_a_key_that_others_can_read_is_refused(tmp_path: pathlib.Path, signer: CryptoSigner, mode: int) -> None:
    path = write_key(tmp_path, "online", signer)
    path.chmod(mode)
    for read in (open_key, read_public, lambda _: Keyring(tmp_path).files("online")):
        with pytest.raises(ConfigError, match="can be read by others"):
            read(path)


def _not_keys() -> dict[str, bytes]:
    good = CryptoSigner.generate_ed25519().private_bytes
    exchange = x25519.X25519PrivateKey.generate().private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    return {
        "empty": b"",
        "garbage": os.urandom(100),
        "truncated": good[: len(good) // 2],
        "flipped": good.replace(good[40:44], b"!!!!"),
        "a key that can not sign": exchange,
        "a certificate": b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n",
    }


@pytest.mark.parametrize("what", _not_keys())
def test_what_is_no_key_is_refused_by_its_path(tmp_path: pathlib.Path, what: str) -> None:
    path = secret(tmp_path / "root-x.pem", _not_keys()[what])
    for read in (open_key, read_public):
        with pytest.raises(ConfigError, match=r"root-x\.pem: not a (signing|public) key"):
            read(path)


def test_keys_that_are_not_there_are_named(tmp_path: pathlib.Path) -> None:
    with pytest.raises(NotFoundError, match=r"none\.pem"):
        open_key(tmp_path / "none.pem")
    with pytest.raises(NotFoundError, match=r"none\.pub"):
        read_public(tmp_path / "none.pub")
    assert Keyring(tmp_path / "nowhere").files("root") == []


def test_a_keyring_finds_keys_by_id_and_says_what_is_lacking(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv(PASSPHRASE_VARIABLE, raising=False)
    create_keys(tmp_path)
    first = keys.load_signer(tmp_path, "root").public_key.keyid
    plain, locked = CryptoSigner.generate_ed25519(), CryptoSigner.generate_ed25519()
    write_key(tmp_path, "root", plain)
    path = write_key(tmp_path, "root", locked, PHRASE)
    ring = Keyring(tmp_path)
    wanted = [first, plain.public_key.keyid, locked.public_key.keyid]
    assert {file.keyid: file.encrypted for file in ring.files("root")} == dict(
        zip(wanted, (False, False, True), strict=True)
    )
    assert {one.public_key.keyid for one in ring.openable("root", wanted)} == set(wanted[:2])
    assert len(ring.signers("root", wanted, 2)) == 2
    assert [one.public_key.keyid for one in ring.signers("root", [first], 1)] == [first]
    with pytest.raises(ConfigError, match="the key is encrypted"):
        ring.signers("root", wanted, 3)
    with pytest.raises(NotFoundError, match="2 keys of root have to sign, and 1 of them are here"):
        ring.signers("root", [first, "f" * 64], 2)
    with pytest.raises(NotFoundError, match="the key of root is not here"):
        ring.signers("root", ["f" * 64], 1)
    # Without the public half beside it, it has to be opened to know which it is.
    path.with_suffix(".pub").unlink()
    assert [file.keyid for file in ring.files("root") if file.encrypted] == [""]
    monkeypatch.setenv(PASSPHRASE_VARIABLE, str(secret(tmp_path / "phrase", PHRASE)))
    assert len(ring.signers("root", wanted, 3)) == 3
    assert len(ring.openable("root", wanted[:2])) == 2


def test_the_missing_file_of_a_passphrase_is_named_and_no_reason_to_ask_elsewhere(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch, signer: CryptoSigner
) -> None:
    write_key(tmp_path, "root", signer, PHRASE)
    monkeypatch.setenv(PASSPHRASE_VARIABLE, str(tmp_path / "none"))
    with pytest.raises(ConfigError, match="none: the passphrase is not here"):
        Keyring(tmp_path).signers("root", [signer.public_key.keyid], 1)


# ---- covey key


class Person:
    """Somebody who types commands in a project's folder; nobody answers questions."""

    def __init__(self, project: Project, capsys: pytest.CaptureFixture[str]) -> None:
        self.project, self._capsys = project, capsys

    def __call__(self, *words: str) -> tuple[int, str, str]:
        self._capsys.readouterr()
        status = main(["--project", str(self.project.folder), "key", *words])
        return status, *self._capsys.readouterr()

    def done(self, *words: str) -> str:
        status, out, err = self(*words)
        assert (status, err) == (0, "")
        return out

    def refused(self, status: int, *words: str) -> str:
        seen, out, err = self(*words)
        assert (seen, out) == (status, "")
        assert err.count("\n") == 1 or status == 2
        return err

    @property
    def repository(self) -> SignedRepository:
        return SignedRepository(self.project.repository, self.project.keys)

    def log(self) -> list[tuple[str, str, str]]:
        with builders.opened(load_project(self.project.folder)) as store:
            return [(row["action"], row["subject"], row["reason"]) for row in store.audit.all()]


@pytest.fixture
def person(
    empty: Project, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: pathlib.Path
) -> Person:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv(PASSPHRASE_VARIABLE, raising=False)
    monkeypatch.setattr(sys, "stdin", types.SimpleNamespace(buffer=io.BytesIO(b""), isatty=lambda: False))
    return Person(empty, capsys)


def listed(person: Person) -> dict[str, typing.Any]:
    return {row["role"]: row for row in json.loads(person.done("list", "--json"))}


def test_a_change_wants_a_reason_and_a_yes_and_is_logged(person: Person) -> None:
    before = person.repository.versions()
    assert "--reason" in person.refused(2, "rotate", "online", "--yes")
    assert "--reason: is empty" in person.refused(2, "rotate", "online", "--yes", "--reason", "  ")
    said = person.refused(2, "rotate", "online", "--reason", "stolen")
    assert "Nobody is there to ask" in said
    assert "--yes" in said
    assert "would change" in person.done("rotate", "online", "--reason", "stolen", "--dry-run")
    assert person.repository.versions() == before
    assert len(list(person.project.keys.glob("online*"))) == 1
    assert "online.pem counts no more" in person.done("rotate", "online", "--reason", "stolen", "--yes")
    assert person.log()[:2] == [("key rotate", "online", "stolen"), ("key create", "online", "stolen")]
    states = [(one["state"], one["file"]) for one in listed(person)["online"]["keys"]]
    assert [state for state, _ in states] == ["counts", "counts no more"]
    assert states[1][1] == "keys/online.pem"


def test_list_says_what_is_here_encrypted_new_and_when_it_ends(person: Person, tmp_path: pathlib.Path) -> None:
    phrase = str(secret(tmp_path / "phrase", PHRASE))
    made = json.loads(person.done("create", "root", "--passphrase-file", phrase, "--json"))
    (person.project.keys / "targets.pem").unlink()
    found = listed(person)
    root = {one["keyid"]: one for one in found["root"]["keys"]}
    assert (root[made["keyid"]]["state"], root[made["keyid"]]["encrypted"]) == ("new", True)
    assert found["targets"]["keys"][0]["file"] == ""
    assert set(found["online"]["expires"]) == {"channels", "snapshot", "timestamp"}
    lines = person.done("list").splitlines()
    assert any("elsewhere" in line for line in lines if line.startswith("targets"))
    assert any("encrypted" in line for line in lines if line.startswith("root"))
    pathlib.Path(made["file"]).with_suffix(".pub").unlink()
    assert "locked" in person.done("list")
    assert PHRASE.decode() not in json.dumps(person.log())


def test_a_new_key_that_is_here_is_taken_and_several_have_to_be_told_apart(person: Person) -> None:
    one = json.loads(person.done("create", "bundles", "--json"))
    two = json.loads(person.done("create", "bundles", "--json"))
    why = ("--reason", "once a year", "--yes")
    assert "Name one: --new-key" in person.refused(6, "rotate", "bundles", *why)
    person.done("rotate", "bundles", *why, "--new-key", two["file"])
    assert key_role(person.repository.newest(), "bundles").keyids == [two["keyid"]]
    person.done("add", "bundles", *why)
    assert key_role(person.repository.newest(), "bundles").keyids == [two["keyid"], one["keyid"]]
    assert "Name one of" in person.refused(6, "rotate", "bundles", *why)
    person.done("rotate", "bundles", *why, "--old", two["keyid"][:12])
    person.done("revoke", "bundles", one["keyid"][:12], *why)
    assert len(key_role(person.repository.newest(), "bundles").keyids) == 1
    assert "no key of bundles begins with" in person.refused(5, "revoke", "bundles", one["keyid"], *why)
    assert "bundles would have" in person.refused(6, "threshold", "bundles", "2", *why)
    assert "between 1 and" in person.refused(2, "threshold", "bundles", "0", *why)


def test_a_key_travels_to_the_cloud_as_a_request_and_back(person: Person, tmp_path: pathlib.Path) -> None:
    vault = tmp_path / "vault"
    vault.mkdir()
    for role in ("root", "targets"):
        (person.project.keys / f"{role}.pem").rename(vault / f"{role}.pem")
    phrase = str(secret(tmp_path / "phrase", PHRASE))
    made = json.loads(person.done("create", "root", "--out", str(vault), "--passphrase-file", phrase, "--json"))
    public = str(pathlib.Path(made["file"]).with_suffix(".pub"))
    root_key = str(vault / "root.pem")
    why = ("--reason", "a second person", "--yes")
    said = json.loads(person.done("add", "root", "--new-key", public, *why, "--json"))
    assert (said["done"], said["lacking"], said["request"]) == (False, {"root": 1}, "key-request.json")
    assert "is there already" in person.refused(6, "add", "root", "--new-key", public, *why)
    assert person.repository.versions()["root"] == 1
    assert "root lacks 1" in person.refused(6, "apply", "key-request.json", "--yes")
    assert "would sign root" in person.done("sign", "key-request.json", "--key", root_key, "--dry-run")
    assert "Nobody is there to ask" in person("sign", "key-request.json", "--key", root_key)[2]
    assert "is not asked to sign" in person.refused(
        2, "sign", "key-request.json", "--key", str(vault / "targets.pem"), "--yes"
    )
    person.done("sign", "key-request.json", "--key", root_key, "--yes")
    assert "Nobody is there to ask" in person.refused(2, "apply", "key-request.json")
    person.done("apply", "key-request.json", "--dry-run")
    assert person.repository.versions()["root"] == 1
    person.done("apply", "key-request.json", "--yes")
    assert person.repository.versions()["root"] == 2
    assert person.log()[0] == ("key apply", "add root", "a second person")
    # Then both have to sign, one of them with a passphrase.
    person.done("threshold", "root", "2", *why, "--request", "two.json")
    person.done("sign", "two.json", "--key", root_key, "--yes")
    locked = ("sign", "two.json", "--key", made["file"], "--yes")
    assert PASSPHRASE_VARIABLE in person.refused(2, *locked)
    wrong = str(secret(tmp_path / "wrong", b"incorrect horse"))
    assert "does not open" in person.refused(2, *locked, "--passphrase-file", wrong)
    person.done(*locked, "--passphrase-file", phrase)
    person.done("apply", "two.json", "--yes")
    assert key_role(person.repository.newest(), "root").threshold == 2
    device = tmp_path / "device"
    device.mkdir()
    updater = Updater(
        str(device), "http://nobody/", bootstrap=person.repository.root_bytes(), fetcher=FromDisk(person.repository)
    )
    updater.refresh()
    assert json.loads((device / "root.json").read_bytes())["signed"]["version"] == 3


def test_whoever_signs_sees_every_key_that_will_count_and_nothing_that_a_terminal_obeys(
    person: Person, tmp_path: pathlib.Path
) -> None:
    (person.project.keys / "root.pem").rename(tmp_path / "root.pem")
    person.done("renew", "root", "--reason", "red \x1b[31m alert", "--yes", "--request", "r.json")
    record = json.loads(pathlib.Path("r.json").read_text())
    # A liar says that his key signed the timestamp all along.
    mine = CryptoSigner.generate_ed25519().public_key
    for part in ("newest", "drafts"):
        root = record[part]["root"]["signed"]
        root["keys"][mine.keyid] = mine.to_dict()
        root["roles"]["timestamp"]["keyids"] = [mine.keyid]
    pathlib.Path("r.json").write_text(json.dumps(record))
    said = person.done("sign", "r.json", "--key", str(tmp_path / "root.pem"), "--dry-run")
    assert "change: none of keys" in said
    assert f"then: timestamp: 1 of {mine.keyid[:16]}" in said
    assert "\x1b" not in said


def test_a_file_that_is_no_request_is_refused_before_a_key_is_opened(person: Person, tmp_path: pathlib.Path) -> None:
    for data in (b"", b"{}", b"\x00" * 100, b'{"schema": "covey.key-request/9"}'):
        (tmp_path / "bad.json").write_bytes(data)
        assert person.refused(1, "sign", "bad.json", "--key", "none.pem", "--yes")
        assert person.refused(1, "apply", "bad.json", "--yes")
    assert "none.json" in person.refused(1, "apply", "none.json", "--yes")


def test_training_and_worker_use_an_encrypted_online_key(
    person: Person, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    phrase = str(secret(tmp_path / "phrase", PHRASE))
    person.done("create", "online", "--passphrase-file", phrase)
    why = ("--reason", "on a shared machine", "--yes")
    assert "the key is encrypted" in person.refused(2, "rotate", "online", *why)
    assert person.repository.versions()["root"] == 1
    monkeypatch.setenv(PASSPHRASE_VARIABLE, phrase)
    person.done("rotate", "online", *why)
    person.repository.publish("channels", {"channels/north.json": b"new"})
    monkeypatch.delenv(PASSPHRASE_VARIABLE)
    with pytest.raises(CoveyError, match="the key is encrypted"):
        person.repository.publish("channels", {"channels/north.json": b"newer"})
