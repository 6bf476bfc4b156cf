"""Targets: fetched once, kept only if they are what was signed, under names that stay names."""

from __future__ import annotations

import hashlib
import pathlib

import pytest

from tests import tuf_line
from tests.tuf_line import Client, Line, send
from tests.tuf_repository import TufRepository

line, repo, client = tuf_line.line, tuf_line.repo, tuf_line.client
DATA = b"what was signed"


@pytest.fixture
def at(repo: TufRepository) -> str:
    """Where the target `file` is served."""
    path = repo.add_target("file", DATA)
    repo.release("targets")
    return path


def test_a_target_is_fetched_under_its_hash_and_kept_under_its_name(client: Client, line: Line, at: str) -> None:
    assert client.download("file") == 0
    assert line.asked[-1] == at == f"targets/{hashlib.sha256(DATA).hexdigest()}.file"
    assert (client.targets / "file").read_bytes() == DATA


def test_a_target_that_is_there_is_not_fetched_again(client: Client, line: Line, at: str) -> None:
    assert client.download("file") == 0
    line.take_asked()
    assert client.download("file") == 0
    assert at not in line.asked
    assert line.take_asked() == ["2.root.json", "timestamp.json"]


@pytest.mark.parametrize("content", [b"", b"what was signee", DATA[:-1], DATA + b"."])
def test_a_target_that_was_damaged_is_fetched_again(client: Client, content: bytes, at: str) -> None:
    del at
    assert client.download("file") == 0
    (client.targets / "file").write_bytes(content)
    assert client.download("file") == 0
    assert client.downloaded() == [DATA]


def test_a_target_that_was_signed_anew_replaces_the_old_one(client: Client, repo: TufRepository, at: str) -> None:
    assert client.download("file") == 0
    newer = repo.add_target("file", b"newer")
    repo.release("targets")
    good, repo.files[newer] = repo.files[newer], b"wrong"
    assert newer != at
    assert client.download("file") == 1
    assert client.downloaded() == [DATA]
    repo.files[newer] = good
    assert client.download("file") == 0
    assert client.downloaded() == [b"newer"]


def test_a_target_that_is_no_longer_signed_is_not_given_out_though_it_is_there(
    client: Client, repo: TufRepository, at: str
) -> None:
    del at
    assert client.download("file") == 0
    repo.signed["targets"].targets = {}
    repo.release("targets")
    assert client.download("file") == 1


def test_a_target_that_nobody_signs_is_not_found(client: Client, line: Line, at: str) -> None:
    line.repository.files["targets/other"] = b"it is there all the same"
    assert client.download("other") == 1
    assert [path for path in line.asked if path.startswith("targets")] == []
    assert client.downloaded() == []
    del at


WRONG = {
    "another byte": b"what was signee",
    "shorter": DATA[:-1],
    "longer": DATA + b".",
    "empty": b"",
    "much longer": DATA * 100_000,
}


@pytest.mark.parametrize("content", WRONG.values(), ids=list(WRONG))
def test_a_target_that_is_not_what_was_signed_is_refused_and_not_kept(
    client: Client, repo: TufRepository, at: str, content: bytes
) -> None:
    repo.files[at] = content
    assert client.download("file") == 1
    assert client.downloaded() == []
    repo.files[at] = DATA
    assert client.download("file") == 0


@pytest.mark.parametrize("length", [len(DATA) - 1, len(DATA) + 1, 0])
def test_a_target_whose_signed_length_is_another_is_refused(
    client: Client, repo: TufRepository, at: str, length: int
) -> None:
    del at
    repo.signed["targets"].targets["file"].length = length
    repo.release("targets")
    assert client.download("file") == 1
    assert client.downloaded() == []


HASHES: list[tuple[dict[str, str], int]] = [
    ({"sha512": hashlib.sha512(DATA).hexdigest()}, 0),
    ({"sha256": hashlib.sha256(DATA).hexdigest(), "sha512": hashlib.sha512(DATA).hexdigest()}, 0),
    ({"sha256": hashlib.sha256(DATA).hexdigest(), "sha512": "0" * 128}, 1),
    ({"sha512": "0" * 128, "sha256": hashlib.sha256(DATA).hexdigest()}, 1),
    ({"unknown": "00"}, 1),
    ({"unknown": "00", "sha256": hashlib.sha256(DATA).hexdigest()}, 1),
]


