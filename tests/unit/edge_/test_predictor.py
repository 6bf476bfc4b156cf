"""Answers inside a program: the same as over HTTP, recorded and kept up to date, by one process at a time."""

from __future__ import annotations

import asyncio
import concurrent.futures
import json
import pathlib
import subprocess
import sys
import threading
import time
import typing

import msgspec
import numpy as np
import pytest

from edge_agent import Predictor, control
from edge_agent.config import Layout
from edge_agent.records import CANDIDATE, Answered, AnyRecord
from edge_agent.telemetry.spool import Spool
from shared import bundle, codec, experiment
from shared.errors import ConflictError, CoveyError, DataError, ModelError, NotFoundError
from tests import fakes, ranked

ROW = {"x": 1, "colour": "red", "size": 0}


@pytest.fixture
def layout(tmp_path: pathlib.Path) -> Layout:
    return fakes.join(tmp_path / "store")


def totals(layout: Layout) -> dict[str, int]:
    spool = Spool(layout.spool_db, 1 << 20)
    try:
        return spool.totals()
    finally:
        spool.close()


def with_other_features(made: fakes.Bundle) -> fakes.Bundle:
    """Return the same bundle with features of a wider range, so that it codes rows itself."""
    first, *rest = fakes.FEATURES.feature
    features = msgspec.structs.replace(fakes.FEATURES, feature=(msgspec.structs.replace(first, max=99.0), *rest))
    files = made.files | {bundle.FEATURES_FILE: codec.to_json(features)}
    listed = [bundle.File(name=name, sha256=bundle.digest_of(data), length=len(data)) for name, data in files.items()]
    manifest = msgspec.structs.replace(made.manifest, features_sha256=features.digest, files=tuple(listed))
    return fakes.Bundle(manifest, manifest.to_bytes(), files)


@pytest.mark.parametrize("task", ["binary", "multiclass", "regression"])
def test_it_answers_what_the_server_answers(layout: Layout, task: str) -> None:
    fakes.install(layout, fakes.make_bundle(task=task))
    with fakes.running_agent(layout) as agent:
        _, said = fakes.post(agent.address, "/v1/predict", {"features": ROW})
    with Predictor(layout.store, with_sync=False) as predictor:
        made = predictor.predict(ROW)
    assert list(made.outputs) == said.get("probabilities", [said.get("value")])
    assert (made.label, made.version, made.arm) == (said.get("label"), "v1", "incumbent")
    assert (made.source, made.is_approximate, made.prediction_id) != (said["parameters"]["source"], True, "")
    if task == "regression":
        assert made.value == said["value"]


def test_everything_is_recorded_when_it_closes_and_outcomes_find_their_answers(layout: Layout) -> None:
    v1, v2 = fakes.make_bundle("v1"), fakes.make_bundle("v2", slope=2.0)
    fakes.install(layout, v1, v2, fakes.trial("shadow"))
    with Predictor(layout.store, with_sync=False) as predictor:
        made = [predictor.predict(ROW) for _ in range(50)]
        for one in made[:20]:
            predictor.outcome(one.prediction_id, 1)
    assert {one.version for one in made} == {"v1"}
    assert experiment.open_prediction_id(made[0].prediction_id, fakes.ID_KEY).score == pytest.approx(made[0].value)
    seen = totals(layout)
    assert (seen["requests"], seen["outcomes"]) == (50, 20)
    with Predictor(layout.store, with_sync=False) as predictor:
        predictor.outcome(made[30].prediction_id, 0)
    assert totals(layout)["outcomes"] == 21


def test_the_other_arm_is_scored_and_paired(layout: Layout) -> None:
    v1, v2 = fakes.make_bundle("v1"), fakes.make_bundle("v2", slope=2.0)
    fakes.install(layout, v1, v2, fakes.trial())
    with Predictor(layout.store, with_sync=False) as predictor:
        arms = {str(i): {predictor.predict(ROW, unit=str(i)).arm for _ in range(3)} for i in range(40)}
        predictor.outcome(predictor.predict(ROW).prediction_id, 1)
    assert all(len(one) == 1 for one in arms.values())
    assert set.union(*arms.values()) == {"incumbent", "candidate"}
    spool = Spool(layout.spool_db, 1 << 20)
    try:
        rows = spool._db.execute("select n from pairs").fetchall()
    finally:
        spool.close()
    assert rows == [(1,)]


