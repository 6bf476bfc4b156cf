"""The worker and its jobs: one at a time, given back when their process dies, never done twice."""

from __future__ import annotations

import os
import pathlib
import signal
import subprocess
import sys
import threading
import time
import typing

import pytest

from cloud.cli.main import main
from cloud.config import Project
from cloud.job import do_job
from cloud.store.jobs import Jobs
from cloud.store.store import Store
from cloud.worker import Flock, Worker
from shared.errors import ConflictError, GateError
from tests.unit.cloud_ import builders

MODEL = builders.MODEL
HOLD = """
import fcntl, sys, time
file = open(sys.argv[1], "w")
fcntl.flock(file, fcntl.LOCK_EX)
print("held", flush=True)
time.sleep(60)
"""


def dead_pid() -> int:
    """A process that is gone."""
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    return process.pid


def wait_for(is_so: typing.Callable[[], object], timeout_s: float = 60.0) -> None:
    deadline = time.monotonic() + timeout_s
    while not is_so():
        assert time.monotonic() < deadline
        time.sleep(0.05)


@pytest.fixture
def served(store: Store) -> Store:
    """The store of a project whose v1 answers everywhere."""
    for region in builders.REGIONS:
        store.models.set_incumbent(MODEL, region, "v1")
    return store


# ---- when it ticks


def ticks(every_s: float, revisions: typing.Iterable[int]) -> list[bool]:
    flock = Flock()
    return [flock.is_in(revision, n * every_s) for n, revision in enumerate(revisions)]


def test_batches_that_come_together_are_seen_together() -> None:
    assert ticks(0.125, [0, 1, 5, 9, 9, 9]) == [True, False, False, False, True, True]


def test_a_tick_that_took_long_is_not_begun_before_it_has_been_quiet_for_as_long() -> None:
    flock = Flock()
    assert flock.is_in(0, 0.0)
    flock.took_s = 0.5
    looks = [flock.is_in(revision, 0.125 * n) for n, revision in enumerate((1, 2, 2, 2, 3, 3, 3, 3), 1)]
    assert looks == [False] * 7 + [True]
    assert [flock.is_in(3, 1.0 + 0.125 * n) for n in range(1, 3)] == [True, True]


def test_batches_that_never_end_do_not_keep_the_worker_from_its_work() -> None:
    assert ticks(0.25, range(9)) == [n % 4 == 0 for n in range(9)]


def test_a_worker_that_looks_seldom_does_not_wait() -> None:
    assert all(ticks(5.0, range(9)))


def test_a_worker_ticks_for_whatever_others_have_changed_and_for_nothing_else(served: Store, project: Project) -> None:
    worker = Worker(project)
    assert worker.once() is not None
    assert [worker.once() for _ in range(3)] == [None] * 3
    served.set_meta("revision", 7)
    assert worker.once() is not None
    assert worker.once() is None
    served.set_meta("seen by nobody", 1)
    assert worker.once() is None
    served.models.set_incumbent(MODEL, "north", "v1")
    served.set_meta("revision", 8)
    done = worker.once()
    assert done is not None
    assert done.revision == 8
    worker.store.close()


def test_what_comes_while_a_tick_goes_on_is_seen_by_the_next_one(served: Store, project: Project) -> None:
    class Late(Worker):
        """Something comes after the controller has looked."""

        def _do_jobs(self) -> None:
            super()._do_jobs()
            served.set_meta("revision", 7)

    worker = Late(project)
    revisions = [done and done.revision for done in (worker.once(), worker.once(), worker.once())]
    assert revisions == [0, 7, None]
    worker.store.close()


# ---- the queue


def test_a_job_is_begun_by_one_process_only(store: Store) -> None:
    job = store.jobs.add(MODEL, "train", {}, "a test")
    assert store.jobs.begin(job, os.getpid())
    assert not store.jobs.begin(job, os.getpid())
    store.jobs.end(job, ok=True, result="v2")
    assert not store.jobs.begin(job, os.getpid())


