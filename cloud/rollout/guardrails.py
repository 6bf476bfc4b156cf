"""What must not get worse while a candidate is tried: failed and slow answers, memory, business numbers. Pure."""

from __future__ import annotations

import math
import typing

import msgspec

from cloud.analysis.decide import decide
from cloud.analysis.records import DecideInput, Decision, Metric, Minimum, Stratum
from cloud.config import NumberSettings, RolloutSettings
from cloud.rollout.measured import VALUES, rows_of_memory, rows_of_number
from cloud.rollout.sums import FAULTS, LATENCY, Row, strata_of

FAILS, SLOW, LARGE = "failed or slow answers", "latency", "memory"
POSTED = "number {}"
_SCHEMA = "covey.decide/1"
_NOTHING = "there is nothing to compare yet"


Asked = dict[str, DecideInput]
Numbers = typing.Mapping[str, NumberSettings]


def guardrails_of(
    faults: typing.Sequence[Row],
    latencies: typing.Sequence[Row],
    plan: RolloutSettings,
    *,
    memory: typing.Sequence[Row] = (),
    posted: typing.Sequence[Row] = (),
    served: typing.Sequence[Row] = (),
    numbers: Numbers | None = None,
) -> Asked:
    """Ask about everything that must not get worse.

    Failures, latency and memory need neither a label nor a number of days. Business numbers come with outcomes, and
    days differ: they wait for mature days, and for as many of them, outcomes and devices as quality does.

    Parameters
    ----------
    faults, latencies, memory : list of rows
        Sums of both arms by region, stage, device and day.
    posted, served : list of rows
        What was posted with outcomes, and what was answered, on mature days.
    numbers : mapping
        Name to settings of the numbers that are judged.

    Returns
    -------
    dict
        Name to what is asked, at alpha over their number: any of them may roll back.
    """
    at_once = Minimum(devices=0, outcomes=0)
    asked = {FAILS: _ask(strata_of(faults, FAULTS), plan.request_error_margin, plan, at_once, kind="bernoulli")}
    if plan.latency_margin:
        asked[SLOW] = _ask_cost(strata_of(latencies, LATENCY), plan.latency_margin, plan, at_once)
    if plan.memory_margin:
        asked[LARGE] = _ask_cost(strata_of(rows_of_memory(memory), VALUES), plan.memory_margin, plan, at_once)
    least = Minimum(devices=plan.min_devices, days=plan.canary.min_days)
    for name, own in (numbers or {}).items():
        rows = rows_of_number(name, own, posted, served)
        asked[POSTED.format(name)] = _ask(strata_of(rows, VALUES), own.margin, plan, least, direction=own.direction)
    return {name: msgspec.structs.replace(record, alpha=record.alpha / len(asked)) for name, record in asked.items()}


def _ask_cost(strata: tuple[Stratum, ...], margin: float, plan: RolloutSettings, minimum: Minimum) -> DecideInput:
    """Ask about what a better model may cost more of, added up as logarithms to the base of 2.

    With requests enough any difference is certain, so a certain one rolls back only beyond half of what is allowed.
    """
    asked = _ask(strata, math.log2(1 + margin), plan, minimum)
    return msgspec.structs.replace(asked, tolerance=math.log2(1 + margin / 2))


def _ask(
    strata: tuple[Stratum, ...],
    margin: float,
    plan: RolloutSettings,
    minimum: Minimum,
    *,
    kind: typing.Literal["bernoulli", "continuous"] = "continuous",
    direction: typing.Literal["higher", "lower"] = "lower",
) -> DecideInput:
    return DecideInput(
        schema=_SCHEMA,
        mode="canary",
        alpha=plan.alpha,
        alpha_promote=plan.alpha_promote,
        margin=margin,
        n_candidates=1,
        metric=Metric(kind=kind, direction=direction),
        strata=strata,
        minimum=minimum,
    )


def decide_all(asked: Asked) -> dict[str, Decision]:
    """Decide on each."""
    return {name: decide(record) for name, record in asked.items()}


def failed(decisions: typing.Mapping[str, Decision]) -> list[str]:
    """Say which guardrails roll the candidate back."""
    return [
        f"{name}: {_times(name, one)}{'; '.join(one.reasons)}"
        for name, one in decisions.items()
        if one.word == "rollback"
    ]


def _times(name: str, decision: Decision) -> str:
    """Say in multiples what is added up as logarithms."""
    if name not in (SLOW, LARGE):
        return ""
    return f"about {2 ** -decision.numbers['difference']:.2f} times that of the incumbent; "


def unproven(decisions: typing.Mapping[str, Decision], numbers: Numbers | None = None) -> list[str]:
    """Say which guardrails do not let it be promoted yet: not being proven bad is not enough.

    Numbers that are only watched do not wait.
    """
    watched = {POSTED.format(name) for name, own in (numbers or {}).items() if own.guardrail == "watch"}
    return [
        f"{name}: not proven harmless yet ({'; '.join(one.reasons[1:] or [_NOTHING])})"
        for name, one in decisions.items()
        if one.word != "promote" and name not in watched
    ]
