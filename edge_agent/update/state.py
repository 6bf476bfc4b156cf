"""What the device must remember about its generations, across any restart."""

from __future__ import annotations

import pathlib
import time
import typing

from edge_agent.database import open_database, transaction
from edge_agent.update.job import Job

BOOTS = 3
_STEPS = (
    """
create table generations (digest text primary key, state text not null check (state in ('trial', 'good', 'bad')),
    boots_left int not null, since_s real not null, note text not null) without rowid;
create table refused (model text, version text, manifest text, reason text not null, at_s real not null,
    primary key (model, version, manifest)) without rowid;
create table tested (manifest text primary key, at_s real not null) without rowid;
create table floors (name text primary key, value) without rowid;
create table job (id int primary key check (id = 1), position text not null, outcome text not null,
    generation text not null, since_s real not null);
insert into job values (1, 'idle', '', '', 0)
""",
    """
create table jobs (track text primary key, position text not null, generation text not null, outcome text not null,
    since_s real not null, n_stores int not null default 0, held text not null default '',
    held_until_s real not null default 0, held_for text not null default '') without rowid;
insert into jobs (track, position, generation, outcome, since_s)
    select 'update', 'idle', generation, outcome, since_s from job;
insert into jobs (track, position, generation, outcome, since_s) values ('trial', 'idle', '', '', 0)
""",
    """
create table suspects (id integer primary key, model text, version text, manifest text,
    unique (model, version, manifest));
""",
    """
create table labels (key text primary key, value text not null) without rowid;
""",
)

GenerationState = typing.Literal["trial", "good", "bad"]


