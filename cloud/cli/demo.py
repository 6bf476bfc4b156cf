"""``covey demo``."""

from __future__ import annotations

import json
import pathlib

import click

from cloud.cli.base import Amount, clean
from cloud.demo.run import MAX_DEVICES, MIN_DEVICES, Options, run
from cloud.demo.screen import summary_lines


@click.command()
@click.option("--devices", type=int, default=MIN_DEVICES, show_default=True, help=f"{MIN_DEVICES} to {MAX_DEVICES}.")
@click.option("--speed", type=Amount(), default=0.0, help="Replayed days a second, at most; 0 is as fast as it goes.")
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True, help="Another seed, another model.")
@click.option("--keep", type=click.Path(path_type=pathlib.Path), help="Keep project and devices in this new folder.")
@click.option("--json", "as_json", is_flag=True, help="Print the checked summary as one JSON object.")
@click.option("--no-browser", is_flag=True, help="Do not open the dashboard.")
def demo(devices: int, speed: float, seed: int, keep: pathlib.Path | None, as_json: bool, no_browser: bool) -> int:
    """Watch the whole loop on real data: 24 real devices, a summer of flights, a bad model stopped by itself."""
    options = Options(devices, speed, seed, keep, browser=not no_browser, quiet=as_json)
    summary = run(options)
    if as_json:
        click.echo(json.dumps(clean(summary)))
    else:
        for line in summary_lines(summary):
            click.echo(line)
    return 0 if summary["ok"] else 1
