"""Replay flights on the devices: ask for predictions, post outcomes when they are known, move the clock on."""

from __future__ import annotations

import collections
import heapq
import typing

from cloud.demo.flights import Flight
from cloud.demo.processes import Device
from shared.clock import format_time
from shared.errors import ModelError

_OK = 200


class Log:
    """What the application on one device has seen: the demonstration's own count, to compare the records with.

    `late_outcomes` were posted after their label window had closed: the device must say so, and leave them out.
    """

    def __init__(self) -> None:
        self.answered = 0
        self.failed = 0
        self.outcomes = 0
        self.sources: collections.Counter[str] = collections.Counter()
        self.versions: collections.Counter[str] = collections.Counter()
        self.arms: collections.Counter[str] = collections.Counter()


class Traffic:
    """The application on one device.

    Parameters
    ----------
    device : Device
        Whom it asks.
    flights : list of Flight
        In the order of their departure.
    """

    def __init__(self, device: Device, flights: list[Flight]) -> None:
        self.device, self.log = device, Log()
        self._flights = collections.deque(flights)
        self._waiting: list[tuple[float, int, str, int]] = []

    def step(self, end_s: float) -> None:
        """Do everything that happens before an event time, then tell the device that it has come."""
        while self._flights and self._flights[0].event_s < end_s:
            self._ask(self._flights.popleft())
        known = []
        while self._waiting and self._waiting[0][0] < end_s:
            _, _, prediction_id, label = heapq.heappop(self._waiting)
            known.append({"prediction_id": prediction_id, "label": label})
        if known:
            self._post_outcomes(known)
        status, reply = self.device.post("/v1/clock", {"event_time": format_time(end_s)})
        if status != _OK:
            raise ModelError(f"{self.device.name}: {reply['error']}")

    def _ask(self, flight: Flight) -> None:
        body = {"features": flight.question, "event_time": format_time(flight.event_s)}
        status, reply = self.device.post("/v1/predict", body)
        if status != _OK:
            self.log.failed += 1
            return
        said = reply["parameters"]
        self.log.answered += 1
        self.log.sources[said["source"]] += 1
        self.log.versions[said["version"]] += 1
        self.log.arms[said["arm"]] += 1
        # A flight that is canceled on the way is known at once; nothing is known before it was asked for.
        known_s = max(flight.outcome_s, flight.event_s)
        heapq.heappush(self._waiting, (known_s, self.log.answered, said["prediction_id"], flight.row["late"]))

    def _post_outcomes(self, known: list[dict[str, object]]) -> None:
        status, reply = self.device.post("/v1/outcomes", {"outcomes": known})
        accepted = reply["accepted"] if status == _OK else 0
        self.log.outcomes += accepted
        self.log.failed += len(known) - accepted


def share_out(flights: typing.Iterable[Flight], names: typing.Mapping[str, str]) -> dict[str, list[Flight]]:
    """Give each flight to a device of its destination; several devices of one airport take turns."""
    at: dict[str, list[str]] = collections.defaultdict(list)
    for name in names:
        at[name.split("-")[0]].append(name)
    turns: collections.Counter[str] = collections.Counter()
    out: dict[str, list[Flight]] = {name: [] for name in names}
    for flight in flights:
        devices = at[flight.destination]
        out[devices[turns[flight.destination] % len(devices)]].append(flight)
        turns[flight.destination] += 1
    return out
