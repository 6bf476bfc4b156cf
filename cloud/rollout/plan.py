"""What a rollout does: stages in the order of the regions, and the numbers each must reach."""

from __future__ import annotations

import secrets
import time
import typing

import msgspec

from cloud.config import RegionPlan, RolloutSettings
from cloud.config.rollout import RolloutStep
from cloud.rollout.control import check_control
from cloud.rollout.entrants import check_alike, check_lists, check_room, check_unit, check_versions
from cloud.rollout.groups import said_of
from cloud.rollout.steps import StageSettings, check_steps
from cloud.rollout.windows import check_windows
from cloud.store.rollouts import StagePlan
from cloud.store.store import Store
from shared.errors import ConflictError, PlanError
from shared.versions import parse_version

FLEET = "*"


def stage_name(stage: typing.Mapping[str, typing.Any]) -> str:
    """Name a stage for people; of a step that some devices take, with which these are.

    >>> stage_name({"kind": "canary", "region": "west", "settings": {"device_share": 0.25}})
    'canary west 25%'
    """
    name: str = stage["kind"] if stage["region"] == FLEET else f"{stage['kind']} {stage['region']}"
    return f"{name} {said_of(stage['settings'])}".rstrip()


def stages_of(
    order: typing.Sequence[str],
    *,
    is_first: bool,
    settings: RolloutSettings,
    n_candidates: int = 1,
    task: str = "binary",
) -> list[StagePlan]:
    """Return the stages of a rollout.

    The first version of a model has nothing to be compared with: it is installed region by region. Any other is
    scored in shadow on the whole fleet, then answers a share of requests region by region, in steps.

    >>> [stage.kind for stage in stages_of(["a", "b"], is_first=False, settings=RolloutSettings())]
    ['shadow', 'canary', 'canary']

    Raises
    ------
    PlanError, UsageError
        The plan can not work, or not for so many candidates, or for such a model.
    """
    regions = list(settings.order or order)
    check_plan(settings, order)
    check_lists(settings, task)
    shares = {step.request_share for region in regions for step in steps_of(settings, region)}
    check_room(settings, shares, n_candidates, is_first=is_first)
    steps = {region: steps_of(settings, region) for region in regions}
    check_unit(settings, [step for region in regions for step in steps[region]], n_candidates)
    # A number of devices, and those with some labels, are never of the control group.
    plain = {
        region: [one.device_share for one in steps[region] if not (one.devices or one.where)] for region in regions
    }
    check_control(settings, plain)
    check_windows(settings, regions, time.time())
    if is_first:
        return [StagePlan("install", region) for region in regions]
    if settings.expedited:
        return [
            StagePlan("shadow", FLEET, msgspec.to_builtins(StageSettings())),
            *(StagePlan("canary", region, msgspec.to_builtins(_expedited(settings, region))) for region in regions),
        ]
    shadow = StageSettings(min_days=settings.shadow.min_days, min_outcomes=settings.shadow.min_outcomes)
    return [
        StagePlan("shadow", FLEET, msgspec.to_builtins(shadow)),
        *(StagePlan("canary", region, msgspec.to_builtins(step)) for region in regions for step in steps[region]),
    ]


def steps_of(settings: RolloutSettings, region: str) -> list[StageSettings]:
    """Return the steps of one region: what the region says goes before the step, and that before the canary."""
    canary, own = settings.canary, settings.region.get(region, RegionPlan())
    steps = canary.step or (RolloutStep(device_share=own.device_share or canary.device_share),)

    def first(*values: typing.Any) -> typing.Any:  # noqa: ANN401 - of the kind of the values
        return next(value for value in values if value is not None)

    return [
        StageSettings(
            device_share=1.0 if step.device_share is None else step.device_share,
            devices=step.devices or 0,
            where=(own.where or step.where) if step.where else {},
            request_share=first(own.request_share, step.request_share, canary.request_share),
            min_days=first(own.min_days, step.min_days, canary.min_days),
            min_outcomes=first(own.min_outcomes, step.min_outcomes, canary.min_outcomes),
            approve=step.approve or (own.approve and i == 0),
            hold_days=first(own.hold_days, canary.hold_days),
            at_deadline=canary.at_deadline,
        )
        for i, step in enumerate(steps)
    ]


def _expedited(settings: RolloutSettings, region: str) -> StageSettings:
    """Return the one step of a region in the expedited lane: nothing is waited for, and not all devices take part."""
    last = steps_of(settings, region)[-1]
    share = min(last.device_share, settings.expedite.device_share)
    return StageSettings(device_share=share, request_share=last.request_share)


def for_stage(settings: RolloutSettings, stage: typing.Mapping[str, typing.Any]) -> RolloutSettings:
    """Return the plan as it is for one stage: with that stage's shares and minimums."""
    own = stage["settings"]
    if not own:
        return settings
    minimums = {"min_days": own["min_days"], "min_outcomes": own["min_outcomes"]}
    if stage["kind"] == "shadow":
        return msgspec.structs.replace(settings, shadow=msgspec.structs.replace(settings.shadow, **minimums))
    shares = {"request_share": own["request_share"], "device_share": own["device_share"]}
    return msgspec.structs.replace(settings, canary=msgspec.structs.replace(settings.canary, **minimums, **shares))


