"""How one rollout has gone, as plain data: its band over the days, guardrails, regions, and what is still missing."""

from __future__ import annotations

import itertools
import typing

import msgspec

from cloud.config import ModelSettings, Project, RolloutSettings
from cloud.rollout import history, overview, standing
from cloud.rollout.guardrails import FAILS, SLOW
from cloud.rollout.look import running
from cloud.rollout.plan import for_stage, stage_name
from cloud.rollout.quality import PREFERENCE, is_interleaved, is_paired
from cloud.rollout.standing import Told
from cloud.rollout.sums import faults_of, pairs_of
from cloud.store.store import Store
from shared.clock import day_of, format_day, format_time
from shared.metrics import get_metric
from shared.summary import latency_quantile

Row = dict[str, typing.Any]
_P95 = 0.95
_AUDITED = 10_000


def course(project: Project, store: Store, number: int) -> Row:
    """Return what `overview.rollout` does, and how it came to that; of several candidates, for the one that leads."""
    of = standing.told(store, number)
    row, stages = of.row, of.stages
    name, model = project.model(row["model"])
    plan = msgspec.convert(row["plan"], RolloutSettings)
    view = overview.rollout(project, store, number)
    del view["history"]
    lead = view["leader"]["arm"]
    mine = standing.of_arm(of.verdicts, lead)
    question = standing.question_of(mine)
    return view | {
        "measure": _measure(question, model),
        "margin": question["decide"]["margin"] if _is_about_lists(question) else model.margin,
        "roles": history.roles(store, name),
        "incumbents": store.models.incumbents(name),
        "regions_order": list(project.settings.regions.order),
        "plan": row["plan"],
        "started": format_time(row["created_s"]),
        "ended": format_time(row["ended_s"]) if row["ended_s"] else "",
        "actor": _actor(store, number),
        "version": _version(store, name, view["leader"]["version"]),
        "overrides": _overrides(store, name, [one["version"] for one in view["candidates"]]),
        "undo_until": format_day(row["ended_day"] + plan.undo_window_days) if row["ended_day"] else "",
        "band": standing.band(store, of, model, lead),
        "guardrails": _guardrails(store, row, stages, mine, plan, view["leader"]),
        "by_region": _by_region(project, store, of, model, lead, question),
        "progress": _progress(store, row, stages, plan, model),
        "said": _said(of),
        "event_day": format_day(day_of(float(store.get_meta("event_s")))),
    }


def _is_about_lists(question: Row) -> bool:
    return bool(question.get("question") == PREFERENCE)


def _measure(question: Row, model: ModelSettings) -> Row:
    """Return what the estimate is of: the model's metric, or which arm's items people take from lists."""
    measure = history.metric_of(model)
    if not _is_about_lists(question):
        return measure
    return {"name": PREFERENCE, "kind": "bernoulli", "better": "higher", "margin": question["decide"]["margin"]}


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


def _overrides(store: Store, name: str, versions: list[str]) -> dict[str, str]:
    """Return why a gate that had refused one of the candidates was overridden."""
    why = {version: _version(store, name, version)["override"] for version in versions}
    return {version: said for version, said in why.items() if said}


def _guardrails(
    store: Store, row: Row, stages: list[Row], verdicts: list[Row], plan: RolloutSettings, lead: Row
) -> Row:
    """Return both arms' failed or slow answers and latencies, and the devices that could not install."""
    opened = [stage["id"] for stage in stages if stage["opened_s"]]
    newest = {verdict["stage"]: verdict["inputs"] for verdict in verdicts}
    devices = [inputs.get("devices", {}) for inputs in newest.values()]
    worst: Row = max(devices, key=_error_ratio, default={})
    faults = store.evidence.faults(row["model"], opened) if opened else []
    judged = [one["guardrails"] for one in newest.values() if one.get("guardrails")]
    return {
        "answers": {
            "arms": [_faults_of(faults, arm) for arm in (0, lead["arm"])],
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
        "p95_s": [_p95(store, row["model"], one, opened) for one in (row["from_version"], lead["version"])],
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


def _by_region(project: Project, store: Store, of: Told, model: ModelSettings, arm: int, question: Row) -> list[Row]:
    """Return the paired gain in each region."""
    pairs = standing.pairs(store, of, model, arm, question)
    scale = standing.scale_of(question, model)
    bernoulli = get_metric(model.metric_name, model.task).kind == "bernoulli" or _is_about_lists(question)
    out = []
    for region in project.settings.regions.order:
        here = pairs_of([pair for pair in pairs if pair["region"] == region], bernoulli=bernoulli)
        gain = history.ratio(here.sum, here.n)
        out.append({"region": region, "n": int(here.n), "gain": None if gain is None else gain * scale})
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
    mature, here = standing.mature_day(store, model), [stage["id"]]
    own = for_stage(plan, stage)
    wanted = own.shadow if stage["kind"] == "shadow" else own.canary
    if is_paired(stage["kind"], plan):
        counted, column = store.evidence.pairs(row["model"], here, before_day=mature), "n"
    else:
        counted, column = store.evidence.served(row["model"], here, before_day=mature), "outcomes"
    # The one that has least is waited for.
    each = [[one for one in counted if one["arm"] == candidate["arm"]] for candidate in running(row)]
    return view | {
        "days": min(len({one["day"] for one in rows}) for rows in each),
        "min_days": wanted.min_days,
        "outcomes": min(sum(one[column] for one in rows) for rows in each),
        "min_outcomes": wanted.min_outcomes,
        "counts": "lists" if is_interleaved(stage["kind"], plan) else "outcomes",
    }


def _said(of: Told) -> list[Row]:
    """Return the verdicts in words, newest first; waiting for the same stage counts as one."""
    names = {stage["id"]: stage_name(stage) for stage in of.stages}
    versions = {one["arm"]: one["version"] for one in of.row["candidates"]}
    # By candidate, so that those who are judged at the same look do not interrupt each other.
    ordered = sorted(of.verdicts, key=lambda row: (row["arm"], row["id"]))
    groups = itertools.groupby(ordered, key=lambda row: (row["arm"], row["stage"], row["word"]))
    said = []
    for (arm, stage, word), rows in groups:
        run = list(rows)
        said.append(
            {
                "id": run[-1]["id"],
                "stage": names.get(stage, str(stage)),
                "version": versions.get(arm, "") if len(versions) > 1 else "",
                "word": word,
                "from_day": format_day(run[0]["event_day"]) if run[0]["event_day"] else "",
                "to_day": format_day(run[-1]["event_day"]) if run[-1]["event_day"] else "",
                "at": format_time(run[-1]["at_s"]),
                "days": len({one["event_day"] for one in run}),
                "reasons": run[-1]["reasons"],
            }
        )
    return sorted(said, key=lambda one: one["id"], reverse=True)
