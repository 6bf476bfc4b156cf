"""The generation that is served: activated, on trial, committed, rolled back, served again after any restart."""

from __future__ import annotations

import asyncio
import contextlib
import pathlib
import selectors
import sqlite3
import threading
import time
import typing

import pytest

from edge_agent.config import Layout
from edge_agent.predict.engine import Engine
from edge_agent.predict.loaded import LoadedBundle
from edge_agent.predict.routes import EventClock
from edge_agent.records import Answered, AnyRecord, Failed, Scored
from edge_agent.switch import Switch
from edge_agent.telemetry.outbox import Outbox
from edge_agent.telemetry.recorder import Recorder
from edge_agent.update.state import State
from shared.channel import Guard
from shared.errors import ConflictError, CoveyError, ModelError, WireError
from tests import fakes

PROBATION_S = 20.0
ROW = {"x": 1, "colour": "red", "size": 0}
T = typing.TypeVar("T")


class _Selector(selectors.DefaultSelector):  # type: ignore[misc, valid-type]
    """Does not wait for a time that a timer is set to: it moves the clock there, unless a thread is at work."""

    now_s = 0.0
    at_work = 0

    def select(self, timeout: float | None = None) -> typing.Any:
        busy = self.at_work or any(thread.name == "load" for thread in threading.enumerate())
        ready = super().select(0.05 if busy and timeout else timeout and 0)
        if not ready and timeout and not busy:
            self.now_s += timeout
        return ready


class SimulatedLoop(asyncio.SelectorEventLoop):
    """An event loop whose time passes as fast as nothing else happens."""

    def __init__(self) -> None:
        self._sim = _Selector()
        super().__init__(self._sim)
        self.faults: list[object] = []
        self.set_exception_handler(lambda _loop, context: self.faults.append(context))

    def time(self) -> float:
        return self._sim.now_s

    def run_in_executor(self, *args: typing.Any) -> typing.Any:
        self._sim.at_work += 1
        future = super().run_in_executor(*args)
        future.add_done_callback(self._end_work)
        return future

    def _end_work(self, _future: object) -> None:
        self._sim.at_work -= 1


class Device:
    """A serving process, without its sockets."""

    def __init__(self, layout: Layout) -> None:
        self.layout = layout
        self.state = State(layout.state_db)
        self.recorder = Recorder(layout, 64 << 20)
        self.engine = Engine(fakes.DEVICE, fakes.ID_KEY, self._record)
        self.switch = Switch(
            layout, fakes.DEVICE, engine=self.engine, clock=EventClock(), recorder=self.recorder, state=self.state
        )

    def _record(self, record: AnyRecord) -> None:
        self.recorder.record(record)
        self.switch.watch(record)

    @property
    def serves(self) -> str:
        return self.engine.model(None).entry.incumbent if self.engine.models else ""

    def answer(self, n: int = 1) -> None:
        for _ in range(n):
            active = self.engine.model(None)
            self.engine.finish(self.engine.predict(active, ROW, unit=None, event_s=fakes.NOW_S))

    def fail(self, n: int = 1) -> None:
        for _ in range(n):
            self._record(Failed("late", self.serves, 0, 0, served=True, event_s=0))

    def events(self) -> list[str]:
        return [row[0] for row in self.recorder.spool._db.execute("select kind from events order by id")]

    def close(self) -> None:
        self.recorder.close()
        self.state.close()


def on(layout: Layout, story: typing.Callable[[Device], typing.Awaitable[T]]) -> T:
    """Start a device, let a story happen to it in simulated time, and stop it."""
    loop = SimulatedLoop()

    async def tell() -> T:
        device = Device(layout)
        try:
            return await story(device)
        finally:
            device.switch.stop()
            await asyncio.sleep(0)
            await loop.shutdown_default_executor()
            device.close()

    try:
        return loop.run_until_complete(tell())
    finally:
        loop.close()
        assert loop.faults == []


@pytest.fixture
def layout(tmp_path: pathlib.Path) -> Layout:
    """A device whose good generation is v1."""
    made = fakes.join(tmp_path / "store")
    fakes.install(made, fakes.make_bundle("v1"), probation_s=PROBATION_S)
    return made


def state_of(layout: Layout, digest: str) -> str | None:
    with contextlib.closing(State(layout.state_db)) as state:
        return state.state_of(digest)


