"""A download that breaks off goes on where it was, whatever the server does; a spoiled part is in nobody's way."""

from __future__ import annotations

import pathlib
import random
import signal
import subprocess
import sys
import threading
import typing
import wsgiref.simple_server

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cloud.web.front import Front
from edge_agent.files import BlobStore
from edge_agent.link import Link
from edge_agent.update import download
from edge_agent.update.download import Downloader
from edge_agent.update.parts import keep_parts, part_bytes, part_of, receive
from shared import delta
from shared.bundle import DeltaRef, File, digest_of
from shared.errors import NotFoundError, StorageError, TrustError, UnreachableError

BODY = random.Random(7).randbytes(700_000)
FILE = File(name="model.onnx", sha256=digest_of(BODY), length=len(BODY))
Environ = dict[str, typing.Any]


class Quiet(wsgiref.simple_server.WSGIRequestHandler):
    """A handler that says nothing."""

    def log_message(self, *_args: object) -> None:
        """Say nothing."""


class Server:
    """The cloud's own front on loopback, with a line that can be cut.

    Attributes
    ----------
    cuts : list
        After how many bytes of its body each of the next answers is cut off.
    asked : list
        The ranges that were asked for; empty where none was.
    spoil : callable
        What becomes of status and headers of an answer to a range.
    """

    def __init__(self, folder: pathlib.Path) -> None:
        self.front, self.folder = Front(self._nothing, folder), folder
        self.cuts: list[int] = []
        self.asked: list[str] = []
        self.knows_ranges = True
        self.spoil: typing.Callable[[str, list[tuple[str, str]]], tuple[str, list[tuple[str, str]]]] = (
            lambda status, headers: (status, headers)
        )
        self._server = wsgiref.simple_server.make_server("127.0.0.1", 0, self._answer, handler_class=Quiet)
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,))
        self._thread.start()
        self.url = f"http://127.0.0.1:{self._server.server_port}"

    @staticmethod
    def _nothing(_environ: Environ, _start: typing.Any) -> typing.Iterable[bytes]:
        raise AssertionError

    def _answer(self, environ: Environ, start: typing.Any) -> typing.Iterator[bytes]:
        self.asked.append(environ.get("HTTP_RANGE", ""))
        if not self.knows_ranges:
            environ.pop("HTTP_RANGE", None)

        def begin(status: str, headers: list[tuple[str, str]]) -> None:
            start(*(self.spoil(status, headers) if environ.get("HTTP_RANGE") else (status, headers)))

        left = self.cuts.pop(0) if self.cuts else 2 * len(BODY)
        pieces = self.front(environ, begin)
        try:
            for piece in pieces:
                yield piece[:left]
                left -= len(piece)
                if left < 0:
                    return
        finally:
            typing.cast("typing.Any", pieces).close() if pieces else None

    def put(self, data: bytes, name: str = FILE.sha256) -> None:
        path = self.folder / "blobs" / name[:2] / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)

    def where(self, sha256: str) -> str:
        return f"{self.url}/repo/blobs/{sha256[:2]}/{sha256}"

    def close(self) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


@pytest.fixture
def server(tmp_path: pathlib.Path) -> typing.Iterator[Server]:
    made = Server(tmp_path / "repo")
    made.put(BODY)
    yield made
    made.close()


@pytest.fixture
def blobs(tmp_path: pathlib.Path) -> BlobStore:
    return BlobStore(tmp_path / "blobs")


def fetch(server: Server, blobs: BlobStore, file: File = FILE) -> int:
    """Try once to fetch a file; return how many bytes came."""
    link = Link(server.url)
    downloader = Downloader(blobs, link.stream, server.where, tail=link.tail)
    try:
        downloader.fetch(file, "late@v2 model.onnx")
    finally:
        link.close()
    return downloader.fetched_bytes


def names(blobs: BlobStore) -> list[str]:
    return [path.name for path in blobs.folder.iterdir()]


def whole(blobs: BlobStore) -> bool:
    """Whether the file is there, right, and alone."""
    return names(blobs) == [FILE.sha256] and blobs.verify(FILE.sha256)


# ---- over a real line


def test_a_line_that_is_cut_at_several_places_delivers_each_byte_once(server: Server, blobs: BlobStore) -> None:
    server.cuts = [100_000, 1, 262_144, 0, 300_000]
    came = 0
    for n in server.cuts.copy():
        with pytest.raises(UnreachableError):
            fetch(server, blobs)
        came += n
        assert part_bytes(blobs.folder, FILE.sha256) == came
    assert fetch(server, blobs) == len(BODY) - came
    assert server.asked == ["", *(f"bytes={n}-" for n in (100_000, 100_001, 362_145, 362_145, 662_145))]
    assert whole(blobs)


