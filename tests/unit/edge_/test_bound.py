"""Runs with bound memory: the same numbers as plain runs, from any thread, and after a run that failed."""

from __future__ import annotations

import array
import concurrent.futures
import math
import typing

import pytest

from edge_agent.predict.runtime import Runtime
from shared.bundle import MODEL_FILE
from shared.errors import ModelError
from tests import fakes

WIDTH = fakes.FEATURES.width


def runtime_of(**changes: typing.Any) -> Runtime:
    made = fakes.make_bundle(**changes)
    return Runtime(made.files[MODEL_FILE], made.manifest, WIDTH)


def row(x: float) -> bytes:
    return array.array("f", [x, *([0.25] * (WIDTH - 1))]).tobytes()


@pytest.mark.parametrize("task", ["binary", "multiclass", "regression"])
def test_a_bound_run_gives_what_a_plain_run_gives(task: str) -> None:
    runtime = runtime_of(task=task)
    for i in range(50):
        assert runtime.run(row(i / 10)) == runtime.run_apart(row(i / 10), None)
    assert runtime._bound is not None


@pytest.mark.parametrize("fault", ["nan", "fails"])
def test_a_row_that_fails_leaves_nothing_behind(fault: fakes.Fault) -> None:
    runtime, sound = runtime_of(fault=fault), runtime_of()
    for x in (1.0, 2.0, 3.0):
        assert runtime.run(row(x)) == pytest.approx(sound.run_apart(row(x), None), abs=1e-6)
        with pytest.raises(ModelError):
            runtime.run(row(6.0))


@pytest.mark.parametrize("n", [0, 1, WIDTH + 1])
def test_a_row_of_another_length_is_a_failure_and_not_half_a_row(n: int) -> None:
    runtime = runtime_of()
    for _ in range(3):
        with pytest.raises(ModelError):
            runtime.run(bytes(4 * n))
        assert math.isclose(sum(runtime.run(row(1.0))), 1.0, abs_tol=1e-6)


def test_threads_that_run_it_at_once_get_their_own_answers() -> None:
    runtime = runtime_of()
    rows = [row(i / 50) for i in range(200)]
    expected = [runtime.run_apart(one, None) for one in rows]
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        for _ in range(5):
            assert list(pool.map(runtime.run, rows)) == expected
    assert runtime._bound is not None
    with runtime._bound._free:
        assert runtime.run(rows[0]) == expected[0]
