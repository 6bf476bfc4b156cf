"""The sync child: asked, heard, started again when it dies, ended with the agent. Small programs take its place."""

from __future__ import annotations

import asyncio
import json
import os
import pathlib
import sys
import time
import typing

import pytest

from edge_agent import supervise
from edge_agent.supervise import SyncChild
from shared.errors import TimeoutExpiredError, UnreachableError

# Answers each number that it reads, `next_s` seconds apart, as the real child does.
HONEST = """
import json, sys
for line in sys.stdin:
    print(json.dumps({"done": int(line), "next_s": %s}), flush=True)
    if %s:
        break
"""
STAYS, LEAVES = HONEST % (30, 0), HONEST % (120, 1)


@pytest.fixture(autouse=True)
def fast(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(supervise, "_RESTART_S", 0.01)
    monkeypatch.setattr(supervise, "_STOP_PATIENCE_S", 0.3)


def on(program: str, story: typing.Callable[[SyncChild], typing.Awaitable[None]], patience_s: float = 1800.0) -> None:
    """Run a child that is this program, and let a story happen."""

    async def tell() -> None:
        child = SyncChild(pathlib.Path("/nowhere"), patience_s)
        child._command = [sys.executable, "-c", program]
        task = asyncio.create_task(child.run())
        try:
            await story(child)
        finally:
            await child.stop()
            async with asyncio.timeout(10):
                await task

    asyncio.run(tell())


@pytest.mark.parametrize("program", [STAYS, LEAVES], ids=["stays", "leaves after each pass"])
def test_each_request_gets_a_pass_that_began_after_it(program: str) -> None:
    async def story(child: SyncChild) -> None:
        assert (await child.request(20))["done"] == 1
        assert (await child.request(20))["done"] == 2
        done = await asyncio.gather(*(child.request(20) for _ in range(5)))
        assert all(int(typing.cast("int", one["done"])) >= 3 for one in done)
        assert child.last["done"] == 7

    on(program, story)


def test_a_child_that_dies_is_started_again(tmp_path: pathlib.Path) -> None:
    count = tmp_path / "starts"
    program = f"open({str(count)!r}, 'a').write('x')\nimport os\nif len(open({str(count)!r}).read()) < 4: os._exit(9)\n"

    async def story(child: SyncChild) -> None:
        assert (await child.request(20))["done"] == 1

    on(program + STAYS, story)
    assert len(count.read_text()) == 4


def test_a_child_that_died_is_not_waited_for_as_one_that_is_content(tmp_path: pathlib.Path) -> None:
    """Its last word was that it need not come again for half a minute; then it was killed."""
    count = tmp_path / "starts"
    dying = f"open({str(count)!r}, 'a').write('x')\n" + STAYS.replace("if 0:", "import os; os._exit(9)\n    if 0:")

    async def story(child: SyncChild) -> None:
        await child.request(20)
        async with asyncio.timeout(10):
            while len(count.read_text()) < 4:  # noqa: ASYNC110 - another process writes it
                await asyncio.sleep(0.01)

    on(dying, story)


def test_what_is_no_json_is_passed_over() -> None:
    async def story(child: SyncChild) -> None:
        assert (await child.request(20))["done"] == 1

    odd = ["Traceback", "[1]", '{"done": "all"}', '{"next_s": null}', '{"next_s": 1e300}', '{"next_s": -1}', "{}", ""]
    on("".join(f"print({one!r}, flush=True)\n" for one in odd) + STAYS, story)


def test_a_child_that_hangs_times_the_request_out_and_holds_up_no_stop() -> None:
    async def story(child: SyncChild) -> None:
        with pytest.raises(TimeoutExpiredError, match=r"no sync within 0\.1 s"):
            await child.request(0.1)

    started = time.monotonic()
    on("import time\ntime.sleep(100)", story)
    assert time.monotonic() - started < 10


def test_once_stopped_nobody_waits_for_a_sync_and_no_child_is_left(tmp_path: pathlib.Path) -> None:
    pid = tmp_path / "pid"

    async def story(child: SyncChild) -> None:
        await child.request(20)
        await child.stop()
        with pytest.raises(UnreachableError, match="the agent is stopping"):
            await child.request(20)

    on(f"import os\nopen({str(pid)!r}, 'w').write(str(os.getpid()))\n" + STAYS, story)
    with pytest.raises(ProcessLookupError):
        os.kill(int(json.loads(pid.read_text())), 0)


def test_a_child_that_never_ends_its_line_is_ended_and_started_again(tmp_path: pathlib.Path) -> None:
    first = tmp_path / "first"
    program = f"""
import os, sys
if not os.path.exists({str(first)!r}):
    open({str(first)!r}, "w").close()
    while True:
        sys.stdout.write("x" * 100_000)
"""

    async def story(child: SyncChild) -> None:
        assert (await child.request(20))["done"] == 1

    on(program + STAYS, story)


def test_a_child_that_falls_silent_is_ended_and_started_again_and_one_that_is_busy_is_not(
    tmp_path: pathlib.Path,
) -> None:
    """The first hangs in the middle of a pass; the second is slow, and says so."""
    count = tmp_path / "starts"
    program = f"""
import os, sys, time
open({str(count)!r}, "a").write("x")
if len(open({str(count)!r}).read()) == 1:
    time.sleep(600)
for _ in range(20):
    print(flush=True)
    time.sleep(0.1)
"""

    async def story(child: SyncChild) -> None:
        assert (await child.request(30))["done"] == 1

    on(program + STAYS, story, patience_s=1.0)
    assert len(count.read_text()) == 2


def test_a_child_that_can_not_be_started_is_tried_again(tmp_path: pathlib.Path) -> None:
    program = tmp_path / "program"

    async def tell() -> None:
        child = SyncChild(pathlib.Path("/nowhere"))
        child._command = [str(program)]
        task = asyncio.create_task(child.run())
        with pytest.raises(TimeoutExpiredError):
            await child.request(0.1)
        program.write_text(f"#!{sys.executable}\n{STAYS}")
        program.chmod(0o700)
        assert (await child.request(20))["done"] == 2
        await child.stop()
        await task

    asyncio.run(tell())


def test_the_next_child_knows_how_often_the_ones_before_have_failed() -> None:
    program = """
import json, sys
failures = 1 + int(sys.argv[2] if sys.argv[1:2] == ["--failures"] else 0)
for line in sys.stdin:
    print(json.dumps({"done": int(line), "next_s": 120, "failures": failures}), flush=True)
    break
"""

    async def story(child: SyncChild) -> None:
        assert [(await child.request(20))["failures"] for _ in range(3)] == [1, 2, 3]

    on(program, story)


def test_the_first_child_that_is_heard_reads_every_file_and_no_other_does(tmp_path: pathlib.Path) -> None:
    asked = tmp_path / "asked"
    program = f"""
import os, sys
open({str(asked)!r}, "a").write("read" if "--repair" in sys.argv else "-")
if len(open({str(asked)!r}).read()) < 8:
    os._exit(9)
"""

    async def story(child: SyncChild) -> None:
        for _ in range(3):
            await child.request(20)

    on(program + LEAVES, story)
    assert asked.read_text() == "readread--"