def test_a_server_that_knows_no_ranges_sends_the_whole_file_again(server: Server, blobs: BlobStore) -> None:
    server.cuts, server.knows_ranges = [300_000], False
    with pytest.raises(UnreachableError):
        fetch(server, blobs)
    assert fetch(server, blobs) == len(BODY)
    assert server.asked == ["", "bytes=300000-"]
    assert whole(blobs)


def other(name: str, value: str) -> typing.Any:
    return lambda status, headers: (status, [*((n, v) for n, v in headers if n != name), (name, value)])


@pytest.mark.parametrize(
    "spoil",
    [
        other("Content-Range", f"bytes 0-9/{len(BODY)}"),
        other("Content-Range", f"bytes 3000000-{len(BODY) - 1}/{len(BODY)}"),
        other("Content-Range", "nonsense"),
        other("Content-Encoding", "gzip"),
        lambda _status, headers: ("416 Range Not Satisfiable", headers),
    ],
    ids=["another place", "a longer number", "nonsense", "packed", "no such range"],
)
def test_an_answer_that_is_not_the_rest_makes_it_begin_anew_in_the_same_pass(
    server: Server, blobs: BlobStore, spoil: typing.Any
) -> None:
    server.cuts, server.spoil = [300_000], spoil
    with pytest.raises(UnreachableError):
        fetch(server, blobs)
    assert fetch(server, blobs) == len(BODY)
    assert server.asked == ["", "bytes=300000-", ""]
    assert whole(blobs)


def test_a_server_that_is_tired_of_ranges_is_come_back_to_and_the_part_stays(server: Server, blobs: BlobStore) -> None:
    server.cuts, server.spoil = [300_000], lambda _status, headers: ("503 Service Unavailable", headers)
    for _ in range(3):
        with pytest.raises(UnreachableError):
            fetch(server, blobs)
    assert part_bytes(blobs.folder, FILE.sha256) == 300_000
    server.spoil = lambda status, headers: (status, headers)
    assert fetch(server, blobs) == len(BODY) - 300_000


def test_killed_in_the_middle_of_a_download_the_next_process_goes_on(server: Server, blobs: BlobStore) -> None:
    server.put(BODY[:400_000])  # the server has no more for now: the file grows when the device is dead
    program = (
        "import pathlib, sys, time\n"
        "from edge_agent.files import BlobStore\nfrom edge_agent.link import Link\n"
        "from edge_agent.update.download import Downloader\nfrom shared.bundle import File\n"
        "url, where, folder, sha256, length = sys.argv[1:]\n"
        "link = Link(url)\n"
        "def tail(url, at):\n"
        "    yield from link.tail(url, at)\n"
        "    print('waits', flush=True)\n"
        "    time.sleep(600)\n"
        "file = File(name='model.onnx', sha256=sha256, length=int(length))\n"
        "Downloader(BlobStore(pathlib.Path(folder)), link.stream, lambda _: where, tail=tail).fetch(file, 'model')\n"
    )
    arguments = [server.url, server.where(FILE.sha256), str(blobs.folder), FILE.sha256, str(FILE.length)]
    with subprocess.Popen([sys.executable, "-c", program, *arguments], stdout=subprocess.PIPE) as child:
        assert child.stdout is not None
        assert child.stdout.readline() == b"waits\n"
        child.send_signal(signal.SIGKILL)
    assert names(blobs) == [part_of(blobs.folder, FILE.sha256).name]
    server.put(BODY)
    assert fetch(server, blobs) == len(BODY) - 400_000
    assert server.asked == ["", "bytes=400000-"]
    assert whole(blobs)


# ---- parts that are wrong


@pytest.mark.parametrize(
    "part", [b"?" * 300_000, BODY[:299_999] + b"?", b"?" * len(BODY), b"?" * (len(BODY) + 1), BODY + b"?"]
)
def test_a_part_that_does_not_lead_to_the_file_is_thrown_away_and_the_file_fetched_whole_at_once(
    server: Server, blobs: BlobStore, part: bytes
) -> None:
    part_of(blobs.folder, FILE.sha256).write_bytes(part)
    fetch(server, blobs)
    assert server.asked[-1] == ""
    assert whole(blobs)


def test_a_part_that_is_the_whole_file_needs_no_line(server: Server, blobs: BlobStore) -> None:
    part_of(blobs.folder, FILE.sha256).write_bytes(BODY)
    assert (fetch(server, blobs), server.asked) == (0, [])
    assert whole(blobs)


@pytest.mark.parametrize("body", [BODY[:-1] + b"?", BODY[:-1], BODY + b"?", b""])
@pytest.mark.parametrize("part", [b"", BODY[:300_000]])
def test_a_file_that_is_wrong_when_fetched_whole_is_refused_and_nothing_of_it_kept(
    server: Server, blobs: BlobStore, body: bytes, part: bytes
) -> None:
    if part:
        part_of(blobs.folder, FILE.sha256).write_bytes(part)
    server.put(body)
    with pytest.raises(TrustError, match=r"late@v2 model\.onnx: (got|more than)"):
        fetch(server, blobs)
    assert names(blobs) == []
    server.put(BODY)
    fetch(server, blobs)
    assert whole(blobs)


