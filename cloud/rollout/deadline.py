"""When a step or a rollout has taken too long: days of a freeze do not count, nor does the wait for a window. Pure."""

from __future__ import annotations

import typing

from cloud.config import RolloutSettings
from cloud.rollout.groups import target_bp
from cloud.rollout.look import Moment
from cloud.rollout.pace import held_up
from cloud.rollout.plan import stage_name
from cloud.rollout.windows import FLEET, closed, frozen_days

Row = dict[str, typing.Any]
Regions = typing.Sequence[str]


def late_step(
    rollout: Row, stages: typing.Sequence[Row], settings: RolloutSettings, regions: Regions, at: Moment
) -> Row | None:
    """Return a step that waits for longer than its plan says.

    One that can not reach more of its devices since its region's window is closed is not late.
    """
    for stage in stages:
        hold_days = stage["settings"].get("hold_days", 0)
        if not hold_days or not stage["opened_s"] or stage["passed_s"]:
            continue
        frozen = frozen_days(settings, regions, stage["region"], stage["opened_s"], at.now_s)
        grows = stage["reached_bp"] < target_bp(rollout, stage)
        waits = grows and closed(settings, regions, stage["region"], at.now_s)
        if at.days_in(stage) - frozen > hold_days and not waits:
            return stage
    return None


def is_over(
    rollout: Row, stages: typing.Sequence[Row], settings: RolloutSettings, regions: Regions, at: Moment
) -> bool:
    """Whether a rollout has had all of its days; one that waits for a window only has its next look when that opens."""
    frozen = frozen_days(settings, regions, FLEET, rollout["created_s"], at.now_s)
    return at.days_of(rollout) - frozen > settings.max_days and not held_up(rollout, stages, regions, at.now_s)


def out_of_time(stages: typing.Sequence[Row], waits: str, max_days: int, held_by: typing.Sequence[str] = ()) -> str:
    """Say that a rollout has had all of its days, and what was missing.

    Parameters
    ----------
    stages : list of rows
        In their order.
    waits : str
        What promotion waits for, a line each.
    held_by : sequence of str
        Hooks that have not agreed.

    Examples
    --------
    >>> stage = {"kind": "canary", "region": "west", "settings": {"approve": True}, "opened_s": 0, "passed_s": 0}
    >>> out_of_time([stage], "", 60)
    'no verdict after 60 days: nobody approved canary west'
    >>> out_of_time([stage], "", 60, ["the hook board"])
    'no verdict after 60 days: canary west waits for the hook board'
    """
    over, now = f"no verdict after {max_days} days", next((stage for stage in stages if not stage["passed_s"]), None)
    if held_by and not (now and now["opened_s"]):
        return f"{over}: {stage_name(now) if now else 'the promotion'} waits for {' and '.join(held_by)}"
    if now is None:
        return ": ".join(filter(None, (over, "; ".join(filter(None, waits.split("\n"))))))
    if now["opened_s"]:
        return f"{over}: {stage_name(now)}: {now['why']}"
    word = bool(now["settings"].get("approve")) and not now.get("approved_s")
    return f"{over}: {f'nobody approved {stage_name(now)}' if word else f'{stage_name(now)} did not open'}"


def are_left_behind(stage: Row, passing_since_day: int, event_day: int) -> bool:
    """Whether candidates that hold a stage up have had their time after another one could go on.

    It is as long as the stage lasts at least. A plan that has a deadline of its own says itself how long.
    """
    if stage["settings"].get("hold_days", 0):
        return False
    least: int = stage["settings"].get("min_days", 0)
    return event_day - passing_since_day >= max(least, 1)
