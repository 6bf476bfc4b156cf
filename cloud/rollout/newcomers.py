"""A region that is added to the settings gets what runs in all others: nothing else would ever bring it there."""

from __future__ import annotations

from cloud.config import Project
from cloud.store.store import Store


def welcome(project: Project, store: Store) -> list[str]:
    """Let the incumbent of all other regions answer in those that have none; return what happened.

    While a first version is installed it comes region by region, and where regions differ nobody can say what is meant.
    """
    happened = []
    for model in project.settings.models:
        incumbents = store.models.incumbents(model)
        missing = [region for region in project.settings.regions.order if region not in incumbents]
        if not missing or len(set(incumbents.values())) != 1:
            continue
        running = store.rollouts.running(model)
        if running and not running["from_version"]:
            continue
        version = next(iter(incumbents.values()))
        with store.db.transaction():
            for region in missing:
                store.models.set_incumbent(model, region, version)
        happened.append(f"{model}@{version} answers in {', '.join(missing)} too, as in all other regions")
    return happened
