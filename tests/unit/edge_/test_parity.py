"""A sample of precomputed answers is compared with the model's: what differs is counted, and told once."""

from __future__ import annotations

import pathlib

import pytest

from edge_agent.predict import parity
from edge_agent.predict.parity import Checked
from tests import fakes

HIT = fakes.ROWS[0]
TRUE = fakes.expected(HIT, task="binary", slope=1.0, n_outputs=2)


def answer(served: fakes.Served, n: int) -> None:
    for _ in range(n):
        made = served.engine.predict(served.engine.model(None), HIT, unit=None, event_s=fakes.NOW_S)
        assert made.source == 0
        served.engine.finish(made)


@pytest.mark.parametrize(("stored", "differing"), [(TRUE, 0), ((0.5, 0.5), 3)])
def test_one_precomputed_answer_in_many_is_asked_of_the_model_too(
    tmp_path: pathlib.Path, stored: tuple[float, ...], differing: int
) -> None:
    served = fakes.serve(tmp_path, fakes.make_bundle(table={0: stored}))
    answer(served, 3 * parity.EVERY)
    assert served.engine.parity.counts == {"late@v1": Checked(3, differing)}
    told = ["late@v1: 3 of 3 looked at"] if differing else []
    assert (served.engine.parity.news(), served.engine.parity.news()) == (told, [])


def test_without_a_model_there_is_nothing_to_compare_with(tmp_path: pathlib.Path) -> None:
    served = fakes.serve(tmp_path, fakes.make_bundle(table={0: (0.5, 0.5)}), load=False)
    answer(served, parity.EVERY)
    assert served.engine.parity.counts == {}


def test_a_device_says_it_in_its_status_and_as_an_event(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(parity, "EVERY", 1)
    layout = fakes.join(tmp_path / "store")
    fakes.install(layout, fakes.make_bundle(table={0: (0.5, 0.5)}))
    with fakes.running_agent(layout) as agent:
        fakes.wait_for(agent.engine.model(None).incumbent.is_loaded.is_set)
        assert fakes.post(agent.address, "/v1/predict", {"features": HIT})[1]["probabilities"] == [0.5, 0.5]
        fakes.wait_for(lambda: agent.status()["table_checks"] == {"late@v1": {"checked": 1, "differing": 1}})
        said = "select count(*) from events where kind = 'table-differs'"
        fakes.wait_for(lambda: agent.recorder.spool._db.execute(said).fetchone() == (1,))
