"""The rollout controller under whatever can happen, in any order: hypothesis looks for an order that breaks a promise.

``COVEY_FUZZ_EXAMPLES`` sets how many lives of a fleet are tried; ``just fuzz`` tries many more than CI does. With
``COVEY_FUZZ_SHRINK`` it looks for the shortest life that shows a fault.
"""

from __future__ import annotations

import contextlib
import datetime as dt
import functools
import itertools
import math
import os
import pathlib
import secrets
import shutil
import sqlite3
import tempfile
import typing

import hypothesis
import msgspec
import pytest
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    initialize,
    invariant,
    multiple,
    rule,
    run_state_machine_as_test,
)

from cloud.config import RolloutSettings
from cloud.rollout import controller, plan
from cloud.rollout.control import control_bp
from cloud.rollout.windows import closed
from cloud.store.ingest import ingest
from shared.channel import Channel, parse_channel
from shared.clock import DAY_S, day_of
from shared.errors import ConflictError
from shared.experiment import BASIS_POINTS
from shared.labels import share_of
from shared.summary import quantise, restore
from shared.telemetry import Batch, DeviceStatus, ModelStatus, PairsRow
from tests.unit.cloud_.killing import Connection, Fuse, Killed
from tests.unit.cloud_.simulated import MODEL, ORDER, START_S, Device, Fleet

EXAMPLES = int(os.environ.get("COVEY_FUZZ_EXAMPLES", "10"))
SHRINK = bool(os.environ.get("COVEY_FUZZ_SHRINK"))  # takes minutes
MAX_DAYS = 40
_WRITES = 40
LIMIT = "max_in_flight = 1\n"
_SURE = 1.6  # standard errors: much less than the rule asks for
Row = dict[str, typing.Any]


class Pairs(typing.NamedTuple):
    """Pairs of a rollout: their number, mean gain, and its standard error."""

    n: int
    gain: float
    error: float


@st.composite
def plans(draw: st.DrawFn) -> dict[str, typing.Any]:
    """A plan that makes sense: steps, deadlines, approvals, an order, and a region that is different."""
    share = draw(st.sampled_from([1.0, 0.5, 0.25]))
    steps = "".join(
        f"[[rollout.canary.step]]\ndevice_share = {part}\nmin_days = {draw(st.integers(0, 2))}\n"
        f"approve = {str(draw(st.integers(0, 9)) == 0).lower()}\n"
        for part in sorted({share, 1.0})
    )
    deadline = f'hold_days = {draw(st.integers(4, 9))}\nat_deadline = "{draw(st.sampled_from(["pause", "abort"]))}"\n'
    ramp = "[rollout.canary.ramp]\nbase_per_minute = 0.1\nfactor = 2.0\nevery_verified = 2\n"
    control = "device_share = 0.75\ncontrol_share = 0.25\n"
    canary = "request_share = 0.3\n" + draw(st.sampled_from(["", deadline])) + draw(st.sampled_from(["", LIMIT]))
    stores = draw(st.sampled_from(['["a"]', '["a", "b"]']))
    some = f"[[rollout.canary.step]]\nwhere = {{ store = {stores} }}\nmin_days = 1\n"
    number = f"[[rollout.canary.step]]\ndevices = {draw(st.integers(1, 3))}\nmin_days = 1\n"
    first = draw(st.sampled_from([some + number, number + some, some, number]))
    last = "[[rollout.canary.step]]\ndevice_share = {}\n"
    some_steps = ["", control, ramp]
    begins = draw(st.sampled_from(some_steps))
    chosen = first + last.format(0.75 if begins == control else 1.0)
    canary += draw(st.sampled_from([begins + chosen, "", steps, control, ramp, begins + chosen, begins + chosen]))
    order = f"order = {list(draw(st.permutations(ORDER)))}\n".replace("'", '"')
    region = f"[rollout.region.{draw(st.sampled_from(ORDER))}]\nmin_outcomes = 500\napprove = true\n"
    top = f'max_days = {MAX_DAYS}\nguardrails = "{draw(st.sampled_from(["prove", "watch"]))}"\n'
    top += f"penalty_failures = {draw(st.sampled_from([2, 2, 3, 0]))}\npenalty_days = {draw(st.integers(1, 30))}\n"
    first = dt.datetime.fromtimestamp(START_S, dt.UTC).date() + dt.timedelta(days=draw(st.integers(8, 40)))
    # The controller of a simulated fleet looks at midnight, UTC: every day, or four days a week.
    window = f'[rollout.region.{draw(st.sampled_from(ORDER))}]\nwindow = "08:00-10:00"\ntimezone = "Asia/Tokyo"\n'
    days = 'days = ["mon", "tue", "wed", "sat"]\n'
    freeze = f"[[rollout.freeze]]\nfrom = {first}\nto = {first + dt.timedelta(days=4)}\n"
    own = draw(st.sampled_from(["", region, window, window + days]))
    return {
        "rollout": top + draw(st.sampled_from(["", order])) + own + draw(st.sampled_from(["", freeze])),
        "canary": canary,
    }


