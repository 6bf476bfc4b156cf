"""A simulated fleet under the real controller: real database, real ingest, one clock; a step is a day.

Devices do what their channel says, or what their part in a test is. Only the signed repository is left out: channels
are kept as they are published.
"""

from __future__ import annotations

import dataclasses
import hashlib
import pathlib
import random
import shutil
import tempfile
import time
import typing

import pytest

from cloud.config import load_project
from cloud.rollout import controller, plan
from cloud.store.ingest import ingest
from cloud.store.store import Store
from edge_agent.update.desire import concerning
from shared.channel import LABELS, Channel, ModelChannel, parse_channel
from shared.clock import DAY_S, day_of
from shared.experiment import in_control, in_stage
from shared.summary import N_LATENCY_BINS, latency_bin, quantise
from shared.telemetry import Batch, DeviceStatus, Event, ModelStatus, PairsRow, SumsRow

MODEL, OTHER = "late", "rain"
ORDER = ("west", "mid", "east")
START_S = 20_000 * DAY_S
TOML = """
[project]
name = "simulated"
[serve]
online_window_s = 130000.0
[regions]
order = ["west", "mid", "east"]
[rollout]
min_devices = {min_devices}
install_timeout_s = 200000.0
{rollout}
[rollout.shadow]
min_days = 3
min_outcomes = 100
[rollout.canary]
min_days = 2
min_outcomes = 50
{canary}
[models.late]
features = "features/late.toml"
label = "late"
time = "at"
estimator = "sklearn.linear_model.LogisticRegression"
[models.rain]
features = "features/late.toml"
label = "rain"
time = "at"
estimator = "sklearn.linear_model.LogisticRegression"
"""
Row = dict[str, typing.Any]


@dataclasses.dataclass
class Device:
    """A device, and how it behaves.

    Parameters
    ----------
    installs : str
        ``ok``; ``refuses`` every candidate; ``hangs``, so that it goes on with what it has; or stays on ``trial``.
    refuses : str
        One candidate that it refuses, and runs the others.
    arms : dict
        Model to the candidates that it runs, by arm.
    agent : str
        The version that it says of itself; then it is one that understands nothing of experiments but two arms.
    can : tuple of str
        What it understands all the same.
    labels : dict
        What it goes by; one whose agent understands nothing of that says nothing of it.
    trouble : str
        What it says of an update that does not come to an end.
    """

    name: str
    region: str
    installs: str = "ok"
    online: bool = True
    clock_runs: bool = True
    sequence: int = 0
    day: int = 0
    refuses: str = ""
    trouble: str = ""
    agent: str = ""
    can: tuple[str, ...] = ()
    labels: dict[str, str] = dataclasses.field(default_factory=dict)
    models: dict[str, ModelStatus] = dataclasses.field(default_factory=dict)
    arms: dict[str, dict[int, str]] = dataclasses.field(default_factory=dict)


