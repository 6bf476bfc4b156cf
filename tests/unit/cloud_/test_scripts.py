"""The scripts for cron and people: help, dry runs, one real run each; and a backup is worth what can be restored."""

from __future__ import annotations

import pathlib
import shutil
import subprocess
import sys
import tarfile
import threading
import time
import typing

import pytest

from cloud.cli.main import main
from cloud.config import Project, load_project
from cloud.worker import Worker
from tests.unit.cloud_ import builders

SCRIPTS = pathlib.Path(__file__).parents[3] / "scripts"
NAMES = ("retrain_nightly", "rollout_by_region", "backup")
Done = subprocess.CompletedProcess[str]
# Python 3.11 before 3.11.4 knows no filters.
SAFELY: dict[str, typing.Any] = {"filter": "data"} if hasattr(tarfile, "data_filter") else {}


def run(name: str, *arguments: str, cwd: pathlib.Path | None = None) -> Done:
    command = [sys.executable, str(SCRIPTS / f"{name}.py"), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False, cwd=cwd, timeout=120)


def work(project: Project, times: int = 4) -> None:
    """Let the worker tick."""
    for _ in range(times):
        worker = Worker(project)
        worker.run_once()
        worker.store.close()


@pytest.fixture
def served(project: Project) -> Project:
    """A project whose v1 answers everywhere; no device has joined yet."""
    assert main(["--project", str(project.folder), "rollout", "start", "v1"]) == 0
    work(project)
    return project


@pytest.mark.parametrize("name", NAMES)
def test_help_says_what_a_script_does_and_knows_a_dry_run(name: str) -> None:
    done = run(name, "--help")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith(f"usage: {name}.py")
    assert "--dry-run" in done.stdout
    assert "--project" in done.stdout


@pytest.mark.parametrize("name", NAMES)
def test_without_a_project_a_script_says_so_in_one_line(name: str, tmp_path: pathlib.Path) -> None:
    done = run(name, "--project", str(tmp_path))
    assert (done.returncode, done.stdout) == (5, "")
    assert done.stderr.startswith(f"{name}: ")
    assert done.stderr.count("\n") == 1


# ---- retrain_nightly


def _new_rows(project: Project) -> None:
    with builders.opened(project) as store:
        builders.add(project, store, builders.sales(10, first_day=20, seed=2))
        builders.add(project, store, builders.sales(10, first_day=30, seed=3))


def test_the_nightly_training_waits_for_new_rows(served: Project) -> None:
    done = run("retrain_nightly", "--project", str(served.folder))
    assert (done.returncode, done.stderr) == (0, "")
    assert "0 new rows" in done.stdout
    assert "nothing to do" in done.stdout


def test_the_nightly_training_continues_the_incumbent_and_rolls_it_out(served: Project) -> None:
    _new_rows(served)
    arguments = ("--project", str(served.folder), "--min-new-rows", "100")
    dry = run("retrain_nightly", *arguments, "--dry-run")
    assert (dry.returncode, dry.stderr) == (0, "")
    assert "would continue v1, and roll it out" in dry.stdout
    with builders.opened(served) as store:
        assert len(store.models.all()) == 1
    done = run("retrain_nightly", *arguments)
    assert (done.returncode, done.stderr) == (0, ""), done
    with builders.opened(served) as store:
        rollout = store.rollouts.newest()
        assert (rollout["to_version"], rollout["state"], rollout["why"]) == ("v1.1", "running", "nightly")
        assert store.models.get(builders.MODEL, "v1.1")["why"] == "nightly"
    again = run("retrain_nightly", *arguments)
    assert (again.returncode, "a rollout is under way" in again.stdout) == (0, True), again


def test_the_nightly_training_tells_a_gates_refusal_by_its_status(served: Project) -> None:
    with builders.opened(served) as store:
        builders.add(served, store, builders.sales(10, 200, first_day=20, seed=2, liked="green"))
        builders.add(served, store, builders.sales(4, first_day=30, seed=3))
    done = run("retrain_nightly", "--project", str(served.folder), "--min-new-rows", "100")
    assert done.returncode == 3, done
    assert done.stderr.startswith("retrain_nightly: ")
    with builders.opened(served) as store:
        assert store.models.get(builders.MODEL, "v1.1")["status"] == "refused"


# ---- rollout_by_region


