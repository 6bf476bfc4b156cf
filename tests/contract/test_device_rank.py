"""Ranking on the device: one arm scores a list, the best come first, and what was shown can be joined by outcomes."""

from __future__ import annotations

import json
import pathlib
import typing

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edge_agent.predict.replies import MAX_ROWS
from edge_agent.records import CANDIDATE, INCUMBENT, Answered, Failed, OutcomeSeen
from tests import fakes

Said = dict[str, typing.Any]
XS = (1.0, -3.0, 9.0, 0.0)


def ask(served: fakes.Served, body: object, status: int = 200) -> Said:
    reply = served.api.handle("POST", "/v1/rank", json.dumps(body).encode())
    for prediction in reply.after:
        served.engine.finish(prediction)
    said: Said = json.loads(reply.body)
    assert reply.status == status, said
    return said


@pytest.fixture
def served(tmp_path: pathlib.Path) -> fakes.Served:
    return fakes.serve(tmp_path, fakes.make_bundle())


def candidates(*xs: float) -> list[Said]:
    return [{"x": x} for x in xs]


def test_the_best_come_first_with_their_places_names_and_scores(served: fakes.Served) -> None:
    said = ask(served, {"candidates": candidates(*XS), "ids": ["a", 2, "c", "d"], "context": {"colour": "red"}})
    assert said["model"] == "late"
    assert [one["index"] for one in said["ranked"]] == [2, 0, 3, 1]
    assert [one["id"] for one in said["ranked"]] == ["c", "a", "d", 2]
    wanted = [
        fakes.expected({"x": x, "colour": "red"}, task="binary", slope=1.0, n_outputs=2)[1] for x in sorted(XS)[::-1]
    ]
    assert [one["score"] for one in said["ranked"]] == pytest.approx(wanted, abs=1e-6)
    assert {(one["arm"], one["version"], one["source"]) for one in said["ranked"]} == {("incumbent", "v1", "onnx")}


def test_without_ids_there_are_places_alone(served: fakes.Served) -> None:
    assert all("id" not in one for one in ask(served, {"candidates": candidates(1, 2)})["ranked"])


def test_a_regression_ranks_by_its_value(tmp_path: pathlib.Path) -> None:
    served = fakes.serve(tmp_path, fakes.make_bundle(task="regression"))
    assert [one["index"] for one in ask(served, {"candidates": candidates(*XS)})["ranked"]] == [2, 0, 3, 1]


def test_equals_stay_in_the_order_in_which_they_came(served: fakes.Served) -> None:
    said = ask(served, {"candidates": [{"x": 1}, {"x": 2}, {"x": 1}, {"x": 2}]})
    assert [one["index"] for one in said["ranked"]] == [1, 3, 0, 2]


def test_a_candidates_own_value_counts_more_than_the_shared_one(served: fakes.Served) -> None:
    said = ask(served, {"candidates": [{}, {"x": -9}], "context": {"x": 9}})
    assert [one["index"] for one in said["ranked"]] == [0, 1]
    assert said["ranked"][0]["score"] > 0.9
    assert said["ranked"][1]["score"] < 0.1


def test_only_what_is_shown_is_recorded_and_its_outcomes_join(served: fakes.Served) -> None:
    said = ask(served, {"candidates": candidates(*XS), "top_k": 2})
    assert [one["index"] for one in said["ranked"]] == [2, 0]
    assert [type(record) for record in served.records] == [Answered, Answered]
    for one, label in zip(said["ranked"], (1, 0), strict=True):
        served.engine.outcome(one["prediction_id"], label, now_s=fakes.NOW_S)
    shown, outcomes = served.records[:2], served.records[2:]
    assert all(isinstance(one, OutcomeSeen) for one in outcomes)
    assert [one.nonce for one in outcomes] == [one.nonce for one in shown]  # type: ignore[union-attr]
    assert [one.label for one in outcomes] == [1.0, 0.0]  # type: ignore[union-attr]


def test_more_shown_than_there_are_is_all_of_them_and_nothing_is_nothing(served: fakes.Served) -> None:
    assert len(ask(served, {"candidates": candidates(*XS), "top_k": 99})["ranked"]) == 4
    assert ask(served, {"candidates": []}) == {"model": "late", "ranked": []}
    assert ask(served, {"candidates": [], "ids": []})["ranked"] == []


def test_a_unit_keeps_its_arm_and_a_list_has_one_arm(tmp_path: pathlib.Path) -> None:
    served = fakes.serve(tmp_path, fakes.make_bundle(), fakes.make_bundle("v2", slope=2.0), fakes.trial())
    body = {"candidates": candidates(*XS)}
    for unit in ("a", "b", "c", "d"):
        (arm,) = {one["arm"] for _ in range(3) for one in ask(served, body | {"unit": unit})["ranked"]}
        assert arm in ("incumbent", "candidate")
    arms = [{one["arm"] for one in ask(served, body)["ranked"]} for _ in range(100)]
    assert all(len(arm) == 1 for arm in arms)
    assert 20 < sum(arm == {"candidate"} for arm in arms) < 80


