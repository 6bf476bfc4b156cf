"""Why a decision is what it is: sentences for people, and the numbers that they speak of."""

from __future__ import annotations

import math

from cloud.analysis.compare import CAUTION
from cloud.analysis.findings import Findings
from cloud.analysis.records import DecideInput, Word

_MOST = 600.0  # e to this power is still a float
_WORTH_SAYING = 0.0005  # a share that is not 0.0 % when it is written
_SAID: dict[Word, str] = {
    "rollback": "roll back: the candidate is worse",
    "promote": "promote: the candidate is not worse by the margin",
    "continue": "continue: neither is certain yet",
}
_TOO_FEW = "continue: the candidate is not worse by the margin, but something else is missing"
_TOO_SOON = "continue: the candidate looks worse, but a verdict takes more days"


def reasons_of(word: Word, found: Findings, record: DecideInput) -> tuple[str, ...]:
    """Say in sentences what a word rests on.

    Parameters
    ----------
    word : str
        The decision.
    found : Findings
        What was found out.
    record : DecideInput
        What was asked.

    Returns
    -------
    tuple of str
        The verdict, the evidence, then whatever holds a verdict back.
    """
    worse, fine = found.worse, found.fine
    if not math.isfinite(worse.error):
        said = ["continue: there is nothing to compare yet"]
    else:
        said = [
            _continue(found) if word == "continue" else _SAID[word],
            f"candidate minus control, higher is better: {worse.difference:+.4g}, standard error {worse.error:.3g}",
            f"evidence that it is worse{_by(record)}: {_e(worse.log_e_worse)}, needed {_e(found.need_worse)}",
            f"evidence that it is not worse by {record.margin:g}: {_e(fine.log_e_fine)}, needed {_e(found.need_fine)}",
        ]
    return (*said, *_holds(found, record))


def _continue(found: Findings) -> str:
    if found.worse.log_e_worse >= found.need_worse:
        return _TOO_SOON
    return _TOO_FEW if found.fine.log_e_fine >= found.need_fine else _SAID["continue"]


def _by(record: DecideInput) -> str:
    return f" by more than {record.tolerance:.3g}" if record.tolerance else ""


def _e(log_e: float) -> str:
    return f"{math.exp(max(-_MOST, min(log_e, _MOST))):.3g}"


def _holds(found: Findings, record: DecideInput) -> list[str]:
    amount, minimum = found.amount, record.least()
    holds = []
    if amount.days < minimum.days:
        holds.append(f"no verdict before {minimum.days:g} days: {amount.days:g} so far")
    if amount.outcomes < minimum.outcomes:
        holds.append(f"no promotion before {minimum.outcomes:g} outcomes of the candidate: {amount.outcomes:g} so far")
    if amount.devices < minimum.devices:
        holds.append(f"no promotion with fewer than {minimum.devices:g} devices in each arm: {amount.devices:g} so far")
    if found.missing.fraction >= _WORTH_SAYING:
        sure = "no accident" if found.missing.log_e >= found.need_fine else "perhaps by accident"
        holds.append(
            f"{found.missing.fraction:.1%} of the candidate's outcomes are missing beyond the control's, {sure}"
        )
    if found.split >= found.need_fine:
        holds.append("no promotion while inputs are not split as planned")
    holds += [f"{name} alone says roll back: it keeps its incumbent" for name in found.bad_regions]
    holds += [f"no promotion while {name} rather looks worse" for name in found.doubtful_regions]
    known = [name for name in found.unknown_regions if name not in found.doubtful_regions]
    holds += [f"no promotion while so little is known of {name} that it could be far worse there" for name in known]
    return holds


def numbers_of(found: Findings, record: DecideInput) -> dict[str, float]:
    """Collect the statistics of a decision; e-values as natural logarithms.

    Parameters
    ----------
    found : Findings
        What was found out.
    record : DecideInput
        What was asked.

    Returns
    -------
    dict
        Finite numbers by name.
    """
    numbers = {
        "difference": found.worse.difference,
        "standard_error": found.worse.error,
        "log_e_worse": found.worse.log_e_worse,
        "log_e_worse_needed": found.need_worse,
        "log_e_not_worse_by_margin": found.fine.log_e_fine,
        "log_e_not_worse_by_margin_needed": found.need_fine,
        "outcomes": found.amount.outcomes,
        "devices": found.amount.devices,
        "days": found.amount.days,
        "missing_ratio": found.missing.fraction,
        "log_e_missing": found.missing.log_e,
        "log_e_split": found.split,
    }
    if record.pairs is not None and record.mode != "ab" and record.metric.kind == "continuous":
        numbers["pairs_of_caution"] = CAUTION
    return {name: number for name, number in numbers.items() if math.isfinite(number)}
