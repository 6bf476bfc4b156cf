"""Devices and join tokens: who is in the fleet, with which one key, and how that changes."""

from __future__ import annotations

import hashlib
import json
import time
import typing

from cloud.store.database import Database
from cloud.store.statuses import CHANGES, Status
from shared.errors import AuthError, ConflictError, ForbiddenError, NotFoundError
from shared.labels import Held, check_labels

Row = dict[str, typing.Any]
SHARED_KEY = "two-devices-use-this-key"
_EVENT_REPEAT_S = 3600.0


class Fleet:
    """All devices.

    Parameters
    ----------
    db : Database
        The project's database.
    """

    def __init__(self, db: Database) -> None:
        self._db = db

    # ---- join

    def add_token(
        self,
        token_id: str,
        secret: str,
        region: str,
        *,
        uses: int,
        lifetime_s: float,
        approve: bool = False,
        labels: Held | None = None,
    ) -> None:
        """Keep a join token, with the labels of devices that join with it; of its secret only the hash."""
        now = time.time()
        self._db.connection.execute(
            "insert into join_tokens values (?, ?, ?, ?, ?, ?, ?, ?)",
            (token_id, _hash(secret), region, uses, now + lifetime_s, now, int(approve), _write(labels or {})),
        )

    def tokens(self) -> list[Row]:
        """Join tokens, newest first, without secrets."""
        return self._db.rows(
            "select id, region, uses_left, expires_s, created_s, approve, labels from join_tokens"
            " order by created_s desc"
        )

    def join(self, device: str, public_key: str, token_id: str, secret: str) -> Row:
        """Take a device in, or let it wait for approval; the same device with the same key may ask again.

        Raises
        ------
        AuthError
            The token is unknown, used up or expired.
        ForbiddenError
            This key was rejected.
        ConflictError
            Another key already has this name, another device already has this key, or the device was retired.
        """
        with self._db.transaction() as connection:
            token = self._db.row("select * from join_tokens where id = ?", (token_id,))
            if token is None or token["secret_sha256"] != _hash(secret):
                raise AuthError("the join token is not known here", fix="Get a new one: covey device token")
            known = self._db.row("select * from devices where device = ?", (device,))
            # The name of a rejected device is free for another key: else a stranger could take it from its owner.
            if known and (known["public_key"] == public_key or known["status"] != "rejected"):
                return self._join_again(known, public_key)
            if token["expires_s"] < time.time() or token["uses_left"] < 1:
                raise AuthError("the join token is used up or expired", fix="Get a new one: covey device token")
            self.check_key(device, public_key)
            connection.execute("update join_tokens set uses_left = uses_left - 1 where id = ?", (token_id,))
            status: Status = "pending" if token["approve"] else "accepted"
            self._insert(device, token["region"], public_key, status, token["labels"])
            return self.get(device)

    def _join_again(self, known: Row, public_key: str) -> Row:
        device, status = known["device"], known["status"]
        if known["public_key"] != public_key or status == "retired":
            said = "was retired" if status == "retired" else "is there already, with another key"
            raise ConflictError(f"a device called {device!r} {said}", fix="Choose another --name.")
        if status == "rejected":
            raise ForbiddenError(f"{device!r} was rejected", field="device", fix="Ask whoever runs the fleet.")
        if status == "preauthorised":
            self._db.connection.execute(
                "update devices set status = 'accepted', joined_s = ? where device = ?", (time.time(), device)
            )
        return self.get(device)

    def _insert(self, device: str, region: str, public_key: str, status: Status, labels: str) -> None:
        self._db.connection.execute(
            "insert or replace into devices values (?, ?, ?, ?, ?, 0, 0, '', '', 0, 0, 0, '{}', '', '', 0, ?)",
            (device, region, public_key, status, time.time(), labels),
        )

    # ---- look

    def get(self, device: str) -> Row:
        """Look a device up.

        Raises
        ------
        NotFoundError
            No such device.
        """
        row = self._db.row("select * from devices where device = ?", (device,))
        if row is None:
            raise NotFoundError(f"no device {device!r:.80}", fix="See: covey device list")
        return _read(row)

    def find(self, device: str) -> Row | None:
        """Look up what decides whether a device may deliver; None if it is not known."""
        return self._db.row(
            "select device, public_key, previous_key, status, rotate, labels from devices where device = ?", (device,)
        )

    def all(self, region: str = "", status: Status = "accepted") -> list[Row]:
        """Devices by name; those that are in the fleet if nothing else is said."""
        rows = self._db.rows(
            "select * from devices where status = ? and ? in ('', region) order by device", (status, region)
        )
        return [_read(row) for row in rows]

    def with_key(self, public_key: str) -> list[str]:
        """Names of the devices that have a key; more than one only if somebody copied it."""
        rows = self._db.rows("select device from devices where public_key = ? order by device", (public_key,))
        return [row["device"] for row in rows]

    # ---- change

    def check(self, device: str, action: str, public_key: str = "") -> Row:
        """Return a device that an action is possible on.

        Raises
        ------
        NotFoundError
            No such device.
        ConflictError
            Its status does not allow this, or it has another key than the one named.
        """
        row, change = self.get(device), CHANGES[action]
        if row["status"] not in change.before:
            raise ConflictError(f"{device!r} is {row['status']}", fix=change.fix)
        if public_key and row["public_key"] != public_key:
            raise ConflictError(f"{device!r} has the key {row['public_key']}", field="--key", fix="Compare them again.")
        return row

    def change(self, device: str, action: str, public_key: str = "") -> Row:
        """Do what `check` allows; return the device as it is now."""
        with self._db.transaction() as connection:
            self.check(device, action, public_key)
            connection.execute(
                "update devices set status = ?, rotate = ? where device = ?",
                (CHANGES[action].after, int(action == "rotate"), device),
            )
            return self.get(device)

    def retire(self, device: str) -> None:
        """Stop taking anything from a device."""
        self.change(device, "retire")

    def check_free(self, device: str) -> None:
        """Raise ConflictError if a name is taken; that of a rejected device is not."""
        known = self.find(device)
        if known and known["status"] != "rejected":
            raise ConflictError(f"{device!r} is {known['status']} already", fix="See: covey device show")

    def check_key(self, device: str, public_key: str) -> None:
        """Raise ConflictError if another device has this key, or had it when it was retired.

        Two names for one key would let one machine speak as two. A rejected device has none of its own.
        """
        row = self._db.row(
            "select device, status from devices where public_key = ? and device <> ? and status <> 'rejected'",
            (public_key, device),
        )
        if row:
            raise ConflictError(
                f"this key is that of {row['device']!r}, which is {row['status']}",
                field="public_key",
                fix="Each device makes its own: join with a --store that was not copied from another device.",
            )

    def labels_after(self, device: str, labels: Held, remove: typing.Collection[str] = ()) -> dict[str, str]:
        """Return what a device has from the fleet once it was given labels, and others were taken from it.

        Raises
        ------
        NotFoundError
            No such device, or it has not been given a label that is to be taken.
        UsageError
            They are too many.
        """
        before = self.get(device)["labels"]
        missing = sorted(set(remove) - set(before))
        if missing:
            raise NotFoundError(f"{device!r} was not given {missing[0]!r:.80}", fix="See: covey device show")
        now = {key: value for key, value in before.items() if key not in remove} | dict(labels)
        check_labels(now, "labels")
        return now

    def label(self, device: str, labels: Held, remove: typing.Collection[str] = ()) -> dict[str, str]:
        """Do what `labels_after` says, and return that."""
        with self._db.transaction() as connection:
            now = self.labels_after(device, labels, remove)
            connection.execute("update devices set labels = ? where device = ?", (_write(now), device))
        return now

    def preauthorise(self, device: str, public_key: str, region: str, labels: Held | None = None) -> None:
        """Expect a device with this key: it will be taken in without a use of a token, and without approval."""
        with self._db.transaction():
            self.check_free(device)
            self.check_key(device, public_key)
            self._insert(device, region, public_key, "preauthorised", _write(labels or {}))

    def rotate_key(self, device: str, old_key: str, new_key: str) -> bool:
        """Accept a new key in place of the old one, at once; false if that was done before.

        Raises
        ------
        AuthError
            The old key is not the device's.
        ConflictError
            Another device has the new one.
        """
        with self._db.transaction() as connection:
            row = self.find(device)
            if row and (row["public_key"], row["previous_key"]) == (new_key, old_key):
                return False
            if row is None or row["public_key"] != old_key or row["status"] != "accepted":
                raise AuthError("this key is not the device's", field="old_key")
            self.check_key(device, new_key)
            connection.execute(
                "update devices set public_key = ?, previous_key = ?, rotate = 0 where device = ?",
                (new_key, old_key, device),
            )
            return True

    # ---- events

    def events(self, limit: int = 30, device: str = "") -> list[Row]:
        """Newest events first, of all devices or of one."""
        return self._db.rows(
            "select * from device_events where ? in ('', device) order by id desc limit ?", (device, limit)
        )

    def note(self, device: str, kind: str, detail: str) -> None:
        """Note what the cloud has seen of a device; the same again only after an hour."""
        now = time.time()
        self._db.connection.execute(
            "insert into device_events (device, at_s, kind, detail, received_s) select ?, ?, ?, ?, ? where not exists"
            " (select 1 from device_events where device = ? and received_s > ? and kind = ? and detail = ?)",
            (device, now, kind, detail, now, device, now - _EVENT_REPEAT_S, kind, detail),
        )

    def spool_before(self, device: str, spool: str) -> str:
        """Return the spool a device delivered from last, if it left `spool` for it: it never returns to an old one."""
        row = self._db.row(
            "select report_key from devices where device = ? and exists"
            " (select 1 from inbox where inbox.device = devices.device and spool = ?)",
            (device, spool),
        )
        last = row["report_key"].rpartition("/")[0] if row else ""
        return last if last != spool else ""


def _read(row: Row) -> Row:
    return row | {"report": json.loads(row["report"]), "labels": json.loads(row["labels"])}


def _write(labels: Held) -> str:
    return json.dumps(dict(sorted(labels.items())))


def _hash(secret: str) -> str:
    return hashlib.sha256(secret.encode()).hexdigest()
