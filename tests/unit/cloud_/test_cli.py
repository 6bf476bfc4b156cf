"""Every ``covey`` command: help, JSON, dry runs; and what it says, in one line, when something is wrong."""

from __future__ import annotations

import atexit
import fcntl
import functools
import hashlib
import io
import json
import pathlib
import re
import shutil
import sqlite3
import subprocess
import sys
import tempfile
import types
import typing

import click
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from cloud.cli.main import COMMANDS, cli, main
from cloud.config import load_project
from cloud.publish.keys import load_signer
from cloud.store.store import Store
from shared import carried, codec
from shared.telemetry import Batch, DeviceStatus
from tests.unit.cloud_ import builders

GOLDEN = '{"schema":"covey.decide/1","mode":"ab"}'
NO_PROJECT = {"init", "demo", "experiment decide", "key sign"}
FOREVER = {"serve", "demo"}


class Ran(typing.NamedTuple):
    """What a command did."""

    status: int
    out: str
    err: str


def commands() -> dict[str, click.Command]:
    """Every command by its path, hidden ones too."""
    context = click.Context(cli)
    found: dict[str, click.Command] = {}
    for name in COMMANDS:
        command = cli.get_command(context, name)
        assert command is not None
        if isinstance(command, click.Group):
            found |= {f"{name} {sub}": leaf for sub, leaf in command.commands.items()}
        else:
            found[name] = command
    return found


ALL = commands()


def has(command: click.Command, flag: str) -> bool:
    return any(flag in parameter.opts for parameter in command.params)


# How each command is called on a project with v1 everywhere, devices till-1 and till-5 (pinned, and set aside), and
# rows in rows.csv.
CALLS: dict[str, list[str]] = {
    "init": ["new", "--regions", "a,b"],
    "doctor": [],
    "status": [],
    "data add": ["rows.csv"],
    "data list": [],
    "data show": ["DATA"],
    "feature show": [],
    "feature check": ["features/sales.toml"],
    "model train": ["--why", "a test"],
    "model finetune": ["--why", "a test"],
    "model override": ["v1", "--reason", "a test"],
    "model list": [],
    "model show": ["@incumbent"],
    "model lineage": [],
    "bundle build": ["v1"],
    "bundle export": ["stick"],
    "bundle show": ["v1"],
    "bundle verify": ["v1"],
    "device token": ["--region", "south", "--uses", "2"],
    "device list": [],
    "device show": ["till-1"],
    "device approve": ["till-2"],
    "device reject": ["till-3"],
    "device preauthorise": ["till-4", "--key", "04" * 32],
    "device rotate": ["till-1"],
    "device retire": ["till-1", "--yes"],
    "device label": ["till-1", "store=flagship", "--reason", "a test"],
    "device pin": ["till-1", builders.MODEL, "v1", "--reason", "a test"],
    "device unpin": ["till-5", builders.MODEL],
    "device release": ["till-5", "--reason", "a new card"],
    "device import-telemetry": ["carried"],
    "hook list": [],
    "hook test": ["agrees"],
    "key list": [],
    "key create": ["root"],
    "key rotate": ["online", "--reason", "a test", "--yes"],
    "key add": ["root", "--reason", "a test", "--yes"],
    "key threshold": ["targets", "2", "--reason", "a test", "--yes"],
    "key revoke": ["targets", "KEY", "--reason", "a test", "--yes"],
    "key renew": ["targets", "--reason", "a test", "--yes"],
    "key sign": ["asked.json", "--key", "keys/root.pem", "--yes"],
    "key apply": ["asked.json", "--yes"],
    "rollout start": ["v2"],
    "rollout list": [],
    "rollout show": ["1"],
    "rollout status": ["1"],
    "rollout plan": [],
    "rollout lint": [],
    "rollout approve": ["1", "--wait", "0"],
    "rollout pause": ["1", "--wait", "0"],
    "rollout resume": ["1", "--wait", "0"],
    "rollout abort": ["1", "--wait", "0"],
    "rollout undo": ["1", "--wait", "0"],
    "experiment decide": [],
    "trigger list": [],
    "audit": ["--limit", "5"],
    "worker": ["--once"],
    "job": ["1"],
    "serve": [],
    "demo": [],
}


