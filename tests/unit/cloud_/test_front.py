"""The front: repository files with ETag and Range, nothing outside the folder, and everything else handed on."""

from __future__ import annotations

import pathlib
import typing

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from werkzeug.test import Client

from cloud.web.front import Front

BODY = bytes(range(256)) * 4096  # a megabyte: several chunks
Reply = typing.Any


def inner(environ: dict[str, typing.Any], start: typing.Callable[..., object]) -> list[bytes]:
    start("418 I'm a teapot", [("Content-Type", "text/plain")])
    return [environ["PATH_INFO"].encode()]


@pytest.fixture
def client(tmp_path: pathlib.Path) -> Client:
    repo = tmp_path / "repo"
    for path, data in {
        "metadata/timestamp.json": b"{}",
        "metadata/2.snapshot.json": b"{}",
        "blobs/ab/abcd": BODY,
        "targets/channels/empty.json": b"",
        "metadata/.half.tmp": b"half",
    }.items():
        (repo / path).parent.mkdir(parents=True, exist_ok=True)
        (repo / path).write_bytes(data)
    (tmp_path / "secret").write_text("secret")
    (repo / "link.json").symlink_to(tmp_path / "secret")
    return Client(Front(inner, repo))


def test_a_file_is_sent_whole_with_what_caches_need(client: Client) -> None:
    reply = client.get("/repo/blobs/ab/abcd")
    assert (reply.status_code, reply.data) == (200, BODY)
    assert reply.headers["Content-Length"] == str(len(BODY))
    assert reply.headers["Content-Type"] == "application/octet-stream"
    assert "immutable" in reply.headers["Cache-Control"]
    assert client.get("/repo/metadata/timestamp.json").headers["Cache-Control"] == "no-cache"
    assert client.get("/repo/metadata/2.snapshot.json").headers["Content-Type"] == "application/json"
    assert client.get("/repo/targets/channels/empty.json").data == b""


def test_head_says_the_same_without_the_body(client: Client) -> None:
    whole, head = client.get("/repo/blobs/ab/abcd"), client.head("/repo/blobs/ab/abcd")
    assert (head.status_code, head.data) == (200, b"")
    assert dict(head.headers) == dict(whole.headers)


def test_a_file_that_has_not_changed_is_not_sent_again(client: Client, tmp_path: pathlib.Path) -> None:
    path = "/repo/metadata/timestamp.json"
    etag = client.get(path).headers["ETag"]
    again = client.get(path, headers={"If-None-Match": etag})
    assert (again.status_code, again.data) == (304, b"")
    new = tmp_path / "new"
    new.write_bytes(b"[]")
    new.replace(tmp_path / "repo" / "metadata" / "timestamp.json")
    assert client.get(path, headers={"If-None-Match": etag}).data == b"[]"


@pytest.mark.parametrize(
    ("asked", "status", "start", "end"),
    [
        ("bytes=0-0", 206, 0, 1),
        ("bytes=1000-", 206, 1000, len(BODY)),
        ("bytes=5-9", 206, 5, 10),
        ("bytes=5-99999999", 206, 5, len(BODY)),
        (f"bytes={len(BODY) - 1}-", 206, len(BODY) - 1, len(BODY)),
        ("bytes=-5", 200, 0, len(BODY)),
        ("bytes=1-2,4-5", 200, 0, len(BODY)),
        ("lines=1-2", 200, 0, len(BODY)),
        ("bytes=a-b", 200, 0, len(BODY)),
    ],
)
def test_a_download_goes_on_where_it_was_cut_off(client: Client, asked: str, status: int, start: int, end: int) -> None:
    reply = client.get("/repo/blobs/ab/abcd", headers={"Range": asked})
    assert (reply.status_code, reply.data) == (status, BODY[start:end])
    if status == 206:
        assert reply.headers["Content-Range"] == f"bytes {start}-{end - 1}/{len(BODY)}"


@pytest.mark.parametrize("asked", [f"bytes={len(BODY)}-", "bytes=9-5", "bytes=999999999999999999-"])
def test_a_range_outside_the_file_is_refused(client: Client, asked: str) -> None:
    reply = client.get("/repo/blobs/ab/abcd", headers={"Range": asked})
    assert (reply.status_code, reply.data) == (416, b"")
    assert reply.headers["Content-Range"] == f"bytes */{len(BODY)}"


@pytest.mark.parametrize(
    "path",
    [
        "", "metadata", "metadata/", "nothing.json", "../secret", "metadata/../../secret", "%2e%2e/secret",
        "/etc/hostname",
        "metadata//timestamp.json", "metadata/.half.tmp", "link.json", "metadata/timestamp.json%00",
        "a" * 5000, "\u00e9", ".", "metadata/./timestamp.json", "-x",
    ],
)  # fmt: skip
def test_nothing_but_the_repositorys_own_files_is_sent(client: Client, path: str) -> None:
    reply = client.get(f"/repo/{path}")
    assert (reply.status_code, reply.data) == (404, b"")


def test_asking_for_folders_leaves_nothing_open(client: Client) -> None:
    before = len(list(pathlib.Path("/proc/self/fd").iterdir()))
    for _ in range(20):
        client.get("/repo/metadata")
    assert len(list(pathlib.Path("/proc/self/fd").iterdir())) <= before + 2


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.lists(st.sampled_from(["..", ".", "metadata", "secret", "repo", "", "%2e%2e", "\\", "link.json"]), max_size=6)
)
def test_no_path_leads_out_of_the_folder(client: Client, parts: list[str]) -> None:
    assert b"secret" not in client.get("/repo/" + "/".join(parts)).data


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE"])
def test_files_are_read_only(client: Client, method: str) -> None:
    reply = client.open("/repo/metadata/timestamp.json", method=method)
    assert (reply.status_code, reply.headers["Allow"]) == (405, "GET, HEAD")


@pytest.mark.parametrize("path", ["/", "/repo", "/repository/x", "/api/v1/fleet"])
def test_everything_else_is_handed_on(client: Client, path: str) -> None:
    reply = client.get(path)
    assert (reply.status_code, reply.text) == (418, path)


def test_a_file_that_is_replaced_while_it_is_sent_is_sent_as_it_was(client: Client, tmp_path: pathlib.Path) -> None:
    reply = client.get("/repo/blobs/ab/abcd", buffered=False)
    chunks = iter(reply.response)
    first = next(chunks)
    new = tmp_path / "new"
    new.write_bytes(b"x" * len(BODY))
    new.replace(tmp_path / "repo" / "blobs" / "ab" / "abcd")
    assert first + b"".join(chunks) == BODY
    reply.close()
