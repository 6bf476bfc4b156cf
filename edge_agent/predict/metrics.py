"""``GET /metrics``: counters and gauges in the text format 0.0.4 of Prometheus."""

from __future__ import annotations

import itertools
import operator
import os
import time
import typing

from edge_agent.predict import metadata
from edge_agent.predict.engine import Engine
from edge_agent.predict.meters import BOUNDS_US, Meters
from edge_agent.records import ARM_NAMES, INCUMBENT
from shared import __version__
from shared.telemetry import SOURCES

_ESCAPES = str.maketrans({"\\": "\\\\", '"': '\\"', "\n": "\\n"})
_PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")
Labels = dict[str, str]


class Family(typing.NamedTuple):
    """A metric: its samples are (suffix of the name, labels, value)."""

    name: str
    kind: typing.Literal["counter", "gauge", "histogram"]
    says: str
    samples: list[tuple[str, Labels, float]]


def render(families: typing.Iterable[Family]) -> str:
    r"""Write metrics; a family without samples is left out.

    >>> print(render([Family("covey_waiting", "gauge", "What waits.", [("", {"of": 'a "b"'}, 2)])]))
    # HELP covey_waiting What waits.
    # TYPE covey_waiting gauge
    covey_waiting{of="a \"b\""} 2
    <BLANKLINE>
    """
    lines: list[str] = []
    for family in families:
        if not family.samples:
            continue
        says = family.says.replace("\\", "\\\\").replace("\n", "\\n")
        lines += [f"# HELP {family.name} {says}", f"# TYPE {family.name} {family.kind}"]
        lines += [
            f"{family.name}{suffix}{_labels(labels)} {_number(value)}" for suffix, labels, value in family.samples
        ]
    return "\n".join([*lines, ""])


def _labels(labels: Labels) -> str:
    if not labels:
        return ""
    return "{" + ",".join([f'{name}="{value.translate(_ESCAPES)}"' for name, value in labels.items()]) + "}"


def _number(value: float) -> str:
    return str(int(value)) if float(value).is_integer() and abs(value) < 1e15 else repr(float(value))  # noqa: PLR2004


def gather(
    meters: Meters, engine: Engine, status: typing.Mapping[str, typing.Any], gauges: typing.Mapping[str, float]
) -> list[Family]:
    """Collect all metrics of this process.

    Parameters
    ----------
    status : mapping
        What ``GET /v1/status`` shows.
    gauges : mapping
        Further numbers by name, without the prefix ``covey_``; names that end in ``_total`` are counters.
    """
    return [
        _one("covey_build_info", "Version of the agent.", 1, {"version": __version__}),
        *_answers(meters),
        *_failures(meters),
        *_models(engine),
        *_checks(engine),
        *_fleet(engine, status),
        *[
            Family(f"covey_{name}", "counter" if name.endswith("_total") else "gauge", says, [("", {}, value)])
            for name, value in sorted(gauges.items())
            for says in [name.replace("_", " ") + "."]
        ],
        *_process(meters),
    ]


def _one(name: str, says: str, value: float, labels: Labels | None = None) -> Family:
    return Family(name, "gauge", says, [("", labels or {}, value)])


def _answers(meters: Meters) -> list[Family]:
    counts: list[tuple[str, Labels, float]] = []
    durations: dict[tuple[str, str], tuple[list[int], int]] = {}
    for (model, version, arm, source), series in meters.answered.items():
        labels = {"model": model, "version": version, "arm": ARM_NAMES[arm], "source": SOURCES[source]}
        counts.append(("", labels, series.n))
        buckets, sum_us = durations.get((model, version), ([0] * len(series.buckets), 0))
        added = [a + b for a, b in zip(buckets, series.buckets, strict=True)]
        durations[model, version] = added, sum_us + series.sum_us
    samples: list[tuple[str, Labels, float]] = []
    for (model, version), (buckets, sum_us) in durations.items():
        labels = {"model": model, "version": version}
        bounds = [*(repr(bound / 1e6) for bound in BOUNDS_US), "+Inf"]
        reached = list(itertools.accumulate(buckets))
        samples += [("_bucket", labels | {"le": le}, n) for le, n in zip(bounds, reached, strict=True)]
        samples += [("_sum", labels, sum_us / 1e6), ("_count", labels, reached[-1])]
    lists = [
        ("", {"model": model, "version": version, "source": SOURCES[source]}, float(n))
        for (model, version, source), n in meters.lists.items()
    ]
    return [
        Family("covey_lists_total", "counter", "Lists asked for without candidates, by where they came from.", lists),
        Family("covey_predictions_total", "counter", "Answers given, by where they came from.", counts),
        Family("covey_prediction_seconds", "histogram", "Time from the parsed request to the answer.", samples),
    ]


