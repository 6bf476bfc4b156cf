"""How one rollout has gone, as plain data: its band over the days, guardrails, regions, and what is still missing."""

from __future__ import annotations

import itertools
import math
import typing

import msgspec

from cloud.analysis.decide import decide
from cloud.analysis.records import DecideInput
from cloud.config import ModelSettings, Project, RolloutSettings
from cloud.rollout import history, overview
from cloud.rollout.band import band_of
from cloud.rollout.guardrails import FAILS, SLOW
from cloud.rollout.plan import for_stage, stage_name
from cloud.rollout.sums import faults_of, pairs_of
from cloud.store.store import Store
from shared.clock import DAY_S, day_of, format_day, format_time
from shared.metrics import get_metric
from shared.summary import latency_quantile

Row = dict[str, typing.Any]
_P95 = 0.95
_AUDITED = 10_000


def course(project: Project, store: Store, number: int) -> Row:
    """Return what `overview.rollout` does, and how it came to that."""
    row = store.rollouts.get(number)
    name, model = project.model(row["model"])
    stages = store.rollouts.stages(number)
    verdicts = store.rollouts.verdicts(number)
    plan = msgspec.convert(row["plan"], RolloutSettings)
    view = overview.rollout(project, store, number)
    del view["history"]
    return view | {
        "measure": history.metric_of(model),
        "roles": history.roles(store, name),
        "incumbents": store.models.incumbents(name),
        "regions_order": list(project.settings.regions.order),
        "plan": row["plan"],
        "started": format_time(row["created_s"]),
        "ended": format_time(row["ended_s"]) if row["ended_s"] else "",
        "actor": _actor(store, number),
        "version": _version(store, name, row["to_version"]),
        "undo_until": format_day(row["ended_day"] + plan.undo_window_days) if row["ended_day"] else "",
        "band": _band(store, row, stages, verdicts, model),
        "guardrails": _guardrails(store, row, stages, verdicts, plan),
        "by_region": _by_region(project, store, row, stages, model),
        "progress": _progress(store, row, stages, plan, model),
        "said": _said(stages, verdicts),
        "event_day": format_day(day_of(float(store.get_meta("event_s")))),
    }


def _actor(store: Store, number: int) -> str:
    """Who started it."""
    started = store.audit.all(_AUDITED, "rollout start")
    return next((row["actor"] for row in started if msgspec.json.decode(row["detail"]).get("rollout") == number), "")


def _version(store: Store, name: str, version: str) -> Row:
    row = store.models.get(name, version)
    return {
        "kind": row["kind"],
        "parent": row["parent"],
        "why": row["why"],
        "manifest_sha256": row["manifest_sha256"],
        "override": row["detail"].get("override", ""),
    }


def _band(store: Store, row: Row, stages: list[Row], verdicts: list[Row], model: ModelSettings) -> list[Row]:
    """Return the estimate and its band by event day: the last verdict of each day that had something to compare.

    Once every stage has passed no verdict is kept any more, though the evidence for promotion goes on growing: the
    newest estimate is then made from the pairs.
    """
    points = {}
    for verdict in verdicts:
        asked, decision = (verdict["inputs"].get(name, {}) for name in ("decide", "decision"))
        points[verdict["event_day"]] = _point(verdict["event_day"], asked, decision.get("numbers", {}), model)
    if verdicts and stages and all(stage["passed_s"] for stage in stages) and row["from_version"]:
        newest: Row = next((one["inputs"]["decide"] for one in reversed(verdicts) if "decide" in one["inputs"]), {})
        pairs = pairs_of(_pairs(store, row, stages, model), bernoulli=newest["metric"]["kind"] == "bernoulli")
        if newest.get("pairs") and pairs.n:
            asked = msgspec.convert(newest | {"pairs": msgspec.to_builtins(pairs)}, DecideInput)
            day = row["ended_day"] or day_of(float(store.get_meta("event_s")))
            points[day] = _point(day, msgspec.to_builtins(asked), decide(asked).numbers, model)
    return [point for _, point in sorted(points.items()) if point]


def _point(day: int, asked: Row, numbers: Row, model: ModelSettings) -> Row:
    band = band_of(asked, numbers)
    if band is None:
        return {}
    return {
        "day": format_day(day),
        "n": int(numbers["outcomes"]),
        "gain": numbers["difference"] * model.metric_scale,
        "low": band.low * model.metric_scale,
        "high": band.high * model.metric_scale,
        "log_e_not_worse": numbers["log_e_not_worse_by_margin"],
    }


def _pairs(store: Store, row: Row, stages: list[Row], model: ModelSettings) -> list[Row]:
    """Return the mature pairs of a rollout; after its end nothing is added that its verdict did not know."""
    opened = [stage["id"] for stage in stages if stage["opened_s"] and stage["kind"] != "install"]
    if not opened:
        return []
    until = _mature_day(store, model)
    if row["ended_s"]:
        until = min(until, math.ceil(row["ended_day"] + 1 - model.label_window_days) - 1)
    return store.evidence.pairs(row["model"], opened, before_day=until)


