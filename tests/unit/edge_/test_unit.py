"""The systemd unit: tight, correct, not to be tricked by what it is told; and the agent that speaks to systemd."""

from __future__ import annotations

import asyncio
import os
import pathlib
import shutil
import signal
import socket
import subprocess
import sys

import pytest

from edge_agent.notify import Notifier
from edge_agent.unit import unit
from shared.errors import UsageError
from tests import fakes

PROGRAM = "/opt/covey/bin/covey-edge"
JOINING = {"url": "http://cloud.example:8080", "token_file": "/etc/covey/join-token"}


def test_the_unit_joins_with_a_credential_and_runs() -> None:
    made = unit(program=PROGRAM, port=8000, **JOINING).splitlines()
    assert "LoadCredential=join-token:/etc/covey/join-token" in made
    assert f"ExecStart={PROGRAM} --store %S/covey-edge run --port 8000" in made
    (before,) = [line for line in made if line.startswith("ExecStartPre=")]
    assert "join http://cloud.example:8080 --token @%d/join-token --name %l --if-needed" in before
    assert not [line for line in unit(program=PROGRAM).splitlines() if "join" in line]


def test_what_it_may_speak_with_is_listed_where_it_is_asked_for() -> None:
    assert "IPAddressDeny" not in unit(program=PROGRAM)
    made = unit(program=PROGRAM, allow=["10.0.0.0/8", "192.168.1.9"]).splitlines()
    assert "IPAddressAllow=localhost 10.0.0.0/8 192.168.1.9" in made
    assert "IPAddressDeny=any" in made


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"name": "Covey Edge"}, "--name"),
        ({"name": "../x"}, "--name"),
        ({"url": "http://c"}, "--url, --token-file"),
        ({"token_file": "/t"}, "--url, --token-file"),
        ({**JOINING, "url": "http://c\nExecStartPre=/bin/evil"}, "--url"),
        ({**JOINING, "token_file": "/etc/a b"}, "--token-file"),
        ({**JOINING, "url": "http://c/%h"}, "--url"),
        ({"program": "covey-edge"}, "--program"),
        ({"program": "/opt/a;b"}, "--program"),
        ({"allow": ["10.0.0.0/8\nUser=root"]}, "--allow"),
    ],
)
def test_a_value_that_could_say_more_than_it_should_is_refused(changes: dict[str, str], field: str) -> None:
    with pytest.raises(UsageError) as caught:
        unit(**{"program": PROGRAM} | changes)
    assert caught.value.field == field


@pytest.mark.parametrize("allow", [(), ("10.0.0.0/8",)])
def test_systemd_finds_little_to_say_against_it(tmp_path: pathlib.Path, allow: tuple[str, ...]) -> None:
    analyze = shutil.which("systemd-analyze")
    if analyze is None:
        pytest.skip("there is no systemd-analyze: apt-get install systemd")
    path = tmp_path / "covey-edge.service"
    path.write_text(unit(program=sys.executable, allow=allow, **JOINING))
    done = subprocess.run(
        [analyze, "security", "--offline=yes", "--no-pager", str(path)], capture_output=True, text=True, check=True
    )
    exposure = float(done.stdout.rsplit("covey-edge.service:", 1)[1].split()[0])
    assert exposure <= 1.5
    checked = subprocess.run([analyze, "verify", str(path)], capture_output=True, text=True, check=False)
    assert [line for line in checked.stderr.splitlines() if "covey-edge.service" in line] == []


def test_the_service_has_a_folder_for_a_socket_that_others_may_look_into() -> None:
    made = unit(program=PROGRAM, name="till")
    assert "RuntimeDirectory=till\nRuntimeDirectoryMode=0755\n" in made


def test_the_agent_says_that_it_is_ready_alive_and_stopping(tmp_path: pathlib.Path) -> None:
    layout = fakes.join(tmp_path / "store")
    address = str(tmp_path / "notify")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as heard:
        heard.bind(address)
        heard.settimeout(60)
        agent = subprocess.Popen(
            [sys.executable, "-m", "edge_agent.cli", "--store", str(layout.store), "run", "--no-sync", "--port", "0"],
            env=os.environ | {"NOTIFY_SOCKET": address, "WATCHDOG_USEC": "300000"},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        said = [heard.recv(4096).decode() for _ in range(4)]
        agent.send_signal(signal.SIGTERM)
        while said[-1] != "STOPPING=1":
            said.append(heard.recv(4096).decode())
        assert agent.wait(60) == 0
    ready = next(one for one in said if one.startswith("READY=1"))
    assert "STATUS=answers on http://127.0.0.1:" in ready
    assert said.count("WATCHDOG=1") >= 3


def test_without_a_service_manager_nothing_is_said_and_nothing_fails(tmp_path: pathlib.Path) -> None:
    assert not Notifier({}).say("READY=1")
    assert not Notifier({"NOTIFY_SOCKET": str(tmp_path / "nobody")}).say("READY=1")
    assert not Notifier({"NOTIFY_SOCKET": "@covey-test-nobody"}).say("READY=1")
    asyncio.run(Notifier({}).keep_beating())


@pytest.mark.parametrize(
    ("environ", "seconds"),
    [
        ({"WATCHDOG_USEC": "30000000"}, 30.0),
        ({"WATCHDOG_USEC": "30000000", "WATCHDOG_PID": "1"}, 0.0),
        ({"WATCHDOG_USEC": "30000000", "WATCHDOG_PID": str(os.getpid())}, 30.0),
        ({"WATCHDOG_USEC": "soon"}, 0.0),
        ({}, 0.0),
    ],
)
def test_the_watchdog_is_beaten_for_if_it_waits_for_this_process(environ: dict[str, str], seconds: float) -> None:
    assert Notifier(environ).watchdog_s == pytest.approx(seconds)


def test_joining_again_where_it_is_not_needed_does_nothing(tmp_path: pathlib.Path) -> None:
    layout = fakes.join(tmp_path / "store")
    before = layout.identity.read_bytes()
    program = [sys.executable, "-m", "edge_agent.cli", "--store", str(layout.store)]
    done = subprocess.run(
        [*program, "join", "http://127.0.0.1:9", "--token", "@/nowhere", "--if-needed"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stdout) == (0, f"joined already, as {fakes.DEVICE}\n")
    assert layout.identity.read_bytes() == before
