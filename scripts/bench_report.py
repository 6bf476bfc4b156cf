"""How every benchmark ends: a line for each bar, or one JSON object with the versions used; 3 if a bar is missed."""

from __future__ import annotations

import importlib.metadata
import json
import platform
import typing

Row = dict[str, typing.Any]
MISSED = 3


def line_of(bar: Row, width: int = 62) -> str:
    """Return a bar as a line: its name, the value, and the limit."""
    return f"{'ok ' if bar['ok'] else 'MISSED'} {bar['name']:{width}s} {bar['value']:9.4g}  {bar['limit']:9.4g}"


def end(rows: list[Row], bars: list[Row], *, packages: typing.Sequence[str] = (), as_json: bool) -> int:
    """Print the JSON object if it is wanted; return the exit status.

    Parameters
    ----------
    packages : sequence of str
        Distributions whose versions the numbers depend on.
    """
    if as_json:
        versions = {"python": platform.python_version()} | {name: importlib.metadata.version(name) for name in packages}
        print(json.dumps({"rows": rows, "bars": bars, "versions": versions}))
    return 0 if all(bar["ok"] for bar in bars) else MISSED
