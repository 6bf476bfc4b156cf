"""What hooks were told, and what they were asked and said."""

from __future__ import annotations

import json
import time
import typing

from cloud.store.database import Database

Row = dict[str, typing.Any]
EVERYTHING = "*"
PROMOTION = 0  # the place of a stage's number in a question about promotion


class Hooks:
    """Positions in the audit log, and questions.

    Parameters
    ----------
    db : Database
        The project's database.
    """

    def __init__(self, db: Database) -> None:
        self._db = db

    # ---- telling

    def meet(self, name: str) -> Row:
        """Return how far a hook was told; one that is new begins now, not with the first day of the project."""
        known = "select * from hooks where name = ?"
        row = self._db.row(known, (name,))  # looked for first: to insert nothing takes the write lock as well
        if row is None:
            self._db.connection.execute(
                "insert into hooks select ?, coalesce(max(id), 0), 0, 0, '', 0, 0 from audit where true"
                " on conflict (name) do nothing",
                (name,),
            )
        return row or self._db.rows(known, (name,))[0]

    def n_waiting(self, name: str, on: typing.Collection[str]) -> int:
        """How many entries of the audit log a hook has still to be told of."""
        return int(self._waiting("count(*) as n", name, on)[0]["n"])

    def next_event(self, name: str, on: typing.Collection[str]) -> Row | None:
        """Return the oldest entry of the audit log that a hook has still to be told of; that it failed is none."""
        row = next(iter(self._waiting("audit.*", name, on, "order by audit.id limit 1")), None)
        return row and row | {"detail": json.loads(row["detail"])}

    def _waiting(self, what: str, name: str, on: typing.Collection[str], more: str = "") -> list[Row]:
        wanted = [] if EVERYTHING in on else [*on]
        chosen = "" if EVERYTHING in on else f" and action in ({', '.join('?' * len(wanted))})"
        return self._db.rows(
            f"select {what} from audit, hooks where hooks.name = ? and audit.id > hooks.told{chosen}"
            f" and not (action = 'hook given up' and subject = hooks.name) {more}",
            (name, *wanted),
        )

    def told(self, name: str, event: int, *, given_up: bool = False) -> None:
        """Note that a hook knows of an entry, or never will."""
        self._db.connection.execute(
            "update hooks set told = max(told, ?), tries = 0, next_s = 0, told_s = iif(?, told_s, ?),"
            " error = iif(?, error, ''), given_up = given_up + ? where name = ?",
            (event, given_up, time.time(), given_up, int(given_up), name),
        )

    def failed(self, name: str, error: str, next_s: float) -> None:
        """Note why a hook could not be told, and when that is tried again."""
        self._db.connection.execute(
            "update hooks set tries = tries + 1, next_s = ?, error = ? where name = ?", (next_s, error, name)
        )

    # ---- asking

    def ask(self, rollout: int, stage: int, name: str) -> Row:
        """Return a question, asked now if it never was; `stage` is a stage's number, or `PROMOTION`."""
        asked, key = "select * from questions where rollout = ? and stage = ? and hook = ?", (rollout, stage, name)
        row = self._db.row(asked, key)
        if row is None:
            self._db.connection.execute(
                "insert into questions (rollout, stage, hook, state, words, actor, tries, next_s, asked_s, answered_s)"
                " values (?, ?, ?, 'open', '', '', 0, 0, ?, 0) on conflict (rollout, stage, hook) do nothing",
                (*key, time.time()),
            )
        return row or self._db.rows(asked, key)[0]

    def open_questions(self, rollout: int = 0, name: str = "") -> list[Row]:
        """Return questions of rollouts that still run and that nobody agreed to, oldest first."""
        return self._db.rows(
            "select questions.* from questions join rollouts on rollouts.id = rollout where questions.state = 'open'"
            " and rollouts.state = 'running' and ? in (0, rollout) and ? in ('', hook) order by questions.id",
            (rollout, name),
        )

    def refused(self, question: int, words: str, next_s: float) -> None:
        """Note a no, or that there was no answer, and when it is asked again."""
        self._db.connection.execute(
            "update questions set tries = tries + 1, words = ?, next_s = ? where id = ? and state = 'open'",
            (words, next_s, question),
        )

    def agreed(self, question: int, words: str, actor: str) -> bool:
        """Note a yes, of the hook or of a person in its place; return whether it was the first."""
        cursor = self._db.connection.execute(
            "update questions set state = 'agreed', words = ?, actor = ?, answered_s = ?"
            " where id = ? and state = 'open'",
            (words, actor, time.time(), question),
        )
        return cursor.rowcount > 0
