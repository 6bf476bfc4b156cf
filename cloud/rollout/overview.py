"""What people are shown: the fleet and a rollout as plain data, for pages, commands and JSON alike."""

from __future__ import annotations

import collections
import time
import typing

import msgspec

from cloud.analysis.forecast import more_outcomes_of
from cloud.config import ModelSettings, Project, RolloutSettings
from cloud.rollout import standing
from cloud.rollout.beside import beside
from cloud.rollout.confirm import waited_for
from cloud.rollout.devices import lacks, status_of
from cloud.rollout.pace import control_of, held_up
from cloud.rollout.plan import stage_name
from cloud.rollout.verdict import WAITS
from cloud.store.store import Store
from shared.channel import needs, parse_channel
from shared.clock import format_day, format_time
from shared.summary import latency_quantile

Row = dict[str, typing.Any]
_EVENTS = 20


def fleet(project: Project, store: Store, *, now_s: float | None = None) -> Row:
    """Return the fleet: regions, versions, totals, running rollouts, newest events, and how the worker is."""
    now = time.time() if now_s is None else now_s
    pins = store.pins.in_region()
    set_aside = {row["device"]: row for row in store.aside.all()}
    devices = [_device(row, project, now, pins, set_aside) for row in store.fleet.all()]
    event_s = float(store.get_meta("event_s"))
    return {
        "project": project.settings.project.name,
        "event_time": format_time(event_s) if event_s else "",
        "event_s": event_s,
        "devices": {"total": len(devices), "online": sum(device["online"] for device in devices)},
        "regions": [_region(name, devices) for name in project.settings.regions.order],
        "labels": _labels(devices),
        "models": {name: _model(store, name) for name in project.settings.models},
        "pins": [{key: pin[key] for key in ("device", "region", "model", "version", "reason")} for pin in pins],
        "aside": [{"device": name, "region": row["region"], **aside(row)} for name, row in set_aside.items()],
        "totals": store.evidence.totals(),
        "channels": {row["region"]: row["sequence"] for row in store.rollouts.channels()},
        "rollouts": [brief(store, row) for row in store.rollouts.all_running()],
        "events": _events(store),
        "worker": {
            "revision": store.evidence.revision(),
            "tick_revision": int(float(store.get_meta("tick_revision"))),
            "ticked_s": float(store.get_meta("ticked_s")),
            "jobs": [{key: job[key] for key in ("id", "model", "kind", "state", "why")} for job in store.jobs.open()],
        },
    }


def aside(row: Row) -> Row:
    """Say until when a device is set aside, why, and what it goes on with."""
    said = {"since": format_time(row["since_s"]), "until_day": _day(row["until_day"]), "why": row["why"]}
    return said | {"keeps": row["kept"]}


def _device(
    row: Row, project: Project, now_s: float, pins: typing.Sequence[Row], set_aside: typing.Mapping[str, Row]
) -> Row:
    status = status_of(row)
    return {
        "device": row["device"],
        "region": row["region"],
        "online": now_s - row["seen_s"] <= project.settings.serve.online_window_s,
        "seen_s": row["seen_s"],
        "state": status.state,
        "generation": status.generation,
        "watermark_s": status.watermark_s,
        "channel_sequence": status.channel_sequence,
        "versions": {entry.model: entry.incumbent for entry in status.models},
        "candidates": {
            entry.model: ", ".join((entry.candidate, *entry.also)) for entry in status.models if entry.candidate
        },
        "refused": {entry.model: entry.refused for entry in status.models if entry.refused},
        "stale_s": status.stale_s,
        "pins": {pin["model"]: pin["version"] for pin in pins if pin["device"] == row["device"]},
        "aside": aside(set_aside[row["device"]]) if row["device"] in set_aside else None,
        "labels": dict(sorted(status.labels.items())) if status.labels else row["labels"],
        "given_labels": row["labels"],
    }


def devices(project: Project, store: Store, region: str = "") -> list[Row]:
    """Return every device."""
    now = time.time()
    pins, set_aside = store.pins.in_region(region), {row["device"]: row for row in store.aside.all(region)}
    return [_device(row, project, now, pins, set_aside) for row in store.fleet.all(region)]


