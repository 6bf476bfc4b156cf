"""The worst days of a device, as a table: what goes wrong, what runs then, what is stored, what the cloud hears, and
what the next pass without a fault makes of it. The faults are fields of a row, as in the tests of Mender's client.

A device with its real serving process' agent, its real sync, and the real cloud behind a line; whoever is killed is a
process. ``COVEY_EVERY_CALL=1`` (``just faults``) prints the table.
"""

from __future__ import annotations

import itertools
import os
import pathlib
import shutil
import subprocess
import sys
import time
import typing

import msgspec
import pytest

from cloud.publish.seal import SealedBundle, publish_bundle
from edge_agent.config import Settings, SyncSettings
from edge_agent.passes import Pass
from edge_agent.sync import Sync
from edge_agent.update.state import State
from shared.bundle import MODEL_FILE
from shared.channel import BundleRef, ModelChannel
from shared.protocol import REPOSITORY_PATH
from tests import attacked as world
from tests import fakes
from tests.attacked import FIRST_SEQUENCE, REGION, Attacked

ROOT = pathlib.Path(__file__).parents[2]
DRIVER = pathlib.Path(__file__).with_name("die_driver.py")
EVERY = bool(os.environ.get("COVEY_EVERY_CALL"))
MODEL, ROW = fakes.MODEL, fakes.ROWS[0]
NEXT = FIRST_SEQUENCE + 2
DAY_S = 86_400
ANY = "*"
CHANNEL, GENERATION = f"channels/{REGION}.json", "generations/NEW/generation.json"
MISSING = "update-refused: not-found: "


class Day(typing.NamedTuple):
    """A bad day.

    Parameters
    ----------
    is_known : bool
        Whether test_bad_updates.py has such a day too; the short run leaves it out.
    dies : tuple of str
        Positions of the update at which the sync child is killed, one pass after the other.
    serving_dies : tuple of str
        Positions of the trial at which the serving process is killed, one start after the other.
    model : str
        What is wrong with v2: see `fakes.make_bundle`.
    untested : bool
        Whether v2 has its self-test still before it.
    full_after : int
        After so many writes the disk is full.
    torn : str
        Files that lose their second half before the next pass (pattern).
    clock_s : int
        How far the clock has jumped.
    served : str
        What is not served as it is (see `Attacked.path`), and
    as_ : str
        what is served in its place: ``older`` (what was there before v2), or a spoil's name.
    was_newer : bool
        Whether the device has seen newer metadata before.
    status, retry_after : str
        How the repository answers instead.
    signed : dict
        What the channel says that it should not.
    forged : dict
        How the timestamp is signed again.
    times : int
        How many passes like this there are.
    patience_s : float
        For how long the line and the self-test are waited for.
    code : str
        What each of these passes ends with.
    runs, update, trial, hears : str
        What answers after them, where update and trial are then, and what the cloud has heard after one more pass.
    then : str
        What answers after that pass, which nothing disturbs.
    """

    name: str
    is_known: bool = False
    dies: tuple[str, ...] = ()
    serving_dies: tuple[str, ...] = ()
    model: fakes.Fault = ""
    untested: bool = False
    full_after: int = 0
    torn: str = ""
    clock_s: int = 0
    served: str = ""
    as_: str = ""
    was_newer: bool = False
    status: str = ""
    retry_after: str = ""
    signed: typing.Mapping[str, typing.Any] = {}
    forged: typing.Mapping[str, typing.Any] = {}
    times: int = 1
    patience_s: float = 30.0
    code: str = ""
    runs: str = "v1"
    update: str = "idle"
    trial: str = "idle"
    hears: str = "activated"
    then: str = "v2"


