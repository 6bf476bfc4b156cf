"""What must not get worse while a candidate is tried: failed answers, and slow ones. Pure."""

from __future__ import annotations

import math
import typing

import msgspec

from cloud.analysis.decide import decide
from cloud.analysis.records import DecideInput, Decision, Metric, Minimum
from cloud.config import RolloutSettings
from cloud.rollout.sums import FAULTS, LATENCY, Row, strata_of

FAILS, SLOW = "failed or slow answers", "latency"
_SCHEMA = "covey.decide/1"


Asked = dict[str, DecideInput]


def guardrails_of(faults: typing.Sequence[Row], latencies: typing.Sequence[Row], plan: RolloutSettings) -> Asked:
    """Ask about everything that must not get worse; neither needs a label, nor a number of days.

    Parameters
    ----------
    faults, latencies : list of rows
        Sums of both arms by region, stage, device and day.

    Returns
    -------
    dict
        Name to what is asked, at alpha over their number: any of them may roll back.
    """
    asked = {FAILS: _ask(faults, "faults", plan.request_error_margin, plan)}
    if plan.latency_margin:
        # Latencies are added up as logarithms to the base of 2.
        asked[SLOW] = _ask(latencies, "latency", math.log2(1 + plan.latency_margin), plan)
    return {name: msgspec.structs.replace(record, alpha=record.alpha / len(asked)) for name, record in asked.items()}


def _ask(
    rows: typing.Sequence[Row], what: typing.Literal["faults", "latency"], margin: float, plan: RolloutSettings
) -> DecideInput:
    return DecideInput(
        schema=_SCHEMA,
        mode="canary",
        alpha=plan.alpha,
        alpha_promote=plan.alpha_promote,
        margin=margin,
        n_candidates=1,
        metric=Metric(kind="bernoulli" if what == "faults" else "continuous", direction="lower"),
        strata=strata_of(rows, FAULTS if what == "faults" else LATENCY),
        minimum=Minimum(devices=0, outcomes=0),
    )


def decide_all(asked: Asked) -> dict[str, Decision]:
    """Decide on each."""
    return {name: decide(record) for name, record in asked.items()}


def failed(decisions: typing.Mapping[str, Decision]) -> list[str]:
    """Say which guardrails roll the candidate back."""
    return [f"{name}: {'; '.join(one.reasons)}" for name, one in decisions.items() if one.word == "rollback"]


def unproven(decisions: typing.Mapping[str, Decision]) -> list[str]:
    """Say which guardrails do not let it be promoted yet: not being proven bad is not enough."""
    return [
        f"{name}: not proven harmless yet ({'; '.join(one.reasons[1:])})"
        for name, one in decisions.items()
        if one.word != "promote"
    ]
