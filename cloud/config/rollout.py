"""``[rollout]``: stages, steps inside a region, limits, and when a promotion is taken back."""

from __future__ import annotations

import datetime as dt
import typing

import msgspec

from cloud.config.table import AtLeastOne, Count, NotNegative, Positive, Ratio, Table
from shared.errors import UsageError
from shared.labels import Where, check_where

Share = typing.Annotated[float, msgspec.Meta(gt=0, le=1)]
ControlShare = typing.Annotated[float, msgspec.Meta(ge=0, lt=1)]
Devices = typing.Annotated[int, msgspec.Meta(ge=1, le=1_000_000_000)]
Weekday = typing.Literal["mon", "tue", "wed", "thu", "fri", "sat", "sun"]


class ShadowSettings(Table, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """``[rollout.shadow]``: the candidate is scored on the whole fleet, and never answers."""

    min_days: Count = 7
    min_outcomes: Count = 1600


class RolloutStep(Table, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """``[[rollout.canary.step]]``: one step inside each region; without any, a region is one step.

    Parameters
    ----------
    device_share, request_share : float
        Which part of the region's devices take part, and of their requests.
    devices : int
        So many devices in place of a share: when the step opens, the share is worked out that takes at least so many
        of those that are there; all if there are fewer. It stays then, and who joins later joins in proportion.
    where : mapping
        Only devices with these labels, such as ``{ store = ["flagship", "test"] }``: one of the values of each. The
        label ``class`` is what kind of device it is. Share or number count among these devices; all of them by
        default. Who took part in a step before stays, so the last step is for every device.
    min_days, min_outcomes : int
        What the step waits for; as in ``[rollout.canary]`` if left out.
    approve : bool
        The step opens only when somebody says so: ``covey rollout approve``.
    """

    device_share: Share | None = None
    devices: Devices | None = None
    where: dict[str, tuple[str, ...]] = msgspec.field(default_factory=dict)
    request_share: Share | None = None
    min_days: Count | None = None
    min_outcomes: Count | None = None
    approve: bool = False

    def __post_init__(self) -> None:
        """Refuse a step that says twice how many devices it takes, or not at all."""
        _check_where(self.where)
        if self.device_share is not None and self.devices is not None:
            raise ValueError("device_share and devices both say how many devices take part: leave one of them out")
        if self.device_share is None and self.devices is None and not self.where:
            raise ValueError("the key 'device_share' is missing: say device_share, devices or where")


def _check_where(where: Where) -> None:
    try:
        check_where(where, "where")
    except UsageError as err:
        raise ValueError(str(err)) from err


class RegionPlan(Table, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """``[rollout.region.NAME]``: what is different in one region.

    Parameters
    ----------
    request_share, device_share, control_share, min_days, min_outcomes, hold_days : float, float, float, int, int, int
        In place of those in ``[rollout.canary]``.
    approve : bool
        The region's first step opens only when somebody says so.
    window : str
        Hours of the wall clock in which a stage of the region may open, its shares may grow, and a promotion may come:
        ``22:00-05:00``. What goes back is never held up.
    timezone : str
        Whose wall clock: a name of the tz database, UTC by default.
    days : tuple of str
        Weekdays on which the window begins, ``mon`` to ``sun``; all by default.
    where : mapping
        The labels that a device of this region has, in each step that is for devices with some labels only.
    """

    request_share: Share | None = None
    device_share: Share | None = None
    min_days: Count | None = None
    min_outcomes: Count | None = None
    hold_days: Count | None = None
    approve: bool = False
    control_share: ControlShare | None = None
    window: str = ""
    timezone: str = ""
    days: tuple[Weekday, ...] = ()
    where: dict[str, tuple[str, ...]] = msgspec.field(default_factory=dict)

    def __post_init__(self) -> None:
        """Refuse labels that are none."""
        _check_where(self.where)


class FreezeSettings(Table, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """``[[rollout.freeze]]``: days on which nothing opens, grows or is promoted anywhere; what goes back still does.

    Parameters
    ----------
    from_, to : date
        First and last day, in each region's own time; written without quotes: ``to = 2027-01-03``.
    why : str
        Shown to whoever waits.
    """

    from_: dt.date = msgspec.field(name="from")
    to: dt.date
    why: str = ""


class RampSettings(Table, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """``[rollout.canary.ramp]``: how many devices a step asks in a minute.

    Parameters
    ----------
    base_per_minute : float
        At the beginning of each step; below 1 it is one device in more than a minute, and 0 asks all at once.
    factor, every_verified : float, int
        The rate grows by that factor each time that so many more devices of the step have verified.
    """

    base_per_minute: NotNegative = 0.0
    factor: typing.Annotated[float, msgspec.Meta(ge=1, le=100)] = 1.0
    every_verified: AtLeastOne = 10


class CanarySettings(Table, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """``[rollout.canary]``: the candidate answers a share of requests, or takes part in lists, region by region.

    Parameters
    ----------
    hold_days, at_deadline : int, str
        A step that has not passed after so many event days pauses the rollout, or aborts it; days of a freeze do not
        count, and 0 is without a deadline.
    mode : str
        ``interleave`` draws ranked lists from candidate and incumbent in turn and counts whose items people take; all
        other requests are the incumbent's.
    preference_margin : float
        Of interleaved lists, where one was preferred: how much larger a share may prefer the incumbent.
    control_share : float
        A random part of each region's devices that no candidate is given to, in any stage, until one is promoted; what
        they answer counts for the incumbent. With `device_share` at most 1.
    max_in_flight : int
        So many devices of a step may be on the way at once: asked, and neither verified nor failed; 0 is no limit.
    unit : str
        What is given to an arm. ``request``: each device shares its requests out. ``device``: a device that takes part
        answers all of them with the candidate, and a control group as large answers with the incumbent; no pairs are
        kept. Devices differ, so that takes far more of them: at least 20 in each group, for any promotion.
    """

    mode: typing.Literal["canary", "interleave"] = "canary"
    preference_margin: typing.Annotated[float, msgspec.Meta(gt=0, le=1)] = 0.05
    request_share: Ratio = 0.5
    device_share: Ratio = 1.0
    min_days: Count = 3
    min_outcomes: Count = 300
    keep_pairs: bool = True
    unit: typing.Literal["request", "device"] = "request"
    control_share: ControlShare = 0.0
    max_in_flight: Count = 0
    ramp: RampSettings = RampSettings()
    hold_days: Count = 0
    at_deadline: typing.Literal["pause", "abort"] = "pause"
    step: tuple[RolloutStep, ...] = ()


class ExpediteSettings(Table, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """``[rollout.expedite]``: what holds for a rollout that somebody starts with ``--expedite``.

    Parameters
    ----------
    device_share : float
        At most such a part of each region's devices answers with the candidate before it is promoted.
    expires_days : int
        After so many event days without a promotion every device goes back by itself.
    """

    device_share: Share = 0.5
    expires_days: AtLeastOne = 3


class RolloutSettings(Table, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """``[rollout]``: the plan of every rollout; a plan file lays the same keys over it.

    Parameters
    ----------
    expedited : bool
        Set by ``covey rollout start --expedite``: guardrails and a person decide in place of a verdict on quality.
    order : tuple of str
        Regions in the order in which they open; that of ``[regions]`` by default.
    fleet_window : str
        When the regions have windows: whether what concerns the whole fleet (the shadow, the promotion) waits until
        ``all`` of them are open, or ``any``.
    verified_share : float
        Share of the online devices in a stage that must run the new generation, checked, before the next opens.
    error_ratio, error_min_executed : float, int
        A stage fails when so large a share of the devices that tried failed or timed out, once so many tried.
    install_timeout_s : float
        A device that is online and has not verified after so long counts as failed.
    max_days : int
        After so many days of event time without a verdict the rollout is aborted; days of a freeze do not count.
    request_error_margin : float
        How much larger a share of the candidate's answers may fail, be slow, or be approximate.
    latency_margin : float
        How much slower the candidate may be, as a share of the incumbent's latency; 0 does not look at latency. A
        candidate that is certainly slower is rolled back beyond half of it.
    memory_margin : float
        How much more memory the loaded candidate may take, as a share of the incumbent's; 0 does not look at it. What
        takes less than 8 MiB counts as 8 MiB. A candidate that certainly takes more is rolled back beyond half of it.
    guardrails : str
        ``prove``: promotion waits until failures, latency, memory and numbers are proven not to be worse by their
        margins; ``watch``: they only roll back. Few devices prove little: a fleet of four may have to watch.
    missing_outcomes : str
        ``suspect``: an outcome that never comes may stay away because the answer was bad, so a promotion waits until
        that could not hide a candidate that is worse. Where many stay away that takes many times as long. ``alike``:
        whether an outcome comes has nothing to do with the answer; only what is no accident counts against it.
    undo_window_days : int
        How long after promotion an undo is one order.
    alarm : str
        What happens when the failures of a promoted version rise within that window: ``undo`` goes back by itself,
        ``tell`` says so in the audit log and on the pages, ``off`` does not look.
    penalty_failures : int
        A device that could not install so many different versions, each of which works on others, is set aside: it goes
        on with what it runs. At most `error_ratio` of a region's devices are, though one always may be. 0 is never.
    penalty_window_days : int
        Failures count for so many event days.
    penalty_days : int
        After so many event days a device that is set aside is asked again.
    """

    verified_share: Ratio = 0.95
    error_ratio: Ratio = 0.2
    error_min_executed: AtLeastOne = 3
    install_timeout_s: Positive = 3600.0
    request_error_margin: typing.Annotated[float, msgspec.Meta(gt=0, le=1)] = 0.01
    latency_margin: NotNegative = 0.5
    memory_margin: NotNegative = 0.0
    alpha: typing.Annotated[float, msgspec.Meta(gt=0, lt=1)] = 0.05
    alpha_promote: typing.Annotated[float, msgspec.Meta(gt=0, lt=1)] = 0.01
    min_devices: Count = 20
    max_days: AtLeastOne = 60
    undo_window_days: typing.Annotated[int, msgspec.Meta(ge=1, le=10_000)] = 30
    guardrails: typing.Literal["prove", "watch"] = "prove"
    missing_outcomes: typing.Literal["suspect", "alike"] = "suspect"
    alarm: typing.Literal["undo", "tell", "off"] = "undo"
    penalty_failures: Count = 3
    penalty_window_days: typing.Annotated[int, msgspec.Meta(ge=1, le=10_000)] = 90
    penalty_days: typing.Annotated[int, msgspec.Meta(ge=1, le=10_000)] = 30
    shadow: ShadowSettings = ShadowSettings()
    canary: CanarySettings = CanarySettings()
    expedite: ExpediteSettings = ExpediteSettings()
    expedited: bool = False
    order: tuple[str, ...] = ()
    region: dict[str, RegionPlan] = msgspec.field(default_factory=dict)
    fleet_window: typing.Literal["all", "any"] = "all"
    freeze: tuple[FreezeSettings, ...] = ()

    def __post_init__(self) -> None:
        """Refuse to set a device aside for a failure that may be the version's fault."""
        if self.penalty_failures == 1:
            raise ValueError("penalty_failures is 1, and one failure may be the version's fault: say 2 or more, or 0")