def refused(layout: Layout) -> dict[str, str]:
    with contextlib.closing(State(layout.state_db)) as state:
        return {version: reason for (_, version, _), reason in state.refused().items()}


def running(layout: Layout) -> str:
    return fakes.generations_of(layout).running()


def add_v2(layout: Layout, made: fakes.Bundle | None = None, **changes: typing.Any) -> str:
    """Install v2 on trial, as an update does."""
    return fakes.install(
        layout, made or fakes.make_bundle("v2", slope=2.0), state="trial", probation_s=PROBATION_S, **changes
    )


# ---- start


def test_a_device_without_a_generation_starts_and_serves_nothing(tmp_path: pathlib.Path) -> None:
    layout = fakes.join(tmp_path)

    async def story(device: Device) -> None:
        await device.switch.boot()
        assert (device.serves, device.events()) == ("", [])

    on(layout, story)


def test_a_good_generation_is_served_again_and_never_on_trial_again(layout: Layout) -> None:
    digest = running(layout)

    async def story(device: Device) -> None:
        await device.switch.boot()
        device.answer()
        device.fail(1000)
        await asyncio.sleep(10 * PROBATION_S)
        assert (device.serves, device.events()) == ("v1", ["activated"])

    on(layout, story)
    assert state_of(layout, digest) == "good"


# ---- probation


def test_a_new_generation_is_committed_when_probation_ends_and_not_before(layout: Layout) -> None:
    old = running(layout)
    new = add_v2(layout)
    fakes.generations_of(layout).switch(old)

    async def story(device: Device) -> None:
        await device.switch.boot()
        assert device.serves == "v1"
        device.switch.generations.switch(new)
        await device.switch.activate(new)
        assert device.serves == "v2"
        device.answer(100)
        device.fail(19)
        await asyncio.sleep(PROBATION_S - 1)
        assert device.state.state_of(new) == "trial"
        await asyncio.sleep(2)
        assert device.state.state_of(new) == "good"
        assert device.events() == ["activated", "activated", "committed"]

    on(layout, story)
    assert running(layout) == new


@pytest.mark.parametrize(
    ("answers", "failures", "goes"),
    [(0, 20, True), (0, 19, False), (16, 4, False), (15, 5, True), (80, 20, False), (79, 21, True), (20, 0, False)],
)
def test_a_generation_that_fails_too_often_is_rolled_back(
    layout: Layout, answers: int, failures: int, goes: bool
) -> None:
    """More than a fifth of at least twenty."""
    old = running(layout)
    new = add_v2(layout)

    async def story(device: Device) -> None:
        await device.switch.boot()
        device.answer(answers)
        device.fail(failures)
        await asyncio.sleep(2)
        assert device.serves == ("v1" if goes else "v2")
        await asyncio.sleep(2 * PROBATION_S)
        device.answer()
        assert device.events()[-1] == ("activated" if goes else "committed")

    on(layout, story)
    assert running(layout) == (old if goes else new)
    assert (state_of(layout, old), state_of(layout, new)) == ("good", "bad" if goes else "good")
    assert refused(layout) == (
        {"v2": f"{failures} of {answers + failures} answers failed during probation"} if goes else {}
    )


def seen(outputs: tuple[float, float], *said: tuple[float, float], slow: bool = False) -> Answered:
    """An answer of v1, and what v2, v3, … would have said."""
    others = tuple(Scored(arm, f"v{arm + 1}", one) for arm, one in enumerate(said, 1))
    return Answered("late", "v1", 1, 0, 1, 0, 100, slow=slow, nonce=b"nonce1", outputs=outputs, others=others)