def test_other_arms_that_take_long_keep_neither_the_loop_nor_the_end(layout: Layout) -> None:
    fakes.install(layout, fakes.make_bundle("v1"), fakes.make_bundle("v2", fault="slow"), fakes.trial("shadow"))
    with Predictor(layout.store, with_sync=False) as predictor:
        assert predictor._engine.model(None).bundle(CANDIDATE).is_loaded.wait(60)
        for _ in range(200):
            predictor.predict(ROW)
        time.sleep(0.05)  # it is at them
        asyncio.run_coroutine_threadsafe(asyncio.sleep(0), predictor._loop).result(60)
        assert predictor._unfinished
    assert totals(layout)["requests"] == 200
    spool = Spool(layout.spool_db, 1 << 20)
    try:
        rows = spool._db.execute("select sum(requests) from sums where version = 'v2'").fetchall()
    finally:
        spool.close()
    assert (rows[0][0] or 0) < 200


def test_an_outcome_does_not_wait_for_answers_that_are_given_meanwhile(layout: Layout) -> None:
    fakes.install(layout, fakes.make_bundle("v1"), fakes.make_bundle("v2", slope=2.0), fakes.trial("shadow"))
    with Predictor(layout.store, with_sync=False) as predictor:
        engine, me = predictor._engine, threading.get_ident()
        record = engine._record
        seen: list[AnyRecord] = []

        def record_and_ask(one: AnyRecord) -> None:
            record(one)
            if threading.get_ident() == me and len(seen) < 2000:
                seen.append(one)
                predictor.predict(ROW)

        engine._record = record_and_ask
        made = [predictor.predict(ROW) for _ in range(50)]
        predictor.outcome(made[-1].prediction_id, 1)
        assert len(seen) <= 51


def test_a_unit_of_its_own_keeps_the_share_of_a_slow_candidate(layout: Layout) -> None:
    trial = fakes.trial(request_share_bp=2000, keep_pairs=False)
    fakes.install(layout, fakes.make_bundle("v1"), fakes.make_bundle("v2", slope=2.0), trial)
    with Predictor(layout.store, with_sync=False) as predictor:
        candidate = predictor._engine.model(None).bundle(CANDIDATE)
        arms = []
        for _ in range(400):
            candidate.is_slow = True
            arms.append(predictor.predict(ROW).arm)
        assert candidate._done == {}
    assert 0.12 < arms.count("candidate") / 400 < 0.28


def test_threads_may_ask_at_once(layout: Layout) -> None:
    fakes.install(layout, fakes.make_bundle())
    rows = [ROW | {"x": i / 100} for i in range(400)]
    with Predictor(layout.store, with_sync=False) as predictor:
        expected = [predictor.predict(row).outputs for row in rows]
        with concurrent.futures.ThreadPoolExecutor(8) as pool:
            made = list(pool.map(predictor.predict, rows))
    assert [one.outputs for one in made] == expected
    assert len({one.prediction_id for one in made}) == 400
    assert totals(layout)["requests"] == 800


def test_it_follows_what_is_activated(layout: Layout) -> None:
    fakes.install(layout, fakes.make_bundle("v1"))
    with Predictor(layout.store, with_sync=False) as predictor:
        assert predictor.predict(ROW).version == "v1"
        digest = fakes.install(layout, fakes.make_bundle("v2", slope=2.0), state="trial")
        assert control.ask(layout.control, "activate", generation=digest) == {"active": digest}
        made = predictor.predict(ROW)
        assert (made.version, predictor.status()["generation"]) == ("v2", digest)
    assert made.outputs == pytest.approx(fakes.expected(ROW, task="binary", slope=2.0, n_outputs=2), abs=1e-6)


def test_only_one_process_is_the_device(layout: Layout) -> None:
    fakes.install(layout, fakes.make_bundle())
    with fakes.running_agent(layout) as agent:
        with pytest.raises(ConflictError, match="another process serves"):
            Predictor(layout.store)
        assert fakes.post(agent.address, "/v1/predict", {"features": ROW})[0] == 200
    with Predictor(layout.store, with_sync=False):
        with pytest.raises(ConflictError):
            Predictor(layout.store)
        run = [sys.executable, "-m", "edge_agent.cli", "--store", str(layout.store), "run", "--port", "0"]
        done = subprocess.run(run, capture_output=True, text=True, timeout=60, check=False)
        assert (done.returncode != 0, "locked by another process" in done.stderr) == (True, True)


