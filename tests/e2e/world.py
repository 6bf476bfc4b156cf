"""A small world for end-to-end tests: a shop whose customers change their minds, four devices, two regions.

In the old world red things sell; from day 0 of the replay on, blue things do. A model of the old world is bad, a model
of the new one is good, and everybody can tell after a few days.
"""

from __future__ import annotations

import csv
import datetime as dt
import os
import pathlib
import random
import typing

import msgspec

from cloud import enrol
from cloud.config import Project
from cloud.data.parts import add_file
from cloud.demo.processes import Cloud, Device, Fleet, free_port, wait_for
from cloud.demo.relay import Relay
from cloud.pipeline import Order, train
from cloud.rollout import plan
from cloud.setup import create_project
from cloud.store.store import Store
from shared.clock import DAY_S, day_of, format_time

START_S = dt.datetime(2025, 3, 3, tzinfo=dt.UTC).timestamp()
REGIONS = ("north", "south")
NAMES = {"n1": "north", "n2": "north", "s1": "south", "s2": "south"}
CUT_OFF = "n2"  # its line to the cloud can be cut: World.line
MODEL = "sales"
_OFFERED = 6
COLOURS = ("red", "green", "blue")
CONFIG = """\
[project]
name = "sales"
[serve]
port = {port}
online_window_s = {online_window_s}
tick_interval_s = 0.1
[regions]
order = ["north", "south"]
[devices]
poll_interval_s = 1
heartbeat_s = 0.5
probation_s = 0.2
replay = true
[rollout]
min_devices = 2
guardrails = "watch"
alpha_promote = {alpha_promote}
install_timeout_s = {install_timeout_s}
max_days = 40
[rollout.shadow]
min_days = 3
min_outcomes = 100
[rollout.canary]
min_days = 2
min_outcomes = 50
{canary}
[models.sales]
features = "features/sales.toml"
label = "sold"
time = "at"
classes = [0, 1]
holdout_days = 3
label_window_days = {label_window_days}
margin = {margin}
estimator = "sklearn.linear_model.SGDClassifier"
params = {{ loss = "log_loss" }}
{more}
"""
FEATURES = """\
name = "sales"
[[feature]]
kind = "categorical"
name = "colour"
categories = ["red", "green", "blue"]
[[feature]]
kind = "bucketed"
name = "price"
cuts = [10, 20, 50]
min = 0
missing = "bucket"
"""


class Sale(typing.NamedTuple):
    """One customer looking at one thing."""

    event_s: float
    colour: str
    price: float | None
    sold: int

    @property
    def question(self) -> dict[str, object]:
        """What a device is asked."""
        return {"colour": self.colour, "price": self.price}


def sales(
    day_s: float,
    n: int,
    rng: random.Random,
    likes: tuple[str, str],
    *,
    lift: float = 0.0,
    seen: typing.Sequence[str] = COLOURS,
) -> list[Sale]:
    """Return n sales of one day in a world that likes one colour and not another.

    `lift` adds to all odds; `seen` are the colours that customers look at.
    """
    liked, disliked = likes
    out = []
    for i in range(n):
        colour, price = rng.choice(seen), rng.choice([5.0, 15.0, 30.0, 80.0, None])
        odds = 0.85 if colour == liked else 0.15 if colour == disliked else 0.5
        out.append(Sale(day_s + (i + 0.5) * DAY_S * 0.4 / n, colour, price, int(rng.random() < odds + lift)))
    return out


def write_csv(rows: list[Sale], path: pathlib.Path) -> pathlib.Path:
    """Write sales as the business hands them over."""
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["at", "colour", "price", "sold"])
        writer.writerows([format_time(r.event_s), r.colour, "" if r.price is None else r.price, r.sold] for r in rows)
    return path