@pytest.mark.parametrize(
    ("what", "n", "of", "goes"),
    [("slow", 11, 20, True), ("slow", 10, 20, False), ("disagree", 7, 20, True), ("disagree", 6, 20, False)],
)
def test_a_generation_that_is_slow_or_decides_differently_is_rolled_back(
    layout: Layout, what: str, n: int, of: int, goes: bool
) -> None:
    """More than half of the answers over the budget; more than the three tenths that this channel says."""
    old = running(layout)
    new = fakes.install(
        layout,
        fakes.make_bundle("v1"),
        fakes.make_bundle("v2", slope=2.0),
        fakes.trial(epoch=1),
        state="trial",
        guard=Guard(disagree_ratio=0.3),
        probation_s=PROBATION_S,
    )

    async def story(device: Device) -> None:
        await device.switch.boot()
        for i in range(of):
            odd = i < n
            said = (0.9, 0.1) if odd and what == "disagree" else (0.2, 0.8)
            device._record(seen((0.3, 0.7), said, slow=odd and what == "slow"))
        await asyncio.sleep(2 * PROBATION_S)

    on(layout, story)
    assert running(layout) == (old if goes else new)
    word = "took longer than the budget" if what == "slow" else "decide differently"
    assert [version for version, why in refused(layout).items() if f"{n} " in why and word in why] == ["v2"] * goes


def test_only_the_model_that_is_to_blame_is_refused(layout: Layout) -> None:
    old = running(layout)
    new = add_v2(layout)

    async def story(device: Device) -> None:
        await device.switch.boot()
        await device.switch.roll_back("the other model fails", ("another",))
        assert device.serves == "v1"

    on(layout, story)
    assert (running(layout), state_of(layout, new), refused(layout)) == (old, "bad", {})


@pytest.mark.parametrize("position", ["commit", "roll_back"])
def test_what_a_process_that_died_was_about_to_do_is_done_at_the_next_start(layout: Layout, position: str) -> None:
    old = running(layout)
    new = add_v2(layout)
    with contextlib.closing(State(layout.state_db)) as state:
        state.trial.move("probation", new)
        state.trial.move(typing.cast("typing.Any", position), new, "20 of 20 answers failed")
        if position == "roll_back":
            state.mark(new, "bad", "20 of 20 answers failed")  # and then the power went

    async def story(device: Device) -> str:
        await device.switch.boot()
        await asyncio.sleep(2 * PROBATION_S)
        return device.serves

    keeps = position == "commit"
    assert on(layout, story) == ("v2" if keeps else "v1")
    assert (running(layout), state_of(layout, new)) == ((new, "good") if keeps else (old, "bad"))
    assert refused(layout) == ({} if keeps else {"v2": "20 of 20 answers failed"})
    with contextlib.closing(State(layout.state_db)) as state:
        assert state.trial.read().position == "idle"


def test_what_fails_before_there_is_anything_to_go_back_to_goes_on(tmp_path: pathlib.Path) -> None:
    layout = fakes.join(tmp_path)
    digest = add_v2(layout)

    async def story(device: Device) -> None:
        await device.switch.boot()
        device.fail(50)
        await asyncio.sleep(2 * PROBATION_S)
        device.answer()
        assert (device.serves, device.events()) == ("v2", ["activated", "failing"])

    on(layout, story)
    assert (running(layout), state_of(layout, digest), refused(layout)) == (digest, "trial", {})


def test_a_stop_in_the_middle_of_probation_decides_nothing(layout: Layout) -> None:
    new = add_v2(layout)

    async def story(device: Device) -> None:
        await device.switch.boot()
        await asyncio.sleep(PROBATION_S / 2)

    on(layout, story)
    assert (running(layout), state_of(layout, new)) == (new, "trial")
    assert on(layout, serve_for_long) == "v2"
    assert state_of(layout, new) == "good"


# ---- roll back


async def serve_for_long(device: Device) -> str:
    await device.switch.boot()
    await asyncio.sleep(2 * PROBATION_S)
    return device.serves


def test_a_roll_back_by_hand_ends_probation_for_good(layout: Layout) -> None:
    old = running(layout)
    new = add_v2(layout)

    async def story(device: Device) -> None:
        await device.switch.boot()
        await asyncio.sleep(PROBATION_S / 2)
        assert await device.switch.roll_back("it hums") == old
        assert device.serves == "v1"
        device.fail(100)
        await asyncio.sleep(2 * PROBATION_S)
        assert device.serves == "v1"
        assert device.events() == ["activated", "rolled-back", "activated"]

    on(layout, story)
    assert running(layout) == old
    assert (state_of(layout, old), state_of(layout, new)) == ("good", "bad")
    assert refused(layout) == {"v2": "it hums"}