def test_where_the_candidate_fails_at_one_row_the_incumbent_scores_the_whole_list(tmp_path: pathlib.Path) -> None:
    broken = fakes.make_bundle("v2", slope=2.0, fault="nan")  # where x > 5
    trial = fakes.trial(request_share_bp=10_000, keep_pairs=True)
    served = fakes.serve(tmp_path, fakes.make_bundle(), broken, trial)
    assert {one["arm"] for one in ask(served, {"candidates": candidates(1, 2)})["ranked"]} == {"candidate"}
    served.records.clear()
    said = ask(served, {"candidates": candidates(1, 9, 2)})
    assert [(one["index"], one["arm"], one["version"]) for one in said["ranked"]] == [
        (1, "incumbent", "v1"), (2, "incumbent", "v1"), (0, "incumbent", "v1"),
    ]  # fmt: skip
    failed = [record for record in served.records if isinstance(record, Failed)]
    answered = [record for record in served.records if isinstance(record, Answered)]
    assert [(one.arm, one.served) for one in failed] == [(CANDIDATE, True)]
    assert [(one.arm, one.others) for one in answered] == [(INCUMBENT, ())] * 3


def test_an_infer_request_has_one_arm_too_where_the_candidate_fails_at_one_row(tmp_path: pathlib.Path) -> None:
    broken = fakes.make_bundle("v2", slope=2.0, fault="nan")
    served = fakes.serve(tmp_path, fakes.make_bundle(), broken, fakes.trial(request_share_bp=10_000))
    body = {"inputs": [{"name": "x", "shape": [3], "datatype": "FP64", "data": [1, 9, 2]}]}
    said = json.loads(served.api.handle("POST", "/v2/models/late/infer", json.dumps(body).encode()).body)
    outputs = {one["name"]: one["data"] for one in said["outputs"]}
    assert (said["model_version"], outputs["arm"]) == ("v1", ["incumbent"] * 3)


@pytest.mark.parametrize(
    ("body", "field", "says"),
    [
        ({}, "candidates", "no lists were made for late"),
        ({"candidates": [{"x": 1}], "exclude": ["a"]}, "exclude", "only items of a catalogue are left out"),
        ({"candidates": [1]}, "candidates[0]", "expected `object`"),
        ({"candidates": [{"x": 1}] * (MAX_ROWS + 1)}, "candidates", "length <= 10000"),
        ({"candidates": [{"x": 1}], "ids": []}, "ids", "0 ids for 1 candidates"),
        ({"candidates": [{"x": 1}] * 2, "ids": ["a", "a"]}, "ids[1]", "'a' is there twice"),
        ({"candidates": [{"x": 1}], "ids": [1.5]}, "ids[0]", "expected `int | str`"),
        ({"candidates": [{"x": 1}], "top_k": 0}, "top_k", ">= 1"),
        ({"candidates": [{"x": 1}, {"y": 1}]}, "candidates[1].y", "no feature reads this"),
        ({"candidates": [{"x": 1}, {"x": 99}]}, "candidates[1].x", "outside -10..10"),
        ({"candidates": [{"x": 99}]}, "candidates[0].x", "outside -10..10"),
        ({"candidates": [{"x": 1}], "context": {"size": "big"}}, "candidates[0].size", "is not a number"),
        ({"candidates": [{"x": 1}], "shown": 1}, "body", "unknown field `shown`"),
        ({"candidates": [{"x": 1}], "event_time": "noon"}, "event_time", "is not a time"),
    ],
)
def test_a_list_that_makes_no_sense_is_refused_by_its_path(
    served: fakes.Served, body: object, field: str, says: str
) -> None:
    said = ask(served, body, 400)
    assert said["field"] == field, said
    assert says in said["error"]


def test_a_model_of_several_classes_has_no_score_to_rank_by(tmp_path: pathlib.Path) -> None:
    served = fakes.serve(tmp_path, fakes.make_bundle(task="multiclass"))
    assert "has no one score to go by" in ask(served, {"candidates": candidates(1)}, 400)["error"]


@settings(deadline=None, max_examples=50)
@given(xs=st.lists(st.floats(-10, 10), max_size=80), k=st.integers(1, 100))
def test_any_list_comes_back_in_order_each_candidate_once(
    tmp_path_factory: pytest.TempPathFactory, xs: list[float], k: int
) -> None:
    served = serve_once(tmp_path_factory)
    ranked = ask(served, {"candidates": candidates(*xs), "top_k": k})["ranked"]
    scores = [one["score"] for one in ranked]
    places = [one["index"] for one in ranked]
    assert scores == sorted(scores, reverse=True)
    assert len(set(places)) == len(places) == min(k, len(xs))
    assert len({one["prediction_id"] for one in ranked}) == len(ranked)


_served: list[fakes.Served] = []


def serve_once(factory: pytest.TempPathFactory) -> fakes.Served:
    if not _served:
        _served.append(fakes.serve(factory.mktemp("rank"), fakes.make_bundle()))
    return _served[0]
