"""The verdict on a stage: PASS, FAIL or HOLD, with reasons and everything it was made from. Pure."""

from __future__ import annotations

import typing

import msgspec

from cloud.analysis.decide import decide
from cloud.analysis.records import DecideInput, Decision, Minimum
from cloud.analysis.records import Metric as DecideMetric
from cloud.config import RolloutSettings
from cloud.rollout import guardrails
from cloud.rollout.devices import Counts
from cloud.rollout.sums import QUALITY, Row, pairs_of, strata_of
from shared.metrics import Metric

Word = typing.Literal["PASS", "FAIL", "HOLD"]
SCHEMA = "covey.decide/1"
APPROVED = "rollout {} approved"  # and who promotes it without a verdict on quality, and why
WAITS = "rollout {} waits"  # where the store keeps what the promotion of a rollout waits for, a line each
_GOES_ON_WITHIN = 0.5


class Evidence(typing.NamedTuple):
    """What the fleet has sent about a rollout so far.

    Parameters
    ----------
    pairs, stage_pairs : list of rows
        Mature pairs of the whole rollout, and of this stage.
    served, stage_served : list of rows
        Mature sums of both arms, of the rollout and of this stage.
    faults, latencies : list of rows
        Sums of both arms up to now, mature or not: failures and latencies need no label.
    """

    pairs: typing.Sequence[Row]
    stage_pairs: typing.Sequence[Row]
    served: typing.Sequence[Row]
    stage_served: typing.Sequence[Row]
    faults: typing.Sequence[Row]
    latencies: typing.Sequence[Row] = ()


class Verdict(msgspec.Struct, frozen=True, kw_only=True):
    """A verdict that anybody can recompute from its inputs.

    Parameters
    ----------
    promote : bool
        Quality is proven not to be worse by the margin, over the whole rollout, and so is every guardrail.
    waits : tuple of str
        What promotion still waits for.
    """

    word: Word
    reasons: tuple[str, ...]
    promote: bool
    waits: tuple[str, ...] = ()
    inputs: dict[str, typing.Any]


def judge(
    kind: str,
    counts: Counts,
    evidence: Evidence,
    plan: RolloutSettings,
    *,
    metric: Metric,
    margin: float,
    n_regions: int,
) -> Verdict:
    """Judge a stage.

    Parameters
    ----------
    kind : str
        ``install``, ``shadow`` or ``canary``.
    margin : float
        How much worse the candidate may be, in the units of the sums.
    """
    bad, waits = _installed(counts, plan)
    inputs: dict[str, typing.Any] = {"devices": msgspec.to_builtins(counts)}
    if kind == "install":
        if counts.total == 0:
            return _verdict([], [], "no devices have joined yet", inputs=inputs)
        return _verdict(bad, waits, f"{counts.verified} of {counts.online} online devices verified", inputs=inputs)
    quality, asked = _quality(kind, evidence, plan, metric, margin)
    inputs |= {"decide": msgspec.to_builtins(asked), "decision": msgspec.to_builtins(quality)}
    if quality.word == "rollback":
        bad.append(f"{metric.name}: {'; '.join(quality.reasons)}")
    bad += _regions(kind, evidence, plan, metric, margin, n_regions)
    asked_of = guardrails.guardrails_of(evidence.faults, evidence.latencies, plan)
    decisions = guardrails.decide_all(asked_of)
    inputs["guardrails"] = {
        name: {"decide": msgspec.to_builtins(asked_of[name]), "decision": msgspec.to_builtins(one)}
        for name, one in decisions.items()
    }
    bad += guardrails.failed(decisions)
    waits += _expedited(kind, decisions, plan) if plan.expedited else _minimums(kind, evidence, plan)
    waits += [] if plan.expedited else _looks_worse(asked, metric, margin)
    said = f"{counts.verified} of {counts.online} online devices verified, {_outcomes(kind, evidence, plan):,} outcomes"
    unproven = [] if quality.word == "promote" else [f"{metric.name}: {'; '.join(quality.reasons)}"]
    unproven += guardrails.unproven(decisions) if plan.guardrails == "prove" else []
    return _verdict(bad, waits, said, inputs=inputs, unproven=unproven)


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


