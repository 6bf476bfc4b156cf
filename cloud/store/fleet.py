"""Devices and join tokens."""

from __future__ import annotations

import hashlib
import json
import time
import typing

from cloud.store.database import Database
from shared.errors import AuthError, ConflictError, NotFoundError

Row = dict[str, typing.Any]


class Fleet:
    """All devices.

    Parameters
    ----------
    db : Database
        The project's database.
    """

    def __init__(self, db: Database) -> None:
        self._db = db

    def add_token(self, token_id: str, secret: str, region: str, *, uses: int, lifetime_s: float) -> None:
        """Keep a join token; of its secret only the hash."""
        now = time.time()
        self._db.connection.execute(
            "insert into join_tokens values (?, ?, ?, ?, ?, ?)",
            (token_id, _hash(secret), region, uses, now + lifetime_s, now),
        )

    def tokens(self) -> list[Row]:
        """Join tokens, newest first, without secrets."""
        return self._db.rows(
            "select id, region, uses_left, expires_s, created_s from join_tokens order by created_s desc"
        )

    def join(self, device: str, public_key: str, token_id: str, secret: str) -> Row:
        """Take a device in; the same device with the same key may ask again.

        Raises
        ------
        AuthError
            The token is unknown, used up or expired.
        ConflictError
            Another key already has this name.
        """
        with self._db.transaction() as connection:
            token = self._db.row("select * from join_tokens where id = ?", (token_id,))
            if token is None or token["secret_sha256"] != _hash(secret):
                raise AuthError("the join token is not known here", fix="Get a new one: covey device token")
            known = self._db.row("select * from devices where device = ?", (device,))
            if known and (known["public_key"] != public_key or known["status"] != "accepted"):
                said = "was retired" if known["status"] != "accepted" else "is there already, with another key"
                raise ConflictError(f"a device called {device!r} {said}", fix="Choose another --name.")
            if known:
                return known
            if token["expires_s"] < time.time() or token["uses_left"] < 1:
                raise AuthError("the join token is used up or expired", fix="Get a new one: covey device token")
            connection.execute("update join_tokens set uses_left = uses_left - 1 where id = ?", (token_id,))
            connection.execute(
                "insert into devices values (?, ?, ?, 'accepted', ?, 0, 0, '', '', 0, 0, 0, '{}', '')",
                (device, token["region"], public_key, time.time()),
            )
            return self.get(device)

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
        return row | {"report": json.loads(row["report"])}

    def all(self, region: str = "") -> list[Row]:
        """Accepted devices by name."""
        rows = self._db.rows(
            "select * from devices where status = 'accepted' and ? in ('', region) order by device", (region,)
        )
        return [row | {"report": json.loads(row["report"])} for row in rows]

    def retire(self, device: str) -> None:
        """Stop taking anything from a device."""
        self.get(device)
        self._db.connection.execute("update devices set status = 'retired' where device = ?", (device,))

    def events(self, limit: int = 30) -> list[Row]:
        """Newest events of devices first."""
        return self._db.rows("select * from device_events order by id desc limit ?", (limit,))


def _hash(secret: str) -> str:
    return hashlib.sha256(secret.encode()).hexdigest()
