"""Go back from a generation that does not work: refuse what was new, mark it, let the one before run again."""

from __future__ import annotations

import typing

from edge_agent.generation import Generations, new_versions
from edge_agent.update.state import State
from shared.errors import CoveyError


def last_good(state: State, generations: Generations, bad: str) -> str:
    """Digest of the newest good generation that is still on disk; empty if there is none."""
    on_disk = set(generations.list())
    return next((digest for digest in state.good() if digest in on_disk and digest != bad), "")


def retreat(
    state: State, generations: Generations, bad: str, before: str, reason: str, models: typing.Collection[str] = ()
) -> None:
    """Refuse, mark and switch back; may be repeated from any point at which it was cut off.

    Parameters
    ----------
    bad, before : str
        Generation that goes; the one that runs from now on, or none.
    models : collection of str
        Models that are to blame; all, if none is named. New versions of others are not refused.
    """
    for model, version, sha256 in _new(generations, bad, before):
        if not models or model in models:
            state.refuse(model, version, sha256, reason)
    state.mark(bad, "bad", reason)
    if before and generations.running() != before:
        generations.switch(before)


def _new(generations: Generations, bad: str, before: str) -> list[tuple[str, str, str]]:
    try:
        return new_versions(generations.read(bad), generations.read(before) if before else None)
    except (CoveyError, OSError):
        return []  # nobody can say any more what was in it; it is bad as a whole
