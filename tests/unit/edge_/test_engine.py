"""Arms and shares, fallback to the incumbent, shadows that never answer, pairs, and ids that come back as outcomes."""

from __future__ import annotations

import collections
import pathlib
import typing

import pytest

from edge_agent.predict.engine import Prediction
from edge_agent.predict.loaded import NotReadyError
from edge_agent.records import CANDIDATE, INCUMBENT, Answered, Failed, OutcomeSeen
from shared import experiment
from shared.errors import DataError, ModelError, NotFoundError
from tests import fakes

ROW = {"x": 1, "colour": "red", "size": 0}
SICK = {"x": 6, "colour": "red", "size": 0}


@pytest.fixture
def v1() -> fakes.Bundle:
    return fakes.make_bundle("v1")


@pytest.fixture
def v2() -> fakes.Bundle:
    return fakes.make_bundle("v2", slope=2.0)


def ask(served: fakes.Served, row: typing.Mapping[str, object] = ROW, unit: str | None = None) -> Prediction:
    active = served.engine.model(None)
    return served.engine.predict(active, row, unit=unit, event_s=fakes.NOW_S)


def finish(served: fakes.Served, prediction: Prediction) -> Answered:
    served.engine.finish(prediction)
    last = served.records[-1]
    assert isinstance(last, Answered)
    return last


def others_of(record: Answered) -> str:
    """Versions that were scored beside an answer."""
    return " ".join(one.version for one in record.others)


def test_without_an_experiment_the_incumbent_answers_and_is_recorded(tmp_path: pathlib.Path, v1: fakes.Bundle) -> None:
    served = fakes.serve(tmp_path, v1)
    made = ask(served)
    assert served.records == []
    record = finish(served, made)
    assert (record.model, record.version, record.epoch, record.arm, record.source) == ("late", "v1", 0, INCUMBENT, 1)
    assert (record.event_s, record.outputs, record.keep, record.others) == (fakes.NOW_S, made.outputs, False, ())
    said = experiment.open_prediction_id(made.prediction_id, fakes.ID_KEY)
    assert (said.epoch, said.arm, said.source, said.event_s, said.nonce) == (0, 0, 1, fakes.NOW_S, record.nonce)
    assert said.score == made.outputs[1] == made.score


def test_each_prediction_has_an_id_of_its_own(tmp_path: pathlib.Path, v1: fakes.Bundle) -> None:
    served = fakes.serve(tmp_path, v1)
    assert len({ask(served).prediction_id for _ in range(500)}) == 500


@pytest.mark.parametrize("share_bp", [0, 1000, 5000, 10_000])
def test_the_candidate_answers_its_share_of_requests(
    tmp_path: pathlib.Path, v1: fakes.Bundle, v2: fakes.Bundle, share_bp: int
) -> None:
    served = fakes.serve(tmp_path, v1, v2, fakes.trial(request_share_bp=share_bp))
    arms = collections.Counter(ask(served).arm for _ in range(3000))
    assert abs(arms[CANDIDATE] / 3000 - share_bp / 10_000) < 0.04
    assert share_bp not in (0, 10_000) or len(arms) == 1


def test_a_unit_stays_in_its_arm(tmp_path: pathlib.Path, v1: fakes.Bundle, v2: fakes.Bundle) -> None:
    served = fakes.serve(tmp_path, v1, v2, fakes.trial())
    arms = {unit: {ask(served, unit=unit).arm for _ in range(5)} for unit in map(str, range(40))}
    assert all(len(seen) == 1 for seen in arms.values())
    assert set.union(*arms.values()) == {INCUMBENT, CANDIDATE}


def test_a_device_outside_the_stage_answers_as_if_there_were_no_experiment(
    tmp_path: pathlib.Path, v1: fakes.Bundle, v2: fakes.Bundle
) -> None:
    served = fakes.serve(tmp_path, v1, v2, fakes.trial(device_share_bp=0, request_share_bp=10_000))
    record = finish(served, ask(served))
    assert (record.arm, record.epoch, record.others) == (INCUMBENT, 0, ())


def test_a_shadow_is_scored_after_the_reply_and_never_answers(
    tmp_path: pathlib.Path, v1: fakes.Bundle, v2: fakes.Bundle
) -> None:
    served = fakes.serve(tmp_path, v1, v2, fakes.trial("shadow", request_share_bp=10_000))
    for _ in range(50):
        made = ask(served)
        assert made.arm == INCUMBENT
        record = finish(served, made)
    expected = fakes.expected(ROW, task="binary", slope=2.0, n_outputs=2)
    (other,) = record.others
    assert (record.version, record.epoch, other.version, record.keep) == ("v1", 7, "v2", True)
    assert other.outputs == pytest.approx(expected, abs=1e-6)


