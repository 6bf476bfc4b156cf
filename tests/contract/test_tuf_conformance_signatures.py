"""Who signed: every role unsigned, signed by the wrong keys, by too few of them, or by one key that counts twice."""

from __future__ import annotations

import json
import typing

import pytest
from securesystemslib.signer import CryptoSigner, SSlibKey
from tuf.api.metadata import Metadata

from tests import tuf_line
from tests.tuf_line import Client
from tests.tuf_repository import TOP, TufRepository

line, repo, client = tuf_line.line, tuf_line.repo, tuf_line.client
ROLES = ("root", "timestamp", "snapshot", "targets", "more")
ORDER = ("root", "timestamp", "snapshot", "targets", "more")
PARENT = {"more": "targets"}
FILE = "file"
Spoil = typing.Callable[[TufRepository, str], None]


@pytest.fixture(autouse=True)
def version_one(client: Client, repo: TufRepository) -> None:
    """The client has seen version 2 of everything that is signed for the delegation, and has its target."""
    repo.delegate("targets", "more", "*")
    repo.add_target(FILE, b"1", "more")
    repo.release("targets", "more")
    assert client.download(FILE) == 0


def renew(repo: TufRepository, role: str) -> None:
    """Sign a new version of a role, and of those that name it."""
    if role == "root":
        repo.new_root()
    elif role == "timestamp":
        repo.stamp()
    else:
        repo.release(*({role} & {"targets", "more"}))


def rewrite(repo: TufRepository, role: str, change: typing.Callable[[dict[str, typing.Any]], None]) -> None:
    """Change the bytes of a role's newest file, its signatures too."""
    content = json.loads(repo.files[repo.path(role)])
    change(content)
    repo.files[repo.path(role)] = json.dumps(content).encode()


# ---- ways in which a role is not signed


def not_at_all(repo: TufRepository, role: str) -> None:
    repo.sign(role, [])


def by_a_stranger(repo: TufRepository, role: str) -> None:
    repo.sign(role, [CryptoSigner.generate_ed25519()])


def by_another_role(repo: TufRepository, role: str) -> None:
    other = ORDER[(ORDER.index(role) + 1) % len(ORDER)]
    repo.sign(role, repo.keys[other])


def by_a_stranger_who_names_the_right_key(repo: TufRepository, role: str) -> None:
    repo.sign(role, [CryptoSigner.generate_ed25519()])
    keyid = repo.keys[role][0].public_key.keyid
    rewrite(repo, role, lambda content: content["signatures"][0].update(keyid=keyid))


def with_a_flipped_bit(repo: TufRepository, role: str) -> None:
    def flip(content: dict[str, typing.Any]) -> None:
        entry = content["signatures"][0]
        entry["sig"] = f"{int(entry['sig'], 16) ^ 1:0{len(entry['sig'])}x}"

    rewrite(repo, role, flip)


def before_it_was_changed(repo: TufRepository, role: str) -> None:
    rewrite(repo, role, lambda content: content["signed"].update(expires="2099-01-01T00:00:00Z"))


def by_an_empty_signature(repo: TufRepository, role: str) -> None:
    rewrite(repo, role, lambda content: content["signatures"][0].update(sig=""))


def by_a_signature_that_is_not_hexadecimal(repo: TufRepository, role: str) -> None:
    rewrite(repo, role, lambda content: content["signatures"][0].update(sig="zz"))


def without_a_list_of_signatures(repo: TufRepository, role: str) -> None:
    rewrite(repo, role, lambda content: content.pop("signatures"))


def as_another_kind_of_metadata(repo: TufRepository, role: str) -> None:
    """The right key has signed it, but it says of itself that it is something else."""
    kind = "snapshot" if role in {"root", "timestamp"} else "root"
    data = Metadata(repo.signed[kind])
    data.sign(repo.keys[role][0])
    repo.files[repo.path(role)] = data.to_bytes()


