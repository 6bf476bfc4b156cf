"""A mark beside trusted metadata: tells with a few looks at the disk whether all of it is still as it was verified."""

from __future__ import annotations

import datetime as dt
import json
import os
import pathlib
import typing

Prints = frozenset[tuple[str, int, int, int]]


class Mark(typing.NamedTuple):
    """What was trusted when it was made.

    Parameters
    ----------
    timestamp : bytes
        The timestamp, as it was verified.
    root : int
        Version of the newest root.
    until_s : float
        When the first of all roles expires.
    prints : frozenset
        Name, inode, length and time of each file of the folder: whatever is put in the place of one shows.
    """

    timestamp: bytes
    root: int
    until_s: float
    prints: Prints

    def stands(self, folder: pathlib.Path, now_s: float) -> bool:
        """Whether nothing in the folder has changed or expired since."""
        try:
            return now_s < self.until_s and _prints(folder) == self.prints
        except OSError:
            return False


def mark_of(folder: pathlib.Path) -> Mark | None:
    """Make a mark of trusted metadata; None where something can not be read: whoever refreshes it mends it."""
    try:
        prints = _prints(folder)
        signed = [_signed(path) for path in folder.glob("*.json")]
        expires = [dt.datetime.fromisoformat(one["expires"]).timestamp() for one in signed if one]
        root = _signed(folder / "root.json")["version"]
        return Mark((folder / "timestamp.json").read_bytes(), int(root), min(expires), prints)
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return None


def _signed(path: pathlib.Path) -> dict[str, typing.Any]:
    """Return what a role signs; nothing if the file is a target, such as a channel."""
    signed: dict[str, typing.Any] = json.loads(path.read_bytes()).get("signed", {})
    return signed


def _prints(folder: pathlib.Path) -> Prints:
    with os.scandir(folder) as entries:
        stats = [(entry.name, entry.stat()) for entry in entries]
    return frozenset((name, stat.st_ino, stat.st_size, stat.st_mtime_ns) for name, stat in stats)
