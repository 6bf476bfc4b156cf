"""The verdict on a stage: PASS, FAIL or HOLD, with reasons and everything it was made from. Pure."""

from __future__ import annotations

import typing

import msgspec

from cloud.analysis.records import DecideInput, Decision
from cloud.config import RolloutSettings
from cloud.rollout import guardrails, quality
from cloud.rollout.coverage import answer_decides
from cloud.rollout.devices import Counts, Standing
from cloud.rollout.heard import FLEET, LASTING_DAYS, Heard, Online, gone, silenced
from cloud.rollout.quality import Judged, Seen
from cloud.rollout.split import Beside, uneven_split
from cloud.rollout.sums import Row

Word = typing.Literal["PASS", "FAIL", "HOLD"]
APPROVED = "rollout {} approved"  # and who promotes it without a verdict on quality, and why
WAITS = "rollout {} waits"  # where the store keeps what the promotion of a rollout waits for, a line each
_GOES_ON_WITHIN = 0.5
_NOBODY = "no device here takes part"


class Evidence(typing.NamedTuple):
    """What the fleet has sent about one candidate of a rollout so far; in its rows the candidate is arm 1.

    Parameters
    ----------
    pairs, stage_pairs : list of rows
        Mature pairs of the whole rollout on the same inputs, and those of this stage, lists or not.
    served, stage_served : list of rows
        Mature sums of both arms, of the rollout and of this stage.
    faults, latencies : list of rows
        Sums of both arms up to now, mature or not: failures and latencies need no label.
    lists : list of rows
        Mature pairs of the whole rollout on interleaved lists.
    memory, posted : list of rows
        Memory that versions take, up to now; numbers that came with outcomes, of mature days.
    earlier : list of rows
        Where whole devices are arms: outcomes of each before its region's first step, by (region, device).
    """

    pairs: typing.Sequence[Row]
    stage_pairs: typing.Sequence[Row]
    served: typing.Sequence[Row]
    stage_served: typing.Sequence[Row]
    faults: typing.Sequence[Row]
    latencies: typing.Sequence[Row] = ()
    lists: typing.Sequence[Row] = ()
    memory: typing.Sequence[Row] = ()
    posted: typing.Sequence[Row] = ()
    earlier: typing.Sequence[Row] = ()


class Around(typing.NamedTuple):
    """What else is known of the devices that the evidence is from.

    Parameters
    ----------
    beside : mapping or None
        How many other candidates share a device's requests on a day; None where there is one candidate.
    heard : list of Heard
        Devices with and without the candidate that have fallen silent, by region.
    runs : collection of str or None
        Devices that say they run the candidate; None where nobody has asked them.
    online : list of Online
        How many devices were online when the rollout began, and are now.
    silent_days : int
        For how long far more devices have been silent with the candidate than without it.
    """

    beside: Beside | None = None
    heard: typing.Sequence[Heard] = ()
    runs: typing.Collection[str] | None = None
    online: typing.Sequence[Online] = ()
    silent_days: int = 0


class Verdict(msgspec.Struct, frozen=True, kw_only=True):
    """A verdict that anybody can recompute from its inputs.

    Parameters
    ----------
    promote : bool
        Quality is proven not to be worse by the margin, over the whole rollout, and so is every guardrail.
    waits : tuple of str
        What promotion still waits for.
    named : mapping
        Devices that could not install it, or can now, as `devices.sort_out` names them; not kept.
    """

    word: Word
    reasons: tuple[str, ...]
    promote: bool
    waits: tuple[str, ...] = ()
    inputs: dict[str, typing.Any]
    named: dict[str, Standing] = {}