SPOILS: list[Spoil] = [
    not_at_all,
    by_a_stranger,
    by_another_role,
    by_a_stranger_who_names_the_right_key,
    with_a_flipped_bit,
    before_it_was_changed,
    by_an_empty_signature,
    by_a_signature_that_is_not_hexadecimal,
    without_a_list_of_signatures,
    as_another_kind_of_metadata,
]


@pytest.mark.parametrize("spoil", SPOILS)
@pytest.mark.parametrize("role", ROLES)
def test_a_role_that_is_not_signed_rightly_is_refused_and_what_was_trusted_stays(
    client: Client, repo: TufRepository, role: str, spoil: Spoil
) -> None:
    before = client.trusts()
    renew(repo, role)
    spoil(repo, role)
    assert client.download(FILE) == 1
    after = client.trusts()
    at = ORDER.index(role)
    assert {name: after[name] for name in ORDER[at:]} == {name: before[name] for name in ORDER[at:]}
    repo.sign(role)
    assert client.download(FILE) == 0
    assert client.trusts()[role] == repo.signed[role].version


# ---- thresholds


def three_keys(repo: TufRepository, role: str, threshold: int = 2) -> list[CryptoSigner]:
    """Give a role three keys, so many of which have to sign."""
    parent = PARENT.get(role, "root")
    repo.give_key(role, parent)
    repo.give_key(role, parent)
    repo.signed[parent].get_delegated_role(role).threshold = threshold
    return repo.keys[role]


def publish_parent(repo: TufRepository, role: str) -> None:
    if role == "more":
        repo.release("targets")
    else:
        repo.new_root()


@pytest.mark.parametrize("role", ["timestamp", "snapshot", "targets", "more"])
def test_as_many_keys_have_to_sign_as_the_threshold_says(client: Client, repo: TufRepository, role: str) -> None:
    one, two, three = three_keys(repo, role)
    publish_parent(repo, role)
    renew(repo, role)
    stranger = CryptoSigner.generate_ed25519()
    before = client.trusts()[role]
    for keys in ([], [one], [two], [one, stranger], [stranger]):
        repo.sign(role, keys)
        assert client.download(FILE) == 1
        assert client.trusts()[role] == before
    repo.sign(role, [three, stranger, one])
    assert client.download(FILE) == 0
    assert client.trusts()[role] == repo.signed[role].version


@pytest.mark.parametrize("role", ["timestamp", "snapshot", "targets", "more"])
def test_one_bad_signature_beside_enough_good_ones_does_no_harm(client: Client, repo: TufRepository, role: str) -> None:
    three_keys(repo, role)
    publish_parent(repo, role)
    renew(repo, role)
    with_a_flipped_bit(repo, role)
    assert client.download(FILE) == 0
    rewrite(repo, role, lambda content: content["signatures"][1].update(sig="00" * 64))
    renew(repo, role)
    with_a_flipped_bit(repo, role)
    rewrite(repo, role, lambda content: content["signatures"][1].update(sig="00" * 64))
    assert client.download(FILE) == 1


@pytest.mark.parametrize("role", ROLES)
def test_two_signatures_of_one_key_count_once(client: Client, repo: TufRepository, role: str) -> None:
    one, *_ = three_keys(repo, role)
    if role != "root":
        publish_parent(repo, role)
    before = client.trusts()[role]
    renew(repo, role)
    repo.sign(role, [one])
    rewrite(repo, role, lambda content: content["signatures"].append(dict(content["signatures"][0])))
    assert client.download(FILE) == 1
    assert client.trusts()[role] == before + (role == "root" and before != repo.signed["root"].version - 1)


@pytest.mark.parametrize("role", ["timestamp", "more"])
def test_a_threshold_that_can_not_be_reached_is_never_reached(client: Client, repo: TufRepository, role: str) -> None:
    three_keys(repo, role, threshold=4)
    publish_parent(repo, role)
    renew(repo, role)
    assert client.download(FILE) == 1


def test_a_threshold_of_nought_is_refused(client: Client, repo: TufRepository) -> None:
    repo.signed["root"].roles["timestamp"].threshold = 0
    repo.new_root()
    repo.stamp()
    repo.sign("timestamp", [])
    assert client.refresh() == 1
    assert client.trusts()["root"] == 1


