"""Lists without candidates over the device's API: who answers, in which order, and what comes of it."""

from __future__ import annotations

import json
import pathlib
import subprocess
import sys
import typing

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edge_agent.interleave import coins, team_draft
from edge_agent.predict.loaded import NotReadyError
from edge_agent.predict.replies import MAX_ROWS
from edge_agent.records import CANDIDATE, INCUMBENT, Answered, Failed, Visited
from edge_agent.telemetry.fold import fold
from shared import experiment
from shared.lists import ItemId
from tests import fakes, ranked
from tests.ranked import CATALOGUE, GREEN, RED, best, of_x, with_lists
from tests.unit.edge_.test_fold import Memory, spec
from tests.unit.edge_.test_http_answer_order import never_ends

Said = dict[str, typing.Any]
IDS = tuple(CATALOGUE)
ORDERS = ("precomputed_first", "model_first", "precomputed_only")
# The models of `fakes` with a fault fail where x > 5.
WITH_SICK = CATALOGUE | of_x({"sick": 6.0})
FIRST_ITEMS = [(0, 0.75), (1, 0.625), (2, 0.5)]


def ask(served: fakes.Served, context: Said | None = None, status: int = 200, **more: typing.Any) -> Said:
    body = {"context": RED if context is None else context} | more
    reply = served.api.handle("POST", "/v1/rank", json.dumps(body).encode())
    for prediction in reply.after:
        served.engine.finish(prediction)
    said: Said = json.loads(reply.body)
    assert reply.status == status, said
    return said


def serve(folder: pathlib.Path, **changes: typing.Any) -> fakes.Served:
    return fakes.serve(folder, with_lists(fakes.make_bundle(**changes)))


def places(said: Said) -> list[int]:
    return [one["index"] for one in said["ranked"]]


def ids(said: Said) -> list[ItemId]:
    return [one["id"] for one in said["ranked"]]


def sources(said: Said) -> set[str]:
    return {one["source"] for one in said["ranked"]}


def check(said: Said, wanted: typing.Sequence[tuple[int, float]], source: str, names: typing.Any = IDS) -> None:
    assert places(said) == [place for place, _ in wanted]
    assert ids(said) == [names[place] for place, _ in wanted]
    assert [one["score"] for one in said["ranked"]] == pytest.approx([score for _, score in wanted], abs=1e-6)
    assert sources(said) == {source}
    assert {one.get("approximate", False) for one in said["ranked"]} == {source == "coarse"}


# ---- one version


def test_a_context_that_has_a_list_is_answered_by_it(tmp_path: pathlib.Path) -> None:
    said = ask(serve(tmp_path))
    check(said, best(RED, 3), "precomputed")
    assert said["model"] == "late"
    assert {(one["arm"], one["version"]) for one in said["ranked"]} == {("incumbent", "v1")}
    assert len({one["prediction_id"] for one in said["ranked"]}) == 3


def test_what_the_file_says_is_answered_though_the_model_would_say_otherwise(tmp_path: pathlib.Path) -> None:
    split = ranked.split_of(CATALOGUE)
    stored = [(1, 0.5), (3, 0.5), (0, 0.25)]
    lists = {split.context.key(split.context.encode(RED)): stored, split.anyway: FIRST_ITEMS}
    check(ask(fakes.serve(tmp_path, with_lists(fakes.make_bundle(), stored=lists))), stored, "precomputed")


def test_any_other_context_has_the_model_score_the_catalogue(tmp_path: pathlib.Path) -> None:
    served = serve(tmp_path)
    check(ask(served, GREEN), best(GREEN, 3), "onnx")
    check(ask(served, {}), best({}, 3), "onnx")
    by_hand = {"candidates": list(CATALOGUE.values()), "ids": IDS, "context": GREEN, "top_k": 3}
    said = json.loads(served.api.handle("POST", "/v1/rank", json.dumps(by_hand).encode()).body)
    check(ask(served, GREEN), [(one["index"], one["score"]) for one in said["ranked"]], "onnx")


def test_a_regression_ranks_by_its_value(tmp_path: pathlib.Path) -> None:
    served = serve(tmp_path, task="regression")
    check(ask(served), best(RED, 3, task="regression"), "precomputed")
    check(ask(served, GREEN), best(GREEN, 3, task="regression"), "onnx")


