"""Start the sync child, wake it when asked, hear what it did, and start it again when it dies or falls silent."""

from __future__ import annotations

import asyncio
import logging
import pathlib
import sys
import time
import typing

import msgspec

from shared.errors import TimeoutExpiredError, UnreachableError

log = logging.getLogger("covey.edge")
_RESTART_S = 1.0
_MAX_RESTART_S = 60.0
_STOP_PATIENCE_S = 10.0
_MAX_LINE_BYTES = 1 << 20
PATIENCE_S = 1800.0


class Heard(msgspec.Struct, frozen=True, kw_only=True):
    """What the supervisor itself reads of a line; the rest is for people.

    Parameters
    ----------
    done : int
        Number of the newest request that the pass has served.
    next_s : float
        Seconds until the next pass.
    failures : int
        Failed passes in a row.
    """

    done: typing.Annotated[int, msgspec.Meta(ge=0)] = 0
    next_s: typing.Annotated[float, msgspec.Meta(ge=0, le=30 * 86_400.0)] = _RESTART_S
    failures: typing.Annotated[int, msgspec.Meta(ge=0)] = 0


class SyncChild:
    """The sync child of one device.

    The child reads a number from standard input for each pass that is asked for, and writes a JSON line for each
    pass it has done, and an empty one while a pass goes on. When polls are rarer than once a minute it ends after
    each pass and is started anew, so that nothing of it stays in memory.

    The first one reads every file of the store: what a cut of the power has spoiled shows at the next start.
    Syncing never stops for good: a child that can not be started, dies, or says nothing for too long is started again.

    Parameters
    ----------
    store : Path
        The device's store.
    patience_s : float
        A child that says nothing for so long is killed; what it was fetching goes on where it was.
    """

    def __init__(self, store: pathlib.Path, patience_s: float = PATIENCE_S) -> None:
        self._command = [sys.executable, "-m", "edge_agent.cli", "--store", str(store), "sync", "--child"]
        self._patience_s = patience_s
        self._process: asyncio.subprocess.Process | None = None
        self._heard, self._heard_at = Heard(), time.monotonic()
        self._has_heard = False
        self._wanted = 0
        self._done = asyncio.Condition()
        self._wake = asyncio.Event()
        self._stop_asked = asyncio.Event()
        self.last: dict[str, object] = {}

    async def run(self) -> None:
        """Keep a child running, or start one each interval."""
        pause = _RESTART_S
        while not self._stop_asked.is_set():
            code = await self._one_child()
            if self._stop_asked.is_set():
                return
            if code:
                log.error("the sync child died", extra={"code": code, "again_in_s": pause})
                await asyncio.sleep(pause)
                pause = min(pause * 2, _MAX_RESTART_S)
                continue
            pause = _RESTART_S
            await self._sleep(max(self._heard_at + self._heard.next_s - time.monotonic(), 0.0))

    async def _sleep(self, seconds: float) -> None:
        """Sleep until the next poll is due or somebody asks for one."""
        self._wake.clear()
        if self._heard.done < self._wanted:
            return
        try:
            async with asyncio.timeout(seconds):
                await self._wake.wait()
        except TimeoutError:
            return

    async def _one_child(self) -> int:
        """Start a child and hear it out; return its exit status, or what stands for one if it can not be started."""
        try:
            self._process = await asyncio.create_subprocess_exec(
                *self._command,
                *([] if self._has_heard else ["--repair"]),
                *(["--failures", str(self._heard.failures)] if self._heard.failures else []),
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                limit=_MAX_LINE_BYTES,
            )
        except OSError:  # no memory, too many processes
            log.exception("the sync child can not be started")
            return 1
        process = self._process
        await self._tell(self._wanted)
        while line := await _line(process, self._patience_s):
            if line.strip():
                await self._hear(line)
        code = await process.wait()
        self._process = None
        return code

    async def _hear(self, line: bytes) -> None:
        try:
            heard = msgspec.json.decode(line, type=Heard)
            self.last = msgspec.json.decode(line, type=dict[str, object])
        except msgspec.DecodeError:
            log.warning("the sync child said something odd", extra={"line": line[:200]})
            return
        self._heard, self._heard_at, self._has_heard = heard, time.monotonic(), True
        async with self._done:
            self._done.notify_all()

    async def _tell(self, number: int) -> None:
        process = self._process
        if process is None or process.stdin is None:
            return
        try:
            process.stdin.write(b"%d\n" % number)
            await process.stdin.drain()
        except ConnectionError:
            return

    async def request(self, timeout_s: float) -> dict[str, object]:
        """Ask for a pass that begins after this call; return what it did.

        Raises
        ------
        TimeoutExpiredError, UnreachableError
            No pass ended in time; or the agent is stopping.
        """
        if self._stop_asked.is_set():
            raise UnreachableError("the agent is stopping")
        self._wanted += 1
        number = self._wanted
        self._wake.set()
        await self._tell(number)
        try:
            async with asyncio.timeout(timeout_s), self._done:
                await self._done.wait_for(lambda: self._heard.done >= number)
        except TimeoutError as err:
            raise TimeoutExpiredError(f"no sync within {timeout_s:g} s", fix="See the agent's log.") from err
        return self.last

    async def stop(self) -> None:
        """End the child."""
        self._stop_asked.set()
        self._wake.set()
        process = self._process
        if process is None or process.returncode is not None:
            return
        if process.stdin:
            process.stdin.close()
        try:
            async with asyncio.timeout(_STOP_PATIENCE_S):
                await process.wait()
        except TimeoutError:
            process.kill()


async def _line(process: asyncio.subprocess.Process, patience_s: float) -> bytes:
    """Read a line; a child whose line has no end, or that says nothing for too long, is ended."""
    assert process.stdout is not None  # noqa: S101 - asked for a pipe
    try:
        async with asyncio.timeout(patience_s):
            return await process.stdout.readline()
    except (ValueError, TimeoutError) as err:
        log.warning("the sync child is ended", extra={"reason": str(err) or f"silent for {patience_s:g} s"})
        process.kill()
        return b""