def judge(
    kind: str, counts: Counts, evidence: Evidence, plan: RolloutSettings, judged: Judged, around: Around | None = None
) -> Verdict:
    """Judge a candidate in a stage.

    Parameters
    ----------
    kind : str
        ``install``, ``shadow`` or ``canary``.
    judged : Judged
        What its quality is judged by.
    around : Around, optional
        What else is known of the devices.
    """
    around = around or Around()
    bad, waits = _installed(kind, counts, plan)
    inputs: dict[str, typing.Any] = {"devices": msgspec.to_builtins(counts)}
    if kind == "install":
        if counts.total == 0:
            nobody = _NOBODY if counts.pinned or counts.too_old or counts.aside else "no devices have joined yet"
            return _verdict([], [], nobody, inputs=inputs)
        return _verdict(bad, waits, f"{counts.verified} of {counts.online} online devices verified", inputs=inputs)
    seen = Seen(evidence.pairs, evidence.lists, evidence.served, evidence.earlier)
    seen = seen if judged.is_alike else Seen([], [], [])
    found = quality.questions(kind, seen, plan, judged, alpha=plan.alpha)
    inputs |= quality.inputs_of(found) | quality.earlier_of(kind, seen, plan)
    bad += quality.failed(found, seen, judged) + quality.failed_in_regions(kind, seen, plan, judged)
    decisions = _guarded(evidence, plan, judged, inputs)
    bad += guardrails.failed(decisions)
    if plan.expedited:
        waits += _expedited(kind, decisions, plan)
    else:
        waits += [
            *([] if _is_empty(kind, counts) else _minimums(kind, evidence, plan)),
            *(said for one in found for said in _looks_worse(one.name, one.asked)),
            *_otherwise(judged),
        ]
    silent = silenced(around.heard, plan.alpha_promote)
    if around.silent_days >= LASTING_DAYS:
        bad += [f"{'; '.join(silent)}, for {around.silent_days} days"]
    gaps = _uneven(kind, evidence, plan, around) + silent
    # A region waits for its own devices; the shadow, and whoever is to be promoted, for those of the whole fleet.
    here = [one for one in around.online if kind == "shadow" or one.region != FLEET]
    offline = [gone(seen, plan.error_ratio, plan.error_min_executed) for seen in (here, around.online)]
    inputs |= {"heard": msgspec.to_builtins(around.heard), "online": msgspec.to_builtins(around.online)}
    waits += gaps + offline[0] + _partial(kind, evidence, plan, judged, or_may=False)
    said = f"{counts.verified} of {counts.online} online devices verified, {_said_of(kind, evidence, plan, judged)}"
    said = _NOBODY if _is_empty(kind, counts) else said
    first = found[0]
    unproven = [] if first.decision.word == "promote" else [f"{first.name}: {'; '.join(first.decision.reasons)}"]
    unproven += guardrails.unproven(decisions, judged.numbers) if plan.guardrails == "prove" else []
    unproven += _otherwise(judged) + gaps + offline[1] + _partial(kind, evidence, plan, judged, or_may=True)
    return _verdict(bad, waits, said, inputs=inputs, unproven=unproven)


def _otherwise(judged: Judged) -> list[str]:
    """Say so if the settings judge by something else by now: their margin says nothing of this candidate."""
    if not judged.otherwise:
        return []
    return [f"its bundle and the settings say {judged.otherwise}: put that back, or end the rollout"]


def _uneven(kind: str, evidence: Evidence, plan: RolloutSettings, around: Around) -> list[str]:
    """Where candidates have shares of the requests, say whether this one has the planned one beside the incumbent."""
    if kind != "canary" or plan.canary.mode != "canary" or plan.canary.unit != "request":
        return []
    return uneven_split(evidence.stage_served, plan, around.beside, around.runs)


def _partial(kind: str, evidence: Evidence, plan: RolloutSettings, judged: Judged, *, or_may: bool) -> list[str]:
    """Say whether outcomes come for some answers rather than for others; on lists what nobody took says so itself."""
    if kind != "canary" or plan.expedited or quality.is_interleaved(kind, plan) or judged.metric.of_lists:
        return []
    or_may = or_may and plan.missing_outcomes == "suspect"
    return answer_decides(evidence.served, judged.metric, judged.margin, plan.alpha_promote, or_may=or_may)


def _guarded(
    evidence: Evidence, plan: RolloutSettings, judged: Judged, inputs: dict[str, typing.Any]
) -> dict[str, Decision]:
    """Decide on the guardrails, and keep what was asked."""
    asked_of = {
        name: msgspec.structs.replace(record, n_candidates=judged.n_candidates)
        for name, record in guardrails.guardrails_of(
            evidence.faults,
            evidence.latencies,
            plan,
            memory=evidence.memory,
            posted=evidence.posted,
            served=evidence.served,
            numbers=judged.numbers,
        ).items()
    }
    decisions = guardrails.decide_all(asked_of)
    inputs["guardrails"] = {
        name: {"decide": msgspec.to_builtins(asked_of[name]), "decision": msgspec.to_builtins(one)}
        for name, one in decisions.items()
    }
    return decisions


