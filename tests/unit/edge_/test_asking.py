"""A question is asked again without being another question: same arm, one count, and its record before its outcome."""

from __future__ import annotations

import asyncio
import pathlib
import typing

import pytest

from edge_agent.predict.apart import SlowRun
from edge_agent.predict.asking import Ask, begin, complete, finishing
from edge_agent.predict.patience import BusyError, Patience
from edge_agent.predict.replies import Response, ok
from edge_agent.records import CANDIDATE, Answered, Failed, OutcomeSeen
from shared.errors import DataError
from tests import fakes

ROW = {"x": 1, "colour": "red", "size": 0}
SICK = {"x": 6, "colour": "red", "size": 0}


def asked(served: fakes.Served, *rows: dict[str, object], say: typing.Any = None) -> Ask:
    active = served.engine.model(None)
    default = lambda made: ok({}, tuple(made))  # noqa: E731
    return Ask(active, rows, None, fakes.NOW_S, is_one_arm=False, say=say or default, rows_are="rows")


@pytest.mark.parametrize("n_rows", [1, 2])
def test_rows_for_nobody_stay_in_the_arm_that_was_drawn(tmp_path: pathlib.Path, n_rows: int) -> None:
    v1, v2 = fakes.make_bundle("v1"), fakes.make_bundle("v2", slope=2.0)
    served = fakes.serve(tmp_path, v1, v2, fakes.trial(request_share_bp=2000))
    candidate = served.engine.model(None).bundle(CANDIDATE)
    arms = []
    for _ in range(400 // n_rows):
        candidate.is_slow = True
        said = begin(served.engine, asked(served, *[ROW] * n_rows))
        response = said if isinstance(said, Response) else complete(said)
        arms += [made.arm for made in response.after]
        assert candidate._done == {}
    assert 0.12 < sum(arms) / len(arms) < 0.28


def test_a_failure_counts_once_where_the_reply_can_not_be_said(tmp_path: pathlib.Path) -> None:
    sick = fakes.make_bundle("v2", fault="nan")
    served = fakes.serve(tmp_path, fakes.make_bundle(), sick, fakes.trial(request_share_bp=10_000))

    def say(_made: object) -> Response:
        raise DataError("no such output", field="outputs")

    with pytest.raises(DataError, match="no such output"):
        begin(served.engine, asked(served, SICK, say=say))
    assert [type(record) for record in served.records] == [Failed]


def test_what_is_wrong_with_the_only_row_is_said_with_its_place(tmp_path: pathlib.Path) -> None:
    served = fakes.serve(tmp_path, fakes.make_bundle())
    with pytest.raises(DataError) as caught:
        begin(served.engine, asked(served, {"x": 99}))
    assert caught.value.field == "rows[0].x"


def with_slow_shadow(folder: pathlib.Path) -> fakes.Served:
    shadow = fakes.make_bundle("v2", slope=2.0, fault="slow")
    return fakes.serve(folder, fakes.make_bundle(), shadow, fakes.trial("shadow"))


def test_an_outcome_that_comes_before_a_slow_arm_is_scored_finds_its_answer(tmp_path: pathlib.Path) -> None:
    served = with_slow_shadow(tmp_path)
    engine, active = served.engine, served.engine.model(None)
    made = [engine.predict(active, ROW, unit=None, event_s=fakes.NOW_S) for _ in range(2)]
    steps = finishing(engine, made)
    run = next(steps)
    assert isinstance(run, SlowRun)
    for one in reversed(made):
        engine.outcome(one.prediction_id, 1, now_s=fakes.NOW_S)
    run.run()
    assert list(steps) == []
    assert [type(record) for record in served.records] == [Answered, OutcomeSeen] * 2
    nonces = [record.nonce for record in served.records if isinstance(record, Answered | OutcomeSeen)]
    assert nonces == [made[1].nonce] * 2 + [made[0].nonce] * 2
    assert (engine.waiting, active.bundle(CANDIDATE)._done) == ({}, {})


def test_a_label_that_is_refused_leaves_the_other_arm_to_be_scored(tmp_path: pathlib.Path) -> None:
    served = with_slow_shadow(tmp_path)
    made = served.engine.predict(served.engine.model(None), ROW, unit=None, event_s=fakes.NOW_S)
    for pause in finishing(served.engine, [made]):
        with pytest.raises(DataError):
            served.engine.outcome(made.prediction_id, "unheard of", now_s=fakes.NOW_S)
        assert pause is not None
        pause.run()
    assert [[one.version for one in getattr(record, "others", ())] for record in served.records] == [["v2"]]
    assert served.engine.waiting == {}


def test_an_agent_that_stops_still_records_what_it_has_answered(tmp_path: pathlib.Path) -> None:
    served = with_slow_shadow(tmp_path)
    engine, active = served.engine, served.engine.model(None)
    made = [engine.predict(active, ROW, unit=None, event_s=fakes.NOW_S) for _ in range(5)]

    async def stop() -> None:
        patience = Patience(max_waiting=1, n_threads=2, run_timeout_s=5.0)
        first = engine.predict(active, ROW, unit=None, event_s=fakes.NOW_S)
        steps = finishing(engine, [first])
        await patience.finish(steps, next(steps))
        patience.close()
        steps = finishing(engine, made)
        await patience.finish(steps, next(steps))

    asyncio.run(stop())
    assert len([record for record in served.records if isinstance(record, Answered)]) == 6


def test_a_run_is_refused_once_the_agent_stops(tmp_path: pathlib.Path) -> None:
    served = with_slow_shadow(tmp_path)
    active = served.engine.model(None)
    steps = finishing(served.engine, [served.engine.predict(active, ROW, unit=None, event_s=fakes.NOW_S)])
    run = next(steps)
    assert run is not None

    async def late() -> None:
        patience = Patience(max_waiting=1, n_threads=1, run_timeout_s=5.0)
        patience.close()
        with pytest.raises(BusyError, match="the agent stops"):
            await patience._run(run)

    asyncio.run(late())


def test_a_precomputed_answer_is_looked_at_once_though_the_other_arm_is_slow(tmp_path: pathlib.Path) -> None:
    shadow = fakes.make_bundle("v2", slope=2.0, fault="slow")
    served = fakes.serve(tmp_path, fakes.make_bundle(table={0: (0.5, 0.5)}), shadow, fakes.trial("shadow"))
    made = served.engine.predict(served.engine.model(None), fakes.ROWS[0], unit=None, event_s=fakes.NOW_S)
    for pause in finishing(served.engine, [made]):
        assert pause is not None
        pause.run()
    assert (len(served.records), served.engine.parity._n) == (1, 1)
