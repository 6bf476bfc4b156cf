"""The live table in the terminal."""

from __future__ import annotations

import collections
import contextlib
import sys
import time
import typing

from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

_LINES = 12
_DONE, _OPEN, _BAD = "green", "yellow", "red"


class Screen:
    """A table of regions and the newest lines of the story; plain lines where there is no terminal.

    Parameters
    ----------
    quiet : bool
        Print to standard error only, as lines.
    """

    def __init__(self, *, quiet: bool) -> None:
        self._console = Console(stderr=quiet)
        self._live: Live | None = None
        self._lines: collections.deque[str] = collections.deque(maxlen=_LINES)
        self._fleet: dict[str, typing.Any] = {}
        self._started = time.monotonic()
        self._is_terminal = self._console.is_terminal and not quiet

    def __enter__(self) -> typing.Self:
        """Begin."""
        if self._is_terminal:
            self._live = Live(self._draw(), console=self._console, refresh_per_second=4, transient=False)
            self._live.__enter__()
        return self

    def __exit__(self, *error: object) -> None:
        """End, with the last picture left standing."""
        if self._live:
            self._live.update(self._draw())
            with contextlib.suppress(Exception):
                self._live.__exit__(None, None, None)
        del error

    def say(self, line: str) -> None:
        """Show a line of the story."""
        at = f"{time.monotonic() - self._started:5.0f} s"
        day = self._fleet.get("event_time", "")[:10]
        self._lines.append(f"{at}  {day:10}  {line}")
        if self._live:
            self._live.update(self._draw())
        else:
            sys.stderr.write(self._lines[-1] + "\n")
            sys.stderr.flush()

    def show(self, fleet: dict[str, typing.Any]) -> None:
        """Show the fleet as it is now."""
        self._fleet = fleet
        if self._live:
            self._live.update(self._draw())

    def _draw(self) -> Group:
        fleet = self._fleet
        table = Table(title=None, expand=False, box=None, padding=(0, 2), header_style="bold")
        for title in ("region", "devices", "answers", "on trial"):
            table.add_column(title)
        for region in fleet.get("regions", ()):
            versions = "  ".join(
                f"{version} on {n}" for counts in region["versions"].values() for version, n in counts.items()
            )
            offline = region["devices"] - region["online"]
            devices = f"{region['online']} online" + (f", {offline} offline" if offline else "")
            trial = f"candidate on {region['candidates']}" if region["candidates"] else ""
            table.add_row(region["region"], Text(devices, _BAD if offline else ""), versions, Text(trial, _OPEN))
        totals = fleet.get("totals", {})
        head = Text(f"flights of 2013, {fleet.get('event_time', '')[:10] or 'January'}", "bold")
        head.append(f"   {totals.get('requests', 0):,} predictions, {totals.get('outcomes', 0):,} outcomes", "dim")
        running = [
            f"{r['from'] or 'nothing'} -> {r['to']}: {r['stage'] or 'begins'}" for r in fleet.get("rollouts", ())
        ]
        return Group(head, Text("  ".join(running) or "no rollout", _OPEN), table, Text(), *map(Text, self._lines))


def summary_lines(summary: dict[str, typing.Any]) -> list[str]:
    """Return the summary for people."""
    lines = [f"  {'ok ' if ok else 'NO '} {name.replace('_', ' ')}" for name, ok in summary["checks"].items()]
    records, predictions, quality = summary["records"], summary["predictions"], summary["quality"]
    lines.append(
        f"  {predictions['total']:,} predictions, {predictions['precomputed']:,} precomputed,"
        f" {predictions['failed']} failed; {records['sent']:,} records,"
        f" {records['lost']} lost, {records['doubled']} doubled"
    )
    lines.append(
        f"  AUC on the same flights: v1 {quality['incumbent_auc_before']}, v1.1 {quality['incumbent_auc_after']}"
    )
    lines.append(
        f"  {'everything is as told' if summary['ok'] else 'SOMETHING IS NOT AS TOLD'}, {summary['seconds']:.0f} s"
    )
    return lines
