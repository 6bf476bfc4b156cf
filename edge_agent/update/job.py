"""Where an update or a trial is: stored before it is acted upon, moved along the table, stopped if it never ends."""

from __future__ import annotations

import datetime as dt
import sqlite3
import time
import typing

import msgspec

from edge_agent.database import transaction
from edge_agent.update.machine import LOOP_PAUSE_S, REST, TABLES, Position, Restart, Track, holds, is_loop, may_follow
from shared.errors import ConflictError

OUTCOME_CHARACTERS = 500


class LoopError(ConflictError):
    """An update began again and again and never came to an end."""

    code = "update-loop"


class Standing(msgspec.Struct, frozen=True, kw_only=True):
    """Where a job is.

    Parameters
    ----------
    position, generation, outcome : str
        Where; of which generation, if any; what came of it last.
    since_s : float
        When it was stored.
    n_stores : int
        Positions stored since the job was last at rest.
    """

    position: Position
    generation: str
    outcome: str
    since_s: float
    n_stores: int


class Job:
    """One track of the device's ``state.db``; one process writes it.

    Parameters
    ----------
    db : Connection
        The open database.
    track : str
        Which.
    """

    def __init__(self, db: sqlite3.Connection, track: Track) -> None:
        self._db, self._track = db, track

    def read(self) -> Standing:
        """Where the job is."""
        position, generation, outcome, since_s, n_stores = self._db.execute(
            "select position, generation, outcome, since_s, n_stores from jobs where track = ?", (self._track,)
        ).fetchone()
        return Standing(
            position=position if position in TABLES[self._track] else "idle",
            generation=generation,
            outcome=outcome,
            since_s=since_s,
            n_stores=n_stores,
        )

    def restart(self) -> Restart:
        """What to do first, should the process that was at it have died."""
        return TABLES[self._track][self.read().position].restart

    def move(self, position: Position, generation: str | None = None, outcome: str | None = None) -> None:
        """Store the next position, before acting upon it.

        Parameters
        ----------
        generation, outcome : str, optional
            As they were, if left out.

        Raises
        ------
        ConflictError
            The table does not lead there.
        LoopError
            The update has not come to rest for too long; it is at rest now, and left alone for a while.
        """
        now = self.read()
        self._check(now, position)
        self._to(now, position, generation, outcome)

    def _check(self, now: Standing, position: Position) -> None:
        if not may_follow(self._track, now.position, position):
            raise ConflictError(f"{position} does not follow {now.position}", field=f"{self._track} position")

    def begin(self) -> None:
        """Begin an update, also where a process that died had left another one.

        Raises
        ------
        LoopError
            The ones before never came to an end, whatever they were to install.
        """
        self.check_loop("")
        now = self.read()
        self._to(now, "check", None, None)

    def end(self, outcome: str | None = None, *, told: bool = False) -> None:
        """Come to rest: in `report`, or in `idle` if there is nothing to tell or all is told."""
        position: Position = "idle" if told else "report"
        now = self.read()
        if now.position != position:
            self._check(now, position)
        self._to(now, position, None, outcome)

    def check_loop(self, generation: str) -> None:
        """Leave a generation alone for a while whose update never came to an end.

        Raises
        ------
        LoopError
            It is too early to try again.
        """
        held, until_s, said = self._db.execute(
            "select held, held_until_s, held_for from jobs where track = ?", (self._track,)
        ).fetchone()
        if held == generation and holds(until_s, time.time()):
            raise LoopError(said, field=_named(held), fix=_again(until_s))

    def forget_loop(self) -> None:
        """Let what never came to an end be tried again at once."""
        self._db.execute("update jobs set n_stores = 0, held_until_s = 0 where track = ?", (self._track,))

    def _to(self, now: Standing, position: Position, generation: str | None, outcome: str | None) -> None:
        n_stores = 0 if position in REST else now.n_stores + 1
        generation = now.generation if generation is None else generation
        if self._track == "update" and is_loop(n_stores):
            self._stop(now, generation)
        self._store(position, generation, now.outcome if outcome is None else outcome, n_stores)

    def _store(self, position: Position, generation: str, outcome: str, n_stores: int) -> None:
        self._db.execute(
            "update jobs set position = ?, generation = ?, outcome = ?, since_s = ?, n_stores = ? where track = ?",
            (position, generation, outcome[:OUTCOME_CHARACTERS], time.time(), n_stores, self._track),
        )

    def _stop(self, now: Standing, generation: str) -> typing.NoReturn:
        said = f"{now.n_stores} steps and no end, the last was {now.position}"
        until_s = time.time() + LOOP_PAUSE_S
        with transaction(self._db):
            self._store("idle", generation, said, 0)
            self._db.execute(
                "update jobs set held = ?, held_until_s = ?, held_for = ? where track = ?",
                (generation, until_s, said, self._track),
            )
        raise LoopError(said, field=_named(generation), fix=_again(until_s))


def _named(generation: str) -> str:
    return f"generation {generation[:12]}" if generation else "update"


def _again(until_s: float) -> str:
    at = dt.datetime.fromtimestamp(until_s, dt.UTC)
    return f"It is tried again after {at:%Y-%m-%d %H:%M:%S} UTC; sooner: covey-edge sync --retry"
