"""Versions that fall, files that do not belong together, and files that have expired."""

from __future__ import annotations

import datetime as dt
import threading

import pytest
from tuf.api.metadata import MetaFile

from tests import tuf_line
from tests.tuf_line import FILE, Client, Handler, Line, at_version, send
from tests.tuf_repository import DAY, TOP, TufRepository

line, repo, client = tuf_line.line, tuf_line.repo, tuf_line.client
version_three = tuf_line.version_three
pytestmark = pytest.mark.usefixtures("version_three")
HASHES = pytest.mark.parametrize("hashes", [False, True], ids=["versions", "hashes"])


def refuses(client: Client) -> None:
    """A refresh is refused and nothing else is trusted than before."""
    before = client.trusts()
    assert client.refresh() == 1
    assert client.trusts() == before


# ---- rollback (5.4.4, 5.5.5)


def test_an_older_timestamp_is_refused(client: Client, repo: TufRepository) -> None:
    repo.signed["timestamp"].version = 2
    repo.sign("timestamp")
    refuses(client)


def test_a_timestamp_of_the_same_version_changes_nothing(client: Client, repo: TufRepository) -> None:
    before = client.bytes_of("timestamp")
    repo.signed["timestamp"].snapshot_meta = MetaFile(99)
    repo.sign("timestamp")
    assert client.refresh() == 0
    assert client.bytes_of("timestamp") == before


@HASHES
def test_a_newer_timestamp_that_names_an_older_snapshot_is_refused(
    client: Client, repo: TufRepository, *, hashes: bool
) -> None:
    repo.hashes = hashes
    repo.signed["snapshot"].version = 2
    repo.sign("snapshot")
    repo.stamp()
    refuses(client)


@HASHES
@pytest.mark.parametrize("role", ["targets", "more"])
def test_a_newer_snapshot_that_names_an_older_role_is_refused(
    client: Client, repo: TufRepository, role: str, *, hashes: bool
) -> None:
    repo.hashes = hashes
    repo.signed[role].version = 2
    repo.sign(role)
    repo.signed["snapshot"].meta[f"{role}.json"] = repo._named(role)
    repo.release()
    assert client.refresh() == 1
    assert {name: client.trusts()[name] for name in ("snapshot", role)} == {"snapshot": 3, role: 3}


@pytest.mark.parametrize("role", ["targets", "more"])
def test_a_role_does_not_vanish_from_the_snapshot(client: Client, repo: TufRepository, role: str) -> None:
    del repo.signed["snapshot"].meta[f"{role}.json"]
    repo.release()
    assert client.refresh() == 1
    assert client.trusts()["snapshot"] == 3


@pytest.mark.parametrize("role", ["snapshot", "targets", "more"])
def test_what_is_on_the_device_protects_from_rollback_though_its_hash_is_no_longer_named(
    client: Client, repo: TufRepository, role: str
) -> None:
    """Newer metadata name other hashes; the older file still is what the newer ones are compared with."""
    repo.hashes = True
    repo.release("targets", "more")
    assert client.download(FILE) == 0
    repo.signed[role].version -= 2
    repo.sign(role)
    if role != "snapshot":
        repo.signed["snapshot"].meta[f"{role}.json"] = repo._named(role)
        repo.release()
    repo.stamp()
    assert client.refresh() == 1
    assert client.trusts()[role] == 4


# ---- mix and match (5.5.2, 5.5.4, 5.6.2, 5.6.4)


@pytest.mark.parametrize("by", [-2, -1, 1, 100])
@pytest.mark.parametrize("role", ["snapshot", "targets", "more"])
def test_a_file_of_another_version_under_the_right_name_is_refused(
    client: Client, repo: TufRepository, role: str, by: int
) -> None:
    repo.release("targets", "more")
    path, right = repo.path(role), repo.files[repo.path(role)]
    repo.signed[role].version += by
    repo.files[path] = repo.sign(role)
    before = client.trusts()[role]
    assert client.download(FILE) == 1
    assert client.trusts()[role] == before
    repo.files[path] = right
    assert client.download(FILE) == 0


@pytest.mark.parametrize("role", ["snapshot", "targets", "more"])
def test_a_file_with_another_hash_is_refused_though_it_is_signed(
    client: Client, repo: TufRepository, role: str
) -> None:
    repo.hashes = True
    repo.release("targets", "more")
    repo.signed[role].expires += dt.timedelta(seconds=1)
    repo.sign(role)
    before = client.trusts()[role]
    assert client.download(FILE) == 1
    assert client.trusts()[role] == before


