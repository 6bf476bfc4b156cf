"""The exceptions of Covey, one tree, named by whose fault it is.

::

    CoveyError
    |-- UsageError            the caller asked for something that makes no sense          exit 2
    |   |-- ConfigError       a setting is unknown, missing or of the wrong kind
    |   |-- FeatureError      a feature definition is wrong (names the line)
    |   `-- PlanError         a rollout plan can not work
    |-- DataError             rows do not fit the feature set                             exit 1
    |-- GateError             a model did not pass a gate                                 exit 3
    |-- WireError             bytes from outside are garbage, truncated or too large      exit 1
    |   `-- WireVersionError  the record's major version is not one we read
    |-- TrustError            bytes are well formed but not to be trusted                 exit 1
    |-- ModelError            a model can not load, run or answer                         exit 1
    |-- AuthError             who are you                                                 exit 4
    |   `-- ForbiddenError    we know who you are, and no
    |-- NotFoundError         no such thing                                               exit 5
    |-- ConflictError         the thing is not in a state that allows this                exit 6
    |-- LimitError            too much, too fast                                          exit 1
    |-- StorageError          this machine's disk is full or broken                       exit 1
    |-- UnreachableError      the other side does not answer                              exit 7
    `-- TimeoutExpiredError   it did not end in time                                      exit 124

Each class carries a stable ``code``, the HTTP status it becomes, the exit status of the command line, and
whether trying the same thing again later can help. A message says what happened, shows the value that was seen,
and says what to do.
"""

from __future__ import annotations

import re
import typing

_SHOWN = 40
_LINE_WORDS = re.compile(r"\[(Errno|SSL)[^\]]*\] ([^\"'()>]+)")
_QUOTED = re.compile(r"'((?:[^' ]+ )+[^']+)'")
_POOL = re.compile(r"^HTTPS?ConnectionPool\(.*?\): ")


def shown(value: object) -> str:
    """Return a value as a message shows it: short, and never a new error (the repr of a huge number is one)."""
    try:
        return repr(value)[:_SHOWN]
    except Exception:  # noqa: BLE001 - it is said in another error already
        return f"this {type(value).__name__}"


def nearest(word: str, known: typing.Iterable[str]) -> str:
    """Return what was probably meant, for a message; nothing if no known word is near.

    >>> nearest("feature", ("model", "features", "rows"))
    'features'
    """
    import difflib

    return next(iter(difflib.get_close_matches(word, list(known), n=1)), "")


def line_words(err: BaseException) -> str:
    """Return why a line or a file failed, without numbers, and without what HTTP libraries wrap around it.

    >>> line_words(OSError("Pool(host='c'): Max retries (Caused by New('to c: [Errno 111] Connection refused'))"))
    'connection refused'
    >>> line_words(OSError("HTTPConnectionPool(host='c', port=80): Read timed out. (read timeout=30)"))
    'read timed out. (read timeout=30)'
    """
    text = str(err)
    found = _LINE_WORDS.search(text)
    quoted = _QUOTED.findall(text)
    said = found[2] if found else quoted[-1] if quoted else _POOL.sub("", text)
    said = said.strip(" :")
    tls = "TLS: " if found and found[1] == "SSL" else ""
    return tls + said[:1].lower() + said[1:] or type(err).__name__


def printable(text: str, *, as_json: bool = False) -> str:
    r"""Write out what a terminal would obey, and what turns one line into two: the other side may say anything.

    Parameters
    ----------
    as_json : bool
        The text is JSON, and stays the same JSON.

    >>> print(printable("e\x1b[2J\nok \u202etxt \xa0%"))
    e\x1b[2J\nok \u202etxt \xa0%
    >>> print(printable('"\x9b\u202e"', as_json=True))
    "\u009b\u202e"
    """
    if text.isprintable():
        return text
    return "".join(one if one.isprintable() or one == "\xa0" else _written_out(one, as_json) for one in text)


def _written_out(letter: str, as_json: bool) -> str:
    if not as_json:
        return repr(letter)[1:-1]
    import json

    return json.dumps(letter)[1:-1]


class CoveyError(Exception):
    """Base of everything Covey raises on purpose.

    Parameters
    ----------
    message : str
        What happened, with the value that was seen.
    field : str, optional
        Path of the offending field, such as ``rollout.order[2]``. It is put in front of the message.
    fix : str, optional
        What to do about it. It is put behind the message.
    """

    code: typing.ClassVar[str] = "error"
    http_status: typing.ClassVar[int] = 500
    exit_status: typing.ClassVar[int] = 1
    retry: typing.ClassVar[bool] = False

    def __init__(self, message: str, *, field: str = "", fix: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.field = field
        self.fix = fix

    def __str__(self) -> str:
        head = f"{self.field}: {self.message}" if self.field else self.message
        return f"{head}. {self.fix}" if self.fix else head


class UsageError(CoveyError):
    """The caller asked for something that makes no sense."""

    code = "usage"
    http_status = 400
    exit_status = 2


class ConfigError(UsageError):
    """A setting is unknown, missing or of the wrong kind."""

    code = "config"


class FeatureError(UsageError):
    """A feature definition is wrong."""

    code = "feature"


class PlanError(UsageError):
    """A rollout plan can not work."""

    code = "plan"


class DataError(CoveyError):
    """Rows do not fit the feature set."""

    code = "data"
    http_status = 422


class GateError(CoveyError):
    """A model did not pass a gate."""

    code = "gate"
    http_status = 409
    exit_status = 3


class WireError(CoveyError):
    """Bytes from outside are garbage, truncated or too large."""

    code = "wire"
    http_status = 400


class WireVersionError(WireError):
    """The record's major version is not one this program reads."""

    code = "wire-version"


class TrustError(CoveyError):
    """Bytes are well formed but must not be trusted: signature, hash, age or binding is wrong."""

    code = "trust"
    http_status = 403


class ModelError(CoveyError):
    """A model can not load, run or answer."""

    code = "model"
    http_status = 503
    retry = True


class AuthError(CoveyError):
    """The caller did not prove who it is."""

    code = "auth"
    http_status = 401
    exit_status = 4


class ForbiddenError(AuthError):
    """The caller is known and may not do this."""

    code = "forbidden"
    http_status = 403


class NotFoundError(CoveyError):
    """No such thing."""

    code = "not-found"
    http_status = 404
    exit_status = 5


class ConflictError(CoveyError):
    """The thing is not in a state that allows this."""

    code = "conflict"
    http_status = 409
    exit_status = 6


class LimitError(CoveyError):
    """Too much, or too fast."""

    code = "limit"
    http_status = 429
    retry = True


class StorageError(CoveyError):
    """The disk of this machine is full or broken."""

    code = "storage"
    http_status = 507
    retry = True


class UnreachableError(CoveyError):
    """The other side does not answer."""

    code = "unreachable"
    http_status = 503
    exit_status = 7
    retry = True


class TimeoutExpiredError(CoveyError):
    """It did not end in the time given."""

    code = "timeout"
    http_status = 504
    exit_status = 124
    retry = True