@pytest.mark.parametrize(("hashes", "status"), HASHES)
def test_every_hash_that_is_named_has_to_be_right(
    client: Client, repo: TufRepository, hashes: dict[str, str], status: int
) -> None:
    repo.add_target("file", DATA)
    repo.signed["targets"].targets["file"].hashes = hashes
    for digest in hashes.values():
        repo.files[f"targets/{digest}.file"] = DATA
    repo.release("targets")
    assert client.download("file") == status
    assert client.downloaded() == [DATA] * (status == 0)


def test_a_target_may_be_empty(client: Client, repo: TufRepository) -> None:
    repo.add_target("file", b"")
    repo.release("targets")
    assert client.download("file") == 0
    assert client.downloaded() == [b""]


def test_many_versions_of_a_target_one_after_the_other(client: Client, repo: TufRepository) -> None:
    """Every third one is seen; between them somebody serves what was not signed."""
    for n in range(9):
        good = f"version {n}".encode()
        at = repo.add_target("file", good)
        repo.release("targets")
        if n % 3 == 0:
            assert client.download("file") == 0
            assert client.downloaded() == [good]
            repo.files[at] = b"version x"
            client.download("file")
            assert client.downloaded() == [good]


# ---- names

NAMES = [
    "dir/file",
    "a/deep/er/path.bin",
    "a b",
    "a%20b",
    "%",
    "100%.bin",
    "%2e%2e%2fx",
    "ü",
    "名前",
    "a+b&c=d;e,f",
    "con:1",
    "~",
    ".hidden",
    "../outside",
    "../../outside",
    "/absolute",
    "a/../../b",
    "a//b",
    "a\\b",
    "a?b",
    "a#b",
    "a\nb",
    "a\x00b",
    "..",
    ".",
    "n" * 200,
    "n" * 300,
]


@pytest.mark.parametrize("name", NAMES, ids=ascii)
def test_a_target_of_an_odd_name_is_kept_below_its_folder_or_refused(
    client: Client, repo: TufRepository, name: str
) -> None:
    repo.add_target(name, DATA)
    repo.release("targets")

    def outside() -> dict[pathlib.Path, bytes]:
        mine = {client.targets, client.metadata, client.floors}
        files = [path for path in client.folder.parent.rglob("*") if path.is_file()]
        return {path: path.read_bytes() for path in files if not mine & {path, *path.parents}}

    before = outside()
    status = client.download(name)
    assert outside() == before
    assert client.downloaded() == [DATA] * (status == 0)
    assert client.trusts()["targets"] == 2
    if name in NAMES[:4]:
        assert status == 0


def test_two_targets_whose_names_differ_little_are_two(client: Client, repo: TufRepository) -> None:
    names = ["a/b", "a%2Fb", "a%252Fb", "A/b"]
    for name in names[:1] + names[3:]:
        repo.add_target(name, name.encode())
    repo.release("targets")
    assert [client.download(name) for name in names] == [0, 1, 1, 0]
    assert sorted(client.downloaded()) == [b"A/b", b"a/b"]


# ---- who serves them


def test_targets_may_be_served_elsewhere_than_metadata(
    client: Client, line: Line, repo: TufRepository, at: str
) -> None:
    data = repo.files.pop(at)
    assert client.download("file") == 1
    line.answers[f"mirror/{at}"] = lambda handler: send(handler, data)
    elsewhere = [
        word.replace("/targets/", "/mirror/targets") if word.endswith("/targets/") else word
        for word in client.arguments("--target-name", "file", "download")
    ]
    assert tuf_line.tuf_client.main(elsewhere) == 0
    assert client.downloaded() == [DATA]


def test_what_was_refused_can_be_had_from_another_server(
    client: Client, line: Line, repo: TufRepository, at: str
) -> None:
    """A mirror that lies does not prevent an update from one that does not."""
    repo.files[at] = b"a lie"
    assert client.download("file") == 1
    honest = tuf_line.Line()
    honest.serve(repo)
    repo.files[at] = DATA
    try:
        moved = [word.replace(line.url, honest.url) for word in client.arguments("--target-name", "file", "download")]
        assert tuf_line.tuf_client.main(moved) == 0
    finally:
        honest.close()
    assert client.downloaded() == [DATA]
