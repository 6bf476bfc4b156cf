"""Roots: each leads to the next, whoever signs it; and what new keys let the repository begin anew."""

from __future__ import annotations

import typing

import pytest
from securesystemslib.signer import CryptoSigner

from edge_agent.update import trust
from tests import tuf_line
from tests.tuf_line import FILE, Client, Line
from tests.tuf_repository import DAY, TOP, TufRepository

line, repo, client = tuf_line.line, tuf_line.repo, tuf_line.client
version_three = tuf_line.version_three


def rotations(repo: TufRepository, n: int, *roles: str) -> None:
    """Sign so many roots, each with new keys for some roles."""
    for _ in range(n):
        old = list(repo.keys["root"])
        repo.rotate(*roles)
        repo.new_root(*old)
    repo.release("targets")


# ---- the chain (5.3.2 to 5.3.9)


@pytest.mark.parametrize("n", [1, 2, 7])
@pytest.mark.parametrize("roles", [("root",), ("timestamp",), ("snapshot",), ("targets",), TOP], ids="+".join)
def test_a_chain_of_roots_is_followed_to_its_end(
    client: Client, line: Line, repo: TufRepository, roles: tuple[str, ...], n: int
) -> None:
    assert client.refresh() == 0
    line.take_asked()
    rotations(repo, n, *roles)
    assert client.refresh() == 0
    assert line.take_asked()[: n + 1] == [f"{version}.root.json" for version in range(2, n + 3)]
    assert client.trusts() == dict.fromkeys(TOP, 2) | {"root": n + 1}


def test_a_device_that_has_never_refreshed_follows_it_too(client: Client, repo: TufRepository) -> None:
    rotations(repo, 3, *TOP)
    assert client.refresh() == 0
    assert client.trusts()["root"] == 4


def test_roots_are_not_asked_for_again(client: Client, line: Line, repo: TufRepository) -> None:
    rotations(repo, 3, *TOP)
    assert client.refresh() == 0
    line.take_asked()
    assert client.refresh() == 0
    assert line.take_asked() == ["5.root.json", "timestamp.json"]


def test_a_root_behind_a_gap_is_not_reached(client: Client, repo: TufRepository) -> None:
    repo.new_root()
    repo.signed["root"].version += 1
    repo.new_root()
    assert client.refresh() == 0
    assert client.trusts()["root"] == 2


@pytest.mark.parametrize("claims", [1, 3, 99])
def test_a_root_that_is_not_the_next_version_is_refused(client: Client, repo: TufRepository, claims: int) -> None:
    repo.signed["root"].version = claims
    repo.files["metadata/2.root.json"] = repo.sign("root")
    assert client.refresh() == 1
    assert client.trusts() == {"root": 1}


def by_old_keys_only(old: list[CryptoSigner], _new: list[CryptoSigner]) -> list[CryptoSigner]:
    return old


def by_new_keys_only(_old: list[CryptoSigner], new: list[CryptoSigner]) -> list[CryptoSigner]:
    return new


def by_nobody(_old: list[CryptoSigner], _new: list[CryptoSigner]) -> list[CryptoSigner]:
    return []


def by_strangers(_old: list[CryptoSigner], _new: list[CryptoSigner]) -> list[CryptoSigner]:
    return [CryptoSigner.generate_ed25519() for _ in range(2)]


@pytest.mark.parametrize("keys", [by_old_keys_only, by_new_keys_only, by_nobody, by_strangers])
def test_a_root_is_signed_by_the_keys_of_the_one_before_and_by_its_own(
    client: Client,
    repo: TufRepository,
    keys: typing.Callable[[list[CryptoSigner], list[CryptoSigner]], list[CryptoSigner]],
) -> None:
    old = list(repo.keys["root"])
    repo.rotate("root")
    repo.new_root(*old)
    right = repo.files["metadata/2.root.json"]
    repo.sign("root", keys(old, repo.keys["root"]))
    assert client.refresh() == 1
    assert client.trusts() == {"root": 1}
    repo.files["metadata/2.root.json"] = right
    assert client.refresh() == 0


def test_both_thresholds_have_to_be_reached(client: Client, repo: TufRepository) -> None:
    """From one key of one, to two of three, to three of other four."""
    one = list(repo.keys["root"])
    two, three = repo.give_key("root"), repo.give_key("root")
    repo.signed["root"].roles["root"].threshold = 2
    repo.new_root()
    repo.sign("root", one)
    assert client.refresh() == 1
    repo.sign("root", [two, three])
    assert client.refresh() == 1
    repo.sign("root", [*one, three])
    assert client.refresh() == 0
    repo.rotate("root")
    new = [*repo.keys["root"], *(repo.give_key("root") for _ in range(3))]
    repo.signed["root"].roles["root"].threshold = 3
    repo.signed["root"].version += 1
    for keys in (new, [two, three, *new[:2]], [two, *new], [two, two, *new], [*one, two, three]):
        repo.sign("root", keys)
        assert client.refresh() == 1
        assert client.trusts()["root"] == 2
    repo.sign("root", [two, *one, *new[1:]])
    assert client.refresh() == 0
    assert client.trusts()["root"] == 3


def test_what_is_good_of_a_chain_is_kept_though_the_next_is_bad(client: Client, repo: TufRepository) -> None:
    assert client.refresh() == 0
    rotations(repo, 3, "root")
    right = repo.files["metadata/4.root.json"]
    repo.files["metadata/4.root.json"] = repo.files["metadata/3.root.json"]
    assert client.refresh() == 1
    assert client.trusts() == dict.fromkeys(TOP, 1) | {"root": 3}
    repo.files["metadata/4.root.json"] = right
    assert client.refresh() == 0
    assert client.trusts() == dict.fromkeys(TOP, 2) | {"root": 4}


