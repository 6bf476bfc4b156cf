"""What ``covey.toml`` says of the fleet: serving, regions, devices."""

from __future__ import annotations

import typing

import msgspec

from cloud.config.hooks import HookSettings
from cloud.config.model import ModelSettings
from cloud.config.rollout import RolloutSettings
from cloud.config.table import AtLeastOne, Positive, Ratio, Seconds, Table
from shared.channel import Guard


class ProjectSettings(Table, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """``[project]``."""

    name: str


class ServeSettings(Table, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """``[serve]``: where the cloud answers and how often it looks.

    Parameters
    ----------
    online_window_s : float
        A device that was heard from within so long counts as online.
    tick_interval_s : float
        How often triggers and rollouts are looked at.
    threads : int
        Requests answered at the same time.
    pages : str
        Who may see the pages and their JSON: ``local``, people on this machine, or ``all`` who reach it.
    address_limit_per_s : float
        How many requests of devices are answered for one source address; 0 is without a limit.
    join_limit_per_s : float
        How many of them may be attempts to join.
    device_limit_per_s : float
        How many deliveries of one device are answered, and sign-ins for one name from one address.
    limit_burst_s : float
        So many seconds' worth of each limit may come at once.
    """

    host: str = "127.0.0.1"
    port: typing.Annotated[int, msgspec.Meta(ge=0, le=65535)] = 8080
    online_window_s: Positive = 900.0
    tick_interval_s: typing.Annotated[float, msgspec.Meta(gt=0, le=86_400)] = 5.0
    threads: AtLeastOne = 4
    pages: typing.Literal["local", "all"] = "local"
    address_limit_per_s: Seconds = 500.0
    join_limit_per_s: Seconds = 20.0
    device_limit_per_s: Seconds = 20.0
    limit_burst_s: Positive = 60.0


class RegionSettings(Table, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """``[regions]``: their names, in the order in which a rollout opens them."""

    order: tuple[str, ...]


class GuardSettings(Guard, Table, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """``[devices.guard]``: when a device leaves a new generation by itself during probation.

    Parameters
    ----------
    failed_ratio, slow_ratio : float
        Share of answers that failed; that took longer than the model's budget.
    disagree_ratio : float
        Share of inputs for which candidate and incumbent decide differently; 1 is never.
    min_requests : int
        No limit counts before so many.
    """

    min_requests: AtLeastOne = Guard().min_requests


class DeviceSettings(Table, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """``[devices]``: what every channel tells its devices."""

    poll_interval_s: typing.Annotated[float, msgspec.Meta(ge=0.05, le=7 * 86_400)] = 60.0
    poll_jitter_ratio: Ratio = 0.2
    heartbeat_s: Seconds = 300.0
    probation_s: Seconds = 60.0
    replay: bool = False
    guard: GuardSettings = GuardSettings()


class Settings(Table, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """All of ``covey.toml``."""

    project: ProjectSettings
    regions: RegionSettings
    models: dict[str, ModelSettings] = msgspec.field(default_factory=dict)
    serve: ServeSettings = ServeSettings()
    devices: DeviceSettings = DeviceSettings()
    rollout: RolloutSettings = RolloutSettings()
    hook: tuple[HookSettings, ...] = ()
