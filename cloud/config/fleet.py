"""Everything of ``covey.toml`` that is not about one model: serving, regions, devices, rollouts."""

from __future__ import annotations

import typing

import msgspec

from cloud.config.model import ModelSettings
from cloud.config.table import AtLeastOne, Count, NotNegative, Positive, Ratio, Seconds, Table
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
    tick_interval_s: Positive = 5.0
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


class DeviceSettings(Table, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """``[devices]``: what every channel tells its devices."""

    poll_interval_s: typing.Annotated[float, msgspec.Meta(ge=0.05, le=7 * 86_400)] = 60.0
    poll_jitter_ratio: Ratio = 0.2
    heartbeat_s: Seconds = 300.0
    probation_s: Seconds = 60.0
    replay: bool = False
    guard: GuardSettings = GuardSettings()


class ShadowSettings(Table, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """``[rollout.shadow]``: the candidate is scored on the whole fleet, and never answers."""

    min_days: Count = 7
    min_outcomes: Count = 1600


class CanarySettings(Table, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """``[rollout.canary]``: the candidate answers a share of requests, region by region."""

    request_share: Ratio = 0.5
    device_share: Ratio = 1.0
    min_days: Count = 3
    min_outcomes: Count = 300
    keep_pairs: bool = True


class RolloutSettings(Table, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """``[rollout]``: the plan of every rollout that names no other.

    Parameters
    ----------
    verified_share : float
        Share of the online devices in a stage that must run the new generation, checked, before the next opens.
    error_ratio, error_min_executed : float, int
        A stage fails when so large a share of the devices that tried failed or timed out, once so many tried.
    install_timeout_s : float
        A device that is online and has not verified after so long counts as failed.
    max_days : int
        After so many days of event time without a verdict the rollout is aborted.
    request_error_margin : float
        How much larger a share of the candidate's answers may fail, be slow, or be approximate.
    latency_margin : float
        How much slower the candidate may be, as a share of the incumbent's latency; 0 does not look at latency.
    undo_window_days : int
        How long after promotion an undo is one order.
    alarm : str
        What happens when the failures of a promoted version rise within that window: ``undo`` goes back by itself,
        ``tell`` says so in the audit log and on the pages, ``off`` does not look.
    """

    verified_share: Ratio = 0.95
    error_ratio: Ratio = 0.2
    error_min_executed: AtLeastOne = 3
    install_timeout_s: Positive = 3600.0
    request_error_margin: typing.Annotated[float, msgspec.Meta(gt=0, le=1)] = 0.01
    latency_margin: NotNegative = 0.5
    alpha: typing.Annotated[float, msgspec.Meta(gt=0, lt=1)] = 0.05
    alpha_promote: typing.Annotated[float, msgspec.Meta(gt=0, lt=1)] = 0.01
    min_devices: Count = 20
    max_days: AtLeastOne = 60
    undo_window_days: typing.Annotated[int, msgspec.Meta(ge=1, le=10_000)] = 30
    alarm: typing.Literal["undo", "tell", "off"] = "undo"
    shadow: ShadowSettings = ShadowSettings()
    canary: CanarySettings = CanarySettings()


class Settings(Table, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """All of ``covey.toml``."""

    project: ProjectSettings
    regions: RegionSettings
    models: dict[str, ModelSettings] = msgspec.field(default_factory=dict)
    serve: ServeSettings = ServeSettings()
    devices: DeviceSettings = DeviceSettings()
    rollout: RolloutSettings = RolloutSettings()
