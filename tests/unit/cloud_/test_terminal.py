"""What reaches a terminal: text of devices, files and arguments is shown, and never obeyed."""

from __future__ import annotations

import json
import typing

import pytest

from cloud.cli.main import main
from cloud.config import Project
from cloud.store.ingest import ingest
from cloud.store.store import Store
from shared.errors import printable
from shared.telemetry import Batch, DeviceStatus, Event

EVIL = "\x1b[2J\x9b31m\r\ntill-2 (north): accepted \u202eevil"
Run = typing.Callable[..., tuple[int, str, str]]


@pytest.fixture
def run(empty: Project, capsys: pytest.CaptureFixture[str]) -> Run:
    def call(*words: str) -> tuple[int, str, str]:
        status = main(["--project", str(empty.folder), *words])
        return status, *capsys.readouterr()

    return call


def is_plain(text: str) -> bool:
    return all(letter.isprintable() or letter == "\n" for letter in text)


def test_what_a_device_says_is_shown_and_never_obeyed(empty_store: Store, run: Run) -> None:
    empty_store.fleet.add_token("t", "secret", "north", uses=1, lifetime_s=3600)
    empty_store.fleet.join("till-1", "ab" * 32, "t", "secret")
    status = DeviceStatus(waits=EVIL, agent=EVIL, generation=EVIL, state=EVIL)
    events = (Event(at_s=1.0, kind="trouble", detail=EVIL),)
    batch = Batch(device="till-1", spool="s", sequence=0, sent_s=1.0, status=status, events=events)
    ingest(empty_store.db, batch, 3600.0)
    for words in (("device", "show", "till-1"), ("device", "list"), ("status",)):
        ended, said, _ = run(*words)
        assert (ended, is_plain(said)) == (0, True), said
        assert not any(line.startswith("till-2") for line in said.splitlines())
        ended, said, _ = run(*words, "--json")
        assert (ended, is_plain(said)) == (0, True), said
    assert json.loads(run("device", "show", "till-1", "--json")[1])["report"]["waits"] == EVIL


@pytest.mark.parametrize("words", [("device", "label", "\udcff", "a=b"), ("data", "show", "\udcff")])
def test_an_argument_that_is_no_text_is_refused_and_shown(run: Run, words: tuple[str, ...]) -> None:
    status, said, err = run(*words)
    assert (status, said) == (2, "")
    assert err == "covey: '\\udcff' is not UTF-8 text. Write it anew.\n"


@pytest.mark.parametrize("words", [("feature", "check", EVIL), ("rollout", "lint", "--plan", EVIL)])
def test_an_error_is_one_line_whatever_it_is_about(run: Run, words: tuple[str, ...]) -> None:
    status, said, err = run(*words)
    assert (status, said, err.count("\n")) == (2, "", 1)
    assert is_plain(err)
    assert "\\x1b[2J\\x9b31m\\r\\ntill-2" in err


@pytest.mark.parametrize("deviation", ["0", "1e-320", "-1", "nan", "1e400"])
def test_a_deviation_that_nothing_can_be_divided_by_is_refused(run: Run, deviation: str) -> None:
    status, said, err = run("rollout", "plan", "--deviation", deviation)
    assert (status, said) == (2, "")
    assert "--deviation" in err
    assert "is not between 1e-09 and 1,000,000,000" in err


def test_devices_of_a_region_that_there_is_not_are_not_said_to_be_none(run: Run, empty_store: Store) -> None:
    assert run("device", "list", "--region", "nroth") == (
        2, "", "covey: --region: no region 'nroth'. Known are: north, south.\n",
    )  # fmt: skip
    empty_store.fleet.add_token("t", "secret", "nroth", uses=1, lifetime_s=3600)
    empty_store.fleet.join("till-1", "ab" * 32, "t", "secret")
    status, said, _ = run("device", "list", "--region", "nroth")
    assert (status, "till-1" in said) == (0, True), "a region that was taken out of the settings keeps its devices"


def test_words_of_any_language_stay_as_they_are() -> None:
    assert printable("10\xa0% größer, 東京, café") == "10\xa0% größer, 東京, café"
