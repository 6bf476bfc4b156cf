"""The pages say what the code does: links lead somewhere, nothing of the interface is left out."""

from __future__ import annotations

import functools
import importlib.util
import json
import pathlib
import re
import shlex
import subprocess
import sys
import tomllib
import types
import typing

import click
import msgspec
import pytest

import cloud.config
import edge_agent.cli
import edge_agent.config
from cloud.cli.main import cli
from cloud.setup import create_project
from cloud.web.app import create_app
from edge_agent.predict import routes

ROOT = pathlib.Path(__file__).parents[2]
DOCS = ROOT / "docs"
REFERENCE = DOCS / "reference"
ADRS = sorted((DOCS / "adr").glob("*.md"))
FRAGMENTS = sorted((ROOT / "changelog.d").glob("*"))
_NOT_OURS = {".venv", ".git", "node_modules", ".pytest_cache", "dist"}
_FENCED = re.compile(r"^```.*?^```$", re.DOTALL | re.MULTILINE)
_CODE = re.compile(r"`[^`\n]*`")
_LINK = re.compile(r"\[[^\]]*\]\(\s*<?([^)>\s]+)>?[^)]*\)")
_HEADING = re.compile(r"^#{1,6} +(.+?) *#*$", re.MULTILINE)
_TERM = re.compile(r"^\*\*(.+?)\*\*: \S", re.MULTILINE)
_PROJECT = '[project]\nname = "docs"\n[regions]\norder = ["all"]\n'
_FRAGMENT = re.compile(r"[a-z0-9]+(-[a-z0-9]+)*\.(added|changed|fixed|removed|security)\.md")


def pages() -> list[pathlib.Path]:
    """Return every Markdown file of the project."""
    return sorted(p for p in ROOT.rglob("*.md") if not _NOT_OURS & set(p.relative_to(ROOT).parts))


@functools.cache
def anchors(page: pathlib.Path) -> set[str]:
    """Return the anchors of a page's headings, as GitHub makes them."""
    found: set[str] = set()
    for heading in _HEADING.findall(_FENCED.sub("", page.read_text())):
        plain = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading).lower()
        anchor = re.sub(r"[^\w\- ]", "", plain).replace(" ", "-")
        n = 1
        while (numbered := anchor if n == 1 else f"{anchor}-{n - 1}") in found:
            n += 1
        found.add(numbered)
    return found


def links(page: pathlib.Path) -> list[str]:
    """Return where a page's links go, those to other servers left out."""
    text = _CODE.sub("", _FENCED.sub("", page.read_text()))
    return [target for target in _LINK.findall(text) if not re.match(r"[a-z]+:", target)]


def is_there(page: pathlib.Path, target: str) -> bool:
    """Tell whether a link leads to a file, and to a heading where it names one."""
    path, _, anchor = target.partition("#")
    file = (page.parent / path).resolve() if path else page
    if not file.exists() or ROOT not in file.parents:
        return False
    return not anchor or (file.suffix == ".md" and anchor in anchors(file))