def test_a_list_is_cut_and_never_longer_than_it_was_made(tmp_path: pathlib.Path) -> None:
    served = serve(tmp_path)
    for context, source in ((RED, "precomputed"), (GREEN, "onnx")):
        check(ask(served, context, top_k=2), best(context, 2), source)
        check(ask(served, context, top_k=10**9), best(context, 3), source)


def test_what_is_to_be_left_out_is_and_unknown_names_are_no_matter(tmp_path: pathlib.Path) -> None:
    served = serve(tmp_path)
    without = [one for one in best(RED, 3) if IDS[one[0]] != "milk"]
    check(ask(served, exclude=["milk", "7", "nothing"]), without, "precomputed")
    check(ask(served, GREEN, exclude=["milk"]), [one for one in best(GREEN, 4) if IDS[one[0]] != "milk"], "onnx")
    assert ask(served, GREEN, exclude=list(IDS)) == {"model": "late", "ranked": []}
    assert 7 in ids(ask(served, GREEN, exclude=[name for name in IDS if name not in (7, "tea")]))


@settings(deadline=None, max_examples=40)
@given(
    xs=st.lists(st.sampled_from([-3.0, 0.0, 0.5, 4.0]), min_size=3, max_size=300),
    k=st.integers(1, 5),
    left_out=st.sets(st.integers(0, 300), max_size=20),
)
def test_any_catalogue_is_scored_whole_and_equals_stay_as_they_are(
    tmp_path_factory: pytest.TempPathFactory, xs: list[float], k: int, left_out: set[int]
) -> None:
    catalogue = of_x(dict(enumerate(xs)))
    made = with_lists(fakes.make_bundle(), catalogue=catalogue, stored={ranked.split_of(catalogue).anyway: FIRST_ITEMS})
    served = fakes.serve(tmp_path_factory.mktemp("any"), made)
    wanted = [one for one in best(GREEN, len(xs), catalogue) if one[0] not in left_out]
    said = [ask(served, one, top_k=k, exclude=sorted(left_out)) for one in (RED, GREEN)][-1]
    assert places(said) == [place for place, _ in wanted[: min(k, 3)]]


def test_a_catalogue_of_too_many_items_is_not_scored_here(tmp_path: pathlib.Path) -> None:
    for n, source in ((MAX_ROWS, "onnx"), (MAX_ROWS + 1, "coarse")):
        catalogue = of_x({i: (i % 100) / 25 for i in range(n)})
        stored = {ranked.split_of(catalogue).anyway: FIRST_ITEMS}
        served = fakes.serve(tmp_path / str(n), with_lists(fakes.make_bundle(), catalogue=catalogue, stored=stored))
        said = ask(served, GREEN)
        assert (sources(said), places(said)) == ({source}, [99, 199, 299] if source == "onnx" else [0, 1, 2])


# ---- who answers


@pytest.mark.parametrize("state", ["sound", "slow", "nan", "fails", "garbage", "missing"])
@pytest.mark.parametrize("order", ORDERS)
def test_whoever_can_answers_in_the_order_that_was_declared(tmp_path: pathlib.Path, order: str, state: str) -> None:
    fault = "" if state in ("sound", "missing") else state
    made = fakes.make_bundle(fault=fault, with_model=state != "missing", answer_order=order)  # type: ignore[arg-type]
    served = fakes.serve(tmp_path, with_lists(made, catalogue=WITH_SICK))
    model_can = state in ("sound", "slow") and order != "precomputed_only"
    wants = {
        "RED": "onnx" if order == "model_first" and model_can else "precomputed",
        "GREEN": "onnx" if model_can else "coarse",
    }
    for name, context in (("RED", RED), ("GREEN", GREEN)):
        wanted = FIRST_ITEMS if wants[name] == "coarse" else best(context, 3, WITH_SICK)
        check(ask(served, context), wanted, wants[name], tuple(WITH_SICK))
    assert not [one for one in served.records if isinstance(one, Failed)]


