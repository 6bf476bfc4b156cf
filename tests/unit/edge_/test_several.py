"""Several candidates at once: arms keep their numbers, pairs are with the incumbent; control groups and pins."""

from __future__ import annotations

import collections
import contextlib
import json
import pathlib
import typing

import pytest

from edge_agent.generation import Generation
from edge_agent.predict.apart import in_place
from edge_agent.predict.asking import finishing
from edge_agent.probation import Watch
from edge_agent.records import CANDIDATE, INCUMBENT, Answered, Failed, Scored
from edge_agent.update.desire import desired_generation, refs_for
from edge_agent.update.retreat import EVERYTHING, retreat
from edge_agent.update.state import State
from shared import experiment
from shared.channel import BundleRef, Channel, Guard, ModelChannel
from tests import fakes

ROW = {"x": 1, "colour": "red", "size": 0}
SICK = {"x": 6, "colour": "red", "size": 0}
MODEL = fakes.MODEL


def three(folder: pathlib.Path, mode: typing.Any = "canary", **trial: typing.Any) -> fakes.Served:
    """Candidates v2, v3 and v4 in the arms 1, 2 and 4, with a fifth of the requests each."""
    made = [fakes.make_bundle(f"v{n}", slope=float(n)) for n in (1, 2, 3, 4)]
    share = 0 if mode == "shadow" else 2000
    says = fakes.trial(mode, **{"arms": (1, 2, 4), "request_share_bp": share} | trial)
    return fakes.serve(folder, made[0], made[1], says, also=made[2:])


def ask(served: fakes.Served, unit: str | None = None, row: typing.Mapping[str, object] = ROW) -> Answered:
    active = served.engine.model(None)
    made = in_place(lambda: served.engine.predict(active, row, unit=unit, event_s=fakes.NOW_S))
    in_place(lambda: served.engine.finish(made))
    last = served.records[-1]
    assert isinstance(last, Answered)
    return last


def test_each_candidate_answers_its_share_and_every_unit_the_arm_of_its_place(tmp_path: pathlib.Path) -> None:
    served = three(tmp_path, keep_pairs=False)
    arms = collections.Counter[int]()
    for unit in map(str, range(2000)):
        record = ask(served, unit)
        arms[record.arm] += 1
        assert record.arm == experiment.arm_of(experiment.share_of(fakes.SALT, unit), 2000, {1, 2, 4})
        assert record.version == {0: "v1", 1: "v2", 2: "v3", 4: "v4"}[record.arm]
    assert all(abs(arms[arm] / 2000 - share) < 0.03 for arm, share in {0: 0.4, 1: 0.2, 2: 0.2, 4: 0.2}.items())


def test_in_a_canary_with_pairs_every_other_arm_is_scored_whoever_answers(tmp_path: pathlib.Path) -> None:
    served = three(tmp_path)
    versions = {0: "v1", 1: "v2", 2: "v3", 4: "v4"}
    seen = set()
    for unit in map(str, range(60)):
        record = ask(served, unit)
        seen.add(record.arm)
        rest = {arm: version for arm, version in versions.items() if arm != record.arm}
        assert {one.arm: one.version for one in record.others} == rest
        for one in record.others:
            slope = float(one.version[1:])
            assert one.outputs == pytest.approx(fakes.expected(ROW, task="binary", slope=slope, n_outputs=2), abs=1e-6)
    assert seen == set(versions)


def test_a_shadow_has_all_candidates_scored_and_none_answers(tmp_path: pathlib.Path) -> None:
    record = ask(three(tmp_path, "shadow"))
    assert (record.arm, record.keep, [one.arm for one in record.others]) == (INCUMBENT, True, [1, 2, 4])


def test_a_candidate_that_can_not_be_scored_fails_alone(tmp_path: pathlib.Path) -> None:
    made = [fakes.make_bundle("v1"), fakes.make_bundle("v2", fault="nan"), fakes.make_bundle("v3", slope=3.0)]
    served = fakes.serve(tmp_path, made[0], made[1], fakes.trial("shadow"), also=made[2:])
    record = ask(served, row=SICK)
    assert [one.version for one in record.others] == ["v3"]
    assert served.records[0] == Failed("late", "v2", 7, CANDIDATE, served=False, event_s=int(fakes.NOW_S))


def test_where_a_candidate_fails_to_answer_the_incumbent_does_and_the_others_are_scored(tmp_path: pathlib.Path) -> None:
    made = [fakes.make_bundle("v1"), fakes.make_bundle("v2"), fakes.make_bundle("v3", slope=3.0, fault="nan")]
    trial = fakes.trial(request_share_bp=5000)
    served = fakes.serve(tmp_path, made[0], made[1], trial, also=made[2:])
    unit = next(
        name
        for name in map(str, range(99))
        if experiment.arm_of(experiment.share_of(fakes.SALT, name), 5000, {1, 2}) == 2
    )
    record = ask(served, unit, SICK)
    assert (record.arm, [(one.arm, one.version) for one in record.others]) == (INCUMBENT, [(1, "v2")])
    assert served.records[0] == Failed("late", "v3", 7, 2, served=True, event_s=int(fakes.NOW_S))