@functools.cache
def _template() -> pathlib.Path:
    """A project with v1 in every region, a signed v2, and a device; made once in a process."""
    folder = pathlib.Path(tempfile.mkdtemp(prefix="covey-test-")) / "shop"
    atexit.register(shutil.rmtree, folder.parent, ignore_errors=True)
    project = builders.trained_project(folder)
    (folder / "rows.csv").write_bytes(builders.csv_bytes(builders.sales(3, first_day=20)))
    with builders.opened(project) as store:
        builders.fit(project, store, why="the second")
    assert main(["--project", str(folder), "rollout", "start", "v1"]) == 0
    for _ in range(4):
        assert main(["--project", str(folder), "worker", "--once"]) == 0
    with builders.opened(project) as store:
        assert store.rollouts.get(1)["state"] == "promoted"
        token = (project.keys / "join-token").read_text().strip().split(".")
        # A second key for the targets, and a request that asks for the root's signature.
        assert main(["--project", str(folder), "key", "add", "targets", "--reason", "a test", "--yes"]) == 0
        (project.keys / "root.pem").rename(folder / "root.pem")
        asked = ["--reason", "a test", "--yes", "--request", str(folder / "asked.json")]
        assert main(["--project", str(folder), "key", "renew", "root", *asked]) == 0
        (folder / "root.pem").rename(project.keys / "root.pem")
        store.fleet.join("till-1", "00" * 32, token[1], token[2])
        store.fleet.add_token("by-hand", "secret", "north", uses=9, lifetime_s=60, approve=True)
        for i in (2, 3):
            store.fleet.join(f"till-{i}", f"{i:02}" * 32, "by-hand", "secret")
        _carry(store, folder / "carried")
        store.pins.set("till-5", builders.MODEL, "v1", actor="ada", reason="a test")
        store.aside.put("till-5", from_day=0, until_day=99, least=3, why="a test", kept={})
    with (folder / "covey.toml").open("a") as file:
        file.write('\n[[hook]]\nname = "agrees"\non = ["alarm"]\ncommand = ["true"]\n')
    return folder


def _carry(store: Store, folder: pathlib.Path) -> None:
    """Let a device join, and put a batch of it into a folder, signed."""
    key = Ed25519PrivateKey.generate()
    store.fleet.add_token("carried", "secret", "north", uses=1, lifetime_s=60)
    store.fleet.join("till-5", key.public_key().public_bytes_raw().hex(), "carried", "secret")
    batch = Batch(device="till-5", spool="s", sequence=1, sent_s=1.0, status=DeviceStatus())
    body = codec.compress(codec.to_msgpack(batch))
    signature = key.sign(carried.batch_message("till-5", "s", 1, body)).hex()
    made = carried.CarriedBatch(device="till-5", spool="s", sequence=1, body=body, signature=signature)
    folder.mkdir()
    (folder / "one.batch").write_bytes(codec.to_msgpack(made))


class Shop:
    """A project, and somebody who types commands in it."""

    def __init__(self, folder: pathlib.Path, capsys: pytest.CaptureFixture[str]) -> None:
        self.folder, self._capsys = folder, capsys

    def __call__(self, *arguments: str, project: pathlib.Path | None = None) -> Ran:
        self._capsys.readouterr()
        status = main(["--project", str(project or self.folder), *arguments])
        return Ran(status, *self._capsys.readouterr())

    def call(self, path: str, *more: str) -> Ran:
        """Run a command as CALLS has it."""
        with builders.opened(load_project(self.folder)) as store:
            data = store.datasets.latest(builders.MODEL)["version"]
        named = {"DATA": data}
        if "KEY" in CALLS[path]:
            named["KEY"] = load_signer(self.folder / "keys", "targets").public_key.keyid
        return self(*path.split(), *[named.get(word, word) for word in CALLS[path]], *more)

    def trace(self) -> dict[str, str]:
        """Content of every file, and every row, of the project."""
        found = {
            str(path.relative_to(self.folder)): hashlib.sha256(path.read_bytes()).hexdigest()
            for path in sorted(self.folder.rglob("*"))
            if path.is_file() and not path.name.startswith("covey.db") and path.suffix != ".lock"
        }
        with sqlite3.connect(self.folder / "var" / "covey.db") as db:
            found["rows"] = "\n".join(db.iterdump())
        db.close()
        return found


