"""What the serving process leaves out, and that whoever needs it gets it all the same."""

from __future__ import annotations

import argparse
import json
import pathlib
import subprocess
import sys

import hypothesis
import pytest
from hypothesis import strategies as st

from edge_agent import cli, lean

ROOT = pathlib.Path(__file__).parents[3]
LATE = {"inspect", "ast", "dis", "traceback", "tokenize", "uuid", "decimal", "platform", "urllib.parse", "ipaddress"}
words = st.sampled_from(
    [
        "run",
        "--store",
        "/s",
        "s t",
        "--debug",
        "--host",
        "::1",
        "--port",
        "80",
        "0",
        "x",
        "-1",
        "--no-sync",
        "--json",
        "",
    ]
)


def said(code: str, *arguments: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments], capture_output=True, text=True, cwd=ROOT, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def serving(code: str) -> str:
    """What a process prints that was started as the serving one and does something else then."""
    return said(f"from edge_agent import cli; import edge_agent.agent, sys\n{code}", "run")


@hypothesis.given(st.lists(words, max_size=7))
@hypothesis.example(["--store", "/s", "--debug", "run", "--host", "::1", "--port", "80", "--no-sync"])
@hypothesis.example(["run"])
def test_what_is_read_without_argparse_is_what_argparse_reads(arguments: list[str]) -> None:
    read = lean.plain_arguments(arguments)
    if read is None:
        return
    assert read | {"verb": "run"} == _by_argparse(arguments)


def _by_argparse(arguments: list[str]) -> dict[str, object]:
    parsed: argparse.Namespace = cli._parser().parse_args(arguments)
    return {name: value for name, value in vars(parsed).items() if name != "do"}


@pytest.mark.parametrize(
    "arguments",
    [["--store", "/s", "run"], ["run", "--port", "0", "--no-sync"], ["--debug", "run", "--host", "127.0.0.1"]],
)
def test_plain_spellings_of_run_need_no_argparse(arguments: list[str]) -> None:
    assert lean.plain_arguments(arguments) is not None


@pytest.mark.parametrize("arguments", [[], ["status"], ["--help"], ["run", "-h"], ["run", "--port"], ["run", "run"]])
def test_anything_else_is_left_to_argparse(arguments: list[str]) -> None:
    assert lean.plain_arguments(arguments) is None


def test_the_serving_process_begins_without_what_libraries_import_for_bad_days() -> None:
    names = set(json.loads(serving("names = list(sys.modules); import json; print(json.dumps(names))")))
    assert "asyncio" in names
    assert names & (LATE | {"ssl", "_hashlib", "argparse", "gettext", "json", "secrets", "ctypes", "http"}) == set()


def test_loading_a_model_starts_no_threads_for_matrices() -> None:
    code = "import os, numpy; print(os.environ['OPENBLAS_NUM_THREADS'], len(os.listdir('/proc/self/task')))"
    assert serving(code) == "1 1\n"


def test_other_commands_import_everything_as_it_is() -> None:
    assert (
        said("from edge_agent import cli; import asyncio, sys; print(asyncio.base_events.ssl is not None)", "status")
        == "True\n"
    )


def test_nothing_that_stands_in_is_found_by_who_imports_it() -> None:
    code = """
import inspect, traceback, uuid, decimal, platform, urllib.parse, linecache, locale, textwrap, asyncio.sslproto, ssl
from edge_agent.lean import Later
print(any(isinstance(one, Later) or one is None for one in sys.modules.values()))
print(decimal.Decimal("1") + 1, ssl.PROTOCOL_TLS.name)
"""
    assert serving(code) == "False\n2 PROTOCOL_TLS\n"


def test_a_fault_is_logged_with_its_traceback_and_its_lines() -> None:
    code = """
import io, logging
out = io.StringIO()
logging.basicConfig(stream=out)
try:
    edge_agent.agent.pathlib.Path("/nowhere/at/all").read_bytes()
except OSError:
    logging.exception("it failed")
print("Traceback" in out.getvalue(), "No such file" in out.getvalue(), "read_bytes" in out.getvalue())
"""
    assert serving(code) == "True True True\n"


def test_asyncio_in_debug_mode_still_says_who_made_what() -> None:
    code = """
import asyncio
async def main():
    task = asyncio.get_running_loop().create_task(asyncio.sleep(0))
    print("sleep" in repr(task), asyncio.iscoroutinefunction(main), asyncio.iscoroutinefunction(print))
    await task
asyncio.run(main(), debug=True)
print(edge_agent.agent.pathlib.Path("/a b").as_uri())
"""
    assert serving(code) == "True True False\nfile:///a%20b\n"


def test_garbage_is_collected_once_everything_is_imported() -> None:
    assert serving("import gc; print(gc.isenabled()); cli.lean.begin(); print(gc.isenabled())") == "False\nTrue\n"
