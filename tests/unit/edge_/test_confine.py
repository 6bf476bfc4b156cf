"""The self-test's process has no network and starts no programs; what it needs goes on."""

from __future__ import annotations

import pathlib
import platform
import shutil
import subprocess
import sys

import pytest

from edge_agent import confine
from tests import fakes

TRY = """
import os, socket, subprocess, threading
from edge_agent.confine import confine
assert confine(), "the kernel did not take the filter"
def refused(what):
    try:
        what()
    except PermissionError:
        return True
    return False
assert refused(socket.socket)
assert refused(lambda: socket.socket(socket.AF_UNIX))
assert refused(lambda: os.execv("/bin/true", ["true"]))
import ctypes, platform
if platform.machine() == "x86_64":
    assert ctypes.CDLL(None, use_errno=True).syscall(ctypes.c_long(0x40000000 + 41), 1, 1, 0) == -1
    assert ctypes.get_errno() == 1
seen = []
thread = threading.Thread(target=lambda: seen.append(refused(socket.socket)))
thread.start(); thread.join()
assert seen == [True]
import numpy, onnxruntime
assert numpy.ones(3).sum() == 3 and open("/proc/self/status").read()
print("confined")
"""


@pytest.mark.skipif(platform.machine() not in confine._CALLS, reason="no filter for this processor")
def test_sockets_and_programs_are_refused_and_the_rest_goes_on() -> None:
    done = subprocess.run([sys.executable, "-c", TRY], capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stdout) == (0, "confined\n"), done.stderr


def test_the_self_test_confines_itself_before_it_opens_the_bundle(tmp_path: pathlib.Path) -> None:
    if shutil.which("strace") is None:
        pytest.skip("there is no strace: apt-get install strace")
    made = fakes.make_bundle("v1")
    fakes.unpack(tmp_path / "v1", made, load=False)
    (tmp_path / "v1" / "manifest.json").write_bytes(made.data)
    trace = tmp_path / "trace"
    command = [sys.executable, "-m", "edge_agent.cli", "_self-test", str(tmp_path / "v1"), str(8 << 30)]
    done = subprocess.run(
        ["strace", "-f", "-o", str(trace), "-e", "trace=prctl,openat", *command],
        capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stdout) == (0, f"{len(fakes.ROWS)} golden rows reproduced\n"), done.stderr
    calls = trace.read_text().splitlines()
    confined = next(i for i, call in enumerate(calls) if "PR_SET_SECCOMP" in call)
    opened = next(i for i, call in enumerate(calls) if "v1/model.onnx" in call)
    assert calls[confined].rstrip().endswith("= 0")
    assert confined < opened


def test_a_processor_that_is_not_known_is_left_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(platform, "machine", lambda: "mips")
    assert not confine.confine()


def test_a_call_of_another_architecture_is_refused_as_a_whole() -> None:
    rules = confine._rules(0xC000003E, (41,))
    assert len(rules) == 8 * 9
    assert rules[8:24].hex() == "150001003e0000c0" + "0600000001000500"
