"""End with the process that started this one, however that ended: nobody is left behind holding a port or a lock."""

from __future__ import annotations

import os
import threading
import typing

_POLL_S = 0.25


def call_when_parent_ends(on_end: typing.Callable[[], None]) -> None:
    """Watch the parent in a thread; call back once it is gone."""
    parent = os.getppid()

    def watch() -> None:
        event = threading.Event()
        while os.getppid() == parent:
            event.wait(_POLL_S)
        on_end()

    threading.Thread(target=watch, name="parent-watch", daemon=True).start()
