"""Examine a device and say what is wrong, each finding with what to do."""

from __future__ import annotations

import contextlib
import os
import pathlib
import typing

import shared
from edge_agent import control
from edge_agent.config import Layout
from edge_agent.files import BlobStore
from edge_agent.generation import Generations
from edge_agent.update.repair import damaged
from edge_agent.update.state import State
from shared.errors import CoveyError

_LOW_DISK_BYTES = 200 << 20
_FETCH_AGAIN = "Fetch it again: covey-edge sync --repair"


class Finding(typing.NamedTuple):
    """One thing that was looked at."""

    name: str
    ok: bool
    detail: str


def examine(layout: Layout) -> list[Finding]:
    """Look at everything; never raises."""
    findings = [_look("package", _package), _look("settings", lambda: _settings(layout))]
    joined = _look("joined", lambda: _joined(layout))
    findings += [joined, _look("disk", lambda: _disk(layout))]
    if joined.ok:
        findings += [
            _look("keys", lambda: _keys(layout)),
            _look("files", lambda: _files(layout)),
            _look("agent", lambda: _agent(layout)),
        ]
    return findings


def _look(name: str, look: typing.Callable[[], str]) -> Finding:
    try:
        return Finding(name, ok=True, detail=look())
    except CoveyError as err:
        return Finding(name, ok=False, detail=str(err))
    except OSError as err:
        return Finding(name, ok=False, detail=f"{err}")


class WrongError(CoveyError):
    """Something is wrong."""


def _package() -> str:
    """Other projects publish packages called `shared` too; make sure this is ours."""
    home = pathlib.Path(__file__).resolve().parent.parent
    found = pathlib.Path(shared.__file__).resolve()
    if found.parent.parent != home:
        raise WrongError(f"the package 'shared' comes from {found}", fix="Install Covey in an environment of its own.")
    return f"covey {shared.__version__} in {home}"


def _settings(layout: Layout) -> str:
    layout.load_settings(os.environ)
    return str(layout.settings) if layout.settings.exists() else "defaults"


def _joined(layout: Layout) -> str:
    identity = layout.load_identity()
    return f"{identity.device} in {identity.region}, cloud {identity.cloud_url}"


def _disk(layout: Layout) -> str:
    folder = layout.store if layout.store.exists() else pathlib.Path("/")
    import shutil

    free = shutil.disk_usage(folder).free
    if free < _LOW_DISK_BYTES:
        raise WrongError(f"only {free >> 20} MiB are free in {folder}", fix="Make room.")
    return f"{free >> 20:,} MiB free"


def _keys(layout: Layout) -> str:
    for path in (layout.device_key, layout.id_key):
        if path.stat().st_mode & 0o077:
            raise WrongError(f"{path} can be read by others", fix=f"chmod 600 {path}")
    return "private"


def _files(layout: Layout) -> str:
    """Compare every file of the running generation with its hash."""
    generations = Generations(layout.generations, layout.current, BlobStore(layout.blobs))
    digest = generations.running()
    if not digest:
        return "no generation yet"
    found = damaged(generations)
    if found:
        more = f", and {len(found) - 1} more" * (len(found) > 1)
        raise WrongError(f"{found[0]} is damaged{more}", fix=_FETCH_AGAIN)
    return f"every file of generation {digest[:12]} is whole"


def _agent(layout: Layout) -> str:
    said = control.ask(layout.control, "status", timeout_s=5.0)
    with contextlib.closing(State(layout.state_db)) as state:
        refused = state.refused()
    if refused:
        (model, version, _), why = next(iter(refused.items()))
        raise WrongError(f"{model}@{version} failed on this device: {why}", fix="Publish another version.")
    return f"answers on {said['address']}, generation {said['generation'][:12] or 'none'} {said['state']}"
