"""What a look at a stage finds: its devices, its evidence, and the verdict on each candidate that runs."""

from __future__ import annotations

import collections
import types
import typing

import msgspec

from cloud.config import ModelSettings, Project, RolloutSettings
from cloud.rollout.by_device import EARLIER_DAYS
from cloud.rollout.channels import control_share_bp, regions_of
from cloud.rollout.devices import Wanted, model_status, sort_out, status_of
from cloud.rollout.groups import groups_of
from cloud.rollout.heard import Heard, heard_from, killed
from cloud.rollout.online import online_in_this_step, online_then_and_now
from cloud.rollout.quality import Judged, is_interleaved
from cloud.rollout.split import Others, beside, place_of
from cloud.rollout.terms import Terms, known_terms, terms_of, unlike
from cloud.rollout.verdict import Around, Evidence, Verdict, judge
from cloud.store.store import Store
from shared.channel import needs, parse_channel
from shared.clock import DAY_S, day_of
from shared.metrics import get_metric

Row = dict[str, typing.Any]


class Moment(typing.NamedTuple):
    """When a look is taken.

    Parameters
    ----------
    event_s, now_s : float, float
        Event time of the fleet, and time of the wall.
    stood : mapping
        ``rollout 7`` or ``stage 9`` to the days of the wall on which event time stood still since it began.
    """

    event_s: float
    now_s: float
    stood: typing.Mapping[str, int] = types.MappingProxyType({})

    def days_of(self, rollout: Row) -> int:
        """Days that a rollout has had: of event time, and of the wall where that stood still."""
        return day_of(self.event_s) + self.stood.get(f"rollout {rollout['id']}", 0) - int(rollout["created_day"])

    def days_in(self, stage: Row) -> int:
        """Days since a stage opened, counted alike."""
        return day_of(self.event_s) + self.stood.get(f"stage {stage['id']}", 0) - int(stage["opened_day"])


def running(rollout: Row) -> list[Row]:
    """Candidates that are still tried, by arm."""
    return [candidate for candidate in rollout["candidates"] if candidate["state"] == "running"]


def look_at(
    project: Project,
    store: Store,
    rollout: Row,
    plan: RolloutSettings,
    stage: Row,
    stages: typing.Sequence[Row],
    at: Moment,
) -> dict[int, Verdict]:
    """Judge each candidate in a stage, on its own evidence and its own devices.

    Parameters
    ----------
    plan : RolloutSettings
        As it is for this stage.

    Returns
    -------
    dict
        Arm to verdict.
    """
    _, model = project.model(rollout["model"])
    terms = {one["arm"]: terms_of(store, rollout["model"], one["version"], model) for one in rollout["candidates"]}
    window_days = max(model.label_window_days, *(one.label_window_days for one in terms.values()))
    mature_day = day_of(at.event_s - window_days * DAY_S)
    rows = _evidence(store, rollout, plan, stage, stages, mature_day) if stage["kind"] != "install" else None
    devices = _devices_of(store, stage, stages)
    asked = _wanted(project, store, rollout, stage, stages)
    says = _said_by(devices, rollout)
    dropped = {one["arm"]: one["ended_day"] for one in rollout["candidates"] if one["state"] == "dropped"}
    online = online_then_and_now(project, store, rollout, stage, at.now_s) if rows else []
    online += online_in_this_step(project, store, stage, devices, asked, at.now_s)
    verdicts = {}
    for candidate in running(rollout):
        blamed = frozenset(store.aside.failed_at(rollout["model"], candidate["version"]))
        wanted = asked._replace(version=candidate["version"], blamed=blamed)
        counts, named = sort_out(
            devices,
            wanted,
            now_s=at.now_s,
            online_window_s=project.settings.serve.online_window_s,
            install_timeout_s=plan.install_timeout_s,
        )
        evidence = of_arm(rows, candidate["arm"], dropped.values()) if rows else Evidence([], [], [], [], [])
        others = [one["arm"] for one in rollout["candidates"] if one["arm"] != candidate["arm"]]
        heard = _heard(project, rows, plan, stage, stages, devices, wanted, at) if rows else []
        around = Around(
            beside(rows.stage_served, Others(others, dropped, says)) if rows else None,
            heard,
            {device for (device, arm), is_so in says.items() if arm == candidate["arm"] and is_so},
            online,
            _silent_days(store, stage, candidate["arm"], heard, plan, at),
        )
        judged = _judged(project, store, model, rollout, candidate["version"], terms[candidate["arm"]])
        verdict = judge(stage["kind"], counts, evidence, plan, judged, around)
        verdicts[candidate["arm"]] = msgspec.structs.replace(verdict, named=named)
    return verdicts


