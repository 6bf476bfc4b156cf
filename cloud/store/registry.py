"""The model registry: versions, where they come from, what they measured, and who runs them."""

from __future__ import annotations

import json
import time
import typing

from cloud.store.database import Database
from cloud.store.restored import taken
from shared.errors import NotFoundError
from shared.versions import ModelVersion, next_stateful, next_stateless, parse_version

Row = dict[str, typing.Any]
Status = typing.Literal["training", "refused", "failed", "ready"]


class Registry:
    """Versions of all models.

    Parameters
    ----------
    db : Database
        The project's database.
    """

    def __init__(self, db: Database) -> None:
        self._db = db

    def allocate(
        self, model: str, *, parent: str, why: str, data_version: str, features: str, stateful: bool
    ) -> ModelVersion:
        """Take the next version, when training starts; a number is never used twice."""
        with self._db.transaction() as connection:
            known = taken(self._db, self.all(model))
            version = next_stateful(parse_version(parent), known) if stateful else next_stateless(known)
            connection.execute(
                "insert into model_versions values (?, ?, ?, ?, 'training', ?, ?, ?, '', '', '{}', ?)",
                (
                    model,
                    str(version),
                    "stateful" if stateful else "stateless",
                    parent,
                    why,
                    data_version,
                    features,
                    time.time(),
                ),
            )
        return version

    def finish(
        self, model: str, version: str, status: Status, detail: typing.Mapping[str, object], *, features: str = ""
    ) -> None:
        """Set how training ended."""
        self._db.connection.execute(
            "update model_versions set status = ?, detail = ?, features_sha256 = ? where model = ? and version = ?",
            (status, json.dumps(detail, default=str), features, model, version),
        )

    def set_manifest(self, model: str, version: str, manifest_sha256: str) -> None:
        """Note the signed manifest of a version."""
        self._db.connection.execute(
            "update model_versions set manifest_sha256 = ? where model = ? and version = ?",
            (manifest_sha256, model, version),
        )

    def get(self, model: str, version: str) -> Row:
        """Return a version, with `detail` as plain data.

        Raises
        ------
        NotFoundError
            No such version.
        """
        row = self._db.row("select * from model_versions where model = ? and version = ?", (model, version))
        if row is None:
            known = ", ".join(r["version"] for r in self.all(model)) or "none"
            raise NotFoundError(f"no version {version!r} of {model}", fix=f"Known are: {known}.")
        return row | {"detail": json.loads(row["detail"])}

    def all(self, model: str = "") -> list[Row]:
        """All versions, of one model or of all, oldest first."""
        rows = self._db.rows(
            "select * from model_versions where ? in ('', model) order by model, created_s, version", (model,)
        )
        return [row | {"detail": json.loads(row["detail"])} for row in rows]

    def newest_ready(self, model: str) -> Row | None:
        """Return the newest version that may be rolled out."""
        ready = [row for row in self.all(model) if row["status"] == "ready"]
        return ready[-1] if ready else None

    def incumbents(self, model: str) -> dict[str, str]:
        """Region to the version that answers there."""
        rows = self._db.rows("select region, version from incumbents where model = ?", (model,))
        return {row["region"]: row["version"] for row in rows}

    def set_incumbent(self, model: str, region: str, version: str) -> None:
        """Make a version answer in a region; part of the transaction that is open."""
        self._db.connection.execute(
            "insert into incumbents values (?, ?, ?, ?) on conflict (model, region) do update set"
            " version = excluded.version, since_s = excluded.since_s",
            (model, region, version, time.time()),
        )

    def unset_incumbent(self, model: str, region: str) -> None:
        """Let nothing of a model run in a region; part of the transaction that is open."""
        self._db.connection.execute("delete from incumbents where model = ? and region = ?", (model, region))

    def resolve(self, model: str, name: str) -> Row:
        """Look up ``v1.1``, ``@incumbent``, ``@candidate`` or ``@latest``."""
        if name == "@latest":
            row = self.newest_ready(model)
            if row is None:
                raise NotFoundError(
                    f"{model} has no version that may be rolled out", fix="Train one: covey model train"
                )
            return row
        if name == "@incumbent":
            versions = set(self.incumbents(model).values())
            if len(versions) != 1:
                said = ", ".join(sorted(versions)) or "none"
                raise NotFoundError(f"regions have different incumbents of {model}: {said}", fix="Name the version.")
            return self.get(model, versions.pop())
        if name == "@candidate":
            running = self._db.rows(
                "select c.version from candidates c join rollouts r on r.id = c.rollout"
                " where r.model = ? and r.state = 'running' and c.state = 'running' order by c.arm",
                (model,),
            )
            if not running:
                raise NotFoundError(f"no rollout of {model} is running", fix="Name the version.")
            if len(running) > 1:
                said = ", ".join(row["version"] for row in running)
                raise NotFoundError(f"{model} has several candidates: {said}", fix="Name the version.")
            return self.get(model, running[0]["version"])
        return self.get(model, str(parse_version(name)))