class Fleet:
    """The fleet, its cloud, and the clock of both.

    Parameters
    ----------
    n : int
        Devices in each region.
    gain : float
        Of the candidate over the incumbent, on each input.
    gains : dict
        The same, for a version that is different.
    """

    def __init__(
        self,
        folder: pathlib.Path,
        monkeypatch: pytest.MonkeyPatch,
        *,
        n: int = 4,
        rollout: str = "max_days = 40",
        canary: str = "",
        min_devices: int = 2,
    ) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "covey.toml").write_text(TOML.format(rollout=rollout, canary=canary, min_devices=min_devices))
        self.project = load_project(folder)
        shutil.copytree(_database(), self.project.var, dirs_exist_ok=True)
        self.store = Store(self.project)
        self.now_s, self.rng = START_S, random.Random(5)
        monkeypatch.setattr(time, "time", lambda: self.now_s)
        self.gain, self.served_gain, self.failed_ratio, self.requests = 0.0, 0.0, 0.0, 60
        self.incumbent_failed_ratio = 0.0
        self.differ, self.own_loss = 0.0, 0.0  # how much devices differ, and by how much the one that delivers does
        self.gains: dict[str, float] = {}
        self.liked: dict[str, float] = {}  # version to how many more of its lists people prefer
        self.preferred: typing.Callable[[str], int] | None = None  # what a visit to lists of a version says
        self.failing: dict[str, float] = {}  # version to the share of its answers that fail
        self.lost: dict[str, float] = {}  # version to the share of its requests that nothing is ever reported of
        self.slow = False  # whether the candidate takes eight times as long
        self.channels: dict[str, Channel] = {}
        self.publishings: list[list[str]] = []
        self.said: list[str] = []
        for region in ORDER:
            self.store.fleet.add_token(region, "secret", region, uses=99, lifetime_s=1e9)
        self.devices = [self.join(region, i) for region in ORDER for i in range(n)]

    def join(self, region: str, number: int) -> Device:
        """Let a device in."""
        device = Device(f"{region}-{number}", region)
        self.store.fleet.join(device.name, hashlib.sha256(device.name.encode()).hexdigest(), region, "secret")
        return device

    # ---- versions and rollouts

    def version(self, model: str = MODEL) -> str:
        """Register a version as training does; nothing is trained."""
        models = self.store.models
        made = models.allocate(model, parent="", why="a test", data_version="d", features="f", stateful=False)
        models.finish(model, str(made), "ready", {})
        models.set_manifest(model, str(made), "ab" * 32)
        return str(made)

    def start(self, version: str = "", model: str = MODEL, *, also: int = 0) -> int:
        """Start a rollout, of a new version by default, and of so many further ones."""
        settings = self.project.settings.rollout
        day = day_of(float(self.store.get_meta("event_s")))
        version = version or self.version(model)
        return plan.start(
            self.store, settings, ORDER, model=model, version=version, also=[self.version(model) for _ in range(also)],
            why="a test", actor="ada", event_day=day,
        )  # fmt: skip

    def install(self, model: str = MODEL) -> None:
        """Bring a first version everywhere."""
        number = self.start(model=model)
        self.days(5)
        assert self.row(number)["state"] == "promoted", self.row(number)

    def trial(self, *, days: int = 0, model: str = MODEL, also: int = 0) -> int:
        """Install v1 and start v2, and so many further versions; let some days pass."""
        self.install(model)
        number = self.start(model=model, also=also)
        self.tick()
        self.days(days)
        return number

    def order(self, number: int, action: str, *, reason: str = "a test") -> str:
        """Give an order, let the controller see it, and return what came of it."""
        made = self.store.rollouts.order(number, action, actor="ada", reason=reason)
        self.tick()
        return str(self.store.rollouts.get_order(made)["result"])

    # ---- time

    def days(self, n: int = 1) -> None:
        """Let days pass: devices work, deliver, and the controller looks."""
        for _ in range(n):
            self.now_s += DAY_S
            for device in self.devices:
                self.deliver(device)
            self.tick()

    def until(self, is_so: typing.Callable[[], bool], *, most: int = 60) -> int:
        """Let days pass until something is so; return how many."""
        for n in range(most):
            if is_so():
                return n
            self.days()
        raise AssertionError(f"not within {most} days: {self.said[-3:]}")

    def tick(self) -> controller.Tick:
        """Let the controller look, once."""
        done = controller.tick(self.project, self.store, self.publish)
        self.said += done.happened
        return done

    def publish(self, files: typing.Mapping[str, bytes]) -> None:
        """Keep channels as they are published."""
        if files:
            self.publishings.append(sorted(files))
        for channel in map(parse_channel, files.values()):
            known = self.channels.get(channel.region)
            if known is None or channel.sequence >= known.sequence:  # devices refuse an older one
                self.channels[channel.region] = channel

    # ---- devices

    def obey(self, device: Device, entry: ModelChannel) -> ModelStatus:
        """Do what the channel says of one model."""
        before = device.models.get(entry.model, ModelStatus(model=entry.model))
        if LABELS in device.can or not device.agent:
            (entry,) = concerning(Channel(region=device.region, sequence=1, models=(entry,)), device.labels).models
        trial, refused = entry.experiment, dict(before.refused)
        arms = {arm: ref.version for arm, ref in entry.arms.items()}
        is_control = trial is not None and in_control(trial.salt, device.name, trial.control_share_bp)
        pinned = entry.pins.get(device.name)
        is_control = is_control and not pinned
        if (
            pinned
            or not arms
            or trial is None
            or is_control
            or not in_stage(trial.salt, device.name, trial.device_share_bp)
        ):
            arms, trial = {}, trial if is_control else None
        if device.installs == "hangs" and (arms or not before.incumbent):
            return before
        bad = {arm for arm, version in arms.items() if device.installs == "refuses" or version == device.refuses}
        refused |= {arms[arm]: "golden inputs differ" for arm in bad}
        device.arms[entry.model] = arms = {arm: version for arm, version in arms.items() if arm not in bad}
        candidate, *also = arms.values() or [""]
        return ModelStatus(
            model=entry.model,
            incumbent=(pinned or entry.incumbent).version,
            candidate=candidate,
            also=tuple(also),
            epoch=trial.epoch if trial and (arms or is_control) else 0,
            refused=refused,
        )

    def deliver(self, device: Device) -> None:
        """Deliver a batch of one device: the day that is over, with what it ran, and what it runs from now on."""
        if not device.online:
            return
        channel = self.channels.get(device.region)
        self.own_loss = random.Random(device.name).gauss(0.0, self.differ)
        day = day_of(self.now_s) - 1
        ran = [
            (status, device.arms.get(status.model, {}))
            for status in device.models.values()
            if status.incumbent and self.requests
        ]
        device.models = {entry.model: self.obey(device, entry) for entry in channel.models} if channel else {}
        device.day = day + 1 if device.clock_runs else device.day
        device.sequence += 1
        batch = Batch(
            device=device.name,
            spool="spool",
            sequence=device.sequence,
            sent_s=self.now_s,
            status=DeviceStatus(
                generation="g",
                state="trial" if device.installs == "trial" else "good",
                watermark_s=device.day * DAY_S,
                models=tuple(device.models.values()),
                channel_sequence=channel.sequence if channel else 0,
                agent=device.agent,
                can=device.can,
                labels={} if device.agent and LABELS not in device.can else device.labels,
            ),
            sums=tuple(row for status, arms in ran for row in self.sums(status, arms, day)),
            pairs=tuple(row for status, arms in ran for row in self.pairs(status, arms, day)),
            events=(Event(self.now_s, "update-refused", device.trouble),) if device.trouble else (),
        )
        assert ingest(self.store.db, batch, self.project.settings.serve.online_window_s)

    def trial_of(self, status: ModelStatus) -> Row | None:
        """Stage that a device's epoch belongs to."""
        return self.store.db.row("select * from stages where id = ?", (status.epoch,))

    def sums(self, status: ModelStatus, arms: dict[int, str], day: int) -> list[SumsRow]:
        """A day's answers: of the incumbent alone, or shared out between the arms."""
        stage = self.trial_of(status)
        canary = self.project.settings.rollout.canary
        share = canary.request_share if stage and stage["kind"] == "canary" else 0.0
        if share and arms and canary.unit == "device":
            return [self.answers(status, day, arm=arm, version=one, n=self.requests) for arm, one in arms.items()]
        n = round(self.requests * share)
        rows = [self.answers(status, day, arm=0, version=status.incumbent, n=self.requests - n * len(arms))]
        told = {arm: n - round(n * self.lost.get(version, 0.0)) for arm, version in arms.items()}
        return rows + [self.answers(status, day, arm=arm, version=arms[arm], n=told[arm]) for arm in arms]

    def answers(self, status: ModelStatus, day: int, *, arm: int, version: str, n: int) -> SumsRow:
        """Answers of one arm; of the candidate, some fail."""
        loss = 0.5 + self.own_loss - (self.served_gain if arm else 0.0) + self.rng.gauss(0, 0.01)
        bad = self.failing.get(version, self.failed_ratio) if arm else self.incumbent_failed_ratio
        return SumsRow(
            model=status.model,
            version=version,
            epoch=status.epoch,
            arm=arm,
            served=n > 0,
            day=day,
            requests=n or self.requests,
            onnx=n or self.requests,
            failed=round((n or self.requests) * bad),
            outcomes=n,
            metric_sum=quantise(loss) * n,
            metric_sumsq=quantise(loss * loss) * n,
            latency_bins=self.latencies(n, slower=bool(arm) and self.slow),
        )

    def latencies(self, n: int, *, slower: bool) -> tuple[int, ...]:
        """Half of the answers take about 64 us, half about 128; or eight times as long."""
        bins = [0] * N_LATENCY_BINS
        place = latency_bin(64e-6 * (8 if slower else 1))
        bins[place], bins[place + 1] = n // 2 + self.rng.randint(-2, 2) * (n > 9), n - n // 2
        return tuple(bins)

    def pairs(self, status: ModelStatus, arms: dict[int, str], day: int) -> list[PairsRow]:
        """A day's pairs of each candidate and the incumbent: on the same inputs, or on lists of both."""
        stage, canary = self.trial_of(status), self.project.settings.rollout.canary
        answers = bool(stage and stage["kind"] == "canary")
        if answers and canary.mode == "interleave":
            return [self.lists(status, arm, version, day) for arm, version in arms.items()]
        if answers and (not canary.keep_pairs or canary.unit == "device"):
            return []
        rows = []
        for arm, version in arms.items():
            n, d = self.requests, self.gains.get(version, self.gain) + self.rng.gauss(0, 0.01)
            rows.append(PairsRow(status.model, status.epoch, day, n, quantise(d) * n, quantise(d * d) * n, n, 0, arm))
        return rows

    def lists(self, status: ModelStatus, arm: int, version: str, day: int) -> PairsRow:
        """A day's lists: people take from four in ten, and what they take is more often the better arm's."""
        n = 5 * self.requests // 2
        won = sum(self.rng.random() < 0.2 + self.liked.get(version, 0.0) / 2 for _ in range(n))
        lost = sum(self.rng.random() < 0.2 - self.liked.get(version, 0.0) / 2 for _ in range(n - won))
        if self.preferred:
            said = [self.preferred(version) for _ in range(n)]
            won, lost = said.count(1), said.count(-1)
        return PairsRow(
            status.model, status.epoch, day, n, quantise(won - lost), quantise(won + lost), won, lost, arm
        )  # fmt: skip

    # ---- what is so

    def candidates(self, number: int) -> dict[str, str]:
        """Return the state of each candidate, by version."""
        return {candidate["version"]: candidate["state"] for candidate in self.row(number)["candidates"]}

    def row(self, number: int) -> Row:
        """Return a rollout."""
        return self.store.rollouts.get(number)

    def stages(self, number: int) -> dict[str, Row]:
        """Stages by region; the shadow is ``*``."""
        return {stage["region"]: stage for stage in self.store.rollouts.stages(number)}

    def exposed(self, version: str, model: str = MODEL) -> set[str]:
        """Regions whose channel names a version, as incumbent or candidate."""
        return {
            region
            for region, channel in self.channels.items()
            for entry in channel.models
            if entry.model == model and version in {ref.version for ref in entry.refs}
        }

    def answering(self, model: str = MODEL) -> list[str]:
        """Regions in which a candidate answers requests, in their order."""
        return [
            region
            for region in ORDER
            for entry in self.channels[region].models
            if entry.model == model and entry.experiment and entry.experiment.request_share_bp
        ]


_made: list[pathlib.Path] = []


def _database() -> pathlib.Path:
    """A folder with an empty database; made once in a process."""
    if not _made:
        folder = pathlib.Path(tempfile.mkdtemp(prefix="covey-test-"))
        (folder / "covey.toml").write_text(TOML.format(rollout="max_days = 40", canary="", min_devices=2))
        project = load_project(folder)
        Store(project).close()
        _made.append(project.var)
    return _made[0]
