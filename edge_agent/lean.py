"""Keeps out of the serving process what its libraries bring along and it has no use for: TLS, OpenSSL.

asyncio imports ``ssl`` if it can and hashlib OpenSSL if it can, and both do without. A device that answers on its own
machine speaks no TLS, and the hashes of a request are blake2, which Python has itself. Leaving both out saves 5 MiB and
20 ms of CPU at each start; whoever imports ``ssl`` later still gets it. msgspec is the same with ``typing_extensions``.
"""

from __future__ import annotations

import sys
import typing

_SERVING = "run"
_LEFT_OUT = ("ssl", "_hashlib", "typing_extensions")


def prepare(arguments: typing.Sequence[str]) -> None:
    """Import asyncio and hashlib without what they can do without, if the command line is that of the serving process.

    Call it before anything else is imported; what is there already stays as it is.
    """
    if _SERVING not in arguments:
        return
    left_out = [name for name in _LEFT_OUT if name not in sys.modules]
    modules: dict[str, typing.Any] = dict.fromkeys(left_out)
    sys.modules.update(modules)
    try:
        import asyncio
        import hashlib
        import hmac

        import msgspec

        del asyncio, hashlib, hmac, msgspec
    finally:
        for name in left_out:
            del sys.modules[name]
