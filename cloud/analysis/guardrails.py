"""Joins the decision on quality with those on its guardrails: all must be fine to promote, any may roll back."""

from __future__ import annotations

import typing

import msgspec

from cloud.analysis.decide import decide
from cloud.analysis.records import DecideInput, Decision, Word


def decide_with_guardrails(quality: DecideInput, guardrails: typing.Mapping[str, DecideInput]) -> Decision:
    """Decide on quality and on everything that must not get worse meanwhile.

    Parameters
    ----------
    quality : DecideInput
        The metric that the experiment is about.
    guardrails : mapping of str to DecideInput
        Latency, errors, memory, a business metric: each with its own margin, and with the ``alpha`` that all of them
        share.

    Returns
    -------
    Decision
        ``rollback`` if quality says so, or a guardrail does at alpha over their number; ``promote`` if quality says so
        and every guardrail is proven not to be worse by its margin; else ``continue``. Numbers of a guardrail
        are called ``name.number``.

    Examples
    --------
    >>> from cloud.analysis.records import Arm, Metric, Stratum
    >>> arm = Arm(9000.0, 90.0, 90.0, 9000.0, 9000.0, 90.0, 90.0)
    >>> slow = Arm(9000.0, 300.0, 300.0, 9000.0, 9000.0, 300.0, 300.0)
    >>> errors = DecideInput(
    ...     schema="covey.decide/1",
    ...     mode="ab",
    ...     alpha=0.05,
    ...     alpha_promote=0.01,
    ...     margin=0.01,
    ...     n_candidates=1,
    ...     metric=Metric("bernoulli", "lower"),
    ...     strata=(Stratum(arm, arm),),
    ... )
    >>> timeouts = msgspec.structs.replace(errors, strata=(Stratum(arm, slow),))
    >>> decide_with_guardrails(errors, {}).word
    'promote'
    >>> decide_with_guardrails(errors, {"timeouts": timeouts}).word
    'rollback'
    """
    main = decide(quality)
    others = {
        name: decide(msgspec.structs.replace(guard, alpha=guard.alpha / len(guardrails)))
        for name, guard in sorted(guardrails.items())
    }
    reasons = [*main.reasons, *(f"{name}: {reason}" for name, other in others.items() for reason in other.reasons)]
    numbers = main.numbers | {
        f"{name}.{key}": value for name, other in others.items() for key, value in other.numbers.items()
    }
    return Decision(_word([main, *others.values()]), tuple(reasons), numbers, main.regions)


def _word(decisions: list[Decision]) -> Word:
    words = {decision.word for decision in decisions}
    if "rollback" in words:
        return "rollback"
    return "promote" if words == {"promote"} else "continue"
