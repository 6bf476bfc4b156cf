"""The control group: devices that no candidate is given to, in any stage, until one is promoted. Pure."""

from __future__ import annotations

import typing

from cloud.config import RegionPlan, RolloutSettings
from shared.errors import PlanError
from shared.experiment import BASIS_POINTS

Row = typing.Mapping[str, typing.Any]
_ROUNDING = 1e-9


def control_share(settings: RolloutSettings, region: str) -> float:
    """Share of a region's devices that are the control group."""
    own = settings.region.get(region, RegionPlan()).control_share
    return settings.canary.control_share if own is None else own


def control_bp(rollout: Row, region: str) -> int:
    """The same, of a rollout as it is kept; one of an earlier version has none."""
    plan = rollout["plan"]
    own = plan.get("region", {}).get(region, {}).get("control_share")
    share: float = plan["canary"].get("control_share", 0.0) if own is None else own
    return round(share * BASIS_POINTS)


def check_control(settings: RolloutSettings, shares: typing.Mapping[str, typing.Sequence[float]]) -> None:
    """Refuse a control group that the steps leave no room for.

    Parameters
    ----------
    shares : mapping
        Region to the share of its devices that takes part in each step.

    Raises
    ------
    PlanError
        Names the setting.
    """
    for region, steps in shares.items():
        control, most = control_share(settings, region), max(steps, default=0.0)
        if not control:
            continue
        # Where arms are whole devices, as many are compared with as have the candidate, at least.
        control = max(control, most) if settings.canary.unit == "device" else control
        if control + most > 1 + _ROUNDING:
            raise PlanError(
                f"{most:g} of the devices of {region} take part, and {control:g} are the control group",
                field="rollout.canary.control_share",
                fix=f"Let a step take {1 - control:g} of the devices at most: device_share = {1 - control:g}",
            )
