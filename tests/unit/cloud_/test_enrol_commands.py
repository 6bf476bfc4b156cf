"""``covey device``: who may be in the fleet, said at the command line; wrong states, garbage, and an older database."""

from __future__ import annotations

import io
import json
import pathlib
import sqlite3
import sys
import types
import typing

import pytest
import sqlite_utils

from cloud.cli.main import main
from cloud.config import Project
from cloud.store.ingest import ingest
from cloud.store.schema import migrations
from cloud.store.store import Store
from shared.errors import ConflictError
from shared.protocol import parse_join_token
from shared.telemetry import Batch, DeviceStatus

KEYS = {name: f"{i:02x}" * 32 for i, name in enumerate(("waits", "expected", "inside", "out", "gone"), 1)}
# What each command makes of a device, by the status that it is in; None where that is refused.
TABLE: dict[str, dict[str, str | None]] = {
    "approve": {"waits": "accepted", "expected": None, "inside": None, "out": "accepted", "gone": None},
    "reject": {"waits": "rejected", "expected": "rejected", "inside": None, "out": None, "gone": None},
    "retire": {"waits": None, "expected": None, "inside": "retired", "out": None, "gone": None},
    "rotate": {"waits": None, "expected": None, "inside": "accepted", "out": None, "gone": None},
}
BEFORE = {"waits": "pending", "expected": "preauthorised", "inside": "accepted", "out": "rejected", "gone": "retired"}


class Ran(typing.NamedTuple):
    """What a command said."""

    status: int
    out: str
    err: str

    @property
    def json(self) -> typing.Any:
        return json.loads(self.out)


class Shop(typing.NamedTuple):
    """A project with a device in each status, and somebody who types."""

    project: Project
    store: Store
    run: typing.Callable[..., Ran]

    def statuses(self) -> dict[str, str]:
        rows = self.store.db.rows("select device, status from devices order by device")
        return {row["device"]: row["status"] for row in rows}


