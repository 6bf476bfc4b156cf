"""The steps of a region: what each of them takes, and that each takes more than those before it. Pure."""

from __future__ import annotations

import typing

import msgspec

from cloud.config import RolloutSettings
from cloud.rollout.control import control_share
from cloud.rollout.groups import said_of
from shared.channel import MAX_GROUPS
from shared.errors import PlanError
from shared.labels import covers

_FIELD = "rollout.canary.step"
_ROUNDING = 1e-9


class StageSettings(msgspec.Struct, frozen=True, kw_only=True):
    """What one stage reaches and waits for, worked out when the plan is made.

    Parameters
    ----------
    device_share, request_share : float
        Which part of the region's devices take part, and of their requests; a shadow answers nobody.
    devices, where : int, mapping
        How many devices in place of a part of them, 0 if none is said; and with which labels, all if none are said.
    approve : bool
        It opens only when somebody says so.
    hold_days, at_deadline : int, str
        What happens if it has not passed after so many event days; 0 is without a deadline.
    """

    device_share: float = 1.0
    devices: int = 0
    where: dict[str, tuple[str, ...]] = {}
    request_share: float = 0.0
    min_days: int = 0
    min_outcomes: int = 0
    approve: bool = False
    hold_days: int = 0
    at_deadline: str = "pause"


def check_steps(settings: RolloutSettings, steps: typing.Mapping[str, typing.Sequence[StageSettings]]) -> None:
    """Refuse steps that take nobody whom another has not taken, or leave somebody out.

    Parameters
    ----------
    steps : mapping
        Region to its steps.

    Raises
    ------
    PlanError
        Names the setting.
    """
    selects = any(step.where for step in settings.canary.step)
    for region, own in settings.region.items():
        if own.where and not selects:
            raise PlanError(
                "no step is for devices with some labels only, so there is nothing to put in its place",
                field=f"rollout.region.{region}.where",
                fix="Give a step of [[rollout.canary.step]] a where, or leave this one out.",
            )
    for own_steps in steps.values() if settings.canary.step else ():
        _check_more(own_steps)
        _check_last(settings, own_steps[-1], steps)


def _check_more(steps: typing.Sequence[StageSettings]) -> None:
    if len(steps) > MAX_GROUPS and any(step.where for step in steps):
        raise PlanError(f"{len(steps)} steps, at most {MAX_GROUPS} fit into a channel", field=_FIELD, fix="Merge some.")
    for i, step in enumerate(steps):
        if any(_takes_no_more(step, before) for before in steps[:i]):
            shares = ", ".join(said_of(msgspec.to_builtins(one)) or "all" for one in steps)
            raise PlanError(
                f"the steps take {shares} of the devices",
                field=_FIELD,
                fix="Each step takes more of them than the one before.",
            )


def _takes_no_more(step: StageSettings, before: StageSettings) -> bool:
    """Whether an earlier step is known to take all that this one would; of a number and a share nobody knows yet."""
    if not covers(before.where, step.where):
        return False
    if step.devices and before.devices:
        return covers(step.where, before.where) and step.devices <= before.devices
    if step.devices or before.devices:
        return before.device_share >= 1 and not before.devices
    return step.device_share <= before.device_share


def _check_last(settings: RolloutSettings, last: StageSettings, regions: typing.Iterable[str]) -> None:
    if last.where or last.devices:
        raise PlanError(
            f"the last step takes {said_of(msgspec.to_builtins(last))}: the rest would never have seen the candidate",
            field=_FIELD,
            fix="Let a last step without where take all of them: device_share = 1.0",
        )
    most = 1 - max(control_share(settings, region) for region in regions)
    if last.device_share < most - _ROUNDING and not settings.expedited and settings.canary.unit == "request":
        raise PlanError(
            f"the last step takes {last.device_share:g} of the devices: the rest would never have seen the candidate",
            field=_FIELD,
            fix=f"Let the last step take all but the control group: device_share = {most:.4g}",
        )
