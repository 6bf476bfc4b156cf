"""Answers inside a Python program: what ``covey-edge run`` does for a device, without a socket in between."""

from __future__ import annotations

import asyncio
import collections
import contextlib
import functools
import os
import pathlib
import threading
import time
import typing

import msgspec

from edge_agent import forked
from edge_agent.agent import Agent
from edge_agent.config import Layout, find_store
from edge_agent.files import lock
from edge_agent.predict.answers import Answer, Ranked, rank_here, request_of
from edge_agent.predict.apart import SlowModelError, in_place
from edge_agent.predict.engine import ActiveModel, Prediction, Row
from edge_agent.predict.labels import NO_LABEL
from edge_agent.predict.loaded import NotReadyError
from shared.errors import ConflictError, ModelError

_START_S, _RETRY_LOADING_S, _LOADING_PATIENCE_S = 60.0, 0.01, 60.0
_FINISH_S, _IDLE_S, _TURN_S = 0.01, 0.08, 0.005
_MAX_UNFINISHED = 10_000
T = typing.TypeVar("T")
__all__ = ["Answer", "Predictor", "Ranked"]


class Predictor:
    """The models of a device's store, inside this process.

    It is the device while it is open: it answers, records, follows updates, watches a new generation and rolls it back.
    So only one process can be that at a time, either this one or ``covey-edge run``. Any thread may ask; a child
    that is forked is another process, and refused.

    Parameters
    ----------
    store : path, optional
        The device's store; by default the one that ``covey-edge`` uses. The device must have joined a fleet.
    with_sync : bool
        Keep in sync with the cloud, by a child process as ``covey-edge run`` does. Without it somebody else calls
        ``covey-edge sync`` now and then.

    Raises
    ------
    ConflictError
        Another process serves from this store.
    NotFoundError
        The device has not joined a fleet.
    """

    def __init__(self, store: str | os.PathLike[str] | None = None, *, with_sync: bool = True) -> None:
        layout = Layout(pathlib.Path(store).absolute() if store else find_store(None))
        identity, settings = layout.load_identity(), layout.load_settings(os.environ)
        self._stack = contextlib.ExitStack()
        try:
            self._stack.enter_context(lock(layout.serve_lock))
        except ConflictError as err:
            raise ConflictError(
                f"another process serves from {layout.store}", fix="Ask it over HTTP, or stop it first."
            ) from err
        self._agent = Agent(layout, identity, settings)
        self._engine, self._now = self._agent.engine, self._agent.clock.now
        self._loop = asyncio.new_event_loop()
        self._ready = threading.Event()
        self._faults: list[BaseException] = []
        self._unfinished: collections.deque[Prediction] = collections.deque()
        self._finishing = threading.Lock()
        self._is_open = True
        forked.watch(self)
        self._thread = threading.Thread(target=self._run, args=(with_sync,), name="covey", daemon=True)
        self._thread.start()
        self._ready.wait(_START_S)
        if self._faults:
            self.close()
            raise self._faults[0]

    def predict(
        self,
        row: Row,
        *,
        model: str | None = None,
        unit: str | None = None,
        event_time: str | float | None = None,
    ) -> Answer:
        """Answer one row.

        Parameters
        ----------
        row : mapping
            Raw features by name.
        model : str, optional
            Which model, if there are several.
        unit : str, optional
            Who or what it is for; the same unit stays in the same arm.
        event_time : str or float, optional
            When it happens; now by default.

        Raises
        ------
        DataError
            The row is wrong; the field says which feature.
        NotFoundError
            No such model, or none yet.
        ModelError
            Nothing could answer, or this is closed.
        """
        engine = self._engine
        active = engine.model(model)
        if active.share_bp:
            unit = active.unit_of(unit)  # drawn once, so that asking again stays in the arm
        event_s = self._now() if event_time is None else self._event_s(active, event_time)
        try:
            made = engine.predict(active, row, unit=unit, event_s=event_s)
        except (NotReadyError, SlowModelError):
            made = _patiently(functools.partial(engine.predict, active, row, unit=unit, event_s=event_s))
        if self._is_open and not active.scores_other:
            engine.finish(made)
        else:
            self._take(made)
        return Answer(made)

    def rank(
        self,
        candidates: typing.Sequence[Row] | None = None,
        *,
        model: str | None = None,
        event_time: str | float | None = None,
        **fields: object,
    ) -> list[Ranked]:
        """Put candidates in order, or items of the model's own catalogue, as ``POST /v1/rank`` does; best first.

        Parameters
        ----------
        candidates : sequence of mapping, optional
            Their features; without them the lists that came with the model are asked.
        fields : object
            ``context``, ``ids``, ``exclude``, ``top_k``, ``unit``: see `RankRequest`.

        Raises
        ------
        DataError, UsageError, NotFoundError, ModelError
            As `predict`; and where no lists came with the model.
        """
        request = request_of(fields | {"candidates": candidates})
        active = self._engine.model(model)
        event_s, meters = self._event_s(active, event_time), self._agent.meters
        ranked = _patiently(lambda: rank_here(self._engine, active, request, event_s, meters))
        for one in ranked:
            self._take(one.answer.made)
        return ranked

    def _event_s(self, active: ActiveModel, said: str | float | None) -> float:
        if said is None:
            return self._now()
        return self._agent.clock.of_request(said, active.incumbent.manifest.label_window_s)

    def _take(self, made: Prediction) -> None:
        """Have an answer recorded, once the other arm is scored where that is to be."""
        if not self._is_open:
            raise _closed()
        active = made.active
        if active.scores_other and len(self._unfinished) < _MAX_UNFINISHED:
            if not active.one_encoding:  # the caller may change the row before the other arm has read it
                made = msgspec.structs.replace(made, row=dict(made.row))
            self._unfinished.append(made)
        else:
            self._engine.finish(made, score_other=False)

    def outcome(
        self, prediction_id: str, label: object = NO_LABEL, *, numbers: typing.Mapping[str, object] | None = None
    ) -> None:
        """Say what became of an earlier answer.

        Parameters
        ----------
        label : object, optional
            The truth; may be left out where there are numbers.
        numbers : mapping, optional
            What came of it, such as ``{"revenue": 12.5}``: numbers that the model's settings name.

        Raises
        ------
        DataError
            The id is not one of this device's, the label is not one of the model's, or a number is none or unknown.
        ModelError
            This is closed.
        """
        take = self._engine.outcome
        if not self._is_open:
            raise _closed()
        self._finish(len(self._unfinished))  # the answer's own record must come first
        take(prediction_id, label, now_s=self._now(), numbers=numbers)

    def status(self) -> dict[str, object]:
        """Return what ``GET /v1/status`` shows."""
        return self._agent.status()

    # ---- life

    def _run(self, with_sync: bool) -> None:
        asyncio.set_event_loop(self._loop)
        try:
            self._loop.run_until_complete(self._live(with_sync=with_sync))
        except BaseException as err:  # noqa: BLE001 - told by the thread that waits for it
            self._faults.append(err)
        finally:
            self._loop.close()
            self._ready.set()

    async def _live(self, *, with_sync: bool) -> None:
        finishing = asyncio.get_running_loop().create_task(self._keep_finishing())
        try:
            await self._agent.run_inside(self._ready.set, with_sync=with_sync)
        finally:
            finishing.cancel()

    async def _keep_finishing(self) -> None:
        """Score the other arm for answers that are given; nobody waits, and who asks nothing is not woken often."""
        pause_s = _FINISH_S
        while True:
            had_some = bool(self._unfinished)
            is_left = self._finish_turn()
            pause_s = _FINISH_S if had_some else min(2 * pause_s, _IDLE_S)
            await asyncio.sleep(0.0 if is_left else pause_s)

    def _finish_turn(self) -> bool:
        """Finish for a short while, since the loop has other work; return whether something is left to do."""
        if not self._finishing.acquire(blocking=False):
            return False  # a thread that has an outcome is at it
        try:
            until_s = time.monotonic() + _TURN_S
            while self._unfinished and time.monotonic() < until_s:
                self._finish_one(self._unfinished.popleft())
            return bool(self._unfinished)
        finally:
            self._finishing.release()

    def _finish(self, n: int, *, score_other: bool = True) -> None:
        """Finish the first n answers: what is appended meanwhile must not keep the caller."""
        with self._finishing:
            for _ in range(min(n, len(self._unfinished))):
                self._finish_one(self._unfinished.popleft(), score_other=score_other)

    def _finish_one(self, made: Prediction, *, score_other: bool = True) -> None:
        in_place(lambda: self._engine.finish(made, score_other=score_other))

    def close(self) -> None:
        """End: everything that was answered is recorded and added up, and the store is free for another process.

        What the other arm has not been asked by then it is not asked any more.
        """
        if not self._is_open:
            return
        self._is_open = False
        if self._thread.is_alive():
            with contextlib.suppress(RuntimeError):  # it has just ended by itself
                self._loop.call_soon_threadsafe(self._end)
            self._thread.join()
        self._stack.close()

    def _end(self) -> None:
        self._finish(len(self._unfinished), score_other=False)
        self._agent.stop()

    def leave_to_parent(self) -> None:
        """Be of no more use: this is a child that was forked, and the journal in its memory is the parent's."""
        self._is_open, self._finishing = False, threading.Lock()
        self._unfinished.clear()
        self._left = self._agent  # as it is: to let go of it would close what the parent has open
        self._engine = self._agent = typing.cast("typing.Any", forked.Elsewhere())
        self._stack.close()  # the parent still holds the lock; with this it ends with the parent

    def __enter__(self) -> typing.Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _patiently(ask: typing.Callable[[], T]) -> T:
    """Answer by a slow model in this thread, or once the model has loaded."""
    deadline = time.monotonic() + _LOADING_PATIENCE_S
    while True:
        try:
            return in_place(ask)
        except NotReadyError:
            if time.monotonic() > deadline:
                raise
            time.sleep(_RETRY_LOADING_S)


def _closed() -> ModelError:
    return ModelError("this predictor is closed", fix="Make a new one.")
