"""The story: nothing in it is scripted but the clock, the traffic and the planted faults. Read it top to bottom."""

from __future__ import annotations

import datetime as dt
import pathlib
import random
import time
import typing

from cloud import enrol
from cloud.config import Project
from cloud.data.parts import add_file
from cloud.demo.flights import Flight, to_csv
from cloud.demo.processes import Cloud, Fleet
from cloud.demo.project import FEATURES_V2, MODEL
from cloud.demo.relay import Relay
from cloud.demo.settle import settle
from cloud.demo.traffic import Traffic
from cloud.pipeline import Order, override, train
from cloud.rollout import plan
from cloud.store.store import Store
from shared.clock import DAY_S, day_of
from shared.errors import GateError

STEP_S = 6 * 3600.0
_STEPS_A_REPORT = 2
START_S = dt.datetime(2013, 6, 1, tzinfo=dt.UTC).timestamp()
END_S = dt.datetime(2013, 9, 1, tzinfo=dt.UTC).timestamp()
_CUT_AFTER_DAYS, _CUT_FOR_DAYS = 2, 4
_ACTOR = "demo"
_REASON = "the vendor's labels are urgent (a planted fault)"
_VENDOR_SET = "vendor-labels"
Say = typing.Callable[[str], None]


class Scene(typing.NamedTuple):
    """Everything the story plays with."""

    project: Project
    store: Store
    cloud: Cloud
    fleet: Fleet
    relay: Relay
    traffic: dict[str, Traffic]
    flights: list[Flight]
    folder: pathlib.Path
    cut_off: str
    seed: int