def _labels(rows: typing.Sequence[Row]) -> dict[str, dict[str, int]]:
    """Count devices by label and value; the values that most have first."""
    counts: dict[str, collections.Counter[str]] = collections.defaultdict(collections.Counter)
    for device in rows:
        for key, value in device["labels"].items():
            counts[key][value] += 1
    return {key: dict(counts[key].most_common()) for key in sorted(counts)}


def _region(name: str, rows: list[Row]) -> Row:
    here = [device for device in rows if device["region"] == name]
    versions: dict[str, collections.Counter[str]] = collections.defaultdict(collections.Counter)
    for device in here:
        for model, version in device["versions"].items():
            versions[model][version] += 1
    return {
        "region": name,
        "devices": len(here),
        "online": sum(device["online"] for device in here),
        "good": sum(device["state"] == "good" for device in here),
        "candidates": sum(bool(device["candidates"]) for device in here),
        "versions": {model: dict(sorted(counts.items())) for model, counts in versions.items()},
    }


def _model(store: Store, name: str) -> Row:
    incumbents = store.models.incumbents(name)
    rows = store.models.all(name)
    latency = {version: store.evidence.bins(name, version, what="latency_bins") for version in set(incumbents.values())}
    return {
        "incumbents": incumbents,
        "versions": [{key: row[key] for key in ("version", "kind", "parent", "status", "why")} for row in rows],
        "p95_s": {version: latency_quantile(bins, 0.95) for version, bins in latency.items() if bins},
    }


def _events(store: Store) -> list[Row]:
    """Newest entries of the audit log, as sentences."""
    return [
        {"at": format_time(row["at_s"]), "action": row["action"], "subject": row["subject"], "reason": row["reason"]}
        for row in store.audit.all(_EVENTS)
    ]


def brief(store: Store, row: Row) -> Row:
    """Return a rollout in short."""
    stages = store.rollouts.stages(row["id"])
    opened = [stage for stage in stages if stage["opened_s"]]
    return {
        "id": row["id"],
        "model": row["model"],
        "from": row["from_version"],
        "to": row["to_version"],
        "tried": tried(row),
        "candidates": [{key: one[key] for key in ("arm", "version", "state", "why")} for one in row["candidates"]],
        "state": row["state"],
        "paused": bool(row["paused"]),
        "expedited": bool(row["plan"].get("expedited")),
        "stage": stage_name(opened[-1]) if opened else "",
        "outcome": row["outcome"],
    }


def tried(row: Row) -> list[str]:
    """Return the versions that a rollout is about now: those that run; else the one promoted, or all there were."""
    running = [one["version"] for one in row["candidates"] if one["state"] == "running"]
    won = [one["version"] for one in row["candidates"] if one["state"] == "promoted"]
    return running or won or [one["version"] for one in row["candidates"]]


def _day(day: int) -> str:
    """Write an event day; nothing for one that nobody knows: no device had said yet what day it is out there."""
    return format_day(day) if day else ""


def _paused_by(store: Store, row: Row) -> str:
    """Say who paused a rollout that runs, and why; nothing if it is not paused."""
    last = store.audit.last("rollout pause", f"rollout {row['id']}") if row["paused"] else None
    return f"{last['actor']}: {last['reason']}" if last and last["reason"] else last["actor"] if last else ""


def rollout(project: Project, store: Store, number: int) -> Row:
    """Return a rollout with its stages, numbers, reasons and history of verdicts."""
    of = standing.told(store, number)
    row = of.row
    _, model = project.model(row["model"])
    candidates = standing.candidates(store, of, model)
    lead = standing.leader(candidates)
    newest = {(verdict["stage"], verdict["arm"]): verdict for verdict in of.verdicts}
    return brief(store, row) | {
        "why": row["why"],
        "paused_by": _paused_by(store, row),
        "created": format_time(row["created_s"]),
        "created_day": _day(row["created_day"]),
        "ended_day": _day(row["ended_day"]),
        "metric": model.metric_name,
        "margin": model.margin,
        "candidates": candidates,
        "leader": {key: lead[key] for key in ("arm", "version")},
        "stages": [
            _stage(
                store,
                row,
                stage,
                {arm: one for (of_stage, arm), one in newest.items() if of_stage == stage["id"]},
                lead["arm"],
                model,
            )
            for stage in of.stages
        ],
        "history": [_point(verdict, model) for verdict in of.verdicts],
        "promotion": _promotion(store, row, standing.of_arm(of.verdicts, lead["arm"])),
        "exposed": store.evidence.devices_that_answered(
            row["model"], [stage["id"] for stage in of.stages if stage["opened_s"]]
        ),
        "devices": len(store.fleet.all()),
        "waits_for": held_up(row, store.rollouts.stages(number), project.settings.regions.order, time.time())
        or " and ".join(waited_for(project, store, row)),
        "control": control_of(msgspec.convert(row["plan"], RolloutSettings), project.settings.regions.order),
        "pinned": [pin["device"] for pin in store.pins.in_region() if pin["model"] == row["model"]],
        "aside": [one["device"] for one in store.aside.all()],
        "too_old": _too_old(store, row["model"]) if row["state"] == "running" else [],
        "beside": beside(project, store, row),
    }