@pytest.fixture
def shop(
    empty: Project, empty_store: Store, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> Shop:
    monkeypatch.setattr(sys, "stdin", types.SimpleNamespace(buffer=io.BytesIO(b""), isatty=lambda: False))
    fleet = empty_store.fleet
    for token, approve in (("asks", True), ("open", False)):
        fleet.add_token(token, "secret", "north", uses=9, lifetime_s=60, approve=approve)
    for name, token in (("waits", "asks"), ("inside", "open"), ("out", "asks"), ("gone", "open")):
        fleet.join(name, KEYS[name], token, "secret")
    fleet.change("out", "reject")
    fleet.retire("gone")
    fleet.preauthorise("expected", KEYS["expected"], "south")

    def run(*arguments: str) -> Ran:
        capsys.readouterr()
        status = main(["--project", str(empty.folder), *arguments])
        return Ran(status, *capsys.readouterr())

    made = Shop(empty, empty_store, run)
    assert made.statuses() == BEFORE
    return made


@pytest.mark.parametrize("name", BEFORE)
@pytest.mark.parametrize("action", TABLE)
def test_each_command_does_what_a_status_allows_and_refuses_the_rest(shop: Shop, action: str, name: str) -> None:
    sure = ("--yes",) if action == "retire" else ()
    after = TABLE[action][name]
    would = shop.run("device", action, name, "--dry-run", "--json")
    assert shop.statuses() == BEFORE
    ran = shop.run("device", action, name, "--reason", "a test", "--json", *sure)
    if after is None:
        assert (would.status, ran.status) == (6, 6)
        assert f"'{name}' is {BEFORE[name]}. " in ran.err
        assert ran.err.count("\n") == 1
        assert shop.statuses() == BEFORE
        assert not shop.store.audit.all(1, f"device {action}")
        return
    assert (would.status, would.json["would"], would.json["public_key"]) == (0, action, KEYS[name])
    assert (ran.status, ran.json) == (0, {"device": name, "status": after, "public_key": KEYS[name]})
    assert shop.statuses() == BEFORE | {name: after}
    (entry,) = shop.store.audit.all(1, f"device {action}")
    assert (entry["subject"], entry["reason"], KEYS[name] in entry["detail"]) == (name, "a test", True)


def test_what_cannot_be_taken_back_asks_first(shop: Shop) -> None:
    ran = shop.run("device", "retire", "inside")
    assert (ran.status, "--yes" in ran.err) == (2, True)
    assert shop.statuses() == BEFORE


def test_an_approval_can_name_the_key_that_was_compared(shop: Shop) -> None:
    ran = shop.run("device", "approve", "waits", "--key", "ab" * 32)
    assert (ran.status, f"'waits' has the key {KEYS['waits']}" in ran.err) == (6, True)
    assert shop.statuses() == BEFORE
    assert shop.run("device", "approve", "waits", "--key", f" {KEYS['waits'].upper()} ").status == 0


def test_a_device_is_expected_by_name_and_key(shop: Shop) -> None:
    key = "0a" * 32
    would = shop.run("device", "preauthorise", "till-9", "--key", key, "--region", "south", "--dry-run")
    assert (would.status, would.out.startswith("would expect till-9 in south")) == (0, True)
    assert shop.statuses() == BEFORE
    ran = shop.run("device", "preauthorise", "till-9", "--key", key, "--region", "south", "--json", "--reason", "new")
    said = {"device": "till-9", "status": "preauthorised", "region": "south", "public_key": key, "labels": {}}
    assert ran.json == said
    assert shop.store.audit.all(1, "device preauthorise")[0]["reason"] == "new"
    assert shop.run("device", "preauthorise", "till-9", "--key", key).status == 6
    taken = shop.run("device", "preauthorise", "out", "--key", key)
    assert (taken.status, "this key is that of 'till-9'" in taken.err) == (6, True)
    assert shop.run("device", "preauthorise", "out", "--key", "0b" * 32).status == 0  # a rejected name is free
    assert shop.store.fleet.get("out")["public_key"] == "0b" * 32


def test_lists_and_lines_for_people(shop: Shop) -> None:
    listed = shop.run("device", "list")
    assert "inside" in listed.out
    assert listed.out.endswith("1 more to be approved or rejected: covey device list --status pending\n")
    (row,) = shop.run("device", "list", "--status", "pending", "--json").json
    assert (row["device"], row["status"], row["public_key"]) == ("waits", "pending", KEYS["waits"])
    assert KEYS["expected"] in shop.run("device", "list", "--status", "preauthorised").out
    assert "no device is pending" in shop.run("device", "list", "--status", "pending", "--region", "south").out
    shop.run("device", "rotate", "inside")
    shop.store.fleet.note("inside", "two-devices-use-this-key", "spools take turns")
    said = shop.run("device", "show", "inside").out
    assert said.startswith(f"inside (north): accepted, to make a new key\n  key {KEYS['inside']}\n")
    assert "two devices use this key: spools take turns" in said
    (event,) = shop.run("device", "show", "inside", "--json").json["events"]
    assert event["kind"] == "two-devices-use-this-key"


def test_the_token_says_whether_it_asks_for_approval(shop: Shop) -> None:
    assert shop.run("device", "token", "--approve", "--json").json["approve"] is True
    assert shop.run("device", "token", "--json").json["approve"] is False
    assert [row["approve"] for row in shop.store.fleet.tokens()[:2]] == [0, 1]
    assert '"approve": true' in shop.store.audit.all(2, "device token")[1]["detail"]


@pytest.mark.parametrize(
    ("line", "status", "says"),
    [
        ("approve nobody", 5, "no device 'nobody'"),
        ("reject nobody", 5, "no device 'nobody'"),
        ("rotate nobody", 5, "no device 'nobody'"),
        ("retire nobody --yes", 5, "no device 'nobody'"),
        ("approve", 2, "NAME"),
        ("approve waits --key 12", 2, "is not a key"),
        (f"approve waits --key {'g' * 64}", 2, "is not a key"),
        (f"approve waits --key {'0' * 65}", 2, "is not a key"),
        ("approve waits --yes", 2, "--yes"),
        ("preauthorise till-9", 2, "--key"),
        (f"preauthorise till-9 --key {'00' * 32} --region mars", 2, "Known are: north, south"),
        (f"preauthorise ../etc --key {'00' * 32}", 2, "is no name of a device"),
        (f"preauthorise {'x' * 64} --key {'00' * 32}", 2, "is no name of a device"),
        (f"preauthorise inside --key {'00' * 32}", 6, "'inside' is accepted already"),
        (f"preauthorise gone --key {'00' * 32}", 6, "'gone' is retired already"),
        (f"preauthorise waits --key {'00' * 32}", 6, "'waits' is pending already"),
        ("list --status dancing", 2, "--status"),
        ("token --aprove", 2, "--approve"),
    ],
)
def test_what_makes_no_sense_is_refused_and_changes_nothing(shop: Shop, line: str, status: int, says: str) -> None:
    before = list(shop.store.db.connection.iterdump())
    ran = shop.run("device", *line.split())
    assert (ran.status, says in ran.err, "Traceback" in ran.err) == (status, True, False), ran
    assert list(shop.store.db.connection.iterdump()) == before


def test_a_change_that_somebody_else_was_faster_with_is_refused(shop: Shop) -> None:
    shop.store.fleet.check("waits", "approve", KEYS["waits"])
    shop.store.fleet.change("waits", "reject")
    shop.store.fleet.join("waits", "ee" * 32, "asks", "secret")
    with pytest.raises(ConflictError, match="Compare them again"):
        shop.store.fleet.change("waits", "approve", KEYS["waits"])


def test_a_database_from_before_keeps_its_devices(tmp_path: pathlib.Path) -> None:
    db = sqlite_utils.Database(sqlite3.connect(tmp_path / "old.db"), execute_plugins=False)
    migrations.apply(db, stop_before="0005-enrolment")
    db.execute("insert into join_tokens values ('t', 'hash', 'north', 3, 1e12, 1)")
    for name, status in (("a", "accepted"), ("b", "retired")):
        db.execute(
            "insert into devices values (?, 'north', '00', ?, 1, 2, 3, 'g', 'good', 4, 5, 6, '{}', 's/7')",
            (name, status),
        )
    before = list(db.query("select * from devices"))
    migrations.apply(db)
    more = {"previous_key": "", "rotate": 0, "labels": "{}"}
    assert list(db.query("select * from devices")) == [row | more for row in before]
    assert next(db.query("select uses_left, approve from join_tokens")) == {"uses_left": 3, "approve": 0}
    assert {"devices_by_region", "devices_by_key"} <= {index.name for index in db["devices"].indexes}
    db.close()


def test_labels_are_given_with_a_token_an_approval_and_by_hand(shop: Shop) -> None:
    given = shop.run("device", "token", "--label", "store=flagship", "--label", "floor=2", "--json").json
    assert given["labels"] == {"store": "flagship", "floor": "2"}
    token = parse_join_token(given["token"])
    assert shop.store.fleet.join("new", "77" * 32, token.token_id, token.secret)["labels"] == given["labels"]
    assert shop.run("device", "approve", "waits", "--label", "store=test").status == 0
    assert shop.store.fleet.get("waits")["labels"] == {"store": "test"}
    shop.run("device", "preauthorise", "soon", "--key", "88" * 32, "--label", "store=test")
    assert shop.store.fleet.join("soon", "88" * 32, token.token_id, token.secret)["labels"] == {"store": "test"}
    said = shop.run("device", "label", "new", "store=outlet", "city=oslo", "--remove", "floor", "--reason", "moved")
    assert (said.status, said.out) == (0, "new: city=oslo store=outlet\n")
    (entry,) = shop.store.audit.all(action="device label")
    assert (entry["subject"], entry["reason"]) == ("new", "moved")
    assert shop.run("device", "label", "new").out == "new: city=oslo store=outlet\n"
    would = shop.run("device", "label", "new", "--remove", "city", "--dry-run").out
    assert would == "new would have store=outlet\n"
    assert shop.store.fleet.get("new")["labels"] == {"store": "outlet", "city": "oslo"}


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("device label nobody a=b", "no device 'nobody'"),
        ("device label inside store", "'store' is not KEY=VALUE"),
        ("device label inside Store=a", "'Store' is not the name of a label"),
        ("device label inside --remove store", "'inside' was not given 'store'"),
        ("device label inside --remove store --dry-run", "'inside' was not given 'store'"),
        ("device label inside a=b --remove a", "'a' is given and taken away"),
        ("device token --label store", "--label: 'store' is not KEY=VALUE"),
        ("device list --label store", "--label: 'store' is not KEY=VALUE"),
    ],
)
def test_labels_that_are_none_are_refused_and_change_nothing(shop: Shop, line: str, says: str) -> None:
    ran = shop.run(*line.split())
    assert (ran.status != 0, says in ran.err) == (True, True), ran.err
    assert shop.store.fleet.get("inside")["labels"] == {}


def test_a_device_has_at_most_so_many_labels_from_the_fleet(shop: Shop) -> None:
    assert shop.run("device", "label", "inside", *(f"k{i}=x" for i in range(16))).status == 0
    assert "17 labels, at most 16" in shop.run("device", "label", "inside", "more=x").err


def test_devices_are_listed_by_the_labels_that_they_go_by(shop: Shop) -> None:
    fleet = shop.store.fleet
    fleet.label("inside", {"store": "test"})
    assert [row["device"] for row in shop.run("device", "list", "--label", "store=test", "--json").json] == ["inside"]
    assert "not said yet" not in shop.run("device", "show", "inside").out
    status = DeviceStatus(agent="1", labels={"class": "kiosk", "store": "outlet"})
    ingest(shop.store.db, Batch(device="inside", spool="s", sequence=1, sent_s=1.0, status=status), 60.0)
    assert shop.run("device", "list", "--label", "store=test").out.startswith("no device has these labels\n")
    assert "class=kiosk store=outlet" in shop.run("device", "list", "--label", "class=kiosk").out
    shown = shop.run("device", "show", "inside").out
    assert "goes by class=kiosk store=outlet" in shown
    assert "has not said yet that it goes by store=test" in shown