def generator() -> types.ModuleType:
    """Import scripts/make_reference.py; scripts are not a package."""
    spec = importlib.util.spec_from_file_location("covey_make_reference", ROOT / "scripts" / "make_reference.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


# ---- links and form


@pytest.mark.parametrize("page", pages(), ids=lambda page: str(page.relative_to(ROOT)))
def test_every_link_leads_to_a_file_and_a_heading_that_are_there(page: pathlib.Path) -> None:
    assert [target for target in links(page) if not is_there(page, target)] == []


def test_a_broken_link_and_a_broken_anchor_are_found(tmp_path: pathlib.Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("# A `b`, c\n[x](gone.md) [y](#a-b-c) [z](#nothing) `[code](no.md)` [w](https://example.com)\n")
    assert links(page) == ["gone.md", "#a-b-c", "#nothing"]
    assert anchors(page) == {"a-b-c"}


def test_the_index_leads_to_every_page() -> None:
    index = DOCS / "README.md"
    linked = {(DOCS / target.partition("#")[0]).resolve() for target in links(index)}
    assert [p for p in pages() if DOCS in p.parents and p != index and p not in linked] == []


def test_the_glossary_is_in_the_order_of_the_alphabet_and_explains_each_word_once() -> None:
    terms = [term.casefold() for term in _TERM.findall((DOCS / "glossary.md").read_text())]
    assert len(terms) > 50
    assert terms == sorted(set(terms))


@pytest.mark.parametrize("adr", ADRS, ids=lambda adr: adr.stem)
def test_a_decision_has_a_status_a_context_and_consequences(adr: pathlib.Path) -> None:
    text = adr.read_text()
    number = int(adr.name[:4])
    assert text.startswith(f"# {number}. ")
    assert re.search(r"^Status: (accepted|replaced by \d{4})\b", text, re.MULTILINE)
    sections = re.split(r"^## ", text, flags=re.MULTILINE)[1:]
    assert [section.partition("\n")[0] for section in sections] == ["Context", "Decision", "Consequences"]
    assert all(len(section.partition("\n")[2].split()) > 10 for section in sections)


def test_decisions_are_numbered_without_a_gap() -> None:
    assert len(ADRS) > 10
    assert [int(adr.name[:4]) for adr in ADRS] == list(range(1, len(ADRS) + 1))


def test_changelog_fragments_are_named_and_written_as_agreed() -> None:
    for path in FRAGMENTS:
        assert _FRAGMENT.fullmatch(path.name), path.name
        assert path.read_text().strip(), path.name


def test_the_picture_of_the_architecture_has_every_module_of_every_layer() -> None:
    text = (DOCS / "explanation" / "architecture.md").read_text()
    picture = text.partition("```text\n")[2].partition("\n```")[0]
    drawn = set(re.findall(r"\w+", picture))
    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"]
    layers = [layer for contract in contracts for layer in contract.get("layers", ())]
    assert len(layers) > 15
    assert {name for layer in layers for name in re.findall(r"\w+", layer)} - drawn == set()


# ---- examples


def blocks(language: str) -> list[tuple[str, str]]:
    """Return (page, content) of every code block in a language, whole and in order."""
    fence = re.compile(rf"^```{language}\n(.*?)^```$", re.DOTALL | re.MULTILINE)
    return [(page.name, body) for page in pages() for body in fence.findall(page.read_text())]


def commands_shown() -> list[tuple[str, list[str]]]:
    """Return (page, words) of every command of ours that a page shows, without what the shell does around it."""
    shown = []
    for page, body in blocks("bash"):
        for line in body.splitlines():
            words = shlex.split(line, comments=True) if line.startswith(("covey ", "covey-edge ")) else []
            end = next((i for i, word in enumerate(words) if re.fullmatch(r"[|&;]+|\d?>.*|<", word)), len(words))
            shown += [(page, words[:end])] if words else []
    return shown


def test_every_command_that_a_page_shows_is_understood(monkeypatch: pytest.MonkeyPatch, tmp_path: pathlib.Path) -> None:
    monkeypatch.chdir(tmp_path)
    assert len(commands_shown()) > 100
    for page, (program, *words) in commands_shown():
        try:
            if program == "covey":
                understand(cli, program, words)
            else:
                edge_agent.cli._parser().parse_args(words)
        except (click.UsageError, SystemExit) as err:
            pytest.fail(f"{page}: {program} {shlex.join(words)}: {err}")


def understand(command: click.Command, name: str, words: list[str], parent: click.Context | None = None) -> None:
    """Parse a command line as far down as it goes; nothing is done."""
    with command.make_context(name, words, parent) as context:
        if isinstance(command, click.Group):
            rest = [*context._protected_args, *context.args]
            inner, below, left = command.resolve_command(context, rest)
            assert inner is not None
            assert below is not None
            understand(below, inner, left, context)


def test_a_command_or_an_option_that_is_not_there_is_found() -> None:
    with pytest.raises(click.UsageError, match="shwo"):
        understand(cli, "covey", ["rollout", "shwo"])
    with pytest.raises(click.UsageError, match="--wtch"):
        understand(cli, "covey", ["rollout", "show", "--wtch"])


def test_every_json_and_toml_block_can_be_read() -> None:
    for page, body in blocks("json"):
        assert json.loads(body), page
    for page, body in blocks("toml"):
        assert tomllib.loads(body), page
    assert len(blocks("json")) > 10
    assert len(blocks("toml")) > 5


# ---- what the code has and the reference must say


def test_the_made_pages_are_what_the_code_makes_now() -> None:
    done = subprocess.run(
        [sys.executable, ROOT / "scripts" / "make_reference.py", "--check"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr + "run: python scripts/make_reference.py"


def test_every_command_of_both_programs_has_a_section_and_an_example() -> None:
    text = (REFERENCE / "cli.md").read_text()
    names = [name for name, command in walk(cli, "covey") if not isinstance(command, click.Group)]
    verbs = next(a for a in vars(edge_agent.cli._parser())["_actions"] if isinstance(a.choices, dict))
    names += [f"covey-edge {name}" for name in verbs.choices if not name.startswith("_")]
    assert len(names) > 30
    for name in names:
        assert re.search(rf"^### `{name}[ `]", text, re.MULTILINE), name
        assert re.search(rf"^{name}\b", text, re.MULTILINE), f"{name} has no example"


def walk(group: click.Group, path: str) -> typing.Iterator[tuple[str, click.Command]]:
    """Return every command that people are meant to see."""
    context = click.Context(group)
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        if command is not None and not command.hidden:
            yield f"{path} {name}", command
            if isinstance(command, click.Group):
                yield from walk(command, f"{path} {name}")


def test_every_route_of_the_cloud_has_a_section_and_no_other_has(tmp_path: pathlib.Path) -> None:
    app = create_app(create_project(tmp_path / "project", {"covey.toml": _PROJECT}, actor="test"))
    there = {
        f"{method} {rule.rule}"
        for rule in app.url_map.iter_rules()
        for method in (rule.methods or set()) - {"HEAD", "OPTIONS"}
    }
    app.extensions["covey"]["store"].close()
    said = set(re.findall(r"^### `([A-Z]+ [^`]+)`", (REFERENCE / "cloud-api.md").read_text(), re.MULTILINE))
    assert said - {"GET /repo/<path:name>"} == there


def test_every_route_of_the_device_has_a_section_and_no_other_has() -> None:
    text = (REFERENCE / "device-api.md").read_text()
    assert len(routes.documented()) > 15
    assert set(re.findall(r"^### `([A-Z]+ [^`]+)`", text, re.MULTILINE)) == routes.documented()


def test_every_metric_of_the_device_has_a_row_and_no_other_has() -> None:
    source = (ROOT / "edge_agent" / "predict" / "metrics.py").read_text()
    there = set(re.findall(r'"(covey_(?!waiting")[a-z_]+|process_[a-z_]+)"', source)) - {"covey_"}
    made = [ROOT / "edge_agent" / "predict" / "server.py", ROOT / "edge_agent" / "agent.py"]
    gauges = {name for path in made for name in re.findall(r'"((?:http|spool)_[a-z_]+)":', path.read_text())}
    assert len(gauges) > 5
    text = (REFERENCE / "device-api.md").read_text()
    said = set(
        re.findall(r"`((?:covey|process)_[a-z_]+)`", text.partition("### `GET /metrics`")[2].partition("###")[0])
    )
    assert said == there | {f"covey_{name}" for name in gauges}


def test_every_error_has_a_row_with_its_code_and_status() -> None:
    text = (REFERENCE / "errors.md").read_text()
    kinds = generator().all_errors()
    assert len({kind.code for kind in kinds}) > 20
    for kind in kinds:
        assert re.search(rf"^\| {kind.__name__}\b.*\| `{kind.code}` \| {kind.http_status} \|", text, re.MULTILINE), kind


@pytest.mark.parametrize("side", [cloud.config.Settings, edge_agent.config.Settings])
def test_every_setting_has_a_row_in_the_section_of_its_table(side: type[msgspec.Struct]) -> None:
    text = (REFERENCE / "configuration.md").read_text()
    half = text.partition("\n## edge.toml\n")[0 if side is cloud.config.Settings else 2]
    sections = {part.partition("`")[0].strip("[]"): part for part in re.split(r"^### `", half, flags=re.MULTILINE)[1:]}
    keys = list(settings_of(generator(), side, ""))
    assert len(keys) > 7
    for table, key in keys:
        assert f"\n| `{key}` |" in sections[table], f"{table}.{key}"


def settings_of(made: types.ModuleType, kind: typing.Any, path: str) -> typing.Iterator[tuple[str, str]]:
    """Return (table, key) of every plain setting."""
    for field in msgspec.structs.fields(kind):
        inner = made.below(field.type)
        if inner is None:
            yield path, field.encode_name
        else:
            struct, shape = inner
            below = f"{path}.{field.encode_name}".lstrip(".") + (".NAME" if shape == "many" else "")
            yield from settings_of(made, struct, below)


def test_every_record_on_the_wire_is_in_the_table_of_schemas() -> None:
    text = (REFERENCE / "files-and-formats.md").read_text()
    sources = [p.read_text() for side in ("shared", "edge_agent", "cloud") for p in (ROOT / side).rglob("*.py")]
    schemas = {found for source in sources for found in re.findall(r'"(covey\.[a-z-]+/\d+)"', source)}
    assert len(schemas) > 10
    assert [schema for schema in schemas if f"`{schema}`" not in text] == []