@pytest.fixture
def shop(tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Shop:
    shutil.copytree(_template(), tmp_path / "shop")
    monkeypatch.chdir(tmp_path / "shop")
    monkeypatch.setattr(sys, "stdin", types.SimpleNamespace(buffer=io.BytesIO(b""), isatty=lambda: False))
    return Shop(tmp_path / "shop", capsys)


def one_line(ran: Ran, status: int, *says: str) -> None:
    """Check that a command failed as it should: one line, no traceback, everything named."""
    assert ran.status == status, ran
    assert ran.err.startswith("covey: "), ran
    assert ran.err.count("\n") == 1, ran.err
    assert "Traceback" not in ran.err
    for words in says:
        assert words in ran.err, ran.err


# ---- all commands alike


def test_every_command_is_called_here() -> None:
    assert set(CALLS) == set(ALL)


@pytest.mark.parametrize("path", ["", *sorted({path.split()[0] for path in ALL if " " in path}), *ALL])
def test_help_says_what_a_command_does_and_names_every_option(path: str, shop: Shop) -> None:
    ran = shop(*path.split(), "--help")
    assert (ran.status, ran.err) == (0, "")
    assert ran.out.startswith("Usage: covey")
    if path in ALL:
        for parameter in ALL[path].params:
            if isinstance(parameter, click.Option) and not parameter.hidden:
                assert parameter.opts[0] in ran.out
                assert parameter.help, f"{path} {parameter.opts[0]} says nothing"


@pytest.mark.parametrize(
    "path", [path for path, command in ALL.items() if has(command, "--json") and path not in FOREVER]
)
def test_json_is_one_object_or_list_and_nothing_else(path: str, shop: Shop) -> None:
    if path == "model override":
        one_line(shop.call(path, "--json"), 6, "v1")
        return
    if path == "model finetune":
        shop.call("data add")
    ran = shop.call(path, "--json")
    # A shop without devices has much that is odd about its plan.
    assert (ran.status, ran.err) == (3 if path == "rollout lint" else 0, ""), ran
    assert isinstance(json.loads(ran.out), dict | list)
    assert "NaN" not in ran.out
    assert "Infinity" not in ran.out


@pytest.mark.parametrize("path", [path for path, command in ALL.items() if has(command, "--dry-run")])
def test_a_dry_run_says_what_it_would_do_and_writes_nothing(path: str, shop: Shop) -> None:
    shop("status")  # whatever opening a project makes, it has made
    before = shop.trace()
    ran = shop.call(path, "--dry-run")
    assert ran.status == 0, ran
    assert "would" in ran.out
    assert shop.trace() == before


def test_dry_runs_are_told_from_real_ones(shop: Shop) -> None:
    before = shop.trace()
    assert shop.call("rollout start").status == 0
    assert shop.trace() != before


@pytest.mark.parametrize("path", [path for path in ALL if path not in NO_PROJECT])
def test_without_a_project_every_command_says_how_to_make_one(path: str, shop: Shop, tmp_path: pathlib.Path) -> None:
    ran = shop(*path.split(), *CALLS[path], project=tmp_path / "nowhere")
    if path == "doctor":
        assert (ran.status, "BAD  covey.toml" in ran.out) == (1, True)
    else:
        one_line(ran, 5, "covey.toml", "Make a project: covey init NAME")


@pytest.mark.parametrize("path", [path for path in ALL if path not in NO_PROJECT])
@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        ("[regions]", "[regions", "covey.toml: not valid TOML"),
        ("online_window_s", "online_windows_s", "covey.toml line 4: serve"),
        ("min_devices = 2", 'min_devices = "many"', "rollout.min_devices"),
    ],
)
def test_a_damaged_covey_toml_is_named_with_line_or_key(path: str, old: str, new: str, says: str, shop: Shop) -> None:
    text = (shop.folder / "covey.toml").read_text()
    assert old in text
    (shop.folder / "covey.toml").write_text(text.replace(old, new))
    ran = shop(*path.split(), *CALLS[path])
    if path == "doctor":
        assert (ran.status, says in ran.out) == (1, True), ran
    else:
        one_line(ran, 2, says)


