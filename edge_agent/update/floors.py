"""What a device never lets fall, kept apart from the metadata: versions by key, and the time.

Whoever deletes the folder of trusted metadata, or restores an old copy of it, would otherwise make the device trust an
old timestamp again; whoever turns its clock back would make expired metadata fresh.
"""

from __future__ import annotations

import datetime as dt
import hashlib
import json
import pathlib
import typing

from edge_agent.update.metadata_folder import make_durable
from shared.errors import TrustError

_FLOORED = ("timestamp", "snapshot")
_TIME_STEP_S = 60.0
_FRESH = ("root", *_FLOORED, "targets")


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
        Versions of timestamp and snapshot belong to the keys that sign the two: with new keys they may begin anew
        (TUF specification 1.0.34, 5.3.11).
    now_s : float
        The wall clock.

    Raises
    ------
    TrustError
        Something is older than what was accepted before, or has expired by the latest time this device knows of.
    """
    signed = {role: json.loads((folder / f"{role}.json").read_bytes())["signed"] for role in _FRESH}
    keys = hashlib.sha256(json.dumps(sorted(_keys(signed["root"]))).encode()).hexdigest()[:16]
    names = {role: f"tuf {role} {keys}" for role in _FLOORED} | {"root": "tuf root"}
    is_news = False
    for role, name in names.items():
        seen, known = int(signed[role]["version"]), floors.floor(name)
        is_news = is_news or seen > known
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
    if is_news:
        make_durable(folder)
        for role, name in names.items():
            floors.raise_floor(name, int(signed[role]["version"]))
        floors.raise_floor("time", int(now_s))
    else:
        note_time(floors, now_s)


def note_time(floors: Floors, now_s: float) -> None:
    """Remember the time, now and then: a poll with nothing new writes nothing."""
    if now_s >= floors.floor("time") + _TIME_STEP_S:
        floors.raise_floor("time", int(now_s))


def signers(folder: pathlib.Path) -> frozenset[tuple[str, str]]:
    """Which keys sign the timestamp and the snapshot: role and key id; nothing if no root can be read."""
    try:
        return _keys(json.loads((folder / "root.json").read_bytes())["signed"])
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return frozenset()


def _keys(root: dict[str, typing.Any]) -> frozenset[tuple[str, str]]:
    return frozenset((role, keyid) for role in _FLOORED for keyid in root["roles"][role]["keyids"])


def _text(at_s: float) -> str:
    return f"{dt.datetime.fromtimestamp(at_s, dt.UTC):%Y-%m-%dT%H:%M:%SZ}"
