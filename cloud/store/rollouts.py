"""Rollouts, their stages, verdicts and orders, and the channels that were published."""

from __future__ import annotations

import json
import time
import typing

from cloud.store.database import Database
from shared.errors import ConflictError, NotFoundError
from shared.experiment import BASIS_POINTS

Row = dict[str, typing.Any]
ENDED = ("promoted", "rolled_back", "aborted", "undone")


class StagePlan(typing.NamedTuple):
    """A stage as the plan has it; region ``*`` is the whole fleet.

    Parameters
    ----------
    settings : mapping
        What this stage waits for and how many it reaches; empty for an installation.
    """

    kind: typing.Literal["install", "shadow", "canary"]
    region: str
    settings: typing.Mapping[str, object] = {}


class Rollouts:
    """All rollouts.

    Parameters
    ----------
    db : Database
        The project's database.
    """

    def __init__(self, db: Database) -> None:
        self._db = db

    def create(
        self,
        model: str,
        from_version: str,
        to_version: str,
        *,
        also: typing.Sequence[str] = (),
        plan: typing.Mapping[str, object],
        stages: typing.Sequence[StagePlan],
        salt: str,
        why: str,
        event_day: int,
    ) -> int:
        """Start a rollout; one at a time for each model.

        Parameters
        ----------
        also : list of str
            Further candidates: `to_version` has arm 1, these have the next.

        Raises
        ------
        ConflictError
            Another one is running.
        """
        with self._db.transaction() as connection:
            running = self.running(model)
            if running:
                end = f"covey rollout abort {running['id']}"
                raise ConflictError(
                    f"rollout {running['id']} of {model} to {running['to_version']} is still running",
                    fix=f"Wait, end it ({end}), or put this one in its place (--supersede).",
                )
            cursor = connection.execute(
                "insert into rollouts (model, from_version, to_version, state, paused, plan, salt, why, created_s,"
                " created_day, ended_s, ended_day, outcome) values (?, ?, ?, 'running', 0, ?, ?, ?, ?, ?, 0, 0, '')",
                (model, from_version, to_version, json.dumps(plan), salt, why, time.time(), event_day),
            )
            rollout = int(cursor.lastrowid or 0)
            connection.executemany(
                "insert into candidates values (?, ?, ?, 'running', '', 0, 0)",
                [(rollout, arm, version) for arm, version in enumerate((to_version, *also), 1)],
            )
            connection.executemany(
                "insert into stages (rollout, position, kind, region, opened_s, opened_day, passed_s, passed_day,"
                " verdict, why, settings) values (?, ?, ?, ?, 0, 0, 0, 0, 'WAITING', '', ?)",
                [(rollout, i, stage.kind, stage.region, json.dumps(stage.settings)) for i, stage in enumerate(stages)],
            )
        return rollout

    def get(self, rollout: int) -> Row:
        """Return a rollout, with its plan and its candidates (by arm) as plain data.

        Raises
        ------
        NotFoundError
            No such rollout.
        """
        row = self._db.row("select * from rollouts where id = ?", (rollout,))
        if row is None:
            raise NotFoundError(f"no rollout {rollout}", fix="See: covey rollout list")
        candidates = self._db.rows("select * from candidates where rollout = ? order by arm", (rollout,))
        return row | {"plan": json.loads(row["plan"]), "candidates": candidates}

    def newest(self, model: str = "") -> Row:
        """Return the newest rollout, of one model or of all."""
        row = self._db.row("select id from rollouts where ? in ('', model) order by id desc limit 1", (model,))
        if row is None:
            raise NotFoundError("no rollout was ever started", fix="Start one: covey rollout start")
        return self.get(row["id"])

    def all(self, limit: int = 50) -> list[Row]:
        """Newest first."""
        return [
            self.get(row["id"]) for row in self._db.rows("select id from rollouts order by id desc limit ?", (limit,))
        ]

    def running(self, model: str) -> Row | None:
        """Return the rollout of a model that is running."""
        row = self._db.row("select id from rollouts where model = ? and state = 'running'", (model,))
        return self.get(row["id"]) if row else None

    def all_running(self) -> list[Row]:
        """All that are running, oldest first."""
        return [
            self.get(row["id"]) for row in self._db.rows("select id from rollouts where state = 'running' order by id")
        ]

    def promoted(self) -> list[Row]:
        """The newest promotion of each model."""
        rows = self._db.rows(
            "select max(id) as id from rollouts where state = 'promoted' group by model order by model"
        )
        return [self.get(row["id"]) for row in rows]

    def end(self, rollout: int, state: str, *, event_day: int, outcome: str) -> None:
        """End a rollout, and with it whichever candidate still runs, in the transaction that is open."""
        self._db.connection.execute(
            "update rollouts set state = ?, ended_s = ?, ended_day = ?, outcome = ? where id = ?",
            (state, time.time(), event_day, outcome, rollout),
        )
        became = "promoted" if state == "promoted" else "dropped"
        self._db.connection.execute(
            "update candidates set state = ?, why = ?, ended_s = ?, ended_day = ?"
            " where rollout = ? and state = 'running'",
            (became, outcome, time.time(), event_day, rollout),
        )

    def drop(self, rollout: int, arm: int, *, event_day: int, why: str) -> None:
        """Let a candidate run no more, in the transaction that is open; its arm's number is not used again."""
        self._db.connection.execute(
            "update candidates set state = 'dropped', why = ?, ended_s = ?, ended_day = ?"
            " where rollout = ? and arm = ?",
            (why, time.time(), event_day, rollout, arm),
        )

    def set_version(self, rollout: int, version: str) -> None:
        """Note which of several candidates a rollout is for: the one that is promoted."""
        self._db.connection.execute("update rollouts set to_version = ? where id = ?", (version, rollout))

    def set_created_day(self, rollout: int, event_day: int) -> None:
        """Note the event day on which a rollout began."""
        self._db.connection.execute("update rollouts set created_day = ? where id = ?", (event_day, rollout))

    def set_paused(self, rollout: int, *, paused: bool) -> None:
        """Pause or resume."""
        self._db.connection.execute("update rollouts set paused = ? where id = ?", (int(paused), rollout))

    # ---- stages and verdicts

    def stages(self, rollout: int) -> list[Row]:
        """Stages in order, with their settings as plain data."""
        rows = self._db.rows("select * from stages where rollout = ? order by position", (rollout,))
        return [row | {"settings": json.loads(row["settings"]), "growth": json.loads(row["growth"])} for row in rows]

    def approve_stage(self, stage: int) -> None:
        """Note that somebody lets a stage open."""
        self._db.connection.execute("update stages set approved_s = ? where id = ?", (time.time(), stage))

    def open_stage(self, stage: int, event_day: int, *, reached_bp: int = BASIS_POINTS) -> None:
        """Open a stage; it reaches all of its devices, or the first `reached_bp` / 10,000 of the region."""
        now = time.time()
        self._db.connection.execute(
            "update stages set opened_s = ?, opened_day = ?, verdict = 'HOLD', reached_bp = ?, grown_s = ?"
            " where id = ?",
            (now, event_day, reached_bp, now, stage),
        )

    def set_target(self, stage: int, target_bp: int, taken: int) -> None:
        """Note the share that takes as many devices as a stage is to take, and how many those are now."""
        self._db.connection.execute(
            "update stages set target_bp = ?, taken = ? where id = ?", (target_bp, taken, stage)
        )

    def grow_stage(self, stage: int, reached_bp: int, grown_s: float, growth: typing.Sequence[object]) -> None:
        """Note how far a stage reaches from now on; it never reaches fewer again."""
        self._db.connection.execute(
            "update stages set reached_bp = max(reached_bp, ?), grown_s = ?, growth = ? where id = ?",
            (reached_bp, grown_s, json.dumps(growth), stage),
        )

    def keep(
        self,
        stage: Row,
        arm: int,
        word: str,
        *,
        event_day: int,
        reasons: typing.Sequence[str],
        inputs: typing.Mapping[str, object],
    ) -> None:
        """Keep the verdict on a candidate with its inputs, in the transaction that is open; of each day the newest."""
        last = self._db.row(
            "select id, word, event_day from verdicts where stage = ? and arm = ? order by id desc limit 1",
            (stage["id"], arm),
        )
        values = (time.time(), event_day, word, json.dumps(reasons), json.dumps(inputs))
        if last and word == last["word"] and last["event_day"] == event_day:
            self._db.connection.execute(
                "update verdicts set at_s = ?, event_day = ?, word = ?, reasons = ?, inputs = ? where id = ?",
                (*values, last["id"]),
            )
        else:
            self._db.connection.execute(
                "insert into verdicts (rollout, stage, arm, at_s, event_day, word, reasons, inputs)"
                " values (?, ?, ?, ?, ?, ?, ?, ?)",
                (stage["rollout"], stage["id"], arm, *values),
            )

    def passing_since(self, stage: int, arms: typing.Collection[int]) -> int | None:
        """Return the event day on which the first of some candidates could have gone on from a stage."""
        rows = self._db.rows(
            "select arm, min(event_day) as day from verdicts where stage = ? and word = 'PASS' group by arm", (stage,)
        )
        return min((row["day"] for row in rows if row["arm"] in arms), default=None)

    def settle(self, stage: Row, word: str, why: str, *, event_day: int) -> None:
        """Note what the verdicts on all candidates make of a stage, in the transaction that is open."""
        connection = self._db.connection
        connection.execute("update stages set verdict = ?, why = ? where id = ?", (word, why, stage["id"]))
        if word == "PASS" and not stage["passed_s"]:
            connection.execute(
                "update stages set passed_s = ?, passed_day = ? where id = ?", (time.time(), event_day, stage["id"])
            )

    def verdicts(self, rollout: int) -> list[Row]:
        """Verdicts in order, with reasons and inputs as plain data."""
        rows = self._db.rows("select * from verdicts where rollout = ? order by id", (rollout,))
        return [row | {"reasons": json.loads(row["reasons"]), "inputs": json.loads(row["inputs"])} for row in rows]

    # ---- orders

    def order(self, rollout: int, action: str, *, actor: str, reason: str) -> int:
        """Ask the controller for something; it acts at its next tick."""
        self.get(rollout)
        cursor = self._db.connection.execute(
            "insert into orders (rollout, action, actor, reason, created_s, done_s, result)"
            " values (?, ?, ?, ?, ?, 0, '')",
            (rollout, action, actor, reason, time.time()),
        )
        return int(cursor.lastrowid or 0)

    def open_orders(self) -> list[Row]:
        """Orders that wait."""
        return self._db.rows("select * from orders where done_s = 0 order by id")

    def close_order(self, order: int, result: str) -> None:
        """Note what came of an order."""
        self._db.connection.execute(
            "update orders set done_s = ?, result = ? where id = ?", (time.time(), result, order)
        )

    def get_order(self, order: int) -> Row:
        """Return an order."""
        row = self._db.row("select * from orders where id = ?", (order,))
        if row is None:
            raise NotFoundError(f"no order {order}")
        return row

    # ---- channels

    def channel(self, region: str) -> Row | None:
        """Return the channel that was published last."""
        return self._db.row("select * from channels where region = ?", (region,))

    def channels(self) -> list[Row]:
        """All published channels."""
        return self._db.rows("select * from channels order by region")

    def set_channel(self, region: str, sequence: int, body: bytes, *, told: bool = True) -> None:
        """Keep what was published, and when devices were last told something else to run."""
        self._db.connection.execute(
            "insert into channels (region, sequence, body, published_s, told_s)"
            " values (:region, :sequence, :body, :now, :now) on conflict (region) do update set"
            " sequence = excluded.sequence, body = excluded.body, published_s = excluded.published_s,"
            " told_s = iif(:told, excluded.told_s, told_s)",
            {"region": region, "sequence": sequence, "body": body, "now": time.time(), "told": told},
        )
