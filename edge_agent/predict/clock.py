"""The time at which things happen out there: now, or in a replay what the signed channel lets requests say."""

from __future__ import annotations

import time
import typing

from shared.clock import clamp_event_time, parse_time
from shared.errors import ConflictError


class EventClock:
    """Tells event time, seconds since 1970.

    Parameters
    ----------
    wall : callable
        Returns the time of the clock on the wall.
    """

    def __init__(self, wall: typing.Callable[[], float] = time.time) -> None:
        self._wall = wall
        self._replayed_s = 0.0
        self.replay = False

    def now(self) -> float:
        """Event time, seconds since 1970."""
        return self._replayed_s if self.replay else self._wall()

    def advance(self, event_s: float) -> None:
        """Move on in a replay; never back.

        Raises
        ------
        ConflictError
            The channel does not say that this is a replay.
        """
        if not self.replay:
            raise ConflictError("the clock can be set during a replay only", fix="Set replay = true in covey.toml.")
        self._replayed_s = max(self._replayed_s, event_s)

    def of_request(self, said: str | float | None, label_window_s: float) -> float:
        """Event time of a request: what it says, kept within reason outside a replay."""
        if said is None:
            return self.now()
        event_s = parse_time(said)
        return event_s if self.replay else clamp_event_time(event_s, self._wall(), label_window_s)
