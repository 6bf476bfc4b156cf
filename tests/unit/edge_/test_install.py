"""An update from channel to commit: what a device should run, in which order it gets there, killed at every step."""

from __future__ import annotations

import contextlib
import pathlib
import typing

import pytest

from edge_agent.database import open_database
from edge_agent.generation import Generations
from edge_agent.update import state as state_module
from edge_agent.update.desire import check_channel, desired_generation, wants_candidate
from edge_agent.update.install import Installer, Outcome
from edge_agent.update.job import Job
from edge_agent.update.state import BOOTS, State
from edge_agent.update.trust import Repository, Where
from shared.bundle import Manifest
from shared.channel import BundleRef, Channel, ModelChannel
from shared.errors import ConflictError, ModelError, TrustError, UnreachableError
from tests import fakes

MODEL = fakes.MODEL


class Server:
    """The serving process: takes what it can load, and says what it serves."""

    def __init__(self, generations: Generations) -> None:
        self._generations = generations
        self.serves = ""
        self.can_not_load: set[str] = set()
        self.is_up = True

    def active(self) -> str:
        if not self.is_up:
            raise UnreachableError("no agent")
        return self.serves

    def activate(self, digest: str) -> None:
        if not self.is_up:
            raise UnreachableError("no agent")
        versions = {version for entry in self._generations.read(digest).models for version in entry.versions}
        if versions & self.can_not_load:
            raise ModelError("it does not load")
        self.serves = digest


class Device:
    """A device that updates itself from a signed repository; `fails` are versions that fail their self-test."""

    def __init__(self, folder: pathlib.Path) -> None:
        self.cloud = fakes.SignedRepository()
        self.layout = fakes.join(folder, root=self.cloud.root)
        self.generations = fakes.generations_of(self.layout)
        self.server, self.fails, self.tested = Server(self.generations), set[str](), list[str]()

    def update(self, state: type[State] = State) -> Outcome:
        """Run one update, in a process that knows nothing of the one before."""
        with contextlib.closing(state(self.layout.state_db)) as opened:
            repository = Repository(self.layout.tuf, self.cloud.root, Where.below(fakes.URL), self.cloud.stream)
            installer = Installer(
                self.layout,
                self.layout.load_identity(),
                state=opened,
                repository=repository,
                server=self.server,
                stream=self.cloud.stream,
                self_test=self._self_test,
            )
            done = installer.bring_up_to_date()
            if self.server.serves == done.generation:
                opened.mark(done.generation, "good")  # probation is the serving process' affair
            return done

    def _self_test(self, _folder: pathlib.Path, manifest: Manifest) -> None:
        self.tested.append(manifest.version)
        if manifest.version in self.fails:
            raise ModelError(f"{manifest.version} answers 42")

    def publish(self, sequence: int, incumbent: str, candidate: str = "", **changes: typing.Any) -> None:
        named = (incumbent, candidate, *changes.get("also", ()), *changes.get("pins", {}).values())
        for version in filter(None, named):
            if f"bundles/{MODEL}/{version}/standard.json" not in self.cloud.signed["bundles"].targets:
                self.cloud.publish_bundle(fakes.make_bundle(version, slope=float(version[1:])))
        self.cloud.publish_channel(sequence, incumbent, candidate, **changes)

    @property
    def runs(self) -> tuple[str, str]:
        """Incumbent and candidate of what `current` names."""
        digest = self.generations.running()
        if not digest:
            return "", ""
        (entry,) = self.generations.read(digest).models
        return entry.incumbent, entry.candidate

    def remembers(self) -> State:
        return State(self.layout.state_db)


@pytest.fixture
def device(tmp_path: pathlib.Path) -> Device:
    made = Device(tmp_path / "store")
    made.publish(1, "v1")
    made.update()
    return made


# ---- the story of updates


def test_an_update_switches_tells_the_server_and_remembers_how_far_it_came(device: Device) -> None:
    device.publish(2, "v2")
    done = device.update()
    assert (done.changed, done.note, device.runs) == (True, "", ("v2", ""))
    assert device.server.serves == done.generation == device.generations.running()
    with contextlib.closing(device.remembers()) as state:
        now = state.update.read()
        assert (state.floor("channel"), now.position, now.generation) == (2, "report", done.generation)
    assert not device.update().changed


