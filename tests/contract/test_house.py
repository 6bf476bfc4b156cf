"""The rules of the house that no linter knows: sizes, docstrings, examples, what is shared, what is shipped."""

from __future__ import annotations

import ast
import doctest
import importlib
import pathlib
import re
import subprocess
import tomllib
import typing
import zipfile

import pytest

ROOT = pathlib.Path(__file__).parents[2]
PACKAGES = ("cloud", "edge_agent", "shared")
MAX_MODULE_LINES, MAX_BODY_LINES, FEW_EXAMPLES = 300, 50, 40
# Put together, so that this file does not hold what it looks for.
HOMES = ("/" + "root/", "/" + "home/", "/" + "Users/", f"{ROOT}/")
FORBIDDEN = (*HOMES, "pypi" + ".org", "python" + "hosted", "index" + "-url")
BINARY = {".png", ".ico", ".woff2", ".parquet", ".onnx", ".gz"}
FUNCTION = ast.FunctionDef | ast.AsyncFunctionDef


def module_name(path: pathlib.Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


FILES = {module_name(path): path for package in PACKAGES for path in sorted((ROOT / package).rglob("*.py"))}
TREES = {name: ast.parse(path.read_text()) for name, path in FILES.items()}


def functions(tree: ast.AST) -> typing.Iterator[FUNCTION]:
    return (node for node in ast.walk(tree) if isinstance(node, FUNCTION))


def body_lines(node: FUNCTION) -> int:
    """Lines that the statements of a function span, without its docstring."""
    body = node.body[1:] if ast.get_docstring(node, clean=False) is not None else node.body
    return (body[-1].end_lineno or 0) - body[0].lineno + 1 if body else 0


# ---- sizes and docstrings


@pytest.mark.parametrize("name", FILES)
def test_a_module_is_short_and_so_are_its_functions(name: str) -> None:
    assert len(FILES[name].read_text().splitlines()) <= MAX_MODULE_LINES
    long = {node.name: body_lines(node) for node in functions(TREES[name]) if body_lines(node) > MAX_BODY_LINES}
    assert not long


def undocumented(tree: ast.Module) -> list[str]:
    """Public things without a docstring: the module, its classes and functions, and the methods of those classes."""
    missing = [] if ast.get_docstring(tree) else ["the module"]
    todo: list[tuple[str, ast.stmt]] = [("", node) for node in tree.body]
    while todo:
        before, node = todo.pop()
        if not isinstance(node, FUNCTION | ast.ClassDef) or node.name.startswith("_"):
            continue
        if not ast.get_docstring(node):
            missing.append(before + node.name)
        if isinstance(node, ast.ClassDef):
            todo += [(f"{before}{node.name}.", inner) for inner in node.body]
    return missing


@pytest.mark.parametrize("name", FILES)
def test_everything_public_says_what_it_is(name: str) -> None:
    assert undocumented(TREES[name]) == []


def test_the_house_sees_what_breaks_its_rules() -> None:
    long = ast.parse('def f():\n    """Say."""\n' + "    x = 1\n" * 51)
    assert [body_lines(node) for node in functions(long)] == [51]
    bare = ast.parse("class A:\n    def b(self): ...\n    def _c(self): ...\ndef _d(): ...\n")
    assert undocumented(bare) == ["the module", "A", "A.b"]


# ---- examples


@pytest.mark.parametrize("name", [name for name in FILES if not name.endswith("__main__")])
def test_examples_in_docstrings_say_the_truth(name: str) -> None:
    done = doctest.testmod(importlib.import_module(name))
    assert done.failed == 0


def test_there_are_examples_at_all() -> None:
    finder = doctest.DocTestFinder()
    names = [name for name in FILES if not name.endswith("__main__")]
    n = sum(len(test.examples) for name in names for test in finder.find(importlib.import_module(name)))
    assert n >= FEW_EXAMPLES


# ---- what is shared


def imports(tree: ast.Module) -> set[str]:
    """Modules of this repository that a module imports, anywhere in it."""
    found: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
    return found & set(FILES)


def reached(side: str) -> set[str]:
    """Modules of `shared` that a side needs, directly or through other modules of `shared`."""
    todo = {name for module, tree in TREES.items() if module.split(".")[0] == side for name in imports(tree)}
    seen: set[str] = set()
    while todo:
        name = todo.pop()
        if name.split(".")[0] == "shared" and name not in seen:
            seen.add(name)
            todo |= imports(TREES[name])
            todo |= {name.rpartition(".")[0]} & set(FILES)
    return seen


@pytest.mark.parametrize("side", ["cloud", "edge_agent"])
def test_what_is_shared_is_needed_by_both_sides(side: str) -> None:
    assert {name for name in FILES if name.split(".")[0] == "shared"} - reached(side) == set()


def test_nothing_else_is_imported_across() -> None:
    for side, other in (
        ("cloud", "edge_agent"),
        ("edge_agent", "cloud"),
        ("shared", "cloud"),
        ("shared", "edge_agent"),
    ):
        for name, tree in TREES.items():
            if name.split(".")[0] == side:
                assert not {module for module in imports(tree) if module.split(".")[0] == other}, name


# ---- what is shipped


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> set[str]:
    """Names of the files in the wheel."""
    builder = pytest.importorskip("hatchling.builders.wheel").WheelBuilder(str(ROOT))
    (built,) = builder.build(directory=str(tmp_path_factory.mktemp("wheel")), versions=["standard"])
    with zipfile.ZipFile(built) as archive:
        return set(archive.namelist())


def test_the_wheel_holds_the_three_packages_and_nothing_else(wheel: set[str]) -> None:
    tops = {name.split("/")[0] for name in wheel}
    (info,) = tops - set(PACKAGES)
    assert re.fullmatch(r"covey-[\w.]+\.dist-info", info)
    assert {f"{info}/entry_points.txt", f"{info}/licenses/LICENSE"} <= wheel
    assert not [name for name in wheel if "__pycache__" in name or name.endswith((".pyc", ".db", ".pem"))]


def test_the_wheel_holds_every_module_and_what_pages_are_made_of(wheel: set[str]) -> None:
    files = {str(path.relative_to(ROOT)) for path in FILES.values()}
    web = [path for part in ("static", "templates") for path in (ROOT / "cloud" / "web" / part).rglob("*")]
    pages = {str(path.relative_to(ROOT)) for path in web if path.is_file()}
    assert len(pages) > 5
    assert (files | pages) - wheel == set()


def test_what_the_project_says_of_itself_names_every_package() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    assert project["tool"]["hatch"]["build"]["targets"]["wheel"]["packages"] == list(PACKAGES)
    for place in project["project"]["scripts"].values():
        module, _, name = place.partition(":")
        assert callable(getattr(importlib.import_module(module), name))


# ---- what is committed


def committed() -> list[pathlib.Path]:
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=False)
    if listed.returncode:
        pytest.skip("this is no checkout")
    return [ROOT / name for name in listed.stdout.split("\0") if name and (ROOT / name).is_file()]


def test_no_committed_file_speaks_of_one_machine_or_of_a_registrys_host() -> None:
    bad = []
    for path in committed():
        if path.suffix in BINARY:
            continue
        text = path.read_text(encoding="utf-8")
        bad += [f"{path.relative_to(ROOT)}: {word}" for word in FORBIDDEN if word in text]
    assert bad == []


def test_no_committed_file_is_a_key_or_what_a_program_left_behind() -> None:
    left = re.compile(r"(^|/)(__pycache__|keys|var|node_modules|\.venv)/|\.(pyc|pem|db|key|log)$")
    assert [name for path in committed() if left.search(name := str(path.relative_to(ROOT)))] == []