def test_a_child_that_is_forked_is_another_process_and_writes_nothing_over_its_parents_records(layout: Layout) -> None:
    fakes.install(layout, fakes.make_bundle())
    child = """if True:
        import os, sys
        from edge_agent import Predictor
        from shared.errors import ConflictError
        row = {"x": 1, "colour": "red", "size": 0}

        def refused(ask):
            try:
                ask()
            except ConflictError as err:
                return "another process" in str(err)

        predictor = Predictor(sys.argv[1], with_sync=False)
        first = predictor.predict(row).prediction_id
        asks = [lambda: predictor.predict(row), lambda: predictor.outcome(first, 1), predictor.status,
                lambda: Predictor(sys.argv[1])]
        if not (pid := os.fork()):
            said = [refused(ask) for ask in asks]
            predictor.close()
            os._exit(0 if said == [True] * 4 else 1)
        made = {predictor.predict(row).prediction_id for _ in range(50)}
        status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        hold, let_go = os.pipe()
        if not os.fork():
            os.close(let_go)
            os.read(hold, 1)
            os._exit(0)
        predictor.close()
        Predictor(sys.argv[1], with_sync=False).close()  # the child that lives on does not hold the store
        print(status, len(made))
    """
    done = subprocess.run(
        [sys.executable, "-c", child, str(layout.store)], capture_output=True, text=True, timeout=60, check=False
    )
    assert (done.stdout.split(), done.stderr) == (["0", "50"], "")
    assert totals(layout)["requests"] == 51


