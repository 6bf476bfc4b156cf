#!/usr/bin/env python3
"""Write what docs/reference takes from the code: commands, settings, errors, kinds of features.

Run it after a change of the code. ``--check`` writes nothing and says which page is out of date; a test does the same.
What the code does not say itself (examples, keys without a docstring) is in ``docs/reference/notes.toml``.
"""

from __future__ import annotations

import argparse
import collections
import importlib
import json
import pathlib
import pkgutil
import re
import sys
import tomllib
import types
import typing

import click
import msgspec

import cloud
import cloud.config
import edge_agent.cli
import edge_agent.config
from cloud.cli.main import cli
from shared import errors
from shared.features import Bucketed, Categorical, FeatureSet, Numeric, TimePart

FOLDER = pathlib.Path(__file__).resolve().parents[1] / "docs" / "reference"
NOTES: dict[str, dict[str, str]] = tomllib.loads((FOLDER / "notes.toml").read_text())
USED: set[str] = set()
_HEAD = (
    "<!-- Made by scripts/make_reference.py from the code and from notes.toml. Change those, then run the script. -->"
)
_PART = re.compile(r"(<!-- made from the code: (\w+) -->\n).*?(<!-- end -->)", re.DOTALL)
_ENTRY = re.compile(r"^(\w[\w, ]*) :[^\n]*\n((?:    .*\n?)+)", re.MULTILINE)
_HUGE = 1e15
_WORDS = {"int": "whole number", "float": "number", "str": "text", "bool": "true or false"}
_FEATURES = {"set": FeatureSet, "numeric": Numeric, "bucketed": Bucketed, "categorical": Categorical, "time": TimePart}
Table = list[str]
Struct = typing.Any  # a msgspec Struct class


def first_line(kind: object) -> str:
    """Return the first paragraph of a docstring, as one line, in Markdown."""
    text = (getattr(kind, "__doc__", None) or "").strip().split("\n\n")[0]
    return markdown(" ".join(text.split()))


def markdown(text: str) -> str:
    """Turn the marks of a docstring into Markdown's, safe inside a table."""
    return text.replace("``", "`").replace("|", "\\|")


def documented(kind: type) -> dict[str, str]:
    """Return what a struct's docstring, and those it inherits from, say of each field."""
    found: dict[str, str] = {}
    for base in reversed(kind.__mro__):
        text = "\n".join(line.removeprefix("    ") for line in (base.__doc__ or "").splitlines())
        for names, said in _ENTRY.findall(text.partition("Parameters\n")[2]):
            found |= {name.strip(): markdown(" ".join(said.split())) for name in names.split(",")}
    return found


def type_words(kind: typing.Any) -> str:  # noqa: ANN401 - any annotation
    """Say a field's type for people.

    >>> type_words(int), type_words(tuple[str, ...])
    ('whole number', 'list of text')
    """
    if hasattr(kind, "__metadata__"):
        return type_words(typing.get_args(kind)[0]) + limits(kind.__metadata__[0])
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if origin is typing.Literal:
        return ", ".join(f"`{json.dumps(value)}`" for value in arguments)
    if origin in (typing.Union, types.UnionType):
        return " or ".join(type_words(one) for one in arguments if one is not type(None))
    if origin is tuple:
        return f"list of {type_words(arguments[0])}"
    if origin is dict or kind is dict:
        return "table"
    return _WORDS.get(kind.__name__, str(kind.__name__))


def limits(meta: msgspec.Meta) -> str:
    """Say between which limits a number must be; those that only keep infinity out are left out."""
    signs = {"ge": ">=", "gt": ">", "le": "<=", "lt": "<"}
    known = [(sign, getattr(meta, name)) for name, sign in signs.items()]
    said = [f"{sign} {limit:,}" for sign, limit in known if limit is not None and abs(limit) < _HUGE]
    return f", {' and '.join(said)}" if said else ""


def default_words(field: msgspec.structs.FieldInfo) -> str:
    """Write a default as TOML has it."""
    value = field.default
    if value is msgspec.NODEFAULT:
        value = field.default_factory() if field.default_factory is not msgspec.NODEFAULT else value
    if value is msgspec.NODEFAULT:
        return "**required**"
    return "none" if value is None else f"`{json.dumps(value)}`"