REFUSED: dict[str, typing.Any] = {"code": "trust", "hears": "update-refused: trust: "}
FAILED: dict[str, typing.Any] = {"code": "model", "hears": "update-refused: model: ", "then": "v1", "untested": True}
AWAY: dict[str, typing.Any] = {"code": "unreachable"}
GONE: dict[str, typing.Any] = {"hears": "update-refused: model: ", "then": "v1"}
BACK: dict[str, typing.Any] = {"hears": "rolled-back", "then": "v1"}
INSTALLED: dict[str, typing.Any] = {"runs": "v2", "trial": ANY}
FULL: dict[str, typing.Any] = {"code": ANY, "update": ANY}
BEFORE_THE_SWITCH = ("check", "download", "verify", "stage", "self_test")
DAYS = (
    *(
        Day(f"the power fails at {position}", dies=(position,), update=position)
        for position in BEFORE_THE_SWITCH
    ),
    Day("the power fails at activate", dies=("activate",), update="activate"),
    Day("the power fails at report", dies=("report",), update="report", **INSTALLED),
    Day("the power fails at each state in turn", dies=(*BEFORE_THE_SWITCH, "activate"), update="activate"),
    Day("the power fails five times at stage", dies=("stage",) * 5, update="stage"),
    Day("the power fails while it goes back", model="garbage", dies=("roll_back",), update="roll_back", **GONE),
    Day("the power fails in probation", serving_dies=("probation",), **INSTALLED),
    Day("the power fails at commit", serving_dies=("commit",), runs="v2"),
    Day("the model kills the server again and again", serving_dies=("probation",) * 2, **BACK),
    Day("the power fails while the server rolls back", serving_dies=("probation", "probation", "roll_back"), **BACK),
    Day("a model that wants all memory", model="hungry", **FAILED),
    Day("a model that never ends", model="endless", patience_s=3.0, **FAILED),
    Day("a model that answers wrongly", is_known=True, model="wrong", **FAILED),
    Day("a model that is garbage", model="garbage", times=2, **FAILED),
    Day("a model that the server can not load", model="garbage", code="model", **GONE),
    *(Day(f"the disk is full after {n} writes", full_after=n, **FULL) for n in (1, 4, 10)),
    Day("the disk is full after the switch", full_after=30, **FULL, **INSTALLED),
    Day("a blob is torn", dies=("self_test",), torn="generations/*/*/v2/model.onnx", untested=True, update="self_test"),
    Day("a new generation's file is torn", dies=("stage", "self_test"), torn=GENERATION, update="self_test"),
    Day("the kept channel is torn", dies=("stage",), torn="tuf/channel.json", update="stage"),
    Day("the kept metadata are torn", dies=("stage",), torn="tuf/*.json", update="stage"),
    Day("the end of the database's log is torn", dies=("stage",), torn="state.db-wal", update=ANY),
    Day("the clock is a year ahead", clock_s=400 * DAY_S, **REFUSED),
    Day("the clock is a year behind", clock_s=-400 * DAY_S, **INSTALLED),
    Day("an old timestamp is replayed", served="timestamp", as_="older", was_newer=True, times=2, **REFUSED),
    Day("the newest metadata are held back", served="timestamp", as_="older", times=2),
    Day("an old snapshot under the new timestamp", is_known=True, served="snapshot", as_="older", **REFUSED),
    Day("old bundles among new metadata", is_known=True, served="bundles", as_="older", **REFUSED),
    Day("an old channel among new metadata", is_known=True, served=CHANNEL, as_="older", **REFUSED),
    Day("metadata that have expired", is_known=True, forged={"expired": True}, **REFUSED),
    Day("metadata of an older version", is_known=True, forged={"version": -3}, **REFUSED),
    Day("metadata that a stranger signed", forged={"key": world.STRANGER}, **REFUSED),
    Day("another region's channel", signed={"region": "south"}, **REFUSED),
    Day("an older channel, signed anew", is_known=True, signed={"sequence": 1}, **REFUSED),
    Day("a channel that names no version", is_known=True, signed={"incumbent": "v9"}, code="not-found", hears=MISSING),
    Day("a hotel's login page", is_known=True, served="timestamp", as_="garbage", **REFUSED),
    Day("endless metadata", served="timestamp", as_="endless", **REFUSED),
    Day("an endless model", is_known=True, served=MODEL_FILE, as_="endless", **REFUSED),
    Day("a model that is cut off", is_known=True, served=MODEL_FILE, as_="cut", **REFUSED),
    Day("a line that drips", served=MODEL_FILE, as_="drip", patience_s=0.4, **AWAY),
    Day("the cloud is down", status="500 Internal Server Error", times=2, **AWAY),
    Day("the cloud asks for patience", status="503 Service Unavailable", retry_after="7200", **AWAY),
)  # fmt: skip


# ---- what is served instead


def drip(data: bytes) -> typing.Iterator[bytes]:
    """A byte now and then."""
    for byte in data:
        time.sleep(0.02)
        yield bytes([byte])