class World:
    """Cloud, devices and customers.

    Parameters
    ----------
    folder : Path
        Everything is below it.
    more, canary : str
        More lines for the model, and for the canary, in ``covey.toml``.

    Attributes
    ----------
    likes : tuple of str
        The colours that customers like and dislike; the new world's to begin with.
    seen : sequence of str
        The colours that customers look at.
    lifts : dict
        By how much customers of a region buy more of everything.
    reacts : callable
        (sale, what the device said of its answer) to the label; None if nobody hears of the outcome.
    offline : set of str
        Devices for which nobody waits.
    lists : bool
        Whether customers are shown lists, and take one thing of them or nothing, instead of one thing each.
    late_days : int
        How many days after the answer its outcome is posted.
    """

    def __init__(
        self,
        folder: pathlib.Path,
        *,
        more: str = "",
        canary: str = "",
        label_window_days: float = 0.5,
        margin: float = 0.02,
        alpha_promote: float = 0.01,
        online_window_s: float = 5.0,
        install_timeout_s: float = 60.0,
    ) -> None:
        self.folder, self.port = folder, free_port()
        config = CONFIG.format(
            port=self.port,
            more=more,
            canary=canary,
            label_window_days=label_window_days,
            margin=margin,
            alpha_promote=alpha_promote,
            online_window_s=online_window_s,
            install_timeout_s=install_timeout_s,
        )
        files = {"covey.toml": config, "features/sales.toml": FEATURES}
        self.project: Project = create_project(folder / "cloud", files, actor="test")
        self.store = Store(self.project)
        self.rng = random.Random(7)
        self.cloud: Cloud | None = None
        self.line = Relay(self.port)  # CUT_OFF's, which can be cut
        urls = dict.fromkeys(NAMES, f"http://127.0.0.1:{self.port}") | {CUT_OFF: self.line.url}
        self.fleet = Fleet([Device(n, r, folder / n, urls[n]) for n, r in NAMES.items()])
        self.now_s = 0.0
        self.answered = dict.fromkeys(NAMES, 0)
        self.outcomes = dict.fromkeys(NAMES, 0)
        self.arms: dict[str, int] = {}
        self.versions: dict[str, int] = {}
        self.failed = 0
        self.likes = ("blue", "red")
        self.seen: typing.Sequence[str] = COLOURS
        self.lifts = dict.fromkeys(REGIONS, 0.0)
        self.reacts: typing.Callable[[Sale, dict[str, typing.Any]], int | None] = lambda sale, _said: sale.sold
        self.late_days = 0
        self.lists = False
        self.offline: set[str] = set()
        self._unsaid: dict[str, list[list[dict[str, object]]]] = {name: [] for name in NAMES}

    # ---- setting up and clearing up

    def start_cloud(self) -> None:
        """Start ``covey serve`` with its worker."""
        self.cloud = Cloud(self.project.folder, self.port)
        self.cloud.wait()

    def start_devices(self) -> None:
        """Join and start all devices."""
        tokens = {
            region: str(
                enrol.new_join_token(self.project, self.store, region=region, uses=9, lifetime_s=600, actor="test")
            )
            for region in REGIONS
        }
        self.fleet.start(tokens, lambda _line: None)

    def close(self) -> None:
        """End every process."""
        self.fleet.stop()
        if self.cloud:
            self.cloud.stop()
        self.store.close()

    # ---- what the team does

    def add(self, rows: list[Sale], name: str, dataset: str = MODEL) -> None:
        """Add rows as a CSV file."""
        _, model = self.project.model(MODEL)
        add_file(
            self.project,
            self.store,
            write_csv(rows, self.folder / f"{name}.csv"),
            model=model,
            dataset=dataset,
            features=self.project.feature_set(model.features),
            actor="test",
        )

    def old_world(self, days: int = 20) -> list[Sale]:
        """Sales of the days before the replay."""
        return [s for d in range(-days, 0) for s in sales(START_S + d * DAY_S, 100, self.rng, ("red", "blue"))]

    def new_world(self, days: int = 20) -> list[Sale]:
        """Sales as they are from the replay on, to train a good model on."""
        return [s for d in range(days) for s in sales(START_S + d * DAY_S, 100, self.rng, ("blue", "red"))]

    def train(self, **order: typing.Any) -> str:
        """Train a version."""
        return train(self.project, self.store, Order(model=MODEL, actor="test", **order)).version

    def roll_out(self, version: str, *also: str, request_share: float = 0.5) -> int:
        """Start a rollout, of several candidates if there are more."""
        settings = self.project.settings.rollout
        canary = msgspec.structs.replace(settings.canary, request_share=request_share)
        return plan.start(
            self.store,
            msgspec.structs.replace(settings, canary=canary),
            REGIONS,
            model=MODEL,
            version=version,
            also=also,
            why="test",
            actor="test",
            event_day=day_of(float(self.store.get_meta("event_s"))),
        )

    # ---- time

    def install_first(self) -> None:
        """Train v1 on the old world, install it everywhere, and begin the replay."""
        self.add(self.old_world(), "old")
        assert self.train(why="first") == "v1"
        number = self.roll_out("v1")
        self.settle_until(lambda: self.state(number) == "promoted")
        self.now_s = START_S
        self.each(lambda device: device.post("/v1/clock", {"event_time": format_time(START_S)}))
        self.settle()

    def day(self, n: int = 40) -> None:
        """One day of customers on every device, with outcomes in the evening, and everybody online delivers."""
        for device in self.fleet.devices:
            (self.visitors if self.lists else self.customers)(device, n)
        self.now_s += DAY_S
        self.each(self.tell_time)
        self.settle()

    def days_until_end(self, number: int, n_days: int, n: int = 40) -> str:
        """Let days pass until a rollout has ended, at most so many; return its state."""
        for _ in range(n_days):
            self.day(n)
            if self.state(number) != "running":
                break
        return self.state(number)

    def customers(self, device: Device, n: int) -> None:
        """Customers on one device."""
        known: list[dict[str, object]] = []
        for sale in sales(self.now_s, n, self.rng, self.likes, lift=self.lifts[device.region], seen=self.seen):
            body = {"features": sale.question, "event_time": format_time(sale.event_s)}
            status, reply = device.post("/v1/predict", body)
            if status != 200:
                self.failed += 1
                continue
            self.answered[device.name] += 1
            said = reply["parameters"]
            self.arms[said["arm"]] = self.arms.get(said["arm"], 0) + 1
            self.versions[said["version"]] = self.versions.get(said["version"], 0) + 1
            label = self.reacts(sale, said)
            if label is not None:
                known.append({"prediction_id": said["prediction_id"], "label": label})
        self._say(device, known)

    def visitors(self, device: Device, n: int) -> None:
        """Visitors on one device: each sees three things of six, from the top, and takes the first that he likes."""
        known: list[dict[str, object]] = []
        for i in range(n):
            at_s = self.now_s + (i + 0.5) * DAY_S * 0.4 / n
            offered = sales(at_s, _OFFERED, self.rng, self.likes, seen=self.seen)
            body = {"candidates": [sale.question for sale in offered], "top_k": 3, "event_time": format_time(at_s)}
            status, reply = device.post("/v1/rank", body)
            if status != 200:
                self.failed += 1
                continue
            self.answered[device.name] += len(reply["ranked"])
            taken = next((shown["index"] for shown in reply["ranked"] if offered[shown["index"]].sold), None)
            for shown in reply["ranked"]:
                self.arms[shown["arm"]] = self.arms.get(shown["arm"], 0) + 1
                known.append({"prediction_id": shown["prediction_id"], "label": int(shown["index"] == taken)})
        self._say(device, known)

    def _say(self, device: Device, known: list[dict[str, object]]) -> None:
        """Post outcomes, today's or those of some days ago."""
        self._unsaid[device.name].append(known)
        if len(self._unsaid[device.name]) > self.late_days:
            self._post(device, self._unsaid[device.name].pop(0))

    def _post(self, device: Device, known: list[dict[str, object]]) -> None:
        status, reply = device.post("/v1/outcomes", {"outcomes": known})
        assert status == 200, reply
        self.outcomes[device.name] += reply["accepted"]

    def tell_time(self, device: Device) -> None:
        """Move a device's clock on."""
        status, reply = device.post("/v1/clock", {"event_time": format_time(self.now_s)})
        assert status == 200, reply

    def each(self, do: typing.Callable[[Device], object]) -> None:
        """Do something on each device, one after the other."""
        for device in self.fleet.devices:
            do(device)

    def settle(self) -> None:
        """Wait until all that are online have delivered and done what their channel says, and the controller knows."""
        self.settle_until(lambda: True)

    def settle_until(
        self, is_done: typing.Callable[[], bool], devices: typing.Collection[str] = (), timeout_s: float = 60
    ) -> None:
        """Sync until devices (all that are online) and controller are of one mind and something is so."""
        devices = devices or [name for name in NAMES if name not in self.offline]

        def try_once() -> bool:
            self.fleet.each(lambda device: device.sync(), [d for d in self.fleet.devices if d.name in devices])
            wanted = self.store.evidence.revision()
            wait_for("a tick", lambda: float(self.store.get_meta("tick_revision")) >= wanted, timeout_s=timeout_s)
            return not self.lagging(devices) and not self.store.jobs.open() and is_done()

        wait_for("everything to settle", try_once, timeout_s=timeout_s)

    def lagging(self, devices: typing.Collection[str]) -> list[str]:
        """Devices that have not done everything yet."""
        channels = {row["region"]: row["sequence"] for row in self.store.rollouts.channels()}
        return [
            row["device"]
            for row in self.store.fleet.all()
            if row["device"] in devices
            and (
                row["channel_sequence"] != channels.get(row["region"])
                or row["generation_state"] != "good"
                or row["watermark_s"] < self.now_s
            )
        ]

    # ---- what is so

    def state(self, number: int) -> str:
        """State of a rollout."""
        return str(self.store.rollouts.get(number)["state"])

    def stages(self, number: int) -> list[tuple[str, str, str]]:
        """Kind, region and verdict of each stage."""
        return [(s["kind"], s["region"], s["verdict"]) for s in self.store.rollouts.stages(number)]

    def stored(self) -> dict[str, tuple[int, int]]:
        """Requests and outcomes that the cloud has, by device."""
        rows = {name: self.store.evidence.totals(name) for name in NAMES}
        return {name: (row["requests"], row["outcomes"]) for name, row in rows.items()}

    def sent(self) -> dict[str, tuple[int, int]]:
        """Requests and outcomes as the application counted them."""
        return {name: (self.answered[name], self.outcomes[name]) for name in NAMES}


def children_of(pid: int) -> list[int]:
    """Direct children of a process, from /proc."""
    out = []
    for entry in pathlib.Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                fields = (entry / "stat").read_text().rpartition(")")[2].split()
            except OSError:
                continue
            if int(fields[1]) == pid:
                out.append(int(entry.name))
    return out


def command_line(pid: int) -> str:
    """Command line of a process; empty if it is gone."""
    try:
        return pathlib.Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode()
    except OSError:
        return ""


def is_alive(pid: int) -> bool:
    """Whether a process runs."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return "Z" not in pathlib.Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[:1]