def test_a_long_chain_is_followed_in_parts(
    client: Client, repo: TufRepository, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The number of roots in one update is limited (5.3.3); the next update goes on where this one ended."""
    monkeypatch.setattr(trust._CONFIG, "max_root_rotations", 4)
    rotations(repo, 10, "root")
    seen = []
    for _ in range(4):
        assert client.refresh() == 0
        seen.append(client.trusts()["root"])
    assert seen == [5, 9, 11, 11]


def test_roots_that_have_expired_lead_to_one_that_has_not(client: Client, repo: TufRepository) -> None:
    good_until = repo.signed["root"].expires
    for _ in range(3):
        repo.signed["root"].expires = good_until - 30 * DAY
        repo.new_root()
    assert client.refresh() == 1
    assert client.trusts() == {"root": 4}  # it is persisted before its expiry is looked at (5.3.10)
    repo.signed["root"].expires = good_until
    repo.new_root()
    assert client.refresh() == 0


@pytest.mark.parametrize("role", TOP)
def test_a_root_that_lacks_a_role_is_refused(client: Client, repo: TufRepository, role: str) -> None:
    repo.signed["root"].version = 2
    del repo.signed["root"].roles[role]
    repo.sign("root")
    assert client.refresh() == 1
    assert client.trusts() == {"root": 1}


@pytest.mark.parametrize("role", ["timestamp", "snapshot", "targets"])
def test_a_key_that_was_replaced_counts_no_more(client: Client, repo: TufRepository, role: str) -> None:
    assert client.refresh() == 0
    old = list(repo.keys[role])
    repo.rotate(role)
    repo.new_root()
    repo.release("targets")
    repo.sign(role, old)
    assert client.refresh() == 1
    repo.sign(role)
    assert client.refresh() == 0


def test_a_key_that_came_back_counts_again(client: Client, repo: TufRepository) -> None:
    first = repo.keys["timestamp"][0]
    rotations(repo, 1, "timestamp")
    assert client.refresh() == 0
    repo.signed["root"].revoke_key(repo.keys["timestamp"].pop().public_key.keyid, "timestamp")
    repo.give_key("timestamp", signer=first)
    repo.new_root()
    repo.stamp()
    assert client.refresh() == 0
    assert client.trusts() == dict.fromkeys(TOP, 2) | {"root": 3, "timestamp": 3}


# ---- fast-forward (5.3.11)


def forward(*roles: str) -> typing.Callable[[TufRepository], None]:
    """Somebody drives versions up to where no honest one will follow."""

    def drive(repo: TufRepository) -> None:
        for role in roles:
            repo.signed[role].version = 99_999
        repo.release(*({*roles} & {"targets", "more"}))

    return drive


def back(*roles: str) -> typing.Callable[[TufRepository], None]:
    """The honest repository goes on from where it was."""

    def set_back(repo: TufRepository) -> None:
        for role in roles:
            repo.signed[role].version = 3
        repo.release("targets", "more")

    return set_back


FORWARDED = [
    (("timestamp",), ("timestamp",)),
    (("snapshot",), ("snapshot", "timestamp")),
    (("snapshot",), ("timestamp",)),
    (("snapshot",), ("snapshot",)),
    (("timestamp", "snapshot"), ("timestamp",)),
    (("targets",), ("snapshot",)),
    (("targets",), ("timestamp",)),
    (("more",), ("snapshot",)),
    (("timestamp", "snapshot", "targets", "more"), ("snapshot", "timestamp")),
]


@pytest.mark.usefixtures("version_three")
@pytest.mark.parametrize(("driven", "rotated"), FORWARDED)
def test_versions_that_were_driven_up_may_fall_once_a_key_was_replaced_and_not_before(
    client: Client, repo: TufRepository, driven: tuple[str, ...], rotated: tuple[str, ...]
) -> None:
    forward(*driven)(repo)
    assert client.download(FILE) == 0
    stolen, keys = dict(repo.files), {role: list(repo.keys[role]) for role in rotated}
    back(*driven)(repo)
    assert client.refresh() == 1
    repo.rotate(*rotated)
    repo.new_root()
    repo.release("targets", "more")
    assert client.download(FILE) == 0
    assert {role: client.trusts()[role] for role in driven} == {role: repo.signed[role].version for role in driven}
    # Neither the files of that time nor the keys of that time can drive them up again.
    repo.files, honest = repo.files | {path: data for path, data in stolen.items() if "root" not in path}, repo.files
    assert client.refresh() == 1
    repo.files = honest
    repo.release("targets", "more")
    for role in rotated:
        repo.sign(role, keys[role])
    assert client.refresh() == 1


@pytest.mark.usefixtures("version_three")
def test_the_recovery_from_driven_up_versions_survives_a_line_that_breaks_in_the_middle(
    client: Client, line: Line, repo: TufRepository
) -> None:
    forward("targets")(repo)
    assert client.refresh() == 0
    back("targets")(repo)
    repo.rotate("timestamp")
    repo.new_root()
    repo.release()
    line.answers["metadata/timestamp.json"] = lambda handler: handler.send_error(503)
    assert client.refresh() == 1
    line.answers = {}
    assert client.refresh() == 0
    assert client.trusts()["targets"] == repo.signed["targets"].version


@pytest.mark.usefixtures("version_three")
def test_another_key_beside_the_old_one_lets_no_version_fall(client: Client, repo: TufRepository) -> None:
    repo.give_key("timestamp")
    repo.new_root()
    repo.signed["timestamp"].version = 2
    repo.sign("timestamp")
    assert client.refresh() == 1
    assert client.trusts()["timestamp"] == 3