_WITHOUT_DATABASE = {
    "feature show", "feature check", "serve", "model train", "key list", "key revoke", "bundle export", "hook test",
}  # fmt: skip


@pytest.mark.parametrize("path", [path for path in ALL if path not in NO_PROJECT | _WITHOUT_DATABASE])
def test_a_damaged_database_is_said_to_be_one(path: str, shop: Shop) -> None:
    for file in (shop.folder / "var").glob("covey.db*"):
        file.unlink()
    (shop.folder / "var" / "covey.db").write_bytes(b"not a database at all" * 1000)
    ran = shop(*path.split(), *CALLS[path])
    if path == "doctor":
        assert (ran.status, "BAD  database: file is not a database" in ran.out) == (1, True), ran
    else:
        one_line(ran, 1, "file is not a database")


@pytest.mark.parametrize(
    ("role", "path"),
    [("bundles", "model train"), ("online", "rollout start"), ("online", "worker"), ("online", "doctor")],
)
def test_a_missing_key_is_named_with_its_path(role: str, path: str, shop: Shop) -> None:
    (shop.folder / "keys" / f"{role}.pem").unlink()
    ran = shop.call(path)
    if path == "rollout start":
        assert ran.status == 0  # asking needs no key
        ran = shop("worker", "--once")
    if path == "doctor":
        assert (ran.status, f"{role}.pem" in ran.out) == (1, True)
    elif path != "worker":  # which has nothing to sign
        one_line(ran, 5, f"keys/{role}.pem", "Bring it, or restore it.")


def test_a_key_that_others_can_read_is_refused(shop: Shop) -> None:
    (shop.folder / "keys" / "bundles.pem").chmod(0o644)
    one_line(shop.call("model train"), 2, "bundles.pem", "chmod 600")


# ---- values that make no sense


WRONG: list[tuple[str, int, str]] = [
    ("init shop", 6, "is a project already"),
    ("init new --regions a,,b", 2, "--regions"),
    ("init new --from rows.csv", 2, "--label"),
    ("init new --from rows.csv --label sold --time noon", 2, "--time"),
    ("init new --from nothing.csv --label sold --time at", 1, "nothing.csv: no such file"),
    ("data add nothing.csv", 1, "nothing.csv: no such file"),
    ("data add rows.csv --set ../x", 2, "--set"),
    ("data add rows.csv --features features/none.toml", 2, "features/none.toml"),
    ("data add rows.csv --model rain", 5, "model: no model 'rain'"),
    ("data show x", 5, "no data version 'x'"),
    ("feature check features/none.toml", 2, "features/none.toml"),
    ("feature check ../../etc/hostname", 2, "hostname"),
    ("model train --model rain", 5, "Known are: sales"),
    ("model train --data none", 5, "none"),
    ("model finetune --from v9", 5, "no version 'v9'"),
    ("model finetune --from nine", 2, "nine"),
    ("model show v9", 5, "Known are: v1, v2"),
    ("model show @candidate", 5, "no rollout of sales is running"),
    ("bundle show v9", 5, "no version 'v9'"),
    ("bundle verify @nobody", 2, "@nobody"),
    ("device token --region mars", 2, "Known are: north, south"),
    ("device token --uses 0", 2, "--uses"),
    ("device token --hours 0", 2, "some time"),
    ("device token --hours nan", 2, "--hours"),
    ("device token --hours inf", 2, "--hours"),
    ("device token --uses 99999999999999999999", 2, "--uses"),
    ("device show nobody", 5, "no device 'nobody'"),
    ("device retire nobody --yes", 5, "no device 'nobody'"),
    ("device retire till-1", 2, "--yes"),
    ("rollout start v1", 6, "is the incumbent already"),
    ("rollout start v9", 5, "no version 'v9'"),
    ("rollout show 9", 5, "no rollout 9"),
    ("rollout status 9", 5, "no rollout 9"),
    ("rollout status 1 --timeout soon", 2, "--timeout"),
    ("rollout status 1 --timeout infs", 2, "--timeout"),
    ("rollout status 1 --timeout nand", 2, "--timeout"),
    ("rollout status 1 --timeout -1s", 2, "--timeout"),
    ("rollout pause 9", 5, "no rollout 9"),
    ("rollout undo 99999999999999999999", 2, "NUMBER"),
    ("rollout pause 1 --wait nan", 2, "--wait"),
    ("trigger list --model rain", 5, "no model 'rain'"),
    ("job 9", 5, "no job 9"),
    ("serve --port 0", 2, "--port"),
    ("serve --port 99999", 2, "--port"),
    ("demo --devices 3", 2, "--devices"),
    ("demo --speed nan", 2, "--speed"),
]


