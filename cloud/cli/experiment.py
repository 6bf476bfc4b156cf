"""``covey experiment``: decide from sums."""

from __future__ import annotations

import codecs
import sys

import click

from cloud.analysis.decide import decide as decide_rule
from cloud.analysis.decide import word_of
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
    answer = sys.stdout
    for number, line in enumerate(sys.stdin.buffer, 1):
        said = line.removeprefix(codecs.BOM_UTF8) if number == 1 else line
        if not said.strip():
            continue
        try:
            record = parse_line(said)
            answer.write(decide_rule(record).to_json().decode() if explain else word_of(record))
        except WireError as err:
            click.echo(f"covey: line {number}: {err}", err=True)
            return _USAGE_STATUS
        answer.write("\n")
        answer.flush()  # whoever asks may wait for the answer before it asks again
    return 0
