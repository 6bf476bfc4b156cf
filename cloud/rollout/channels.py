"""Write each region's channel from what the database says should run there; publish what has changed."""

from __future__ import annotations

import functools
import typing

import msgspec

from cloud.config import DeviceSettings, Project
from cloud.rollout.control import control_bp
from cloud.rollout.groups import basis_points, groups_of, is_plain, target_bp
from cloud.store.store import Store
from shared.channel import BundleRef, Channel, Experiment, Guard, ModelChannel, parse_channel
from shared.experiment import BASIS_POINTS

Publish = typing.Callable[[typing.Mapping[str, bytes]], None]
Row = typing.Mapping[str, typing.Any]


def trial_in(stages: typing.Sequence[Row], region: str) -> Row | None:
    """Return the stage that a region is in: its own canary once that has opened, the shadow until then."""
    opened = [stage for stage in stages if stage["opened_s"] and stage["kind"] != "install"]
    return next((stage for stage in reversed(opened) if stage["region"] in (region, "*")), None)


Refer = typing.Callable[[str], BundleRef]


def model_channel(
    incumbent: str, rollout: Row | None, stages: typing.Sequence[Row], model: str, region: str, *, refer: Refer
) -> ModelChannel:
    """Return what runs of one model in a region.

    Parameters
    ----------
    refer : callable
        Version to how the channel names it.
    """
    stage = trial_in(stages, region) if rollout else None
    if rollout is None or stage is None:
        return ModelChannel(model=model, incumbent=refer(incumbent))
    canary = rollout["plan"]["canary"] | stage["settings"]
    is_canary, by_device = stage["kind"] == "canary", is_by_device(rollout, stage)
    share_bp = BASIS_POINTS if by_device else basis_points(canary["request_share"])
    first, *also = [candidate for candidate in rollout["candidates"] if candidate["state"] == "running"]
    arms = tuple(candidate["arm"] for candidate in (first, *also))
    groups = groups_of(rollout, stages, stage, control_share_bp(rollout, stage, region))
    plain = is_plain(groups)
    trial = Experiment(
        mode=canary.get("mode", "canary") if is_canary else "shadow",
        epoch=stage["id"],
        salt=rollout["salt"],
        request_share_bp=share_bp if is_canary else 0,
        device_share_bp=groups[0].device_share_bp if plain else 0,
        keep_pairs=canary["keep_pairs"] and not by_device,
        # The control group is drawn from all devices, so those of a step for some are not compared with it.
        control_share_bp=control_share_bp(rollout, stage, region) if plain else 0,
        groups=() if plain else groups,
        arms=() if arms == tuple(range(1, len(arms) + 1)) else arms,
    )
    return ModelChannel(
        model=model,
        incumbent=refer(incumbent),
        candidate=refer(first["version"]),
        also=tuple(refer(candidate["version"]) for candidate in also),
        experiment=trial,
    )


def control_share_bp(rollout: Row, stage: Row, region: str) -> int:
    """Share of a region's devices that no candidate is given to; where arms are whole devices, as many as have it."""
    if stage["kind"] == "install":
        return 0
    return max(control_bp(rollout, region), target_bp(rollout, stage) if is_by_device(rollout, stage) else 0)


def is_by_device(rollout: Row, stage: Row) -> bool:
    """Whether a stage gives whole devices to an arm; plans of earlier versions do not say."""
    return bool(stage["kind"] == "canary" and rollout["plan"]["canary"].get("unit") == "device")


def bundle_ref(store: Store, model: str, version: str) -> BundleRef:
    """Name a version, with the variants in which it was signed."""
    return BundleRef(version=version, others=tuple(store.models.get(model, version)["detail"].get("variants", {})))


def desired(store: Store, settings: DeviceSettings, region: str, sequence: int) -> Channel:
    """Return the channel that a region should have."""
    models = []
    guard = Guard(**msgspec.structs.asdict(settings.guard))
    pins, aside = store.pins.in_region(region), store.aside.all(region)
    for row in store.db.rows("select model, version from incumbents where region = ? order by model", (region,)):
        rollout = store.rollouts.running(row["model"])
        stages = store.rollouts.stages(rollout["id"]) if rollout else []
        refer = functools.partial(bundle_ref, store, row["model"])
        entry = model_channel(row["version"], rollout, stages, row["model"], region, refer=refer)
        # Who is set aside goes on with what it runs; a pin goes before.
        pinned = {one["device"]: refer(one["kept"].get(row["model"]) or row["version"]) for one in aside}
        pinned |= {one["device"]: refer(one["version"]) for one in pins if one["model"] == row["model"]}
        models.append(msgspec.structs.replace(entry, guard=guard, pins=pinned))
    return Channel(
        region=region,
        sequence=sequence,
        models=tuple(models),
        poll_interval_s=settings.poll_interval_s,
        poll_jitter_ratio=settings.poll_jitter_ratio,
        heartbeat_s=settings.heartbeat_s,
        probation_s=settings.probation_s,
        replay=settings.replay,
    )


def regions_of(project: Project, store: Store) -> list[str]:
    """Return the regions in their order, then those that are no longer in the settings: their devices go on reading."""
    order = project.settings.regions.order
    return [*order, *(row["region"] for row in store.rollouts.channels() if row["region"] not in order)]


def publish_changes(project: Project, store: Store, publish: Publish) -> list[str]:
    """Publish the channels that differ from what was published; return their regions.

    The row comes after the file: after a crash between the two the same channel is published again, under the same
    number.
    """
    changed: dict[str, tuple[Channel, bytes]] = {}
    told: dict[str, Channel | None] = {}
    for region in regions_of(project, store):
        before = store.rollouts.channel(region)
        sequence = before["sequence"] if before else 0
        now = desired(store, project.settings.devices, region, sequence + 1)
        told[region] = parse_channel(before["body"]) if before else None
        if msgspec.structs.replace(now, sequence=sequence) != told[region]:
            changed[region] = (now, now.to_bytes())
    publish({now.target_path: body for now, body in changed.values()})
    for region, (now, body) in changed.items():
        store.rollouts.set_channel(region, now.sequence, body, told=_asks_anew(told[region], now))
    return list(changed)


def _asks_anew(before: Channel | None, now: Channel) -> bool:
    """Whether devices that do what a channel says have something to do; not where a stage only reaches more of them.

    Nor where one more is pinned or set aside, which leaves the others nothing to do; one that is let out has.
    """
    if before is None:
        return True
    known = {entry.model: entry.pins for entry in before.models}
    return _reaching_all(before, known) != _reaching_all(now, known)


def _reaching_all(channel: Channel, known: typing.Mapping[str, typing.Collection[str]]) -> Channel:
    """Return a channel as if its stages reached everybody, and of its pins those of devices that are known already."""
    models = []
    for entry in channel.models:
        trial = entry.experiment and msgspec.structs.replace(entry.experiment, device_share_bp=BASIS_POINTS, groups=())
        pins = {device: ref for device, ref in entry.pins.items() if device in known.get(entry.model, ())}
        models.append(msgspec.structs.replace(entry, experiment=trial, pins=pins))
    return msgspec.structs.replace(channel, models=tuple(models), sequence=1)
