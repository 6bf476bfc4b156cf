"""One line of JSON for each log record; errors that say whose fault it is and what to do; doctests that hold."""

from __future__ import annotations

import datetime as dt
import doctest
import importlib
import json
import logging
import pkgutil

import pytest

import shared
from shared import errors, logs
from shared.errors import CoveyError, shown

MODULES = sorted(m.name for m in pkgutil.walk_packages(shared.__path__, "shared."))


def line_of(**changes: object) -> dict[str, object]:
    record = logging.makeLogRecord(
        {"name": "covey.edge", "levelno": 30, "levelname": "WARNING", "created": 0.25} | changes
    )
    text = logs.JsonFormatter().format(record)
    assert "\n" not in text
    return json.loads(text)


def test_a_log_record_is_one_line_of_json() -> None:
    line = line_of(msg="spool is %d%% full\nsays\u2028the disk", args=(90,), device="till-1")
    assert line == {
        "at": "1970-01-01T00:00:00.250+00:00",
        "level": "warning",
        "logger": "covey.edge",
        "message": "spool is 90% full\nsays\u2028the disk",
        "device": "till-1",
    }
    assert dt.datetime.fromisoformat(str(line["at"])).tzinfo is not None


def test_context_can_not_hide_what_a_line_is_about() -> None:
    line = line_of(msg="m", at="never", level=7, logger="x")
    assert (line["at"], line["level"], line["logger"]) == ("1970-01-01T00:00:00.250+00:00", "warning", "covey.edge")


def test_an_exception_and_what_json_does_not_know_are_in_the_line() -> None:
    try:
        raise ValueError("odd")
    except ValueError as err:
        line = line_of(msg="failed", exc_info=(type(err), err, err.__traceback__), path=dt.date(2013, 6, 1))
    assert "ValueError: odd" in str(line["exception"])
    assert line["path"] == "2013-06-01"


def test_setting_up_sends_the_logs_to_standard_error(capsys: pytest.CaptureFixture[str]) -> None:
    root = logging.getLogger()
    before, level = root.handlers[:], root.level
    try:
        logs.set_up(logging.INFO)
        logging.getLogger("covey.edge").info("hello")
        logging.getLogger("covey.edge").debug("not this")
    finally:
        root.handlers[:] = before
        root.setLevel(level)
    out, err = capsys.readouterr()
    assert out == ""
    assert json.loads(err)["message"] == "hello"


def all_errors(base: type[CoveyError] = CoveyError) -> list[type[CoveyError]]:
    return [base] + [
        one for sub in base.__subclasses__() if sub.__module__ == errors.__name__ for one in all_errors(sub)
    ]


def test_every_class_of_the_tree_is_drawn_in_its_module_and_has_a_code_of_its_own() -> None:
    classes = all_errors()
    assert len({cls.code for cls in classes}) == len(classes)
    for cls in classes:
        assert cls.__name__ in str(errors.__doc__)
        assert 400 <= cls.http_status < 600
        assert 1 <= cls.exit_status <= 124


def test_a_message_has_field_what_happened_and_fix() -> None:
    assert str(CoveyError("7 is odd", field="a[1].b", fix="Send 8.")) == "a[1].b: 7 is odd. Send 8."
    assert str(CoveyError("7 is odd")) == "7 is odd"


def test_a_shown_value_is_short_and_never_an_error() -> None:
    deep: list[object] = []
    for _ in range(100_000):
        deep = [deep]

    class Sulking:
        def __repr__(self) -> str:
            raise RuntimeError("no words")

    assert shown(Sulking()) == "this Sulking"
    assert shown("x") == "'x'"
    assert len(shown("x" * 999)) == 40
    assert shown(10**5000) == "this int"
    assert shown(deep) == "this list"
    while deep:  # freed from outside in: freeing a deep list at once is deep, too
        deep = deep.pop()  # type: ignore[assignment]


@pytest.mark.parametrize("name", MODULES)
def test_the_examples_in_docstrings_hold(name: str) -> None:
    module = importlib.import_module(name)
    assert doctest.testmod(module).failed == 0


def test_the_examples_were_found() -> None:
    found = {name for name in MODULES if doctest.DocTestFinder().find(importlib.import_module(name))}
    tried = {
        test.name
        for name in found
        for test in doctest.DocTestFinder().find(importlib.import_module(name))
        if test.examples
    }
    assert {"shared.summary.auc_of_bins", "shared.experiment.share_of", "shared.settings.locate"} <= tried


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("(Caused by Name(\"C(host='x', port=80): no 'x' ([Errno -2] Name or service not known)\"))",
         "name or service not known"),
        ("(Caused by SSLError(Cert(1, '[SSL: BAD] certificate verify failed: self-signed certificate (_ssl.c:1)')))",
         "TLS: certificate verify failed: self-signed certificate"),
        ("(Caused by Timeout(<C object at 0x7f>, 'Connection to 10.1.1.1 timed out. (connect timeout=3)'))",
         "connection to 10.1.1.1 timed out. (connect timeout=3)"),
        ("('Connection aborted.', RemoteDisconnected('Remote end closed connection without response'))",
         "remote end closed connection without response"),
        ("", "OSError"),
    ],
)  # fmt: skip
def test_a_line_that_failed_is_told_in_words(text: str, words: str) -> None:
    assert errors.line_words(OSError(text)) == words
