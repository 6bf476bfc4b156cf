"""Hooks: told of everything they want, at least once and in order; asked before a rollout goes on, and obeyed."""

from __future__ import annotations

import contextlib
import hashlib
import hmac
import http.server
import json
import pathlib
import re
import threading
import time
import typing

import pytest
from click.testing import CliRunner

import cloud
from cloud.cli.main import cli, main
from cloud.config import HookSettings, Project, load_project
from cloud.config.hooks import Happening
from cloud.hooks import telling, ways
from cloud.rollout.course import course
from cloud.rollout.story import next_steps
from cloud.store.store import Store
from cloud.worker import Worker
from shared.errors import ConfigError
from tests.unit.cloud_ import builders
from tests.unit.cloud_.simulated import MODEL, Fleet

TOLD = "import sys, json; print(json.load(sys.stdin)['action'], file=open('told.txt', 'a'))"


def program(code: str, **more: typing.Any) -> HookSettings:
    return HookSettings(name="own", command=("python3", "-c", code), **more)


def address(server: http.server.HTTPServer, **more: typing.Any) -> HookSettings:
    return HookSettings(name="own", url=f"http://127.0.0.1:{server.server_port}/x", on=("*",), **more)


def all_due(store: Store) -> None:
    """As if the pause after a failure were over."""
    store.db.connection.execute("update hooks set next_s = 0")
    store.db.connection.execute("update questions set next_s = 0")


class Listener(http.server.BaseHTTPRequestHandler):
    """Takes what is posted, and answers as it was told to."""

    answers: typing.ClassVar[list[tuple[int, dict[str, str], bytes]]] = []
    taken: typing.ClassVar[list[tuple[dict[str, str], bytes]]] = []

    def do_POST(self) -> None:
        self.taken.append((dict(self.headers), self.rfile.read(int(self.headers["Content-Length"]))))
        status, headers, body = self.answers.pop(0) if self.answers else (204, {}, b"")
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@pytest.fixture
def listener() -> typing.Iterator[http.server.HTTPServer]:
    Listener.answers, Listener.taken = [], []
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Listener)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


# ---- telling


def test_a_new_hook_is_told_from_now_on_of_what_it_wants_in_order(empty: Project, empty_store: Store) -> None:
    empty_store.audit.add("promoted", "before", actor="ada")
    hook = program(TOLD, on=("promoted", "rolled back"))
    assert not telling.serve(empty, empty_store, hook)
    for action in ("promoted", "data add", "rolled back"):
        empty_store.audit.add(action, "m@v1", actor="ada")
    while telling.serve(empty, empty_store, hook):
        pass
    assert (empty.folder / "told.txt").read_text().split("\n") == ["promoted", "rolled back", ""]


def test_what_a_hook_could_not_be_told_is_told_again_before_what_came_later(empty: Project, empty_store: Store) -> None:
    broken, mended = program("import sys; sys.exit('no room')", on=("*",)), program(TOLD, on=("*",))
    telling.serve(empty, empty_store, broken)
    empty_store.audit.add("promoted", "m@v2", actor="ada")
    assert telling.serve(empty, empty_store, broken)
    known = empty_store.hooks.meet("own")
    assert (known["tries"], known["error"]) == (1, "no room")
    assert known["next_s"] > time.time() + 30
    assert not telling.serve(empty, empty_store, mended), "it is not time yet"
    empty_store.audit.add("rolled back", "m@v2", actor="ada")
    all_due(empty_store)
    while telling.serve(empty, empty_store, mended):
        pass
    assert (empty.folder / "told.txt").read_text() == "promoted\nrolled back\n"
    assert empty_store.hooks.meet("own")["error"] == ""