def below(kind: typing.Any) -> tuple[Struct, str] | None:  # noqa: ANN401 - any annotation
    """Return the struct of a field that is a table, and how its header is written; None for a plain value."""
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    inner = arguments[-1] if origin is dict else arguments[0] if origin is tuple else kind
    if not (isinstance(inner, type) and issubclass(inner, msgspec.Struct)):
        return None
    return inner, "many" if origin is dict else "list" if origin is tuple else "one"


def field_rows(kind: Struct, where: str, skip: typing.Container[str] = ()) -> Table:
    """Return a table of the plain fields of a struct; every field must be explained, here or in the notes."""
    said = documented(kind)
    rows = ["| key | type | default | meaning |", "|---|---|---|---|"]
    for field in msgspec.structs.fields(kind):
        if field.name in skip or below(field.type):
            continue
        path = f"{where}.{field.encode_name}" if where else field.encode_name
        meaning = said[field.name] if field.name in said and path not in NOTES["keys"] else note("keys", path)
        rows.append(f"| `{field.encode_name}` | {type_words(field.type)} | {default_words(field)} | {meaning} |")
    return rows


def note(part: str, name: str) -> str:
    """Look up what the code does not say itself."""
    USED.add(f"{part}.{name}")
    try:
        return NOTES[part][name]
    except KeyError:
        raise SystemExit(f'docs/reference/notes.toml: [{part}] lacks "{name}"') from None


def tables_of(kind: Struct, header: str, path: str, side: str) -> Table:
    """Return the section of a table of a settings file, and those of the tables below it."""
    lines: Table = []
    if path:
        said = re.sub(r"^`\[[^`]*\]`[:.] ?", "", first_line(kind))
        lines += [f"### `{header}`", "", said[:1].upper() + said[1:] or note("tables", path), ""]
    rows = field_rows(kind, f"{side}{path}")
    lines += [*rows, ""] if len(rows) > 2 else []  # noqa: PLR2004 - a head without rows
    for field in msgspec.structs.fields(kind):
        inner = below(field.type)
        if inner:
            struct, shape = inner
            name = f"{path}.{field.encode_name}".lstrip(".") + (".NAME" if shape == "many" else "")
            lines += tables_of(struct, f"[[{name}]]" if shape == "list" else f"[{name}]", name, side)
    return lines


def configuration() -> str:
    """Return configuration.md."""
    lines = [_HEAD, "# Settings", "", NOTES["pages"]["configuration"].strip(), ""]
    lines += ["## covey.toml", "", NOTES["pages"]["covey.toml"].strip(), ""]
    lines += tables_of(cloud.config.Settings, "", "", "")
    lines += ["## edge.toml", "", NOTES["pages"]["edge.toml"].strip(), ""]
    lines += tables_of(edge_agent.config.Settings, "", "", "edge:")
    return "\n".join(lines).rstrip() + "\n"


def features() -> str:
    """Return features.md with its tables made anew."""

    def part(match: re.Match[str]) -> str:
        kind = _FEATURES[match[2]]
        rows = field_rows(kind, match[2], skip=("schema",))
        return "\n".join([match[1], *rows, "", match[3]])

    return _PART.sub(part, (FOLDER / "features.md").read_text())


def commands(group: click.Group, context: click.Context) -> typing.Iterator[tuple[str, click.Command, click.Context]]:
    """Walk through all commands that people are meant to see: full name, command, context."""
    for name in group.list_commands(context):
        command = typing.cast("click.Command", group.get_command(context, name))
        if not command.hidden:
            inner = click.Context(command, info_name=name, parent=context)
            yield inner.command_path, command, inner
            if isinstance(command, click.Group):
                yield from commands(command, inner)


def click_options(command: click.Command, context: click.Context) -> Table:
    """Return the options of a command, one line each."""
    records = [option.get_help_record(context) for option in command.params if isinstance(option, click.Option)]
    return [f"* `{record[0]}` {markdown(record[1])}" for record in records if record]


def click_section(name: str, command: click.Command, context: click.Context) -> Table:
    """Return the section of one command of `covey`."""
    if isinstance(command, click.Group):
        return [f"## {name}", "", first_line(command), ""]
    usage = " ".join([name, *command.collect_usage_pieces(context)]).replace("[OPTIONS] ", "")
    return section(name, usage.replace(" [OPTIONS]", ""), markdown(command.help or ""), click_options(command, context))


def section(name: str, usage: str, said: str, options: Table) -> Table:
    """Lay one command out."""
    example = note("examples", name).strip()
    lines = [f"### `{usage}`", "", said, ""]
    return [*lines, *options, *([""] if options else []), "```bash", example, "```", ""]