def test_a_channel_that_says_the_same_again_fetches_and_tests_nothing(device: Device) -> None:
    device.publish(2, "v1")
    device.tested.clear()
    device.cloud.fetched.clear()
    assert not device.update().changed
    assert device.tested == []
    assert not [path for path in device.cloud.fetched if path.startswith("blobs/")]
    with contextlib.closing(device.remembers()) as state:
        assert state.floor("channel") == 2


def test_what_runs_and_what_ran_before_stay_on_disk_and_nothing_else(device: Device) -> None:
    for n in range(2, 6):
        device.publish(n, f"v{n}")
        device.update()
        kept = [device.generations.read(digest).models[0].incumbent for digest in device.generations.list()]
        assert sorted(kept) == [f"v{n - 1}", f"v{n}"]
        used = {
            file.sha256
            for digest in device.generations.list()
            for manifest in device.generations.manifests(digest).values()
            for file in manifest.files
        }
        assert {path.name for path in device.layout.blobs.iterdir()} == used


def test_the_last_good_other_version_outlives_stages_of_an_experiment(device: Device) -> None:
    """Stages make new generations of the same incumbent; going back from all of them must stay possible."""
    device.publish(2, "v2")
    device.update()
    for epoch in (3, 4, 5):
        device.publish(epoch, "v2", "v3", experiment=fakes.trial(epoch=epoch))
        device.update()
        assert device.runs == ("v2", "v3")
        incumbents = {device.generations.read(digest).models[0].incumbent for digest in device.generations.list()}
        assert incumbents == {"v1", "v2"}


# ---- refusals


def test_a_candidate_that_fails_its_self_test_is_left_out_and_never_tried_again(device: Device) -> None:
    device.fails = {"v2"}
    device.publish(2, "v1", "v2")
    done = device.update()
    assert (done.note, done.changed, device.runs) == ("v2 answers 42", False, ("v1", ""))
    device.tested.clear()
    device.publish(3, "v1", "v2", experiment=fakes.trial(epoch=9))
    device.update()
    assert (device.tested, device.runs) == ([], ("v1", ""))


def test_an_incumbent_that_fails_its_self_test_changes_nothing_and_is_not_tried_again(device: Device) -> None:
    before = device.generations.running()
    device.fails = {"v2"}
    device.publish(2, "v2")
    with pytest.raises(ModelError, match="v2 answers 42"):
        device.update()
    device.tested.clear()
    with pytest.raises(ModelError, match="late@v2: failed here before: v2 answers 42"):
        device.update()
    assert (device.tested, device.generations.running(), device.server.serves) == ([], before, before)
    device.publish(3, "v3")
    assert device.update().changed
    assert device.runs == ("v3", "")


def test_a_generation_that_the_server_can_not_serve_is_taken_back(device: Device) -> None:
    before = device.generations.running()
    device.publish(2, "v1", "v2")
    device.server.can_not_load = {"v2"}
    with pytest.raises(ModelError, match="it does not load"):
        device.update()
    assert (device.generations.running(), device.server.serves) == (before, before)
    with contextlib.closing(device.remembers()) as state:
        assert [version for _, version, _ in state.refused()] == ["v2"]
    done = device.update()
    assert (done.changed, device.runs) == (False, ("v1", ""))


def test_what_was_refused_is_tried_again_when_somebody_asks(device: Device) -> None:
    device.fails = {"v2"}
    device.publish(2, "v2")
    with pytest.raises(ModelError):
        device.update()
    device.fails.clear()
    with contextlib.closing(device.remembers()) as state:
        state.forget_refusals()
    assert device.update().changed
    assert device.runs == ("v2", "")


# ---- restarts


class Killed(BaseException):
    """The process is gone."""


def killed_after(n: int) -> type[State]:
    """A state that ends the process after so many stored steps."""
    left = [n]

    class DyingJob(Job):
        def _store(self, *args: typing.Any) -> None:
            super()._store(*args)
            left[0] -= 1
            if left[0] < 0:
                raise Killed

    class Dying(State):
        def __init__(self, path: pathlib.Path) -> None:
            super().__init__(path)
            self.update = DyingJob(self._db, "update")

    return Dying


