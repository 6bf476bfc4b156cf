"""Tell programs and addresses what happened, from the audit log; ask them before a rollout goes on.

At least once, in order, each hook in a thread of its own: nothing that a hook does, or does not, holds up the worker.
What was told is noted behind the audit entry that it was told of, so that no crash loses one.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import logging
import os
import pathlib
import signal
import subprocess
import tempfile
import threading
import time
import typing

import requests

from cloud.config import Project
from cloud.config.hooks import HookSettings
from cloud.store.hooks import PROMOTION
from cloud.store.store import Store
from shared.clock import format_time
from shared.errors import ConfigError, UnreachableError

log = logging.getLogger("covey.hooks")
ACTOR = "hook {}"
_LOOK_S = 1.0
_LONGEST_PAUSE_S = 3600.0
_GIVE_UP_S = 7 * 86_400.0
_WORDS = 300
_READ_BYTES = 4096
_POLL_S = 0.1
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


class Messenger:
    """All hooks of a project, at work until told to stop.

    Parameters
    ----------
    project : Project
        Its ``[[hook]]`` tables.
    """

    def __init__(self, project: Project) -> None:
        self._stop = threading.Event()
        self._threads = [
            threading.Thread(target=self._run, args=(project, one), name=f"hook-{one.name}", daemon=True)
            for one in project.settings.hook
        ]
        for thread in self._threads:
            thread.start()

    def _run(self, project: Project, settings: HookSettings) -> None:
        store = Store(project)
        try:
            while not self._stop.is_set():
                try:
                    busy = serve(project, store, settings, self._stop)
                except Exception:
                    log.exception("a hook is tried again", extra={"hook": settings.name})
                    busy = False
                if not busy:
                    self._stop.wait(_LOOK_S)
        finally:
            store.close()

    def stop(self) -> None:
        """Let the hooks end; what one was in the middle of is told again the next time."""
        self._stop.set()
        for thread in self._threads:
            thread.join()


def serve(project: Project, store: Store, settings: HookSettings, stop: threading.Event | None = None) -> bool:
    """Tell a hook the next thing, and ask it the next question, if it is time; return whether there was any."""
    now = time.time()
    known = store.hooks.meet(settings.name)
    event = store.hooks.next_event(settings.name, settings.on) if settings.on else None
    told = event is not None and known["next_s"] <= now
    if event is not None and told:
        _tell(project, store, settings, event, known["tries"], stop)
    due = [one for one in store.hooks.open_questions(name=settings.name) if one["next_s"] <= now]
    for question in due[:1]:
        _ask(project, store, settings, question, stop)
    return bool(told or due)


def _tell(
    project: Project, store: Store, settings: HookSettings, event: Record, tries: int, stop: threading.Event | None
) -> None:
    answer = send(project, settings, event_record(project, event), stop)
    if stop is not None and stop.is_set() and not answer.agrees:
        return
    if answer.agrees:
        store.hooks.told(settings.name, event["id"])
        return
    log.warning("a hook was not told", extra={"hook": settings.name, "event": event["id"], "why": answer.words})
    with store.db.transaction():
        if time.time() - event["at_s"] > _GIVE_UP_S:
            store.hooks.told(settings.name, event["id"], given_up=True)
            what = f"{event['action']}: {event['subject']}"
            store.audit.add("hook given up", settings.name, actor="worker", reason=answer.words, event=what)
        store.hooks.failed(settings.name, answer.words, time.time() + pause_s(settings.retry_s, tries))


def _ask(
    project: Project, store: Store, settings: HookSettings, question: Record, stop: threading.Event | None
) -> None:
    record = question_record(project, store, question)
    answer = send(project, settings, record, stop)
    if stop is not None and stop.is_set() and not answer.agrees:
        return
    with store.db.transaction():
        if not answer.agrees:
            next_s = time.time() + pause_s(settings.retry_s, question["tries"])
            store.hooks.refused(question["id"], answer.words, next_s)
        elif store.hooks.agreed(question["id"], answer.words, ACTOR.format(settings.name)):
            subject = f"rollout {question['rollout']}"
            store.audit.add(
                "hook agreed", subject, actor=ACTOR.format(settings.name), reason=answer.words, to=record["before"]
            )


def pause_s(retry_s: float, tries: int) -> float:
    """How long to wait after so many failures before this one.

    >>> pause_s(60, 0), pause_s(60, 2), pause_s(60, 90), pause_s(7200, 3)
    (60.0, 240.0, 3600.0, 7200.0)
    """
    return float(max(retry_s, min(retry_s * 2.0 ** min(tries, 40), _LONGEST_PAUSE_S)))


# ---- records


def event_record(project: Project, event: Record) -> Record:
    """Write what a hook is told of an entry of the audit log."""
    return {
        "schema": "covey.event/1",
        "project": project.settings.project.name,
        "id": event["id"],
        "at": format_time(event["at_s"]),
        **{key: event[key] for key in ("action", "subject", "actor", "reason", "detail")},
    }


def question_record(project: Project, store: Store, question: Record) -> Record:
    """Write what a hook is asked: a rollout, and the stage that would open, or that it would be promoted."""
    rollout = store.rollouts.get(question["rollout"])
    stage = next((one for one in store.rollouts.stages(rollout["id"]) if one["id"] == question["stage"]), None)
    running = [one["version"] for one in rollout["candidates"] if one["state"] == "running"]
    return {
        "schema": "covey.question/1",
        "project": project.settings.project.name,
        "id": question["id"],
        "at": format_time(time.time()),
        "before": "promotion" if question["stage"] == PROMOTION else "stage",
        "rollout": rollout["id"],
        "model": rollout["model"],
        "from": rollout["from_version"],
        "candidates": running,
        "why": rollout["why"],
        "stage": None if stage is None else {key: stage[key] for key in ("kind", "region", "settings")},
        "asked_before": question["tries"],
    }


# ---- ways


def send(project: Project, settings: HookSettings, record: Record, stop: threading.Event | None = None) -> Answer:
    """Give a record to a hook and wait for what it says; that it can not be reached is a no, with the reason."""
    body = json.dumps(record, ensure_ascii=False, sort_keys=True).encode()
    try:
        if settings.command:
            return _run(project, settings, body, stop)
        return _post(project, settings, body)
    except (OSError, UnreachableError, ConfigError, ValueError) as err:
        return Answer(agrees=False, words=f"no answer: {err}"[:_WORDS])


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
        status = _wait(process, settings.timeout_s, stop)
        said.seek(0)
        words = first_line(said.read(_READ_BYTES))
    if status is None:
        return Answer(agrees=False, words=f"no answer within {settings.timeout_s:g} s")
    return Answer(status == 0, words or ("" if status == 0 else f"it ended with {status}"))


def _wait(process: subprocess.Popen[bytes], timeout_s: float, stop: threading.Event | None) -> int | None:
    """Return the exit status; None if the program had to be ended."""
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline and not (stop is not None and stop.is_set()):
        try:
            return process.wait(timeout=min(_POLL_S, timeout_s))
        except subprocess.TimeoutExpired:
            continue
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    return None


def _post(project: Project, settings: HookSettings, body: bytes) -> Answer:
    """Post a record; a redirection is a no, since nobody has said that the other place may be told."""
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
            return Answer(
                reply.ok and not reply.is_redirect, words if reply.ok else f"HTTP {reply.status_code}: {words}"
            )
    except requests.RequestException as err:
        raise UnreachableError(str(err)) from err


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
