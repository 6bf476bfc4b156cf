"""A small real project: real database, real signed repository, real controller, and devices that only send batches."""

from __future__ import annotations

import hashlib
import pathlib
import time
import typing

from cloud.config import Project
from cloud.publish.repository import SignedRepository
from cloud.rollout import controller, plan
from cloud.setup import create_project
from cloud.store.ingest import ingest
from cloud.store.store import Store
from shared.clock import DAY_S
from shared.summary import N_LATENCY_BINS, quantise
from shared.telemetry import Batch, DeviceStatus, Event, ModelStatus, PairsRow, SumsRow

MODEL = "late"
FIRST_DAY = 19_000  # 2022-01-08
DEVICES = {"w1": "west", "w2": "west", "e1": "east", "e2": "east"}
_TOML = """
[project]
name = "small"
[serve]
online_window_s = 3600.0
tick_interval_s = 60.0
{serve}
[regions]
order = ["west", "east"]
[rollout]
min_devices = 2
[rollout.shadow]
min_days = 2
min_outcomes = 100
[rollout.canary]
min_days = 1
min_outcomes = 20
[models.late]
features = "features/late.toml"
label = "late"
time = "at"
metric = "log_loss"
estimator = "sklearn.linear_model.LogisticRegression"
"""


class Said(typing.NamedTuple):
    """What a device says of one event day.

    Parameters
    ----------
    gain : float
        Of the candidate over the incumbent, on each input.
    split : bool
        Whether the candidate answers half of the requests.
    failed : int
        Of its answers, how many failed.
    """

    day: int
    incumbent: str = ""
    candidate: str = ""
    epoch: int = 0
    gain: float = 0.0
    split: bool = False
    failed: int = 0
    requests: int = 100


class SmallFleet:
    """Drive a project through what happens to it.

    Parameters
    ----------
    folder : Path
        Made by this.
    serve : str
        Further lines of ``[serve]``.
    """

    def __init__(self, folder: pathlib.Path, serve: str = "") -> None:
        self.project: Project = create_project(folder, {"covey.toml": _TOML.format(serve=serve)}, actor="ada")
        self.store = Store(self.project)
        self._repository = SignedRepository(self.project.repository, self.project.keys)
        self._sequence = 0

    def join(self) -> None:
        """Let the devices in."""
        for region in ("west", "east"):
            self.store.fleet.add_token(f"token-{region}", "secret", region, uses=9, lifetime_s=3600)
        for device, region in DEVICES.items():
            self.store.fleet.join(device, hashlib.sha256(device.encode()).hexdigest(), f"token-{region}", "secret")

    def version(self, *, parent: str = "", why: str = "it was time", override: str = "") -> str:
        """Register a version as training does; nothing is trained."""
        models = self.store.models
        made = models.allocate(
            MODEL, parent=parent, why=why, data_version="d", features="features/late.toml", stateful=bool(parent)
        )
        models.finish(MODEL, str(made), "ready", {"override": override} if override else {})
        models.set_manifest(MODEL, str(made), "ab" * 32)
        return str(made)

    def start(self, version: str, *, day: int = 0, why: str = "a person asked") -> int:
        """Start a rollout and let the controller open its first stage."""
        settings, order = self.project.settings.rollout, self.project.settings.regions.order
        number = plan.start(
            self.store, settings, order, model=MODEL, version=version, why=why, actor="ada", event_day=day
        )
        self.tick()
        return number

    def tick(self) -> list[str]:
        """Let the controller look."""
        return controller.tick(
            self.project, self.store, lambda files: self._repository.publish("channels", files)
        ).happened

    def epoch(self, number: int) -> int:
        """Return the newest open stage."""
        return [stage["id"] for stage in self.store.rollouts.stages(number) if stage["opened_s"]][-1]

    def say(self, device: str, said: Said, *, event: str = "") -> None:
        """Deliver a batch of a device."""
        self._sequence += 1
        runs = ModelStatus(model=MODEL, incumbent=said.incumbent, candidate=said.candidate, epoch=said.epoch)
        batch = Batch(
            device=device,
            spool="spool",
            sequence=self._sequence,
            sent_s=time.time(),
            status=DeviceStatus(generation="g", state="good", watermark_s=(said.day + 1.0) * DAY_S, models=(runs,)),
            sums=_sums(said),
            pairs=_pairs(said),
            events=(Event(at_s=time.time(), kind=event, detail="said so"),) if event else (),
        )
        assert ingest(self.store.db, batch, 3600.0)

    def day(self, said: Said, devices: typing.Iterable[str] = tuple(DEVICES)) -> None:
        """Deliver a day of several devices, each a little different, and let the controller look."""
        for i, device in enumerate(devices):
            self.say(device, said._replace(gain=said.gain * (1 + 0.02 * i)))
        self.tick()

    def install(self) -> str:
        """Bring the first version everywhere."""
        self.join()
        version = self.version(why="the first model")
        number = self.start(version, why="the first model")
        for _ in range(4):
            self.day(Said(FIRST_DAY, version, requests=0))
        assert self.store.rollouts.get(number)["state"] == "promoted"
        return version

    def shadow(self, *, gain: float = 0.05, days: int = 1, override: str = "") -> int:
        """Start a second version in shadow and let some days pass; return the rollout."""
        first = self.install()
        for i in range(3):
            self.day(Said(FIRST_DAY + i, first))
        second = self.version(parent=first, override=override)
        number = self.start(second, day=FIRST_DAY + 3)
        for i in range(days):
            self.day(Said(FIRST_DAY + 3 + i, first, second, self.epoch(number), gain * (1 + 0.05 * i)))
        return number

    def canary(self) -> int:
        """Bring a good second version into the first region."""
        number = self.shadow(days=3)
        row = self.store.rollouts.get(number)
        for device, region in DEVICES.items():
            stage = [s for s in self.store.rollouts.stages(number) if s["region"] in (region, "*") and s["opened_s"]]
            self.say(
                device,
                Said(
                    FIRST_DAY + 6,
                    row["from_version"],
                    row["to_version"],
                    stage[-1]["id"],
                    0.05,
                    split=region == "west",
                ),
            )
        self.tick()
        return number


def _sums(said: Said) -> tuple[SumsRow, ...]:
    if not said.requests:
        return ()
    rows = [_answers(said, said.incumbent, 0, said.requests // 2 if said.split else said.requests)]
    if said.split:
        rows.append(_answers(said, said.candidate, 1, said.requests // 2))
    elif said.candidate:
        scored = SumsRow(
            model=MODEL, version=said.candidate, epoch=said.epoch, arm=1, served=False, day=said.day,
            requests=said.requests,
        )  # fmt: skip
        rows.append(scored)
    return tuple(rows)


def _answers(said: Said, version: str, arm: int, n: int) -> SumsRow:
    latencies = [0] * N_LATENCY_BINS
    latencies[8], latencies[12] = n - 1, 1
    return SumsRow(
        model=MODEL,
        version=version,
        epoch=said.epoch,
        arm=arm,
        served=True,
        day=said.day,
        requests=n,
        precomputed=n * 9 // 10,
        onnx=n - n * 9 // 10,
        failed=said.failed if arm else 0,
        outcomes=n,
        metric_sum=quantise(0.5) * n,
        metric_sumsq=quantise(0.25) * n,
        latency_bins=tuple(latencies),
    )


def _pairs(said: Said) -> tuple[PairsRow, ...]:
    if not said.candidate:
        return ()
    n, d = said.requests, said.gain
    return (PairsRow(MODEL, said.epoch, said.day, n, quantise(d) * n, quantise(d * d) * n, n, 0),)