@pytest.mark.parametrize("n", range(8))
def test_killed_after_any_step_the_next_pass_ends_as_it_would_have(device: Device, n: int) -> None:
    device.publish(2, "v2")
    try:
        device.update(killed_after(n))
    except Killed:
        killed = True
    else:
        killed = False
    assert killed == (n < 7)
    assert device.server.serves in device.generations.list()
    device.update()
    assert device.runs == ("v2", "")
    assert device.server.serves == device.generations.running()
    with contextlib.closing(device.remembers()) as state:
        assert state.floor("channel") == 2
    assert not device.update().changed


@pytest.mark.parametrize("n", range(1, 60, 6))
def test_killed_in_the_middle_of_a_download_nothing_half_is_kept(device: Device, n: int) -> None:
    device.publish(2, "v2")
    honest = device.cloud.stream
    left = [n]

    def stream(url: str) -> typing.Iterator[bytes]:
        for piece in honest(url):
            left[0] -= 1
            if left[0] < 0:
                raise Killed
            yield piece[: len(piece) // 2]
            yield piece[len(piece) // 2 :]

    device.cloud.stream = stream  # type: ignore[method-assign]
    with contextlib.suppress(Killed):
        device.update()
    device.cloud.stream = honest  # type: ignore[method-assign]
    device.update()
    assert device.runs == ("v2", "")
    assert not [path for path in device.layout.blobs.iterdir() if path.name.startswith(".")]


def test_what_was_switched_to_and_never_came_to_answer_is_taken_back_by_the_next_pass(device: Device) -> None:
    """The sync child died between the switch and the server's answer, and the server can not load it."""
    before = device.generations.running()
    device.server.is_up = False
    device.publish(2, "v2")
    device.update()
    device.server.is_up, device.server.can_not_load = True, {"v2"}
    with pytest.raises(ModelError, match="it does not load"):
        device.update()
    assert device.generations.running() == before
    with contextlib.closing(device.remembers()) as state:
        assert [version for _, version, _ in state.refused()] == ["v2"]


def test_without_a_server_the_device_is_updated_and_the_server_serves_it_when_it_starts(device: Device) -> None:
    device.server.is_up = False
    device.publish(2, "v2")
    assert device.update().changed
    assert (device.runs, device.server.serves == device.generations.running()) == (("v2", ""), False)
    device.server.is_up = True
    assert device.update().changed
    assert device.server.serves == device.generations.running()


# ---- several candidates


def arms(device: Device) -> dict[int, str]:
    """What `current` names, by arm."""
    (entry,) = device.generations.read(device.generations.running()).models
    return {0: entry.incumbent} | entry.candidates


def test_candidates_that_fail_their_self_test_are_left_out_one_by_one_and_the_others_keep_their_arms(
    device: Device,
) -> None:
    device.fails = {"v2", "v4"}
    trial = fakes.trial(request_share_bp=2000)
    device.publish(2, "v1", "v2", experiment=trial, also=("v3", "v4", "v5"))
    done = device.update()
    assert (done.changed, arms(device)) == (True, {0: "v1", 2: "v3", 4: "v5"})
    assert device.tested.count("v3") == device.tested.count("v5") == 1
    with contextlib.closing(device.remembers()) as state:
        assert {version for _, version, _ in state.refused()} == {"v2", "v4"}
    assert not device.update().changed
    device.publish(3, "v1", "v3", experiment=fakes.trial(request_share_bp=2000, arms=(2,)))
    assert (device.update().changed, arms(device)) == (True, {0: "v1", 2: "v3"})


@pytest.mark.parametrize("bad", [{"v2"}, {"v3"}, {"v4"}, {"v2", "v4"}, {"v3", "v4"}, {"v2", "v3", "v4"}, {"v1"}])
def test_where_nobody_is_to_blame_candidates_are_left_out_one_by_one_until_only_those_are_that_do_not_work(
    device: Device, bad: set[str]
) -> None:
    """All are new, and the server says only that it can not serve them together."""
    device.server.can_not_load = bad
    trial = fakes.trial(request_share_bp=2000)
    device.publish(2, "v1", "v2", experiment=trial, also=("v3", "v4"))
    passes = 0
    while True:
        passes += 1
        try:
            changed = device.update().changed
        except ModelError:
            assert passes < 12
            with contextlib.closing(device.remembers()) as state:
                told = {version for _, version, _ in state.blamed()}
            assert told <= bad or bad == {"v1"}, "the cloud counts what it is told against a candidate"
        else:
            if not changed:
                break
    with contextlib.closing(device.remembers()) as state:
        refused = {version for _, version, _ in state.refused()}
        assert state.blamed() == state.refused()
    runs = {arm: version for arm, version in {1: "v2", 2: "v3", 3: "v4"}.items() if version not in bad}
    if bad == {"v1"}:
        runs = {}  # it served alone before, and what else is new can not be told from what is wrong
    assert arms(device) == {0: "v1"} | runs
    assert refused == ({"v2", "v3", "v4"} if bad == {"v1"} else bad)


def test_what_is_left_out_of_a_generation_that_does_well_stays_out(device: Device) -> None:
    """One that fails later, alone, brings nobody back."""
    device.server.can_not_load = {"v2"}
    trial = fakes.trial(request_share_bp=2000)
    device.publish(2, "v1", "v2", experiment=trial, also=("v3",))
    with pytest.raises(ModelError):
        device.update()
    assert (device.update().changed, arms(device)) == (True, {0: "v1", 2: "v3"})
    device.server.can_not_load = {"v2", "v4"}
    device.publish(3, "v1", "v2", experiment=trial, also=("v3", "v4"))
    with pytest.raises(ModelError):
        device.update()
    assert (device.update().changed, arms(device)) == (False, {0: "v1", 2: "v3"})
    with contextlib.closing(device.remembers()) as state:
        assert {version for _, version, _ in state.refused()} == {"v2", "v4"}


def test_a_new_incumbent_is_refused_only_when_no_candidate_is_left_to_suspect(device: Device) -> None:
    device.server.can_not_load = {"v2"}
    device.publish(2, "v2", "v3")
    refused = []
    for _ in range(2):
        with pytest.raises(ModelError):
            device.update()
        with contextlib.closing(device.remembers()) as state:
            refused.append({version for _, version, _ in state.refused()})
    assert refused == [{"v3"}, {"v2"}]
    assert device.runs == ("v1", "")


def test_without_any_of_them_the_incumbent_runs_alone(device: Device) -> None:
    device.fails = {"v2", "v3"}
    before = device.generations.running()
    device.publish(2, "v1", "v2", experiment=fakes.trial(request_share_bp=2000), also=("v3",))
    assert (device.update().changed, device.generations.running()) == (False, before)


def test_a_pinned_device_fetches_and_runs_its_version_alone(device: Device) -> None:
    device.publish(2, "v2", "v3", pins={fakes.DEVICE: "v4", "another": "v5"})
    assert (device.update().changed, device.runs, arms(device)) == (True, ("v4", ""), {0: "v4"})
    assert not [path for path in device.cloud.fetched if "/v3/" in path or "/v5/" in path]
    device.publish(3, "v2", "v3")
    assert (device.update().changed, arms(device)) == (True, {0: "v2", 1: "v3"})


def test_a_device_of_the_control_group_fetches_no_candidate(device: Device) -> None:
    device.publish(2, "v1", "v2", experiment=fakes.trial(control_share_bp=10_000))
    assert device.update().changed  # another generation: its answers count for the stage
    assert arms(device) == {0: "v1"}
    (entry,) = device.generations.read(device.generations.running()).models
    assert entry.epoch == 7
    assert "v2" not in device.tested


# ---- what a device should run


def channel(candidate: str = "v2", **trial: typing.Any) -> Channel:
    entry = ModelChannel(
        model=MODEL,
        incumbent=BundleRef(version="v1"),
        candidate=BundleRef(version=candidate) if candidate else None,
        experiment=fakes.trial(**trial) if candidate else None,
    )
    return Channel(region="north", sequence=5, models=(entry,))


def sha(model: str, ref: BundleRef) -> str:
    return f"{model}/{ref.version}"


def test_the_share_of_devices_that_take_part_is_the_one_asked_for_and_grows_without_change() -> None:
    names = [f"till-{i}" for i in range(2000)]
    small, large = (
        {name for name in names if wants_candidate(channel(device_share_bp=share).models[0], name)}
        for share in (2500, 5000)
    )
    assert small < large
    assert (abs(len(small) - 500) < 80, abs(len(large) - 1000) < 100) == (True, True)
    assert not wants_candidate(channel("").models[0], "till-1")


def test_a_device_outside_the_stage_or_one_that_refused_the_candidate_runs_the_incumbent_alone() -> None:
    (inside,) = desired_generation(channel(), "d", {}, sha).models
    assert (inside.incumbent, inside.candidate, inside.epoch) == ("v1", "v2", 7)
    (outside,) = desired_generation(channel(device_share_bp=0), "d", {}, sha).models
    (refused,) = desired_generation(channel(), "d", {(MODEL, "v2", f"{MODEL}/v2"): "no"}, sha).models
    assert outside == refused
    assert (outside.incumbent, outside.candidate, outside.candidate_sha256, outside.experiment) == ("v1", "", "", None)
    (anew,) = desired_generation(channel(), "d", {(MODEL, "v2", "another manifest"): "no"}, sha).models
    assert anew == inside


def test_the_same_channel_gives_the_same_generation_and_another_stage_another() -> None:
    one, again = (desired_generation(channel(), "d", {}, sha).digest for _ in range(2))
    other = desired_generation(channel(epoch=8), "d", {}, sha).digest
    assert one == again != other


@pytest.mark.parametrize(
    ("region", "floor", "says"), [("south", 0, "channel region"), ("north", 6, "a rollback attack")]
)
def test_a_channel_of_another_region_or_of_yesterday_is_refused(region: str, floor: int, says: str) -> None:
    with pytest.raises(TrustError, match=says):
        check_channel(channel(), region, floor)
    check_channel(channel(), "north", 5)


# ---- what is remembered


@pytest.fixture
def state(tmp_path: pathlib.Path) -> typing.Iterator[State]:
    with contextlib.closing(State(tmp_path / "state.db")) as opened:
        yield opened


def test_starts_on_trial_are_counted_and_a_good_generation_is_never_on_trial_again(state: State) -> None:
    state.add_trial("a")
    assert [state.boot("a") for _ in range(BOOTS + 1)] == [2, 1, 0, 0]
    state.mark("a", "good")
    state.add_trial("a")
    assert (state.boot("a"), state.state_of("a"), state.boot("b"), state.state_of("b")) == (-1, "good", -1, None)


def test_a_bad_mark_outlives_the_generation_a_good_one_does_not(state: State) -> None:
    for digest, mark in (("a", "good"), ("b", "bad"), ("c", "good")):
        state.mark(digest, typing.cast("typing.Any", mark))
    state.forget({"c"})
    assert [state.state_of(digest) for digest in "abc"] == [None, "bad", "good"]


def test_a_floor_never_falls(state: State) -> None:
    assert [(state.raise_floor("channel", n), state.floor("channel"))[1] for n in (5, 3, 9, 0)] == [5, 5, 9, 9]


def test_everything_is_remembered_across_a_restart(tmp_path: pathlib.Path) -> None:
    with contextlib.closing(State(tmp_path / "state.db")) as first:
        first.add_trial("a")
        first.refuse("m", "v1", "00", "why")
        first.passed_self_test("11")
        first.raise_floor("channel", 7)
        first.update.begin()
        first.update.move("download", "a", "half way")
        first.trial.move("probation", "b")
    with contextlib.closing(State(tmp_path / "state.db")) as again:
        assert (again.state_of("a"), again.floor("channel"), again.has_passed("11")) == ("trial", 7, True)
        assert again.refused() == {("m", "v1", "00"): "why"}
        update, trial = again.update.read(), again.trial.read()
        assert (update.position, update.generation, update.outcome) == ("download", "a", "half way")
        assert (trial.position, trial.generation) == ("probation", "b")


def test_a_database_of_a_newer_agent_is_refused_and_left_alone(tmp_path: pathlib.Path) -> None:
    path = tmp_path / "state.db"
    open_database(path, (*state_module._STEPS, "create table more (x)")).close()
    data = path.read_bytes()
    with pytest.raises(ConflictError, match=r"state\.db has version 5, this program knows 4\. Update the agent\."):
        State(path)
    assert path.read_bytes() == data


def test_a_database_of_an_older_agent_keeps_what_it_knew(tmp_path: pathlib.Path) -> None:
    path = tmp_path / "state.db"
    old = open_database(path, state_module._STEPS[:1])
    old.execute("update job set position = 'activate', generation = 'a', outcome = 'well'")
    old.execute("insert into refused values ('m', 'v1', '00', 'why', 0)")
    old.close()
    with contextlib.closing(State(path)) as state:
        now = state.update.read()
        assert (now.position, now.generation, now.outcome) == ("idle", "a", "well")
        assert state.refused() == {("m", "v1", "00"): "why"}
        assert state.trial.read().position == "idle"
