"""Go back from a generation that does not work: refuse what was new, mark it, let the one before run again."""

from __future__ import annotations

import typing

from edge_agent.generation import Generations, new_versions
from edge_agent.update.state import State
from shared.errors import CoveyError

_New = tuple[str, str, str]
EVERYTHING: typing.Final = ("*",)


def last_good(state: State, generations: Generations, bad: str) -> str:
    """Digest of the newest good generation that is still on disk; empty if there is none."""
    on_disk = set(generations.list())
    return next((digest for digest in state.good() if digest in on_disk and digest != bad), "")


def retreat(
    state: State, generations: Generations, bad: str, before: str, reason: str, blamed: typing.Collection[str] = ()
) -> None:
    """Refuse, mark and switch back; may be repeated from any point at which it was cut off.

    Parameters
    ----------
    bad, before : str
        Generation that goes; the one that runs from now on, or none.
    blamed : collection of str
        Models that are to blame, or MODEL@VERSION; or `EVERYTHING`. What is new of others is not refused. If nobody is
        named, the first candidate that is new is refused, on suspicion, so that the next pass tries the others. Once
        one has failed that was new alone, or a generation has done well without the last suspect, it is known which
        one does not work, and those that were suspected before it are tried again.

    Notes
    -----
    It ends: a suspect comes back only after another version was refused for good. An incumbent can not be left out, so
    where nothing else is new all are refused that are.
    """
    new = _new(generations, bad, before)
    guilty = _guilty(new, blamed) if blamed else _suspects(generations, bad, new)
    for model, version, sha256 in guilty:
        state.refuse(model, version, sha256, reason, on_suspicion=len(guilty) < len(new) and not blamed)
    if guilty and guilty == new and blamed != EVERYTHING:
        state.acquit()
    state.mark(bad, "bad", reason)
    if before and generations.running() != before:
        generations.switch(before)


def _guilty(new: list[_New], blamed: typing.Collection[str]) -> list[_New]:
    """What is named; where a version is named that is not new, whatever is new of its model."""
    if blamed == EVERYTHING:
        return new
    exact = [one for one in new if f"{one[0]}@{one[1]}" in blamed]
    models = {name.partition("@")[0] for name in blamed}
    return exact or [one for one in new if one[0] in models]


def _suspects(generations: Generations, bad: str, new: list[_New]) -> list[_New]:
    """The first candidate that is new, or all that is new if no candidate is."""
    entries = generations.read(bad).models if new else ()
    candidates = {(entry.model, version) for entry in entries for version in entry.candidates.values()}
    return [one for one in new if one[:2] in candidates][:1] or new


def _new(generations: Generations, bad: str, before: str) -> list[_New]:
    try:
        return new_versions(generations.read(bad), generations.read(before) if before else None)
    except (CoveyError, OSError):
        return []  # nobody can say any more what was in it; it is bad as a whole


def keep_last(state: State, generations: Generations, digest: str) -> None:
    """Keep what runs, what ran before, and the last good generation with other versions (N-1)."""
    on_disk = set(generations.list())
    versions = generations.read(digest).incumbents
    good = [other for other in state.good() if other in on_disk and other != digest]
    other_versions = [other for other in good if generations.read(other).incumbents != versions]
    keep = {digest, generations.running(), *good[:1], *other_versions[:1]} & on_disk
    generations.collect_garbage(keep)
    state.forget(keep)