def test_over_http_a_model_that_does_not_end_is_stopped_and_the_list_over_all_is_answered(
    tmp_path: pathlib.Path,
) -> None:
    made = with_lists(fakes.make_bundle(fault="endless"))
    served = fakes.serve(tmp_path, made, load=False)
    never_ends(served.engine.model(None).incumbent, made)
    with fakes.listening(served.api, model_timeout_s=0.2) as (host, port):
        status, said = fakes.post(f"http://{host}:{port}", "/v1/rank", {"context": GREEN})
        assert status == 200
        check(said, FIRST_ITEMS, "coarse")
        status, said = fakes.post(f"http://{host}:{port}", "/v1/rank", {})
        assert (status, sources(said)) == (200, {"coarse"})


@pytest.mark.parametrize("order", ORDERS)
def test_while_the_model_loads_lists_answer_and_what_needs_the_model_waits(tmp_path: pathlib.Path, order: str) -> None:
    made = with_lists(fakes.make_bundle(answer_order=order))
    served = fakes.serve(tmp_path, made, load=False)
    check(ask(served), best(RED, 3), "precomputed")
    if order == "precomputed_only":
        check(ask(served, GREEN), FIRST_ITEMS, "coarse")
        return
    with pytest.raises(NotReadyError):
        ask(served, GREEN)
    with fakes.listening(served.api) as (host, port):
        served.engine.model(None).incumbent.load_model()
        status, said = fakes.post(f"http://{host}:{port}", "/v1/rank", {"context": GREEN})
    assert status == 200
    check(said, best(GREEN, 3), "onnx")


def test_a_list_of_no_contexts_own_judges_nobody(tmp_path: pathlib.Path) -> None:
    served = serve(tmp_path, answer_order="precomputed_only", with_model=False, table={0: (0.5, 0.5)})
    for context in (RED, GREEN):
        first = ask(served, context)["ranked"][0]
        served.engine.outcome(first["prediction_id"], 1, now_s=fakes.NOW_S + 60)
    found = fold(served.records, Memory(spec("v1")))
    (sums,) = found.sums.values()
    assert (sums.counts["precomputed"], sums.counts["fallback"]) == (3, 3)
    assert (sums.counts["outcomes"], found.n_approximate) == (1, 1)


def test_only_what_is_shown_is_recorded_and_lists_are_counted_by_where_they_came_from(tmp_path: pathlib.Path) -> None:
    served = serve(tmp_path)
    ask(served, top_k=2)
    ask(served, GREEN, top_k=1)
    assert [type(one) for one in served.records] == [Answered] * 3
    assert [one.source for one in served.records if isinstance(one, Answered)] == [0, 0, 1]
    text = served.api.handle("GET", "/metrics", b"").body.decode()
    assert 'covey_lists_total{model="late",version="v1",source="precomputed"} 1\n' in text
    assert 'covey_lists_total{model="late",version="v1",source="onnx"} 1\n' in text


def test_precomputed_lists_are_looked_at_beside_the_model_now_and_then(tmp_path: pathlib.Path) -> None:
    served = serve(tmp_path)
    for _ in range(100):
        ask(served)
    assert served.engine.parity.counts["late@v1"] == (1, 0)


# ---- what is refused


@pytest.mark.parametrize(
    ("body", "field", "says"),
    [
        ({"context": {"x": 1}}, "context.x", "an item's own"),
        ({"context": {"note": "tea"}}, "context.note", "an item's own"),
        ({"context": {"color": "red"}}, "context.color", "Did you mean 'colour'"),
        ({"context": {"size": "big"}}, "context.size", "is not a number"),
        ({"context": {"size": [1]}}, "context.size", "expected"),
        ({"context": None}, "context", "expected `object`"),
        ({"candidates": None, "ids": ["a"]}, "ids", "there are none"),
        ({"ids": []}, "ids", "there are none"),
        ({"top_k": 0}, "top_k", ">= 1"),
        ({"top_k": "all"}, "top_k", "expected `int | null`"),
        ({"exclude": ["a", 1.5]}, "exclude[1]", "expected `int | str`"),
        ({"exclude": "a"}, "exclude", "expected `array`"),
        ({"exclude": ["a"] * (MAX_ROWS + 1)}, "exclude", "length <= 10000"),
        ({"shown": 1}, "body", "unknown field `shown`"),
        ({"event_time": "noon"}, "event_time", "is not a time"),
        ({"model": "early"}, "model", "no model 'early'"),
    ],
)
def test_a_request_that_makes_no_sense_is_refused_by_its_path(
    tmp_path: pathlib.Path, body: Said, field: str, says: str
) -> None:
    served = serve(tmp_path)
    reply = served.api.handle("POST", "/v1/rank", json.dumps(body).encode())
    said = json.loads(reply.body)
    assert (reply.status, said["field"]) == (404 if field == "model" else 400, field), said
    assert says in said["error"]
    assert served.records == []


