"""A file comes by a delta where that is smaller and fits, and whole where a delta is of no use or not to be trusted."""

from __future__ import annotations

import contextlib
import pathlib
import random
import typing

import msgspec
import pytest

from edge_agent.files import BlobStore
from edge_agent.update.download import Downloader
from edge_agent.update.install import Installer, Outcome
from edge_agent.update.state import State
from edge_agent.update.trust import Repository, Where
from shared import bundle, delta
from shared.bundle import DeltaRef, File, digest_of
from shared.errors import CoveyError, NotFoundError, TrustError, UnreachableError
from tests import fakes

OLD = random.Random(1).randbytes(40_000)
NEW = OLD[:20_000] + b"some new trees" + OLD[22_000:]
WORDS = b"words that come again " * 500


class Line:
    """What a device fetches blobs over; `files` is what is served, by hash, `fetched` what was asked for."""

    def __init__(self, blobs: BlobStore) -> None:
        self.files: dict[str, bytes | Exception] = {}
        self.fetched: list[str] = []
        self.told: list[tuple[str, str]] = []
        self.blobs = blobs

    def stream(self, url: str) -> typing.Iterator[bytes]:
        self.fetched.append(url)
        found = self.files.get(url, NotFoundError(f"{url[:8]} is not there"))
        if isinstance(found, Exception):
            raise found
        for at in range(0, len(found), 1000):
            yield found[at : at + 1000]

    def serve(self, data: bytes) -> str:
        self.files[digest_of(data)] = data
        return digest_of(data)

    def fetch(self, file: File, **settings: typing.Any) -> Downloader:
        tell = lambda kind, detail: self.told.append((kind, detail))  # noqa: E731
        downloader = Downloader(self.blobs, self.stream, lambda sha256: sha256, tell=tell, **settings)
        downloader.fetch(file, "late@v2 model.onnx")
        return downloader


@pytest.fixture
def line(tmp_path: pathlib.Path) -> Line:
    return Line(BlobStore(tmp_path / "blobs"))


def ref(line: Line, method: str, source: bytes, result: bytes) -> DeltaRef:
    """Make a delta and serve it."""
    made = delta.encode(method, source, result)
    assert made is not None
    return DeltaRef(
        method=method, source=digest_of(source) if source else "", sha256=line.serve(made), length=len(made)
    )


def listed(line: Line, data: bytes, *deltas: DeltaRef) -> File:
    """A file as a manifest lists it, served whole."""
    return File(name="model.onnx", sha256=line.serve(data), length=len(data), deltas=deltas)


def have(line: Line, data: bytes) -> None:
    line.blobs.put([data], digest_of(data), len(data))


# ---- which way is taken


def test_a_device_that_has_the_source_fetches_the_delta_alone(line: Line) -> None:
    have(line, OLD)
    patch = ref(line, "patch", OLD, NEW)
    done = line.fetch(listed(line, NEW, ref(line, "patch", b"other" * 99, NEW), patch))
    assert line.blobs.path(digest_of(NEW)).read_bytes() == NEW
    assert (line.fetched, line.told, done.fetched_bytes) == ([patch.sha256], [], patch.length)
    assert patch.length < len(NEW) / 100


def test_a_device_without_the_source_takes_the_compressed_file_or_the_file(line: Line) -> None:
    whole = ref(line, "zstd", b"", WORDS)
    line.fetch(listed(line, WORDS, ref(line, "patch", OLD, WORDS), whole))
    file = listed(line, NEW, ref(line, "patch", OLD, NEW))
    line.fetch(file)
    assert line.fetched == [whole.sha256, file.sha256]
    assert line.blobs.path(file.sha256).read_bytes() == NEW


def test_what_is_not_known_not_shorter_or_takes_too_much_memory_is_passed_over_in_silence(line: Line) -> None:
    have(line, OLD)
    patch = ref(line, "patch", OLD, NEW)
    magic = msgspec.structs.replace(patch, method="magic")
    long = msgspec.structs.replace(patch, length=len(NEW))
    for deltas, settings in (((magic, long), {}), ((patch,), {"memory_bytes": 100_000})):
        file = listed(line, NEW, *deltas)
        line.fetch(file, **settings)
        assert (line.fetched, line.told) == ([file.sha256], [])
        line.fetched.clear()
        line.blobs.path(file.sha256).unlink()


# ---- what can go wrong with one


def spoil_flip(data: bytes) -> bytes:
    return data[:-9] + bytes([data[-9] ^ 1]) + data[-8:]


SPOILT: dict[str, typing.Callable[[bytes], bytes | Exception]] = {
    "missing": lambda _: NotFoundError("no"),
    "unreachable": lambda _: UnreachableError("the server is tired"),
    "empty": lambda _: b"",
    "truncated": lambda data: data[:-1],
    "flipped": spoil_flip,
    "too long": lambda data: data + b"\0",
    "endless": lambda data: data * 1000,
}


@pytest.mark.parametrize("how", SPOILT)
def test_a_delta_that_does_not_arrive_as_signed_is_told_of_and_the_file_fetched_whole(line: Line, how: str) -> None:
    have(line, OLD)
    patch = ref(line, "patch", OLD, NEW)
    file = listed(line, NEW, patch)
    line.files[patch.sha256] = SPOILT[how](typing.cast("bytes", line.files[patch.sha256]))
    line.fetch(file)
    assert line.fetched == [patch.sha256, file.sha256]
    assert line.blobs.path(file.sha256).read_bytes() == NEW
    ((kind, detail),) = line.told
    assert (kind, detail[:26]) == ("delta-unused", "late@v2 model.onnx, patch:")


