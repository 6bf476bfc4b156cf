"""Interleaved lists over the device's API: drawn from two rankers, recomputable, each item credited to its ranker."""

from __future__ import annotations

import collections
import json
import pathlib
import typing

import pytest

from edge_agent.interleave import coins, team_draft
from edge_agent.records import Answered, Failed, Visited
from shared import experiment
from tests import fakes

Said = dict[str, typing.Any]
XS = (1.0, -3.0, 4.0, 0.0, 3.0)
BEST_LAST = tuple(sorted(range(len(XS)), key=lambda i: XS[i]))
BEST_FIRST = BEST_LAST[::-1]


def ask(served: fakes.Served, body: Said, path: str = "/v1/rank") -> Said:
    reply = served.api.handle("POST", path, json.dumps(body).encode())
    for prediction in reply.after:
        served.engine.finish(prediction)
    said: Said = json.loads(reply.body)
    assert reply.status == 200, said
    return said


def lists(n: float = len(XS), **more: typing.Any) -> Said:
    return {"candidates": [{"x": x} for x in XS[: int(n)]]} | more


def serve(folder: pathlib.Path, *more: fakes.Bundle, **trial: typing.Any) -> fakes.Served:
    """v1 ranks by x, v2 the other way round."""
    says = fakes.trial("interleave", **{"request_share_bp": 10_000} | trial)
    return fakes.serve(folder, fakes.make_bundle("v1"), fakes.make_bundle("v2", slope=-2.0), says, also=more)


def test_a_list_is_drawn_from_both_orders_by_coins_that_the_visit_decides(tmp_path: pathlib.Path) -> None:
    served = serve(tmp_path)
    firsts: collections.Counter[str] = collections.Counter()
    for _ in range(60):
        said = ask(served, lists())
        drawn = team_draft(BEST_FIRST, BEST_LAST, coins(said["visit"]))
        names = ("incumbent", "candidate")
        assert [(one["index"], one["arm"]) for one in said["ranked"]] == [(item, names[team]) for item, team in drawn]
        firsts[said["ranked"][0]["arm"]] += 1
    assert min(firsts.values()) > 10


def test_each_item_names_the_arm_the_version_and_the_score_of_who_picked_it(tmp_path: pathlib.Path) -> None:
    served = serve(tmp_path)
    said = ask(served, lists(ids=list("abcde")))
    for one in said["ranked"]:
        arm = int(one["arm"] == "candidate")
        opened = experiment.open_prediction_id(one["prediction_id"], fakes.ID_KEY)
        assert (opened.arm, str(opened.version), opened.epoch) == (arm, one["version"], 7)
        assert one["version"] == ("v1", "v2")[arm]
        x = XS["abcde".index(one["id"])]
        slope = (1.0, -2.0)[arm]
        assert one["score"] == pytest.approx(
            fakes.expected({"x": x}, task="binary", slope=slope, n_outputs=2)[1], abs=1e-6
        )


def test_what_is_shown_is_recorded_with_who_picked_it_and_nothing_else(tmp_path: pathlib.Path) -> None:
    served = serve(tmp_path)
    said = ask(served, lists(top_k=3))
    (visited,) = [one for one in served.records if isinstance(one, Visited)]
    answered = [one for one in served.records if isinstance(one, Answered)]
    assert len(served.records) == 4
    assert visited.shown == tuple((one.nonce, one.arm) for one in answered)
    assert [one.arm for one in answered] == [int(one["arm"] == "candidate") for one in said["ranked"]]
    assert (visited.model, visited.epoch, visited.arm, visited.nonce.hex()) == ("late", 7, 1, said["visit"])
    window_s = served.engine.model(None).incumbent.manifest.label_window_s
    assert (visited.event_s, visited.closes_s) == (fakes.NOW_S, fakes.NOW_S + window_s)
    assert all(one.others == () for one in answered)


def test_a_units_arm_says_which_candidate_its_lists_are_drawn_from(tmp_path: pathlib.Path) -> None:
    served = serve(tmp_path, fakes.make_bundle("v3", slope=0.5), arms=(2, 3), request_share_bp=2500)
    for unit in map(str, range(40)):
        arm = experiment.arm_of(experiment.share_of(fakes.SALT, unit), 2500, {2, 3})
        said = ask(served, lists(unit=unit))
        assert ("visit" in said) == bool(arm)
        names = {0: {"incumbent"}, 2: {"incumbent", "candidate-2"}, 3: {"incumbent", "candidate-3"}}
        assert {one["arm"] for one in said["ranked"]} == names[arm]
    assert {one.arm for one in served.records if isinstance(one, Visited)} == {2, 3}