def test_an_update_back_to_a_good_generation_ends_the_others_probation(layout: Layout) -> None:
    old = running(layout)
    new = add_v2(layout)

    async def story(device: Device) -> None:
        await device.switch.boot()
        device.switch.generations.switch(old)
        await device.switch.activate(old)
        device.fail(100)
        await asyncio.sleep(2 * PROBATION_S)
        assert device.serves == "v1"
        assert device.events() == ["activated", "activated"]

    on(layout, story)
    assert (running(layout), state_of(layout, old), state_of(layout, new)) == (old, "good", "trial")


def test_roll_back_goes_to_the_newest_good_generation_that_is_still_there(layout: Layout) -> None:
    first = running(layout)
    second = fakes.install(layout, fakes.make_bundle("v2", slope=2.0))
    gone = fakes.install(layout, fakes.make_bundle("v3", slope=3.0))
    last = fakes.install(layout, fakes.make_bundle("v4", slope=4.0))
    fakes.generations_of(layout).collect_garbage({first, second, last})

    async def story(device: Device) -> None:
        await device.switch.boot()
        assert await device.switch.roll_back("once") == second
        assert await device.switch.roll_back("twice") == first
        with pytest.raises(ConflictError, match="no good generation to go back to"):
            await device.switch.roll_back("thrice")
        device.answer()
        assert device.serves == "v1"

    on(layout, story)
    assert state_of(layout, gone) == "good"
    assert sorted(refused(layout)) == ["v2", "v4"]


def test_a_generation_that_took_the_place_of_a_failing_one_is_not_rolled_back_for_it(layout: Layout) -> None:
    add_v2(layout)

    async def story(device: Device) -> None:
        await device.switch.boot()
        assert await device.switch.roll_back("late news", only="another") == running(layout)
        assert device.serves == "v2"

    on(layout, story)
    assert refused(layout) == {}


def test_a_model_that_never_ends_loading_is_given_up_and_what_ran_goes_on(
    layout: Layout, monkeypatch: pytest.MonkeyPatch
) -> None:
    old = running(layout)
    new = add_v2(layout)
    fakes.generations_of(layout).switch(old)
    gate, honest = threading.Event(), LoadedBundle.load_model

    def load_model(bundle: LoadedBundle) -> None:
        if bundle.version == "v2":
            threading.current_thread().name = "stuck"
            gate.wait(60)
        honest(bundle)

    monkeypatch.setattr(LoadedBundle, "load_model", load_model)

    async def story(device: Device) -> None:
        await device.switch.boot()
        with pytest.raises(ModelError, match="late@v2: did not load within 120 s"):
            await device.switch.activate(new)
        assert device.serves == "v1"
        device.answer()
        await device.switch.activate(old)
        gate.set()

    on(layout, story)


def test_a_stop_waits_for_a_model_that_is_being_loaded(layout: Layout, monkeypatch: pytest.MonkeyPatch) -> None:
    """An interpreter that ends while a thread is in the middle of a library's own code takes the process down."""
    running(layout)
    begun, gate, honest = threading.Event(), threading.Event(), LoadedBundle.load_model
    loaded = []

    def load_model(bundle: LoadedBundle) -> None:
        begun.set()
        gate.wait(60)
        honest(bundle)
        loaded.append(bundle.version)

    monkeypatch.setattr(LoadedBundle, "load_model", load_model)
    monkeypatch.setattr("edge_agent.agent._LOADING_PATIENCE_S", 60.0)
    with fakes.running_agent(layout):
        assert begun.wait(60)
        threading.Timer(0.5, gate.set).start()
    assert loaded == ["v1"]


def test_one_spoiled_model_keeps_no_other_from_loading_and_is_named_at_once(
    layout: Layout, monkeypatch: pytest.MonkeyPatch
) -> None:
    def check_golden(_bundle: LoadedBundle) -> int:
        raise WireError("not JSON", field="golden.json")

    monkeypatch.setattr(LoadedBundle, "check_golden", check_golden)

    async def story(device: Device) -> None:
        await device.switch.boot()
        assert device.serves == "v1"
        device.answer()
        assert device.events() == ["activated", "model-broken"]

    on(layout, story)


