"""``covey-edge``: every command on a sound store, on none, on a damaged one, and with nonsense for options."""

from __future__ import annotations

import contextlib
import http.server
import io
import json
import logging
import pathlib
import shutil
import subprocess
import sys
import threading
import typing

import pytest

from edge_agent import cli
from edge_agent.config import Layout
from edge_agent.update.state import State
from shared.protocol import JoinToken
from tests import fakes

VERBS: dict[str, tuple[str, ...]] = {
    "run": (),
    "sync": (),
    "status": (),
    "predict": ("x=1", "colour=red", "size=0"),
    "versions": (),
    "rollback": (),
    "outbox": (),
    "doctor": (),
}
JSON_VERBS = ("sync", "status", "predict", "versions", "outbox", "doctor")


class Said(typing.NamedTuple):
    """What a command said."""

    status: int
    out: str
    err: str

    @property
    def json(self) -> typing.Any:
        return json.loads(self.out)


Run = typing.Callable[..., Said]


@pytest.fixture
def layout(tmp_path: pathlib.Path) -> Layout:
    """A device that has joined and has v1; nothing runs, and its cloud is away."""
    made = fakes.join(tmp_path / "store")
    fakes.install(made, fakes.make_bundle())
    return made


@pytest.fixture
def run(layout: Layout, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Run:
    """Run a command on the store; a refusal never shows a traceback."""
    monkeypatch.delenv("COVEY_STORE", raising=False)
    monkeypatch.setattr(logging.getLogger(), "handlers", [])  # `run` sets its own up

    def call(*arguments: str | pathlib.Path, store: pathlib.Path | None = None) -> Said:
        try:
            status = cli.main(["--store", str(store or layout.store), *map(str, arguments)])
        except SystemExit as err:
            status = int(err.code or 0)
        out, err_text = capsys.readouterr()
        assert "Traceback" not in err_text
        return Said(status, out, err_text)

    return call


def refused(said: Said, status: int, says: str = "") -> None:
    """One line on standard error says what is wrong, and the exit status fits."""
    assert said.status == status, said
    assert said.err.startswith("covey-edge: ")
    assert says in said.err


# ---- a sound store


def test_without_an_agent_each_command_does_what_it_can(run: Run, layout: Layout) -> None:
    generation = fakes.generations_of(layout).running()
    answer = run("predict", "--json", *VERBS["predict"])
    assert (answer.status, answer.json["label"], answer.json["parameters"]["version"]) == (0, 1, "v1")
    (row,) = run("versions", "--json").json["generations"]
    assert (row["generation"], row["running"], row["state"]) == (generation, True, "good")
    assert row["models"] == {"late": {"incumbent": "v1", "candidate": "", "also": []}}
    box = run("outbox", "--json")
    assert (box.status, box.json["waiting"]["sums"]) == (0, 1)
    state = run("status", "--json")
    assert (state.status, state.json["running"]) == (7, False)
    done = run("sync", "--json")
    assert (done.status, done.json["ok"], done.json["code"], done.json["models"]) == (
        7,
        False,
        "unreachable",
        ["late@v1"],
    )
    refused(run("rollback"), 7, "Start it: covey-edge run")
    found = run("doctor", "--json")
    assert found.status == 1
    assert [finding["name"] for finding in found.json if not finding["ok"]] == ["agent"]


def test_with_an_agent_each_command_asks_it(run: Run, layout: Layout) -> None:
    with fakes.running_agent(layout) as agent:
        fakes.wait_for(lambda: agent.engine.models and agent.engine.models["late"].incumbent.is_loaded.is_set())
        said = run("status", "--json")
        assert (said.status, said.json["running"], said.json["address"]) == (0, True, agent.address)
        assert said.json["labels"] == {"class": "standard"}
        assert said.json["models"]["late"]["incumbent"] == "v1"
        assert run("predict", "--json", *VERBS["predict"]).json["label"] == 1
        fakes.wait_for(lambda: run("status", "--json").json["totals"].get("requests") == 1)
        assert run("doctor").status == 0
        refused(run("rollback"), 1, "there is no good generation to go back to")
        refused(run("predict", "x=99"), 1, "outside -10..10")
        refused(run("predict", "--model", "m", "x=1"), 1, "no model 'm'")


def test_roll_back_returns_to_the_generation_before(run: Run, layout: Layout) -> None:
    before = fakes.generations_of(layout).running()
    bad = fakes.install(layout, fakes.make_bundle("v2", slope=2.0))
    with fakes.running_agent(layout) as agent:
        fakes.wait_for(lambda: agent.engine.generation == bad)
        assert run("rollback", "--json", "--reason", "it hums").json == {"active": before}
        assert agent.engine.generation == before
    rows = {row["generation"]: row for row in run("versions", "--json").json["generations"]}
    assert (rows[bad]["state"], rows[before]["state"], rows[before]["running"]) == ("bad", "good", True)
    assert run("versions", "--json").json["refused"] == [{"model": "late", "version": "v2", "reason": "it hums"}]
    assert "refused late@v2: it hums" in run("versions").out


@pytest.mark.parametrize("verb", JSON_VERBS)
def test_json_is_one_object_and_lines_for_people_are_not(run: Run, verb: str) -> None:
    run("predict", *VERBS["predict"])
    assert run(verb, "--json", *VERBS[verb]).json
    with pytest.raises(json.JSONDecodeError):
        json.loads(run(verb, *VERBS[verb]).out)


def test_rows_come_from_a_file_or_standard_input(
    run: Run, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = "".join(json.dumps(row) + "\n\n" for row in fakes.ROWS)
    file = tmp_path / "rows"
    file.write_text(rows)
    answers = [json.loads(line) for line in run("predict", "--json", "--file", file).out.splitlines()]
    expected = [fakes.expected(row, task="binary", slope=1.0, n_outputs=2) for row in fakes.ROWS]
    assert [answer["probabilities"] for answer in answers] == [pytest.approx(row, abs=1e-6) for row in expected]
    monkeypatch.setattr("sys.stdin", io.StringIO(rows))
    assert len(run("predict", "--file", "-").out.splitlines()) == 3


@pytest.mark.parametrize(
    ("verb", "says"), [("stauts", "no verb 'stauts'. Did you mean 'status'?"), ("x", "no verb 'x'. Known are: join, ")]
)
def test_a_mistyped_verb_is_answered_with_the_nearest_and_never_with_a_hidden_one(
    run: Run, verb: str, says: str
) -> None:
    said = run(verb)
    assert (said.status, says in said.err, "_self-test" in said.err) == (2, True, False)


# ---- no store, or a damaged one


@pytest.mark.parametrize("verb", VERBS)
def test_a_store_that_joined_nothing_says_how_to_join(run: Run, tmp_path: pathlib.Path, verb: str) -> None:
    said = run(verb, *VERBS[verb], store=tmp_path / "nowhere")
    if verb == "doctor":
        assert (said.status, "BAD  joined: " in said.out) == (1, True)
    else:
        refused(said, 5, "belongs to no fleet yet. Join one: covey-edge join URL --token TOKEN")


def spoil(path: pathlib.Path, how: str) -> None:
    """Damage a file."""
    data = path.read_bytes() if path.is_file() else b""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    path.unlink(missing_ok=True)
    if how == "folder":
        path.mkdir()
    elif how != "gone":
        path.write_bytes({"garbage": b"\xff\x00 garbage \xfe" * 500, "empty": b"", "half": data[: len(data) // 2]}[how])


def place(layout: Layout, what: str) -> pathlib.Path:
    """Path of something by the name it has in the layout, or in a generation."""
    if "." in what:
        (found,) = layout.generations.rglob(what)
        return found
    return typing.cast("pathlib.Path", getattr(layout, what))


THINGS = (
    "identity", "settings", "state_db", "spool_db", "current", "device_key", "id_key", "tuf", "blobs",
    "generations", "generation.json", "manifest.json", "model.onnx",
)  # fmt: skip


@pytest.mark.parametrize("how", ["garbage", "half", "folder", "gone"])
@pytest.mark.parametrize("what", THINGS)
def test_whatever_is_damaged_no_command_falls_over(run: Run, layout: Layout, what: str, how: str) -> None:
    layout.settings.write_text("[serve]\nport = 0\n")
    assert run("predict", *VERBS["predict"]).status == 0
    spoil(place(layout, what), how)
    for verb in ("sync", "status", "predict", "versions", "outbox", "doctor"):
        said = run(verb, "--json", *VERBS[verb])
        assert said.status in (0, 1, 2, 5, 6, 7), (verb, said)
        if said.out:
            assert json.loads(said.out)
        else:
            refused(said, said.status)


class Damaged(typing.NamedTuple):
    """A file that is damaged, a command, and what that says."""

    what: str
    how: str
    verb: str
    status: int
    says: str


@pytest.mark.parametrize(
    "row",
    [
        Damaged("identity", "half", "status", 1, "covey.identity/1: can not be read"),
        Damaged("settings", "garbage", "predict", 2, "edge.toml: not UTF-8 text"),
        Damaged("state_db", "garbage", "versions", 1, "state.db is damaged: file is not a database. Move it aside"),
        Damaged("spool_db", "half", "outbox", 1, "spool.db is damaged: database disk image is malformed"),
        Damaged("spool_db", "folder", "predict", 6, "spool.db can not be opened"),
        Damaged("current", "gone", "predict", 5, "there is no model on this device yet. Fetch one: covey-edge sync"),
        Damaged("device_key", "garbage", "sync", 2, "device.pem: can not be read as a key"),
        Damaged("generation.json", "gone", "predict", 5, "is not on this device"),
        Damaged("generation.json", "half", "versions", 1, "covey.generation/1: can not be read"),
        Damaged("model.onnx", "garbage", "predict", 1, "late@v1: does not load"),
    ],
    ids=str,
)
def test_damage_is_named(run: Run, layout: Layout, row: Damaged) -> None:
    assert run("predict", *VERBS["predict"]).status == 0
    spoil(place(layout, row.what), row.how)
    refused(run(row.verb, *VERBS[row.verb]), row.status, row.says)


@pytest.mark.parametrize(
    ("what", "how", "name", "says"),
    [
        ("settings", "garbage", "settings", "not UTF-8 text"),
        ("identity", "empty", "joined", "covey.identity/1"),
        ("device_key", "gone", "keys", "device.pem"),
        ("model.onnx", "garbage", "files", "model.onnx ("),
        ("manifest.json", "half", "files", "manifest.json is damaged"),
        ("current", "folder", "files", "current"),
    ],
)
def test_the_doctor_finds_it(run: Run, layout: Layout, what: str, how: str, name: str, says: str) -> None:
    path = place(layout, what)
    if what == "model.onnx":  # files of a generation are links to blobs
        manifest = fakes.make_bundle().manifest.file(what)
        assert manifest
        path = layout.blobs / manifest.sha256
    spoil(path, how)
    found = {finding["name"]: finding for finding in run("doctor", "--json").json}
    assert (found[name]["ok"], says in found[name]["detail"]) == (False, True), found[name]


def test_the_doctor_finds_a_key_that_others_can_read_and_a_version_that_failed(run: Run, layout: Layout) -> None:
    layout.device_key.chmod(0o644)
    assert f"chmod 600 {layout.device_key}" in run("doctor").out
    with contextlib.closing(State(layout.state_db)) as state:
        state.refuse("late", "v2", "00", "it hums")
    with fakes.running_agent(layout):
        assert "BAD  agent: late@v2 failed on this device: it hums" in run("doctor").out


# ---- nonsense on the command line

TOKEN = str(JoinToken("a", "b", "c"))
NONSENSE: list[tuple[tuple[str, ...], int, str]] = [
    ((), 2, "VERB"),
    (("dance",), 2, "no verb 'dance'. Known are: join"),
    (("status", "--jason"), 2, "--jason"),
    (("join", "http://127.0.0.1:9"), 2, "--token"),
    (("join", "ftp://here", "--token", TOKEN), 2, "'ftp://here' is not an address"),
    (("join", "http://127.0.0.1:9", "--token", "nonsense"), 2, "this is not a join token"),
    (("join", "http://127.0.0.1:9", "--token", "@/nowhere"), 5, "/nowhere"),
    (("join", "http://127.0.0.1:9", "--token", f"@{sys.executable}"), 2, "this is not a join token"),
    (("join", "http://127.0.0.1:9", "--token", TOKEN, "--wait", "nan"), 2, "--wait"),
    (("join", "http://127.0.0.1:9", "--token", TOKEN, "--wait", "-1"), 2, "--wait"),
    (("run", "--port", "http"), 2, "--port"),
    (("run", "--port", "70000"), 2, "--port: 70000 is not a port. Use 0 to 65535."),
    (("run", "--port", "-1"), 2, "--port"),
    (("predict",), 2, "NAME=VALUE: give the features of one row, or --file"),
    (("predict", "x"), 2, "'x' is not NAME=VALUE"),
    (("predict", "=1"), 2, "'=1' is not NAME=VALUE"),
    (("predict", "x=1", "--file", "-"), 2, "give the features of one row, or --file"),
    (("predict", "--file", "/nowhere"), 1, "/nowhere"),
    (("predict", "--file", sys.executable), 2, "--file: not UTF-8 text"),
    (("predict", "x=NaN"), 1, "body: not JSON"),
    (("predict", "x=1e999"), 1, "body: not JSON"),
    (("predict", "x=" + "9" * 5000), 1, "x"),
    (("predict", "x=" + "[" * 50_000), 1, "x"),
    (("predict", "x=one"), 1, "x"),
    (("predict", "y=1"), 1, "y: no feature reads this"),
    (("outbox", "burn"), 2, "invalid choice: 'burn'"),
    (("_self-test", "/nowhere", "1000000000000"), 1, "/nowhere"),
]


def test_what_a_cloud_says_is_one_line_and_never_obeyed(run: Run, tmp_path: pathlib.Path) -> None:
    said = "not you \x1b[2J\ncovey-edge: joined as till-1 \u202e"

    class Rude(http.server.BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = json.dumps({"detail": said}).encode()
            self.send_response(401)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            """Say nothing."""

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Rude) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.02,))
        thread.start()
        at = f"http://127.0.0.1:{server.server_port}"
        answered = run("join", at, "--token", TOKEN, "--name", "till-1", store=tmp_path / "new")
        server.shutdown()
        thread.join()
    assert (answered.status, answered.err.count("\n")) == (4, 1)
    assert "not you \\x1b[2J\\ncovey-edge: joined as till-1 \\u202e" in answered.err


@pytest.mark.parametrize(("arguments", "status", "says"), NONSENSE, ids=lambda value: str(value)[:60])
def test_nonsense_is_refused_by_name(run: Run, arguments: tuple[str, ...], status: int, says: str) -> None:
    said = run(*arguments)
    assert (said.status, says in said.err) == (status, True), said


@pytest.mark.parametrize(
    ("lines", "says"),
    [("not json", "line 2: not JSON"), ("[1]", "line 2: not a JSON object"), ("[" * 90_000, "line 2: not JSON")],
)
def test_a_file_of_rows_that_makes_no_sense_is_refused_with_its_line(
    run: Run, tmp_path: pathlib.Path, lines: str, says: str
) -> None:
    file = tmp_path / "rows"
    file.write_text(f"{json.dumps(fakes.ROWS[0])}\n{lines}\n")
    refused(run("predict", "--file", file), 2, says)


@pytest.mark.parametrize(
    ("name", "value", "says"),
    [
        ("COVEY_SERVE__PORT", "http", "serve.port"),
        ("COVEY_SERVE__PROT", "80", "Did you mean 'port'?"),
        ("COVEY_SPOOL__LIMIT_BYTES", "1", "spool.limit_bytes"),
        ("COVEY_SYNC__TIMEOUT_S", "nan", "sync.timeout_s"),
    ],
)
def test_a_setting_in_the_environment_that_makes_no_sense_is_named(
    run: Run, monkeypatch: pytest.MonkeyPatch, name: str, value: str, says: str
) -> None:
    monkeypatch.setenv(name, value)
    refused(run("predict", *VERBS["predict"]), 2, says)


def test_a_traceback_is_shown_to_who_asks_for_it(layout: Layout, capsys: pytest.CaptureFixture[str]) -> None:
    layout.identity.unlink()
    assert cli.main(["--debug", "--store", str(layout.store), "status"]) == 5
    assert "Traceback" in capsys.readouterr().err


# ---- run, as a process


def run_process(layout: Layout, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "edge_agent.cli", "--store", str(layout.store), "run", "--no-sync", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)


@pytest.mark.parametrize(
    ("what", "status", "says"),
    [("identity", 1, "covey.identity/1"), ("settings", 2, "edge.toml"), ("state_db", 1, "state.db is damaged")],
)
def test_run_refuses_to_start_on_damage(layout: Layout, what: str, status: int, says: str) -> None:
    spoil(place(layout, what), "garbage")
    done = run_process(layout, "--port", "0")
    assert (done.returncode, says in done.stderr, "Traceback" in done.stderr) == (status, True, False), done


def test_run_says_which_other_process_is_in_the_way(layout: Layout, tmp_path: pathlib.Path) -> None:
    with fakes.running_agent(layout) as agent:
        done = run_process(layout, "--port", "0")
        assert (done.returncode, "another process. An agent or a Predictor serves" in done.stderr) == (6, True), done
        other = fakes.join(tmp_path / "other")
        done = run_process(other, "--port", agent.address.rpartition(":")[2])
        assert (done.returncode, "address already in use" in done.stderr.lower()) == (6, True), done
        assert "Traceback" not in done.stderr
