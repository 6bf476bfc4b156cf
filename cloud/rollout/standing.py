"""How each candidate of a rollout stands, as plain data: its estimate and band by event day, and what it lacks."""

from __future__ import annotations

import math
import typing

import msgspec

from cloud.analysis.decide import decide
from cloud.analysis.records import DecideInput
from cloud.config import ModelSettings
from cloud.rollout.band import band_of
from cloud.rollout.quality import PREFERENCE
from cloud.rollout.sums import chosen, pairs_of
from cloud.rollout.verdict import WAITS
from cloud.store.store import Store
from shared.clock import DAY_S, day_of, format_day

Row = dict[str, typing.Any]


class Told(typing.NamedTuple):
    """What the database tells of one rollout.

    Parameters
    ----------
    row : dict
        The rollout, with its candidates.
    stages, verdicts : list of rows
        Its stages, and the verdicts on all its candidates.
    """

    row: Row
    stages: list[Row]
    verdicts: list[Row]


def told(store: Store, number: int) -> Told:
    """Read a rollout."""
    return Told(store.rollouts.get(number), store.rollouts.stages(number), store.rollouts.verdicts(number))


def candidates(store: Store, of: Told, model: ModelSettings) -> list[Row]:
    """Return the candidates by arm: how much each gains, and why it is where it is."""
    out = []
    for candidate in of.row["candidates"]:
        points = band(store, of, model, candidate["arm"])
        newest = points[-1] if points else dict.fromkeys(("gain", "low", "high", "n"))
        out.append(
            {key: candidate[key] for key in ("arm", "version", "state")}
            | {"why": _why(store, of, candidate), "ended_day": _day(candidate["ended_day"])}
            | {"failed": any(one["word"] == "FAIL" for one in of_arm(of.verdicts, candidate["arm"]))}
            | {key: newest[key] for key in ("gain", "low", "high", "n")}
        )
    return out


def _day(day: int) -> str:
    return format_day(day) if day else ""


def _why(store: Store, of: Told, candidate: Row) -> list[str]:
    """Say why a candidate was dropped or promoted; of one that runs, what it lacks, or what the newest verdict said."""
    if candidate["state"] != "running":
        return [said for said in candidate["why"].split("; ") if said]
    if of.stages and all(stage["passed_s"] for stage in of.stages):
        name = f"{candidate['version']}: " if len(of.row["candidates"]) > 1 else ""
        waits = str(store.get_meta(WAITS.format(of.row["id"]), "")).split("\n")
        return [said.removeprefix(name) for said in waits if said and said.startswith(name)]
    newest: Row = next((one for one in reversed(of.verdicts) if one["arm"] == candidate["arm"]), {})
    return list(newest.get("reasons", ()))


def leader(rows: typing.Sequence[Row]) -> Row:
    """Return the candidate that a page speaks of: the one promoted, else of those that run the one that gains most.

    Once none is left it is the one that was dropped last.
    """

    def place(row: Row) -> tuple[int, str, float]:
        state = ("dropped", "running", "promoted").index(row["state"])
        return state, row["ended_day"], row["gain"] or 0.0

    return max(rows, key=place)


def of_arm(verdicts: typing.Iterable[Row], arm: int) -> list[Row]:
    """Return the verdicts on one candidate."""
    return [verdict for verdict in verdicts if verdict["arm"] == arm]


def question_of(verdicts: typing.Sequence[Row]) -> Row:
    """Return the question that was asked last: what was asked, its name if it is not the metric, and the answer.

    One that had something to compare goes before a later one that has not: the first lists are not in yet.
    """
    asked: list[Row] = [one["inputs"] for one in reversed(verdicts) if "decide" in one["inputs"]]
    return next((one for one in asked if "standard_error" in one["decision"]["numbers"]), asked[0] if asked else {})


def scale_of(inputs: Row, model: ModelSettings) -> float:
    """Return what makes sums into numbers for people: shares of lists are shares, a metric has its scale."""
    return 1.0 if inputs.get("question") == PREFERENCE else model.metric_scale


def band(store: Store, of: Told, model: ModelSettings, arm: int) -> list[Row]:
    """Return a candidate's estimate and its band by event day: the last verdict of each day that compared something.

    Once every stage has passed no verdict is kept any more, though the evidence for promotion goes on growing: the
    newest estimate is then made from the pairs. Lists and the metric have no common unit: the newest question counts.
    """
    verdicts = of_arm(of.verdicts, arm)
    newest = question_of(verdicts)
    points = {}
    for verdict in verdicts:
        inputs = verdict["inputs"]
        if inputs.get("question") == newest.get("question"):
            points[verdict["event_day"]] = _point(verdict["event_day"], inputs, model)
    if verdicts and of.stages and all(stage["passed_s"] for stage in of.stages) and of.row["from_version"]:
        is_rate = newest["decide"]["metric"]["kind"] == "bernoulli"
        seen = pairs_of(pairs(store, of, model, arm, newest), bernoulli=is_rate)
        if newest["decide"].get("pairs") and seen.n:
            asked = msgspec.convert(newest["decide"] | {"pairs": msgspec.to_builtins(seen)}, DecideInput)
            day = _candidate(of, arm)["ended_day"] or day_of(float(store.get_meta("event_s")))
            made = {"decide": msgspec.to_builtins(asked), "decision": {"numbers": decide(asked).numbers}}
            points[day] = _point(day, newest | made, model)
    return [point for _, point in sorted(points.items()) if point]


def _point(day: int, inputs: Row, model: ModelSettings) -> Row:
    numbers = inputs.get("decision", {}).get("numbers", {})
    edges = band_of(inputs.get("decide", {}), numbers)
    if edges is None:
        return {}
    scale = scale_of(inputs, model)
    return {
        "day": format_day(day),
        "n": int(numbers["outcomes"]),
        "gain": numbers["difference"] * scale,
        "low": edges.low * scale,
        "high": edges.high * scale,
        "log_e_not_worse": numbers["log_e_not_worse_by_margin"],
    }


def _candidate(of: Told, arm: int) -> Row:
    return next(one for one in of.row["candidates"] if one["arm"] == arm)


def pairs(store: Store, of: Told, model: ModelSettings, arm: int, question: Row) -> list[Row]:
    """Return a candidate's mature pairs; after its end nothing is added that the verdict did not know.

    Parameters
    ----------
    question : dict
        What `question_of` returns: whether pairs on interleaved lists are meant, or those of the metric.
    """
    interleaved = of.row["plan"]["canary"].get("mode") == "interleave"
    lists = question.get("question") == PREFERENCE
    kinds = ("canary",) if lists else ("shadow",) if interleaved else ("shadow", "canary")
    opened = [stage["id"] for stage in of.stages if stage["opened_s"] and stage["kind"] in kinds]
    if not opened:
        return []
    until, own = mature_day(store, model), _candidate(of, arm)
    if own["ended_s"]:
        until = min(until, math.ceil(own["ended_day"] + 1 - model.label_window_days) - 1)
    found = store.evidence.pairs(of.row["model"], opened, before_day=until)
    own_pairs = [row for row in found if row["arm"] == arm]
    return chosen(own_pairs) if lists else own_pairs


def mature_day(store: Store, model: ModelSettings) -> int:
    """Return the event day before which every outcome is in."""
    return day_of(float(store.get_meta("event_s")) - model.label_window_days * DAY_S)
