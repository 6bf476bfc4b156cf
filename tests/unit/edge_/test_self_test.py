"""A bundle's budgets, held against what its model takes in a process of its own."""

from __future__ import annotations

import pathlib

import pytest

from edge_agent.update.self_test import run_self_test
from shared.bundle import Budgets
from shared.errors import ModelError
from tests import fakes


def tried(folder: pathlib.Path, memory_bytes: int, variant: str = "standard") -> None:
    made = fakes.make_bundle(variant=variant, budgets=Budgets(memory_bytes=memory_bytes))
    fakes.unpack(folder, made, load=False)
    (folder / "manifest.json").write_bytes(made.data)
    run_self_test(folder, made.manifest, timeout_s=60)


def test_a_model_is_not_charged_for_the_runtime(tmp_path: pathlib.Path) -> None:
    tried(tmp_path / "v1", 5_000_000)  # the first session of a process takes nine, whatever its model


@pytest.mark.parametrize(("variant", "where"), [("standard", "late@v1: "), ("small", r"late@v1 \(small\): ")])
def test_what_takes_too_much_is_named_with_its_form(tmp_path: pathlib.Path, variant: str, where: str) -> None:
    with pytest.raises(ModelError, match=f"^{where}.*bytes of memory, 1,000 are allowed"):
        tried(tmp_path / "v1", 1000, variant)
