"""Fixtures of the faults that strike a device on its line."""

from __future__ import annotations

import typing

import pytest

from tests.attacked import Line


@pytest.fixture(scope="module")
def line() -> typing.Iterator[Line]:
    """A line between devices and their cloud that can be spoiled."""
    made = Line()
    yield made
    made.close()
