"""The summary at the end: what happened, counted twice, and checks of the story."""

from __future__ import annotations

import math
import typing

from cloud.demo.project import MODEL
from cloud.demo.story import Scene
from shared.summary import auc_of_bins

Row = dict[str, typing.Any]


def summarize(scene: Scene, facts: Row, seconds: float) -> Row:
    """Compare what the applications saw, what the devices say, and what the cloud has; return the summary.

    `ok` is true if every check is.
    """
    rollouts = {row["to_version"]: row for row in scene.store.rollouts.all()}
    statuses = {device.name: device.status() for device in scene.fleet.devices}
    records = _records(scene, statuses)
    predictions = _predictions(scene)
    offline = _offline(scene, facts)
    rolled_back = _rolled_back(scene, rollouts)
    quality = _quality(scene, rollouts)
    regions = _regions(statuses)
    versions = [row["version"] for row in scene.store.models.all(MODEL)]
    checks = {
        "v1_installed_in_every_region": _state(rollouts, "v1") == "promoted",
        "trigger_started_the_finetune": _trigger_fired(scene),
        "v1.1_promoted_after_shadow_and_four_canaries": _went_in_order(scene, rollouts, "v1.1"),
        "bad_model_refused_by_the_gate": facts["gate_refusal"].startswith("flight-delay@v1.2: quality"),
        "override_is_on_record": any(
            row["subject"] == f"{MODEL}@v1.2" for row in scene.store.audit.all(999, "gate overridden")
        ),
        "bad_model_stopped_in_shadow": rolled_back["stage"] == "shadow",
        "bad_model_never_answered": rolled_back["devices_exposed"] == 0 and not predictions["by_version"].get("v1.2"),
        "v2_promoted_after_shadow_and_four_canaries": _went_in_order(scene, rollouts, "v2"),
        "every_device_runs_v2": all(set(versions) == {"v2"} for versions in regions.values()),
        "offline_device_went_on_answering": offline["answered"] > 0 and offline["failed"] == 0,
        "offline_records_arrived": offline["delivered"],
        "no_prediction_failed": predictions["failed"] == 0,
        "nothing_lost": records["lost"] == 0,
        "nothing_doubled": records["doubled"] == 0,
        "quality_rose": quality["incumbent_auc_after"] > quality["incumbent_auc_before"],
    }
    return {
        "ok": all(checks.values()),
        "checks": checks,
        "versions": versions,
        "regions": regions,
        "rolled_back": rolled_back,
        "offline": offline,
        "records": records,
        "predictions": predictions,
        "quality": quality,
        "rollouts": {version: row["outcome"] for version, row in sorted(rollouts.items())},
        "seconds": round(seconds, 1),
    }


def _state(rollouts: Row, version: str) -> str:
    return str(rollouts[version]["state"]) if version in rollouts else ""


def _records(scene: Scene, statuses: Row) -> Row:
    """Requests and outcomes: what the applications were told was taken, against what the cloud has stored."""
    logs = [traffic.log for traffic in scene.traffic.values()]
    late = sum(status["totals"].get("late_outcomes", 0) for status in statuses.values())
    sent = sum(log.answered + log.outcomes for log in logs) - late
    stored, lost, doubled = 0, 0, 0
    for name, traffic in scene.traffic.items():
        row = scene.store.evidence.totals(name)
        has = row["requests"] + row["outcomes"]
        is_late = statuses[name]["totals"].get("late_outcomes", 0)
        wanted = traffic.log.answered + traffic.log.outcomes - is_late
        stored += has
        lost += max(0, wanted - has)
        doubled += max(0, has - wanted)
    return {"sent": sent, "stored": stored, "lost": lost, "doubled": doubled, "late": late}