def _wanted(project: Project, store: Store, rollout: Row, stage: Row, stages: typing.Sequence[Row]) -> Wanted:
    """Return what a stage wants its devices to run; each candidate puts its own version in."""
    channels, regions = store.rollouts.channels(), regions_of(project, store)
    control_bp = control_share_bp(rollout, stage, stage["region"])
    return Wanted(
        model=rollout["model"],
        version=rollout["to_version"],
        epoch=0 if stage["kind"] == "install" else stage["id"],
        salt=rollout["salt"],
        groups=groups_of(rollout, stages, stage, control_bp),
        control_bp={region: control_share_bp(rollout, stage, region) for region in regions},
        opened_s=stage["opened_s"],
        told_s={row["region"]: row["told_s"] for row in channels},
        needs={row["region"]: needs(parse_channel(row["body"]), rollout["model"]) for row in channels},
        all_groups=groups_of(rollout, stages, stage, control_bp, reached=False),
        growth=tuple(stage["growth"]),
        pinned=frozenset(one["device"] for one in store.pins.in_region() if one["model"] == rollout["model"]),
        aside=frozenset(one["device"] for one in store.aside.all()),
    )


def _judged(project: Project, store: Store, model: ModelSettings, rollout: Row, version: str, terms: Terms) -> Judged:
    """Return what a candidate is judged by."""
    now = Terms(model.metric_name, model.task, terms.scale, terms.label_window_days)
    return Judged(
        metric=get_metric(terms.metric, terms.task),
        margin=model.margin / terms.scale,
        is_alike=not unlike(known_terms(store, rollout["model"], rollout["from_version"]), terms),
        otherwise=unlike(terms, now),
        n_regions=len(project.settings.regions.order),
        n_candidates=len(rollout["candidates"]),
        incumbent=rollout["from_version"],
        candidate=version,
        numbers=model.numbers,
    )


def _said_by(devices: typing.Sequence[Row], rollout: Row) -> dict[tuple[str, int], bool]:
    """Return whether a device runs a candidate, by (device, arm), as it says; False where it refuses it."""
    says: dict[tuple[str, int], bool] = {}
    for device in devices:
        runs = model_status(status_of(device), rollout["model"])
        for candidate in rollout["candidates"] if runs else ():
            if runs and candidate["version"] in (runs.candidate, *runs.also):
                says[device["device"], candidate["arm"]] = True
            elif runs and candidate["version"] in runs.refused:
                says[device["device"], candidate["arm"]] = False
    return says


def _heard(
    project: Project,
    rows: Evidence,
    plan: RolloutSettings,
    stage: Row,
    stages: typing.Sequence[Row],
    devices: typing.Sequence[Row],
    wanted: Wanted,
    at: Moment,
) -> list[Heard]:
    """Count devices that have fallen silent since their region's first step of this kind opened."""
    first: dict[str, float] = {}
    for other in stages:
        if other["kind"] == stage["kind"] and other["opened_s"]:
            first[other["region"]] = min(other["opened_s"], first.get(other["region"], other["opened_s"]))
    regions = {device["region"] for device in devices}
    by_device = stage["kind"] == "canary" and plan.canary.unit == "device"
    return heard_from(
        devices,
        wanted,
        since_s={region: opened_s for region in regions if (opened_s := first.get(region, first.get("*")))},
        now_s=at.now_s,
        online_window_s=project.settings.serve.online_window_s,
        answered={row["device"] for row in rows.faults if row["epoch"] == stage["id"]} if by_device else None,
    )


def _silent_days(
    store: Store, stage: Row, arm: int, heard: typing.Sequence[Heard], plan: RolloutSettings, at: Moment
) -> int:
    """Return for how long far more devices have been silent with a candidate than without it, without a break."""
    key, days = f"stage {stage['id']} arm {arm} silent", at.days_in(stage)
    since = int(store.get_meta(key, -1))
    is_so = killed(heard, plan.alpha_promote, plan.error_ratio, plan.error_min_executed)
    if is_so and since < 0:
        store.set_meta(key, days)
        return 0
    if not is_so and since >= 0:
        store.set_meta(key, -1)
    return days - since if is_so else 0


