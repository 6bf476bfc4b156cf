"""Whether a candidate is better: its metric on the same inputs, and what people take from interleaved lists. Pure."""

from __future__ import annotations

import types
import typing

import msgspec

from cloud.analysis.cuped import LEAST_DEVICES
from cloud.analysis.decide import decide
from cloud.analysis.records import DecideInput, Decision, Minimum
from cloud.analysis.records import Metric as DecideMetric
from cloud.config import NumberSettings, RolloutSettings
from cloud.rollout.by_device import strata_by_device
from cloud.rollout.sums import QUALITY, Row, chosen, lost_alike, pairs_of, strata_of
from shared.metrics import Metric

PREFERENCE = "preference"
_SCHEMA = "covey.decide/1"
_LIST_METRIC = DecideMetric(kind="bernoulli", direction="higher")


class Judged(typing.NamedTuple):
    """What quality is judged by.

    Parameters
    ----------
    metric, margin : Metric, float
        Of the model, the margin in the units of the sums.
    n_candidates, n_regions : int
        How many candidates the rollout began with, and how many regions there are: chances of error are shared.
    incumbent, candidate : str
        Their versions, for sentences.
    numbers : mapping
        Name to settings of the numbers that are posted with outcomes.
    is_alike : bool
        Whether both versions are judged by the same; if not, nothing that devices say of their quality compares them.
    otherwise : str
        What the settings judge by now, if that is not what the candidate's bundle says.
    """

    metric: Metric
    margin: float
    n_regions: int
    n_candidates: int = 1
    incumbent: str = "the incumbent"
    candidate: str = "the candidate"
    numbers: typing.Mapping[str, NumberSettings] = types.MappingProxyType({})
    is_alike: bool = True
    otherwise: str = ""


class Seen(typing.NamedTuple):
    """What quality is judged from, of one candidate.

    Parameters
    ----------
    pairs, lists : list of rows
        Mature pairs on the same inputs, and on interleaved lists; never mixed, since their units differ.
    served : list of rows
        Mature sums of both arms' own answers.
    earlier : list of rows
        Where whole devices are arms: outcomes of each before its region's first step.
    """

    pairs: typing.Sequence[Row]
    lists: typing.Sequence[Row]
    served: typing.Sequence[Row]
    earlier: typing.Sequence[Row] = ()


class Question(typing.NamedTuple):
    """One question about quality, and its answer."""

    name: str
    asked: DecideInput
    decision: Decision


def is_interleaved(kind: str, plan: RolloutSettings) -> bool:
    """Whether a stage draws lists from both arms."""
    return kind == "canary" and plan.canary.mode == "interleave"


def is_paired(kind: str, plan: RolloutSettings) -> bool:
    """Whether a stage judges both arms on the same inputs, in place of each on its own answers."""
    canary = plan.canary
    return kind == "shadow" or canary.mode == "interleave" or (canary.keep_pairs and canary.unit == "request")


def questions(kind: str, seen: Seen, plan: RolloutSettings, judged: Judged, *, alpha: float) -> list[Question]:
    """Ask whether the candidate is better; the answer to the first question is what promotes it.

    A stage of lists asks about lists, and about the metric on the pairs of the shadow; the shadow about its own.

    Parameters
    ----------
    alpha : float
        Chance that an equally good candidate is rolled back, over all questions together.
    """
    # The shadow asks on its pairs; where the canary asks on anything else, that is a second chance to err.
    each = alpha if is_paired("canary", plan) and plan.canary.mode != "interleave" else alpha / 2
    found = [Question(judged.metric.name, *_decide(_metric_input(kind, seen, plan, judged, each)))]
    if is_interleaved(kind, plan):
        found.insert(0, Question(PREFERENCE, *_decide(_list_input(seen.lists, plan, judged, each))))
    return found


def earlier_of(kind: str, seen: Seen, plan: RolloutSettings) -> dict[str, typing.Any]:
    """Return what was taken out of the sums of whole devices, by region and stage; nothing where they are not arms."""
    if kind == "shadow" or plan.canary.unit != "device":
        return {}
    return {"earlier": [one._asdict() for one in strata_by_device(seen.served, seen.earlier)[1]]}


def failed(found: typing.Sequence[Question], seen: Seen, judged: Judged, where: str = "") -> list[str]:
    """Say which questions roll the candidate back."""
    return [
        f"{one.name}{where}: {said_of(one, seen, judged)}{'; '.join(one.decision.reasons)}"
        for one in found
        if one.decision.word == "rollback"
    ]


