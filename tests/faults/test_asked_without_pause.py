"""A client that asks without pause while updates are killed, run out of disk, are fed garbage and are rolled back.

A real serving process, its real sync child, the real cloud behind a line. Each round publishes a version that answers
differently, lets a fault happen to the update, and then a pass without one. Not one answer is refused, and each
is what the version that it names says.

``.ci/run`` takes a few of the calls; ``COVEY_EVERY_CALL=1`` (``just faults``) takes more, and prints how long the
answers took: how late the latest came, and what happened at that time.
"""

from __future__ import annotations

import array
import concurrent.futures
import contextlib
import json
import operator
import os
import pathlib
import re
import shutil
import signal
import subprocess
import sys
import time
import typing

import pytest

from cloud.publish.seal import SealedBundle, load_bundle, publish_bundle
from edge_agent import control
from edge_agent.update.state import State
from shared.bundle import MODEL_FILE
from shared.channel import BundleRef, Guard, ModelChannel
from shared.errors import ModelError
from tests import attacked as world
from tests import fakes
from tests.attacked import FIRST_SEQUENCE, Attacked

ROOT = pathlib.Path(__file__).parents[2]
DRIVER = pathlib.Path(__file__).with_name("ask_driver.py")
EVERY = bool(os.environ.get("COVEY_EVERY_CALL"))
CALM_S = 10.0 if EVERY else 1.0
AT_CALLS = 24 if EVERY else 1  # for each fault
MODEL, CANDIDATE = fakes.MODEL, "v1001"
ROWS: list[dict[str, typing.Any]] = [*fakes.ROWS, {"x": 9, "colour": "green", "size": 1.5}]
CHANGING = "write,pwrite64,openat,rename,unlink,symlink,link,mkdir,rmdir,fsync,fdatasync,ftruncate"
FAULTS = {"killed": "signal=SIGKILL", "the disk is full": "error=ENOSPC", "the disk is broken": "error=EIO"}
ENVIRON = os.environ | {"PYTHONPATH": str(ROOT), "PYTHONDONTWRITEBYTECODE": "1"}
_CALL = re.compile(r"^(\d+) +(\w+)\((.*)$", re.MULTILINE)
SHOWN = 12


class Phase(typing.NamedTuple):
    """What happened from when to when (monotonic clock)."""

    name: str
    began_s: float
    ended_s: float