def _guardrails(store: Store, row: Row, stages: list[Row], verdicts: list[Row], plan: RolloutSettings) -> Row:
    """Return both arms' failed or slow answers and latencies, and the devices that could not install."""
    opened = [stage["id"] for stage in stages if stage["opened_s"]]
    newest = {verdict["stage"]: verdict["inputs"] for verdict in verdicts}
    devices = [inputs.get("devices", {}) for inputs in newest.values()]
    worst: Row = max(devices, key=_error_ratio, default={})
    faults = store.evidence.faults(row["model"], opened) if opened else []
    judged = [one["guardrails"] for one in newest.values() if one.get("guardrails")]
    return {
        "answers": {
            "arms": [_faults_of(faults, arm) for arm in (0, 1)],
            "margin": plan.request_error_margin,
            "word": _word_of(judged, FAILS),
        },
        "latency": {"margin": plan.latency_margin, "word": _word_of(judged, SLOW)},
        "devices": {
            "failed": worst.get("failed", 0) + worst.get("timed_out", 0),
            "executed": _executed(worst),
            "error_ratio": _error_ratio(worst),
            "limit": plan.error_ratio,
            "min_executed": plan.error_min_executed,
        },
        "p95_s": [_p95(store, row["model"], row[side], opened) for side in ("from_version", "to_version")],
    }


def _word_of(judged: list[Row], name: str) -> str:
    """Newest word on a guardrail, over the whole rollout; empty before it could be compared."""
    newest: Row = judged[-1].get(name, {}) if judged else {}
    decision = newest.get("decision", {})
    return decision["word"] if "standard_error" in decision.get("numbers", {}) else ""


def _executed(devices: Row) -> int:
    return sum(devices.get(word, 0) for word in ("verified", "failed", "timed_out"))


def _error_ratio(devices: Row) -> float:
    """Devices that failed, as a share of those that tried, never of all."""
    return history.ratio(devices.get("failed", 0) + devices.get("timed_out", 0), _executed(devices)) or 0.0


def _faults_of(rows: list[Row], arm: int) -> Row:
    mine = [row for row in rows if row["arm"] == arm]
    requests = sum(row["requests"] for row in mine)
    bad = sum(map(faults_of, mine))
    return {"requests": requests, "bad": bad, "ratio": history.ratio(bad, requests)}


def _p95(store: Store, name: str, version: str, epochs: list[int]) -> float | None:
    if not version or not epochs:
        return None
    return latency_quantile(store.evidence.bins(name, version, epochs=epochs, what="latency_bins"), _P95) or None


def _mature_day(store: Store, model: ModelSettings) -> int:
    return day_of(float(store.get_meta("event_s")) - model.label_window_days * DAY_S)


def _by_region(project: Project, store: Store, row: Row, stages: list[Row], model: ModelSettings) -> list[Row]:
    """Return the paired gain in each region."""
    pairs = _pairs(store, row, stages, model)
    bernoulli = get_metric(model.metric_name, model.task).kind == "bernoulli"
    out = []
    for region in project.settings.regions.order:
        here = pairs_of([pair for pair in pairs if pair["region"] == region], bernoulli=bernoulli)
        gain = history.ratio(here.sum, here.n)
        out.append({"region": region, "n": int(here.n), "gain": None if gain is None else gain * model.metric_scale})
    return out


def _progress(store: Store, row: Row, stages: list[Row], plan: RolloutSettings, model: ModelSettings) -> Row:
    """Return how far the newest open stage is from passing; nothing once it has."""
    opened = [stage for stage in stages if stage["opened_s"]]
    if row["state"] != "running" or not opened or opened[-1]["passed_s"]:
        return {}
    stage = opened[-1]
    view = {"stage": stage_name(stage), "kind": stage["kind"], "region": stage["region"]}
    if stage["kind"] == "install":
        return view
    mature, here = _mature_day(store, model), [stage["id"]]
    own = for_stage(plan, stage)
    wanted = own.shadow if stage["kind"] == "shadow" else own.canary
    if stage["kind"] == "shadow" or plan.canary.keep_pairs:
        counted, column = store.evidence.pairs(row["model"], here, before_day=mature), "n"
    else:
        served = store.evidence.served(row["model"], here, before_day=mature)
        counted, column = [one for one in served if one["arm"] == 1], "outcomes"
    return view | {
        "days": len({one["day"] for one in counted}),
        "min_days": wanted.min_days,
        "outcomes": sum(one[column] for one in counted),
        "min_outcomes": wanted.min_outcomes,
    }


def _said(stages: list[Row], verdicts: list[Row]) -> list[Row]:
    """Return the verdicts in words, newest first; waiting for the same stage counts as one."""
    names = {stage["id"]: stage_name(stage) for stage in stages}
    groups = itertools.groupby(verdicts, key=lambda row: (row["stage"], row["word"]))
    said = []
    for (stage, word), rows in groups:
        run = list(rows)
        said.append(
            {
                "stage": names.get(stage, str(stage)),
                "word": word,
                "from_day": format_day(run[0]["event_day"]) if run[0]["event_day"] else "",
                "to_day": format_day(run[-1]["event_day"]) if run[-1]["event_day"] else "",
                "at": format_time(run[-1]["at_s"]),
                "days": len({one["event_day"] for one in run}),
                "reasons": run[-1]["reasons"],
            }
        )
    return said[::-1]
