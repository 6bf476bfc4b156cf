"""Every statistic shows an exact value in its docstring; here those examples run."""

from __future__ import annotations

import doctest
import importlib
import pkgutil

import pytest

import cloud.analysis

MODULES = sorted(module.name for module in pkgutil.iter_modules(cloud.analysis.__path__))
WITHOUT_EXAMPLES = {
    "evidence",
    "array_compare",
    "array_contrast",
    "explain",
    "findings",
    "gates",
    "records",
    "simulate",
    "simulate_devices",
}


@pytest.mark.parametrize("name", MODULES)
def test_examples_in_docstrings_are_exact(name: str) -> None:
    found = doctest.testmod(importlib.import_module(f"cloud.analysis.{name}"))

    assert found.failed == 0
    assert found.attempted > 0 or name in WITHOUT_EXAMPLES
