"""What all commands share: the project, printing, and errors that help."""

from __future__ import annotations

import functools
import importlib
import json
import math
import pathlib
import sys
import typing

import click

from cloud.config import CONFIG_FILE, Project, find_project, load_project
from shared.errors import UsageError, nearest, printable

if typing.TYPE_CHECKING:
    from cloud.store.store import Store

P = typing.ParamSpec("P")
R = typing.TypeVar("R")
Row = dict[str, typing.Any]
_LARGEST = 1_000_000_000


class Group(click.Group):
    """A group of commands that knows what was meant."""

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Find a command, or name the nearest one."""
        try:
            return super().resolve_command(ctx, args)
        except click.UsageError as err:
            near = nearest(args[0], self.list_commands(ctx))
            said = err.message.split(" (", 1)[0].rstrip(".")
            raise click.UsageError(f"{said}. Did you mean {near!r}?" if near else said, ctx) from err


class LazyGroup(Group):
    """A group whose commands are imported when they are used.

    Parameters
    ----------
    commands_by_place : mapping
        Name to (``module:attribute``, line of help; empty hides it).
    """

    def __init__(
        self,
        *args: typing.Any,  # noqa: ANN401 - what click hands on
        commands_by_place: dict[str, tuple[str, str]],
        **settings: typing.Any,  # noqa: ANN401 - what click hands on
    ) -> None:
        super().__init__(*args, **settings)
        self._places = commands_by_place

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Names of the commands that people are meant to see."""
        del ctx
        return [name for name, (_, text) in self._places.items() if text]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import a command."""
        del ctx
        place, _ = self._places.get(cmd_name, ("", ""))
        if not place:
            return None
        module, _, attribute = place.partition(":")
        command: click.Command = getattr(importlib.import_module(module), attribute)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """List the commands without importing them."""
        del ctx
        with formatter.section("Commands"):
            formatter.write_dl([(name, text) for name, (_, text) in self._places.items() if text])


class Here:
    """The project of this command; opened when it is first needed.

    Parameters
    ----------
    folder : Path, optional
        Where to look; the nearest project upwards from the working folder by default.
    """

    def __init__(self, folder: pathlib.Path | None) -> None:
        self._folder = folder

    @functools.cached_property
    def project(self) -> Project:
        """The project."""
        return load_project((self._folder or find_project(pathlib.Path.cwd())).resolve())

    @functools.cached_property
    def store(self) -> Store:
        """Its store."""
        from cloud.store.store import Store  # a third of a second, which `covey experiment decide` has no use for

        return Store(self.project)


def worker_is_behind(here: Here) -> bool:
    """Whether the settings were changed since the worker read them: hooks and triggers are as they were then."""
    read_s = float(here.store.get_meta("settings_s"))
    return 0 < read_s < (here.project.folder / CONFIG_FILE).stat().st_mtime


class Number(click.types.IntParamType):
    """A whole number that a database can hold, 1 at least."""

    def convert(self, value: typing.Any, param: click.Parameter | None, ctx: click.Context | None) -> int:  # noqa: ANN401
        """Read it."""
        number: int = super().convert(value, param, ctx)
        if not 1 <= number <= _LARGEST:
            self.fail(f"{value!r:.40} is not between 1 and {_LARGEST:,}.", param, ctx)
        return number


class Amount(click.types.FloatParamType):
    """A number that is one, and not below 0: not-a-number and infinity pass every limit.

    Parameters
    ----------
    least : float
        The smallest that is accepted.
    """

    def __init__(self, least: float = 0.0) -> None:
        self._least = least

    def convert(self, value: typing.Any, param: click.Parameter | None, ctx: click.Context | None) -> float:  # noqa: ANN401
        """Read it."""
        number: float = super().convert(value, param, ctx)
        if not self._least <= number <= _LARGEST:
            self.fail(f"{value!r:.40} is not between {self._least:g} and {_LARGEST:,}.", param, ctx)
        return number


pass_here = click.make_pass_decorator(Here)
json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON.")
dry_run_option = click.option("--dry-run", is_flag=True, help="Say what would be done, and do nothing.")
model_option = click.option("--model", metavar="NAME", help="Which model, if there are several.")
reason_option = click.option("--reason", default="", metavar="TEXT", help="Why; kept in the audit log.")


def show(value: object, lines: typing.Iterable[str], *, as_json: bool) -> None:
    """Print JSON, or lines for people."""
    if as_json:
        said = json.dumps(clean(value), default=str, ensure_ascii=False)
        click.echo(printable(said, as_json=True))
    else:
        for line in lines:
            click.echo(printable(line))


def clean(value: object) -> object:
    """JSON has no infinity and no not-a-number: they become null."""
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, dict):
        return {str(key): clean(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [clean(item) for item in value]
    return value


def say(line: str) -> None:
    """Tell a person on a terminal how it goes; programs that read the output are left alone."""
    if sys.stderr.isatty():
        click.echo(line, err=True)


def confirm(question: str, *, yes: bool) -> None:
    """Ask before something that can not be taken back; without a terminal, refuse and name the flag."""
    if yes:
        return
    if not sys.stdin.isatty():
        raise UsageError(f"{question} Nobody is there to ask", field="--yes", fix="Say it with --yes.")
    click.confirm(question, abort=True)


def table(rows: typing.Sequence[Row], columns: typing.Mapping[str, str]) -> list[str]:
    """Lay rows out in columns: key of the row to title."""
    cells = [[str(title) for title in columns.values()]]
    cells += [["" if row.get(key) is None else str(row[key]) for key in columns] for row in rows]
    widths = [max(len(line[i]) for line in cells) for i in range(len(columns))]
    return ["  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() for line in cells]