def test_the_status_on_the_command_line_says_where_it_answers(layout: Layout) -> None:
    fakes.install(layout, fakes.make_bundle())
    asked = [sys.executable, "-m", "edge_agent.cli", "--store", str(layout.store), "status"]
    with Predictor(layout.store, with_sync=False):
        done = subprocess.run(asked, capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.splitlines()[0].endswith(" answers inside a program")


def test_what_is_wrong_is_told_and_leaves_it_usable(layout: Layout) -> None:
    fakes.install(layout, fakes.make_bundle())
    with Predictor(layout.store, with_sync=False) as predictor:
        wrong: list[tuple[dict[str, object], type[CoveyError]]] = [(ROW | {"x": "1"}, DataError), ({}, DataError)]
        for row, error in wrong:
            with pytest.raises(error):
                predictor.predict(row)
        with pytest.raises(NotFoundError, match="Known are: late"):
            predictor.predict(ROW, model="later")
        with pytest.raises(DataError):
            predictor.outcome("nobody's", 1)
        assert predictor.predict(ROW).label == 1
        made = predictor.predict(ROW)
    for ask in (lambda: predictor.predict(ROW), lambda: predictor.outcome(made.prediction_id, 1)):
        with pytest.raises(ModelError, match="is closed"):
            ask()


@pytest.mark.parametrize(
    "row", [None, 7, "x", [1], np.zeros(3), {1: 2} | ROW, {None: 0}, {"x": np.zeros(0)}, {"x": [1]}]
)
def test_what_is_no_row_is_refused_whatever_it_is(layout: Layout, row: typing.Any) -> None:
    fakes.install(layout, fakes.make_bundle())
    with Predictor(layout.store, with_sync=False) as predictor:
        with pytest.raises(DataError) as caught:
            predictor.predict(row)
        assert caught.value.field in ("row", "1", "None", "x")
        assert predictor.predict(ROW).outputs


@pytest.mark.parametrize(
    ("said", "field"),
    [
        ({"prediction_id": None}, "prediction_id"),
        ({"prediction_id": b"bytes"}, "prediction_id"),
        ({"prediction_id": [1] * 1000}, "prediction_id"),
        ({"label": np.zeros(0)}, "label"),
        ({"label": [1]}, "label"),
        ({"numbers": 5}, "numbers"),
        ({"numbers": np.zeros(0)}, "numbers"),
    ],
)
def test_an_outcome_that_is_none_is_refused_by_its_field(
    layout: Layout, said: dict[str, typing.Any], field: str
) -> None:
    fakes.install(layout, fakes.make_bundle())
    with Predictor(layout.store, with_sync=False) as predictor:
        made = {"prediction_id": predictor.predict(ROW).prediction_id}
        with pytest.raises(DataError) as caught:
            predictor.outcome(**(made | said))
        assert caught.value.field == field
        with pytest.raises(NotFoundError, match="no model"):
            predictor.predict(ROW, model=typing.cast("typing.Any", ["late"]))


def test_numbers_and_words_of_numpy_are_answered_like_pythons(layout: Layout) -> None:
    fakes.install(layout, fakes.make_bundle())
    row = {"x": np.float32(1), "colour": np.str_("red"), "size": np.int64(0)}
    with Predictor(layout.store, with_sync=False) as predictor:
        assert predictor.predict(row).outputs == predictor.predict(ROW).outputs
        with pytest.raises(DataError, match="is not a number"):
            predictor.predict(row | {"x": np.str_("1")})


def test_a_row_may_be_changed_once_it_is_answered_though_another_arm_has_not_read_it(layout: Layout) -> None:
    v1, v2 = fakes.make_bundle("v1"), with_other_features(fakes.make_bundle("v2", slope=2.0))
    fakes.install(layout, v1, v2, fakes.trial("shadow"))
    with Predictor(layout.store, with_sync=False) as predictor:
        seen: list[AnyRecord] = []
        predictor._engine._record = seen.append
        assert predictor._engine.model(None).bundle(CANDIDATE).is_loaded.wait(60)
        with predictor._finishing:  # the loop does not get at it
            row = dict(ROW)
            predictor.predict(row)
            row["x"] = -9
        fakes.wait_for(lambda: seen)
        (scored,) = next(one for one in seen if isinstance(one, Answered)).others
    assert scored.outputs == pytest.approx(fakes.expected(ROW, task="binary", slope=2.0, n_outputs=2), abs=1e-6)


def test_without_a_model_it_says_so_and_takes_the_first_one(layout: Layout) -> None:
    with Predictor(layout.store, with_sync=False) as predictor:
        with pytest.raises(NotFoundError, match="none yet"):
            predictor.predict(ROW)
        digest = fakes.install(layout, fakes.make_bundle())
        control.ask(layout.control, "activate", generation=digest)
        assert predictor.predict(ROW).version == "v1"


def test_a_failing_model_is_an_error_and_counts(layout: Layout) -> None:
    fakes.install(layout, fakes.make_bundle(fault="nan"))
    with Predictor(layout.store, with_sync=False) as predictor, pytest.raises(ModelError):
        predictor.predict(ROW | {"x": 6})
    assert totals(layout)["failed"] == 1


def test_who_has_not_joined_is_told_how(tmp_path: pathlib.Path) -> None:
    with pytest.raises(NotFoundError, match="covey-edge join"):
        Predictor(tmp_path)


def test_the_package_itself_stays_light() -> None:
    code = (
        "import edge_agent, sys; print(sorted(name for name in sys.modules if name.startswith(('edge_', 'asyncio'))))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "['edge_agent']"


# ---- lists


def test_it_ranks_what_the_server_ranks_with_candidates_and_without(layout: Layout, tmp_path: pathlib.Path) -> None:
    made = ranked.with_lists(fakes.make_bundle())
    fakes.install(layout, made)
    served = fakes.serve(tmp_path / "http", made)
    rows = list(ranked.CATALOGUE.values())
    requests: list[dict[str, typing.Any]] = [
        {"context": ranked.RED},
        {"context": ranked.GREEN, "top_k": 2, "exclude": ["milk"]},
        {"context": ranked.GREEN, "candidates": rows, "ids": list(ranked.CATALOGUE), "top_k": 4},
        {"candidates": rows},
        {"candidates": []},
    ]
    with Predictor(layout.store, with_sync=False) as predictor:
        for request in requests:
            said = json.loads(served.api.handle("POST", "/v1/rank", json.dumps(request).encode()).body)["ranked"]
            got = predictor.rank(**request)
            assert [(one.index, one.id, one.answer.source) for one in got] == [
                (one["index"], one.get("id"), one["source"]) for one in said
            ]
            assert [one.answer.value for one in got] == pytest.approx([one["score"] for one in said], abs=1e-6)
        first = predictor.rank(context=ranked.RED, top_k=1)[0]
        predictor.outcome(first.answer.prediction_id, 1)
    said_totals = totals(layout)
    assert (said_totals["requests"], said_totals["outcomes"]) == (3 + 2 + 4 + 5 + 1, 1)


def test_a_list_that_makes_no_sense_is_refused_in_the_same_words(layout: Layout) -> None:
    fakes.install(layout, ranked.with_lists(fakes.make_bundle()))
    with Predictor(layout.store, with_sync=False) as predictor:
        for fields, field in (
            ({"top_k": 0}, "top_k"),
            ({"shown": 1}, "rank"),
            ({"candidates": [1]}, "candidates[0]"),
            ({"context": {"x": 1}}, "context.x"),
            ({"candidates": [{"x": 99}]}, "candidates[0].x"),
            ({"context": np.float32(1)}, "context"),
            ({"context": ranked.RED, "candidates": "\udcff"}, "candidates"),
            ({"context": ranked.RED, "candidates": [{"x": 1}], "ids": ["\udcff"]}, "ids"),
        ):
            with pytest.raises(DataError) as caught:
                predictor.rank(**fields)  # type: ignore[arg-type]
            assert caught.value.field == field
            assert str(caught.value).isprintable()
    with pytest.raises(ModelError, match="closed"):
        predictor.rank(context=ranked.RED)
