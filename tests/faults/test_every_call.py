"""An update that is killed at a system call, or told there that the disk is full or broken, at each one that changes
anything: what runs is always one whole generation, and the next update succeeds.

``.ci/run`` takes a sample of the calls; ``COVEY_EVERY_CALL=1`` (``just faults``) takes every one, and prints how many.
"""

from __future__ import annotations

import hashlib
import importlib.util
import os
import pathlib
import re
import shutil
import subprocess
import sys
import typing

import pytest

from edge_agent.config import Layout
from edge_agent.predict.loaded import LoadedBundle
from edge_agent.update.state import State
from shared.bundle import parse_manifest
from tests import fakes

DRIVER = pathlib.Path(__file__).with_name("install_driver.py")
ROOT = pathlib.Path(__file__).parents[2]
CHANGING = (
    "write,pwrite64,writev,openat,rename,renameat,renameat2,unlink,unlinkat,symlink,symlinkat,link,linkat,mkdir,mkdirat,"
    "rmdir,fsync,fdatasync,ftruncate,fallocate,chmod,fchmod,utimensat"
)
EVERY = bool(os.environ.get("COVEY_EVERY_CALL"))
_SAMPLE = 12
_CALL = re.compile(r"^(?:\d+ +)?(\w+)\((.*)$", re.MULTILINE)


def _driver() -> typing.Any:
    spec = importlib.util.spec_from_file_location("covey_install_driver", DRIVER)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


class Prepared(typing.NamedTuple):
    """A device that runs v1, a repository that offers v2, and the calls of its update that change a thing."""

    store: pathlib.Path
    repository: pathlib.Path
    calls: list[tuple[str, int]]


def run(store: pathlib.Path, repository: pathlib.Path, *strace: str) -> subprocess.CompletedProcess[str]:
    """Update a store under strace."""
    program = shutil.which("strace")
    assert program is not None
    return subprocess.run(
        [program, "-f", "-qq", *strace, sys.executable, "-B", str(DRIVER), str(store), str(repository)],
        env={"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT), "PYTHONDONTWRITEBYTECODE": "1"},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Prepared:
    if shutil.which("strace") is None:
        pytest.skip("there is no strace: apt-get install strace")
    folder = tmp_path_factory.mktemp("every-call")
    cloud = fakes.SignedRepository()
    layout = fakes.join(folder / "store", root=cloud.root)
    _publish(cloud, folder / "repository", 1, "v1")
    driver = _driver()
    digest = driver.update(layout, folder / "repository")
    state = State(layout.state_db)
    state.mark(digest, "good")
    state.close()
    _publish(cloud, folder / "repository", 2, "v2")
    return Prepared(layout.store, folder / "repository", _calls(folder, layout.store))


def _publish(cloud: fakes.SignedRepository, folder: pathlib.Path, sequence: int, version: str) -> None:
    cloud.publish_bundle(fakes.make_bundle(version, slope=float(version[1:]), table={0: (0.5, 0.5)}))
    cloud.publish_channel(sequence, version)
    for path, data in cloud.files.items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_bytes(typing.cast("bytes", data))


def _calls(folder: pathlib.Path, store: pathlib.Path) -> list[tuple[str, int]]:
    """Name and number among its like of each call of a whole update that changes something in the store."""
    copy = shutil.copytree(store, folder / "dry", symlinks=True)
    log = folder / "calls.txt"
    done = run(copy, folder / "repository", "-o", str(log), "-e", f"trace={CHANGING}", "-y")
    assert done.returncode == 0, done.stderr
    seen: dict[str, int] = {}
    found = []
    for name, said in _CALL.findall(log.read_text()):
        seen[name] = seen.get(name, 0) + 1
        changes = name != "openat" or "O_CREAT" in said
        if str(copy) in said and changes:
            found.append((name, seen[name]))
    return found


def whole(store: pathlib.Path) -> str:
    """Read what `current` names, every byte of it; return its version."""
    layout = Layout(store)
    generations = fakes.generations_of(layout)
    digest = generations.running()
    (entry,) = generations.read(digest).models
    folder = generations.version_folder(digest, entry.model, entry.incumbent)
    manifest = parse_manifest((folder / "manifest.json").read_bytes())
    for file in manifest.files:
        assert hashlib.sha256((folder / file.name).read_bytes()).hexdigest() == file.sha256, file.name
    opened = LoadedBundle(folder, manifest)
    opened.load_model()
    assert opened.check_golden() == len(fakes.ROWS)
    return entry.incumbent


def chosen(calls: list[tuple[str, int]], salt: int) -> list[tuple[str, int]]:
    """Every call; or a sample of them that is spread over the whole update."""
    if EVERY:
        return calls
    step = len(calls) / _SAMPLE
    return [calls[int(i * step + salt * step / 3) % len(calls)] for i in range(_SAMPLE)]


FAULTS = {"killed": "signal=SIGKILL", "the disk is full": "error=ENOSPC", "the disk is broken": "error=EIO"}


@pytest.mark.timeout(3600)
@pytest.mark.parametrize("fault", FAULTS)
def test_at_every_call_what_runs_is_whole_and_the_next_update_succeeds(
    prepared: Prepared, tmp_path: pathlib.Path, fault: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert len(prepared.calls) > 60
    driver, ended = _driver(), {0: 0, 1: 0, -9: 0}
    picked = chosen(prepared.calls, list(FAULTS).index(fault))
    for i, (name, number) in enumerate(picked):
        store = shutil.copytree(prepared.store, tmp_path / f"s{i}", symlinks=True)
        inject = f"inject={name}:{FAULTS[fault]}:when={number}"
        done = run(store, prepared.repository, "-o", "/dev/null", "-e", f"trace={name}", "-e", inject)
        where = f"{name} {number}: {done.returncode}: {done.stderr[-600:]}"
        assert done.returncode in ended, where
        assert "Traceback" not in done.stderr, where
        ended[done.returncode] += 1
        assert whole(store) in ("v1", "v2"), where
        driver.update(Layout(store), prepared.repository)
        assert whole(store) == "v2", where
        assert not list(store.rglob("*.tmp")), where
        shutil.rmtree(store)
    assert ended[-9 if fault == "killed" else 1] > 0
    if EVERY:
        with capsys.disabled():
            sys.stdout.write(f"\n{fault}: {len(picked)} calls; ended with {ended}\n")