def test_a_signed_delta_that_makes_another_file_is_told_of_and_the_file_fetched_whole(line: Line) -> None:
    have(line, OLD)
    other = NEW[:-1] + b"?"
    garbage = b"a delta of nothing"
    wrong = [
        ref(line, "patch", OLD, other),
        DeltaRef(method="zstd", sha256=line.serve(garbage), length=len(garbage)),
        ref(line, "patch", OLD, NEW + bytes(1000)),
        msgspec.structs.replace(ref(line, "patch", WORDS, WORDS + b"!"), source=digest_of(OLD)),
    ]
    for one in wrong:
        file = listed(line, NEW, one)
        line.fetch(file)
        assert line.blobs.path(file.sha256).read_bytes() == NEW
        line.blobs.path(file.sha256).unlink()
    assert [kind for kind, _ in line.told] == ["delta-unused"] * 4


def test_a_source_that_rotted_on_disk_is_found_and_the_file_fetched_whole(line: Line) -> None:
    have(line, OLD)
    line.blobs.path(digest_of(OLD)).write_bytes(OLD[:-1] + b"?")
    file = listed(line, NEW, ref(line, "patch", OLD, NEW))
    line.fetch(file)
    assert line.blobs.path(file.sha256).read_bytes() == NEW
    assert "made for another file" in line.told[0][1]


def test_the_next_best_delta_is_tried_before_the_whole_file(line: Line) -> None:
    have(line, WORDS)
    new = WORDS + b"and some more"
    best, whole = ref(line, "patch", WORDS, new), ref(line, "zstd", b"", new)
    assert best.length < whole.length
    line.files[best.sha256] = b"spoilt"
    line.fetch(listed(line, new, whole, best))
    assert line.fetched == [best.sha256, whole.sha256]
    assert len(line.told) == 1


def test_where_the_whole_file_can_not_be_had_either_that_is_the_error_and_nothing_is_kept(line: Line) -> None:
    have(line, OLD)
    patch = ref(line, "patch", OLD, NEW)
    file = listed(line, NEW, patch)
    errors: list[tuple[bytes | Exception, type[CoveyError]]] = [
        (UnreachableError("no network"), UnreachableError),
        (b"?" * len(NEW), TrustError),
    ]
    for says, error in errors:
        line.files |= {patch.sha256: UnreachableError("no network"), file.sha256: says}
        with pytest.raises(error):
            line.fetch(file)
    assert [path.name for path in line.blobs.folder.iterdir()] == [digest_of(OLD)]
    assert line.told == []


# ---- in an update


class Server:
    """A serving process that serves whatever it is told to."""

    serves = ""

    def active(self) -> str:
        return self.serves

    def activate(self, digest: str) -> None:
        self.serves = digest


@pytest.mark.parametrize("spoilt", [False, True])
def test_an_update_by_deltas_ends_where_an_update_by_files_does(tmp_path: pathlib.Path, spoilt: bool) -> None:
    cloud = fakes.SignedRepository()
    layout = fakes.join(tmp_path, root=cloud.root)
    told: list[str] = []

    def update() -> Outcome:
        with contextlib.closing(State(layout.state_db)) as state:
            installer = Installer(
                layout,
                layout.load_identity(),
                state=state,
                repository=Repository(layout.tuf, cloud.root, Where.below(fakes.URL), cloud.stream),
                server=Server(),
                stream=cloud.stream,
                self_test=lambda _folder, _manifest: None,
                tell=lambda _kind, detail: told.append(detail),
            )
            return installer.bring_up_to_date()

    first, second = fakes.make_bundle("v1"), fakes.make_bundle("v2", slope=2.0)
    cloud.publish_bundle(first)
    cloud.publish_channel(1, "v1")
    assert update().fetched_bytes == sum(map(len, first.files.values()))
    old, new = first.files[bundle.MODEL_FILE], second.files[bundle.MODEL_FILE]
    made = delta.encode("patch", old, new)
    assert made is not None
    small = DeltaRef(method="patch", source=digest_of(old), sha256=digest_of(made), length=len(made))
    cloud.files[cloud.blob(small.sha256)] = made[:-1] if spoilt else made
    files = tuple(
        msgspec.structs.replace(file, deltas=(small,)) if file.name == bundle.MODEL_FILE else file
        for file in second.manifest.files
    )
    manifest = msgspec.structs.replace(second.manifest, files=files)
    cloud.publish_bundle(fakes.Bundle(manifest, manifest.to_bytes(), second.files))
    cloud.publish_channel(2, "v2")
    cloud.fetched.clear()
    done = update()
    assert done.changed
    assert (cloud.blob(digest_of(new)) in cloud.fetched, len(told)) == (spoilt, int(spoilt))
    folder = fakes.generations_of(layout).version_folder(done.generation, fakes.MODEL, "v2")
    assert (folder / bundle.MODEL_FILE).read_bytes() == new
    # Files that have not changed are there already; nothing else was fetched.
    changed = sum(f.length for f in files if f.sha256 not in {one.sha256 for one in first.manifest.files})
    assert done.fetched_bytes == (changed + len(made) - 1 if spoilt else changed - len(new) + len(made))