def test_after_a_week_of_failures_an_event_is_given_up_and_that_is_on_record(
    empty: Project, empty_store: Store
) -> None:
    hook = program("raise SystemExit(3)", on=("*",))
    telling.serve(empty, empty_store, hook)
    empty_store.db.connection.execute(
        "insert into audit (at_s, actor, action, subject, reason, detail) values (?, 'a', 'promoted', 'm', '', '{}')",
        (time.time() - 8 * 86_400,),
    )
    assert telling.serve(empty, empty_store, hook)
    all_due(empty_store)
    assert not telling.serve(empty, empty_store, hook), "it is not told that it could not be told"
    [entry] = empty_store.audit.all(action="hook given up")
    assert (entry["subject"], entry["reason"], json.loads(entry["detail"])["event"]) == (
        "own", "it ended with 3", "promoted: m",
    )  # fmt: skip


@pytest.mark.parametrize(
    ("command", "words"),
    [
        (("no-such-program",), "no answer: "),
        (("python3", "-c", "import time; time.sleep(60)"), "no answer within 0.5 s"),
        (
            ("python3", "-c", "print('\\x1b]0;boo\\x07 not before Monday' + 500 * '!'); raise SystemExit(1)"),
            "]0;boo not",
        ),
        (("python3", "-c", "import os; os.write(1, b'\\xff\\xfe'); raise SystemExit(1)"), "\ufffd\ufffd"),
    ],
)
def test_a_program_that_is_not_there_or_hangs_or_babbles_is_a_no_in_a_few_words(
    empty: Project, command: tuple[str, ...], words: str
) -> None:
    answer = ways.send(empty, HookSettings(name="own", command=command, timeout_s=0.5), {"schema": "covey.event/1"})
    assert not answer.agrees
    assert answer.words.startswith(words)
    assert len(answer.words) <= 300


def test_a_hanging_program_is_ended_with_its_children(empty: Project) -> None:
    code = "sleep 300 & echo $! > child.txt; wait"
    hook = HookSettings(name="own", command=("sh", "-c", code), timeout_s=0.5)
    assert not ways.send(empty, hook, {}).agrees
    child = pathlib.Path(f"/proc/{(empty.folder / 'child.txt').read_text().strip()}/stat")
    deadline = time.monotonic() + 30
    while child.exists() and child.read_text().rsplit(")", 1)[1].split()[0] != "Z":
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_what_is_posted_is_signed_over_its_time_and_body(empty: Project, listener: http.server.HTTPServer) -> None:
    secret = empty.folder / "secret"
    secret.write_text("long and random\n")
    secret.chmod(0o600)
    hook = address(listener, secret_file="secret")
    assert ways.send(empty, hook, {"schema": "covey.event/1", "subject": "é"}).agrees
    [(headers, body)] = Listener.taken
    signed = headers["X-Covey-Timestamp"].encode() + b"." + body
    assert headers["X-Covey-Signature"] == "sha256=" + hmac.new(b"long and random", signed, hashlib.sha256).hexdigest()
    assert json.loads(body)["subject"] == "é"
    secret.chmod(0o644)
    answer = ways.send(empty, hook, {})
    assert not answer.agrees
    assert "others can read the secret" in answer.words
    assert len(Listener.taken) == 1, "nothing is posted without the signature"


def test_an_address_that_says_no_or_elsewhere_or_is_gone_was_not_told(
    empty: Project, listener: http.server.HTTPServer
) -> None:
    Listener.answers = [
        (503, {}, b"come back later\nplease"),
        (302, {"Location": f"http://127.0.0.1:{listener.server_port}/other"}, b""),
        (304, {}, b""),
        (200, {}, b"thanks"),
    ]
    hook = address(listener)
    said = [ways.send(empty, hook, {}) for _ in range(4)]
    assert [answer.agrees for answer in said] == [False, False, False, True]
    assert [answer.words for answer in said] == ["HTTP 503: come back later", "HTTP 302", "HTTP 304", "thanks"]
    assert len(Listener.taken) == 4, "the other place was not asked"
    gone = HookSettings(name="own", url="http://127.0.0.1:9/x", on=("*",))
    assert not ways.send(empty, gone, {}).agrees