def check_plan(settings: RolloutSettings, order: typing.Sequence[str]) -> None:
    """Refuse a plan that could never pass, or never fail, or leaves a region out.

    Raises
    ------
    PlanError
        Names the setting.
    """
    if settings.canary.request_share <= 0 or settings.canary.device_share <= 0:
        raise PlanError("a canary that nobody gets proves nothing", field="rollout.canary", fix="Raise the share.")
    if settings.error_ratio >= 1:
        raise PlanError("a limit of 1 can never be exceeded", field="rollout.error_ratio", fix="Set it below 1.")
    _check_regions(settings, order)
    regions = list(settings.order or order)
    check_steps(settings, {region: steps_of(settings, region) for region in regions})
    steps = [step for region in regions for step in steps_of(settings, region)]
    for step in steps:
        if 0 < step.hold_days <= step.min_days:
            raise PlanError(
                f"a step that waits for {step.min_days} days can not pass within its deadline of {step.hold_days}",
                field="rollout.canary.hold_days",
                fix=f"Set it above {step.min_days}, or to 0 for no deadline.",
            )
    longest = max(sum(step.min_days for step in steps_of(settings, region)) for region in regions) if regions else 0
    days = settings.shadow.min_days + longest
    if settings.max_days <= days:
        raise PlanError(
            f"the rollout would be aborted after {settings.max_days} days, before its stages can pass",
            field="rollout.max_days",
            fix=f"Set it above {days}.",
        )


def _check_regions(settings: RolloutSettings, order: typing.Sequence[str]) -> None:
    if settings.order and sorted(settings.order) != sorted(order):
        raise PlanError(
            f"{', '.join(settings.order)} are not the regions, which are {', '.join(order)}",
            field="rollout.order",
            fix="Name each region once.",
        )
    unknown = sorted(set(settings.region) - set(order))
    if unknown:
        raise PlanError(
            f"there is no region {unknown[0]!r:.60}", field="rollout.region", fix=f"Known are: {', '.join(order)}."
        )


def start(
    store: Store,
    settings: RolloutSettings,
    order: typing.Sequence[str],
    *,
    model: str,
    version: str,
    also: typing.Sequence[str] = (),
    task: str = "binary",
    why: str,
    actor: str,
    event_day: int,
    supersede: bool = False,
) -> int:
    """Start a rollout; the controller opens its first stage at its next tick.

    Parameters
    ----------
    also : list of str
        Further candidates, tried at the same time.
    task : str
        Of the model: not every model can rank.
    supersede : bool
        End the rollout of this model that is running, if there is one. Nothing of its evidence is used for this one,
        and devices go from its candidate to the new one at once.

    Raises
    ------
    ConflictError, PlanError, UsageError
        A version is not ready, runs already, or another rollout does; or the plan can not work, or not for so many.
    """
    # In one transaction: a controller that promotes or undoes meanwhile would make `from_version` a lie.
    with store.db.transaction():
        versions = [str(parse_version(one)) for one in (version, *also)]
        if supersede:
            _supersede(store, model, versions, actor=actor, event_day=event_day)
        incumbents = set(store.models.incumbents(model).values())
        check_versions(store, model, versions, incumbents)
        if not settings.expedited:
            check_alike(store, model, versions, incumbents)
        stages = stages_of(order, is_first=not incumbents, settings=settings, n_candidates=len(versions), task=task)
        rollout = store.rollouts.create(
            model,
            next(iter(incumbents), ""),
            versions[0],
            also=versions[1:],
            plan=msgspec.to_builtins(settings),
            stages=stages,
            salt=secrets.token_hex(16),
            why=why,
            event_day=event_day,
        )
        store.audit.add("rollout start", f"{model}@{', '.join(versions)}", actor=actor, reason=why, rollout=rollout)
    return rollout


def _supersede(store: Store, model: str, versions: typing.Sequence[str], *, actor: str, event_day: int) -> None:
    running = store.rollouts.running(model)
    if running is None:
        return
    named = ", ".join(versions)
    if set(versions) == {one["version"] for one in running["candidates"] if one["state"] == "running"}:
        raise ConflictError(f"{model}@{named} is being rolled out already", fix="Nothing needs to be done.")
    if not running["from_version"]:
        raise ConflictError(
            f"rollout {running['id']} installs the first version", fix=f"End it: covey rollout abort {running['id']}"
        )
    why = f"superseded by {named}"
    store.rollouts.end(running["id"], "aborted", event_day=event_day, outcome=why)
    store.audit.add("rollout superseded", f"{model}@{running['to_version']}", actor=actor, reason=why)
