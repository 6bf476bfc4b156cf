"""The client workflow of the TUF specification 1.0.34, section 5, by the agent's own updater: the course of an update
and the first root. The other cases are in the files whose names begin as this one's.

Most tests call the client program's `main`; some start it as the public conformance suite does.
"""

from __future__ import annotations

import pathlib
import re
import shutil
import subprocess
import sys
import typing

import pytest
from securesystemslib.signer import CryptoSigner

from tests import tuf_line
from tests.contract import tuf_client
from tests.tuf_line import Client, Line
from tests.tuf_repository import DAY, TOP, TufRepository

line, repo, client = tuf_line.line, tuf_line.repo, tuf_line.client
FIRST = ["2.root.json", "timestamp.json", "1.snapshot.json", "1.targets.json"]
NOTHING_NEW = ["2.root.json", "timestamp.json"]


# ---- the course of an update (5.1 to 5.6)


def test_init_keeps_the_root_and_asks_nobody(client: Client, line: Line, repo: TufRepository) -> None:
    assert client.trusts() == {"root": 1}
    assert client.bytes_of("root") == repo.files["metadata/1.root.json"]
    assert line.take_asked() == []


def test_a_refresh_asks_for_every_role_in_order_and_keeps_what_was_signed(
    client: Client, line: Line, repo: TufRepository
) -> None:
    assert client.refresh() == 0
    assert line.take_asked() == FIRST
    assert {role: client.bytes_of(role) for role in TOP} == {role: repo.files[repo.path(role)] for role in TOP}


def test_a_refresh_of_what_has_not_changed_asks_for_root_and_timestamp_only(client: Client, line: Line) -> None:
    assert client.refresh() == 0
    line.take_asked()
    assert client.refresh() == 0
    assert line.take_asked() == NOTHING_NEW


def test_only_what_has_changed_is_fetched(client: Client, line: Line, repo: TufRepository) -> None:
    assert client.refresh() == 0
    line.take_asked()
    repo.stamp()
    assert client.refresh() == 0
    assert line.take_asked() == NOTHING_NEW
    repo.release()
    assert client.refresh() == 0
    assert line.take_asked() == [*NOTHING_NEW, "2.snapshot.json"]
    repo.release("targets")
    assert client.refresh() == 0
    assert line.take_asked() == [*NOTHING_NEW, "3.snapshot.json", "2.targets.json"]


def test_a_download_refreshes_first(client: Client, line: Line) -> None:
    assert client.download("nobody signs this") == 1
    assert line.take_asked() == FIRST
    assert client.trusts() == tuf_line.at_version(1)


@pytest.mark.parametrize("hashes", [False, True])
def test_a_repository_without_consistent_snapshots_can_be_read(client: Client, line: Line, *, hashes: bool) -> None:
    repo = line.serve(TufRepository(consistent=False, hashes=hashes))
    assert client.init() == 0
    repo.add_target("a/b.bin", b"some")
    repo.release("targets")
    assert client.download("a/b.bin") == 0
    asked = ["2.root.json", "timestamp.json", "snapshot.json", "targets.json", "a/b.bin"]
    assert line.take_asked() == asked
    assert client.downloaded() == [b"some"]


def test_a_repository_may_turn_to_consistent_snapshots(client: Client, line: Line) -> None:
    repo = line.serve(TufRepository(consistent=False))
    assert client.init() == 0
    assert client.refresh() == 0
    repo.signed["root"].consistent_snapshot = True
    repo.new_root()
    repo.release("targets")
    assert client.refresh() == 0
    assert line.take_asked()[-2:] == ["2.snapshot.json", "2.targets.json"]


# ---- the first root (5.2)


def no_version(repo: TufRepository) -> bytes:
    return repo.sign("root").replace(b'"version":1', b'"number":1')


def unsigned(repo: TufRepository) -> bytes:
    return repo.sign("root", [])


