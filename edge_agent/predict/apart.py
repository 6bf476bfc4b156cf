"""The run of a slow model, away from the event loop, so that answers which need no model are not held up by it."""

from __future__ import annotations

import time
import typing

from shared.errors import ModelError

SLOW_S = 0.002
HOLDS_UP_S = 0.010
_MEASURED_RUNS = 3
T = typing.TypeVar("T")
Outcome = tuple[float, ...] | ModelError


class Runs(typing.Protocol):
    """A model that can be run in any thread, and be told to stop."""

    def run_apart(self, vector: bytes, limits: typing.Any) -> tuple[float, ...]:  # noqa: ANN401
        """Answer one row."""

    def new_limits(self) -> typing.Any:  # noqa: ANN401 - the runtime's own type
        """Return what a run can be stopped with: set its `terminate`."""


class SlowRun:
    """One run: made on the loop, run in a thread, its outcome picked up on the loop.

    Parameters
    ----------
    model : Runs
        The runtime.
    vector : bytes
        The model's input; nobody else may change it.
    keep : callable
        Takes the outcome, and the seconds it took, to where the next look finds it.
    """

    def __init__(self, model: Runs, vector: bytes, keep: typing.Callable[[Outcome, float], None]) -> None:
        self._model, self._vector, self._keep = model, vector, keep
        self._limits = model.new_limits()
        self._outcome: Outcome = ModelError("was not run")
        self._is_over = False
        self.began_s = self.took_s = 0.0

    def run(self) -> None:
        """Run the model; call it in any thread."""
        if self._is_over:
            return
        self.began_s = time.perf_counter()
        outcome: Outcome
        try:
            outcome = self._model.run_apart(self._vector, self._limits)
        except ModelError as err:
            outcome = err
        self.took_s = time.perf_counter() - self.began_s
        if not self._is_over:
            self._outcome = outcome

    def give_up(self, reason: str) -> None:
        """Stop the run; whoever looks finds that the model failed."""
        self._is_over = True
        self._outcome = ModelError(reason)
        self._limits.terminate = True

    def offer(self) -> None:
        """Put the outcome where the next look finds it; look at once, before anybody else does."""
        self._keep(self._outcome, self.took_s)


class SlowModelError(Exception):
    """Not a fault: the answer takes a run that would hold up others. Run it, offer its outcome, and ask again.

    `failed_arm` is the candidate in whose place the incumbent is asked; its failure is not counted yet.
    """

    failed_arm = 0

    def __init__(self, run: SlowRun) -> None:
        super().__init__("run the model apart and ask again")
        self.run = run


def in_place(ask: typing.Callable[[], T]) -> T:
    """Ask, and run slow models right here where that is what it takes."""
    while True:
        try:
            return ask()
        except SlowModelError as slow:
            slow.run.run()
            slow.run.offer()


def fastest_s(run: typing.Callable[[bytes], object], width: int) -> float:
    """Warm the model up and measure it: seconds of the fastest of a few runs; 0 if it fails."""
    took_s = []
    for _ in range(_MEASURED_RUNS):
        started = time.perf_counter()
        try:
            run(bytes(4 * width))
        except ModelError:
            return 0.0
        took_s.append(time.perf_counter() - started)
    return min(took_s)
