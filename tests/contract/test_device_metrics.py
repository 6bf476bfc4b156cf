"""``GET /metrics``: what Prometheus' own parser reads from it is what was answered."""

from __future__ import annotations

import doctest
import json
import pathlib
import typing

import pytest
from prometheus_client.parser import text_string_to_metric_families

from edge_agent.predict import metrics
from edge_agent.predict.meters import BOUNDS_US, Meters
from edge_agent.predict.metrics import Family
from edge_agent.predict.parity import EVERY
from edge_agent.predict.replies import PLAIN
from edge_agent.records import Answered, Failed, OutcomeSeen
from tests import fakes

Samples = dict[str, dict[tuple[tuple[str, str], ...], float]]
ROW = {"x": 1, "colour": "red", "size": 0}


def read(text: str) -> Samples:
    """Read samples: name to labels to value; the type of each family is checked on the way."""
    found: Samples = {}
    for family in text_string_to_metric_families(text):
        assert family.type in ("counter", "gauge", "histogram"), family
        assert family.documentation
        for sample in family.samples:
            labels = tuple(sorted(sample.labels.items()))
            assert labels not in found.setdefault(sample.name, {}), f"{sample.name} is there twice"
            found[sample.name][labels] = sample.value
    return found


def scrape(served: fakes.Served) -> Samples:
    reply = served.api.handle("GET", "/metrics", b"")
    assert (reply.status, reply.kind) == (200, PLAIN)
    return read(reply.body.decode())


def ask(served: fakes.Served, path: str, body: object) -> dict[str, typing.Any]:
    reply = served.api.handle("POST", path, json.dumps(body).encode())
    for prediction in reply.after:
        served.engine.finish(prediction)
    said: dict[str, typing.Any] = json.loads(reply.body)
    return said


def of(**labels: str) -> tuple[tuple[str, str], ...]:
    return tuple(sorted(labels.items()))


V1 = {"model": "late", "version": "v1"}


def test_answers_are_counted_by_where_they_came_from_and_timed(tmp_path: pathlib.Path) -> None:
    served = fakes.serve(tmp_path, fakes.make_bundle(table={0: (0.25, 0.75)}))
    assert "covey_predictions_total" not in scrape(served)
    said = ask(served, "/v1/predict", {"rows": [dict(fakes.ROWS[0]), ROW, ROW]})
    ids = [one["parameters"]["prediction_id"] for one in said["predictions"]]
    ask(served, "/v1/outcomes", {"outcomes": [{"prediction_id": ids[0], "label": 1}]})
    ask(served, "/v1/predict", {"features": {"x": 99}})
    ask(served, "/v1/predict", {"features": {"x": 99}})
    ask(served, "/nowhere", {})
    seen = scrape(served)
    assert seen["covey_predictions_total"] == {
        of(**V1, arm="incumbent", source="precomputed"): 1,
        of(**V1, arm="incumbent", source="onnx"): 2,
    }
    assert seen["covey_prediction_seconds_count"] == {of(**V1): 3}
    assert 0 < seen["covey_prediction_seconds_sum"][of(**V1)] < 60
    buckets = [seen["covey_prediction_seconds_bucket"][of(**V1, le=repr(bound / 1e6))] for bound in BOUNDS_US]
    assert buckets == sorted(buckets)
    assert seen["covey_prediction_seconds_bucket"][of(**V1, le="+Inf")] == 3
    assert seen["covey_outcomes_total"] == {of(**V1): 1}
    assert seen["covey_errors_total"] == {of(code="data"): 2, of(code="not-found"): 1}


def test_failures_say_which_arm_and_whether_somebody_waited_for_it(tmp_path: pathlib.Path) -> None:
    broken = fakes.make_bundle("v2", fault="nan")
    served = fakes.serve(tmp_path, fakes.make_bundle(), broken, fakes.trial(request_share_bp=10_000))
    ask(served, "/v1/predict", {"features": ROW | {"x": 6}})
    failures = scrape(served)["covey_failures_total"]
    assert failures == {of(model="late", version="v2", arm="candidate", served="true"): 1}


def test_models_are_shown_with_how_they_are(tmp_path: pathlib.Path) -> None:
    served = fakes.serve(
        tmp_path, fakes.make_bundle(), fakes.make_bundle("v2", fault="slow"), fakes.trial(), load=False
    )
    v2 = of(model="late", version="v2", arm="candidate")
    assert scrape(served)["covey_model_loaded"] == {of(**V1, arm="incumbent"): 0, v2: 0}
    active = served.engine.model(None)
    active.incumbent.load_model()
    active.candidates[1].load_model()
    seen = scrape(served)
    assert seen["covey_model_loaded"] == {of(**V1, arm="incumbent"): 1, v2: 1}
    assert seen["covey_model_slow"] == {of(**V1, arm="incumbent"): 0, v2: 1}
    assert seen["covey_ready"] == {(): 1}