def _predictions(scene: Scene) -> Row:
    logs = [traffic.log for traffic in scene.traffic.values()]
    by_version: dict[str, int] = {}
    for log in logs:
        for version, n in log.versions.items():
            by_version[version] = by_version.get(version, 0) + n
    return {
        "total": sum(log.answered + log.failed for log in logs),
        "precomputed": sum(log.sources["precomputed"] for log in logs),
        "onnx": sum(log.sources["onnx"] for log in logs),
        "failed": sum(log.failed for log in logs),
        "by_version": dict(sorted(by_version.items())),
    }


def _offline(scene: Scene, facts: Row) -> Row:
    """What the device did without a network; `delivered`: everything it counted is in the cloud now."""
    seen = facts["offline"]
    log = scene.traffic[scene.cut_off].log
    has = scene.store.evidence.totals(scene.cut_off)
    status = next(device for device in scene.fleet.devices if device.name == scene.cut_off).status()
    outcomes = log.outcomes - status["totals"].get("late_outcomes", 0)
    return {
        "device": scene.cut_off,
        "answered": seen.get("to", 0) - seen.get("from", 0),
        "failed": seen.get("failed_to", 0) - seen.get("failed_from", 0),
        "delivered": bool(seen) and (has["requests"], has["outcomes"]) == (log.answered, outcomes),
    }


def _rolled_back(scene: Scene, rollouts: Row) -> Row:
    row = rollouts.get("v1.2")
    stage, exposed = "", 0
    if row and row["state"] == "rolled_back":
        stages = scene.store.rollouts.stages(row["id"])
        failed = [one for one in stages if one["verdict"] == "FAIL"]
        stage = failed[0]["kind"] if failed else ""
        exposed = scene.store.evidence.devices_that_answered(MODEL, [one["id"] for one in stages], 1)
    return {"version": "v1.2", "stage": stage, "devices_exposed": exposed, "devices_total": len(scene.fleet.devices)}


def _quality(scene: Scene, rollouts: Row) -> Row:
    """AUC of v1 and of v1.1 on the same flights: those of v1.1's rollout, where devices scored both."""
    row = rollouts.get("v1.1")
    if row is None:
        return {"incumbent_auc_before": None, "incumbent_auc_after": None}
    epochs = [stage["id"] for stage in scene.store.rollouts.stages(row["id"])]
    before, after = (
        auc_of_bins(scene.store.evidence.bins(MODEL, v, epochs=epochs) or [0] * 40) for v in ("v1", "v1.1")
    )
    if math.isnan(before) or math.isnan(after):
        return {"incumbent_auc_before": 0.0, "incumbent_auc_after": 0.0}
    return {"incumbent_auc_before": round(before, 4), "incumbent_auc_after": round(after, 4)}


def _regions(statuses: Row) -> dict[str, dict[str, int]]:
    """Region to version to number of devices, as the devices say it."""
    out: dict[str, dict[str, int]] = {}
    for status in statuses.values():
        version = status["models"].get(MODEL, {}).get("incumbent", "none")
        counts = out.setdefault(status["region"], {})
        counts[version] = counts.get(version, 0) + 1
    return out


def _trigger_fired(scene: Scene) -> bool:
    fired = scene.store.jobs.fired()
    return (
        bool(fired)
        and fired[-1]["name"] == "excess-loss"
        and any(
            job["kind"] == "finetune" and job["state"] == "done" and "v1.1" in job["result"]
            for job in scene.store.jobs.all()
        )
    )


def _went_in_order(scene: Scene, rollouts: Row, version: str) -> bool:
    """Shadow first, then the regions in order, each opened only when the one before had passed."""
    if _state(rollouts, version) != "promoted":
        return False
    stages = scene.store.rollouts.stages(rollouts[version]["id"])
    order = scene.project.settings.regions.order
    names = [(stage["kind"], stage["region"]) for stage in stages]
    if names != [("shadow", "*"), *(("canary", region) for region in order)]:
        return False
    passed = [stage["passed_s"] for stage in stages]
    opened = [stage["opened_s"] for stage in stages]
    return all(passed) and all(before <= after for before, after in zip(passed, opened[1:], strict=False))