def test_a_label_that_names_each_row_makes_no_project(shop: Shop) -> None:
    rows = [f"S{n},2025-01-01T10:{n:02},{n % 7}" for n in range(40)]
    (shop.folder / "sales.csv").write_text("\n".join(["sale,at,price", *rows]) + "\n")
    ran = shop("init", str(shop.folder.parent / "new"), "--from", "sales.csv", "--label", "sale", "--time", "at")
    one_line(ran, 1, "sale: the label has 40 different words in 40 rows. Choose a column that says what came of a row")
    assert not (shop.folder.parent / "new").exists()


@pytest.mark.parametrize(("line", "status", "says"), WRONG, ids=[line for line, _, _ in WRONG])
def test_what_makes_no_sense_is_refused_in_one_line_that_names_it(
    line: str, status: int, says: str, shop: Shop
) -> None:
    words = line.split()
    if words[0] == "init":
        words[1] = str(shop.folder.parent / words[1])
    before = shop.trace()
    ran = shop(*words)
    assert (ran.status, "Traceback" in ran.err) == (status, False), ran
    assert says in ran.err
    assert len(ran.err.strip().splitlines()) == 1 or ran.err.startswith("Usage: ")
    assert shop.trace() == before


@pytest.mark.parametrize(
    ("line", "says"),
    [("rolout", "Did you mean 'rollout'?"), ("rollout strat", "Did you mean 'start'?"), ("data add", "FILE"),
     ("audit --limit x", "--limit"), ("audit --limit 0", "--limit"), ("demo --speed -1", "--speed"),
     ("data add rows.csv --max-bad-ratio 2", "--max-bad-ratio"), ("rollout show x", "NUMBER"),
     ("--colour", "--colour")],
)  # fmt: skip
def test_a_command_line_that_cannot_be_read_says_why(line: str, says: str, shop: Shop) -> None:
    ran = shop(*line.split())
    assert ran.status == 2
    assert says in ran.err
    assert "Traceback" not in ran.err


def test_debug_shows_where_an_error_comes_from(shop: Shop) -> None:
    ran = shop("--debug", "model", "show", "v9")
    assert (ran.status, "Traceback" in ran.err) == (5, True)


