"""After a fork the parent stays the device: the child has the same memory, and must not write what the parent does."""

from __future__ import annotations

import os
import typing
import weakref

from shared.errors import ConflictError


class Forked(typing.Protocol):
    """What is there once, however many processes come of this one."""

    def leave_to_parent(self) -> None:
        """Stop being it: this is a child now."""


class Elsewhere:
    """Stands in a child for what is the parent's; whatever is asked of it is refused."""

    def __getattr__(self, name: str) -> typing.NoReturn:
        """Refuse.

        Raises
        ------
        AttributeError
            Python itself looks for something.
        ConflictError
            Somebody else does.
        """
        if name.startswith("__"):
            raise AttributeError(name)
        raise ConflictError(
            f"this predictor belongs to another process, of which {os.getpid()} is a child",
            fix="Ask in the process that made it, or run covey-edge and ask that over HTTP.",
        )


_watched: weakref.WeakSet[Forked] = weakref.WeakSet()


def watch(one: Forked) -> None:
    """Tell an object when it finds itself in a child."""
    _watched.add(one)


def _tell() -> None:
    for one in list(_watched):
        one.leave_to_parent()


os.register_at_fork(after_in_child=_tell)
