"""A project's stores behind one door."""

from __future__ import annotations

import time

from cloud.config import Project
from cloud.store import restored
from cloud.store.aside import Aside
from cloud.store.audit import Audit
from cloud.store.blobs import Blobs
from cloud.store.database import Database
from cloud.store.datasets import Datasets
from cloud.store.evidence import Evidence
from cloud.store.fleet import Fleet
from cloud.store.hooks import Hooks
from cloud.store.jobs import Jobs
from cloud.store.measures import Measures
from cloud.store.pins import Pins
from cloud.store.registry import Registry
from cloud.store.rollouts import Rollouts


class Store:
    """Everything a project remembers.

    Parameters
    ----------
    project : Project
        Its folder and settings.
    """

    def __init__(self, project: Project) -> None:
        self.db = Database(project.database)
        restored.go_on(self.db, time.time())
        self.blobs = Blobs(project.blobs)
        self.audit = Audit(self.db)
        self.datasets = Datasets(self.db)
        self.models = Registry(self.db)
        self.jobs = Jobs(self.db)
        self.fleet = Fleet(self.db)
        self.evidence = Evidence(self.db)
        self.measures = Measures(self.db)
        self.rollouts = Rollouts(self.db)
        self.pins = Pins(self.db)
        self.aside = Aside(self.db)
        self.hooks = Hooks(self.db)

    def get_meta(self, key: str, default: float | str = 0) -> float | str:
        """Return a small value."""
        row = self.db.row("select value from meta where key = ?", (key,))
        return row["value"] if row else default

    def set_meta(self, key: str, value: float | str) -> None:
        """Keep a small value."""
        self.db.connection.execute(
            "insert into meta values (?, ?) on conflict (key) do update set value = excluded.value", (key, value)
        )

    def close(self) -> None:
        """Close this thread's connection."""
        self.db.close()