def test_a_program_that_speaks_without_end_fills_no_disk(empty: Project) -> None:
    code = (
        "import os, time; os.write(1, b'so far so good' + 8_000_000 * b'!')\n"
        "while os.fstat(1).st_blocks > 1000: time.sleep(0.01)"
    )
    answer = ways.send(empty, program(code, timeout_s=60), {})
    assert answer.agrees, "what it said beyond a few words was let go of"
    assert answer.words.startswith("so far so good!")


@pytest.mark.parametrize(
    ("headers", "body"),
    [
        ({"Content-Encoding": "gzip"}, b"thanks"),
        ({"Content-Encoding": ", ".join(["gzip"] * 50)}, b"thanks"),
        ({"Transfer-Encoding": "chunked"}, b"no number\r\n"),
    ],
)
def test_an_answer_that_can_not_be_read_is_a_no_that_counts_as_a_try(
    empty: Project, empty_store: Store, listener: http.server.HTTPServer, headers: dict[str, str], body: bytes
) -> None:
    hook = address(listener)
    telling.serve(empty, empty_store, hook)
    empty_store.audit.add("promoted", "m@v2", actor="ada")
    Listener.answers = [(200, headers, body)]
    assert telling.serve(empty, empty_store, hook)
    known = empty_store.hooks.meet("own")
    assert known["tries"] == 1
    assert known["error"].startswith("no answer: ")


