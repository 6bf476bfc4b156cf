"""A slow model is found out, runs apart, can be stopped, and is taken for quick again when it is."""

from __future__ import annotations

import pathlib
import threading
import time
import typing

import pytest

from edge_agent.predict.apart import SLOW_S, SlowModelError, SlowRun
from edge_agent.predict.loaded import DEFAULT, ONNX, PRECOMPUTED, LoadedBundle
from edge_agent.predict.runtime import Runtime
from shared.bundle import MODEL_FILE
from shared.errors import ModelError
from tests import fakes

ROW = {"x": 1, "colour": "red", "size": 0}
LAST = (0.5, 0.5)


def opened(tmp_path: pathlib.Path, fault: fakes.Fault = "slow", **changes: typing.Any) -> LoadedBundle:
    return fakes.unpack(tmp_path / "b", fakes.make_bundle(fault=fault, **changes))


def run_of(loaded: LoadedBundle, row: dict[str, typing.Any] = ROW) -> SlowRun:
    with pytest.raises(SlowModelError) as raised:
        loaded.answer(row)
    return raised.value.run


def test_a_slow_model_asks_to_be_run_apart_and_then_answers_the_same(tmp_path: pathlib.Path) -> None:
    loaded = opened(tmp_path)
    assert loaded.is_slow
    run = run_of(loaded)
    run.run()
    assert run.took_s > SLOW_S
    run.offer()
    outputs, source = loaded.answer(ROW)
    assert source == ONNX
    assert outputs == pytest.approx(fakes.expected(ROW, task="binary", slope=1.0, n_outputs=2), abs=1e-6)
    run_of(loaded)  # an outcome is used once


def test_what_the_table_knows_waits_for_nobody(tmp_path: pathlib.Path) -> None:
    loaded = opened(tmp_path, table={0: LAST})
    assert loaded.answer(dict(fakes.ROWS[0])) == (LAST, PRECOMPUTED)
    run_of(loaded)


def test_where_the_model_comes_first_a_slow_one_does_too(tmp_path: pathlib.Path) -> None:
    loaded = opened(tmp_path, table={0: LAST}, answer_order="model_first")
    row = dict(fakes.ROWS[0])
    run = run_of(loaded, row)
    run.give_up("too slow")
    run.offer()
    assert loaded.answer(row) == (LAST, PRECOMPUTED)


@pytest.mark.parametrize("default", [LAST, ()])
def test_a_run_that_is_given_up_is_a_failure_of_the_model(tmp_path: pathlib.Path, default: tuple[float, ...]) -> None:
    loaded = opened(tmp_path, default=default)
    run = run_of(loaded)
    run.give_up("no answer within 1 s")
    run.run()
    run.offer()
    if default:
        assert loaded.answer(ROW) == (LAST, DEFAULT)
    else:
        with pytest.raises(ModelError, match="no answer within 1 s"):
            loaded.answer(ROW)


@pytest.mark.timeout(60)
def test_a_model_that_never_ends_is_stopped(tmp_path: pathlib.Path) -> None:
    made = fakes.make_bundle(fault="endless")
    endless = fakes.unpack(tmp_path / "b", made, load=False)
    runtime = Runtime(made.files[MODEL_FILE], made.manifest, fakes.FEATURES.width)
    kept: list[object] = []
    vector = endless.encoder.vector(endless.encoder.encode(ROW))
    run = SlowRun(runtime, vector, lambda outcome, _took_s: kept.append(outcome))
    thread = threading.Thread(target=run.run)
    thread.start()
    time.sleep(0.1)
    assert thread.is_alive()
    run.give_up("enough")
    thread.join()
    run.offer()
    assert isinstance(kept[0], ModelError)
    assert str(kept[0]) == "enough"


def test_answers_that_take_long_again_and_again_move_the_model_apart(tmp_path: pathlib.Path) -> None:
    loaded = opened(tmp_path, fault="slow at times")
    assert not loaded.is_slow
    for now_s in (0.0, 20.0, 40.0, 41.0):
        loaded.took_long(now_s)
    assert loaded.answer(ROW)[1] == ONNX
    loaded.took_long(42.0)
    run_of(loaded)


def test_a_model_that_is_quick_again_runs_in_place_again(tmp_path: pathlib.Path) -> None:
    loaded = opened(tmp_path, fault="")
    assert not loaded.is_slow
    for _ in range(3):
        loaded.took_long(0.0)
    n = 0
    while loaded.is_slow:
        run = run_of(loaded)
        run.run()
        run.took_s = SLOW_S / 4
        run.offer()
        assert loaded.answer(ROW)[1] == ONNX
        n += 1
    assert n == 5
    assert loaded.answer(ROW)[1] == ONNX


def test_the_golden_rows_are_reproduced_by_a_slow_model_too(tmp_path: pathlib.Path) -> None:
    assert opened(tmp_path).check_golden() == len(fakes.ROWS)