class Asked(Attacked):
    """A device that answers a client who never rests, while versions come and go."""

    def __init__(self, folder: pathlib.Path, line: world.Line) -> None:
        super().__init__(folder, line)
        self.phases: list[Phase] = []
        self.newest, self._sequence = 0, FIRST_SEQUENCE
        self.process: subprocess.Popen[str] | None = None

    # ---- what the cloud says

    def publish(self, *, with_candidate: bool = False) -> None:
        """Sign a version that answers like no other, and a channel that names it; or give the newest a candidate."""
        version = f"v{self.newest + (0 if with_candidate else 1)}"
        made = bundle_of(CANDIDATE, fault="fails") if with_candidate else bundle_of(version)
        publish_bundle(self.repository, SealedBundle(made.manifest, made.data, made.files, {}))
        entry = ModelChannel(
            model=MODEL,
            incumbent=BundleRef(version=version),
            candidate=BundleRef(version=CANDIDATE) if with_candidate else None,
            experiment=fakes.trial() if with_candidate else None,
            guard=Guard(failed_ratio=0.05),
        )
        self.newest, self._sequence = int(version[1:]), self._sequence + 1
        often: dict[str, typing.Any] = {
            "poll_interval_s": 50.0,
            "poll_jitter_ratio": 0.0,
        }  # rarer, and the child would not stay
        probation_s = 10.0 if with_candidate else 0.05
        self.publish_channel(self.channel(self._sequence, models=(entry,), probation_s=probation_s, **often))

    def path_of_model(self) -> str:
        """Path below the repository of the newest version's model."""
        manifest = load_bundle(self.repository, MODEL, f"v{self.newest}").manifest
        (file,) = [file for file in manifest.files if file.name == MODEL_FILE]
        return str(self.repository.blob_path(file.sha256).relative_to(self.repository.folder))

    # ---- what the device does

    def start(self) -> str:
        """Start the serving process; return its address."""
        self.process = subprocess.Popen(
            [*command(self), "run", "--port", "0"], env=ENVIRON, stdout=subprocess.PIPE, text=True
        )
        assert self.process.stdout
        return self.process.stdout.readline().split()[-1]

    @property
    def pid(self) -> int:
        """Of the serving process."""
        assert self.process
        return self.process.pid

    def children(self) -> list[int]:
        """Processes that the serving process has started."""
        return [
            int(pid)
            for path in pathlib.Path(f"/proc/{self.pid}/task").glob("*/children")
            for pid in path.read_text().split()
        ]

    def stop(self) -> int:
        """Stop it as a service manager does; return its exit status."""
        if self.process is None:
            return 0
        self.process.terminate()
        with self.process as process:
            return process.wait(timeout=30)

    @contextlib.contextmanager
    def phase(self, name: str) -> typing.Iterator[None]:
        """Remember what happens now."""
        began_s = time.monotonic()
        yield
        self.phases.append(Phase(name, began_s, time.monotonic()))

    def pass_under(self, *strace: str) -> int:
        """Make a pass in a sync child of our own, under strace; return its exit status."""
        program = ["strace", "-f", "-qq", *strace, *command(self), "sync", "--child"]
        with subprocess.Popen(program, env=ENVIRON, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as child:
            assert child.stdin
            assert child.stdout
            child.stdout.readline()
            child.stdin.close()
            return child.wait(60)

    def ask_sync(self) -> dict[str, typing.Any]:
        """Have the serving process' sync child make a pass."""
        return control.ask(self.layout.control, "sync", timeout_s=60.0)

    def serves(self) -> str:
        """Incumbent of what the serving process answers with."""
        digest = control.ask(self.layout.control, "active")["active"]
        (entry,) = fakes.generations_of(self.layout).read(digest).models
        return str(entry.incumbent)

    def refuses_the_candidate(self) -> bool:
        """Whether the candidate has failed here."""
        with contextlib.closing(State(self.layout.state_db)) as state:
            return CANDIDATE in {version for _, version, _ in state.refused()}


def command(device: Asked) -> list[str]:
    """The device's command line."""
    return [sys.executable, "-m", "edge_agent.cli", "--store", str(device.layout.store)]


def bundle_of(version: str, **changes: typing.Any) -> fakes.Bundle:
    """A bundle whose answers tell its version; the first row's comes from the table."""
    number = int(version[1:])
    p = 1 / (number + 2)
    return fakes.make_bundle(version, slope=slope(version), table={0: (1 - p, p)}, **changes)


def slope(version: str) -> float:
    """Tells versions apart."""
    return 0.2 + int(version[1:]) / 500


def expected(folder: pathlib.Path, versions: typing.Iterable[str]) -> dict[str, list[list[float]]]:
    """What each version answers to each row, by a bundle that nobody updates."""
    said = {}
    for version in versions:
        opened = fakes.unpack(folder / version, bundle_of(version))
        said[version] = [list(opened.answer(row)[0]) for row in ROWS]
        for row, answer in zip(ROWS[1:], said[version][1:], strict=True):
            assert answer == pytest.approx(
                fakes.expected(row, task="binary", slope=slope(version), n_outputs=2), abs=1e-5
            )
    assert all(len({tuple(answers[i]) for answers in said.values()}) == len(said) for i in range(len(ROWS)))
    return said


# ---- what happens to the update of the newest version


def at_a_call(fault: str, name: str, number: int) -> typing.Callable[[Asked], None]:
    """The sync child is hit by a fault at a call that changes a file."""

    def happen(device: Asked) -> None:
        inject = f"inject={name}:{FAULTS[fault]}:when={number}"
        device.pass_under("-o", "/dev/null", "-e", f"trace={name}", "-e", inject)

    return happen


def own_child_killed(device: Asked) -> None:
    """The serving process' own child is killed in the middle of a pass; it starts another."""
    fakes.wait_for(device.children)
    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        asked = pool.submit(device.ask_sync)
        time.sleep(0.1)
        (child,) = device.children()
        os.kill(child, signal.SIGKILL)
        assert asked.result()["ok"]


def garbage(device: Asked) -> None:
    """Metadata, then the model, are something else."""
    for path in (device.path("timestamp"), device.path("channels"), device.path_of_model()):
        device.line.spoiled = {path: lambda _: [b"<html>a hotel's login page</html>"]}
        assert device.ask_sync()["code"] == "trust"
    device.line.spoiled = {}


def slow(device: Asked) -> None:
    """The model comes in drops."""

    def drip(data: bytes) -> typing.Iterator[bytes]:
        for at in range(0, len(data), 100):
            time.sleep(0.1)
            yield data[at : at + 100]

    device.line.spoiled = {device.path_of_model(): drip}
    assert device.ask_sync()["ok"]
    device.line.spoiled = {}


def rolled_back(device: Asked) -> None:
    """Somebody rolls it back; it stays with the version before until there is another."""
    assert device.ask_sync()["ok"]
    assert device.serves() == f"v{device.newest}"
    control.ask(device.layout.control, "rollback", reason="it hums")
    assert device.serves() == f"v{device.newest - 1}"
    assert device.ask_sync()["code"] == "model"
    device.publish()


def nonsense(device: Asked) -> None:
    """The serving process is told to serve what is not there, and to do what it does not know."""
    with pytest.raises(ModelError, match="is not on this device"):
        control.ask(device.layout.control, "activate", generation="00" * 32)
    with pytest.raises(ModelError, match="no command"):
        control.ask(device.layout.control, "explode")


def failing_candidate(device: Asked) -> None:
    """Half of the requests go to a candidate that fails for one row: the incumbent answers, and it is rolled back."""
    assert device.ask_sync()["ok"]
    device.publish(with_candidate=True)
    assert device.ask_sync()["ok"]
    fakes.wait_for(device.refuses_the_candidate)
    device.publish()


STORIES = (own_child_killed, garbage, failing_candidate, *((slow, rolled_back, nonsense) if EVERY else ()))


# ---- the test


@pytest.fixture
def device(tmp_path: pathlib.Path) -> typing.Iterator[Asked]:
    """A device that serves v1."""
    if shutil.which("strace") is None:
        pytest.skip("there is no strace: apt-get install strace")
    with contextlib.closing(world.Line()) as line:
        made = Asked(world.make_template(tmp_path / "world", line), line)
        made.publish()
        try:
            yield made
        finally:
            made.stop()
            made.store.close()


def changing_calls(device: Asked, log: pathlib.Path) -> list[tuple[str, int]]:
    """Name and number among its like of each call of a whole pass that changes something in the store."""
    done = device.pass_under("-o", str(log), "-y", "-e", f"trace={CHANGING}")
    assert done == 0
    seen, found, main = dict[str, int](), list[tuple[str, int]](), ""
    for pid, name, said in _CALL.findall(log.read_text()):
        main = main or pid
        if pid == main:
            seen[name] = seen.get(name, 0) + 1
            if str(device.layout.store) in said and (name != "openat" or "O_CREAT" in said):
                found.append((name, seen[name]))
    return found


def rounds(calls: list[tuple[str, int]]) -> dict[str, typing.Callable[[Asked], None]]:
    """What happens, by name: faults at calls that are spread over a whole pass, and the stories between them."""
    n, fixed = len(FAULTS) * AT_CALLS, list(STORIES)
    made = dict[str, typing.Callable[[Asked], None]]()
    for i in range(n):
        fault = list(FAULTS)[i % len(FAULTS)]
        name, number = calls[int((i + 0.5) * len(calls) / n)]
        made[f"{fault} at {name} {number}"] = at_a_call(fault, name, number)
        for story in fixed[i * len(fixed) // n : (i + 1) * len(fixed) // n]:
            made[story.__name__.replace("_", " ")] = story
    return made


class Answer(typing.NamedTuple):
    """How long an answer took, in seconds."""

    took_s: float
    began_s: float
    without_processor_s: float

    @property
    def own_s(self) -> float:
        """What is left if each of the two processes had had a processor to itself."""
        return self.took_s - self.without_processor_s


def said_of(answers: list[Answer], phases: list[Phase]) -> str:
    """How late answers came, and what happened when the latest ones did."""
    lines = []
    for what, took in (
        ("as it was", operator.attrgetter("took_s")),
        ("with a processor each", operator.attrgetter("own_s")),
    ):
        times = sorted(map(took, answers))
        calm = sorted(took(one) for one in answers if phases[0].began_s <= one.began_s <= phases[0].ended_s)
        usual_s = calm[int(len(calm) * 0.99)]
        lines.append(
            f"{what}: p99 {usual_s * 1e3:.2f} ms when nothing happens and {times[int(len(times) * 0.99)] * 1e3:.2f} ms"
            " in all;"
            f" latest {times[-1] * 1e3:.1f} ms, {times[-1] / usual_s:.1f} times the usual p99;"
            f" later than 10 times: {sum(took_s > 10 * usual_s for took_s in times)} of {len(times)}"
        )
    for one in sorted(answers, key=lambda answer: -answer.own_s)[:SHOWN]:
        where = [phase for phase in phases if phase.began_s <= one.began_s <= phase.ended_s]
        when = "".join(f", {one.began_s - phase.began_s:.2f} s into: {phase.name}" for phase in where)
        lines.append(f"  {one.took_s * 1e3:.1f} ms, {one.own_s * 1e3:.1f} ms with a processor each{when}")
    return "\n".join(lines)


@pytest.mark.timeout(3600)
def test_no_answer_is_refused_or_wrong_whatever_happens_to_updates(
    device: Asked, tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    address = device.start()
    assert device.ask_sync()["ok"]
    assert device.serves() == "v1"
    device.publish()
    happen = rounds(changing_calls(device, tmp_path / "calls"))
    known = [CANDIDATE, *(f"v{i}" for i in range(1, 2 * len(happen) + 3))]
    (tmp_path / "expected").write_text(json.dumps({"rows": ROWS, "versions": expected(tmp_path / "b", known)}))
    asking = [
        sys.executable,
        str(DRIVER),
        address,
        str(device.pid),
        str(tmp_path / "expected"),
        str(tmp_path / "times"),
    ]
    with subprocess.Popen(asking, env=ENVIRON, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as client:
        with device.phase("calm"):
            time.sleep(CALM_S)
        for name, one in happen.items():
            with device.phase(name):
                device.publish()
                one(device)
            with device.phase(f"a whole pass after: {name}"):
                done = device.ask_sync()
            assert done["ok"], (name, done)
            assert device.serves() == f"v{device.newest}", name
        said = json.loads(client.communicate(b"enough")[0])
    assert device.stop() == 0
    assert (said["refused"], said["wrong"]) == (0, 0), said
    assert said["answered"] > 5000, said
    served = {f"v{device.newest}", "v2", CANDIDATE}
    assert served <= set(said["versions"]), said
    if EVERY:
        with capsys.disabled():
            sys.stdout.write(f"\n{len(happen)} faults; {said['answered']} answers, 0 refused, 0 wrong\n")
            times = array.array("d", (tmp_path / "times").read_bytes())
            answers = [Answer(*numbers) for numbers in zip(times[1::3], times[::3], times[2::3], strict=True)]
            sys.stdout.write(said_of(answers, device.phases) + "\n")
