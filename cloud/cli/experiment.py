"""``covey experiment``: decide from sums."""

from __future__ import annotations

import sys

import click

from cloud.analysis.decide import decide as decide_rule
from cloud.analysis.wire import parse_line
from cloud.cli.base import Group
from shared.errors import WireError

_USAGE_STATUS = 2


@click.group(cls=Group)
def experiment() -> None:
    """Decide experiments from sums."""


@experiment.command("decide")
@click.option("--explain", is_flag=True, help="Print a JSON object with reasons and numbers instead of a word.")
def decide(explain: bool) -> int:
    """Read one covey.decide/1 object a line from standard input; print continue, promote or rollback for each."""
    for number, line in enumerate(sys.stdin.buffer, 1):
        if not line.strip():
            continue
        try:
            decision = decide_rule(parse_line(line))
        except WireError as err:
            click.echo(f"covey: line {number}: {err}", err=True)
            return _USAGE_STATUS
        click.echo(decision.to_json().decode() if explain else decision.word)
        sys.stdout.flush()
    return 0