SPOILS: dict[str, world.Spoil] = {
    "garbage": lambda _: [b"<html>a hotel's login page</html>"],
    "endless": lambda data: itertools.chain([data], itertools.repeat(bytes(100_000))),
    "cut": lambda data: [data[: len(data) // 2]],
    "drip": drip,
}


# ---- the device


class Worst(Attacked):
    """A device that runs v1 while v2 is on its way."""

    settings = Settings()
    lives: typing.Any

    def publish(self, version: str, fault: fakes.Fault = "", **signed: typing.Any) -> SealedBundle:
        """Sign a version and the channel that names it."""
        made = fakes.make_bundle(version, slope=float(version[1:]), fault=fault)
        sealed = SealedBundle(made.manifest, made.data, made.files, {})
        publish_bundle(self.repository, sealed)
        sequence = signed.pop("sequence", NEXT if version == "v2" else FIRST_SEQUENCE + 1)
        self.name(sequence, signed.pop("incumbent", version), **signed)
        return sealed

    def name(self, sequence: int, incumbent: str, **changes: typing.Any) -> None:
        """Sign a channel with one model."""
        entry = ModelChannel(model=MODEL, incumbent=BundleRef(version=incumbent))
        self.publish_channel(self.channel(sequence, models=(entry,), **changes))

    def one_pass(self) -> Pass:
        """Make a pass of the sync child, in this process."""
        sync = Sync(self.layout, self.layout.load_identity(), self.settings)
        try:
            return sync.one_pass()
        finally:
            sync.close()

    def dies(self, track: str, position: str) -> None:
        """Make a pass, or serve, in a process that is killed there."""
        self.lives.stdin.write(f"{self.layout.store}\t{track}\t{position}\n")
        self.lives.stdin.flush()
        said = [self.lives.stdout.readline() for _ in range(2)]
        assert said[1] == f"{-9 if position else 0}\n", said

    def in_process(self, track: str, position: str, *before: str) -> subprocess.CompletedProcess[str]:
        """Make a pass, or serve, in a process of its own."""
        return subprocess.run(
            [*before, sys.executable, "-B", str(DRIVER), str(self.layout.store), track, position],
            env=os.environ | {"PYTHONPATH": str(ROOT)},
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )

    def version(self) -> str:
        """Version that answers a customer; the answer is that version's."""
        status, reply = fakes.post(self.agent.address, "/v1/predict", {"features": ROW})
        assert status == 200, reply
        version = str(reply["parameters"]["version"])
        truth = fakes.expected(ROW, task="binary", slope=float(version[1:]), n_outputs=2)
        assert reply["probabilities"] == pytest.approx(truth, abs=1e-5)
        return version

    def positions(self) -> tuple[str, str]:
        """Where update and trial are."""
        state = State(self.layout.state_db)
        try:
            return state.update.read().position, state.trial.read().position
        finally:
            state.close()

    def heard(self) -> str:
        """All that the cloud has heard, oldest first."""
        return "\n".join(f"{event['kind']}: {event['detail']}" for event in reversed(self.store.fleet.events()))


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory, line: world.Line) -> pathlib.Path:
    """A cloud, and a device for which v1 of a model is good."""
    folder = world.make_template(tmp_path_factory.mktemp("template"), line)
    made = Worst(folder, line)
    made.publish("v1")
    assert made.one_pass().ok
    state = State(made.layout.state_db)
    state.mark(fakes.generations_of(made.layout).running(), "good")
    state.close()
    made.store.close()
    return folder


@pytest.fixture(scope="module")
def lives() -> typing.Iterator[subprocess.Popen[str]]:
    """Processes that are killed, one after the other."""
    with subprocess.Popen(
        [sys.executable, "-B", str(DRIVER)],
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as made:
        yield made
        made.communicate()


@pytest.fixture
def device(
    template: pathlib.Path, tmp_path: pathlib.Path, line: world.Line, lives: subprocess.Popen[str]
) -> typing.Iterator[Worst]:
    subprocess.run(["cp", "-a", template, tmp_path / "world"], check=True)  # files of a generation are links to blobs
    made = Worst(tmp_path / "world", line)
    made.lives = lives
    yield made
    made.store.close()


def begin(device: Worst, day: Day) -> None:
    """Let v2 be on its way, and something wrong with it."""
    older = device.read(day.served) if day.as_ == "older" else b""
    if day.was_newer:
        device.name(FIRST_SEQUENCE + 1, "v1", probation_s=0.05)
        assert device.one_pass().ok
    made = device.publish("v2", day.model, **day.signed)
    if not day.untested:
        state = State(device.layout.state_db)
        state.passed_self_test(made.sha256)
        state.close()
    if day.served:
        spoil: world.Spoil = (lambda _: [older]) if day.as_ == "older" else SPOILS[day.as_]
        path = device.path(day.served) if day.served != MODEL_FILE else blob_path(device, made)
        device.line.spoiled = {path: spoil}
    if day.status:
        device.line.app = refusing(device.line.app, day)
    patient = SyncSettings(timeout_s=day.patience_s, self_test_timeout_s=day.patience_s)
    device.settings = msgspec.structs.replace(device.settings, sync=patient)


def blob_path(device: Worst, made: SealedBundle) -> str:
    (file,) = [file for file in made.manifest.files if file.name == MODEL_FILE]
    return str(device.repository.blob_path(file.sha256).relative_to(device.repository.folder))


def refusing(app: typing.Any, day: Day) -> typing.Any:
    """The cloud, which answers for none of its files."""

    def answer(environ: typing.Any, start_response: typing.Any) -> typing.Any:
        if not environ["PATH_INFO"].startswith(REPOSITORY_PATH):
            return app(environ, start_response)
        start_response(day.status, [("Retry-After", day.retry_after)] if day.retry_after else [])
        return []

    return answer


def suffer(device: Worst, day: Day) -> typing.Iterator[Pass | None]:
    """Make the passes of the bad day; None for one that was killed, or could not say how it went."""
    for position in day.dies:
        device.dies("update", position)
        yield None
    if day.dies:
        return
    for _ in range(day.times):
        before: tuple[str, ...] = ()
        if day.clock_s:
            before = ("faketime", "--exclude-monotonic", "-f", f"{day.clock_s:+d}s")
        if day.full_after:
            inject = f"inject=write,pwrite64:error=ENOSPC:when={day.full_after}+"
            before = ("strace", "-f", "-qq", "-o", "/dev/null", "-e", "trace=write,pwrite64", "-e", inject)
        if not before:
            yield device.one_pass()
            continue
        if shutil.which(before[0]) is None:
            pytest.skip(f"there is no {before[0]}")
        done = device.in_process("update", "", *before)
        yield msgspec.json.decode(done.stdout, type=Pass) if done.returncode == 0 and done.stdout else None


def tear(device: Worst, pattern: str) -> None:
    """Take the second half of files away."""
    new = [digest for digest in device.on_disk()[1] if digest != device.on_disk()[0]]
    torn = list(device.layout.store.glob(pattern.replace("NEW", new[0] if new else "NEW")))
    assert torn
    for path in torn:
        os.truncate(path, path.stat().st_size // 2)


def relent(device: Worst, day: Day, sound: bytes) -> None:
    """From now on all is well."""
    device.line.serve(device.project, device.store)
    if day.forged:
        (device.repository.folder / device.path("timestamp")).write_bytes(sound)
    if day.signed:
        device.name(NEXT + 1, "v2")


def meets(said: str, expected: str) -> bool:
    return expected in (ANY, said)


TAKEN = [day for day in DAYS if EVERY or not day.is_known]


@pytest.mark.parametrize("day", TAKEN, ids=[day.name for day in TAKEN])
def test_on_a_bad_day_a_device_answers_says_so_and_recovers(
    device: Worst, day: Day, capsys: pytest.CaptureFixture[str]
) -> None:
    begin(device, day)
    sound = device.read("timestamp")
    if day.forged:
        device.forge("timestamp", **day.forged)
    heard = len(device.heard())
    during, alone = set[str](), bool(day.serving_dies or day.torn)
    if day.serving_dies:
        device.dies("update", "")
        for position in day.serving_dies:
            device.dies("trial", position)
    if day.torn:  # nobody has a file open when the power fails
        assert list(suffer(device, day))
        tear(device, day.torn)
    with fakes.running_agent(device.layout) as device.agent:
        world.wait_for(lambda: bool(device.agent.engine.generation))
        for done in () if alone else suffer(device, day):
            assert done is None or meets(done.code, day.code), done
            assert not day.retry_after or (done and done.next_s >= float(day.retry_after)), done
            during.add(device.version())
        world.wait_for(lambda: meets(device.positions()[1], day.trial))
        during.add(device.version())
        assert during == {day.runs}
        assert meets(device.positions()[0], day.update), device.positions()
        relent(device, day, sound)
        last = device.one_pass()
        assert device.version() == day.then, last
        running = device.on_disk()[0]
        assert device.agent.engine.generation == running
        expected = f"activated: {running[:12]}" if day.hears == "activated" else day.hears
        assert expected in device.heard()[heard:], device.heard()[heard:]
    if EVERY:
        with capsys.disabled():
            sys.stdout.write(f"\n{day.name:55} {'/'.join(sorted(during)):6} {day.then:4} yes")
