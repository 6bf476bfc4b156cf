"""Load models beside the event loop, with an end; and give back what that leaves behind."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import sys
import threading
import time
import typing

from edge_agent.predict.loaded import LoadedBundle, NotReadyError
from shared.errors import ModelError

_LOAD_TIMES = 2.0  # a model may take so many times what its budget says and its self-test has kept to
_THREAD = "load"
Done = asyncio.Future[list[ModelError]]


async def load_all(bundles: list[LoadedBundle]) -> list[ModelError]:
    """Load models and reproduce their golden rows; return what failed.

    A bundle without its model still has its table and its default, so a generation that once was good goes on. A model
    that does not come to an end is left behind in its thread: see `wait_until_idle`.
    """
    if not bundles:
        return []
    loop = asyncio.get_running_loop()
    done: Done = loop.create_future()

    def load() -> None:
        # All are loaded before any is checked: one that is spoiled keeps no other from answering.
        failures = [*_each(bundles, LoadedBundle.load_model), *_each(bundles, _check)]
        with contextlib.suppress(RuntimeError):  # the loop is closed: nobody waits any more
            loop.call_soon_threadsafe(_tell, done, failures)

    threading.Thread(target=load, name=_THREAD, daemon=True).start()
    most_s = _LOAD_TIMES * sum(bundle.manifest.budgets.load_s for bundle in bundles)
    try:
        async with asyncio.timeout(most_s):
            return await done
    except TimeoutError:
        stuck = next((bundle for bundle in bundles if not bundle.is_loaded.is_set()), bundles[-1])
        return [ModelError(f"did not load within {most_s:g} s", field=f"{stuck.manifest.model}@{stuck.version}")]


def wait_until_idle(most_s: float) -> bool:
    """Wait until no model is being loaded; return whether none is.

    An interpreter that ends takes the process down with it, if a thread is in the middle of a library's own code then.
    """
    deadline = time.monotonic() + most_s
    loading = [thread for thread in threading.enumerate() if thread.name == _THREAD]
    for thread in loading:
        thread.join(max(0.0, deadline - time.monotonic()))
    return not any(thread.is_alive() for thread in loading)


def _each(bundles: list[LoadedBundle], act: typing.Callable[[LoadedBundle], None]) -> list[ModelError]:
    """Do something to each; whatever goes wrong, the others have their turn and somebody hears of it."""
    failures = []
    for bundle in bundles:
        try:
            act(bundle)
        except ModelError as err:
            failures.append(err)
        except Exception as err:  # noqa: BLE001 - a spoiled file, no memory: this one can not answer
            where = f"{bundle.manifest.model}@{bundle.version}"
            failures.append(ModelError(f"can not be loaded: {type(err).__name__}: {err}", field=where))
    return failures


def _check(bundle: LoadedBundle) -> None:
    try:
        bundle.check_golden()
    except NotReadyError:
        if not bundle.is_parked:  # put away meanwhile, for want of memory: it has answered before
            raise


def _tell(done: Done, failures: list[ModelError]) -> None:
    if not done.done():
        done.set_result(failures)


def give_memory_back() -> None:
    """Return what loading left behind to the system."""
    gc.collect()
    gc.freeze()
    if "numpy" not in sys.modules:  # nothing large was loaded; what asks for the rest would take more than it brings
        return
    import ctypes

    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).malloc_trim(0)