def edge_sections() -> Table:
    """Return the sections of `covey-edge`, verb by verb."""
    parser = edge_agent.cli._parser()  # noqa: SLF001 - the parser is not for other programs
    verbs = next(one for one in vars(parser)["_actions"] if isinstance(one.choices, dict))
    lines = ["", *edge_options(parser), ""]
    helps = {one.dest: one.help for one in vars(verbs)["_choices_actions"]}
    for name, verb in verbs.choices.items():
        if name.startswith("_"):
            continue
        words = [one.metavar or one.dest for one in vars(verb)["_actions"] if not one.option_strings]
        usage = " ".join(["covey-edge", name, *(f"[{word}]" if word != "URL" else word for word in words)])
        lines += section(f"covey-edge {name}", usage, helps[name].capitalize() + ".", edge_options(verb))
    return lines


def edge_options(parser: argparse.ArgumentParser) -> Table:
    """Return the options of a verb, one line each."""
    lines = []
    for one in vars(parser)["_actions"]:
        if one.help == argparse.SUPPRESS or one.dest in ("help", "verb"):
            continue
        value = "" if one.nargs == 0 or not one.option_strings else f" {one.metavar or one.dest.upper()}"
        choices = " | ".join(one.choices) if one.choices else one.metavar or one.dest
        lines.append(f"* `{', '.join(one.option_strings) or choices}{value}` {markdown(one.help or '')}")
    return lines


def command_line() -> str:
    """Return cli.md."""
    context = click.Context(cli, info_name="covey")
    lines = [_HEAD, "# Commands", "", NOTES["pages"]["cli"].strip(), "", "## covey", ""]
    lines += [first_line(cli), "", *click_options(cli, context), ""]
    for name, command, inner in commands(cli, context):
        lines += click_section(name, command, inner)
    lines += ["## covey-edge", "", NOTES["pages"]["covey-edge"].strip(), *edge_sections()]
    return "\n".join(lines).rstrip() + "\n"


def all_errors() -> list[type[errors.CoveyError]]:
    """Return every error class with a code of its own, those of shared/errors.py first."""
    for package in (cloud, edge_agent):
        for module in pkgutil.walk_packages(package.__path__, f"{package.__name__}."):
            if not module.name.endswith("__main__"):
                importlib.import_module(module.name)
    queue, found = collections.deque([errors.CoveyError]), []
    while queue:
        kind = queue.popleft()
        found += [kind] if "code" in vars(kind) and kind.__module__.split(".")[0] in ("cloud", "edge_agent") else []
        queue.extend(kind.__subclasses__())
    ours = [kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, errors.CoveyError)]
    return ours + sorted(found, key=lambda kind: (kind.code, kind.__module__))


def errors_page() -> str:
    """Return errors.md."""
    lines = [_HEAD, "# Errors", "", NOTES["pages"]["errors"].strip(), ""]
    lines += ["| class | code | HTTP | exit | retry | meaning | what to do |", "|---|---|---|---|---|---|---|"]
    for kind in all_errors():
        name = kind.__name__ if kind.__module__ == errors.__name__ else f"{kind.__name__} ({kind.__module__})"
        numbers = f"`{kind.code}` | {kind.http_status} | {kind.exit_status} | {'yes' if kind.retry else 'no'}"
        lines.append(f"| {name} | {numbers} | {first_line(kind)} | {note('errors', kind.code)} |")
    return "\n".join([*lines, "", NOTES["pages"]["errors_end"].strip()]) + "\n"


def pages() -> dict[pathlib.Path, str]:
    """Return what each page should be; raises SystemExit if a note is missing, or is not needed any more."""
    made = {
        FOLDER / "cli.md": command_line(),
        FOLDER / "configuration.md": configuration(),
        FOLDER / "errors.md": errors_page(),
        FOLDER / "features.md": features(),
    }
    known = {f"{part}.{name}" for part, notes in NOTES.items() if part != "pages" for name in notes}
    if known - USED:
        raise SystemExit(f"docs/reference/notes.toml: nothing needs {sorted(known - USED)}")
    return made


def main() -> int:
    """Run."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="write nothing; exit status 1 if a page is out of date")
    check = parser.parse_args().check
    stale = [(path, text) for path, text in pages().items() if not path.exists() or path.read_text() != text]
    for path, text in stale:
        print(f"{path.name} {'is out of date' if check else 'written'}")
        if not check:
            path.write_text(text)
    return 1 if stale and check else 0


if __name__ == "__main__":
    sys.exit(main())