def test_a_rollout_in_an_order_of_ones_own_is_watched_to_its_end(project: Project) -> None:
    arguments = ("--project", str(project.folder), "--regions", "south,north")
    dry = run("rollout_by_region", *arguments, "--dry-run")
    assert (dry.returncode, dry.stdout.split()) == (0, ["install", "south", "install", "north"])
    with builders.opened(project) as store:
        assert store.rollouts.all() == []
    stop = threading.Event()

    def tick() -> None:
        while not stop.wait(0.2):
            work(project, 1)

    thread = threading.Thread(target=tick)
    thread.start()
    try:
        done = run("rollout_by_region", *arguments, "--reason", "stocktaking")
    finally:
        stop.set()
        thread.join()
    assert (done.returncode, done.stderr) == (0, ""), done
    lines = done.stdout.splitlines()
    assert [("south" in line, "north" in line) for line in lines[:2]] == [(True, False), (False, True)], lines
    assert lines[-1] == "promoted: installed in every region"


@pytest.mark.parametrize("regions", ["north", "north,south,mars", "north,north"])
def test_an_order_that_is_not_all_regions_once_each_is_refused(project: Project, regions: str) -> None:
    done = run("rollout_by_region", "--project", str(project.folder), "--regions", regions)
    assert done.returncode == 2
    assert "--regions" in done.stderr


def test_a_rollout_that_does_not_end_in_time_is_told_by_its_status(project: Project) -> None:
    done = run("rollout_by_region", "--project", str(project.folder), "--timeout-hours", "0")
    assert done.returncode == 124
    assert "is still running" in done.stderr


# ---- backup


def test_a_dry_run_of_a_backup_writes_nothing(project: Project, tmp_path: pathlib.Path) -> None:
    done = run("backup", "--project", str(project.folder), "--dry-run", cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    assert "var/covey.db, covey.toml, features, var/parts, var/blobs, var/repo" in done.stdout
    assert not list(tmp_path.glob("*.tar.gz*"))


def test_a_backup_can_be_restored_and_gone_on_with(served: Project, tmp_path: pathlib.Path) -> None:
    out, back = tmp_path / "shop.tar.gz", tmp_path / "back"
    done = run("backup", "--project", str(served.folder), "--out", str(out), "--with-keys")
    assert (done.returncode, done.stderr) == (0, "")
    with builders.opened(served) as store:
        wanted = [store.models.all(), store.rollouts.all(), store.audit.all()]
    shutil.rmtree(served.folder)
    back.mkdir()
    with tarfile.open(out) as archive:
        archive.extractall(back, **SAFELY)
    restored = load_project(back)
    with builders.opened(restored) as store:
        told, *audit = store.audit.all()
        assert [store.models.all(), store.rollouts.all(), audit] == wanted
        assert (told["action"], told["actor"]) == ("restored", "covey")
    assert main(["--project", str(back), "bundle", "verify", "v1"]) == 0
    _new_rows(restored)
    with builders.opened(restored) as store:
        # Up to v1.100 may have been trained since the copy was made, and may run on devices.
        assert builders.fit(restored, store, parent="v1").version == "v1.101"
    assert main(["--project", str(back), "rollout", "start", "v1.101"]) == 0
    work(restored, 2)
    with builders.opened(restored) as store:
        assert store.rollouts.newest()["state"] == "running"


def test_a_backup_keeps_keys_apart_unless_asked(project: Project, tmp_path: pathlib.Path) -> None:
    out = tmp_path / "shop.tar.gz"
    assert run("backup", "--project", str(project.folder), "--out", str(out)).returncode == 0
    with tarfile.open(out) as archive:
        names = archive.getnames()
    assert not [name for name in names if name.startswith("keys") or name.endswith(".pem")]
    before = out.read_bytes()
    again = run("backup", "--project", str(project.folder), "--out", str(out))
    assert (again.returncode, "--out" in again.stderr) == (6, True)
    assert out.read_bytes() == before


def test_a_backup_taken_while_the_worker_works_is_whole(project: Project, tmp_path: pathlib.Path) -> None:
    assert main(["--project", str(project.folder), "rollout", "start", "v1"]) == 0
    stop = threading.Event()

    def busy() -> None:
        with builders.opened(project) as store:
            for n in range(10_000):
                if stop.is_set():
                    return
                store.audit.add("busy", str(n), actor="ada")
                time.sleep(0.001)

    thread = threading.Thread(target=busy)
    thread.start()
    try:
        done = run("backup", "--project", str(project.folder), "--out", str(tmp_path / "b.tar.gz"))
    finally:
        stop.set()
        thread.join()
    assert (done.returncode, done.stderr) == (0, "")
    (tmp_path / "back").mkdir()
    with tarfile.open(tmp_path / "b.tar.gz") as archive:
        archive.extractall(tmp_path / "back", **SAFELY)
    with builders.opened(load_project(tmp_path / "back")) as store:
        assert store.db.rows("pragma integrity_check") == [{"integrity_check": "ok"}]
        said = [int(row["subject"]) for row in store.audit.all(100_000, "busy")]
        assert said == list(range(len(said) - 1, -1, -1))
