"""Whether this is a good moment to switch: the hours that the owner allows, and what the application says.

Everything else of an update is done at once: a generation lies ready, tested, and the switch itself takes no time.
Going back to versions that this device knows never waits.
"""

from __future__ import annotations

import datetime as dt
import pathlib
import typing

from edge_agent.config import UpdateSettings
from shared.errors import ConfigError

Ask = typing.Callable[[str], str]
_CLOCK = "%H:%M"


class Consent(typing.NamedTuple):
    """Whether to switch now.

    Parameters
    ----------
    granted : bool
        Whether to.
    reason : str
        Why not yet; or why all the same.
    """

    granted: bool
    reason: str = ""


def ask_consent(settings: UpdateSettings, *, ask: Ask, now: dt.datetime, waited_s: float) -> Consent:
    """Ask whether a generation that lies ready may begin to answer.

    Parameters
    ----------
    settings : UpdateSettings
        The owner's wishes.
    ask : callable
        Asks the application at an address; returns why not, or nothing. Raises nothing: an application that does not
        answer does not object.
    now : datetime
        Local time.
    waited_s : float
        How long the generation has been ready.
    """
    reason = _objection(settings, ask, now)
    if not reason:
        return Consent(granted=True)
    if waited_s >= settings.max_wait_s:
        return Consent(granted=True, reason=f"switched after {waited_s:,.0f} s in spite of: {reason}")
    return Consent(granted=False, reason=reason)


def _objection(settings: UpdateSettings, ask: Ask, now: dt.datetime) -> str:
    if settings.window and not in_window(settings.window, now.time()):
        return f"it is {now:%H:%M} here, outside {settings.window}"
    if settings.lock_file and pathlib.Path(settings.lock_file).exists():
        return f"{settings.lock_file} is there"
    return ask(settings.hook) if settings.hook else ""


def in_window(window: str, at: dt.time) -> bool:
    """Whether a time of day lies in a window such as ``22:00-04:30``; the end is not part of it.

    Raises
    ------
    ConfigError
        It is no window.

    Examples
    --------
    >>> in_window("22:00-04:30", dt.time(3)), in_window("22:00-04:30", dt.time(4, 30))
    (True, False)
    """
    try:
        first, last = (dt.datetime.strptime(part.strip(), _CLOCK).time() for part in window.split("-"))  # noqa: DTZ007
    except ValueError as err:
        raise ConfigError(
            f"{window!r:.40} is no window", field="update.window", fix="Write it like 02:00-05:00, local time."
        ) from err
    return first <= at < last if first <= last else at >= first or at < last