def test_a_job_begun_from_many_threads_at_once_is_begun_once(project: Project, store: Store) -> None:
    job = store.jobs.add(MODEL, "train", {}, "a test")
    meet, begun = threading.Barrier(6), []

    def begin() -> None:
        with builders.opened(project) as mine:
            meet.wait()
            begun.append(mine.jobs.begin(job, os.getpid()))

    threads = [threading.Thread(target=begin) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(begun) == [False] * 5 + [True]


def test_a_job_whose_process_is_gone_is_queued_again_and_others_are_left_alone(store: Store) -> None:
    lost, alive, queued, done = (store.jobs.add(MODEL, "train", {}, str(i)) for i in range(4))
    store.jobs.begin(lost, dead_pid())
    store.jobs.begin(alive, os.getpid())
    store.jobs.begin(done, dead_pid())
    store.jobs.end(done, ok=True, result="")
    assert store.jobs.requeue_orphans() == 1
    states = [store.jobs.get(job)["state"] for job in (lost, alive, queued, done)]
    assert states == ["queued", "running", "queued", "done"]
    assert store.jobs.requeue_orphans() == 0


def test_what_came_of_a_job_is_kept_however_it_ended(served: Store, project: Project) -> None:
    job = served.jobs.add(MODEL, "train", {"rollout": False}, "a test")
    assert do_job(project, served, job, print) == "sales@v2"
    row = served.jobs.get(job)
    assert (row["state"], row["result"]) == ("done", "sales@v2")
    with pytest.raises(ConflictError, match="is done"):
        do_job(project, served, job, print)
    broken = served.jobs.add(MODEL, "finetune", {}, "a test")  # no rows are newer than v1's
    with pytest.raises(Exception, match="no rows are newer"):
        do_job(project, served, broken, print)
    row = served.jobs.get(broken)
    assert (row["state"], "no rows are newer" in row["result"]) == ("failed", True)


def test_a_job_rolls_out_what_it_trained_if_asked_to(served: Store, project: Project) -> None:
    job = served.jobs.add(MODEL, "train", {"rollout": True}, "it rained")
    assert do_job(project, served, job, print) == "sales@v2, rollout 1"
    rollout = served.rollouts.get(1)
    assert (rollout["to_version"], rollout["why"]) == ("v2", "it rained")
    assert served.models.get(MODEL, "v2")["why"] == "it rained"


def test_a_model_that_a_gate_refuses_is_not_rolled_out(served: Store, project: Project) -> None:
    text = (project.folder / "covey.toml").read_text()
    strict = builders.write(project, "covey.toml", text.replace("holdout_days = 3", "holdout_days = 3\nseed = 3"))
    builders.add(strict, served, builders.sales(20, 200, first_day=20, liked="green"))
    builders.add(strict, served, builders.sales(4, first_day=40))
    job = served.jobs.add(MODEL, "train", {"rollout": True}, "a test")
    with pytest.raises(GateError):
        do_job(strict, served, job, print)
    assert served.jobs.get(job)["state"] == "failed"
    assert served.rollouts.all() == []


# ---- processes


def test_the_worker_does_a_job_in_a_process_of_its_own(served: Store, project: Project) -> None:
    job = served.jobs.add(MODEL, "train", {"rollout": False}, "a test")
    worker = Worker(project)
    worker.once()
    (child,) = worker._children.values()
    assert child.pid != os.getpid()
    wait_for(lambda: served.jobs.get(job)["state"] == "done")
    assert served.models.get(MODEL, "v2")["status"] == "ready"
    child.wait()
    worker._seen = ()
    worker.once()
    assert worker._children == {}
    worker.store.close()


def test_a_job_whose_process_is_killed_is_done_again_from_the_beginning(served: Store, project: Project) -> None:
    job = served.jobs.add(MODEL, "train", {"rollout": False}, "a test")
    worker = Worker(project)
    worker.once()
    (child,) = worker._children.values()
    wait_for(lambda: served.jobs.get(job)["state"] == "running")
    os.kill(child.pid, signal.SIGKILL)
    child.wait()
    assert served.jobs.get(job)["state"] == "running"
    worker._seen = ()
    worker.once()
    wait_for(lambda: served.jobs.get(job)["state"] == "done")
    ready = [row["version"] for row in served.models.all(MODEL) if row["status"] == "ready"]
    assert len(ready) == 2
    for again in worker._children.values():
        again.wait()
    worker.store.close()


def test_each_of_several_jobs_is_done_once_and_the_oldest_begins_first(served: Store, project: Project) -> None:
    jobs = [served.jobs.add(MODEL, "train", {"rollout": False}, f"why {i}") for i in range(2)]
    worker = Worker(project)
    worker.once()
    assert list(worker._children) == jobs[:1]

    def all_done() -> bool:
        worker._seen = ()
        worker.once()
        return not served.jobs.open()

    wait_for(all_done)
    assert sorted(served.jobs.get(job)["result"] for job in jobs) == ["sales@v2", "sales@v3"]
    assert [row["version"] for row in served.models.all(MODEL)] == ["v1", "v2", "v3"]
    for child in worker._children.values():
        child.wait()
    worker.store.close()


def test_a_second_worker_waits_until_the_first_has_died(served: Store, project: Project) -> None:
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(project.var / "worker.lock")], stdout=subprocess.PIPE, text=True
    )
    assert holder.stdout is not None
    assert holder.stdout.readline() == "held\n"
    stop = threading.Event()
    thread = threading.Thread(target=lambda: Worker(project).run(stop))
    thread.start()
    try:
        time.sleep(1.5)
        assert not served.get_meta("ticked_s")
        with pytest.raises(ConflictError, match="another worker is at work"):
            Worker(project).run_once()
        holder.kill()
        holder.wait()
        holder.stdout.close()
        wait_for(lambda: served.get_meta("ticked_s"))
    finally:
        stop.set()
        thread.join()


