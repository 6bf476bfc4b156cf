"""The folder of trusted metadata, around python-tuf, which writes it: durable, mended, and taken back when refused."""

from __future__ import annotations

import os
import pathlib
import shutil
import typing

from edge_agent.files import fsync_folder, write_atomic

OFFERED, ACCEPTED = "offered-channel.json", "channel.json"
_FRESH = ("timestamp", "snapshot")
_REPLACED = (*_FRESH, "targets")


def make_durable(folder: pathlib.Path) -> None:
    """python-tuf replaces files without waiting for the disk; after this they survive a cut of the power."""
    for path in [*folder.glob("*.json"), *(folder / "root_history").glob("*.json")]:
        handle = os.open(path, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
    fsync_folder(folder / "root_history")
    fsync_folder(folder)


def forget(folder: pathlib.Path) -> None:
    """Delete the timestamp and the snapshot that were trusted under other keys."""
    for role in _FRESH:
        (folder / f"{role}.json").unlink(missing_ok=True)


def kept(folder: pathlib.Path) -> dict[str, bytes | None]:
    """Return what is trusted now, except the roots, each of which leads to the next; None where nothing is."""
    found: dict[str, bytes | None] = {}
    for role in _REPLACED:
        try:
            found[role] = (folder / f"{role}.json").read_bytes()
        except OSError:
            found[role] = None
    return found


def put_back(folder: pathlib.Path, trusted: typing.Mapping[str, bytes | None]) -> None:
    """Let be trusted again what was, after something else was written and then refused."""
    for role, data in trusted.items():
        if data is None:
            (folder / f"{role}.json").unlink(missing_ok=True)
        else:
            write_atomic(folder / f"{role}.json", data)


def mend(folder: pathlib.Path) -> None:
    """Clear away what python-tuf can not replace: folders where files belong, files that it had half written."""
    history = folder / "root_history"
    if not history.is_dir():
        history.unlink(missing_ok=True)
    for path in [*folder.iterdir(), *history.glob("*.json")]:
        if path.suffix == ".json" and path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        elif path.name.startswith("tmp") and path.is_file():
            path.unlink()


def accept_channel(folder: pathlib.Path) -> None:
    """Let the channel that was offered, and found to be for this device and no older one, be the one it acts upon."""
    data = (folder / OFFERED).read_bytes()
    try:
        is_known = (folder / ACCEPTED).read_bytes() == data
    except OSError:
        is_known = False
    if not is_known:
        write_atomic(folder / ACCEPTED, data)
