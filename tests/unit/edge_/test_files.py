"""What a killed process leaves half done is cleared away, and what a living one is about to finish is not."""

from __future__ import annotations

import os
import pathlib
import subprocess
import sys

import pytest

from edge_agent.files import BlobStore, sweep, switch_link, write_atomic
from shared.bundle import digest_of
from shared.errors import TrustError


def test_left_overs_of_the_dead_go_and_those_of_the_living_stay(tmp_path: pathlib.Path) -> None:
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    left = tmp_path / f".current.{dead.pid}-abcdef.tmp"
    left.symlink_to("generations/x")
    mine = tmp_path / f".edge.toml.{os.getpid()}-abcdef.tmp"
    mine.write_bytes(b"half")
    (tmp_path / "state.db").write_bytes(b"db")
    assert sweep(tmp_path) == 1
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted([mine.name, "state.db"])


def test_nothing_is_left_over_when_nobody_dies(tmp_path: pathlib.Path) -> None:
    write_atomic(tmp_path / "a", b"1")
    switch_link(tmp_path / "b", "a")
    switch_link(tmp_path / "b", "c")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "b"]
    assert (tmp_path / "b").readlink() == pathlib.Path("c")
    with pytest.raises(IsADirectoryError):
        write_atomic(_folder(tmp_path / "d"), b"1")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "b", "d"]


def _folder(path: pathlib.Path) -> pathlib.Path:
    path.mkdir()
    return path


def test_a_blob_that_is_not_what_was_signed_leaves_nothing(tmp_path: pathlib.Path) -> None:
    blobs = BlobStore(tmp_path / "blobs")
    for chunks, length in ([b"wrong"], 5), ([b"toolong"], 3), ([b"sho"], 5):
        with pytest.raises(TrustError):
            blobs.put(chunks, digest_of(b"right"), length)
        assert list(blobs.folder.iterdir()) == []
    blobs.put([b"ri", b"ght"], digest_of(b"right"), 5)
    assert blobs.has(digest_of(b"right"), 5)
    assert blobs.verify(digest_of(b"right"))
