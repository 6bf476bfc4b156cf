"""Ask a device for predictions without pause, and check every answer; run by test_asked_without_pause.py.

    ask_driver.py ADDRESS SERVER EXPECTED TIMES

EXPECTED is JSON: the rows, and what each version answers to each of them. It asks over one connection that is kept
alive, until standard input ends. TIMES gets three doubles for each answer, in seconds: when it was asked for (monotonic
clock), how long it took, and for how much of that the server's first thread (of the process SERVER) or this one could
have run and had no processor. One line of JSON at the end tells what came of it.
"""

from __future__ import annotations

import array
import collections
import json
import os
import pathlib
import select
import socket
import sys
import time
import typing
import urllib.parse

PATIENCE_S = 60.0
_SHOWN = 5


class Asker:
    """One client; a connection that breaks is an answer that was refused.

    Parameters
    ----------
    address, server : str, str
        Of the device; its process.
    expected : mapping
        ``rows``, and by version the outputs for each row.
    """

    def __init__(self, address: str, server: str, expected: dict[str, typing.Any]) -> None:
        where = urllib.parse.urlsplit(address)
        self._where = (where.hostname or "", where.port or 0)
        self._expected: dict[str, list[list[float]]] = expected["versions"]
        bodies = [json.dumps({"features": row}).encode() for row in expected["rows"]]
        self._requests = [
            b"POST /v1/predict HTTP/1.1\r\nHost: localhost\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body)
            for body in bodies
        ]
        self._line: socket.socket | None = None
        threads = (f"/proc/{server}/task/{server}", "/proc/thread-self")
        self._schedules = [os.open(f"{thread}/schedstat", os.O_RDONLY) for thread in threads]
        self.times = array.array("d")
        self.refused: list[str] = []
        self.wrong: list[str] = []
        self.versions: collections.Counter[str] = collections.Counter()

    def ask(self, number: int) -> None:
        """Ask once and judge the answer."""
        i = number % len(self._requests)
        before_s, asked_s = self._waited_s(), time.monotonic()
        try:
            status, body = self._exchange(self._requests[i])
        except OSError as err:
            self._line = None
            self.refused.append(f"{type(err).__name__}: {err}")
            return
        took_s = time.monotonic() - asked_s
        self.times.extend((asked_s, took_s, min(took_s, self._waited_s() - before_s)))
        if status != b"200":
            self.refused.append(f"{status!r} {body[:200]!r}")
            return
        said = json.loads(body)
        version = said["parameters"]["version"]
        self.versions[version] += 1
        if said["probabilities"] != self._expected[version][i]:
            self.wrong.append(f"row {i}, {version}: {said['probabilities']}")

    def _waited_s(self) -> float:
        """For how long server and client could have run so far, and had no processor."""
        waited_ns = 0
        for schedule in self._schedules:
            waited_ns += int(os.pread(schedule, 100, 0).split()[1])
        return waited_ns * 1e-9

    def _exchange(self, request: bytes) -> tuple[bytes, bytes]:
        if self._line is None:
            self._line = socket.create_connection(self._where, PATIENCE_S)
        self._line.sendall(request)
        data = b""
        while b"\r\n\r\n" not in data:
            data += self._more()
        head, _, body = data.partition(b"\r\n\r\n")
        length = int(head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0])
        while len(body) < length:
            body += self._more()
        return head.split(b" ", 2)[1], body

    def _more(self) -> bytes:
        assert self._line
        data = self._line.recv(65_536)
        if not data:
            raise ConnectionResetError("hung up")
        return data

    def report(self) -> dict[str, object]:
        """What came of it."""
        return {
            "answered": sum(self.versions.values()),
            "refused": len(self.refused),
            "wrong": len(self.wrong),
            "versions": self.versions,
            "for example": [*self.refused[:_SHOWN], *self.wrong[:_SHOWN]],
        }


def main(address: str, server: str, expected: str, times: str) -> int:
    """Ask until standard input ends."""
    asker, number = Asker(address, server, json.loads(pathlib.Path(expected).read_text())), 0
    while not select.select([sys.stdin], [], [], 0)[0]:
        for _ in range(20):
            asker.ask(number)
            number += 1
    pathlib.Path(times).write_bytes(asker.times.tobytes())
    sys.stdout.write(json.dumps(asker.report()) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