class NoisyFleet(Fleet):
    """A fleet whose pairs may say little: noise of a device's day, as deviation."""

    noise = 0.0

    def pairs(self, status: ModelStatus, arms: dict[int, str], day: int) -> list[PairsRow]:
        """Pairs of a day, with that day's noise."""
        return [self.shaken(row) for row in super().pairs(status, arms, day)]

    def shaken(self, row: PairsRow) -> PairsRow:
        """Move a row's mean by chance."""
        gain = restore(row.sum) / row.n + self.rng.gauss(0, self.noise)
        return msgspec.structs.replace(row, sum=quantise(gain) * row.n, sumsq=quantise(gain**2) * row.n)


class Lives(RuleBasedStateMachine):
    """A fleet, its controller, and everybody who has a say; after each step the promises are looked at."""

    rollouts = Bundle("rollouts")

    def __init__(self) -> None:
        super().__init__()
        self.folder = pathlib.Path(tempfile.mkdtemp(prefix="covey-fuzz-"))
        self.patch = pytest.MonkeyPatch()
        Connection.fuse = Fuse(0)
        self.patch.setattr(sqlite3, "connect", functools.partial(sqlite3.connect, factory=Connection))
        # The same life again must be the same again.
        salts = itertools.count(1)
        self.patch.setattr(secrets, "token_hex", lambda n: f"{next(salts):0{2 * n}x}")
        self.sequences: dict[str, int] = {}
        self.event_s = 0.0
        self.states: dict[int, str] = {}
        self.seen_verdicts = 0
        self.opened: set[int] = set()
        self.reached: dict[int, int] = {}
        self.shares: dict[tuple[str, str, str], int] = {}

    @initialize(
        made=plans(),
        ends=st.sampled_from(["good", "good", "bad", "none"]),
        stores=st.lists(st.sampled_from(["", "a", "b"]), min_size=6, max_size=6),
    )
    def begin(self, made: dict[str, typing.Any], ends: str, stores: list[str]) -> None:
        """The first version is everywhere; what comes now is compared with it."""
        self.ends = ends
        self.fleet = NoisyFleet(self.folder, self.patch, n=2, **made)
        for device, store in zip(self.fleet.devices, stores, strict=True):
            device.labels = {"store": store} if store else {}
        self.fleet.store.db.connection.execute("pragma synchronous = off")
        self.fleet.install()
        self.patch.setattr(self.fleet, "publish", functools.partial(self.publish, self.fleet.publish))

    # ---- what happens

    @rule(
        target=rollouts,
        expedited=st.sampled_from([False, False, False, True]),
        supersede=st.sampled_from([False, False, False, True]),
        other_gain=st.sampled_from([None, None, 0.1, -0.3]),
    )
    def start(self, *, expedited: bool, supersede: bool, other_gain: float | None) -> typing.Any:
        """Somebody starts a rollout, perhaps over the head of the one that is running."""
        settings = msgspec.structs.replace(self.fleet.project.settings.rollout, expedited=expedited)
        version = self.fleet.version()
        also = [] if other_gain is None or expedited else [self.fleet.version()]
        self.fleet.gains |= dict.fromkeys(also, other_gain or 0.0)
        with contextlib.suppress(ConflictError):  # another one is running
            return plan.start(
                self.fleet.store, settings, ORDER, model=MODEL, version=version, also=also, why="a walk",
                actor="ada", event_day=day_of(self.event_s), supersede=supersede,
            )  # fmt: skip
        return multiple()

    @rule(number=rollouts, action=st.sampled_from(["pause", "resume", "approve", "approve", "undo", "undo", "abort"]))
    def order(self, number: int, action: str) -> None:
        """Somebody gives an order, sensible or not; the controller has not seen it yet."""
        self.fleet.store.rollouts.order(number, action, actor="ada", reason="a walk")

    @rule(n=st.integers(1, 6))
    def days(self, n: int) -> None:
        """Days pass, as they should."""
        for _ in range(n):
            self.fleet.days()
            self.look()

    @hypothesis.stateful.precondition(lambda self: self.fleet.store.rollouts.running(MODEL))
    @rule(gain=st.sampled_from([0.05, 0.05, 0.05, -0.3]))
    def all_goes_well(self, gain: float) -> None:
        """Two weeks and more without a fault, with somebody who lets things go on."""
        self.mend(gain)
        for _ in range(16):
            running = self.fleet.store.rollouts.running(MODEL)
            if running is None:
                break
            self.fleet.order(running["id"], "resume" if running["paused"] else "approve")
            self.fleet.days()
            self.look()

    def mend(self, gain: float) -> None:
        """Heal everything."""
        for device in self.fleet.devices:
            device.installs, device.online, device.clock_runs = "ok", True, True
            device.labels = device.labels | self.fleet.store.fleet.get(device.name)["labels"]
        self.evidence_is(gain, 0.0, data=True)

    @rule(n=st.integers(1, 3))
    def days_without_controller(self, n: int) -> None:
        """Devices go on while no controller looks."""
        for _ in range(n):
            self.fleet.now_s += DAY_S
            for device in self.fleet.devices:
                self.fleet.deliver(device)

    @rule()
    def controller_looks(self) -> None:
        """It looks again, though nothing may have happened."""
        self.fleet.tick()

    @rule(
        gain=st.sampled_from([0.05, 0.05, 0.0, -0.3]),
        failed=st.sampled_from([0.0, 0.0, 0.3]),
        noise=st.sampled_from([0.0, 0.3]),
        data=st.booleans(),
    )
    def evidence(self, gain: float, failed: float, noise: float, *, data: bool) -> None:
        """From now on what comes in is good, bad, unclear or nothing."""
        self.fleet.noise = noise
        self.evidence_is(gain, failed, data=data)

    def evidence_is(self, gain: float, failed: float, *, data: bool) -> None:
        """Let evidence be so."""
        self.fleet.gain = self.fleet.served_gain = gain
        self.fleet.failed_ratio = failed
        self.fleet.requests = 60 if data else 0

    @rule(pick=st.randoms(use_true_random=False), installs=st.sampled_from(["ok", "ok", "refuses", "hangs", "trial"]))
    def device(self, pick: typing.Any, installs: str) -> None:
        """Something becomes of a device."""
        device: Device = pick.choice(self.fleet.devices)
        device.installs, device.online, device.clock_runs = installs, pick.random() < 0.7, pick.random() < 0.8

    @hypothesis.stateful.precondition(lambda self: len(self.fleet.devices) < 12)
    @rule(region=st.sampled_from(ORDER), agent=st.sampled_from(["", "", "0.0.9"]))
    def join(self, region: str, agent: str) -> None:
        """A device joins, perhaps with an agent that knows of no labels."""
        self.fleet.devices.append(self.fleet.join(region, len(self.fleet.devices)))
        self.fleet.devices[-1].agent = agent

    @rule(pick=st.randoms(use_true_random=False), store=st.sampled_from(["a", "b"]), hears=st.booleans())
    def label(self, pick: typing.Any, store: str, *, hears: bool) -> None:
        """Somebody gives a device a label; it hears of it now, or later."""
        device: Device = pick.choice(self.fleet.devices)
        self.fleet.store.fleet.label(device.name, {"store": store})
        device.labels = {"store": store} if hears else device.labels

    @rule(pick=st.randoms(use_true_random=False), pins=st.sampled_from([True, False, False]))
    def pin(self, pick: typing.Any, *, pins: bool) -> None:
        """Somebody pins a device to a version that runs or ran, or takes a pin away."""
        store, device = self.fleet.store, pick.choice(self.fleet.devices).name
        if pins:
            versions = sorted({row["from_version"] for row in store.rollouts.all()} - {""} | {"v1"})
            store.pins.set(device, MODEL, pick.choice(versions), actor="ada", reason="a walk")
        elif store.pins.of_device(device):
            store.pins.unset(device, MODEL)

    @hypothesis.stateful.precondition(lambda self: self.fleet.store.rollouts.running(MODEL))
    @rule(pick=st.randoms(use_true_random=False), n=st.integers(1, 2))
    def is_ill(self, pick: typing.Any, n: int) -> None:
        """A device has failed before, and goes on failing, while all the others are well for some days."""
        self.mend(self.fleet.gain)
        device, own = pick.choice(self.fleet.devices), self.fleet.store.aside
        device.installs = "refuses"
        for version in ("v0", "v0.1")[:n]:
            own.fail(device.name, MODEL, version, day=day_of(self.event_s), why="it is ill", counts=True)
            own.stand(MODEL, version)
        self.days(2)

    @hypothesis.stateful.precondition(lambda self: self.fleet.store.aside.all())
    @rule()
    def is_mended(self) -> None:
        """Somebody lets a device take part again that was set aside."""
        self.fleet.store.aside.let_out(self.fleet.store.aside.all()[0]["device"], forgive=True)

    @rule(number=rollouts, gain=st.sampled_from([0.3, -0.3]))
    def late_pairs(self, number: int, gain: float) -> None:
        """A device that was away for long delivers what it saw of some rollout, perhaps one that is over."""
        device, day = self.fleet.devices[0], day_of(self.fleet.now_s) - 3
        device.sequence += 1
        opened = [stage["id"] for stage in self.fleet.store.rollouts.stages(number) if stage["opened_s"]]
        n = 500
        rows = [PairsRow(MODEL, epoch, day, n, quantise(gain) * n, quantise(gain**2) * n, n, 0) for epoch in opened]
        status = DeviceStatus(generation="g", state="good", watermark_s=device.day * DAY_S)
        batch = Batch(
            device=device.name, spool="spool", sequence=device.sequence, sent_s=self.fleet.now_s,
            status=msgspec.structs.replace(status, models=tuple(device.models.values())), pairs=tuple(rows),
        )  # fmt: skip
        ingest(self.fleet.store.db, batch, self.fleet.project.settings.serve.online_window_s)

    @rule(writes=st.integers(1, _WRITES))
    def controller_is_killed(self, writes: int) -> None:
        """A day passes, and the controller's process ends at one of its writes."""
        self.days_without_controller(1)
        Connection.fuse = Fuse(writes)
        with contextlib.suppress(Killed):
            self.fleet.tick()
        Connection.fuse = Fuse(0)
        self.fleet.store.close()

    @rule()
    def nothing_can_be_published(self) -> None:
        """The disk is full for a while."""

        def fail(files: typing.Mapping[str, bytes]) -> None:
            if files:
                raise OSError("no space left")

        self.days_without_controller(1)
        with contextlib.suppress(OSError):
            controller.tick(self.fleet.project, self.fleet.store, fail)

    # ---- what must be so, whenever

    def publish(
        self, keep: typing.Callable[[typing.Mapping[str, bytes]], None], files: typing.Mapping[str, bytes]
    ) -> None:
        """Look at channels in the moment in which they go out."""
        for body in files.values():
            channel = parse_channel(body)
            kept = self.fleet.store.rollouts.channel(channel.region)
            assert kept is not None
            assert channel.sequence == kept["sequence"] + 1, "every change has a number of its own"
            assert channel.sequence >= self.sequences.get(channel.region, 0), "a device never goes back"
            self.sequences[channel.region] = channel.sequence
            self.look_at_channel(channel)
            Connection.fuse.burn()
        keep(files)
        Connection.fuse.burn()

    def look_at_channel(self, channel: Channel) -> None:
        """One incumbent, and a candidate only where its turn has come."""
        rollouts = self.fleet.store.rollouts
        incumbents = self.fleet.store.models.incumbents(MODEL)
        assert [entry.incumbent.version for entry in channel.models] == [incumbents[channel.region]]
        for entry in channel.models:
            assert all(device.startswith(channel.region) for device in entry.pins)
            assert all(row["device"] in entry.pins for row in self.fleet.store.aside.all(channel.region))
            if entry.candidate is None or entry.experiment is None:
                continue
            running = rollouts.running(MODEL)
            assert running is not None
            out = {one["arm"]: one["version"] for one in running["candidates"] if one["state"] == "running"}
            assert {arm: ref.version for arm, ref in entry.arms.items()} == out
            stages = rollouts.stages(running["id"])
            turn = next(i for i, stage in enumerate(stages) if stage["id"] == entry.experiment.epoch)
            assert stages[turn]["region"] in ("*", channel.region), "the evidence of each region stays its own"
            assert stages[turn]["opened_s"]
            assert not entry.experiment.request_share_bp or stages[turn]["kind"] == "canary"
            assert all(stage["passed_s"] for stage in stages[:turn]), "never before its turn"
            trial = entry.experiment
            assert not (trial.groups and trial.device_share_bp), "who knows of no labels takes no part"
            assert not trial.groups or stages[turn]["kind"] == "canary"
            for labels in ({}, {"store": "a"}, {"store": "b"}) if stages[turn]["kind"] == "canary" else ():
                share = share_of(trial.groups, labels) or 0 if trial.groups else trial.device_share_bp
                most = BASIS_POINTS - control_bp(running, channel.region)
                key = trial.salt, channel.region, labels.get("store", "")
                assert min(share, most) >= self.shares.get(key, 0), "who is in a step stays in those that come after"
                self.shares[key] = min(share, most)

    @invariant()
    def look(self) -> None:
        """Look at the whole database."""
        store = self.fleet.store
        event_s = float(store.get_meta("event_s"))
        assert event_s >= self.event_s
        self.event_s = event_s
        rows = store.rollouts.all()
        incumbents = store.models.incumbents(MODEL)
        running = [row for row in rows if row["state"] == "running" and row["from_version"]]
        assert len(running) <= 1
        assert len(set(incumbents.values())) == 1, "never two incumbents"
        assert all(set(incumbents.values()) == {row["from_version"]} for row in running)
        for row in rows:
            before = self.states.get(row["id"], "running")
            if row["state"] != before:
                self.states[row["id"]] = row["state"]
                assert (before, row["state"]) in _ENDS, "an end is an end"
                if row["state"] == "promoted" and row["from_version"]:
                    self.look_at_promotion(row)
            stages = store.rollouts.stages(row["id"])
            opened = [bool(stage["opened_s"]) for stage in stages]
            assert opened == sorted(opened, reverse=True)
            for stage in [stage for stage in stages if stage["opened_s"]]:
                assert stage["reached_bp"] >= self.reached.get(stage["id"], 0), "a step never shrinks"
                self.reached[stage["id"]] = stage["reached_bp"]
            for stage in [stage for stage in stages if stage["opened_s"] and stage["id"] not in self.opened]:
                self.opened.add(stage["id"])
                assert (stage["target_bp"] >= 0) == bool(stage["settings"].get("devices", 0))
                self.look_at_time(row, stage["region"], stage["opened_s"])
        self.look_at_verdicts()
        self.look_at_who_is_set_aside(rows)

    def look_at_who_is_set_aside(self, rows: list[Row]) -> None:
        """Few of a region, each for enough failures of its own; a version that went back is held against none."""
        own = self.fleet.store.aside
        for region in ORDER:
            assert len(own.all(region)) <= max(1, len(self.fleet.store.fleet.all(region)) // 5)
        for row in own.all():
            assert len(own.held_against(row["device"], row["from_day"])) >= row["least"] > 1
            assert MODEL in row["kept"]
        for row in rows:
            if row["state"] in ("rolled_back", "undone") and len(row["candidates"]) == 1:
                assert not own.failed_at(MODEL, row["to_version"])

    def own_pairs(self, rollout: int, arm: int, *, before_day: int) -> Pairs:
        """What the fleet sent of one rollout, straight from the table; devices and days are taken as independent."""
        rows = self.fleet.store.db.rows(
            "select n, sum from pairs where arm = ? and day < ? and n > 0"
            " and epoch in (select id from stages where rollout = ?)",
            (arm, before_day, rollout),
        )
        n = sum(row["n"] for row in rows)
        mean = sum(restore(row["sum"]) for row in rows) / n if n else 0.0
        squares = sum((restore(row["sum"]) - mean * row["n"]) ** 2 for row in rows)
        return Pairs(n, mean, math.sqrt(squares) / n if n else 0.0)

    def look_at_time(self, row: Row, region: str, at_s: float) -> None:
        """Nothing opens or is promoted outside of windows, or in a freeze."""
        assert not closed(msgspec.convert(row["plan"], RolloutSettings), ORDER, region, at_s)

    def look_at_promotion(self, row: Row) -> None:
        """Never on no data, never on bad data, and never before each stage has passed."""
        store, (_, model) = self.fleet.store, self.fleet.project.model(MODEL)
        stages, verdicts = store.rollouts.stages(row["id"]), store.rollouts.verdicts(row["id"])
        assert {one["stage"] for one in verdicts if one["word"] == "PASS"} == {stage["id"] for stage in stages}
        if row["plan"]["expedited"] and "without a verdict on quality" in row["outcome"]:
            return
        assert set(store.models.incumbents(MODEL).values()) == {row["to_version"]}
        self.look_at_time(row, "*", row["ended_s"])
        arm = next(one["arm"] for one in row["candidates"] if one["version"] == row["to_version"])
        assert arm in {one["arm"] for one in verdicts if one["word"] == "PASS"}
        pairs = self.own_pairs(row["id"], arm, before_day=day_of(self.event_s - model.label_window_days * DAY_S))
        assert pairs.n > 0, "never on no data"
        assert pairs.gain - _SURE * pairs.error > -model.margin, "never on bad or unclear data"

    def look_at_verdicts(self) -> None:
        """The evidence of one rollout is never that of another."""
        rows = self.fleet.store.db.rows("select * from verdicts where id > ? order by id", (self.seen_verdicts,))
        for row in rows:
            self.seen_verdicts = row["id"]
            decided = msgspec.json.decode(row["inputs"]).get("decide", {})
            candidates = self.fleet.store.rollouts.get(row["rollout"])["candidates"]
            running = {one["arm"] for one in candidates if one["state"] == "running"}
            assert row["word"] != "FAIL" or row["arm"] not in running, "what is proven bad goes back"
            n = self.own_pairs(row["rollout"], row["arm"], before_day=1 << 30).n
            assert (decided.get("pairs") or {"n": 0})["n"] <= n

    # ---- the end

    def teardown(self) -> None:
        """All is well from now on: whatever runs comes to an end, and the devices have what the database says."""
        try:
            if hasattr(self, "fleet"):
                self.end()
        finally:
            Connection.fuse = Fuse(0)
            if hasattr(self, "fleet"):
                self.fleet.store.close()
            self.patch.undo()
            shutil.rmtree(self.folder)

    def end(self) -> None:
        fleet = self.fleet
        for pin in fleet.store.pins.in_region():
            fleet.store.pins.unset(pin["device"], MODEL)
        for row in fleet.store.aside.all():
            fleet.store.aside.let_out(row["device"], forgive=True)
        self.mend(-0.3 if self.ends == "bad" else 0.05)
        self.fleet.requests = 0 if self.ends == "none" else 60
        for _ in range(MAX_DAYS + 10):
            fleet.tick()
            running = fleet.store.rollouts.running(MODEL)
            if running is None:
                break
            if running["paused"]:
                fleet.order(running["id"], "resume")
            fleet.days(2)
            self.look()
        assert fleet.store.rollouts.running(MODEL) is None, f"it never ends: {fleet.said[-3:]}"
        fleet.days(2)
        (incumbent,) = set(fleet.store.models.incumbents(MODEL).values())
        kept = {row["region"]: parse_channel(row["body"]) for row in fleet.store.rollouts.channels()}
        assert kept == fleet.channels
        assert {entry.incumbent.version for one in kept.values() for entry in one.models} == {incumbent}
        assert {device.models[MODEL].incumbent for device in fleet.devices} == {incumbent}
        assert not any(device.models[MODEL].candidate for device in fleet.devices)


_ENDS = {("running", end) for end in ("promoted", "rolled_back", "aborted")} | {
    ("promoted", "undone"),
    ("running", "undone"),  # promoted and undone within one look
}


def test_whatever_happens_the_controller_keeps_its_promises() -> None:
    run_state_machine_as_test(
        Lives,
        settings=hypothesis.settings(
            max_examples=EXAMPLES,
            stateful_step_count=40,
            phases=set(hypothesis.Phase) if SHRINK else set(hypothesis.Phase) - {hypothesis.Phase.shrink},
            deadline=None,
            suppress_health_check=list(hypothesis.HealthCheck),
            print_blob=True,
        ),
    )
