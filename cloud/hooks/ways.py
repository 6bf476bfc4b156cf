"""Two ways to give a hook a record: a program's standard input, and a signed post. What can not be reached says no."""

from __future__ import annotations

import hashlib
import hmac
import json
import os
import pathlib
import queue
import shutil
import signal
import subprocess
import tempfile
import threading
import time
import typing

import requests
import urllib3

from cloud.config import Project
from cloud.config.hooks import HookSettings
from shared.errors import ConfigError, UnreachableError, line_words

_WORDS = 300
_READ_BYTES = 4096
_POLL_S = 0.1
_YES = 2  # hundred and something
Record = dict[str, typing.Any]


class Answer(typing.NamedTuple):
    """What a hook made of a record.

    Parameters
    ----------
    agrees : bool
        It was told, or it agrees.
    words : str
        What it said, or why there was no answer.
    """

    agrees: bool
    words: str


def check(project: Project, settings: HookSettings) -> None:
    """Look whether a hook could be given anything, without giving it anything.

    Raises
    ------
    ConfigError
        Its program is not there, or its secret can not be read.
    """
    if settings.secret_file:
        secret_of(project.folder / settings.secret_file)
    program = settings.command[0] if settings.command else ""
    path = str(project.folder / program) if "/" in program else program
    if program and shutil.which(path) is None:
        raise ConfigError(
            f"there is no program {program!r:.60}", field=f"hook {settings.name}.command", fix="Mend the path."
        )


def send(project: Project, settings: HookSettings, record: Record, stop: threading.Event | None = None) -> Answer:
    """Give a record to a hook and wait for what it says; that it can not be reached is a no, with the reason."""
    body = json.dumps(record, ensure_ascii=False, sort_keys=True).encode()
    if settings.command:
        return _answer_of(lambda: _run(project, settings, body, stop))
    return _in_time(lambda: _answer_of(lambda: _post(project, settings, body)), settings.timeout_s, stop)


def _answer_of(ask: typing.Callable[[], Answer]) -> Answer:
    try:
        return ask()
    except (OSError, UnreachableError, ConfigError, ValueError) as err:
        return Answer(agrees=False, words=f"no answer: {err}"[:_WORDS])


def _late(timeout_s: float) -> Answer:
    return Answer(agrees=False, words=f"no answer within {timeout_s:g} s")


def _run(project: Project, settings: HookSettings, body: bytes, stop: threading.Event | None) -> Answer:
    """Run a program in a session of its own, so that all of it can be ended."""
    with tempfile.TemporaryFile() as given, tempfile.TemporaryFile() as said:
        given.write(body)
        given.seek(0)
        process = subprocess.Popen(
            settings.command,
            cwd=project.folder,
            stdin=given,
            stdout=said,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        status = _wait(process, said, settings.timeout_s, stop)
        said.seek(0)
        words = first_line(said.read(_READ_BYTES))
    if status is None:
        return _late(settings.timeout_s)
    return Answer(status == 0, words or ("" if status == 0 else f"it ended with {status}"))


def _wait(
    process: subprocess.Popen[bytes], said: typing.IO[bytes], timeout_s: float, stop: threading.Event | None
) -> int | None:
    """Return the exit status; None if the program had to be ended. What it says without end fills no disk."""
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline and not (stop is not None and stop.is_set()):
        try:
            return process.wait(timeout=min(_POLL_S, timeout_s))
        except subprocess.TimeoutExpired:
            if os.fstat(said.fileno()).st_size > _READ_BYTES:
                said.truncate(_READ_BYTES)  # it goes on behind the gap that this leaves
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    return None


def _post(project: Project, settings: HookSettings, body: bytes) -> Answer:
    """Post a record; a redirection is a no, since nobody has said that the other place may be told.

    What can not be read is a no, too: who can not be understood has not agreed.
    """
    headers = {"Content-Type": "application/json", "User-Agent": "covey"} | signature(project, settings, body)
    try:
        with requests.post(
            settings.url,
            data=body,
            headers=headers,
            timeout=(settings.timeout_s, settings.timeout_s),
            allow_redirects=False,
            stream=True,
        ) as reply:
            words = first_line(reply.raw.read1(_READ_BYTES, decode_content=True))
            is_yes = reply.status_code // 100 == _YES
            return Answer(is_yes, words if is_yes else f"HTTP {reply.status_code}: {words}".removesuffix(": "))
    except (requests.RequestException, urllib3.exceptions.HTTPError) as err:
        raise UnreachableError(line_words(err)) from err


def _in_time(ask: typing.Callable[[], Answer], timeout_s: float, stop: threading.Event | None) -> Answer:
    """Ask in a thread of its own: the time-outs of a connection are for each read, and who drips runs into none.

    A thread that is left behind ends when the other side does.
    """
    answers: queue.SimpleQueue[Answer] = queue.SimpleQueue()
    threading.Thread(target=lambda: answers.put(ask()), name="hook-post", daemon=True).start()
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline and not (stop is not None and stop.is_set()):
        try:
            return answers.get(timeout=min(_POLL_S, timeout_s))
        except queue.Empty:
            continue
    return _late(timeout_s)


def signature(project: Project, settings: HookSettings, body: bytes) -> dict[str, str]:
    """Return the headers that prove who posts: HMAC-SHA256 over the time, a full stop and the body."""
    if not settings.secret_file:
        return {}
    path = project.folder / settings.secret_file
    secret = secret_of(path)
    at = str(int(time.time()))
    digest = hmac.new(secret, f"{at}.".encode() + body, hashlib.sha256).hexdigest()
    return {"X-Covey-Timestamp": at, "X-Covey-Signature": f"sha256={digest}"}


def secret_of(path: pathlib.Path) -> bytes:
    """Read a secret.

    Raises
    ------
    ConfigError
        There is none, or others can read it.
    """
    try:
        if path.stat().st_mode & 0o077:
            raise ConfigError("others can read the secret", field=str(path), fix=f"chmod 600 {path}")
        secret = path.read_bytes().strip()
    except OSError as err:
        raise ConfigError(f"can not be read: {err.strerror}", field=str(path), fix="Mend secret_file.") from err
    if not secret:
        raise ConfigError("it is empty", field=str(path), fix="Put a long random text into it.")
    return secret


def first_line(said: bytes) -> str:
    """Return the first line of what a hook said, short and without what a terminal would obey.

    >>> first_line(bytes([10, 32, 27]) + b"[31mnot before Monday" + bytes([10]) + b"more")
    '[31mnot before Monday'
    """
    text = said.decode("utf-8", "replace").strip()
    line = text.splitlines()[0] if text else ""
    return "".join(letter for letter in line if letter.isprintable()).strip()[:_WORDS]
