"""Read a plan file, laid over the project's own ``[rollout]``; and what is known of the fleet that it is for."""

from __future__ import annotations

import math
import pathlib
import typing

import msgspec

from cloud.config import ModelSettings, Project, RolloutSettings
from cloud.rollout.groups import labels_soon
from cloud.rollout.lint import Traffic
from cloud.store.store import Store
from shared import settings
from shared.clock import day_of
from shared.errors import PlanError
from shared.summary import restore

_LOOKS_BACK_DAYS = 14
ASSUMED_OUTCOMES, ASSUMED_DEVIATION = 20.0, 0.5
Plain = dict[str, typing.Any]


def read_plan(project: Project, path: pathlib.Path | None) -> RolloutSettings:
    """Return the plan of a rollout: the project's, with what a file says laid over it.

    Parameters
    ----------
    path : Path, optional
        TOML with keys of ``[rollout]``; tables are laid over tables, lists take the place of lists.

    Raises
    ------
    PlanError
        It can not be read, or names what there is not.
    """
    if path is None:
        return project.settings.rollout
    try:
        text = path.read_text()
    except (OSError, ValueError) as err:
        raise PlanError(f"can not be read: {err}", field=str(path), fix="Mend the path, or the file.") from err
    said = settings.parse_toml(text, path.name)
    if "rollout" in said:
        fix = "Such as [canary] for [rollout.canary]."
        raise PlanError("the keys of a plan stand without [rollout]", field=path.name, fix=fix)
    settings.convert(said, RolloutSettings, source=path.name, text=text, error=PlanError)
    merged = _laid_over(msgspec.to_builtins(project.settings.rollout), said)
    return settings.convert(merged, RolloutSettings, source=path.name, text=text, error=PlanError)


def _laid_over(below: Plain, above: Plain) -> Plain:
    return below | {
        key: _laid_over(below[key], value) if isinstance(value, dict) and isinstance(below.get(key), dict) else value
        for key, value in above.items()
    }


def traffic_of(
    project: Project,
    store: Store,
    name: str,
    model: ModelSettings,
    *,
    outcomes_per_day: float | None,
    deviation: float | None,
) -> tuple[Traffic, list[str]]:
    """Return what is known of the fleet, and what had to be assumed.

    Parameters
    ----------
    outcomes_per_day, deviation : float, optional
        In place of what the last two weeks of event time, and the pairs of earlier rollouts, say.
    """
    accepted = [device for device in store.fleet.all() if device["status"] == "accepted"]
    devices = {
        region: sum(device["region"] == region for device in accepted) for region in project.settings.regions.order
    }
    assumed = []
    known = _outcomes_per_day(store, name, len(accepted))
    if outcomes_per_day is None and not known:
        assumed.append(f"{ASSUMED_OUTCOMES:g} outcomes a device and day are assumed: nothing was seen yet")
    spread = _deviation(store, name) * model.metric_scale
    if deviation is None and not spread:
        assumed.append(f"a deviation of {ASSUMED_DEVIATION:g} between the arms is assumed: no pairs were seen yet")
    traffic = Traffic(
        devices,
        known or ASSUMED_OUTCOMES if outcomes_per_day is None else outcomes_per_day,
        spread or ASSUMED_DEVIATION if deviation is None else deviation,
        model.label_window_days,
        {region: [labels_soon(device) for device in accepted if device["region"] == region] for region in devices},
    )
    return traffic, assumed


def _outcomes_per_day(store: Store, name: str, n_devices: int) -> float:
    until = day_of(float(store.get_meta("event_s")))
    rows = store.evidence.by_day(name, from_day=until - _LOOKS_BACK_DAYS, before_day=until)
    days = {row["day"] for row in rows}
    return sum(row["outcomes"] for row in rows) / len(days) / n_devices if days and n_devices else 0.0


def _deviation(store: Store, name: str) -> float:
    """Standard deviation of a pair's gain over all rollouts of a model, in the units of the sums; 0 without pairs.

    Interleaved lists are left out: what people took has other units.
    """
    row = store.db.row(
        "select cast(total(n) as integer) as n, cast(total(sum) as integer) as sum,"
        " cast(total(sumsq) as integer) as sumsq from pairs where model = ? and epoch not in"
        " (select s.id from stages s join rollouts r on r.id = s.rollout where s.kind = 'canary'"
        " and json_extract(r.plan, '$.canary.mode') = 'interleave')",
        (name,),
    )
    if not row or row["n"] < 2:  # noqa: PLR2004 - one pair has no spread
        return 0.0
    mean = restore(row["sum"]) / row["n"]
    return math.sqrt(max(0.0, restore(row["sumsq"]) / row["n"] - mean * mean))
