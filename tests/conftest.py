"""Fixtures of all tests with real processes: one running world for each test that asks for it."""

from __future__ import annotations

import importlib.util
import os
import pathlib
import sys
import typing

import hypothesis
import pytest

# How long an example takes is the machine's affair.
hypothesis.settings.register_profile("covey", deadline=None)
hypothesis.settings.load_profile("covey")

Report = typing.TypeVar("Report", pytest.TestReport, pytest.CollectReport)

MUST_RUN = bool(os.environ.get("COVEY_TESTS_MUST_RUN"))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> typing.Generator[None, pytest.TestReport, pytest.TestReport]:
    """Where everything is installed, what is skipped has failed."""
    report = yield
    return _not_skipped(report)


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report() -> typing.Generator[None, pytest.CollectReport, pytest.CollectReport]:
    """The same for a whole module."""
    report = yield
    return _not_skipped(report)


def _not_skipped(report: Report) -> Report:
    if MUST_RUN and report.skipped and not hasattr(report, "wasxfail"):
        report.outcome = "failed"
        report.longrepr = f"skipped where nothing may be: {report.longrepr}"
    return report


def _load_world() -> typing.Any:
    """Import e2e/world.py; test folders are not packages."""
    name = "covey_test_world"
    if name not in sys.modules:
        spec = importlib.util.spec_from_file_location(name, pathlib.Path(__file__).parent / "e2e" / "world.py")
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        sys.modules[name] = module
        spec.loader.exec_module(module)
    return sys.modules[name]


@pytest.fixture
def world_module() -> typing.Any:
    """The module that worlds are made of, to change what they are like."""
    return _load_world()


@pytest.fixture
def make_world(tmp_path: pathlib.Path) -> typing.Iterator[typing.Callable[..., typing.Any]]:
    """Return a maker of worlds; what it made is ended after the test."""
    made: list[typing.Any] = []

    def make(**settings: typing.Any) -> typing.Any:
        made.append(_load_world().World(tmp_path / f"w{len(made)}", **settings))
        return made[-1]

    yield make
    for world in made:
        world.close()


@pytest.fixture
def world(make_world: typing.Callable[..., typing.Any]) -> typing.Any:
    """A world with v1 of the old days installed on every device, on the morning of day 0."""
    made = make_world()
    made.start_cloud()
    made.start_devices()
    made.install_first()
    return made


@pytest.fixture
def world_tools() -> typing.Any:
    """What world.py knows about processes."""
    return _load_world()
