"""Make a pass, or serve, and be killed as soon as a position is stored; run by test_worst_days.py.

    die_driver.py [STORE TRACK POSITION]

TRACK is `update`: one pass of the sync child, whose record is printed; or `trial`: the serving process, without a sync
child. An empty POSITION kills nobody. Without arguments these come as lines of standard input, with tabs between them;
each is done in a process of its own, which costs no start of Python, and how it ended is printed.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import pathlib
import signal
import sys

import msgspec

from edge_agent.agent import Agent
from edge_agent.config import Layout, ServeSettings, Settings
from edge_agent.sync import Sync
from edge_agent.update.job import Job
from edge_agent.update.machine import Position


def live(store: str, track: str, dies_at: str) -> int:
    """Do what is asked, up to the position."""
    keep = Job._store

    def keep_and_die(self: Job, position: Position, generation: str, outcome: str, n_stores: int) -> None:
        keep(self, position, generation, outcome, n_stores)
        if (self._track, position) == (track, dies_at):
            os.kill(os.getpid(), signal.SIGKILL)

    Job._store = keep_and_die  # type: ignore[method-assign]
    layout = Layout(pathlib.Path(store))
    settings = Settings(serve=ServeSettings(port=0))
    if track == "trial":
        asyncio.run(Agent(layout, layout.load_identity(), settings).run(lambda _: None, with_sync=False))
    else:
        with contextlib.closing(Sync(layout, layout.load_identity(), settings)) as sync:
            done = msgspec.json.encode(sync.one_pass())
        sys.stdout.buffer.write(done)
    return 0


def lives() -> int:
    """Let one process after the other do what is asked."""
    for line in sys.stdin:
        child = os.fork()
        if not child:
            os._exit(live(*line.rstrip("\n").split("\t")))
        _, status = os.waitpid(child, 0)
        sys.stdout.write(f"\n{os.waitstatus_to_exitcode(status)}\n")
        sys.stdout.flush()
    return 0


if __name__ == "__main__":
    sys.exit(live(*sys.argv[1:]) if sys.argv[1:] else lives())