VALUES = st.sampled_from([None, "", "red", "mauve", 0, 1, -3, 2.5, 99, -99.5, True, "1", 10**400, [1]])


@settings(deadline=None, max_examples=100)
@given(context=st.dictionaries(st.sampled_from(["x", "size", "y"]), VALUES))
def test_a_context_is_refused_where_the_same_values_are_refused_in_a_row(
    tmp_path_factory: pytest.TempPathFactory, context: Said
) -> None:
    """Here x is the context's: a number that must be there; an item has a colour."""
    if not _by_colour:
        catalogue = {name: {"colour": name} for name in ("red", "green", "mauve")}
        made = with_lists(fakes.make_bundle(), catalogue=catalogue, contexts=({"x": 1, "size": 0},))
        _by_colour.append(fakes.serve(tmp_path_factory.mktemp("colours"), made))
    (served,) = _by_colour
    row = json.dumps({"features": {**context, "colour": "red"}}).encode()
    said = json.loads(served.api.handle("POST", "/v1/predict", row).body)
    reply = served.api.handle("POST", "/v1/rank", json.dumps({"context": context}).encode())
    listed = json.loads(reply.body)
    if "error" not in said:
        assert listed["ranked"], listed
    elif said["type"] == "urn:covey:error:data":
        assert (reply.status, listed["field"]) == (400, f"context.{said['field']}")
        assert listed["error"] == f"context.{said['error']}"
    else:
        assert (reply.status, listed["type"]) == (400, said["type"])


_by_colour: list[fakes.Served] = []


def test_a_model_without_lists_wants_candidates(tmp_path: pathlib.Path) -> None:
    served = fakes.serve(tmp_path, fakes.make_bundle())
    said = ask(served, status=400)
    assert (said["field"], "Send candidates" in said["error"]) == ("candidates", True)


# ---- two versions

OTHER = of_x({"salt": 3.0, "milk": -4.0, "honey": -2.0, "tea": 1.0})
OTHER_IDS = tuple(OTHER)


def both(folder: pathlib.Path, mode: typing.Any = "canary", **trial: typing.Any) -> fakes.Served:
    """v1 likes a large x, v2 a small one, and each has a catalogue of its own."""
    says = fakes.trial(mode, **trial)
    v2 = with_lists(fakes.make_bundle("v2", slope=-2.0), catalogue=OTHER, slope=-2.0)
    return fakes.serve(folder, with_lists(fakes.make_bundle()), v2, says)


@pytest.mark.parametrize("context", [RED, GREEN])
def test_each_arm_answers_from_its_own_catalogue_and_a_unit_keeps_its_arm(
    tmp_path: pathlib.Path, context: Said
) -> None:
    served = both(tmp_path)
    source = "precomputed" if context is RED else "onnx"
    seen = set()
    for unit in map(str, range(20)):
        said = ask(served, context, unit=unit)
        (arm,) = {one["arm"] for one in said["ranked"]}
        wanted = experiment.arm_of(experiment.share_of(fakes.SALT, unit), 5000, {CANDIDATE})
        assert arm == ("incumbent", "candidate")[wanted]
        seen.add(arm)
        if wanted:
            check(said, best(context, 3, OTHER, slope=-2.0), source, OTHER_IDS)
        else:
            check(said, best(context, 3), source)
    assert len(seen) == 2


@pytest.mark.parametrize("mode", ["canary", "interleave"])
def test_a_candidate_without_lists_has_failed_and_the_incumbents_list_is_shown(
    tmp_path: pathlib.Path, mode: typing.Any
) -> None:
    says = fakes.trial(mode, request_share_bp=10_000)
    served = fakes.serve(tmp_path, with_lists(fakes.make_bundle()), fakes.make_bundle("v2"), says)
    said = ask(served)
    check(said, best(RED, 3), "precomputed")
    assert "visit" not in said
    assert {one["arm"] for one in said["ranked"]} == {"incumbent"}
    failed = [one for one in served.records if isinstance(one, Failed)]
    assert failed == [Failed("late", "v2", 7, CANDIDATE, served=True, event_s=int(fakes.NOW_S))]