def _installed(counts: Counts, plan: RolloutSettings) -> tuple[list[str], list[str]]:
    """Return what is bad and what is waited for, as devices say it."""
    bad, waits = [], []
    if counts.executed >= plan.error_min_executed and counts.error_ratio > plan.error_ratio:
        bad.append(
            f"{counts.failed} devices failed and {counts.timed_out} timed out of {counts.executed} that tried,"
            f" {counts.error_ratio:.0%} where {plan.error_ratio:.0%} are allowed"
        )
    if not counts.online:
        waits.append("no device of the stage is online")
    elif counts.verified_ratio < plan.verified_share:
        waits.append(
            f"{counts.verified} of {counts.online} online devices verified, {plan.verified_share:.0%} are needed"
        )
    return bad, waits


def _quality(
    kind: str, evidence: Evidence, plan: RolloutSettings, metric: Metric, margin: float
) -> tuple[Decision, DecideInput]:
    asked = _decide_input(kind, evidence.pairs, evidence.served, plan, metric, margin, alpha=plan.alpha)
    return decide(asked), asked


def _decide_input(
    kind: str,
    pairs: typing.Sequence[Row],
    served: typing.Sequence[Row],
    plan: RolloutSettings,
    metric: Metric,
    margin: float,
    *,
    alpha: float,
) -> DecideInput:
    """Pairs decide where they are kept, what each arm's own answers did otherwise."""
    paired = _is_paired(kind, plan)
    return DecideInput(
        schema=SCHEMA,
        mode="canary",
        alpha=alpha,
        alpha_promote=plan.alpha_promote,
        margin=margin,
        n_candidates=1,
        metric=DecideMetric(kind=metric.kind, direction=metric.direction),
        strata=() if paired else strata_of(served, QUALITY),
        pairs=pairs_of(pairs, bernoulli=metric.kind == "bernoulli") if paired else None,
        minimum=Minimum(devices=plan.min_devices, days=(plan.shadow if paired else plan.canary).min_days),
    )


def _regions(
    kind: str, evidence: Evidence, plan: RolloutSettings, metric: Metric, margin: float, n_regions: int
) -> list[str]:
    """The same rollback test in each region alone: a small region must not drown in the pool."""
    bad = []
    names = sorted({row["region"] for row in (*evidence.pairs, *evidence.served)})
    for name in names:
        pairs = [row for row in evidence.pairs if row["region"] == name]
        served = [row for row in evidence.served if row["region"] == name]
        asked = _decide_input(kind, pairs, served, plan, metric, margin, alpha=plan.alpha / max(n_regions, 1))
        word = decide(asked)
        if word.word == "rollback":
            bad.append(f"{metric.name} in {name}: {'; '.join(word.reasons)}")
    return bad


def _minimums(kind: str, evidence: Evidence, plan: RolloutSettings) -> list[str]:
    stage = plan.shadow if kind == "shadow" else plan.canary
    rows = evidence.stage_pairs if _is_paired(kind, plan) else [row for row in evidence.stage_served if row["arm"] == 1]
    days = len({row["day"] for row in rows})
    n = _outcomes(kind, evidence, plan)
    waits = []
    if days < stage.min_days:
        waits.append(f"{days} of {stage.min_days} days")
    if n < stage.min_outcomes:
        waits.append(f"{n:,} of {stage.min_outcomes:,} outcomes")
    return waits


def _expedited(kind: str, decisions: typing.Mapping[str, Decision], plan: RolloutSettings) -> list[str]:
    """In the expedited lane a stage waits for guardrails alone; a shadow answers nobody, so it has no latency."""
    if plan.guardrails != "prove":
        return []
    seen = decisions if kind == "canary" else {name: decisions[name] for name in (guardrails.FAILS,)}
    return guardrails.unproven(seen)


def _looks_worse(asked: DecideInput, metric: Metric, margin: float) -> list[str]:
    """A candidate that looks worse by half the margin does not go on, proven or not: the next stage can wait.

    Proof needs more days than the shadow's minimum; without this a bad model would answer in the first region
    while the proof is still coming.
    """
    if asked.pairs is None or not asked.pairs.n:
        return []
    gain = asked.pairs.sum / asked.pairs.n
    if gain >= -margin * _GOES_ON_WITHIN:
        return []
    return [f"{metric.name} looks {-gain:.4f} worse; it goes on within {margin * _GOES_ON_WITHIN:g}"]


def _outcomes(kind: str, evidence: Evidence, plan: RolloutSettings) -> int:
    """Mature outcomes of this stage that judge the candidate: pairs where they are kept, its own answers otherwise."""
    if _is_paired(kind, plan):
        return sum(row["n"] for row in evidence.stage_pairs)
    return sum(row["outcomes"] for row in evidence.stage_served if row["arm"] == 1)


def _is_paired(kind: str, plan: RolloutSettings) -> bool:
    return kind == "shadow" or plan.canary.keep_pairs
