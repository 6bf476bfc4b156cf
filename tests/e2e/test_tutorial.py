"""The tutorial is run as it stands, with real processes on loopback; what it shows must be what it prints.

CONTRIBUTING.md ("Pages that are run") says how such a page is written.
"""

from __future__ import annotations

import http.client
import os
import pathlib
import re
import socket
import subprocess
import sys
import typing

import pytest

ROOT = pathlib.Path(__file__).parents[2]
PAGE = ROOT / "docs" / "tutorial" / "first-model.md"
MAX_COMMANDS = 7
_BLOCK = re.compile(r"^```(bash|text)\n(.*?)^```$", re.DOTALL | re.MULTILINE)
_PORT = re.compile(r"--port (\d+)")
_VARIES = re.compile(r"\b[0-9a-f]{12,16}\b|\d[\d,.]*")
_MARK = "==== the tutorial goes on ===="
# Waits, as the page asks the reader to, until what was started in the background answers.
_WAIT = f"""{sys.executable} - <<'WAIT'
import socket, time
for _ in range(600):
    try:
        socket.create_connection(("127.0.0.1", {{port}}), timeout=1).close()
        break
    except OSError:
        time.sleep(0.1)
WAIT
"""


class Step(typing.NamedTuple):
    """A block of commands, and what the page says they print."""

    commands: str
    shown: str


def steps_of(text: str) -> list[Step]:
    """Pair each bash block with the text block that follows it, if one does."""
    steps: list[Step] = []
    for kind, body in _BLOCK.findall(text):
        if kind == "bash":
            steps.append(Step(body, ""))
        else:
            steps[-1] = steps[-1]._replace(shown=body)
    return steps


def commands_from_init_to_prediction(text: str) -> list[str]:
    """Return the commands a reader types from the project's beginning to the first prediction."""
    lines = [line for step in steps_of(text) for line in step.commands.splitlines()]
    typed = [line for line in lines if line.split(" ")[0] in ("covey", "covey-edge")]
    first = next(i for i, line in enumerate(typed) if " init " in line)
    last = next(i for i, line in enumerate(typed) if " predict " in line)
    return typed[first : last + 1]


def with_free_ports(text: str) -> str:
    """Put a port that nobody listens on in the place of each port the page names."""
    for port in sorted(set(_PORT.findall(text))):
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            text = re.sub(rf"\b{port}\b", str(probe.getsockname()[1]), text)
    return text


def script_of(steps: list[Step]) -> str:
    """Return all blocks as one script that ends what it started."""
    parts = ["set -eu", "exec 2>&1", "trap 'kill $(jobs -p) 2>/dev/null; wait' EXIT"]
    for step in steps:
        parts.append(step.commands)
        background = re.search(r"--port (\d+).*&\s*$", step.commands)
        parts += [_WAIT.format(port=background[1])] if background else []
        parts.append(f"echo; echo '{_MARK}'")
    return "\n".join(parts)


def lines_lacking(shown: str, printed: str) -> list[str]:
    """Return the lines that a page shows and a run did not print, in that order; numbers and ids may differ."""
    left = [_VARIES.sub("#", line).rstrip() for line in printed.splitlines()]
    for line in shown.splitlines():
        if line.strip() == "...":
            continue
        wanted = re.compile(".*".join(re.escape(part) for part in _VARIES.sub("#", line.rstrip()).split("...")))
        at = next((i for i, candidate in enumerate(left) if wanted.fullmatch(candidate)), None)
        if at is None:
            return [line]
        left = left[at + 1 :]
    return []


def run(folder: pathlib.Path, script: str) -> list[str]:
    """Run a script with this Python's Covey and nothing else of the user's; return what each block printed."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("COVEY_")}
    environment |= {
        "PATH": f"{pathlib.Path(sys.executable).parent}:{os.environ['PATH']}",
        "HOME": str(folder),
        "OMP_NUM_THREADS": "1",
    }
    done = subprocess.run(
        ["bash", "-c", script], cwd=folder, env=environment, stdout=subprocess.PIPE, timeout=240, check=False, text=True
    )
    logs = "".join(f"\n--- {path.name}\n{path.read_text()[-2000:]}" for path in folder.rglob("*.log"))
    assert done.returncode == 0, done.stdout[-4000:] + logs
    return done.stdout.split(_MARK)[:-1]


def test_the_tutorial_needs_seven_commands_at_most_from_init_to_a_prediction() -> None:
    typed = commands_from_init_to_prediction(PAGE.read_text())
    assert len(typed) <= MAX_COMMANDS, typed


@pytest.mark.timeout(300)
def test_the_tutorial_prints_what_it_shows_and_ends_with_a_prediction_of_a_device(tmp_path: pathlib.Path) -> None:
    text = with_free_ports(PAGE.read_text())
    steps = steps_of(text)
    printed = run(tmp_path, script_of(steps))
    assert len(printed) == len(steps)
    for step, out in zip(steps, printed, strict=True):
        assert lines_lacking(step.shown, out) == [], out
    predicted = [out for step, out in zip(steps, printed, strict=True) if " predict " in step.commands]
    assert re.search(r"^1  \[0\.\d{4} 0\.\d{4}\]  v1 incumbent precomputed  \S{40,}$", predicted[0], re.MULTILINE)
    assert "v1 incumbent onnx" in predicted[1]
    for port in _PORT.findall(text):
        with pytest.raises(OSError, match="refused"):
            http.client.HTTPConnection("127.0.0.1", int(port), timeout=2).connect()


def test_a_line_that_was_not_printed_is_found_whatever_the_numbers() -> None:
    shown = "v1: signed, 10 bytes\n...\nquality: PASS, 0.1 better ...\n"
    assert lines_lacking(shown, "v1: signed, 99,123 bytes\nother\nquality: PASS, 0.2 better than nothing\n") == []
    assert lines_lacking(shown, "v1: signed, 99,123 bytes\nquality: FAIL, 0.2 better than nothing\n") != []
