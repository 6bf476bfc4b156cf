"""Fixtures of the cloud's unit tests: a project without data, and one with a signed version."""

from __future__ import annotations

import pathlib
import typing

import pytest

from cloud.config import Project
from cloud.store.store import Store
from tests.unit.cloud_ import builders
from tests.unit.cloud_.simulated import Fleet


@pytest.fixture
def empty(tmp_path: pathlib.Path) -> Project:
    """A project with one model and no data."""
    return builders.make_project(tmp_path / "shop")


@pytest.fixture
def empty_store(empty: Project) -> typing.Iterator[Store]:
    """The store of `empty`."""
    with builders.opened(empty) as store:
        yield store


@pytest.fixture
def project(tmp_path: pathlib.Path) -> Project:
    """A project with twenty days of sales and a signed v1."""
    return builders.trained_project(tmp_path / "shop")


@pytest.fixture
def store(project: Project) -> typing.Iterator[Store]:
    """The store of `project`."""
    with builders.opened(project) as opened:
        yield opened


@pytest.fixture
def make_fleet(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> typing.Iterator[typing.Callable[..., Fleet]]:
    """Simulated fleets with settings of their own; their databases are closed in the end."""
    made: list[Fleet] = []

    def make_one(**settings: typing.Any) -> Fleet:
        made.append(Fleet(tmp_path / f"fleet{len(made)}", monkeypatch, **settings))
        return made[-1]

    yield make_one
    for fleet in made:
        fleet.store.close()
