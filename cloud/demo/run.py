"""Set the stage, play the story, check it, and clear up."""

from __future__ import annotations

import concurrent.futures
import contextlib
import os
import pathlib
import shutil
import signal
import tempfile
import time
import typing
import webbrowser

from cloud.demo import flights, processes, project, summary
from cloud.demo.relay import Relay
from cloud.demo.screen import Screen
from cloud.demo.story import END_S, START_S, Scene, Story, join_tokens
from cloud.demo.traffic import Traffic, share_out
from cloud.setup import create_project
from cloud.store.store import Store
from shared.errors import UsageError

MIN_DEVICES = 24
MAX_DEVICES = 96
_JANUARY, _SUMMER = 1, (6, 7, 8)
_ONLINE_WINDOW_S = 12.0
_ACTOR = "demo"


class Options(typing.NamedTuple):
    """What was asked for on the command line."""

    devices: int = MIN_DEVICES
    speed: float = 0.0
    seed: int = 0
    keep: pathlib.Path | None = None
    browser: bool = True
    quiet: bool = False


def device_names(n: int) -> dict[str, str]:
    """Return device to region: one for each airport, then a second one, and so on.

    Raises
    ------
    UsageError
        So many can not carry the story.
    """
    if not MIN_DEVICES <= n <= MAX_DEVICES:
        raise UsageError(
            f"{n} devices: a decision needs 20 devices in each arm, and each region some to spare",
            field="--devices",
            fix=f"Use {MIN_DEVICES} to {MAX_DEVICES}.",
        )
    airports = [airport for place in zip(*flights.REGIONS.values(), strict=True) for airport in place]
    names = [
        airports[i % len(airports)] + (f"-{i // len(airports) + 1}" if i >= len(airports) else "") for i in range(n)
    ]
    return {name: flights.REGION_OF[name.split("-")[0]] for name in names}


def run(options: Options) -> dict[str, typing.Any]:
    """Play the demonstration; return its checked summary."""
    names = device_names(options.devices)
    started = time.monotonic()
    folder = pathlib.Path(options.keep or tempfile.mkdtemp(prefix="covey-demo-")).absolute()
    if options.keep and folder.exists() and any(folder.iterdir()):
        raise UsageError(f"{folder} is not empty", field="--keep", fix="Name a new folder.")
    folder.mkdir(parents=True, exist_ok=True)
    signal.signal(signal.SIGTERM, _end)
    try:
        with Screen(quiet=options.quiet) as screen:
            return _play(options, names, folder, screen, started)
    finally:
        if options.keep is None:
            shutil.rmtree(folder, ignore_errors=True)


def _play(
    options: Options, names: dict[str, str], folder: pathlib.Path, screen: Screen, started: float
) -> dict[str, typing.Any]:
    port = processes.free_port()
    made = create_project(
        folder / "cloud",
        project.files(port=port, seed=options.seed, online_window_s=_ONLINE_WINDOW_S),
        actor=_ACTOR,
    )
    screen.say("reading the flights of January and of the summer of 2013")
    with contextlib.ExitStack() as ending:
        cloud = processes.Cloud(made.folder, port)
        ending.callback(cloud.stop)
        relay = Relay(port)
        ending.callback(relay.close)
        cut_off = next(iter(names))
        fleet = processes.make_fleet(folder / "devices", names, cloud.url, cut_off, relay)
        ending.callback(fleet.stop)
        played = flights.load((_JANUARY, *_SUMMER))
        store = Store(made)
        ending.callback(store.close)
        cloud.wait()
        screen.say(f"the cloud answers on {cloud.url}")
        if options.browser and _has_display():
            webbrowser.open(cloud.url)
        # Devices start while the first model is trained: either alone leaves one of two cores idle.
        aside = ending.enter_context(concurrent.futures.ThreadPoolExecutor(max_workers=1))
        starting = aside.submit(fleet.start, join_tokens(made, store, len(names)), screen.say)
        shared_out = share_out([f for f in played if START_S <= f.event_s < END_S], names)
        traffic = {device.name: Traffic(device, shared_out[device.name]) for device in fleet.devices}
        scene = Scene(made, store, cloud, fleet, relay, traffic, played, folder, cut_off, options.seed)
        story = Story(scene, screen.say, options.speed)
        story.on_step, story.until_devices_answer = screen.show, starting.result
        story.play()
        return summary.summarize(scene, story.facts, time.monotonic() - started)


def _end(number: int, _frame: object) -> typing.NoReturn:
    """End as by ctrl-C when asked to, so that no process of the demonstration outlives it."""
    raise SystemExit(128 + number)


def _has_display() -> bool:
    return bool(os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY"))
