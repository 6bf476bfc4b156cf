"""The demonstration's processes: one cloud, and a real agent for each device."""

from __future__ import annotations

import concurrent.futures
import contextlib
import json
import os
import pathlib
import re
import signal
import socket
import subprocess
import sys
import time
import typing

import msgspec
import requests

from cloud.demo.line import Line
from cloud.demo.relay import Relay
from shared.errors import TimeoutExpiredError, UnreachableError

_START_S = 120.0
_ANSWER_S = 60.0
_STOP_S = 20.0
_ADDRESS = re.compile(rb"answers on (http://\S+)")
_EDGE = (sys.executable, "-m", "edge_agent.cli")


def free_port() -> int:
    """Return a port that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _environment() -> dict[str, str]:
    return os.environ | {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1"}


class Cloud:
    """``covey serve`` on loopback.

    Parameters
    ----------
    folder : Path
        The project.
    port : int
        Where it answers.
    """

    def __init__(self, folder: pathlib.Path, port: int) -> None:
        self.url = f"http://127.0.0.1:{port}"
        self._log = (folder / "var" / "serve.log").open("ab")
        command = [sys.executable, "-m", "cloud.cli", "--project", str(folder), "serve", "--port", str(port)]
        self._process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=self._log, stderr=self._log, env=_environment()
        )
        self._session = requests.Session()

    @property
    def process(self) -> subprocess.Popen[bytes]:
        """The server's main process."""
        return self._process

    def wait(self) -> None:
        """Wait until it answers."""
        deadline = time.monotonic() + _START_S
        while time.monotonic() < deadline:
            with contextlib.suppress(requests.RequestException):
                if self._session.get(self.url + "/healthz", timeout=2).ok:
                    return
            if self._process.poll() is not None:
                break
            time.sleep(0.1)
        raise UnreachableError("the cloud did not start", fix=f"See {self._log.name}")

    def fleet(self) -> dict[str, typing.Any]:
        """Return what the Fleet page shows."""
        return self._get("/api/v1/fleet")

    def devices(self) -> list[dict[str, typing.Any]]:
        """Return all devices."""
        return list(self._get("/api/v1/devices")["devices"])

    def _get(self, path: str) -> dict[str, typing.Any]:
        try:
            response = self._session.get(self.url + path, timeout=30)
            response.raise_for_status()
        except requests.RequestException as err:
            raise UnreachableError(f"the cloud does not answer: {err}", fix=f"See {self._log.name}") from err
        reply: dict[str, typing.Any] = response.json()
        return reply

    def stop(self) -> None:
        """End it."""
        self._session.close()
        end([self._process])
        self._log.close()


