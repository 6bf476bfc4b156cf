"""Several models side by side within one budget of memory: the one that was used longest ago makes room."""

from __future__ import annotations

import asyncio
import contextlib
import time
import typing

from edge_agent.predict.engine import Engine
from edge_agent.predict.loaded import ONNX, LoadedBundle
from edge_agent.predict.meters import Meters

STAY_S = 1.0
_LOOK_S, _LOOK_AGAIN_S = 1.0, 0.05


class Shelf:
    """Puts models away, and brings back the ones that are asked for.

    A model that is put away is no fault: what its table knows is answered all the time, and what needs the model waits
    for it, as it does when the agent starts. A model that was brought back stays for a moment, so that models that are
    asked in turn all come to answer.

    Parameters
    ----------
    engine, meters : Engine, Meters
        The models, and when each was used last.
    limit_bytes : int
        What loaded models may take together. One stays, however large it is.
    give_back : callable
        Returns freed memory to the system.
    """

    def __init__(
        self, engine: Engine, meters: Meters, limit_bytes: int, give_back: typing.Callable[[], object] = bool
    ) -> None:
        self._engine, self._meters, self._limit_bytes, self._give_back = engine, meters, limit_bytes, give_back
        self._brought_s: dict[int, float] = {}

    async def run(self, wanted: asyncio.Event) -> None:
        """Look after the models until cancelled.

        Parameters
        ----------
        wanted : Event
            Set when a request waits for a model that was put away.
        """
        while True:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(wanted.wait(), _LOOK_S)
            wanted.clear()
            if await self.settle(time.monotonic()):
                await asyncio.sleep(_LOOK_AGAIN_S)
                wanted.set()

    async def settle(self, now_s: float) -> bool:
        """Put away what is too much, bring back what is waited for; return whether something must wait on.

        Parameters
        ----------
        now_s : float
            Monotonic clock.
        """
        waits = False
        for bundle in self._bundles():
            if bundle.is_wanted and bundle.is_parked:
                if self._make_room(bundle.size_bytes, now_s):
                    await asyncio.to_thread(bundle.load_model)
                    self._brought_s[id(bundle)] = now_s
                else:
                    waits = True
        self._make_room(0, now_s)
        return waits

    def _bundles(self) -> list[LoadedBundle]:
        return [bundle for active in self._engine.models.values() for bundle in active.bundles.values()]

    def used_bytes(self) -> int:
        """What loaded models take together, by what each took when it was loaded."""
        return sum(bundle.size_bytes for bundle in self._bundles() if bundle.is_loaded.is_set())

    def _make_room(self, needed_bytes: int, now_s: float) -> bool:
        """Put models away until there is room; return whether there is."""
        loaded = [bundle for bundle in self._bundles() if bundle.is_loaded.is_set() and bundle.size_bytes]
        loaded.sort(key=self._last_used)
        n_parked = 0
        while loaded and self.used_bytes() + needed_bytes > self._limit_bytes:
            if len(loaded) == 1 and not needed_bytes:
                break
            oldest = loaded.pop(0)
            if now_s - self._brought_s.get(id(oldest), -STAY_S) >= STAY_S:
                oldest.park()
                n_parked += 1
        if n_parked:
            self._give_back()
        return self.used_bytes() + needed_bytes <= self._limit_bytes or not self.used_bytes()

    def _last_used(self, bundle: LoadedBundle) -> float:
        """When a model last answered, seconds since 1970."""
        of = (bundle.manifest.model, bundle.version)
        series = [one for key, one in self._meters.answered.items() if key[:2] == of and key[3] == ONNX]
        return max((one.last_s for one in series), default=0.0)
