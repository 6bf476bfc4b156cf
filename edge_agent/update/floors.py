"""What a device never lets fall, kept apart from the metadata: versions by key, and the time.

Whoever deletes the folder of trusted metadata, or restores an old copy of it, would otherwise make the device trust an
old timestamp again; whoever turns its clock back would make expired metadata fresh.
"""

from __future__ import annotations

import datetime as dt
import hashlib
import json
import os
import pathlib
import typing

from edge_agent.files import fsync_folder
from shared.errors import TrustError

_FLOORED = ("timestamp", "snapshot")
_FRESH = ("root", "timestamp", "snapshot", "targets")


class Floors(typing.Protocol):
    """Numbers that never fall; ``state.db`` keeps them."""

    def floor(self, name: str) -> int:
        """Return a number, 0 at first."""

    def raise_floor(self, name: str, value: int) -> None:
        """Raise a number; a smaller value changes nothing."""


class NoFloors:
    """Forgets; for those who keep nothing but metadata."""

    def floor(self, name: str) -> int:
        """Return 0."""
        del name
        return 0

    def raise_floor(self, name: str, value: int) -> None:
        """Do nothing."""


def settle(folder: pathlib.Path, floors: Floors, now_s: float) -> None:
    """Compare what was just accepted with what was accepted before, remember it, and make it durable.

    Parameters
    ----------
    folder : Path
        Trusted metadata, as python-tuf leaves it: ``root.json``, ``timestamp.json``, ``snapshot.json``,
        ``targets.json``.
    floors : Floors
        A version's floor belongs to the keys that sign the role: with new keys it may begin anew (TUF specification
        1.0.34, 5.3.11).
    now_s : float
        The wall clock.

    Raises
    ------
    TrustError
        Something is older than what was accepted before, or has expired by the latest time this device knows of.
    """
    signed = {role: json.loads((folder / f"{role}.json").read_bytes())["signed"] for role in _FRESH}
    names = {role: _name(signed["root"], role) for role in _FLOORED} | {"root": "tuf root"}
    for role, name in names.items():
        seen, known = int(signed[role]["version"]), floors.floor(name)
        if seen < known:
            raise TrustError(f"version {seen} is older than {known}, which was seen before", field=f"{role}.json")
    latest_s = max(now_s, float(floors.floor("time")))
    for role in _FRESH:
        if dt.datetime.fromisoformat(signed[role]["expires"]).timestamp() <= latest_s:
            raise TrustError(
                f"expired: {signed[role]['expires']}, and this device has seen {_text(latest_s)}",
                field=f"{role}.json",
                fix="The cloud must sign anew; or the clock is wrong.",
            )
    _make_durable(folder)
    for role, name in names.items():
        floors.raise_floor(name, int(signed[role]["version"]))
    floors.raise_floor("time", int(now_s))


def _name(root: dict[str, typing.Any], role: str) -> str:
    keys = json.dumps(root["roles"][role], sort_keys=True).encode()
    return f"tuf {role} {hashlib.sha256(keys).hexdigest()[:16]}"


def _text(at_s: float) -> str:
    return f"{dt.datetime.fromtimestamp(at_s, dt.UTC):%Y-%m-%dT%H:%M:%SZ}"


def _make_durable(folder: pathlib.Path) -> None:
    """python-tuf replaces files without waiting for the disk; after this they survive a cut of the power."""
    for path in [*folder.glob("*.json"), *(folder / "root_history").glob("*.json")]:
        handle = os.open(path, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
    fsync_folder(folder / "root_history")
    fsync_folder(folder)