def _verdict(
    bad: list[str],
    waits: list[str],
    said: str,
    *,
    inputs: dict[str, typing.Any],
    unproven: typing.Sequence[str] = ("there is nothing to compare",),
) -> Verdict:
    word: Word = "FAIL" if bad else "HOLD" if waits else "PASS"
    reasons = tuple(bad or waits or [said])
    return Verdict(word=word, reasons=reasons, promote=not bad and not unproven, waits=tuple(unproven), inputs=inputs)


def _is_empty(kind: str, counts: Counts) -> bool:
    """Whether no device takes part in a canary, now or later: all are pinned, set aside or elsewhere.

    Such a region has nothing to show, and the others do not wait for it; one whose devices are offline has.
    """
    return kind == "canary" and counts.total == counts.to_come == 0


def _installed(kind: str, counts: Counts, plan: RolloutSettings) -> tuple[list[str], list[str]]:
    """Return what is bad and what is waited for, as devices say it."""
    bad, waits = [], []
    if counts.executed >= plan.error_min_executed and counts.error_ratio > plan.error_ratio:
        bad.append(
            f"{counts.failed} devices failed and {counts.timed_out} timed out of {counts.executed} that tried,"
            f" {counts.error_ratio:.0%} where {plan.error_ratio:.0%} are allowed"
        )
    if counts.to_come:
        waits.append(f"{counts.total} of {counts.total + counts.to_come} devices were asked so far")
    if _is_empty(kind, counts):
        return bad, waits
    if not counts.online:
        waits.append("no device of the stage is online")
    elif counts.verified_ratio < plan.verified_share:
        waits.append(
            f"{counts.verified} of {counts.online} online devices verified, {plan.verified_share:.0%} are needed"
        )
    return bad, waits


def _minimums(kind: str, evidence: Evidence, plan: RolloutSettings) -> list[str]:
    stage = plan.shadow if kind == "shadow" else plan.canary
    rows = (
        evidence.stage_pairs
        if quality.is_paired(kind, plan)
        else [row for row in evidence.stage_served if row["arm"] == 1]
    )
    days = len({row["day"] for row in rows})
    n = _outcomes(kind, evidence, plan)
    waits = []
    if days < stage.min_days:
        waits.append(f"{days} of {stage.min_days} days")
    if n < stage.min_outcomes:
        waits.append(f"{n:,} of {stage.min_outcomes:,} {'lists' if quality.is_interleaved(kind, plan) else 'outcomes'}")
    return waits


def _expedited(kind: str, decisions: typing.Mapping[str, Decision], plan: RolloutSettings) -> list[str]:
    """In the expedited lane a stage waits for what needs no outcome; a shadow answers nobody, so it has no latency."""
    if plan.guardrails != "prove":
        return []
    names = (guardrails.FAILS, guardrails.LARGE, *((guardrails.SLOW,) if kind == "canary" else ()))
    return guardrails.unproven({name: one for name, one in decisions.items() if name in names})


def _looks_worse(name: str, asked: DecideInput) -> list[str]:
    """A candidate that looks worse by half the margin does not go on, proven or not: the next stage can wait.

    Proof needs more days than the shadow's minimum; without this a bad model would answer in the first region
    while the proof is still coming.
    """
    if asked.pairs is None or not asked.pairs.n:
        return []
    gain = asked.pairs.sum / asked.pairs.n
    if gain >= -asked.margin * _GOES_ON_WITHIN:
        return []
    return [f"{name} looks {-gain:.4f} worse; it goes on within {asked.margin * _GOES_ON_WITHIN:g}"]


def _said_of(kind: str, evidence: Evidence, plan: RolloutSettings, judged: Judged) -> str:
    if quality.is_interleaved(kind, plan):
        return quality.preferences(evidence.stage_pairs, judged)
    return f"{_outcomes(kind, evidence, plan):,} outcomes"


def _outcomes(kind: str, evidence: Evidence, plan: RolloutSettings) -> int:
    """Mature outcomes of this stage that judge the candidate: pairs where they are kept, its own answers otherwise."""
    if quality.is_paired(kind, plan):
        return sum(row["n"] for row in evidence.stage_pairs)
    return sum(row["outcomes"] for row in evidence.stage_served if row["arm"] == 1)