def test_a_context_that_is_wrong_for_both_blames_neither(tmp_path: pathlib.Path) -> None:
    served = both(tmp_path, request_share_bp=10_000)
    assert ask(served, {"size": "big"}, 400)["field"] == "context.size"
    assert served.records == []


def test_a_candidate_whose_list_is_approximate_is_served_and_counted_for_it(tmp_path: pathlib.Path) -> None:
    sick = with_lists(fakes.make_bundle("v2", fault="garbage"), catalogue=OTHER)
    served = fakes.serve(tmp_path, with_lists(fakes.make_bundle()), sick, fakes.trial(request_share_bp=10_000))
    check(ask(served, GREEN), FIRST_ITEMS, "coarse", OTHER_IDS)
    assert [(one.arm, one.source) for one in served.records if isinstance(one, Answered)] == [(CANDIDATE, 2)] * 3


@pytest.mark.parametrize("context", [RED, GREEN])
def test_a_list_is_drawn_by_the_names_of_the_items_from_the_orders_of_both(
    tmp_path: pathlib.Path, context: Said
) -> None:
    served = both(tmp_path, "interleave", request_share_bp=10_000)
    catalogues, slopes = (CATALOGUE, OTHER), (1.0, -2.0)
    names = list(dict.fromkeys([*IDS, *OTHER_IDS]))
    orders = [
        [names.index(list(one)[place]) for place, _ in best(context, len(one), one, slope=slope)]
        for one, slope in zip(catalogues, slopes, strict=True)
    ]
    for _ in range(20):
        said = ask(served, context)
        drawn = team_draft(orders[0], orders[1], coins(said["visit"]), 3)
        assert ids(said) == [names[item] for item, _ in drawn]
        assert [one["arm"] for one in said["ranked"]] == [("incumbent", "candidate")[team] for _, team in drawn]
        for one in said["ranked"]:
            team = int(one["arm"] == "candidate")
            assert list(catalogues[team])[one["index"]] == one["id"]
            wanted = ranked.scores(context, catalogues[team], slope=slopes[team])[one["index"]]
            assert one["score"] == pytest.approx(wanted, abs=1e-6)
            opened = experiment.open_prediction_id(one["prediction_id"], fakes.ID_KEY)
            assert (opened.arm, str(opened.version)) == (team, f"v{team + 1}")
    visits = [one for one in served.records if isinstance(one, Visited)]
    assert len(visits) == 20
    answered = [(one.nonce, one.arm) for one in served.records if isinstance(one, Answered)]
    assert [pair for visit in visits for pair in visit.shown] == answered


def test_a_drawn_list_has_no_more_places_than_the_shorter_of_both(tmp_path: pathlib.Path) -> None:
    short = with_lists(fakes.make_bundle("v2", slope=-2.0), catalogue=OTHER, length=2, slope=-2.0)
    says = fakes.trial("interleave", request_share_bp=10_000)
    served = fakes.serve(tmp_path, with_lists(fakes.make_bundle()), short, says)
    assert len(ask(served)["ranked"]) == 2
    assert len(ask(served, top_k=1)["ranked"]) == 1
    assert ask(served, exclude=list(IDS + OTHER_IDS)) == {"model": "late", "ranked": []}


def test_a_list_with_approximate_answers_compares_nobody(tmp_path: pathlib.Path) -> None:
    sick = with_lists(fakes.make_bundle("v2", fault="garbage"), catalogue=OTHER)
    says = fakes.trial("interleave", request_share_bp=10_000)
    served = fakes.serve(tmp_path, with_lists(fakes.make_bundle()), sick, says)
    said = ask(served, GREEN)
    check(said, best(GREEN, 3), "onnx")
    assert [type(one) for one in served.records] == [Failed, *[Answered] * 3]
    assert "visit" not in said


