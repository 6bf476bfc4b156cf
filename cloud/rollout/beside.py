"""What is shown beside quality, by version: calibration, memory, and numbers that came with outcomes."""

from __future__ import annotations

import typing

from cloud.analysis.calibration import calibration_of_bins
from cloud.config import ModelSettings, NumberSettings, Project
from cloud.rollout.measured import rows_of_number
from cloud.store.store import Store
from shared.clock import DAY_S, day_of
from shared.errors import NotFoundError
from shared.summary import auc_of_bins, restore

Row = dict[str, typing.Any]


def beside(project: Project, store: Store, rollout: Row) -> Row:
    """Return what was measured beside quality while a rollout ran.

    Returns
    -------
    dict
        ``calibration`` (version to error and reliability table), ``memory`` (version to bytes and budget) and
        ``numbers`` (name to mean by version, on mature days), ``earlier`` (where whole devices are arms: what was
        taken out of their sums); and ``lines`` that say it to people.
    """
    _, settings = project.model(rollout["model"])
    epochs = [stage["id"] for stage in store.rollouts.stages(rollout["id"]) if stage["opened_s"]]
    arms = {0: rollout["from_version"]} | {one["arm"]: one["version"] for one in rollout["candidates"]}
    arms = {arm: version for arm, version in arms.items() if version}
    said: Row = {
        "calibration": {
            version: calibration(store, rollout["model"], version, settings, epochs) for version in arms.values()
        },
        "memory": memory(store, rollout["model"], epochs),
        "numbers": numbers(store, rollout["model"], settings, epochs, arms),
        "earlier": _earlier(store, rollout),
    }
    return said | {"lines": _lines(said)}


def calibration(
    store: Store, model: str, version: str, settings: ModelSettings, epochs: typing.Collection[int] = ()
) -> Row | None:
    """Calibration of one version on the devices, in some stages or ever; None without outcomes, and of regressions.

    Of a model with more than two classes the score is that of its first choice, and a label is whether it was right.
    """
    counts = store.evidence.bins(model, version, epochs=epochs)
    found = calibration_of_bins(counts) if counts and settings.task != "regression" else None
    if found is None:
        return None
    said: Row = {"outcomes": found.n, "error": found.error, "bins": [one._asdict() for one in found.bins]}
    return said | ({"auc": auc_of_bins(counts)} if settings.task == "binary" else {})


def memory(store: Store, model: str, epochs: typing.Collection[int]) -> Row:
    """Memory that versions take, by device, and the budget that the self-test holds them to."""
    devices: dict[str, dict[str, list[float]]] = {}
    for row in store.measures.memory(model, epochs):
        if row["n"]:
            size = restore(row["sum"]) / row["n"] * row["scale"]
            devices.setdefault(row["version"], {}).setdefault(row["device"], []).append(size)
    found = {}
    for version, by_device in sorted(devices.items()):
        means = [sum(sizes) / len(sizes) for sizes in by_device.values()]
        found[version] = {
            "devices": len(means),
            "mean_bytes": round(sum(means) / len(means)),
            "largest_bytes": round(max(map(max, by_device.values()))),
            "budget_bytes": _budget(store, model, version),
        }
    return found


def _budget(store: Store, model: str, version: str) -> int | None:
    try:
        draft = store.models.get(model, version)["detail"]["pieces"]["draft"]
    except (NotFoundError, KeyError):
        return None
    budget: int = draft["budgets"]["memory_bytes"]
    return budget


def numbers(
    store: Store,
    model: str,
    settings: ModelSettings,
    epochs: typing.Collection[int],
    arms: typing.Mapping[int, str],
) -> Row:
    """Means of numbers by version, as the guardrails see them."""
    if not settings.numbers:
        return {}
    mature_day = day_of(float(store.get_meta("event_s")) - settings.label_window_days * DAY_S)
    posted = store.measures.numbers(model, epochs, before_day=mature_day)
    served = store.evidence.served(model, epochs, before_day=mature_day)
    return {name: _means(name, own, posted, served, arms) for name, own in settings.numbers.items()}


def _means(name: str, own: NumberSettings, posted: list[Row], served: list[Row], arms: typing.Mapping[int, str]) -> Row:
    rows = rows_of_number(name, own, posted, served)
    found: Row = {"direction": own.direction, "margin": own.margin, "per": own.per, "versions": {}}
    for arm, version in arms.items():
        n = sum(row["n"] for row in rows if row["arm"] == arm)
        if n:
            total = sum(row["total"] for row in rows if row["arm"] == arm)
            found["versions"][version] = {"n": int(n), "mean": total / n}
    return found


def _earlier(store: Store, rollout: Row) -> list[Row]:
    """What the newest verdict took out of the sums of devices."""
    if rollout["plan"]["canary"].get("unit") != "device":
        return []
    verdicts = store.rollouts.verdicts(rollout["id"])
    return next((one["inputs"]["earlier"] for one in reversed(verdicts) if "earlier" in one["inputs"]), [])


def _lines(said: Row) -> list[str]:
    """Say it for people, one line for each thing."""
    lines = []
    found = {version: one for version, one in said["calibration"].items() if one}
    if found:
        parts = [f"{version} {one['error']:.3f} of {one['outcomes']:,}" for version, one in found.items()]
        lines.append(f"calibration error: {', '.join(parts)}")
    for name, own in said["numbers"].items():
        parts = [f"{version} {one['mean']:.4g} of {one['n']:,}" for version, one in own["versions"].items()]
        lines.append(
            f"{name}, mean: {', '.join(parts) or 'none yet'}; {own['direction']} is better, margin {own['margin']:g}"
        )
    lines += [
        f"earlier days of devices explain {one['explained']:.0%} of how they differ in {one['region']}"
        for one in said["earlier"]
        if one["theta"]
    ]
    if said["memory"]:
        lines.append(f"memory: {', '.join(_memory_of(version, one) for version, one in said['memory'].items())}")
    return lines


def _memory_of(version: str, one: Row) -> str:
    budget = one["budget_bytes"]
    over = f", over its budget of {budget / 1e6:.0f} MB on a device" if budget and one["largest_bytes"] > budget else ""
    return f"{version} {one['mean_bytes'] / 1e6:.1f} MB{over}"