def by_a_stranger(repo: TufRepository) -> bytes:
    return repo.sign("root", [CryptoSigner.generate_ed25519()])


def below_its_threshold(repo: TufRepository) -> bytes:
    repo.signed["root"].roles["root"].threshold = 2
    return repo.sign("root")


def of_another_role(repo: TufRepository) -> bytes:
    return repo.sign("targets", repo.keys["root"])


def not_json(_repo: TufRepository) -> bytes:
    return b"<html>"


def empty(_repo: TufRepository) -> bytes:
    return b""


def nested(_repo: TufRepository) -> bytes:
    return b"[" * 100_000


@pytest.mark.parametrize(
    "root", [no_version, unsigned, by_a_stranger, below_its_threshold, of_another_role, not_json, empty, nested]
)
def test_a_first_root_that_is_not_one_is_refused_and_nobody_is_asked(
    client: Client, line: Line, repo: TufRepository, root: typing.Callable[[TufRepository], bytes]
) -> None:
    client.init(root(repo))
    assert client.refresh() == 1
    assert line.take_asked() == []


def test_without_a_first_root_nothing_is_trusted(client: Client, line: Line) -> None:
    (client.metadata / "root.json").unlink()
    assert client.refresh() == 1
    assert line.take_asked() == []


def test_a_first_root_that_has_expired_leads_to_one_that_has_not(client: Client, repo: TufRepository) -> None:
    good_until = repo.signed["root"].expires
    repo.signed["root"].expires -= 30 * DAY
    repo.sign("root")
    assert client.init() == 0
    assert client.refresh() == 1
    assert client.trusts() == {"root": 1}
    repo.signed["root"].expires = good_until
    repo.new_root()
    assert client.refresh() == 0
    assert client.trusts() == dict.fromkeys(TOP, 1) | {"root": 2}


def test_init_again_begins_anew(client: Client, repo: TufRepository) -> None:
    repo.new_root()
    assert client.refresh() == 0
    assert client.init() == 0
    assert client.trusts()["root"] == 1
    assert client.refresh() == 0
    assert client.trusts()["root"] == 2


# ---- as the public suite runs it


def test_the_program_does_the_same_as_a_process(client: Client, line: Line, repo: TufRepository) -> None:
    def run(*arguments: str) -> int:
        done = subprocess.run([sys.executable, tuf_client.__file__, *arguments], capture_output=True, check=False)
        assert b"Traceback" not in done.stderr
        return done.returncode

    repo.add_target("dir/a b.bin", b"some")
    repo.release("targets")
    root = client.folder / "root"
    root.write_bytes(repo.files["metadata/1.root.json"])
    shutil.rmtree(client.metadata)
    client.metadata.mkdir()
    assert run("--metadata-dir", str(client.metadata), "init", str(root)) == 0
    assert run(*client.arguments("refresh")) == 0
    assert client.trusts() == tuf_line.at_version(2)
    target = client.arguments("--target-name", "dir/a b.bin", "download")
    assert run(*target) == 0
    assert client.downloaded() == [b"some"]
    line.take_asked()
    repo.signed["timestamp"].version = 1
    repo.sign("timestamp")
    assert run(*target) == 1
    assert run(*client.arguments("--target-name", "other", "download")) == 1
    assert (client.trusts(), client.downloaded()) == (tuf_line.at_version(2), [b"some"])
    (client.metadata / "root.json").unlink()
    assert run(*client.arguments("refresh")) == 1


# ---- the page on trust


def test_every_test_that_the_page_on_trust_names_exists() -> None:
    root = pathlib.Path(__file__).parents[2]
    named = re.findall(r"`(test_\w+\.py)::(test_\w+)`", (root / "docs" / "explanation" / "trust.md").read_text())
    files = list((root / "tests").rglob("test_*.py"))
    there = {
        (path.name, name) for path in files for name in re.findall(r"^def (test_\w+)\(", path.read_text(), re.MULTILINE)
    }
    assert len(named) > 40
    assert set(named) - there == set()