@pytest.mark.parametrize("windows", [(60.0, 3600.0), (3600.0, 60.0)])
def test_a_visit_closes_before_an_outcome_of_either_version_would_be_late(
    tmp_path: pathlib.Path, windows: tuple[float, float]
) -> None:
    made = [fakes.make_bundle(f"v{n}", slope=3.0 - 2 * n, label_window_s=window) for n, window in enumerate(windows, 1)]
    served = fakes.serve(tmp_path, *made, fakes.trial("interleave", request_share_bp=10_000))
    ask(served, lists())
    (visited,) = [one for one in served.records if isinstance(one, Visited)]
    assert visited.closes_s == fakes.NOW_S + 60


def test_requests_that_are_no_lists_are_the_incumbents(tmp_path: pathlib.Path) -> None:
    served = serve(tmp_path)
    for _ in range(20):
        said = ask(served, {"features": {"x": 1}}, "/v1/predict")
        assert said["parameters"]["arm"] == "incumbent"
    assert all(isinstance(one, Answered) and (one.epoch, one.others) == (7, ()) for one in served.records)


@pytest.mark.parametrize("fault", ["nan", "fails"])
def test_where_the_candidate_fails_the_incumbents_list_is_served_and_nobody_compared(
    tmp_path: pathlib.Path, fault: fakes.Fault
) -> None:
    sick = fakes.make_bundle("v2", slope=2.0, fault=fault)  # where x > 5
    says = fakes.trial("interleave", request_share_bp=10_000)
    served = fakes.serve(tmp_path, fakes.make_bundle("v1"), sick, says)
    said = ask(served, {"candidates": [{"x": 1}, {"x": 9}, {"x": 8}]})
    assert "visit" not in said
    assert [(one["index"], one["arm"]) for one in said["ranked"]] == [
        (1, "incumbent"),
        (2, "incumbent"),
        (0, "incumbent"),
    ]
    failed = Failed("late", "v2", 7, 1, served=True, event_s=int(fakes.NOW_S))
    assert [one for one in served.records if not isinstance(one, Answered)] == [failed]


def test_a_list_with_approximate_answers_compares_nobody(tmp_path: pathlib.Path) -> None:
    sick = fakes.make_bundle("v2", slope=2.0, fault="nan", default=(0.5, 0.5))
    says = fakes.trial("interleave", request_share_bp=10_000)
    served = fakes.serve(tmp_path, fakes.make_bundle("v1"), sick, says)
    said = ask(served, {"candidates": [{"x": 1}, {"x": 9}]})
    assert "visit" not in said
    assert [type(one) for one in served.records] == [Failed, Answered, Answered]
    assert "visit" in ask(served, {"candidates": [{"x": 1}, {"x": 2}]})


def test_one_item_alone_is_a_visit_too_and_nothing_is_none(tmp_path: pathlib.Path) -> None:
    served = serve(tmp_path)
    assert {ask(served, lists(1))["ranked"][0]["arm"] for _ in range(40)} == {"incumbent", "candidate"}
    assert ask(served, {"candidates": []}) == {"model": "late", "ranked": []}


def test_a_slow_candidate_is_waited_for_as_for_any_answer(tmp_path: pathlib.Path) -> None:
    slow = fakes.make_bundle("v2", slope=-2.0, fault="slow")
    served = fakes.serve(tmp_path, fakes.make_bundle("v1"), slow, fakes.trial("interleave", request_share_bp=10_000))
    with fakes.listening(served.api) as (host, port):
        status, said = fakes.post(f"http://{host}:{port}", "/v1/rank", lists())
    assert (status, len(said["ranked"])) == (200, len(XS))
    assert {one["version"] for one in said["ranked"]} == {"v1", "v2"}


# ---- lists that are judged as a whole


@pytest.mark.parametrize("mode", ["shadow", "canary"])
def test_where_the_metric_judges_lists_each_list_is_a_visit_of_who_answered(
    tmp_path: pathlib.Path, mode: typing.Any
) -> None:
    made = [fakes.make_bundle(f"v{n}", slope=3.0 - 2 * n, metric="ndcg") for n in (1, 2)]
    served = fakes.serve(tmp_path, *made, fakes.trial(mode))
    for unit in map(str, range(20)):
        said = ask(served, lists(top_k=3, unit=unit))
        visited, *answered = served.records
        assert isinstance(visited, Visited)
        assert (visited.nonce.hex(), visited.version) == (said["visit"], said["ranked"][0]["version"])
        assert {(one["arm"], one["version"]) for one in said["ranked"]} == {
            (("incumbent", "candidate")[visited.arm], visited.version)
        }
        assert visited.shown == tuple((one.nonce, one.arm) for one in answered if isinstance(one, Answered))
        assert all(isinstance(one, Answered) and len(one.others) == 1 for one in answered)
        served.records.clear()