def test_a_key_that_is_listed_for_a_role_and_not_given_counts_for_nothing(client: Client, repo: TufRepository) -> None:
    repo.signed["root"].roles["timestamp"].keyids.append("0" * 64)
    repo.new_root()
    repo.stamp()
    assert client.refresh() == 0


def test_keys_of_the_root_do_not_sign_for_other_roles(client: Client, repo: TufRepository) -> None:
    """All of them stand in one list; only those that a role names count for it."""
    repo.give_key("root")
    repo.new_root()
    repo.stamp()
    repo.sign("timestamp", repo.keys["root"])
    assert client.refresh() == 1


@pytest.mark.parametrize("make", ["generate_ed25519", "generate_ecdsa", "generate_rsa"])
def test_each_kind_of_key_of_the_specification_signs(client: Client, repo: TufRepository, make: str) -> None:
    for role in TOP[1:]:
        repo.rotate(role)
        repo.signed["root"].revoke_key(repo.keys[role].pop().public_key.keyid, role)
        repo.give_key(role, signer=getattr(CryptoSigner, make)())
    repo.new_root()
    repo.release("targets")
    assert client.refresh() == 0
    assert client.trusts()["targets"] == 3


# ---- what the specification leaves open


def test_unknown_fields_are_kept_and_count_for_the_signature(client: Client, repo: TufRepository) -> None:
    for role in ROLES:
        repo.signed[role].unrecognized_fields["x-new"] = {"a": [1, None], "ü": "é"}
    keyid = repo.signed["root"].roles["root"].keyids[0]
    repo.signed["root"].keys[keyid].unrecognized_fields["keyid_hash_algorithms"] = ["md5"]
    repo.signed["root"].roles["root"].unrecognized_fields["x-more"] = True
    repo.new_root()
    repo.release("targets", "more")
    assert client.download(FILE) == 0
    assert all(b"x-new" in client.bytes_of(role) for role in ROLES)
    repo.release("more")
    rewrite(repo, "more", lambda content: content["signed"].pop("x-new"))
    assert client.download(FILE) == 1


def test_unknown_fields_beside_the_signed_part_do_no_harm(client: Client, repo: TufRepository) -> None:
    repo.stamp()
    rewrite(repo, "timestamp", lambda content: content.update({"x-new": 1}))
    assert client.refresh() == 0


@pytest.mark.parametrize(("version", "status"), [("1.0.0", 0), ("1.0.99", 0), ("1.9.0", 0), ("2.0.0", 1), ("x", 1)])
def test_metadata_of_the_same_major_version_of_the_specification_are_read(
    client: Client, repo: TufRepository, version: str, status: int
) -> None:
    repo.signed["timestamp"].version += 1
    repo.signed["timestamp"].spec_version = version
    repo.sign("timestamp")
    assert client.refresh() == status


def test_a_root_with_a_key_of_an_unknown_kind_is_refused_whole(client: Client, repo: TufRepository) -> None:
    """The specification leaves it open; what was trusted stays."""
    before = client.trusts()
    repo.signed["root"].add_key(SSlibKey("f" * 64, "lattice", "lattice-1", {"public": "00"}), "timestamp")
    repo.new_root()
    assert client.refresh() == 1
    assert client.trusts() == before


@pytest.mark.parametrize("role", ["timestamp", "snapshot", "targets", "more"])
def test_one_key_under_two_names_counts_once(client: Client, repo: TufRepository, role: str) -> None:
    before = client.trusts()[role]
    parent = repo.signed[PARENT.get(role, "root")]
    key = repo.keys[role][0].public_key
    parent.add_key(SSlibKey("e" * 64, key.keytype, key.scheme, key.keyval), role)
    parent.get_delegated_role(role).threshold = 2
    publish_parent(repo, role)
    renew(repo, role)

    def sign_twice(content: dict[str, typing.Any]) -> None:
        content["signatures"].append(content["signatures"][0] | {"keyid": "e" * 64})

    rewrite(repo, role, sign_twice)
    assert client.download(FILE) == 1
    assert client.trusts()[role] == before