def test_a_model_that_can_not_load_is_not_loaded(tmp_path: pathlib.Path) -> None:
    seen = scrape(fakes.serve(tmp_path, fakes.make_bundle(fault="garbage")))
    assert (seen["covey_model_loaded"][of(**V1, arm="incumbent")], seen["covey_ready"][()]) == (0, 0)


@pytest.mark.parametrize(("stored", "differing"), [((0.5, 0.5), 2), (None, 0)])
def test_precomputed_answers_that_the_model_was_asked_too_are_counted(
    tmp_path: pathlib.Path, stored: tuple[float, ...] | None, differing: int
) -> None:
    true = fakes.expected(fakes.ROWS[0], task="binary", slope=1.0, n_outputs=2)
    served = fakes.serve(tmp_path, fakes.make_bundle(table={0: stored or true}))
    assert "covey_table_checks_total" not in scrape(served)
    for _ in range(2 * EVERY):
        served.engine.finish(
            served.engine.predict(served.engine.model(None), fakes.ROWS[0], unit=None, event_s=fakes.NOW_S)
        )
    seen, version = scrape(served), of(model="late", version="v1")
    assert (seen["covey_table_checks_total"][version], seen["covey_table_differing_total"][version]) == (2, differing)


def test_the_process_tells_its_memory_and_its_time(tmp_path: pathlib.Path) -> None:
    seen = scrape(fakes.serve(tmp_path, fakes.make_bundle()))
    assert seen["process_resident_memory_bytes"][()] > 10 << 20
    assert seen["process_cpu_seconds_total"][()] > 0
    assert seen["process_open_fds"][()] > 2
    assert seen["process_start_time_seconds"][()] > 1.7e9


def test_a_running_agent_tells_its_generation_its_update_and_its_spool(tmp_path: pathlib.Path) -> None:
    layout = fakes.join(tmp_path / "store")
    digest = fakes.install(layout, fakes.make_bundle())
    with fakes.running_agent(layout) as agent:
        fakes.wait_for(lambda: agent.engine.models and agent.engine.models["late"].incumbent.is_loaded.is_set())
        assert fakes.post(agent.address, "/v1/predict", {"features": ROW})[0] == 200
        fakes.wait_for(lambda: agent.recorder.totals().get("requests"))
        fakes.wait_for(lambda: not agent.switch._switching.locked())
        seen = read(fakes.get_text(agent.address, "/metrics"))
    assert seen["covey_generation_info"] == {of(generation=digest, state="good"): 1}
    assert seen["covey_update_info"]
    assert seen["covey_spool_bytes"][()] > 0
    assert seen["covey_http_connections"][()] >= 1
    assert seen["covey_device_records_total"][of(what="requests")] == 1
    assert seen["covey_http_replies_total"][of(status="200")] >= 1
    assert seen["covey_build_info"]


def test_labels_are_escaped_and_numbers_read_back() -> None:
    odd = 'a\\b"c\nd\u00e4{}='
    values = [0.0, -1.5, 1e-9, 2**53, 1e300, float("inf")]
    families = [Family("covey_odd", "gauge", f"Says {odd}.", [("", {"of": odd, "n": str(v)}, v) for v in values])]
    assert read(metrics.render(families))["covey_odd"] == {of(of=odd, n=str(value)): value for value in values}
    assert metrics.render([Family("covey_none", "gauge", "Nothing.", [])]) == ""


def answered(version: str, latency_us: int) -> Answered:
    return Answered("m", version, 0, 0, 1, 0, latency_us, slow=False, nonce=b"", outputs=(1.0,))


def test_versions_that_come_and_go_do_not_pile_up() -> None:
    meters = Meters()
    for i in range(1000):
        meters.take(answered(f"v{i}", 5))
        meters.take(Failed("m", f"v{i}", 0, 0, served=True, event_s=0))
        meters.take(OutcomeSeen("m", f"v{i}", 0, 0, 0, b"", 0.5, 1.0, 0))
    assert len(meters.answered) == len(meters.failed) == len(meters.outcomes) == 256
    assert ("m", "v999", 0, 1) in meters.answered


@pytest.mark.parametrize("latency_us", [0, 1, *BOUNDS_US, *(bound + 1 for bound in BOUNDS_US), 10**9])
def test_an_answer_is_in_the_bucket_of_its_latency(latency_us: int) -> None:
    meters = Meters()
    meters.take(answered("v1", latency_us))
    (series,) = meters.answered.values()
    i = series.buckets.index(1)
    bounds = [-1, *BOUNDS_US, float("inf")]
    assert bounds[i] < latency_us <= bounds[i + 1]
    assert (series.n, series.sum_us) == (1, latency_us)


def test_the_example_in_the_code_is_right() -> None:
    assert doctest.testmod(metrics).failed == 0
    assert doctest.testmod(metrics).attempted == 1