def test_two_slow_candidates_are_both_scored_each_once(tmp_path: pathlib.Path) -> None:
    made = [fakes.make_bundle("v1"), *(fakes.make_bundle(f"v{n}", slope=float(n), fault="slow") for n in (2, 3))]
    served = fakes.serve(tmp_path, made[0], made[1], fakes.trial("shadow"), also=made[2:])
    assert all(bundle.is_slow for bundle in served.engine.model(None).candidates.values())
    assert [one.version for one in ask(served).others] == ["v2", "v3"]
    assert (served.engine.waiting, served.engine._scored) == ({}, {})


def test_an_outcome_that_comes_while_arms_are_scored_keeps_what_was_learned_by_then(tmp_path: pathlib.Path) -> None:
    made = [fakes.make_bundle("v1"), *(fakes.make_bundle(f"v{n}", slope=float(n), fault="slow") for n in (2, 3))]
    served = fakes.serve(tmp_path, made[0], made[1], fakes.trial("shadow"), also=made[2:])
    active = served.engine.model(None)
    answer = in_place(lambda: served.engine.predict(active, ROW, unit=None, event_s=fakes.NOW_S))
    steps = finishing(served.engine, [answer])
    first = next(steps)
    assert first is not None
    first.run()
    assert next(steps) is not None  # the second candidate's run
    served.engine.outcome(answer.prediction_id, 1, now_s=fakes.NOW_S)
    assert list(steps) == []
    (record,) = [one for one in served.records if isinstance(one, Answered)]
    assert [one.version for one in record.others] == ["v2"]
    assert (served.engine.waiting, served.engine._scored) == ({}, {})


def test_all_candidates_have_names_in_replies_metrics_and_the_index(tmp_path: pathlib.Path) -> None:
    served = three(tmp_path)
    said = set()
    for unit in map(str, range(60)):
        body = b'{"features": {"x": 1}, "unit": "%s"}' % unit.encode()
        said.add(json.loads(served.api.handle("POST", "/v1/predict", body).body)["parameters"]["arm"])
    assert said == {"incumbent", "candidate", "candidate-2", "candidate-4"}
    metrics = served.api.handle("GET", "/metrics", b"").body.decode()
    assert 'covey_model_loaded{model="late",version="v4",arm="candidate-4"} 1' in metrics
    about = json.loads(served.api.handle("GET", "/v2/models/late", b"").body)
    assert about["versions"] == ["v1", "v2", "v3", "v4"]


# ---- what a device should run


def channel(**trial: typing.Any) -> ModelChannel:
    return ModelChannel(
        model=MODEL,
        incumbent=BundleRef(version="v1"),
        candidate=BundleRef(version="v2"),
        also=(BundleRef(version="v3"), BundleRef(version="v4")),
        experiment=fakes.trial(**{"request_share_bp": 2000} | trial),
        pins={"old-till": BundleRef(version="v0")},
    )


def desired(entry: ModelChannel, device: str = "d", *refused: str) -> typing.Any:
    said = {(MODEL, version, f"{MODEL}/{version}"): "no" for version in refused}
    made = Channel(region="north", sequence=5, models=(entry,))
    (found,) = desired_generation(made, device, said, lambda model, ref: f"{model}/{ref.version}").models
    return found


def test_a_candidate_that_is_refused_is_left_out_and_the_others_keep_their_arms() -> None:
    entry = channel()
    assert desired(entry).candidates == {1: "v2", 2: "v3", 3: "v4"}
    assert desired(entry).versions == {v: f"{MODEL}/{v}" for v in ("v1", "v2", "v3", "v4")}
    assert desired(entry, "d", "v2").candidates == {2: "v3", 3: "v4"}
    assert desired(entry, "d", "v3").candidates == {1: "v2", 3: "v4"}
    assert desired(channel(arms=(3, 1, 2)), "d", "v3").candidates == {3: "v2", 2: "v4"}
    none = desired(entry, "d", "v2", "v3", "v4")
    assert (none.candidates, none.experiment, none.epoch) == ({}, None, 0)


