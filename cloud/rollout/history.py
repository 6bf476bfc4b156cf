"""The fleet over event days, as plain data: who answered, how often from the table, how fast, and how well."""

from __future__ import annotations

import collections
import time
import typing

from cloud.config import ModelSettings, Project
from cloud.rollout.sums import faults_of
from cloud.store.store import Store
from shared.clock import DAY_S, day_of, format_day
from shared.metrics import get_metric
from shared.summary import latency_quantile, restore
from shared.versions import parse_version

Row = dict[str, typing.Any]
_WINDOW_DAYS = 90
_RECENT_DAYS = 7
_AHEAD_DAYS = 7
_P95 = 0.95
_LED = ("promoted", "undone")  # ends of a rollout after which its version has answered everywhere


def fleet_history(project: Project, store: Store, name: str) -> Row:
    """Return what a model did over the newest event days, by day, by version and by region.

    Quality speaks of days whose label window has closed; `recent` of the last seven days.
    """
    name, model = project.model(name)
    event_s = float(store.get_meta("event_s"))
    today, mature = day_of(event_s), day_of(event_s - model.label_window_days * DAY_S)
    from_day = max(0, today - _WINDOW_DAYS + 1)
    known = roles(store, name)
    # Sums carry what devices call a version, and a day: what the registry does not know is nobody's, and a clock that
    # is wrong by years has no place in a chart.
    last_day = (today or day_of(time.time())) + _AHEAD_DAYS
    rows = [
        row
        for row in store.evidence.by_region(name, from_day=from_day)
        if row["version"] in known and row["day"] <= last_day
    ]
    latencies = store.evidence.latencies(name, from_day=from_day)
    settled = [row for row in rows if row["day"] < mature]
    return {
        "model": name,
        "metric": metric_of(model),
        "from_day": format_day(min((row["day"] for row in rows), default=today)),
        "to_day": format_day(today),
        "roles": known,
        "days": _days(rows, latencies, store.evidence.devices_by_day(name, from_day=from_day)),
        "quality": _quality(settled, model),
        "recent": _recent(rows, settled, latencies, model, today, mature),
        "regions": [
            {
                "region": region,
                "share": _share([row for row in rows if row["region"] == region]),
                "recent": _recent(
                    [row for row in rows if row["region"] == region],
                    [row for row in settled if row["region"] == region],
                    [row for row in latencies if row["region"] == region],
                    model,
                    today,
                    mature,
                ),
            }
            for region in project.settings.regions.order
        ],
    }


def metric_of(model: ModelSettings) -> Row:
    """Return a model's metric: name, kind, which way is better, and how much worse a candidate may be."""
    metric = get_metric(model.metric_name, model.task)
    return {"name": metric.name, "kind": metric.kind, "better": metric.direction, "margin": model.margin}


def roles(store: Store, name: str) -> dict[str, str]:
    """Return what each version of a model is now, so that it looks the same wherever it is shown.

    ``incumbent``: it answers somewhere. ``older``: it did, everywhere, once. ``candidate``: it never has.
    """
    incumbents = set(store.models.incumbents(name).values())
    rollouts = [row for row in store.rollouts.all() if row["model"] == name]
    led = {row["to_version"] for row in rollouts if row["state"] in _LED} | {row["from_version"] for row in rollouts}
    running = {
        one["version"]
        for row in rollouts
        if row["state"] == "running" and row["from_version"]
        for one in row["candidates"]
        if one["state"] == "running"
    }

    def role(version: str) -> str:
        if version in incumbents and version not in running:
            return "incumbent"
        return "older" if version in led and version not in running else "candidate"

    return {row["version"]: role(row["version"]) for row in store.models.all(name)}


def ratio(part: float, whole: float) -> float | None:
    """Return a share; None of nothing.

    >>> ratio(1, 4), ratio(0, 0)
    (0.25, None)
    """
    return part / whole if whole else None


def quality_of(rows: typing.Iterable[Row], model: ModelSettings) -> float | None:
    """Return the mean metric of the answers in some sums."""
    rows = list(rows)
    mean = ratio(restore(sum(row["metric_sum"] for row in rows)), sum(row["outcomes"] for row in rows))
    return None if mean is None else mean * model.metric_scale


def _days(rows: list[Row], latencies: list[Row], devices: dict[int, int]) -> list[Row]:
    by_day = collections.defaultdict(list)
    for row in rows:
        by_day[row["day"]].append(row)
    return [
        {
            "day": format_day(day),
            "devices": devices.get(day, 0),
            "p95_s": _p95(row for row in latencies if row["day"] == day),
        }
        | _answers(here)
        for day, here in sorted(by_day.items())
    ]


def _answers(rows: list[Row]) -> Row:
    requests = sum(row["requests"] for row in rows)
    return {
        "requests": requests,
        "hit_ratio": ratio(sum(row["precomputed"] for row in rows), requests),
        "error_ratio": ratio(sum(map(faults_of, rows)), requests),
    }


def _p95(latencies: typing.Iterable[Row]) -> float | None:
    merged = [sum(counts) for counts in zip(*(row["bins"] for row in latencies), strict=True)]
    return latency_quantile(merged, _P95) or None


def _quality(settled: list[Row], model: ModelSettings) -> list[Row]:
    """Return the metric by version and day, versions from old to new."""
    cells = collections.defaultdict(list)
    for row in settled:
        cells[row["version"], row["day"]].append(row)
    return [
        {
            "version": version,
            "days": [
                {
                    "day": format_day(day),
                    "n": sum(row["outcomes"] for row in here),
                    "value": quality_of(here, model),
                }
                for (other, day), here in sorted(cells.items())
                if other == version
            ],
        }
        for version in sorted({version for version, _ in cells}, key=parse_version)
    ]


def _recent(
    rows: list[Row], settled: list[Row], latencies: list[Row], model: ModelSettings, today: int, mature: int
) -> Row:
    """Return the last seven days in one line."""
    after, mature_after = today - _RECENT_DAYS, mature - 1 - _RECENT_DAYS
    good = [row for row in settled if row["day"] > mature_after]
    return (
        _answers([row for row in rows if row["day"] > after])
        | {"p95_s": _p95(row for row in latencies if row["day"] > after)}
        | {"outcomes": sum(row["outcomes"] for row in good), "quality": quality_of(good, model)}
    )


def _share(rows: list[Row]) -> list[Row]:
    """Return who answered: requests by version for each day."""
    by_day: dict[int, dict[str, int]] = collections.defaultdict(dict)
    for row in rows:
        by_day[row["day"]][row["version"]] = row["requests"]
    return [{"day": format_day(day), "versions": versions} for day, versions in sorted(by_day.items())]
