"""Devices that run one version whatever is rolled out, because somebody said so."""

from __future__ import annotations

import time
import typing

from cloud.store.database import Database
from shared.channel import MAX_PINS
from shared.errors import ConflictError, LimitError, NotFoundError

Row = dict[str, typing.Any]


class Pins:
    """All pins.

    Parameters
    ----------
    db : Database
        The project's database.
    """

    def __init__(self, db: Database) -> None:
        self._db = db

    def check(self, device: str, model: str, version: str) -> str:
        """Return the region of a device that may be pinned to a version.

        Raises
        ------
        NotFoundError
            No such device, or version.
        ConflictError
            The device is not in the fleet, nothing of the model runs yet, or the version is not ready or not signed.
        LimitError
            So many devices of the region are pinned that no more fit into its channel.
        """
        row = self._db.row("select region, status from devices where device = ?", (device,))
        if row is None:
            raise NotFoundError(f"no device {device!r:.80}", fix="See: covey device list")
        if row["status"] != "accepted":
            raise ConflictError(f"{device!r} is {row['status']}", fix="Only one that is in the fleet can be pinned.")
        made = self._db.row(
            "select status, manifest_sha256 from model_versions where model = ? and version = ?", (model, version)
        )
        if made is None:
            raise NotFoundError(f"no version {version!r:.40} of {model}", fix="See: covey model list")
        if made["status"] != "ready" or not made["manifest_sha256"]:
            said = made["status"] if made["status"] != "ready" else "not signed yet"
            raise ConflictError(f"{model}@{version} is {said}", fix="A device runs signed versions only.")
        region: str = row["region"]
        if self._db.row("select 1 from incumbents where model = ? and region = ?", (model, region)) is None:
            raise ConflictError(f"nothing of {model} runs in {region} yet", fix="Roll a version out first.")
        others = {pin["device"] for pin in self.in_region(region) if pin["model"] == model}
        aside = self._db.rows(
            "select a.device from aside a join devices d on d.device = a.device where d.region = ?", (region,)
        )
        others |= {row["device"] for row in aside}
        if len(others - {device}) >= MAX_PINS:
            raise LimitError(
                f"{len(others):,} devices of {region} are pinned for {model} or set aside;"
                " no more fit into its channel",
                fix="Unpin some: covey device unpin. For so many, a region of their own is better.",
            )
        return region

    def set(self, device: str, model: str, version: str, *, actor: str, reason: str) -> None:
        """Pin a device, in place of an earlier pin; raises what `check` does."""
        with self._db.transaction() as connection:
            self.check(device, model, version)
            connection.execute(
                "insert or replace into pins values (?, ?, ?, ?, ?, ?)",
                (model, device, version, actor, reason, time.time()),
            )

    def unset(self, device: str, model: str) -> Row:
        """Take a pin away; return what it was.

        Raises
        ------
        NotFoundError
            It is not pinned.
        """
        with self._db.transaction() as connection:
            row = self._db.row("select * from pins where model = ? and device = ?", (model, device))
            if row is None:
                raise NotFoundError(f"{device!r:.80} is not pinned for {model}", fix="See: covey device show")
            connection.execute("delete from pins where model = ? and device = ?", (model, device))
        return row

    def of_device(self, device: str) -> list[Row]:
        """Pins of one device, by model."""
        return self._db.rows("select * from pins where device = ? order by model", (device,))

    def in_region(self, region: str = "") -> list[Row]:
        """Pins of the devices of a region that are in the fleet, or of all regions, by device."""
        return self._db.rows(
            "select p.*, d.region from pins p join devices d on d.device = p.device"
            " where d.status = 'accepted' and ? in ('', d.region) order by p.device, p.model",
            (region,),
        )
