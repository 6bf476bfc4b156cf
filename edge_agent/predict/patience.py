"""Waits on behalf of questions that are not answered yet: for a turn, for a model to load, for a slow model's run."""

from __future__ import annotations

import asyncio
import concurrent.futures
import math
import time
import typing

from edge_agent.predict.apart import SlowRun
from edge_agent.predict.asking import Finishing, Pause, Paused
from edge_agent.predict.loaded import NotReadyError
from edge_agent.predict.replies import Response
from shared.errors import CoveyError, LimitError

_RETRY_LOADING_S = 0.05
_LOADING_PATIENCE_S = 60.0
_MAX_ROWS = 100_000  # their answers are kept until the last of a request is there


class BusyError(LimitError):
    """There is as much to do already as this device takes on."""

    code = "busy"
    http_status = 503


class Patience:
    """Bounded waiting.

    Parameters
    ----------
    max_waiting : int
        Questions that may wait at a time; a further one is refused.
    n_threads : int
        Slow models that run at a time.
    run_timeout_s : float
        A run that takes longer is stopped; the model has then failed.
    """

    def __init__(self, *, max_waiting: int, n_threads: int, run_timeout_s: float) -> None:
        self._max_waiting, self._n_threads, self._run_timeout_s = max_waiting, n_threads, run_timeout_s
        self._pool: concurrent.futures.ThreadPoolExecutor | None = None
        self._runs: dict[concurrent.futures.Future[None], SlowRun] = {}
        self._is_closed = False
        self.wanted = asyncio.Event()
        self.n_waiting = self._n_rows = 0

    async def complete(self, paused: Paused) -> Response:
        """Wait, ask again, and so on to the reply.

        Raises
        ------
        BusyError
            Too many wait already.
        NotReadyError
            The model has not loaded within a minute.
        CoveyError
            What the rows or the model are guilty of.
        """
        answering, pause, n_rows = paused
        if self.n_waiting >= self._max_waiting or self._n_rows + n_rows > _MAX_ROWS:
            answering.close()
            what = f"{self.n_waiting} requests with {self._n_rows:,} rows wait already"
            raise BusyError(what, fix="Try again later.")
        self.n_waiting += 1
        self._n_rows += n_rows
        deadline = asyncio.get_running_loop().time() + _LOADING_PATIENCE_S
        try:
            while True:
                fault = await self._wait(pause, deadline)
                pause = answering.throw(fault) if fault else next(answering)
        except StopIteration as stop:
            return typing.cast("Response", stop.value)
        finally:
            self.n_waiting -= 1
            self._n_rows -= n_rows
            answering.close()

    async def finish(self, finishing: Finishing, pause: SlowRun | None) -> None:
        """Wait for slow arms that are only scored; they have the room that answers leave, and no more."""
        try:
            while True:
                if pause is not None and len(self._runs) >= self._n_threads:
                    pause = finishing.throw(BusyError("no room to score another arm"))
                else:
                    fault = await self._wait(pause, math.inf)
                    pause = finishing.throw(fault) if fault else next(finishing)
        except StopIteration:
            return

    async def _wait(self, pause: Pause, deadline: float) -> CoveyError | None:
        """Wait for one pause to be over; return what went wrong, if it did."""
        try:
            if pause is None:
                await asyncio.sleep(0)
            elif isinstance(pause, NotReadyError):
                if asyncio.get_running_loop().time() > deadline:
                    return pause
                if pause.bundle is not None and pause.bundle.is_parked:
                    pause.bundle.is_wanted = True
                    self.wanted.set()
                await asyncio.sleep(_RETRY_LOADING_S)
            else:
                await self._run(pause)
        except BusyError as err:
            return err
        return None

    async def _run(self, run: SlowRun) -> None:
        """Run a slow model in a thread.

        Raises
        ------
        BusyError
            It did not even begin in time, or the agent stops.
        """
        if self._is_closed:
            raise BusyError("the agent stops", fix="Try again later.")
        if self._pool is None:
            self._pool = concurrent.futures.ThreadPoolExecutor(self._n_threads, thread_name_prefix="covey-model")
        job = self._pool.submit(run.run)
        self._runs[job] = run
        ended = asyncio.wrap_future(job)
        ended.add_done_callback(lambda _: self._runs.pop(job, None))
        try:
            await asyncio.wait({ended}, timeout=self._run_timeout_s)
            if not ended.done() and not job.cancel():  # it began, maybe late: its time counts from there
                left_s = self._run_timeout_s - (time.perf_counter() - run.began_s)
                await asyncio.wait({ended}, timeout=max(left_s, 0.0))
        except asyncio.CancelledError:
            job.cancel()
            run.give_up("nobody waits for the answer any more")
            raise
        if self._is_closed:
            raise BusyError("the agent stops", fix="Try again later.")
        if job.cancelled():
            raise BusyError("the model has too much to do", fix="Try again later.")
        if not ended.done():
            run.give_up(f"no answer within {self._run_timeout_s:g} s")

    def close(self) -> None:
        """Stop what runs; that is not the models' fault."""
        self._is_closed = True
        for job, run in list(self._runs.items()):
            job.cancel()
            run.give_up("the agent stops")
        if self._pool is not None:
            self._pool.shutdown(wait=False, cancel_futures=True)