def test_a_second_worker_is_told_that_there_is_one(shop: Shop) -> None:
    with (shop.folder / "var" / "worker.lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        one_line(shop("worker", "--once"), 6, "worker")


@pytest.mark.parametrize(
    "line", ["", "{", "[]", '{"schema":"covey.decide/9"}', GOLDEN, "\x00", '{"schema":7}', "[" * 100_000]
)
def test_decide_answers_garbage_with_an_error_that_counts_lines(
    line: str, shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    stdin = types.SimpleNamespace(buffer=io.BytesIO(b"\n" + line.encode()), isatty=lambda: False)
    monkeypatch.setattr(sys, "stdin", stdin)
    ran = shop("experiment", "decide")
    if line:
        one_line(ran, 2, "line 2: ")
    assert ran.out == ""


def test_decide_reads_lines_as_other_systems_end_them(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    arm = dict.fromkeys(("n", "g", "g_nn"), 2000) | dict.fromkeys(("sum", "sumsq", "g_ns", "g_ss"), 1800)
    settings = {"mode": "ab", "alpha": 0.05, "alpha_promote": 0.01, "margin": 0.05, "n_candidates": 1}
    metric = {"kind": "bernoulli", "direction": "higher"}
    record = {"schema": "covey.decide/1", **settings, "metric": metric, "strata": [{"control": arm, "candidate": arm}]}
    line = json.dumps(record).encode()
    for said in (b"\xef\xbb\xbf" + line + b"\r\n \r\n" + line + b"\r\n", b"\n" + line + b"\n\n\t" + line):
        monkeypatch.setattr(sys, "stdin", types.SimpleNamespace(buffer=io.BytesIO(said), isatty=lambda: False))
        assert shop("experiment", "decide") == Ran(0, "promote\npromote\n", "")
    monkeypatch.setattr(sys, "stdin", types.SimpleNamespace(buffer=io.BytesIO(line), isatty=lambda: False))
    assert json.loads(shop("experiment", "decide", "--explain").out)["word"] == "promote"


def test_decide_starts_without_the_database() -> None:
    code = "import sys, cloud.cli.main, cloud.cli.experiment; sys.exit('sqlite_utils' in sys.modules)"

    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


# ---- as a person works


def test_a_version_goes_from_data_to_a_rollout_and_back(shop: Shop) -> None:
    assert "60 rows added" in shop("data", "add", "rows.csv").out
    one_line(shop("data", "add", "rows.csv"), 6, "the same rows were added")
    assert shop("model", "finetune").out.startswith("sales@v1.1: signed")
    assert re.search(r"v1\.1 +stateful from v1", shop("model", "lineage").out)
    assert shop("rollout", "start", "v1.1", "--reason", "new rows").out.startswith("rollout 2: sales@v1.1.")
    one_line(shop("rollout", "start", "v2"), 6, "rollout 2 of sales to v1.1 is still running")
    one_line(shop("rollout", "status"), 124, "rollout 2 is still running")
    assert "shadow opened" in shop("worker", "--once").out
    shop("rollout", "abort", "--wait", "0", "--reason", "not today")
    assert "abort: done" in shop("worker", "--once").out
    assert shop("rollout", "status").status == 3
    audit = shop("audit").out
    assert "not today" in audit
    assert "new rows" in audit


def test_covey_runs_as_a_program_too(shop: Shop) -> None:
    command = [sys.executable, "-m", "cloud.cli", "--project", str(shop.folder)]
    done = subprocess.run([*command, "model", "show", "v9"], capture_output=True, text=True, check=False)
    one_line(Ran(done.returncode, done.stdout, done.stderr), 5, "no version 'v9'")
    with subprocess.Popen([*command, "audit", "--json"], stdout=subprocess.PIPE, stderr=subprocess.PIPE) as reader:
        assert reader.stdout is not None
        assert reader.stderr is not None
        reader.stdout.close()  # as `covey audit | head` does
        assert b"Traceback" not in reader.stderr.read()


def test_a_store_of_a_newer_covey_is_left_alone(shop: Shop) -> None:
    store = Store(load_project(shop.folder))
    store.db.connection.execute(
        "insert into _sqlite_migrations (migration_set, name, applied_at) values ('covey', '9999-future', '2030-01-01')"
    )
    store.close()
    one_line(shop("status"), 6, "newer Covey", "Update Covey.")