def of_arm(evidence: Evidence, arm: int, dropped_days: typing.Collection[int] = ()) -> Evidence:
    """Return what speaks of one candidate and of the incumbent beside it; the candidate becomes arm 1.

    Pairs are one candidate's against the incumbent, so those of the others go; sums keep the incumbent's arm 0.

    Parameters
    ----------
    dropped_days : collection of int
        Event days on which a candidate was dropped. The incumbent answers more from then on, so the days after are
        compared apart: where a split changes while the days do too, adding up makes differences that are none.
    """

    def own(row: typing.Mapping[str, typing.Any], elsewhere: int) -> Row:
        epoch = (row["epoch"], sum(row["day"] > day for day in dropped_days)) if dropped_days else row["epoch"]
        return {**row, "arm": min(row["arm"], 1), "epoch": epoch, "failed_elsewhere": 0 if row["arm"] else elsewhere}

    def own_rows(rows: typing.Sequence[typing.Mapping[str, typing.Any]]) -> list[Row]:
        # The incumbent answers in place of whoever fails, and that is no request that was given to it.
        failed: dict[tuple[typing.Any, ...], int] = collections.Counter()
        for row in rows:
            if row["arm"] not in (0, arm):
                failed[place_of(row)] += row.get("failed", 0)
        return [own(row, failed[place_of(row)]) for row in rows if row["arm"] in (0, arm)]

    return Evidence(*map(own_rows, evidence))


def _devices_of(store: Store, stage: Row, stages: typing.Sequence[Row]) -> list[Row]:
    """Return the devices of a stage; those of a region whose next step is open have left the one before."""
    if any(other["opened_s"] and other["position"] > stage["position"] for other in stages if _same(other, stage)):
        return []
    moved_on = {other["region"] for other in stages if other["kind"] == "canary" and other["opened_s"]}
    devices = store.fleet.all("" if stage["region"] == "*" else stage["region"])
    return [device for device in devices if stage["kind"] != "shadow" or device["region"] not in moved_on]


def _same(one: Row, other: Row) -> bool:
    return bool(one["kind"] == other["kind"] and one["region"] == other["region"])


def _evidence(
    store: Store, rollout: Row, plan: RolloutSettings, stage: Row, stages: typing.Sequence[Row], mature_day: int
) -> Evidence:
    """Read what the fleet has sent about all candidates."""
    opened = {other["id"]: other["opened_day"] for other in stages if other["opened_s"]}
    lists = {other["id"] for other in stages if is_interleaved(other["kind"], plan)}
    epochs, model = list(opened), rollout["model"]
    # Days before a stage opened are those of a clock that is wrong; one day is a time zone's worth of doubt.
    pairs = [row for row in store.evidence.pairs(model, epochs, before_day=mature_day) if _is_of(row, opened)]
    served = [row for row in store.evidence.served(model, epochs, before_day=mature_day) if _is_of(row, opened)]
    here = stage["id"]
    # A control group answers from the first day on, the others once they have the candidate.
    by_day = plan.canary.unit == "device" or any(
        [plan.canary.control_share, *(own.control_share for own in plan.region.values())]
    )

    def marked(rows: typing.Iterable[Row]) -> list[Row]:
        return [row | {"by_day": by_day} for row in rows]

    return Evidence(
        pairs=[row for row in pairs if row["epoch"] not in lists],
        stage_pairs=[row for row in pairs if row["epoch"] == here],
        served=marked(served),
        stage_served=[row for row in served if row["epoch"] == here],
        faults=marked(store.evidence.faults(model, epochs)),
        latencies=marked(store.evidence.log_latencies(model, epochs)),
        lists=[row for row in pairs if row["epoch"] in lists],
        memory=marked(store.measures.memory(model, epochs)),
        earlier=_earlier(store, model, stages) if plan.canary.unit == "device" else [],
        posted=[row for row in store.measures.numbers(model, epochs, before_day=mature_day) if _is_of(row, opened)],
    )


def _earlier(store: Store, model: str, stages: typing.Sequence[Row]) -> list[Row]:
    """How each device did before its region's first step opened."""
    first: dict[str, int] = {}
    for stage in stages:
        if stage["kind"] == "canary" and stage["opened_s"]:
            first[stage["region"]] = min(stage["opened_day"], first.get(stage["region"], stage["opened_day"]))
    return [
        row | {"region": region, "arm": 0, "epoch": 0, "day": day}
        for region, day in sorted(first.items())
        for row in store.measures.earlier(model, region, from_day=day - EARLIER_DAYS, before_day=day)
    ]


def _is_of(row: Row, opened: typing.Mapping[int, int]) -> bool:
    return bool(row["day"] >= opened[row["epoch"]] - 1)