class Device:
    """One device: its store, its process, and the line to the cloud.

    Parameters
    ----------
    name, region : str
        Airport and region.
    folder : Path
        The device's store.
    url : str
        The cloud, or the relay in between.
    """

    def __init__(self, name: str, region: str, folder: pathlib.Path, url: str) -> None:
        self.name, self.region, self.folder, self.url = name, region, folder, url
        self.address = ""
        self._process: subprocess.Popen[bytes] | None = None
        self._line: Line | None = None

    def join(self, token: str) -> None:
        """Join the fleet."""
        command = [
            *_EDGE,
            "--store",
            str(self.folder),
            "join",
            self.url,
            "--token",
            token,
            "--name",
            self.name,
            "--no-sync",
        ]
        subprocess.run(command, check=True, capture_output=True, timeout=_START_S, env=_environment())

    def start(self) -> None:
        """Start the agent and wait until it answers."""
        log = (self.folder / "agent.log").open("ab")
        self._process = subprocess.Popen(
            [*_EDGE, "--store", str(self.folder), "run", "--port", "0"],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=log,
            env=_environment(),
        )
        log.close()
        stdout = typing.cast("typing.IO[bytes]", self._process.stdout)
        found = _ADDRESS.search(stdout.readline())
        if found is None:
            raise UnreachableError(f"{self.name} did not start", fix=f"See {log.name}")
        self.address = found[1].decode()

    @property
    def process(self) -> subprocess.Popen[bytes] | None:
        """The agent's process."""
        return self._process

    def post(self, path: str, body: object) -> tuple[int, dict[str, typing.Any]]:
        """Post to the agent, as an application on the device would; return status and reply."""
        return self._request("POST", path, msgspec.json.encode(body))

    def status(self) -> dict[str, typing.Any]:
        """Return what the agent says of itself."""
        return self._request("GET", "/v1/status", b"")[1]

    def hang_up(self) -> None:
        """Close the connection to the agent; the next request opens another."""
        if self._line is not None:
            self._line.close()
            self._line = None

    def _request(self, method: str, path: str, body: bytes) -> tuple[int, dict[str, typing.Any]]:
        if self._line is None:
            host, _, port = self.address.removeprefix("http://").rpartition(":")
            self._line = Line(host, int(port), _ANSWER_S)
        status, reply = self._line.ask(method, path, body)
        return status, msgspec.json.decode(reply, type=dict[str, typing.Any])

    def sync(self) -> dict[str, typing.Any]:
        """Do what ``covey-edge sync`` does: ask the agent for a pass now, and wait for it."""
        with socket.socket(socket.AF_UNIX) as line:
            line.settimeout(_START_S)
            line.connect(str(self.folder / "control.sock"))
            line.sendall(b'{"command": "sync", "timeout_s": 60}\n')
            with line.makefile("rb") as file:
                reply: dict[str, typing.Any] = json.loads(file.readline() or b"{}")
        return reply


class Fleet:
    """All devices.

    Parameters
    ----------
    devices : list of Device
        Joined or not.
    """

    def __init__(self, devices: list[Device]) -> None:
        self.devices = devices
        self._pool = concurrent.futures.ThreadPoolExecutor(max_workers=max(4, len(devices)))

    def each(
        self, do: typing.Callable[[Device], typing.Any], devices: typing.Iterable[Device] | None = None
    ) -> list[typing.Any]:
        """Do something on many devices at once; the first error comes through."""
        return list(self._pool.map(do, list(self.devices if devices is None else devices)))

    def start(self, tokens: typing.Mapping[str, str], say: typing.Callable[[str], None]) -> None:
        """Join and start all devices, a few at a time."""
        with concurrent.futures.ThreadPoolExecutor(max_workers=4) as few:
            list(few.map(lambda device: device.join(tokens[device.region]), self.devices))
            say(f"{len(self.devices)} devices have joined")
            list(few.map(Device.start, self.devices))
        say(f"{len(self.devices)} agents answer")

    def stop(self) -> None:
        """End all agents."""
        for device in self.devices:
            device.hang_up()
        end([device.process for device in self.devices if device.process is not None])
        self._pool.shutdown(cancel_futures=True)


def end(processes: list[subprocess.Popen[bytes]]) -> None:
    """Ask processes to end, and insist after a while."""
    for process in processes:
        if process.poll() is None:
            process.send_signal(signal.SIGTERM)
    deadline = time.monotonic() + _STOP_S
    for process in processes:
        try:
            process.wait(timeout=max(0.1, deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        if process.stdout:
            process.stdout.close()


def wait_for(what: str, is_so: typing.Callable[[], bool], *, timeout_s: float, poll_s: float = 0.05) -> None:
    """Wait for something.

    Raises
    ------
    TimeoutExpiredError
        It did not come.
    """
    deadline = time.monotonic() + timeout_s
    while not is_so():
        if time.monotonic() > deadline:
            raise TimeoutExpiredError(f"waited {timeout_s:g} s for {what}")
        time.sleep(poll_s)


def make_fleet(folder: pathlib.Path, names: typing.Mapping[str, str], url: str, cut_off: str, relay: Relay) -> Fleet:
    """Return the devices, not started yet; the one that will lose its network goes through the relay."""
    return Fleet(
        [Device(name, region, folder / name, relay.url if name == cut_off else url) for name, region in names.items()]
    )