@pytest.mark.parametrize("by", [-1, 1])
@pytest.mark.parametrize("role", ["snapshot", "targets", "more"])
def test_a_file_with_another_length_is_refused(client: Client, repo: TufRepository, role: str, by: int) -> None:
    repo.hashes = True
    repo.release("targets", "more")
    above = repo.signed["timestamp"].snapshot_meta
    if role != "snapshot":
        above = repo.signed["snapshot"].meta[f"{role}.json"]
    above.length, above.hashes = above.length + by, None
    if role != "snapshot":
        repo.sign("snapshot")
        repo.signed["timestamp"].snapshot_meta = repo._named("snapshot")
    repo.sign("timestamp")
    before = client.trusts()[role]
    assert client.download(FILE) == 1
    assert client.trusts()[role] == before


@pytest.mark.parametrize("hashes", [{"sha256": "0" * 64}, {"sha512": "0" * 128}, {"md5000": "0"}])
def test_a_snapshot_whose_hash_is_wrong_or_of_an_unknown_kind_is_refused(
    client: Client, repo: TufRepository, hashes: dict[str, str]
) -> None:
    repo.release()
    repo.signed["timestamp"].snapshot_meta.hashes = hashes
    repo.sign("timestamp")
    assert client.refresh() == 1
    assert client.trusts()["snapshot"] == 3


def test_roles_of_two_days_do_not_go_together(client: Client, repo: TufRepository) -> None:
    """Each file was good once and is newer than what the device has; they never belonged together."""
    repo.release("targets", "more")
    older = {role: repo.files[repo.path(role)] for role in ("targets", "more")}
    repo.release("targets", "more")
    for role, data in older.items():
        newer, repo.files[repo.path(role)] = repo.files[repo.path(role)], data
        assert client.download(FILE) == 1
        assert client.trusts()[role] == 3
        repo.files[repo.path(role)] = newer
    assert client.download(FILE) == 0


@pytest.mark.parametrize("version", [b"0", b"-1", b'"4"', b"4.5", b"null", b"[]", b"1e99"])
@pytest.mark.parametrize("role", ["timestamp", "snapshot"])
def test_a_version_that_is_no_number_above_nought_is_refused(
    client: Client, repo: TufRepository, role: str, version: bytes
) -> None:
    repo.release()
    repo.files[repo.path(role)] = repo.files[repo.path(role)].replace(b'"version":4}', b'"version":' + version + b"}")
    assert client.refresh() == 1
    assert client.trusts()[role] == 3


# ---- expired (5.4.5, 5.5.6, 5.6.5)


@pytest.mark.parametrize("role", ["timestamp", "snapshot", "targets", "more"])
def test_expired_metadata_are_refused_and_what_was_trusted_stays(
    client: Client, repo: TufRepository, role: str
) -> None:
    good_until = repo.signed[role].expires
    repo.signed[role].expires -= 30 * DAY
    repo.release("targets", "more")
    assert client.download(FILE) == 1
    order = [*TOP, "more"]
    at = order.index(role)
    assert [client.trusts()[name] for name in order[1:]] == [4] * (at - 1) + [3] * (len(order) - at)
    repo.signed[role].expires = good_until
    repo.release("targets", "more")
    assert client.download(FILE) == 0


@pytest.mark.parametrize("role", ["timestamp", "snapshot", "targets", "more"])
def test_metadata_that_have_expired_on_the_device_do_not_prevent_an_update(
    client: Client, repo: TufRepository, role: str
) -> None:
    good_until, right = repo.signed[role].expires, repo.files[repo.path(role)]
    repo.signed[role].expires -= 30 * DAY
    (client.metadata / f"{role}.json").write_bytes(repo.sign(role))
    assert client.download(FILE) == 1
    repo.files[repo.path(role)] = right
    repo.signed[role].expires = good_until
    repo.release("targets", "more")
    assert client.download(FILE) == 0
    assert client.trusts() == at_version(4) | {"more": 4}


def test_metadata_that_have_expired_on_the_device_still_protect_from_rollback(
    client: Client, repo: TufRepository
) -> None:
    good_until = repo.signed["timestamp"].expires
    repo.signed["timestamp"].expires -= 30 * DAY
    (client.metadata / "timestamp.json").write_bytes(repo.sign("timestamp"))
    repo.signed["timestamp"].version, repo.signed["timestamp"].expires = 2, good_until
    repo.sign("timestamp")
    refuses(client)


def test_what_expires_while_an_update_goes_on_was_good_when_it_began(
    client: Client, line: Line, repo: TufRepository
) -> None:
    """One time counts for the whole of an update (5.1), however slow the line is."""
    repo.signed["timestamp"].expires = dt.datetime.now(dt.UTC) + dt.timedelta(seconds=2)
    repo.release()
    data = repo.files[repo.path("snapshot")]

    def slowly(handler: Handler) -> None:
        left = repo.signed["timestamp"].expires - dt.datetime.now(dt.UTC)
        threading.Event().wait(max(left.total_seconds(), 0) + 0.2)
        send(handler, data)

    line.answers[repo.path("snapshot")] = slowly
    assert client.refresh() == 0
    assert client.refresh() == 1