def test_a_full_disk_keeps_nothing_from_being_served_and_a_trial_ends_once_there_is_room(
    layout: Layout, monkeypatch: pytest.MonkeyPatch
) -> None:
    old, new = running(layout), add_v2(layout)
    full, honest_mark = [True], State.mark

    def no_room(*_arguments: typing.Any, **_more: typing.Any) -> None:
        if full[0]:
            raise sqlite3.OperationalError("database or disk is full")

    def mark(state: State, *arguments: typing.Any) -> None:
        no_room()
        honest_mark(state, *arguments)

    monkeypatch.setattr(Recorder, "add_specs", no_room)
    monkeypatch.setattr(Recorder, "add_event", no_room)
    monkeypatch.setattr(State, "mark", mark)

    async def story(device: Device) -> None:
        await device.switch.boot()
        assert device.serves == "v2"
        device.fail(30)
        await asyncio.sleep(3)
        assert device.serves == "v2"
        full[0] = False
        await asyncio.sleep(60)
        assert device.serves == "v1"

    on(layout, story)
    assert (running(layout), state_of(layout, new)) == (old, "bad")


def test_a_generation_that_the_database_no_longer_knows_proves_itself_again(layout: Layout) -> None:
    digest = running(layout)
    with contextlib.closing(State(layout.state_db)) as state:
        state._db.execute("delete from generations")

    async def story(device: Device) -> None:
        await device.switch.boot()
        await asyncio.sleep(2 * PROBATION_S)

    on(layout, story)
    assert state_of(layout, digest) == "good"


def test_what_was_put_away_for_want_of_memory_is_not_loaded_for_an_update(
    layout: Layout, monkeypatch: pytest.MonkeyPatch
) -> None:
    loaded: list[str] = []
    honest = LoadedBundle.load_model

    def load_model(bundle: LoadedBundle) -> None:
        loaded.append(bundle.version)
        honest(bundle)

    monkeypatch.setattr(LoadedBundle, "load_model", load_model)

    async def story(device: Device) -> None:
        await device.switch.boot()
        device.engine.model(None).incumbent.park()
        new = fakes.install(layout, fakes.make_bundle("v1"), fakes.make_bundle("v2", slope=2.0), fakes.trial(epoch=2),
                            state="trial", probation_s=PROBATION_S)  # fmt: skip
        await device.switch.activate(new)
        assert device.engine.model(None).incumbent.is_parked

    on(layout, story)
    assert loaded == ["v1", "v2"]


# ---- generations that can not be served


def test_a_trial_that_keeps_killing_the_process_is_rolled_back_at_the_third_start(layout: Layout) -> None:
    old = running(layout)
    new = add_v2(layout)

    async def dies(device: Device) -> str:
        await device.switch.boot()
        return device.serves

    assert [on(layout, dies) for _ in range(4)] == ["v2", "v2", "v1", "v1"]
    assert (running(layout), state_of(layout, new)) == (old, "bad")
    assert "died again and again" in refused(layout)["v2"]


def test_of_several_that_keep_killing_the_process_together_the_first_goes_and_the_next_is_tried(layout: Layout) -> None:
    old = running(layout)
    made = [fakes.make_bundle(f"v{n}", slope=float(n)) for n in (1, 2, 3)]
    fakes.install(layout, made[0], made[1], fakes.trial(epoch=1), also=made[2:], state="trial", probation_s=PROBATION_S)

    async def dies(device: Device) -> str:
        await device.switch.boot()
        return device.serves

    assert [on(layout, dies) for _ in range(3)] == ["v1"] * 3
    assert (running(layout), list(refused(layout))) == (old, ["v2"])
    fakes.install(layout, made[0], made[2], fakes.trial(epoch=1, arms=(2,)), state="trial", probation_s=PROBATION_S)
    assert [on(layout, dies) for _ in range(3)] == ["v1"] * 3
    assert (running(layout), list(refused(layout))) == (old, ["v3"])  # it died with this one alone
    fakes.install(layout, made[0], made[1], fakes.trial(epoch=1), state="trial", probation_s=PROBATION_S)
    assert on(layout, serve_for_long) == "v1"
    assert (running(layout) != old, list(refused(layout))) == (True, ["v3"])


def test_a_first_generation_that_keeps_being_killed_is_served_all_the_same(tmp_path: pathlib.Path) -> None:
    """There is nothing to go back to; a device that is switched off early every day must not fall silent."""
    layout = fakes.join(tmp_path)
    digest = add_v2(layout)

    async def dies(device: Device) -> str:
        await device.switch.boot()
        return device.serves

    assert [on(layout, dies) for _ in range(5)] == ["v2"] * 5
    assert on(layout, serve_for_long) == "v2"
    assert state_of(layout, digest) == "good"