def test_a_device_of_the_control_group_runs_no_candidate_and_counts_for_the_stage(tmp_path: pathlib.Path) -> None:
    entry = channel(control_share_bp=2000)
    names = [f"till-{i}" for i in range(500)]
    control = [name for name in names if not desired(entry, name).candidates]
    assert control == [name for name in names if experiment.in_control(fakes.SALT, name, 2000)]
    assert 60 < len(control) < 140
    kept = desired(entry, control[0])
    assert (kept.incumbent, kept.versions, kept.epoch) == ("v1", {"v1": f"{MODEL}/v1"}, 7)
    served = fakes.serve(tmp_path, fakes.make_bundle("v1"), None, entry.experiment)
    assert (ask(served).arm, ask(served).epoch, ask(served).others) == (INCUMBENT, 7, ())


def test_outside_the_stage_there_is_neither_candidate_nor_epoch_but_the_control_group_has_its_own() -> None:
    found = [desired(channel(device_share_bp=0, control_share_bp=1000), f"till-{i}") for i in range(200)]
    assert {(one.epoch, bool(one.candidates)) for one in found} == {(0, False), (7, False)}


def test_a_pinned_device_runs_its_version_alone_whatever_is_tried() -> None:
    entry = channel(control_share_bp=10_000)
    pinned = desired(entry, "old-till")
    assert (pinned.incumbent, pinned.versions, pinned.epoch) == ("v0", {"v0": f"{MODEL}/v0"}, 0)
    assert [ref.version for ref in refs_for(entry, "old-till")] == ["v0"]
    assert [ref.version for ref in refs_for(entry, "d")] == ["v1", "v2", "v3", "v4"]


# ---- a candidate that shows itself unfit


def seen(*said: float, by: float = 0.7) -> Answered:
    """An answer of v1, and what v2, v3, … would have said: probabilities of the second class."""
    others = tuple(Scored(arm, f"v{arm + 1}", (1 - p, p)) for arm, p in enumerate(said, 1))
    return Answered("late", "v1", 7, 0, 1, 0, 100, slow=False, nonce=b"nonce1", outputs=(1 - by, by), others=others)


def watch(guard: Guard) -> Watch:
    made = {f"v{n}": fakes.make_bundle(f"v{n}") for n in (1, 2, 3)}
    entry = fakes.entry_of(made["v1"], made["v2"], fakes.trial("shadow"), also=[made["v3"]], guard=guard)
    manifests = {(MODEL, version): one.manifest for version, one in made.items()}
    return Watch(Generation(region="r", models=(entry,), probation_s=1.0), manifests)


def test_only_the_candidate_that_decides_differently_is_to_blame() -> None:
    trial = watch(Guard(disagree_ratio=0.3))
    for _ in range(20):
        trial.add(seen(0.8, 0.2))
    found = trial.verdict()
    assert found is not None
    assert found.to_blame == "late@v3"
    assert "20 of 20 inputs" in found.reason


def test_a_candidate_that_answers_is_compared_with_the_incumbent_alone() -> None:
    trial = watch(Guard(disagree_ratio=0.3))
    by_candidate = Answered(
        "late", "v2", 7, 1, 1, 0, 100, slow=False, nonce=b"nonce1", outputs=(0.2, 0.8),
        others=(Scored(0, "v1", (0.3, 0.7)), Scored(2, "v3", (0.9, 0.1))),
    )  # fmt: skip
    for _ in range(20):
        trial.add(by_candidate)
    found = trial.verdict()
    assert found is not None
    assert found.to_blame == "late@v3"


def test_who_fails_most_is_to_blame() -> None:
    trial = watch(Guard())
    for _ in range(20):
        trial.add(seen(0.8, 0.8))
        trial.add(Failed("late", "v3", 7, 2, served=False, event_s=0))
    found = trial.verdict()
    assert found is not None
    assert (found.to_blame, found.reason) == ("late@v3", "20 of 40 answers failed during probation")


@pytest.mark.parametrize(
    ("blamed", "refused"),
    [
        ((), {"v2"}),
        (EVERYTHING, {"v2", "v3"}),
        (("late",), {"v2", "v3"}),
        (("late@v3",), {"v3"}),
        (("late@v1",), {"v2", "v3"}),
        (("x",), set()),
    ],
)
def test_going_back_refuses_the_version_that_is_to_blame_where_it_is_new(
    tmp_path: pathlib.Path, blamed: tuple[str, ...], refused: set[str]
) -> None:
    layout = fakes.join(tmp_path)
    v1, v2, v3 = (fakes.make_bundle(f"v{n}", slope=float(n)) for n in (1, 2, 3))
    before = fakes.install(layout, v1)
    bad = fakes.install(layout, v1, v2, fakes.trial("shadow"), also=[v3], state="trial")
    generations = fakes.generations_of(layout)
    with contextlib.closing(State(layout.state_db)) as state:
        retreat(state, generations, bad, before, "it hums", blamed)
        assert {version for _, version, _ in state.refused()} == refused
    assert generations.running() == before