def failed_in_regions(kind: str, seen: Seen, plan: RolloutSettings, judged: Judged) -> list[str]:
    """The same rollback test in each region alone: a small region must not drown in the pool."""
    bad = []
    for name in sorted({row["region"] for rows in seen for row in rows}):
        here = Seen(*([row for row in rows if row["region"] == name] for rows in seen))
        found = questions(kind, here, plan, judged, alpha=plan.alpha / max(judged.n_regions, 1))
        bad += failed(found, here, judged, f" in {name}")
    return bad


def said_of(question: Question, seen: Seen, judged: Judged) -> str:
    """Count lists in words, for a question about them."""
    return f"{preferences(seen.lists, judged)}; " if question.name == PREFERENCE else ""


def preferences(lists: typing.Sequence[Row], judged: Judged) -> str:
    """Say whose items people took.

    Parameters
    ----------
    lists : list of rows
        Pairs of one candidate: `n` lists, of which it won `pos` and lost `neg`.
    """
    n, pos, neg = (sum(row[name] for row in lists) for name in ("n", "pos", "neg"))
    return preferred(n, pos, neg, judged.candidate, judged.incumbent)


def preferred(n: float, pos: float, neg: float, candidate: str, incumbent: str) -> str:
    """Say whose items people took from lists of two versions.

    >>> preferred(1204, 212, 148, "v2", "v1")
    'of 1,204 lists, 212 preferred v2, 148 v1'
    """
    return f"of {n:,.0f} lists, {pos:,.0f} preferred {candidate}, {neg:,.0f} {incumbent}"


def _decide(asked: DecideInput) -> tuple[DecideInput, Decision]:
    return asked, decide(asked)


def _metric_input(kind: str, seen: Seen, plan: RolloutSettings, judged: Judged, alpha: float) -> DecideInput:
    """Pairs decide where they are kept, what each arm's own answers did otherwise.

    Beside pairs, each arm's own answers only say how many outcomes never came, of the fleet as a whole.
    """
    paired = is_paired(kind, plan)
    metric = judged.metric
    strata = () if kind == "shadow" or is_interleaved(kind, plan) else strata_of(seen.served, QUALITY)
    if paired:
        strata = tuple(msgspec.structs.replace(stratum, region=None) for stratum in strata)
    least, kind_of = plan.min_devices, metric.kind
    if not paired and plan.canary.unit == "device":
        strata, _ = strata_by_device(seen.served, seen.earlier)
        least, kind_of = max(least, LEAST_DEVICES), "continuous"  # what is left of a rate is no rate
    return DecideInput(
        schema=_SCHEMA,
        mode="canary",
        alpha=alpha,
        alpha_promote=plan.alpha_promote,
        margin=judged.margin,
        n_candidates=judged.n_candidates,
        metric=DecideMetric(kind=kind_of, direction=metric.direction),
        strata=strata,
        lost_alike=lost_alike(seen.served) if strata else 1.0,
        missing=plan.missing_outcomes,
        pairs=pairs_of(seen.pairs, bernoulli=metric.kind == "bernoulli") if paired else None,
        minimum=Minimum(devices=least, days=(plan.shadow if paired else plan.canary).min_days),
    )


def _list_input(lists: typing.Sequence[Row], plan: RolloutSettings, judged: Judged, alpha: float) -> DecideInput:
    return DecideInput(
        schema=_SCHEMA,
        mode="interleave",
        alpha=alpha,
        alpha_promote=plan.alpha_promote,
        margin=plan.canary.preference_margin,
        n_candidates=judged.n_candidates,
        metric=_LIST_METRIC,
        strata=(),
        pairs=pairs_of(chosen(lists), bernoulli=True),
        minimum=Minimum(devices=plan.min_devices, days=plan.canary.min_days),
    )


def inputs_of(found: typing.Sequence[Question]) -> dict[str, typing.Any]:
    """Return what anybody can recompute the answers from; of the first question in the usual place."""
    first, *others = found
    kept: dict[str, typing.Any] = {
        "decide": msgspec.to_builtins(first.asked),
        "decision": msgspec.to_builtins(first.decision),
    }
    if others:
        kept["question"] = first.name
        kept["also_asked"] = {
            one.name: {"decide": msgspec.to_builtins(one.asked), "decision": msgspec.to_builtins(one.decision)}
            for one in others
        }
    return kept
