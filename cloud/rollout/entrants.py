"""Who may be tried: versions that are ready and signed, each once, and no more of them than the plan has room for."""

from __future__ import annotations

import typing

from cloud.config import RolloutSettings
from cloud.rollout.quality import is_interleaved
from cloud.rollout.steps import StageSettings
from cloud.rollout.terms import known_terms, unlike
from cloud.store.store import Store
from shared.channel import MAX_CANDIDATES
from shared.errors import ConflictError, PlanError, UsageError

_SHARE = "rollout.canary.request_share"


def check_versions(
    store: Store, model: str, versions: typing.Sequence[str], incumbents: typing.Collection[str]
) -> None:
    """Refuse versions that can not be rolled out.

    Raises
    ------
    ConflictError, UsageError, NotFoundError
        One of them is not ready, not signed, the incumbent, named twice, or unknown.
    """
    if len(incumbents) > 1:
        raise ConflictError(
            f"regions have different incumbents: {', '.join(sorted(incumbents))}", fix="Undo one first."
        )
    for version in versions:
        row = store.models.get(model, version)
        if row["status"] != "ready":
            raise ConflictError(
                f"{model}@{version} is {row['status']}, not ready",
                fix="Train it: covey model train, or: covey model show",
            )
        if not row["manifest_sha256"]:
            raise ConflictError(f"{model}@{version} is not signed yet", fix=f"Sign it: covey bundle build {version}")
        if version in incumbents:
            raise ConflictError(f"{model}@{version} is the incumbent already", fix="Nothing needs to be done.")
        if versions.count(version) > 1:
            raise UsageError(f"{model}@{version} is named twice", field="--also", fix="Name each candidate once.")


def check_alike(store: Store, model: str, versions: typing.Sequence[str], incumbents: typing.Collection[str]) -> None:
    """Refuse versions of which devices keep sums that can not be compared.

    Raises
    ------
    ConflictError
        Their bundles say different metrics, or different scales.
    """
    first, *others = [*incumbents, *versions]
    for other in others:
        found = unlike(known_terms(store, model, first), known_terms(store, model, other))
        if found:
            raise ConflictError(
                f"{model}@{first} and {model}@{other} can not be compared: they were trained with {found}",
                fix="Train it again with the settings of before; or let a person decide: --expedite.",
            )


def check_room(settings: RolloutSettings, shares: typing.Collection[float], n: int, *, is_first: bool) -> None:
    """Refuse a plan that has no room for so many candidates.

    Parameters
    ----------
    shares : collection of float
        Of the requests, or lists, that each candidate gets in each step of the plan.
    n : int
        Number of candidates.

    Raises
    ------
    PlanError, UsageError
        Names the setting.
    """
    if n == 1:
        return
    if n > MAX_CANDIDATES:
        raise UsageError(f"{n} candidates, at most {MAX_CANDIDATES} fit", field="--also", fix="Leave some out.")
    if is_first:
        raise UsageError(
            "nothing runs yet that several candidates could be compared with",
            field="--also",
            fix="Roll one of them out first.",
        )
    if settings.expedited:
        raise UsageError(
            "an expedited rollout has no verdict on quality, so it can not say which of several is the best",
            field="--expedite",
            fix="Expedite one of them, or leave --expedite out.",
        )
    most = max(shares, default=0.0)
    # Where the incumbent answers nothing there is no latency of its own, and without pairs nothing at all, to compare.
    compares = not settings.canary.keep_pairs or (settings.guardrails == "prove" and settings.latency_margin > 0)
    full = n * most > 1 or (n * most == 1 and compares and not is_interleaved("canary", settings))
    if full:
        raise PlanError(
            f"{n} candidates with {most:g} of the requests each leave the incumbent too few to be compared with",
            field=_SHARE,
            fix=f"Set it to {_fits(n):g} or less, in covey.toml or in a file for this rollout (--plan).",
        )


def check_unit(settings: RolloutSettings, steps: typing.Sequence[StageSettings], n: int) -> None:
    """Refuse arms of whole devices that leave no devices to compare with.

    Parameters
    ----------
    steps : sequence of StageSettings
        All steps of the plan.
    n : int
        Number of candidates.

    Raises
    ------
    PlanError, UsageError
        Names the setting.
    """
    if settings.canary.unit != "device":
        return
    if n > 1:
        raise UsageError("arms of whole devices are two: one candidate at a time", field="--also", fix="Leave it out.")
    if settings.canary.mode == "interleave":
        raise PlanError(
            "a list is drawn from both models, so no device has one alone",
            field="rollout.canary.unit",
            fix='Set it to "request".',
        )
    if any(step.where or step.devices for step in steps):
        raise PlanError(
            "where whole devices are compared, chance alone decides which: a share of all of them, not a number of"
            " them or those with some labels",
            field="rollout.canary.step",
            fix='Say device_share alone, or set unit = "request".',
        )
    most = max((step.device_share for step in steps), default=0.0)
    if 2 * most > 1:
        raise PlanError(
            f"{most:g} of the devices get the candidate, and as many are to be compared with them",
            field="rollout.canary.device_share",
            fix="Set it to 0.5 or less.",
        )


def _fits(n: int) -> float:
    """Return a round share that n candidates and the incumbent can have alike."""
    return int(100 / (n + 1)) / 100


def check_lists(settings: RolloutSettings, task: str) -> None:
    """Refuse interleaved lists for a model that can not rank.

    Raises
    ------
    PlanError
        It says which of several classes a row is of; that is no order.
    """
    if settings.canary.mode == "interleave" and task == "multiclass":
        raise PlanError(
            "a model of several classes ranks nothing, so there are no lists to interleave",
            field="rollout.canary.mode",
            fix='Set it to "canary".',
        )