def test_a_file_that_is_gone_leaves_the_part_for_when_it_is_back(server: Server, blobs: BlobStore) -> None:
    part_of(blobs.folder, FILE.sha256).write_bytes(BODY[:300_000])
    (server.folder / "blobs" / FILE.sha256[:2] / FILE.sha256).unlink()
    with pytest.raises(NotFoundError):
        fetch(server, blobs)
    server.put(BODY)
    assert fetch(server, blobs) == len(BODY) - 300_000


@settings(max_examples=60, deadline=None)
@given(
    body=st.binary(max_size=200),
    part=st.binary(max_size=220),
    is_honest=st.booleans(),
    cuts=st.lists(st.integers(0, 200), max_size=6),
    knows_ranges=st.booleans(),
)
def test_whatever_was_left_and_wherever_it_is_cut_the_file_comes_right(
    tmp_path_factory: pytest.TempPathFactory,
    body: bytes,
    part: bytes,
    is_honest: bool,
    cuts: list[int],
    knows_ranges: bool,
) -> None:
    blobs = BlobStore(tmp_path_factory.mktemp("any") / "blobs")
    file = File(name="f", sha256=digest_of(body), length=len(body))
    part_of(blobs.folder, file.sha256).write_bytes(body[: len(part)] if is_honest else part)
    left = list(cuts)

    def ask(at: int) -> typing.Iterator[tuple[int, bytes]]:
        at = at if knows_ranges else 0
        until = left.pop() if left else len(body) + 1
        for i in range(at, len(body), 7):
            if i - at > until:
                raise UnreachableError("cut")
            yield i, body[i : i + 7]

    for _ in range(len(cuts) + 1):
        try:
            receive(blobs, file, ask)
            break
        except UnreachableError:
            assert not blobs.has(file.sha256, file.length)
    assert names(blobs) == [file.sha256]
    assert blobs.path(file.sha256).read_bytes() == body


# ---- room


def test_parts_that_nobody_wants_any_more_go_and_nothing_else_does(blobs: BlobStore) -> None:
    mine, gone = part_of(blobs.folder, FILE.sha256), part_of(blobs.folder, "0" * 64)
    mine.write_bytes(b"some")
    gone.write_bytes(b"old")
    blobs.put([BODY], FILE.sha256, len(BODY))
    assert keep_parts(blobs.folder, {FILE.sha256}) == 1
    assert sorted(names(blobs)) == sorted([mine.name, FILE.sha256])
    assert keep_parts(blobs.folder, ()) == 1
    assert whole(blobs)


def test_a_full_disk_keeps_no_part(blobs: BlobStore) -> None:
    def ask(at: int) -> typing.Iterator[tuple[int, bytes]]:
        yield at, BODY[:1000]
        raise OSError(28, "No space left on device")

    with pytest.raises(OSError, match="No space"):
        receive(blobs, FILE, ask)
    assert names(blobs) == []


class Disk(typing.NamedTuple):
    """How full a disk is."""

    total: int
    used: int
    free: int


def test_a_download_that_has_no_room_is_not_begun_and_what_has_come_counts(
    server: Server, blobs: BlobStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(download.shutil, "disk_usage", lambda _folder: Disk(0, 0, len(BODY) - 1))  # type: ignore[attr-defined]
    with pytest.raises(StorageError, match=r"700,000 bytes are needed, 699,999 are free\. Make room"):
        fetch(server, blobs)
    assert server.asked == []
    part_of(blobs.folder, FILE.sha256).write_bytes(BODY[:1])
    assert fetch(server, blobs) == len(BODY) - 1


# ---- beside deltas


@pytest.mark.parametrize("n_here", [1000, len(BODY) - 10])
def test_a_delta_is_taken_if_it_is_shorter_than_what_is_missing_and_leaves_no_part(
    server: Server, blobs: BlobStore, n_here: int
) -> None:
    old = BODY[:-20] + b"x"
    blobs.put([old], digest_of(old), len(old))
    made = delta.encode("patch", old, BODY)
    assert made is not None
    assert 10 < len(made) < len(BODY) - 1000
    server.put(made, digest_of(made))
    ref = DeltaRef(method="patch", source=digest_of(old), sha256=digest_of(made), length=len(made))
    part_of(blobs.folder, FILE.sha256).write_bytes(BODY[:n_here])
    file = File(name=FILE.name, sha256=FILE.sha256, length=FILE.length, deltas=(ref,))
    assert fetch(server, blobs, file) == min(len(made), len(BODY) - n_here)
    assert sorted(names(blobs)) == sorted([FILE.sha256, digest_of(old)])