def _too_old(store: Store, model: str) -> list[str]:
    """Devices whose agents do not understand what their region's channel says of a model that is tried."""
    needed = {row["region"]: needs(parse_channel(row["body"]), model) for row in store.rollouts.channels()}
    return [device["device"] for device in store.fleet.all() if lacks(device, needed)] if any(needed.values()) else []


def _promotion(store: Store, row: Row, verdicts: list[Row]) -> Row:
    """Return what promotion waits for once every stage has passed, and how many more outcomes that likely takes."""
    if row["state"] != "running":
        return {"waits": [], "more_outcomes": None}
    said = str(store.get_meta(WAITS.format(row["id"]), ""))
    newest = standing.question_of(verdicts)
    decides = newest and not row["plan"].get("expedited")  # else a person does
    more = more_outcomes_of(newest["decision"]["numbers"], newest["decide"]["margin"]) if decides else None
    return {"waits": said.split("\n") if said else [], "more_outcomes": more}


def _stage(store: Store, row: Row, stage: Row, newest: dict[int, Row], lead: int, model: ModelSettings) -> Row:
    """Return a stage with the numbers of the candidate that leads, and the devices of the one that has fewest."""
    inputs = newest[lead]["inputs"] if lead in newest else {}
    runs = [one["arm"] for one in row["candidates"] if one["state"] != "dropped"] or list(newest)
    seen = [newest[arm]["inputs"].get("devices", {}) for arm in runs if arm in newest]
    pairs = inputs.get("decide", {}).get("pairs") or {}
    return {
        "name": stage_name(stage),
        "kind": stage["kind"],
        "region": stage["region"],
        "device_share": stage["settings"].get("device_share", 1.0),
        "wanted_devices": stage["settings"].get("devices", 0),
        "taken_devices": stage["taken"],
        "where": stage["settings"].get("where", {}),
        "waits_for_approval": bool(
            stage["settings"].get("approve") and not stage["approved_s"] and not stage["opened_s"]
        ),
        "epoch": stage["id"],
        "verdict": stage["verdict"],
        "why": stage["why"],
        "opened_day": _day(stage["opened_day"]),
        "passed_day": _day(stage["passed_day"]),
        "devices": min(seen, key=lambda devices: devices.get("verified", 0), default={}),
        "pairs": pairs.get("n", 0),
        "gain": _gain(pairs, standing.scale_of(inputs, model)),
        "numbers": inputs.get("decision", {}).get("numbers", {}),
        "exposed": store.evidence.devices_that_answered(row["model"], [stage["id"]]) if stage["opened_s"] else 0,
    }


def _gain(pairs: Row, scale: float) -> float | None:
    """Mean gain of the pairs, in units of the metric: sums are kept in units of its scale."""
    return pairs["sum"] / pairs["n"] * scale if pairs.get("n") else None


def _point(verdict: Row, model: ModelSettings) -> Row:
    decision = verdict["inputs"].get("decision", {})
    pairs = verdict["inputs"].get("decide", {}).get("pairs") or {}
    return {
        "stage": verdict["stage"],
        "arm": verdict["arm"],
        "day": format_day(verdict["event_day"]),
        "word": verdict["word"],
        "n": pairs.get("n", 0),
        "gain": _gain(pairs, standing.scale_of(verdict["inputs"], model)),
        "numbers": decision.get("numbers", {}),
    }
