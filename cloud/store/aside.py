"""Devices that fail again and again: what each failed at, and which are set aside until when."""

from __future__ import annotations

import json
import time
import typing

from cloud.store.database import Database
from shared.errors import NotFoundError

Row = dict[str, typing.Any]


class Aside:
    """Failures of devices, and devices that are set aside.

    Parameters
    ----------
    db : Database
        The project's database.
    """

    def __init__(self, db: Database) -> None:
        self._db = db

    # ---- failures

    def fail(self, device: str, model: str, version: str, *, day: int, why: str, counts: bool) -> None:
        """Note that a device failed at a version; once for each version, from the first day on.

        Parameters
        ----------
        counts : bool
            It is a failure of the device's own, and not its line or its owner's will; one that counts goes on doing so.
        """
        self._db.connection.execute(
            "insert into failures values (?, ?, ?, ?, ?, 0, ?, ?) on conflict (model, version, device) do update set"
            " counts = excluded.counts, why = excluded.why where excluded.counts > counts",
            (model, version, device, day, int(counts), why, time.time()),
        )

    def failed_at(self, model: str, version: str) -> dict[str, Row]:
        """What is on record of a version, by device."""
        rows = self._db.rows("select * from failures where model = ? and version = ?", (model, version))
        return {row["device"]: row for row in rows}

    def stand(self, model: str, version: str) -> None:
        """Let the failures at a version stand: it works on others."""
        self._db.connection.execute(
            "update failures set stands = 1 where model = ? and version = ? and stands = 0", (model, version)
        )

    def failures(self, device: str) -> list[Row]:
        """What a device has failed at, oldest first."""
        return self._db.rows(
            "select model, version, day, counts, stands, why, at_s from failures where device = ?"
            " order by day, at_s, model, version",
            (device,),
        )

    def held_against(self, device: str, from_day: int) -> list[Row]:
        """What counts of that since an event day: its own failures, at versions that work on others."""
        rows = self.failures(device)
        return [row for row in rows if row["counts"] and row["stands"] and row["day"] >= from_day]

    def strike(self, model: str, version: str, device: str = "") -> list[str]:
        """Take failures at a version off the record of a device, or of all; return whose."""
        rows = self._db.connection.execute(
            "delete from failures where model = ? and version = ? and ? in ('', device) returning device",
            (model, version, device),
        ).fetchall()
        return sorted(name for (name,) in rows)

    def forget(self, before_day: int) -> None:
        """Forget failures of long ago."""
        self._db.connection.execute("delete from failures where day < ?", (before_day,))

    # ---- devices that are set aside

    def put(
        self, device: str, *, from_day: int, until_day: int, least: int, why: str, kept: typing.Mapping[str, str]
    ) -> None:
        """Set a device aside.

        Parameters
        ----------
        from_day, least : int, int
            So many failures since that event day made it so; once fewer are left it is let out.
        until_day : int
            Event day on which it is asked again.
        kept : mapping
            Model to the version that it goes on with.
        """
        self._db.connection.execute(
            "insert or replace into aside values (?, ?, ?, ?, ?, ?, ?)",
            (device, time.time(), from_day, until_day, least, why, json.dumps(dict(kept))),
        )

    def all(self, region: str = "") -> list[Row]:
        """Devices of a region, or of all, that are set aside, by name."""
        rows = self._db.rows(
            "select a.*, d.region from aside a join devices d on d.device = a.device"
            " where d.status = 'accepted' and ? in ('', d.region) order by a.device",
            (region,),
        )
        return [row | {"kept": json.loads(row["kept"])} for row in rows]

    def get(self, device: str) -> Row | None:
        """Return what is known of a device that is set aside; None if it is not."""
        row = self._db.row("select * from aside where device = ?", (device,))
        return row | {"kept": json.loads(row["kept"])} if row else None

    def due(self, event_day: int) -> list[str]:
        """Devices whose time is over."""
        rows = self._db.rows("select device from aside where until_day <= ? order by device", (event_day,))
        return [row["device"] for row in rows]

    def check(self, device: str) -> Row:
        """Return what is known of a device that is set aside.

        Raises
        ------
        NotFoundError
            It is not.
        """
        row = self.get(device)
        if row is None:
            raise NotFoundError(f"{device!r:.80} is not set aside", fix="See: covey device show")
        return row

    def let_out(self, device: str, *, forgive: bool = False) -> Row:
        """Let a device take part again; raises what `check` does.

        Parameters
        ----------
        forgive : bool
            What it failed at before does not count any more.
        """
        with self._db.transaction() as connection:
            row = self.check(device)
            connection.execute("delete from aside where device = ?", (device,))
            if forgive:
                connection.execute("delete from failures where device = ?", (device,))
        return row

    def keep(self, model: str, version: str, instead_of: typing.Collection[str] = ()) -> None:
        """Give devices that are set aside another version to go on with; an empty one is that of their region.

        Parameters
        ----------
        instead_of : collection of str
            Only those that have one of these; all by default.
        """
        for row in self.all():
            before = row["kept"].get(model, "")
            if before and before != version and (not instead_of or before in instead_of):
                after = {name: one for name, one in {**row["kept"], model: version}.items() if one}
                self._db.connection.execute(
                    "update aside set kept = ? where device = ?", (json.dumps(after), row["device"])
                )
