"""The sync child's end of the pipe: make passes when they are asked for or due, and say what each has done."""

from __future__ import annotations

import contextlib
import os
import select
import sys
import time
import typing

import msgspec

_STAY_BELOW_S = 60.0
_STAY_FAILED_BELOW_S = 10.0  # a device may be without a network for weeks: nothing of this stays in memory meanwhile
_BEAT_S = 60.0


class Pass(msgspec.Struct, kw_only=True):
    """What one pass did.

    Parameters
    ----------
    repaired : tuple of str
        What was damaged on the disk, and is whole again.
    failures : int
        Failed passes in a row, this one included.
    next_s : float
        Seconds until the next one.
    """

    ok: bool = True
    done: int = 0
    error: str = ""
    code: str = ""
    changed: bool = False
    delivered: int = 0
    fetched_bytes: int = 0
    waits: str = ""
    repaired: tuple[str, ...] = ()
    channel_sequence: int = 0
    generation: str = ""
    models: tuple[str, ...] = ()
    failures: int = 0
    next_s: float = _STAY_BELOW_S


class Beat:
    """Says now and then, while a pass goes on, that it does: a slow line is no reason to end it.

    Parameters
    ----------
    out : BinaryIO
        Where an empty line is written.
    clock : callable
        Seconds that never go back.
    """

    def __init__(self, out: typing.BinaryIO, clock: typing.Callable[[], float] = time.monotonic) -> None:
        self._out, self._clock, self._said_s = out, clock, clock()

    def __call__(self) -> None:
        """Something has happened; it is said once a minute at most."""
        now_s = self._clock()
        if now_s < self._said_s + _BEAT_S:
            return
        self._said_s = now_s
        with contextlib.suppress(OSError):  # nobody listens: the pass ends first, and then the child
            self._out.write(b"\n")
            self._out.flush()


def run_child(one_pass: typing.Callable[[], Pass], *, read: int = 0, out: typing.BinaryIO | None = None) -> int:
    """Make passes until standard input ends, or the next one is far off; return the exit status."""
    write = out or sys.stdout.buffer
    asked = _Asked(read)
    if not asked.wait(0.0):
        return 0
    while True:
        number = asked.number
        done = one_pass()
        done.done = number
        write.write(msgspec.json.encode(done) + b"\n")
        write.flush()
        if done.next_s >= (_STAY_FAILED_BELOW_S if done.failures else _STAY_BELOW_S):
            return 0
        if not asked.wait(done.next_s):
            return 0


class _Asked:
    """Numbers that arrive on a pipe: passes that somebody waits for."""

    def __init__(self, handle: int) -> None:
        self._handle = handle
        self._buffer = b""
        self.number = 0

    def wait(self, seconds: float) -> bool:
        """Wait for a number or for the time to pass; false once the pipe has ended."""
        ready, _, _ = select.select([self._handle], [], [], seconds)
        while ready:
            data = os.read(self._handle, 4096)
            if not data:
                return False
            *lines, self._buffer = (self._buffer + data).split(b"\n")
            self.number = max([self.number, *(int(line) for line in lines if line.isdigit())])
            ready, _, _ = select.select([self._handle], [], [], 0)
        return True
