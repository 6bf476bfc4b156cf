"""When a rollout may go on: each region's hours in its own wall time, and the days on which nothing moves. Pure."""

from __future__ import annotations

import datetime as dt
import re
import typing
import zoneinfo

from cloud.config import RegionPlan, RolloutSettings
from shared.clock import DAY_S
from shared.errors import PlanError

FLEET = "*"
DAYS = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")
LOOKS_AHEAD_DAYS = 400
_WHOLE_DAY = 24 * 60
_SPAN = re.compile(r"([01]\d|2[0-3]):([0-5]\d)-([01]\d|2[0-4]):([0-5]\d)")


class Window(typing.NamedTuple):
    """When one region may move.

    Parameters
    ----------
    begins, ends : int
        Minutes after midnight, wall time; one that ends before it begins ends on the day after.
    days : frozenset of int
        Weekdays on which it begins, Monday is 0.
    """

    zone: dt.tzinfo
    begins: int
    ends: int
    days: frozenset[int]

    def has(self, at: dt.datetime) -> bool:
        """Whether a moment, in wall time, lies inside."""
        minute, day = at.hour * 60 + at.minute, at.weekday()
        if self.begins < self.ends:
            return day in self.days and self.begins <= minute < self.ends
        return (day in self.days and minute >= self.begins) or ((day - 1) % 7 in self.days and minute < self.ends)


def window_of(settings: RolloutSettings, region: str) -> Window:
    """Return the window of a region; without one it is always open.

    Raises
    ------
    PlanError
        It is no window, or its time zone is not known.
    """
    own, field = settings.region.get(region, RegionPlan()), f"rollout.region.{region}"
    try:
        zone = zoneinfo.ZoneInfo(own.timezone or "UTC")
    except (ValueError, OSError, zoneinfo.ZoneInfoNotFoundError) as err:
        raise PlanError(f"{own.timezone!r:.60} is no time zone", field=f"{field}.timezone", fix=_ZONE) from err
    days = frozenset(DAYS.index(day) for day in own.days or DAYS)
    begins, ends = _span(own.window, f"{field}.window") if own.window else (0, _WHOLE_DAY)
    return Window(zone, begins, ends, days)


_ZONE = 'Write a name of the tz database, such as "America/New_York".'


def _span(text: str, field: str) -> tuple[int, int]:
    """Read a window.

    >>> _span("22:00-05:30", "window")
    (1320, 330)
    """
    found = _SPAN.fullmatch(text)
    numbers = [int(part) for part in found.groups()] if found else []
    begins, ends = (numbers[0] * 60 + numbers[1], numbers[2] * 60 + numbers[3]) if found else (0, 0)
    if not found or ends > _WHOLE_DAY:
        raise PlanError(f"{text!r:.40} is no window", field=field, fix='Write it as "22:00-05:00".')
    if begins == ends:
        raise PlanError(f"{text!r} has no length: it never opens", field=field, fix="Leave it out for the whole day.")
    return begins, ends


def why_closed(settings: RolloutSettings, region: str, at_s: float) -> str:
    """Say what keeps a region from going on at a moment; empty if nothing does."""
    window = window_of(settings, region)
    at = dt.datetime.fromtimestamp(at_s, window.zone)
    for freeze in settings.freeze:
        if freeze.from_ <= at.date() <= freeze.to:
            return f"the freeze until {freeze.to}" + (f" ({freeze.why})" if freeze.why else "")
    return "" if window.has(at) else f"the window of {region}"


def closed(settings: RolloutSettings, regions: typing.Sequence[str], region: str, at_s: float) -> str:
    """The same for a stage; what concerns the whole fleet waits for every region, or for any, as the plan says."""
    if region != FLEET:
        return why_closed(settings, region, at_s)
    found = [why_closed(settings, one, at_s) for one in regions]
    is_open = not any(found) if settings.fleet_window == "all" else not all(found)
    return "" if is_open else next(one for one in found if one)