def test_in_a_canary_each_arm_is_paired_with_the_other(
    tmp_path: pathlib.Path, v1: fakes.Bundle, v2: fakes.Bundle
) -> None:
    served = fakes.serve(tmp_path, v1, v2, fakes.trial())
    seen = {(record.version, others_of(record)) for record in (finish(served, ask(served)) for _ in range(50))}
    assert seen == {("v1", "v2"), ("v2", "v1")}


def test_a_canary_without_pairs_scores_only_who_answers(
    tmp_path: pathlib.Path, v1: fakes.Bundle, v2: fakes.Bundle
) -> None:
    served = fakes.serve(tmp_path, v1, v2, fakes.trial(keep_pairs=False))
    assert {finish(served, ask(served)).others for _ in range(30)} == {()}


@pytest.mark.parametrize("fault", ["nan", "fails"])
def test_when_the_candidate_fails_the_incumbent_answers_and_the_failure_is_counted(
    tmp_path: pathlib.Path, v1: fakes.Bundle, fault: fakes.Fault
) -> None:
    sick = fakes.make_bundle("v2", fault=fault)
    served = fakes.serve(tmp_path, v1, sick, fakes.trial(request_share_bp=10_000))
    made = ask(served, SICK)
    assert (made.arm, made.bundle.version) == (INCUMBENT, "v1")
    assert served.records == [Failed("late", "v2", 7, CANDIDATE, served=True, event_s=int(fakes.NOW_S))]
    record = finish(served, made)
    assert (record.version, record.others) == ("v1", ())
    assert len(served.records) == 2
    assert experiment.open_prediction_id(made.prediction_id, fakes.ID_KEY).arm == INCUMBENT


def test_when_the_incumbent_fails_its_failure_is_counted_and_told(tmp_path: pathlib.Path, v2: fakes.Bundle) -> None:
    served = fakes.serve(tmp_path, fakes.make_bundle(fault="nan"), v2, fakes.trial("shadow"))
    with pytest.raises(ModelError):
        ask(served, SICK)
    assert served.records == [Failed("late", "v1", 7, INCUMBENT, served=True, event_s=int(fakes.NOW_S))]


def test_a_shadow_that_fails_is_counted_and_nobody_notices(tmp_path: pathlib.Path, v1: fakes.Bundle) -> None:
    served = fakes.serve(tmp_path, v1, fakes.make_bundle("v2", fault="nan"), fakes.trial("shadow"))
    record = finish(served, ask(served, SICK))
    assert (record.version, record.others) == ("v1", ())
    assert served.records[0] == Failed("late", "v2", 7, CANDIDATE, served=False, event_s=int(fakes.NOW_S))


def test_a_shadow_that_still_loads_has_not_failed(tmp_path: pathlib.Path, v1: fakes.Bundle, v2: fakes.Bundle) -> None:
    served = fakes.serve(tmp_path, v1, v2, fakes.trial("shadow"), load=False)
    served.engine.model(None).incumbent.load_model()
    record = finish(served, ask(served))
    assert served.records == [record]
    assert record.others == ()


def test_a_row_that_is_wrong_is_nobodys_failure(tmp_path: pathlib.Path, v1: fakes.Bundle, v2: fakes.Bundle) -> None:
    served = fakes.serve(tmp_path, v1, v2, fakes.trial("shadow"))
    with pytest.raises(DataError):
        ask(served, {"x": 999})
    assert served.records == []


def test_while_the_model_loads_the_caller_is_asked_to_wait_and_nothing_is_counted(
    tmp_path: pathlib.Path, v1: fakes.Bundle, v2: fakes.Bundle
) -> None:
    served = fakes.serve(tmp_path, v1, v2, fakes.trial(), load=False)
    for _ in range(10):
        with pytest.raises(NotReadyError):
            ask(served)
    assert served.records == []


def test_columns_that_one_arm_reads_are_known_to_both(tmp_path: pathlib.Path, v1: fakes.Bundle) -> None:
    served = fakes.serve(tmp_path, v1)
    ask(served, ROW | {"note": "kept for later"})
    with pytest.raises(DataError, match="no feature reads this") as caught:
        ask(served, ROW | {"sise": 1})
    assert caught.value.fix == "Did you mean 'size'?"


# ---- outcomes


