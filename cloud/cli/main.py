"""The root of ``covey`` and the way its errors reach people."""

from __future__ import annotations

import pathlib
import sqlite3
import sys
import traceback
import typing

import click

from cloud.cli.base import Here, LazyGroup
from shared import __version__
from shared.errors import CoveyError, UsageError, printable, shown

# Name, where it is, and its line of help: a command's module is imported when the command is used, since training
# libraries take seconds to import.
COMMANDS = {
    "init": ("cloud.cli.project:init", "Make a project in FOLDER: covey.toml, keys, database."),
    "doctor": ("cloud.cli.doctor:doctor", "Say what is wrong with the project."),
    "status": ("cloud.cli.fleet:status", "Show the fleet: devices, versions, rollouts."),
    "data": ("cloud.cli.data:data", "Add rows, and see what is there."),
    "feature": ("cloud.cli.feature:feature", "Look at feature sets, and check them."),
    "model": ("cloud.cli.model:model", "Train, fine-tune, and see where versions come from."),
    "bundle": ("cloud.cli.bundle:bundle", "Look at what was signed, and check it."),
    "device": ("cloud.cli.device:device", "Join tokens, and who is in the fleet."),
    "key": ("cloud.cli.key:key", "Signing keys: which count, and how they are replaced."),
    "rollout": ("cloud.cli.rollout:rollout", "Start, watch and steer rollouts."),
    "experiment": ("cloud.cli.experiment:experiment", "Decide experiments from sums."),
    "hook": ("cloud.cli.hook:hook", "See and try the hooks: who is told what happens, and who is asked."),
    "trigger": ("cloud.cli.fleet:trigger", "See what makes a model train again by itself."),
    "audit": ("cloud.cli.fleet:audit", "Show who did what, and why, newest first."),
    "serve": ("cloud.cli.serve:serve", "Serve devices and pages, with a worker beside, until stopped."),
    "worker": ("cloud.cli.serve:worker", "Run triggers, training and the rollout controller, until stopped."),
    "demo": ("cloud.cli.demo:demo", "Watch the whole loop on real data, with 24 real devices."),
    "job": ("cloud.cli.model:job", ""),
}


@click.group(cls=LazyGroup, commands_by_place=COMMANDS, context_settings={"help_option_names": ["-h", "--help"]})
@click.option(
    "--project",
    "folder",
    type=click.Path(file_okay=False, path_type=pathlib.Path),
    envvar="COVEY_PROJECT",
    help="Folder of the project (default: the nearest one upwards from here).",
)
@click.option("--debug", is_flag=True, help="Show tracebacks.")
@click.version_option(__version__, prog_name="covey")
@click.pass_context
def cli(context: click.Context, folder: pathlib.Path | None, debug: bool) -> None:
    """Train models in one place, run them on a fleet of edge devices, and prove there that they are better."""
    del debug
    context.obj = Here(folder)


def main(argv: typing.Sequence[str] | None = None) -> int:  # noqa: PLR0911 - each way to end is one line
    """Run a command; return the exit status."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    debug = "--debug" in arguments
    try:
        status = cli.main(arguments, prog_name="covey", standalone_mode=False)
    except CoveyError as err:
        return _failed(str(err), err.exit_status, debug=debug)
    except click.ClickException as err:
        err.show()
        return err.exit_code
    except click.Abort:
        return _failed("stopped", 1)
    except BrokenPipeError:
        return 1
    except (OSError, sqlite3.DatabaseError) as err:
        return _failed(str(err), 1, debug=debug)
    except UnicodeEncodeError as err:
        return _failed(f"{shown(err.object)} is not UTF-8 text. Write it anew.", UsageError.exit_status, debug=debug)
    return status if isinstance(status, int) else 0


def _failed(said: str, status: int, *, debug: bool = False) -> int:
    if debug:
        traceback.print_exc()
    click.echo(f"covey: {printable(said)}", err=True)
    return status