BROKEN: dict[str, typing.Callable[[pathlib.Path], object]] = {
    "a model that is garbage": lambda folder: _write(folder / "model.onnx", b"GIF89a"),
    "a model that is gone": lambda folder: (folder / "model.onnx").unlink(),
    "features that are garbage": lambda folder: _write(folder / "features.json", b"{"),
    "features that are gone": lambda folder: (folder / "features.json").unlink(),
    "a manifest that is garbage": lambda folder: _write(folder / "manifest.json", b"{"),
    "a manifest that is gone": lambda folder: (folder / "manifest.json").unlink(),
    "a generation that is gone": lambda folder: (folder.parents[1] / "generation.json").unlink(),
    "golden rows of another model": lambda folder: _write(folder / "golden.json", _golden()),
}


def _write(path: pathlib.Path, data: bytes) -> None:
    path.unlink()  # it is a link to a blob that others may use
    path.write_bytes(data)


def _golden() -> bytes:
    return fakes.make_bundle("v3", slope=3.0).files["golden.json"]


@pytest.mark.parametrize("broken", BROKEN.values(), ids=list(BROKEN))
def test_a_generation_on_trial_that_can_not_be_served_at_start_is_rolled_back(
    layout: Layout, broken: typing.Callable[[pathlib.Path], object]
) -> None:
    old = running(layout)
    new = add_v2(layout)
    broken(layout.generations / new / "late" / "v2")
    assert on(layout, serve_for_long) == "v1"
    assert (running(layout), state_of(layout, new)) == (old, "bad")
    assert on(layout, serve_for_long) == "v1"


@pytest.mark.parametrize("broken", BROKEN.values(), ids=list(BROKEN))
def test_a_generation_that_can_not_be_served_leaves_the_one_before_in_place(
    layout: Layout, broken: typing.Callable[[pathlib.Path], object]
) -> None:
    old = running(layout)
    new = add_v2(layout)
    fakes.generations_of(layout).switch(old)
    broken(layout.generations / new / "late" / "v2")

    async def story(device: Device) -> None:
        await device.switch.boot()
        with pytest.raises((CoveyError, OSError)):
            await device.switch.activate(new)
        device.answer()
        await asyncio.sleep(2 * PROBATION_S)
        assert (device.serves, device.events()) == ("v1", ["activated"])

    on(layout, story)
    assert state_of(layout, new) == "trial"


def test_a_good_generation_whose_model_broke_later_answers_from_its_table(tmp_path: pathlib.Path) -> None:
    layout = fakes.join(tmp_path)
    made = fakes.make_bundle(table={0: (0.25, 0.75)})
    digest = fakes.install(layout, made)
    _write(layout.generations / digest / "late" / "v1" / "model.onnx", b"GIF89a")

    async def story(device: Device) -> None:
        await device.switch.boot()
        active = device.engine.model(None)
        assert device.engine.predict(active, fakes.ROWS[0], unit=None, event_s=1.0).outputs == (0.25, 0.75)
        with pytest.raises(ModelError, match="does not load"):
            device.engine.predict(active, ROW, unit=None, event_s=1.0)
        assert device.events() == ["activated", "model-broken"]

    on(layout, story)
    assert state_of(layout, digest) == "good"


def test_what_is_being_written_while_the_agent_stops_is_written(layout: Layout) -> None:
    """Threads that wait for their turn get it before the databases are closed."""
    with fakes.running_agent(layout) as agent:
        fakes.wait_for(lambda: agent.engine.models and agent.engine.models["late"].incumbent.is_loaded.is_set())
        fakes.wait_for(lambda: agent.recorder.spool._db.execute("select count(*) from events").fetchone()[0] == 1)
        loop = agent._stop._loop
        assert loop
        with agent.recorder._lock:
            loop.call_soon_threadsafe(agent._stop.set)
            time.sleep(0.2)  # the last fold waits in front of what follows
            for i in range(4):
                loop.call_soon_threadsafe(loop.run_in_executor, None, agent.recorder.add_event, "late-news", str(i))
            time.sleep(0.2)
    with contextlib.closing(Outbox(layout.spool_db)) as outbox:
        assert outbox.counts()["events"] == 5