def test_an_address_that_drips_its_answer_has_no_more_time_than_any(
    empty: Project, listener: http.server.HTTPServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    def drip(self: Listener) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        self.wfile.write(b"HTTP/1.1 200 OK\r\nX-Slow: ")
        with contextlib.suppress(OSError):
            for _ in range(400):
                self.wfile.write(b"x")
                if hung_up.wait(0.05):
                    return
            self.wfile.write(b"\r\nContent-Length: 0\r\n\r\n")

    hung_up = threading.Event()
    monkeypatch.setattr(Listener, "do_POST", drip)
    answer = ways.send(empty, address(listener, timeout_s=0.5), {})
    hung_up.set()
    assert not answer.agrees
    assert answer.words.startswith("no answer")


def test_a_worker_that_stops_does_not_wait_for_an_address(
    empty: Project, listener: http.server.HTTPServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stay(self: Listener) -> None:
        asked.set()
        stopped.wait(60)
        self.send_response(200)
        self.end_headers()

    def stop_once_asked() -> None:
        asked.wait(60)
        stop.set()

    asked, stopped, stop = threading.Event(), threading.Event(), threading.Event()
    monkeypatch.setattr(Listener, "do_POST", stay)
    threading.Thread(target=stop_once_asked, daemon=True).start()
    answer = ways.send(empty, address(listener, timeout_s=60), {}, stop)
    stopped.set()
    assert not answer.agrees


def test_the_worker_tells_hooks_and_a_slow_one_holds_up_no_other(empty: Project) -> None:
    text = (empty.folder / "covey.toml").read_text()
    slow = '[[hook]]\nname = "slow"\non = ["*"]\ncommand = ["sleep", "300"]\ntimeout_s = 600\n'
    quick = f'[[hook]]\nname = "quick"\non = ["data add"]\ncommand = ["python3", "-c", {json.dumps(TOLD)}]\n'
    (empty.folder / "covey.toml").write_text(text + slow + quick)
    stop, worker = threading.Event(), Worker(load_project(empty.folder))
    with builders.opened(empty) as store:
        for name in ("slow", "quick"):
            store.hooks.meet(name)
        store.audit.add("data add", "sales", actor="ada")
    thread = threading.Thread(target=worker.run, args=(stop,))
    thread.start()
    deadline = time.monotonic() + 60
    while not (empty.folder / "told.txt").exists():
        assert time.monotonic() < deadline
        time.sleep(0.05)
    stop.set()
    thread.join(60)
    assert not thread.is_alive(), "it does not wait for the slow one"
    with builders.opened(empty) as store:
        assert (store.hooks.n_waiting("slow", ("*",)), store.hooks.meet("slow")["tries"]) == (1, 0)


def test_every_word_of_the_audit_log_can_be_told_and_no_other_is_accepted() -> None:
    folder = pathlib.Path(cloud.__file__).parent
    code = "\n".join(path.read_text() for path in folder.rglob("*.py"))
    written = set(re.findall(r'audit\.add\(\s*"([^"]+)"', code)) | set(re.findall(r'log\(here, "([^"]+)"', code))
    written |= {f"key {verb}" for verb in re.findall(r'carry_out\(here, "(\w+)"', code)}
    written |= {"candidate dropped", "candidate not chosen", "gate refused", "model train"}
    written |= {f"rollout {action}" for action in ("pause", "resume", "abort", "undo", "approve")}
    written |= {f"device {action}" for action in ("approve", "reject", "retire", "rotate")}
    assert len(written) > 25
    assert written == set(typing.get_args(Happening)) - {"*"}


# ---- asking

MAX_DAYS = "max_days = 40\n"
BOARD = """[[hook]]
name = "board"
before = ["stage", "promotion"]
command = ["python3", "-c", "import sys, json, os; q = json.load(sys.stdin); os.path.exists('no') and sys.exit('not today'); print(json.dumps(q), file=open('asked.txt', 'a'))"]
"""  # noqa: E501 - a line of TOML


@pytest.fixture
def fleet(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> typing.Iterator[Fleet]:
    made = Fleet(tmp_path / "p", monkeypatch, n=4, rollout=MAX_DAYS + BOARD)
    made.store.audit.add("data add", "before the hook was met", actor="ada")
    yield made
    made.store.close()


def answer(fleet: Fleet) -> None:
    """Let the hook answer whatever it is asked."""
    [board] = fleet.project.settings.hook
    all_due(fleet.store)
    while fleet.store.hooks.open_questions() and telling.serve(fleet.project, fleet.store, board):
        if (fleet.project.folder / "no").exists():
            return


def days_with_answers(fleet: Fleet, n: int) -> None:
    for _ in range(n):
        fleet.days()
        answer(fleet)


def test_nothing_opens_and_nobody_is_promoted_before_the_hook_agrees(fleet: Fleet) -> None:
    number = fleet.start()
    fleet.days(3)
    assert not any(stage["opened_s"] for stage in fleet.store.rollouts.stages(number)), "it was asked, and said nothing"
    (fleet.project.folder / "no").touch()
    answer(fleet)
    fleet.days(2)
    assert not any(stage["opened_s"] for stage in fleet.store.rollouts.stages(number))
    view = course(fleet.project, fleet.store, number)
    assert view["waits_for"] == "the hook board, which says: not today"
    assert "waits for the hook board, which says: not today." in next_steps(view)[0]
    (fleet.project.folder / "no").unlink()
    days_with_answers(fleet, 8)
    assert fleet.row(number)["state"] == "promoted"
    asked = [json.loads(line) for line in (fleet.project.folder / "asked.txt").read_text().splitlines()]
    assert [one["before"] for one in asked] == ["stage", "stage", "stage", "promotion"]
    assert [one["stage"] and one["stage"]["region"] for one in asked] == ["west", "mid", "east", None]
    assert len(fleet.store.audit.all(action="hook agreed")) == 4


def test_a_person_goes_on_without_the_hook_and_says_why(fleet: Fleet) -> None:
    number = fleet.start()
    (fleet.project.folder / "no").touch()
    fleet.days()
    answer(fleet)
    assert fleet.order(number, "approve", reason="").startswith("not done: to go on without the hook board")
    assert fleet.order(number, "approve", reason="the board is on holiday") == "done"
    fleet.days(2)
    opened = [bool(stage["opened_s"]) for stage in fleet.store.rollouts.stages(number)]
    assert (opened[0], opened[-1]) == (True, False), "one word opens one stage"


def test_a_stage_that_somebody_approved_still_asks_the_hook(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = f"{MAX_DAYS}[rollout.region.west]\napprove = true\n{BOARD}"
    fleet = Fleet(tmp_path / "p", monkeypatch, n=4, rollout=plan)
    fleet.start()
    days_with_answers(fleet, 8)
    number, fleet.gain = fleet.start(), 0.05
    fleet.days()
    answer(fleet)
    fleet.until(lambda: bool(fleet.stages(number)["*"]["passed_s"]))
    assert fleet.order(number, "approve") == "done"
    (fleet.project.folder / "no").touch()
    fleet.days(2)
    answer(fleet)
    assert not fleet.stages(number)["west"]["opened_s"]
    (fleet.project.folder / "no").unlink()
    days_with_answers(fleet, 2)
    assert fleet.stages(number)["west"]["opened_s"]
    fleet.store.close()


def test_a_rollout_that_ends_for_want_of_a_hooks_word_says_so(fleet: Fleet) -> None:
    number = fleet.start()
    (fleet.project.folder / "no").touch()
    fleet.days()
    answer(fleet)
    fleet.days(41)
    said = "no verdict after 40 days: install west waits for the hook board, which says: not today"
    assert (fleet.row(number)["state"], fleet.row(number)["outcome"]) == ("aborted", said)


def test_what_goes_back_asks_nobody(fleet: Fleet) -> None:
    fleet.start()
    days_with_answers(fleet, 8)
    number = fleet.start()
    days_with_answers(fleet, 2)
    (fleet.project.folder / "no").touch()
    fleet.gain = -0.5
    fleet.until(lambda: fleet.row(number)["state"] != "running", most=20)
    assert fleet.row(number)["state"] == "rolled_back"


def test_a_hook_that_was_taken_out_of_the_settings_holds_nothing_up(fleet: Fleet) -> None:
    number = fleet.start()
    fleet.days(2)
    file = fleet.project.folder / "covey.toml"
    file.write_text(file.read_text().replace('before = ["stage", "promotion"]', 'on = ["promoted"]'))
    fleet.project = load_project(fleet.project.folder)
    fleet.days(8)
    assert fleet.row(number)["state"] == "promoted"


# ---- settings and commands


@pytest.mark.parametrize(
    ("table", "said"),
    [
        ('name = "own"\ncommand = ["x"]', "told of nothing and asked nothing"),
        ('name = "own"\non = ["promotd"]\ncommand = ["x"]', "hook[0].on[0]"),
        ('name = "own"\non = ["*"]', "give a command, or a url"),
        ('name = "own"\non = ["*"]\ncommand = ["x"]\nurl = "http://a"', "give a command, or a url"),
        ('name = "own"\non = ["*"]\nurl = "ftp://a"', "is no address"),
        *[
            (f'name = "own"\non = ["*"]\nurl = "{url}"', "is no address")
            for url in ("http://", "https:///x", "http://a:99999", "http://[::1", "http://a/\\u001b", "http:a")
        ],
        ('name = "own"\non = ["*"]\ncommand = [""]', "it has no program"),
        ('name = "own"\non = ["*"]\ncommand = ["x"]\nsecret_file = "s"', "only posts are signed"),
        ('name = "Own!"\non = ["*"]\ncommand = ["x"]', "hook[0].name"),
        ('name = "own\\n"\non = ["*"]\ncommand = ["x"]', "hook[0].name"),
        ('name = "own"\non = ["*"]\ncommand = ["x"]\ntimeout_s = 0', "hook[0].timeout_s"),
        ('name = "own"\non = ["*"]\ncommand = ["x"]\n[[hook]]\nname = "own"\non = ["*"]\ncommand = ["x"]', "two hooks"),
    ],
)
def test_a_hook_that_makes_no_sense_is_refused_by_its_field(empty: Project, table: str, said: str) -> None:
    file = empty.folder / "covey.toml"
    file.write_text(f"{file.read_text()}\n[[hook]]\n{table}\n")
    with pytest.raises(ConfigError, match=re.escape(said)):
        load_project(empty.folder)


def test_the_commands_list_hooks_and_try_one(
    empty: Project, listener: http.server.HTTPServer, capsys: pytest.CaptureFixture[str]
) -> None:
    def run(*arguments: str) -> typing.Any:
        done = CliRunner().invoke(cli, ["--project", str(empty.folder), "hook", *arguments, "--json"])
        return json.loads(done.output)

    assert run("list") == []
    file = empty.folder / "covey.toml"
    url = f"http://127.0.0.1:{listener.server_port}"
    file.write_text(f'{file.read_text()}\n[[hook]]\nname = "chat"\non = ["promoted"]\nurl = "{url}"\n')
    Listener.answers = [(200, {}, b"hello"), (500, {}, b"on fire")]
    assert run("test", "chat") == {"agrees": True, "words": "hello"}
    assert json.loads(Listener.taken[0][1])["action"] == "test"
    assert main(["--project", str(empty.folder), "hook", "test", "chat"]) == 7
    assert "chat did not take it: HTTP 500: on fire" in capsys.readouterr().err
    assert main(["--project", str(empty.folder), "hook", "test", "chart"]) == 5
    asked = '[[hook]]\nname = "board"\nbefore = ["stage"]\nurl = "http://127.0.0.1:9/"\n'
    file.write_text(f"{file.read_text()}\n{asked}")
    assert main(["--project", str(empty.folder), "hook", "test", "board"]) == 7
    assert "board did not agree: no answer: connection refused. It would" in capsys.readouterr().err
    file.write_text(file.read_text().replace('["promoted"]', '["promotd"]'))
    assert main(["--project", str(empty.folder), "hook", "list"]) == 2
    assert "invalid enum value 'promotd'. Did you mean 'promoted'?" in capsys.readouterr().err
    file.write_text(file.read_text().replace("promotd", "promoted").replace(asked, ""))
    assert [row["waits"] for row in run("list")] == [0]
    with builders.opened(empty) as store:
        store.audit.add("promoted", "m@v1", actor="ada")
    [row] = run("list")
    assert (row["name"], row["when"], row["told"], row["waits"]) == ("chat", "promoted", "never", 1)


def test_questions_are_listed_with_what_the_hook_said(fleet: Fleet, capsys: pytest.CaptureFixture[str]) -> None:
    number = fleet.start()
    (fleet.project.folder / "no").touch()
    fleet.days()
    answer(fleet)
    assert main(["--project", str(fleet.project.folder), "hook", "list"]) == 0
    said = capsys.readouterr().out
    assert f"board was asked before the stage install west of rollout {number} ({MODEL} v1): not today" in said


def test_the_doctor_finds_a_program_that_is_not_there_and_a_hook_that_can_not_be_told(
    empty: Project, capsys: pytest.CaptureFixture[str]
) -> None:
    file = empty.folder / "covey.toml"
    own = '\n[[hook]]\nname = "own"\non = ["promoted"]\ncommand = ["bin/tell"]\n'
    file.write_text(file.read_text() + own)

    def say() -> str:
        main(["--project", str(empty.folder), "doctor"])
        return capsys.readouterr().out

    assert "BAD  hooks: hook own.command: there is no program 'bin/tell'. Mend the path." in say()
    program = empty.folder / "bin" / "tell"
    program.parent.mkdir()
    program.write_text("#!/bin/sh\necho no room; exit 1\n")
    program.chmod(0o755)
    assert "ok   hooks: own" in say()
    project = load_project(empty.folder)
    with builders.opened(project) as store:
        store.audit.add("promoted", "m@v2", actor="ada")
        assert telling.serve(project, store, project.settings.hook[0])
    assert "BAD  hooks: own could not be told, tried 1 times: no room." in say()