def frozen_days(
    settings: RolloutSettings, regions: typing.Sequence[str], region: str, from_s: float, to_s: float
) -> int:
    """Count the days of freezes from one moment to another, in a region's own time.

    Parameters
    ----------
    region : str
        Of the whole fleet it is the number of the region that has most of them.
    """
    most = 0
    for one in (regions if region == FLEET else [region]) if settings.freeze else ():
        zone = window_of(settings, one).zone
        first, last = (dt.datetime.fromtimestamp(at_s, zone).date() for at_s in (from_s, to_s))
        spans = [(max(freeze.from_, first).toordinal(), min(freeze.to, last).toordinal()) for freeze in settings.freeze]
        most = max(most, len({day for begins, ends in spans for day in range(begins, ends + 1)}))
    return most


def next_open(settings: RolloutSettings, regions: typing.Sequence[str], region: str, at_s: float) -> float | None:
    """Return the first moment from `at_s` on at which a stage may open.

    Returns
    -------
    float or None
        Seconds since 1970; None if there is none within `LOOKS_AHEAD_DAYS`.
    """
    if not closed(settings, regions, region, at_s):
        return at_s
    here = regions if region == FLEET else [region]
    for moment in sorted({start for one in here for start in _starts(settings, one, at_s)}):
        if moment > at_s and not closed(settings, regions, region, moment):
            return _earliest(settings, regions, region, at_s, moment)
    return None


def _starts(settings: RolloutSettings, region: str, at_s: float) -> typing.Iterator[float]:
    """Moments at which a window may open: when it begins, and at midnight, when a freeze or a day has ended."""
    window = window_of(settings, region)
    today = dt.datetime.fromtimestamp(at_s, window.zone).date()
    for n in range(-1, LOOKS_AHEAD_DAYS):
        day = today + dt.timedelta(days=n)
        for minute in {0, window.begins}:
            wall = dt.time(minute // 60, minute % 60)
            yield dt.datetime.combine(day, wall, window.zone).timestamp()


def _earliest(
    settings: RolloutSettings, regions: typing.Sequence[str], region: str, at_s: float, moment: float
) -> float:
    """Go back from a moment that is open, minute by minute: where clocks leap, a window begins later than it says."""
    while moment - 60 >= at_s and not closed(settings, regions, region, moment - 60):
        moment -= 60
    return moment


def check_windows(settings: RolloutSettings, regions: typing.Sequence[str], at_s: float) -> None:
    """Refuse windows in which a rollout could never go on.

    Raises
    ------
    PlanError
        Names the setting.
    """
    for i, freeze in enumerate(settings.freeze):
        if freeze.to < freeze.from_:
            raise PlanError(
                f"it ends on {freeze.to}, before it begins on {freeze.from_}",
                field=f"rollout.freeze[{i}].to",
                fix="Set it to the last day on which nothing moves.",
            )
    for region in regions:
        window_of(settings, region)
        if next_open(settings, regions, region, at_s) is None:
            raise PlanError(
                f"nothing can be opened in {region} within {LOOKS_AHEAD_DAYS} days",
                field=f"rollout.region.{region}.window",
                fix="Shorten the freeze, or add days.",
            )
    if next_open(settings, regions, FLEET, at_s) is None:
        raise PlanError(
            "the windows of all regions are never open at once, so nothing that concerns the whole fleet can be done",
            field="rollout.fleet_window",
            fix='Set it to "any", or let the windows overlap.',
        )


def waits_for(settings: RolloutSettings, regions: typing.Sequence[str], region: str, at_s: float) -> str:
    """Say what a stage waits for, and until when, for people; empty if it may go on."""
    why = closed(settings, regions, region, at_s)
    if not why:
        return ""
    opens_s = next_open(settings, regions, region, at_s)
    if opens_s is None:
        return why
    zone = window_of(settings, regions[0] if region == FLEET else region).zone
    opens = dt.datetime.fromtimestamp(opens_s, zone)
    far = opens_s - at_s > DAY_S
    when = f"{opens:%Y-%m-%d %H:%M}" if far else f"{opens:%H:%M}"
    return f"{why} (opens {when}, in {_span_of(opens_s - at_s)})"


def _span_of(seconds: float) -> str:
    """Write a span of time.

    >>> [_span_of(n) for n in (600, 3 * 3600, 3 * 86400)]
    ['10 min', '3 h', '3 days']
    """
    if seconds < 2 * 3600:
        return f"{max(seconds / 60, 1):.0f} min"
    return f"{seconds / 3600:.0f} h" if seconds < 2 * DAY_S else f"{seconds / DAY_S:.0f} days"
