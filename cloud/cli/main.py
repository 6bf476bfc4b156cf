"""The root of ``covey`` and the way its errors reach people."""

from __future__ import annotations

import pathlib
import sqlite3
import sys
import traceback
import typing

import click

from cloud.cli import admin, bundle, data, device, experiment, feature, model, project, rollout, serve
from cloud.cli.base import Group, Here
from shared import __version__
from shared.errors import CoveyError

_USAGE_STATUS = 2


@click.group(cls=Group, context_settings={"help_option_names": ["-h", "--help"]})
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


for _command in (
    project.init,
    project.doctor,
    project.status,
    data.data,
    feature.feature,
    model.model,
    model.job,
    bundle.bundle,
    device.device,
    rollout.rollout,
    experiment.experiment,
    admin.trigger,
    admin.audit,
    serve.serve,
    serve.worker,
):
    cli.add_command(_command)


def main(argv: typing.Sequence[str] | None = None) -> int:
    """Run a command; return the exit status."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    debug = "--debug" in arguments
    try:
        status = cli.main(arguments, prog_name="covey", standalone_mode=False)
    except CoveyError as err:
        if debug:
            traceback.print_exc()
        click.echo(f"covey: {err}", err=True)
        return err.exit_status
    except click.ClickException as err:
        err.show()
        return err.exit_code
    except click.Abort:
        click.echo("covey: stopped", err=True)
        return 1
    except BrokenPipeError:
        return 1
    except (OSError, sqlite3.DatabaseError) as err:
        if debug:
            traceback.print_exc()
        click.echo(f"covey: {err}", err=True)
        return 1
    return status if isinstance(status, int) else 0