class Story:
    """Plays the story; what really happened is read from the database afterwards.

    Parameters
    ----------
    scene : Scene
        Cloud, devices, flights.
    say : callable
        Told what happens, a line at a time.
    speed : float
        Replayed days in a second, at most; 0 plays as fast as it goes.
    """

    def __init__(self, scene: Scene, say: Say, speed: float = 0.0) -> None:
        self._scene, self._say, self._speed = scene, say, speed
        self.now_s = 0.0
        self.facts: dict[str, typing.Any] = {"gate_refusal": "", "offline": {}}
        self._cut_at_s = 0.0
        self._rollouts_told: set[tuple[int, str]] = set()
        self.on_step: typing.Callable[[dict[str, typing.Any]], None] = lambda _fleet: None
        self.until_devices_answer: typing.Callable[[], None] = lambda: None

    # ---- the acts

    def play(self) -> None:
        """Play all acts."""
        self.act_one()
        while self.now_s < END_S and not self._is_over():
            self._step()
            self._lose_and_find_a_device()
            self._plant_a_bad_model()
            self._train_v2()
        self._settle()

    def act_one(self) -> None:
        """Act one: January, v1, precomputed answers, all regions."""
        scene = self._scene
        january = [flight for flight in scene.flights if flight.event_s < START_S]
        self._add_data(january, "january")
        self._say(f"training v1 on {len(january):,} flights of January")
        trained = train(scene.project, scene.store, Order(model=MODEL, why="the first model", actor=_ACTOR), self._say)
        self.until_devices_answer()
        self._start_rollout(trained.version, "the first model")
        self._settle(lambda: self._state_of("v1") == "promoted")
        self._say("v1 answers in every region; the summer begins")
        self.now_s = START_S
        scene.fleet.each(lambda device: scene.traffic[device.name].step(START_S))
        self._settle()

    def _lose_and_find_a_device(self) -> None:
        """One device loses its network in the middle of a rollout, goes on answering, and comes back."""
        running = self._running()
        if not self._cut_at_s and running and running["to_version"] == "v1.1":
            opened = self._scene.store.rollouts.stages(running["id"])[0]["opened_day"]
            if opened and day_of(self.now_s) >= opened + _CUT_AFTER_DAYS:
                self._scene.relay.cut()
                self._cut_at_s = self.now_s
                log = self._scene.traffic[self._scene.cut_off].log
                self.facts["offline"] = {"from": log.answered, "failed_from": log.failed}
                self._say(f"{self._scene.cut_off} has lost its network")
        offline = self.facts["offline"]
        if self._cut_at_s and "to" not in offline and self.now_s >= self._cut_at_s + _CUT_FOR_DAYS * DAY_S:
            log = self._scene.traffic[self._scene.cut_off].log
            offline |= {"to": log.answered, "failed_to": log.failed}
            self._scene.relay.mend()
            self._settle()
            answered = offline["to"] - offline["from"]
            self._say(f"{self._scene.cut_off} is back: it answered {answered} requests alone")

    def _plant_a_bad_model(self) -> None:
        """When v1.1 is in: January's labels come again, shuffled; the gate refuses the model, somebody forces it."""
        if self._state_of("v1.1") != "promoted" or self.facts["gate_refusal"]:
            return
        scene = self._scene
        again = [flight for flight in scene.flights if flight.event_s < START_S]
        labels = [flight.row["late"] for flight in again]
        random.Random(scene.seed).shuffle(labels)  # noqa: S311 - a plot, not a secret
        shuffled = [
            flight._replace(row=flight.row | {"late": label}) for flight, label in zip(again, labels, strict=True)
        ]
        self._add_data(shuffled, "vendor", dataset=_VENDOR_SET)
        order = Order(
            model=MODEL, parent="v1.1", data=_VENDOR_SET, why="labels of January, delivered again", actor=_ACTOR
        )
        try:
            passed = train(scene.project, scene.store, order, self._say)
        except GateError as err:
            self.facts["gate_refusal"] = str(err)
            self._say(f"the gate refuses v1.2: {err.message}")
            override(scene.project, scene.store, MODEL, "v1.2", reason=_REASON, actor=_ACTOR)
            self._say("v1.2 is forced past the gate; the reason is on record")
            self._start_rollout("v1.2", _REASON)
        else:
            self.facts["gate_refusal"] = f"none: {passed.version} passed"
        self._settle()

    def _train_v2(self) -> None:
        """When the bad model is out: v2 from scratch, with one more feature."""
        bad = self._state_of("v1.2")
        if bad in ("", "running") or self._state_of("v2"):
            return
        self._say("training v2 from scratch, with the delays at the origin as one more feature")
        order = Order(model=MODEL, features=FEATURES_V2, why="one more feature: delays at the origin", actor=_ACTOR)
        try:
            trained = train(self._scene.project, self._scene.store, order, self._say)
        except GateError as err:
            self.facts["v2_refusal"] = str(err)
            self.now_s = END_S
            return
        self._start_rollout(trained.version, order.why)
        self._settle()

    def _is_over(self) -> bool:
        return self._state_of("v2") not in ("", "running")

    # ---- time

    def _step(self) -> None:
        """Half a day: traffic and outcomes on every device, yesterday's data to the cloud, then wait for everybody.

        Applications post what has become known every six hours; devices report twice a day. Days are judged at noon,
        when the outcomes of the day before are all known, so that no verdict waits for a report.
        """
        started = time.monotonic()
        for _ in range(_STEPS_A_REPORT):
            self.now_s += STEP_S
            self._scene.fleet.each(lambda device: self._scene.traffic[device.name].step(self.now_s))
        if self.now_s % DAY_S == 0:
            day_s = self.now_s - DAY_S
            self._add_data(
                [f for f in self._scene.flights if day_s - DAY_S <= f.event_s < day_s], f"day-{day_of(day_s) - 1}"
            )
        self._settle()
        if self._speed:
            took_s = time.monotonic() - started
            time.sleep(max(0.0, _STEPS_A_REPORT * STEP_S / DAY_S / self._speed - took_s))

    def _add_data(self, flights: list[Flight], name: str, dataset: str = MODEL) -> None:
        """Hand flights over as the business does: a CSV file, once a day."""
        if not flights:
            return
        scene = self._scene
        _, model = scene.project.model(MODEL)
        path = to_csv(flights, scene.folder / f"{name}.csv")
        add_file(
            scene.project,
            scene.store,
            path,
            model=model,
            dataset=dataset,
            features=scene.project.feature_set(model.features),
            actor=_ACTOR,
        )
        path.unlink()

    def _settle(self, is_done: typing.Callable[[], bool] = lambda: True) -> None:
        """Let time stand until every device has delivered and the controller has looked at it all."""
        scene = self._scene
        is_cut = self._cut_at_s and "to" not in self.facts["offline"]
        settle(
            scene.store,
            scene.cloud,
            scene.fleet,
            self.now_s,
            self.on_step,
            is_done,
            cut_off=scene.cut_off if is_cut else "",
        )
        self._tell()

    # ---- rollouts

    def _start_rollout(self, version: str, why: str) -> None:
        scene = self._scene
        settings = scene.project.settings
        plan.start(
            scene.store,
            settings.rollout,
            settings.regions.order,
            model=MODEL,
            version=version,
            why=why,
            actor=_ACTOR,
            event_day=day_of(float(scene.store.get_meta("event_s"))),
        )

    def _state_of(self, version: str) -> str:
        """State of the newest rollout to a version; empty before there is one."""
        rows = [row for row in self._scene.store.rollouts.all() if row["to_version"] == version]
        return str(rows[0]["state"]) if rows else ""

    def _running(self) -> dict[str, typing.Any] | None:
        return self._scene.store.rollouts.running(MODEL)

    def _tell(self) -> None:
        """Say what the controller has done since the last time."""
        for row in reversed(self._scene.store.rollouts.all()):
            for stage in self._scene.store.rollouts.stages(row["id"]):
                name = stage["kind"] if stage["region"] == "*" else f"{stage['kind']} {stage['region']}"
                key = (row["id"], f"{name} {stage['verdict']}")
                if stage["verdict"] in ("PASS", "FAIL") and key not in self._rollouts_told:
                    self._rollouts_told.add(key)
                    self._say(f"{row['to_version']}: {name}: {stage['verdict']}: {stage['why']}")
            key = (row["id"], row["state"])
            if row["state"] != "running" and key not in self._rollouts_told:
                self._rollouts_told.add(key)
                self._say(f"{row['to_version']} {row['state'].replace('_', ' ')}: {row['outcome']}")


def join_tokens(project: Project, store: Store, n_devices: int) -> dict[str, str]:
    """Return a join token for each region."""
    return {
        region: str(
            enrol.new_join_token(project, store, region=region, uses=n_devices, lifetime_s=3600.0, actor=_ACTOR)
        )
        for region in project.settings.regions.order
    }