def test_settings_that_were_changed_after_the_worker_read_them_are_told(
    served: Store, project: Project, capsys: pytest.CaptureFixture[str]
) -> None:
    def said() -> tuple[bool, bool]:
        main(["--project", str(project.folder), "status"])
        main(["--project", str(project.folder), "doctor"])
        out = capsys.readouterr().out
        return "after the worker read it: start covey serve" in out, "worker: covey.toml was changed" in out

    stop = threading.Event()
    thread = threading.Thread(target=lambda: Worker(project).run(stop))
    thread.start()
    try:
        wait_for(lambda: served.get_meta("ticked_s"))
    finally:
        stop.set()
        thread.join()
    assert said() == (False, False)
    file = project.folder / "covey.toml"
    os.utime(file, (time.time(), file.stat().st_mtime + 1))
    assert said() == (True, True)


def test_a_tick_that_fails_is_tried_again(
    served: Store, project: Project, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    calls: list[int] = []
    once = Worker.once

    def fail_once(self: Worker) -> object:
        calls.append(1)
        if len(calls) == 1:
            raise OSError("no space left")
        return once(self)

    text = (project.folder / "covey.toml").read_text().replace("tick_interval_s = 60.0", "tick_interval_s = 0.05")
    quick = builders.write(project, "covey.toml", text)
    monkeypatch.setattr(Worker, "once", fail_once)
    stop = threading.Event()
    thread = threading.Thread(target=lambda: Worker(quick).run(stop))
    thread.start()
    try:
        wait_for(lambda: served.get_meta("ticked_s"))
    finally:
        stop.set()
        thread.join()
    assert "a tick failed; the next one tries again" in caplog.text


def test_a_worker_has_nothing_to_do_while_nothing_comes(project: Project) -> None:
    worker = Worker(project)
    assert worker.once() is not None
    assert worker.once() is None
    worker.store.jobs.add("rain", "train", {}, "a test")
    worker.store.jobs.begin(1, os.getpid())
    assert worker.once() is not None
    worker.store.close()


def test_an_ended_worker_leaves_no_process_behind(served: Store, project: Project) -> None:
    served.jobs.add(MODEL, "train", {"rollout": False}, "a test")
    worker, stop = Worker(project), threading.Event()
    thread = threading.Thread(target=lambda: worker.run(stop))
    thread.start()
    wait_for(lambda: worker._children)
    children = list(worker._children.values())
    stop.set()
    thread.join()
    assert all(child.poll() is not None for child in children)


def test_jobs_are_all_on_record(store: Store) -> None:
    jobs: Jobs = store.jobs
    for i in range(3):
        jobs.add(MODEL, "train", {}, f"why {i}")
    assert [row["why"] for row in jobs.all(2)] == ["why 2", "why 1"]


def test_the_lock_file_stands_in_the_projects_folder(project: Project) -> None:
    worker = Worker(project)
    worker.run_once()
    assert (project.var / "worker.lock").is_file()
    assert isinstance(project.var, pathlib.Path)
    worker.store.close()