def outcome_of(served: fakes.Served, prediction: Prediction, label: object = 1) -> OutcomeSeen:
    served.engine.outcome(prediction.prediction_id, label, now_s=fakes.NOW_S + 60)
    last = served.records[-1]
    assert isinstance(last, OutcomeSeen)
    return last


def test_an_outcome_is_recorded_for_the_arm_version_and_epoch_that_answered(
    tmp_path: pathlib.Path, v1: fakes.Bundle, v2: fakes.Bundle
) -> None:
    served = fakes.serve(tmp_path, v1, v2, fakes.trial(request_share_bp=10_000))
    made = ask(served)
    record = outcome_of(served, made, 0)
    assert (record.model, record.version, record.epoch, record.arm) == ("late", "v2", 7, CANDIDATE)
    assert (record.event_s, record.seen_s, record.nonce) == (fakes.NOW_S, fakes.NOW_S + 60, made.nonce)
    assert (record.label, record.score) == (0.0, made.outputs[1])


def test_an_outcome_arrives_for_a_version_that_is_gone_meanwhile(
    tmp_path: pathlib.Path, v1: fakes.Bundle, v2: fakes.Bundle
) -> None:
    before = fakes.serve(tmp_path / "1", v1)
    after = fakes.serve(tmp_path / "2", v2)
    assert outcome_of(after, ask(before)).version == "v1"


def test_an_id_of_another_device_or_of_nobody_is_refused(tmp_path: pathlib.Path, v1: fakes.Bundle) -> None:
    served = fakes.serve(tmp_path, v1)
    made = ask(served)
    said = experiment.open_prediction_id(made.prediction_id, fakes.ID_KEY)
    for text in (said.seal(b"another device"), made.prediction_id[:-1], "", "x" * 50, made.prediction_id + "="):
        with pytest.raises(DataError, match="prediction_id"):
            served.engine.outcome(text, 1, now_s=fakes.NOW_S)
    assert served.records == []


def test_an_id_of_a_model_that_is_gone_is_refused(tmp_path: pathlib.Path, v1: fakes.Bundle) -> None:
    made = ask(fakes.serve(tmp_path / "1", fakes.make_bundle(model="sales")))
    with pytest.raises(DataError, match="no longer knows"):
        fakes.serve(tmp_path / "2", v1).engine.outcome(made.prediction_id, 1, now_s=fakes.NOW_S)


@pytest.mark.parametrize("label", [2, -1, "1", None, 0.5, "yes", [], float("nan"), 10**400])
def test_a_label_that_is_no_class_is_refused_with_the_classes(
    tmp_path: pathlib.Path, v1: fakes.Bundle, label: object
) -> None:
    served = fakes.serve(tmp_path, v1)
    with pytest.raises(DataError, match=r"is not a class\. Classes are \[0, 1\]"):
        served.engine.outcome(ask(served).prediction_id, label, now_s=fakes.NOW_S)


def test_a_class_may_be_a_word(tmp_path: pathlib.Path) -> None:
    served = fakes.serve(tmp_path, fakes.make_bundle(task="multiclass"))
    made = ask(served)
    assert finish(served, made).keep
    assert outcome_of(served, made, "walk").label == 2.0


@pytest.mark.parametrize(("label", "kept"), [(3, 3.0), (-2.5, -2.5), (0, 0.0), (3e38, 3e38)])
def test_the_truth_of_a_regression_is_a_number(tmp_path: pathlib.Path, label: float, kept: float) -> None:
    served = fakes.serve(tmp_path, fakes.make_bundle(task="regression"))
    assert outcome_of(served, ask(served), label).label == kept


@pytest.mark.parametrize("label", ["3", None, True, float("nan"), float("inf"), 1e39, -1e300, 10**400])
def test_what_is_no_number_or_no_sane_one_is_no_truth_of_a_regression(tmp_path: pathlib.Path, label: object) -> None:
    served = fakes.serve(tmp_path, fakes.make_bundle(task="regression"))
    with pytest.raises(DataError, match="is not a number"):
        served.engine.outcome(ask(served).prediction_id, label, now_s=fakes.NOW_S)


def test_the_only_model_needs_no_name_and_an_unknown_one_is_told_what_there_is(
    tmp_path: pathlib.Path, v1: fakes.Bundle
) -> None:
    served = fakes.serve(tmp_path, v1)
    assert served.engine.model(None) is served.engine.model("late")
    with pytest.raises(NotFoundError, match="Known are: late"):
        served.engine.model("later")
    served.engine.close()
    with pytest.raises(NotFoundError, match="none yet"):
        served.engine.model(None)
