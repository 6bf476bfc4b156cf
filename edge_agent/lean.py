"""Keeps out of the serving process what it has no use for, or none yet: many devices are small, and some start often.

asyncio imports ``ssl`` if it can and hashlib OpenSSL if it can, and both do without: a device that answers on its own
machine speaks no TLS, and the hashes of a request are blake2, which Python has itself. Other modules are imported by
libraries for the day on which something goes wrong, or for values that no request holds. Something stands in their
place that imports them when they are asked for something, so whoever needs one gets it, a little later.
"""

from __future__ import annotations

import gc
import importlib
import os
import sys
import types
import typing

_SERVING = "run"
_LEFT_OUT = ("ssl", "_hashlib", "typing_extensions")
_LATER = (
    "asyncio.sslproto",
    "asyncio.staggered",
    "linecache",
    "locale",
    "msgspec.inspect",
    "platform",
    "textwrap",
)
# What is taken from these while others are imported: functions, and types of values that no request holds.
_FUNCTIONS = {
    "msgspec._json_schema": ("schema", "schema_components"),
    "traceback": ("extract_stack",),
    "urllib.parse": ("quote_from_bytes",),
}
_TYPES = {"decimal": ("Decimal",), "uuid": ("UUID", "SafeUUID")}
# Options before and after the verb, and whether a value follows.
_BEFORE = {"--store": True, "--debug": False}
_AFTER = {"--host": True, "--port": True, "--no-sync": False}


class Later(types.ModuleType):
    """Stands for a module, which is imported when it is asked for something that is not here.

    Parameters
    ----------
    name : str
        The module's name.
    known : object
        What it has already.
    """

    def __init__(self, name: str, **known: object) -> None:
        super().__init__(name)
        self.__dict__.update(known)

    def __getattr__(self, name: str) -> typing.Any:  # noqa: ANN401 - a module has everything
        """Take it from the module itself."""
        if name.startswith("__"):  # how the import system looks at a module; nobody means the real one by that
            raise AttributeError(name)
        if sys.modules.get(self.__name__) is self:
            del sys.modules[self.__name__]
        return getattr(importlib.import_module(self.__name__), name)


def _with_functions(module: str, names: typing.Sequence[str]) -> Later:
    later = Later(module)

    def calling(name: str) -> typing.Callable[..., typing.Any]:
        def call(*args: object, **kwargs: object) -> object:
            return later.__getattr__(name)(*args, **kwargs)

        return call

    later.__dict__.update({name: calling(name) for name in names})
    return later


def _is_coroutine_function(of: object) -> bool:
    """Like ``inspect.iscoroutinefunction`` for functions and methods, which is all that a signal handler is."""
    code = getattr(of, "__code__", None)
    return isinstance(code, types.CodeType) and bool(code.co_flags & 0x80)


def _stand_ins() -> dict[str, types.ModuleType | None]:
    made: dict[str, types.ModuleType | None] = dict.fromkeys(_LEFT_OUT)
    made |= {name: Later(name) for name in _LATER}
    made |= {name: _with_functions(name, functions) for name, functions in _FUNCTIONS.items()}
    for name, kinds in _TYPES.items():
        made[name] = Later(name, **{kind: type(kind, (), {"unknown": None}) for kind in kinds})
    made["inspect"] = Later("inspect", iscoroutinefunction=_is_coroutine_function)
    return {name: module for name, module in made.items() if name not in sys.modules}


def prepare(arguments: typing.Sequence[str]) -> None:
    """Import what serving is made of without what it can do without, if the command line is that of the server.

    Call it before anything else is imported; what is there already stays as it is. No garbage is collected from then
    on, for imports make none; `begin` ends that.
    """
    if _SERVING not in arguments:
        return
    gc.disable()
    # NumPy's library for matrices starts a thread for each core when it is loaded. Nobody multiplies matrices here.
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    made = _stand_ins()
    sys.modules.update(typing.cast("dict[str, types.ModuleType]", made))
    try:
        import asyncio
        import hashlib
        import hmac
        import pathlib

        import msgspec

        del asyncio, hashlib, hmac, msgspec, pathlib
    finally:
        for name, module in made.items():
            if sys.modules.get(name, made) is module:
                del sys.modules[name]


def begin() -> None:
    """Everything is imported: from now on garbage is collected."""
    gc.enable()


def plain_arguments(arguments: typing.Sequence[str]) -> dict[str, typing.Any] | None:
    """Read the plainest spelling of ``covey-edge run`` without argparse; None says that argparse is to read it.

    >>> plain_arguments(["--store", "/s", "run", "--port", "80"])
    {'store': '/s', 'debug': False, 'host': None, 'port': 80, 'no_sync': False}
    >>> plain_arguments(["run", "--port=80"]) is None
    True
    """
    read: dict[str, typing.Any] = {"store": None, "debug": False, "host": None, "port": None, "no_sync": False}
    known, words = _BEFORE, iter(arguments)
    for word in words:
        if known is _BEFORE and word == _SERVING:
            known = _AFTER
            continue
        if word not in known:
            return None
        value = next(words, "") if known[word] else True
        if value is not True and (not value or value.startswith("-")):
            return None
        read[word[2:].replace("-", "_")] = value
    port = read["port"]
    if known is _BEFORE or not (port is None or port.isdecimal()):
        return None
    return read | {"port": port and int(port)}
