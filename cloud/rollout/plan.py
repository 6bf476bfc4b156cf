"""What a rollout does: stages in the order of the regions, and the numbers each must reach."""

from __future__ import annotations

import secrets
import typing

import msgspec

from cloud.config import RolloutSettings
from cloud.store.rollouts import StagePlan
from cloud.store.store import Store
from shared.errors import ConflictError, PlanError
from shared.versions import parse_version

FLEET = "*"


def stages_of(order: typing.Sequence[str], *, is_first: bool, settings: RolloutSettings) -> list[StagePlan]:
    """Return the stages of a rollout.

    The first version of a model has nothing to be compared with: it is installed region by region. Any other is
    scored in shadow on the whole fleet, then answers a share of requests region by region.

    >>> [stage.kind for stage in stages_of(["a", "b"], is_first=False, settings=RolloutSettings())]
    ['shadow', 'canary', 'canary']
    """
    if is_first:
        return [StagePlan("install", region) for region in order]
    check_plan(settings)
    return [StagePlan("shadow", FLEET), *(StagePlan("canary", region) for region in order)]


def check_plan(settings: RolloutSettings) -> None:
    """Refuse a plan that could never pass, or never fail.

    Raises
    ------
    PlanError
        Names the setting.
    """
    if settings.canary.request_share <= 0 or settings.canary.device_share <= 0:
        raise PlanError("a canary that nobody gets proves nothing", field="rollout.canary", fix="Raise the share.")
    if settings.error_ratio >= 1:
        raise PlanError("a limit of 1 can never be exceeded", field="rollout.error_ratio", fix="Set it below 1.")
    days = settings.shadow.min_days + settings.canary.min_days
    if settings.max_days <= days:
        raise PlanError(
            f"the rollout would be aborted after {settings.max_days} days, before its stages can pass",
            field="rollout.max_days",
            fix=f"Set it above {days}.",
        )


def start(
    store: Store,
    settings: RolloutSettings,
    order: typing.Sequence[str],
    *,
    model: str,
    version: str,
    why: str,
    actor: str,
    event_day: int,
) -> int:
    """Start a rollout; the controller opens its first stage at its next tick.

    Raises
    ------
    ConflictError, PlanError
        The version is not ready, runs already, or another rollout does; or the plan can not work.
    """
    # In one transaction: a controller that promotes or undoes meanwhile would make `from_version` a lie.
    with store.db.transaction():
        row = store.models.get(model, str(parse_version(version)))
        if row["status"] != "ready":
            raise ConflictError(
                f"{model}@{version} is {row['status']}, not ready",
                fix="Train it: covey model train, or: covey model show",
            )
        if not row["manifest_sha256"]:
            raise ConflictError(f"{model}@{version} is not signed yet", fix=f"Sign it: covey bundle build {version}")
        incumbents = set(store.models.incumbents(model).values())
        if len(incumbents) > 1:
            raise ConflictError(
                f"regions have different incumbents: {', '.join(sorted(incumbents))}", fix="Undo one first."
            )
        if version in incumbents:
            raise ConflictError(f"{model}@{version} is the incumbent already", fix="Nothing needs to be done.")
        stages = stages_of(order, is_first=not incumbents, settings=settings)
        rollout = store.rollouts.create(
            model,
            next(iter(incumbents), ""),
            version,
            plan=msgspec.to_builtins(settings),
            stages=stages,
            salt=secrets.token_hex(16),
            why=why,
            event_day=event_day,
        )
        store.audit.add("rollout start", f"{model}@{version}", actor=actor, reason=why, rollout=rollout)
    return rollout