def test_nothing_is_drawn_where_the_incumbents_own_list_is_approximate(tmp_path: pathlib.Path) -> None:
    v2 = with_lists(fakes.make_bundle("v2", slope=-2.0), catalogue=OTHER, slope=-2.0)
    says = fakes.trial("interleave", request_share_bp=10_000)
    served = fakes.serve(tmp_path, with_lists(fakes.make_bundle(fault="garbage")), v2, says)
    said = ask(served, GREEN)
    check(said, FIRST_ITEMS, "coarse")
    assert ("visit" in said, [type(one) for one in served.records]) == (False, [Answered] * 3)


def test_where_lists_are_judged_a_list_is_a_visit_of_its_version(tmp_path: pathlib.Path) -> None:
    metric = {"metric": "ndcg"}
    served = serve(tmp_path, **metric)
    said = ask(served)
    (visited,) = [one for one in served.records if isinstance(one, Visited)]
    assert (visited.nonce.hex(), visited.version, visited.arm) == (said["visit"], "v1", INCUMBENT)
    served = serve(tmp_path / "only", answer_order="precomputed_only", table={0: (0.5, 0.5)}, **metric)
    assert "visit" not in ask(served, GREEN)


def test_in_shadow_the_other_arm_scores_the_items_that_were_shown_and_no_others(tmp_path: pathlib.Path) -> None:
    served = both(tmp_path, "shadow")
    said = ask(served)
    check(said, best(RED, 3), "precomputed")
    answered = [one for one in served.records if isinstance(one, Answered)]
    wanted = ranked.scores(RED, CATALOGUE, slope=-2.0)
    assert [one.others[0].outputs[1] for one in answered] == pytest.approx(
        [wanted[place] for place in places(said)], abs=1e-6
    )
    assert [(len(one.others), one.others[0].arm) for one in answered] == [(1, CANDIDATE)] * 3


def test_in_shadow_a_column_that_only_the_others_catalogue_has_comes_from_there(tmp_path: pathlib.Path) -> None:
    sized = {name: {**own, "size": 1.5} for name, own in CATALOGUE.items()}
    v2 = with_lists(fakes.make_bundle("v2", slope=2.0), catalogue=sized, contexts=(), slope=2.0)
    served = fakes.serve(tmp_path, with_lists(fakes.make_bundle()), v2, fakes.trial("shadow"))
    said = ask(served, {"colour": "red"})
    answered = [one for one in served.records if isinstance(one, Answered)]
    wanted, unlike = (ranked.scores({"colour": "red"}, one, slope=2.0) for one in (sized, CATALOGUE))
    got = [one.others[0].outputs[1] for one in answered]
    assert got == pytest.approx([wanted[place] for place in places(said)], abs=1e-6)
    assert wanted != pytest.approx(unlike, abs=1e-6)


def test_a_slow_model_does_not_keep_whoever_asked_for_long(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    catalogue = of_x({i: i / 100 for i in range(600)})  # more than one run may have
    served = fakes.serve(tmp_path, with_lists(fakes.make_bundle(fault="slow"), catalogue=catalogue))
    monkeypatch.setattr("edge_agent.predict.found.MOST_S", 1000.0)
    check(ask(served, GREEN), best(GREEN, 3, catalogue), "onnx", tuple(catalogue))
    monkeypatch.setattr("edge_agent.predict.found.MOST_S", 0.001)
    check(ask(served, GREEN), FIRST_ITEMS, "coarse", tuple(catalogue))


def test_a_device_without_a_runtime_answers_lists_and_imports_neither_it_nor_numpy(tmp_path: pathlib.Path) -> None:
    made = fakes.make_bundle(answer_order="precomputed_only", with_model=False, table={0: (0.5, 0.5)})
    layout = fakes.join(tmp_path)
    fakes.install(layout, with_lists(made))
    code = (
        "import json, sys; from edge_agent import cli;"
        f"cli.main(['--store', {str(tmp_path)!r}, 'run', '--port', '0', '--no-sync']);"
        "print(json.dumps(list(sys.modules)))"
    )
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout
        address = process.stdout.readline().split()[-1]
        for context, wanted, source in ((RED, best(RED, 3), "precomputed"), (GREEN, FIRST_ITEMS, "coarse")):
            status, said = fakes.post(address, "/v1/rank", {"context": context})
            assert status == 200, said
            check(said, wanted, source)
        process.terminate()
        names = set(json.loads(process.stdout.read()))
    assert process.returncode == 0
    assert "edge_agent.predict.listed" in names
    assert not names & {"numpy", "onnxruntime"}
