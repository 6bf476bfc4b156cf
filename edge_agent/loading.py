"""Load models beside the event loop, with an end; and give back what that leaves behind."""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import gc
import threading

from edge_agent.predict.loaded import LoadedBundle
from shared.errors import ModelError

_LOAD_TIMES = 2.0  # a model may take so many times what its budget says and its self-test has kept to
Done = asyncio.Future[list[ModelError]]


async def load_all(bundles: list[LoadedBundle]) -> list[ModelError]:
    """Load models and reproduce their golden rows; return what failed.

    A bundle without its model still has its table and its default, so a generation that once was good goes on. A model
    that does not come to an end is left behind in its thread, which ends with the process.
    """
    if not bundles:
        return []
    loop = asyncio.get_running_loop()
    done: Done = loop.create_future()

    def load() -> None:
        failures = [failure for bundle in bundles for failure in _load(bundle)]
        with contextlib.suppress(RuntimeError):  # the loop is closed: nobody waits any more
            loop.call_soon_threadsafe(_tell, done, failures)

    threading.Thread(target=load, name="load", daemon=True).start()
    most_s = _LOAD_TIMES * sum(bundle.manifest.budgets.load_s for bundle in bundles)
    try:
        async with asyncio.timeout(most_s):
            return await done
    except TimeoutError:
        stuck = next((bundle for bundle in bundles if not bundle.is_loaded.is_set()), bundles[-1])
        return [ModelError(f"did not load within {most_s:g} s", field=f"{stuck.manifest.model}@{stuck.version}")]


def _load(bundle: LoadedBundle) -> list[ModelError]:
    bundle.load_model()
    try:
        bundle.check_golden()
    except ModelError as err:
        return [err]
    return []


def _tell(done: Done, failures: list[ModelError]) -> None:
    if not done.done():
        done.set_result(failures)


def give_memory_back() -> None:
    """Return what loading left behind to the system."""
    gc.collect()
    gc.freeze()
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).malloc_trim(0)
