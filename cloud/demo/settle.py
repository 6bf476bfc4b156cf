"""Let time stand until every device has delivered, has done what its channel says, and the controller knows."""

from __future__ import annotations

import time
import typing

from cloud.demo.processes import Cloud, Fleet, wait_for
from cloud.store.store import Store

Row = dict[str, typing.Any]
_PATIENCE_S = 300.0
_AGAIN_S = 0.1  # what is not there yet is on probation, in training, or without a network
_SILENT_S = 4.0


def settle(
    store: Store,
    cloud: Cloud,
    fleet: Fleet,
    now_s: float,
    on_look: typing.Callable[[Row], None],
    is_done: typing.Callable[[], bool],
    *,
    cut_off: str,
) -> None:
    """Ask all devices to sync, then again those that lag, until none does.

    Devices that were not heard of for some seconds are asked too, so that a busy machine takes none for offline; one
    that has a network and is taken for offline is waited for: a slow machine gives the verdicts of a fast one.

    Parameters
    ----------
    now_s : float
        Event time up to which every device must have delivered.
    on_look : callable
        Told what the Fleet page shows, after each round.
    is_done : callable
        What else must be so.
    cut_off : str
        The device that has no network, if any: it is not waited for once the cloud takes it for offline.

    Raises
    ------
    TimeoutExpiredError
        Some did not come to rest.
    """
    deadline = time.monotonic() + _PATIENCE_S
    ask = {device.name for device in fleet.devices}
    while True:
        fleet.each(lambda device: device.sync(), [device for device in fleet.devices if device.name in ask])
        seen = _after_a_tick(store, cloud)
        on_look(seen)
        devices = cloud.devices()
        lagging = _lagging(devices, seen, now_s, cut_off)
        if not lagging and not seen["worker"]["jobs"] and is_done():
            return
        if time.monotonic() > deadline:
            wait_for(f"devices to settle: {sorted(lagging)[:3]}", lambda: False, timeout_s=0.1)
        ask = lagging | {device["device"] for device in devices if device["seen_s"] < time.time() - _SILENT_S}
        time.sleep(_AGAIN_S)


def _after_a_tick(store: Store, cloud: Cloud) -> Row:
    """Wait until a tick has seen everything that has been delivered up to now; return what the Fleet page shows."""
    wanted = store.evidence.revision()
    wait_for("the controller to tick", lambda: float(store.get_meta("tick_revision")) >= wanted, timeout_s=_PATIENCE_S)
    return cloud.fleet()


def _lagging(devices: typing.Sequence[Row], seen: Row, now_s: float, cut_off: str) -> set[str]:
    """Devices that have not yet delivered, or not yet done what their channel says."""
    out = set()
    for device in devices:
        if device["device"] == cut_off and not device["online"]:
            continue
        is_behind = device["watermark_s"] < now_s and bool(device["versions"])
        is_told = device["channel_sequence"] == seen["channels"].get(device["region"])
        if is_behind or not is_told or device["state"] != "good" or not device["online"]:
            out.add(device["device"])
    return out
