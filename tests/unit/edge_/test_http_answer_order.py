"""Over HTTP, in every state of the model and every answer order: who answers, and what is said when nobody can."""

from __future__ import annotations

import pathlib
import typing

import pytest

from edge_agent.predict.loaded import LoadedBundle
from edge_agent.predict.runtime import Runtime
from edge_agent.records import Failed
from shared import precomputed
from shared.bundle import MODEL_FILE, TABLE_FILE, digest_of
from shared.features import Encoder
from tests import fakes
from tests.unit.edge_.test_coarse import LAST, MEAN, with_coarse
from tests.unit.edge_.test_http_server import request, talk

Order = typing.Literal["precomputed_first", "model_first", "precomputed_only"]
ORDERS: tuple[Order, ...] = ("precomputed_first", "model_first", "precomputed_only")
SOUND: dict[str, fakes.Fault] = {"sound": "", "slow": "slow"}
BROKEN: dict[str, fakes.Fault] = {"NaN": "nan", "fails": "fails", "does not load": "garbage", "missing": ""}
ENCODER = Encoder(fakes.FEATURES)
STORED = (0.875, 0.125)
# The models of `fakes` with a fault fail where x > 5: so the table's row is there too.
KNOWN = {"x": 6, "colour": "red", "size": 1}
RED = {"x": 7, "colour": "red", "size": 1}
GREEN = {"x": 7, "colour": "green", "size": 1}


def make(order: Order, state: str, *, ends: bool) -> fakes.Bundle:
    """Build a bundle whose table knows one row, and whose coarse table knows red."""
    fault = (SOUND | BROKEN | {"endless": "endless"})[state]
    made = fakes.make_bundle(
        fault=fault, with_model=state != "missing", answer_order=order, default=LAST if ends else ()
    )
    table = precomputed.build(
        {ENCODER.key(ENCODER.encode(KNOWN)): STORED},
        n_outputs=2,
        features_sha256=fakes.FEATURES.digest,
        model_sha256=digest_of(made.files.get(MODEL_FILE, b"")),
    )
    files = made.files | {TABLE_FILE: table}
    made = fakes.seal(made.manifest, files)
    return with_coarse(made) if ends else made


def who_answers(order: Order, state: str, row: object, *, ends: bool) -> str:
    """Say from the definition of the answer order who must answer; nothing if nobody can."""
    model_can = state in SOUND
    known = row is KNOWN
    order_of = {
        "precomputed_first": [(known, "precomputed"), (model_can, "onnx")],
        "model_first": [(model_can, "onnx"), (known, "precomputed")],
        "precomputed_only": [(known, "precomputed")],
    }[order]
    last = [(ends and row is not GREEN, "coarse"), (ends, "default")]
    return next((who for can, who in order_of + last if can), "")


def ask(address: tuple[str, int], row: object) -> tuple[int, dict[str, typing.Any]]:
    return fakes.post(f"http://{address[0]}:{address[1]}", "/v1/predict", {"features": row})


@pytest.mark.parametrize("ends", [True, False], ids=["with an end", "without"])
@pytest.mark.parametrize("state", [*SOUND, *BROKEN])
@pytest.mark.parametrize("order", ORDERS)
def test_whoever_can_answers_in_the_order_that_was_declared(
    tmp_path: pathlib.Path, order: Order, state: str, ends: bool
) -> None:
    served = fakes.serve(tmp_path, make(order, state, ends=ends))
    values = {"precomputed": STORED, "coarse": MEAN, "default": LAST}
    with fakes.listening(served.api) as address:
        for row in (KNOWN, RED, GREEN):
            status, said = ask(address, row)
            who = who_answers(order, state, row, ends=ends)
            if not who:
                code = "no-answer" if order == "precomputed_only" else "model"
                assert (status, said["type"]) == (503, f"urn:covey:error:{code}"), said
                assert "late@v1" in said["error"]
                continue
            assert (status, said["parameters"]["source"]) == (200, who), said
            assert said["parameters"].get("approximate", False) == (who in ("coarse", "default"))
            model_says = fakes.expected(row, task="binary", slope=1.0, n_outputs=2)
            assert said["probabilities"] == pytest.approx(values.get(who, model_says), abs=1e-6)


@pytest.mark.parametrize("ends", [True, False], ids=["with an end", "without"])
@pytest.mark.parametrize("order", ["precomputed_first", "model_first"])
def test_a_model_that_does_not_end_is_stopped_and_the_next_in_the_order_answers(
    tmp_path: pathlib.Path, order: Order, ends: bool
) -> None:
    made = make(order, "endless", ends=ends)
    served = fakes.serve(tmp_path, made, load=False)
    never_ends(served.engine.model(None).incumbent, made)
    with fakes.listening(served.api, model_timeout_s=0.2) as address:
        for row in (KNOWN, RED, GREEN):
            status, said = ask(address, row)
            who = who_answers(order, "endless", row, ends=ends)
            if who:
                assert (status, said["parameters"]["source"]) == (200, who), said
            else:
                assert (status, "no answer within 0.2 s" in said["error"]) == (503, True), said
    assert isinstance(served.records[-1], Failed) is not ends


def never_ends(loaded: LoadedBundle, made: fakes.Bundle) -> None:
    """Load a model that never ends, which loading the usual way would wait for."""
    loaded._runtime = Runtime(made.files[MODEL_FILE], made.manifest, fakes.FEATURES.width)
    loaded.is_slow = True
    loaded.is_loaded.set()


@pytest.mark.parametrize("state", ["NaN", "fails", "does not load", "slow", "missing"])
def test_a_candidate_that_fails_leaves_its_rows_to_the_incumbent_and_is_counted_once(
    tmp_path: pathlib.Path, state: str
) -> None:
    fault = (SOUND | BROKEN)[state]
    candidate = fakes.make_bundle("v2", fault=fault, with_model=state != "missing")
    incumbent = fakes.make_bundle(fault="slow")
    served = fakes.serve(tmp_path, incumbent, candidate, fakes.trial(request_share_bp=10_000))
    post = request("/v1/predict", {"features": RED})
    with fakes.listening(served.api) as address:
        # The same head again: the short way is tried, and left.
        replies = talk(address, post, post, post, pause_s=0.1)
    assert [reply.status for reply in replies] == [200] * 3
    said = replies[-1].body
    arm = "candidate" if state in SOUND else "incumbent"
    assert (said["parameters"]["arm"], said["parameters"]["source"]) == (arm, "onnx")
    assert sum(isinstance(record, Failed) for record in served.records) == 3 * (state in BROKEN)


def test_the_table_knows_one_of_the_rows_only(tmp_path: pathlib.Path) -> None:
    """So that KNOWN is really one that a table answers, and RED and GREEN are not."""
    loaded = fakes.unpack(tmp_path / "b", make("precomputed_only", "missing", ends=False))
    assert loaded.table is not None
    found = [loaded.table.get(loaded.encoder.key(loaded.encoder.encode(row))) for row in (KNOWN, RED, GREEN)]
    assert found == [STORED, None, None]


def test_a_row_that_is_wrong_for_both_arms_blames_neither(tmp_path: pathlib.Path) -> None:
    served = fakes.serve(tmp_path, fakes.make_bundle(), fakes.make_bundle("v2"), fakes.trial(request_share_bp=10_000))
    with fakes.listening(served.api) as address:
        for _ in range(3):
            status, said = ask(address, RED | {"x": 99})
            assert (status, said["field"]) == (400, "x")
    assert served.records == []