def _failures(meters: Meters) -> list[Family]:
    failed: list[tuple[str, Labels, float]] = []
    for (model, version, arm, served), n in meters.failed.items():
        labels = {"model": model, "version": version, "arm": ARM_NAMES[arm], "served": str(served).lower()}
        failed.append(("", labels, n))
    outcomes = [("", {"model": model, "version": version}, float(n)) for (model, version), n in meters.outcomes.items()]
    return [
        Family("covey_failures_total", "counter", "Times an arm could not answer, or not be scored.", failed),
        Family("covey_outcomes_total", "counter", "Outcomes taken, by the version that had answered.", outcomes),
        Family("covey_errors_total", "counter", "Error replies by code.", _by("code", meters.errors)),
        Family("covey_http_replies_total", "counter", "Replies by status.", _by("status", meters.replies)),
    ]


def _by(label: str, counts: typing.Mapping[typing.Any, int]) -> list[tuple[str, Labels, float]]:
    return [("", {label: str(what)}, float(n)) for what, n in sorted(counts.items())]


def _models(engine: Engine) -> list[Family]:
    loaded: list[tuple[str, Labels, float]] = []
    slow: list[tuple[str, Labels, float]] = []
    for name, active in sorted(engine.models.items()):
        arms = {version: arm for arm, version in active.entry.candidates.items()} | {active.entry.incumbent: INCUMBENT}
        for version, arm in sorted(arms.items(), key=operator.itemgetter(1)):
            bundle = active.bundles[version]
            labels = {"model": name, "version": version, "arm": ARM_NAMES[arm]}
            loaded.append(("", labels, bundle.is_loaded.is_set() and not bundle.error))
            slow.append(("", labels, bundle.is_slow))
    return [
        Family("covey_model_loaded", "gauge", "1 if the model is loaded and sound.", loaded),
        Family("covey_model_slow", "gauge", "1 if the model runs in a thread of its own, being slow.", slow),
    ]


def _checks(engine: Engine) -> list[Family]:
    """How precomputed answers compare with the model's."""
    samples: tuple[list[tuple[str, Labels, float]], ...] = ([], [])
    for name, seen in sorted(engine.parity.counts.items()):
        model, _, version = name.rpartition("@")
        for sample, n in zip(samples, seen, strict=True):
            sample.append(("", {"model": model, "version": version}, float(n)))
    checked, differing = samples
    return [
        Family("covey_table_checks_total", "counter", "Precomputed answers that the model was asked too.", checked),
        Family("covey_table_differing_total", "counter", "Those that differ from what the model says.", differing),
    ]


def _fleet(engine: Engine, status: typing.Mapping[str, typing.Any]) -> list[Family]:
    """What is served, and how the last sync and the last update went."""
    update, sync = status.get("update") or {}, status.get("sync") or {}
    found = [
        _one(
            "covey_generation_info",
            "The generation that is served.",
            1,
            {"generation": engine.generation, "state": str(status.get("state", ""))},
        ),
        _one("covey_ready", "1 if every model can answer.", metadata.is_all_ready(engine)),
    ]
    if update:
        labels = {"position": str(update.get("position", "")), "outcome": str(update.get("outcome", ""))}
        found.append(
            _one("covey_update_info", "Where the update machine is, and how the last update ended.", 1, labels)
        )
    if sync:
        found.append(_one("covey_sync_ok", "1 if the last sync went well.", bool(sync.get("ok"))))
        if isinstance(sync.get("channel_sequence"), int):
            says = "Sequence number of the newest channel."
            found.append(_one("covey_channel_sequence", says, sync["channel_sequence"]))
    if isinstance(status.get("event_time_s"), int | float):
        says = "Event time, seconds since 1970: now, or how far a replay has come."
        found.append(_one("covey_event_time_seconds", says, status["event_time_s"]))
    totals = status.get("totals") or {}
    if totals:
        says = "What was answered and recorded since the device joined, as of the last second."
        samples = [("", {"what": str(name)}, float(n)) for name, n in sorted(totals.items())]
        found.append(Family("covey_device_records_total", "counter", says, samples))
    return found


def _process(meters: Meters) -> list[Family]:
    with open("/proc/self/statm", encoding="ascii") as file:  # noqa: PTH123 - read at every scrape
        resident = int(file.read().split()[1]) * _PAGE_BYTES
    return [
        _one("process_resident_memory_bytes", "Memory in use.", resident),
        Family("process_cpu_seconds_total", "counter", "CPU time used.", [("", {}, time.process_time())]),
        _one("process_start_time_seconds", "When the process started to serve.", meters.started_s),
        _one("process_open_fds", "Open files and connections.", len(os.listdir("/proc/self/fd"))),  # noqa: PTH208
    ]