class State:
    """The device's ``state.db``.

    Parameters
    ----------
    path : Path
        Server and sync child each open it; the sync child alone moves `update`, the server alone `trial`.
    """

    def __init__(self, path: pathlib.Path) -> None:
        self._db = open_database(path, _STEPS)
        self.update, self.trial = Job(self._db, "update"), Job(self._db, "trial")

    # ---- generations

    def state_of(self, digest: str) -> GenerationState | None:
        """State of a generation."""
        row = self._db.execute("select state from generations where digest = ?", (digest,)).fetchone()
        return row[0] if row else None

    def add_trial(self, digest: str) -> None:
        """Remember a generation that is about to run for the first time; a good one stays good."""
        self._db.execute(
            "insert into generations values (?, 'trial', ?, ?, '') on conflict (digest) do update set"
            " since_s = excluded.since_s",
            (digest, BOOTS, time.time()),
        )

    def mark(self, digest: str, state: GenerationState, note: str = "") -> None:
        """Set a generation's state."""
        self._db.execute(
            "insert into generations values (?, ?, 0, ?, ?) on conflict (digest) do update set"
            " state = excluded.state, since_s = excluded.since_s, note = excluded.note",
            (digest, state, time.time(), note[:500]),
        )
        if state == "good":  # it failed until the last suspect was left out
            self.acquit(but_last=True)

    def boot(self, digest: str) -> int:
        """Count a start of a trial generation; return how many are left, or -1 if it is not on trial."""
        row = self._db.execute(
            "update generations set boots_left = boots_left - 1 where digest = ? and state = 'trial'"
            " returning boots_left",
            (digest,),
        ).fetchone()
        return max(int(row[0]), 0) if row else -1

    def generations(self) -> list[dict[str, object]]:
        """All generations, newest first."""
        rows = self._db.execute("select digest, state, since_s, note from generations order by since_s desc")
        return [dict(zip(("digest", "state", "since_s", "note"), row, strict=True)) for row in rows]

    def good(self) -> list[str]:
        """Digests of good generations, newest first."""
        rows = self._db.execute("select digest from generations where state = 'good' order by since_s desc")
        return [digest for (digest,) in rows]

    def forget(self, keep: typing.Collection[str]) -> None:
        """Forget generations that are no longer on disk."""
        for row in self.generations():
            if row["digest"] not in keep and row["state"] != "bad":
                self._db.execute("delete from generations where digest = ?", (row["digest"],))

    # ---- versions that failed here, and versions that passed their self-test

    def refuse(self, model: str, version: str, manifest: str, reason: str, *, on_suspicion: bool = False) -> None:
        """Remember that a version does not work on this device; or that it may be the one that does not."""
        with transaction(self._db):
            self._db.execute(
                "insert or replace into refused values (?, ?, ?, ?, ?)",
                (model, version, manifest, reason[:500], time.time()),
            )
            if on_suspicion:
                self._db.execute(
                    "insert or ignore into suspects (model, version, manifest) values (?, ?, ?)",
                    (model, version, manifest),
                )

    def acquit(self, *, but_last: bool = False) -> None:
        """Let what was refused on suspicion be tried again; the last suspect stays refused for good, if so said."""
        with transaction(self._db):
            if but_last:
                self._db.execute("delete from suspects where id = (select max(id) from suspects)")
            self._db.execute(
                "delete from refused where (model, version, manifest) in"
                " (select model, version, manifest from suspects)"
            )
            self._db.execute("delete from suspects")

    def note_fit(self, model: str, version: str, reason: str) -> None:
        """Keep why no form of a version fits this device; nothing, and it is forgotten: settings may change."""
        if reason:
            self.refuse(model, version, "", reason)
        elif (model, version, "") in self.refused():
            self._db.execute("delete from refused where model = ? and version = ? and manifest = ''", (model, version))

    def refused(self) -> dict[tuple[str, str, str], str]:
        """(model, version, manifest hash) to reason."""
        rows = self._db.execute("select model, version, manifest, reason from refused")
        return {(model, version, manifest): reason for model, version, manifest, reason in rows}

    def blamed(self) -> dict[tuple[str, str, str], str]:
        """What does not work on this device; of what is only suspected nobody is told, as most of it is innocent."""
        suspects = set(self._db.execute("select model, version, manifest from suspects").fetchall())
        return {key: reason for key, reason in self.refused().items() if key not in suspects}

    def forget_refusals(self) -> None:
        """Let everything that failed here be tried again."""
        with transaction(self._db):
            self._db.execute("delete from refused")
            self._db.execute("delete from suspects")
            self._db.execute("delete from generations where state = 'bad'")
            self.update.forget_loop()

    def passed_self_test(self, manifest: str) -> None:
        """Remember a manifest whose bundle passed its self-test here."""
        self._db.execute("insert or replace into tested values (?, ?)", (manifest, time.time()))

    def has_passed(self, manifest: str) -> bool:
        """Whether a bundle has passed its self-test here."""
        return self._db.execute("select 1 from tested where manifest = ?", (manifest,)).fetchone() is not None

    # ---- labels

    def labels(self) -> dict[str, str]:
        """Labels that the fleet has given this device, as it heard last."""
        return dict(self._db.execute("select key, value from labels order by key").fetchall())

    def set_labels(self, labels: typing.Mapping[str, str]) -> None:
        """Remember what the fleet has given this device, in place of what it had before."""
        if labels != self.labels():
            with transaction(self._db):
                self._db.execute("delete from labels")
                self._db.executemany("insert into labels values (?, ?)", sorted(labels.items()))

    # ---- floors

    def floor(self, name: str) -> int:
        """Return a number that must never fall, 0 at first."""
        row = self._db.execute("select value from floors where name = ?", (name,)).fetchone()
        return int(row[0]) if row else 0

    def raise_floor(self, name: str, value: int) -> None:
        """Raise such a number; where it stands so high already, nothing is written and nobody waits."""
        if value <= self.floor(name):
            return
        with transaction(self._db):
            if value > self.floor(name):
                self._db.execute("insert or replace into floors values (?, ?)", (name, value))

    def ready_since(self, digest: str) -> float:
        """Return since when a generation has lain ready; the first call begins to count."""
        name = f"ready {digest}"
        self._db.execute("insert or ignore into floors values (?, ?)", (name, time.time()))
        self._db.execute("delete from floors where name like 'ready %' and name <> ?", (name,))
        (since_s,) = self._db.execute("select value from floors where name = ?", (name,)).fetchone()
        return float(since_s)

    def close(self) -> None:
        """Close the database."""
        self._db.close()
