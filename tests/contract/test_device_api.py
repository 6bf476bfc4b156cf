"""The device's HTTP interface, without a socket: the Open Inference Protocol v2, and Covey's own routes."""

from __future__ import annotations

import json
import pathlib
import typing

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edge_agent.predict.loaded import NotReadyError
from edge_agent.predict.replies import MAX_ROWS
from edge_agent.records import Answered, OutcomeSeen
from shared.clock import DAY_S
from tests import fakes

Plain = dict[str, typing.Any]
ROW = {"x": 1, "colour": "red", "size": 0}
INFER = "/v2/models/late/infer"


class Client:
    """Asks routes and reads the replies."""

    def __init__(self, served: fakes.Served) -> None:
        self.served = served

    def __call__(self, method: str, path: str, body: object = None) -> tuple[int, Plain]:
        data = body if isinstance(body, bytes) else b"" if body is None else json.dumps(body).encode()
        reply = self.served.api.handle(method, path, data)
        for prediction in reply.after:
            self.served.engine.finish(prediction)
        return reply.status, json.loads(reply.body)

    def get(self, path: str) -> tuple[int, Plain]:
        return self("GET", path)

    def ok(self, path: str, body: object) -> Plain:
        status, reply = self("POST", path, body)
        assert status == 200, reply
        return reply

    def refused(self, path: str, body: object, status: int = 400) -> Plain:
        seen, reply = self("POST", path, body)
        assert seen == status, reply
        assert reply["status"] == status
        assert reply["error"] == reply["detail"]
        assert "Traceback" not in reply["error"]
        return reply


def make(folder: pathlib.Path, **changes: typing.Any) -> Client:
    candidate = fakes.make_bundle("v2", slope=2.0)
    return Client(fakes.serve(folder, fakes.make_bundle(), candidate, fakes.trial(**changes)))


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Client:
    return make(tmp_path_factory.mktemp("served"), request_share_bp=0)


def columns(**inputs: tuple[str, list[typing.Any]]) -> list[Plain]:
    return [
        {"name": name, "shape": [len(data)], "datatype": kind, "data": data} for name, (kind, data) in inputs.items()
    ]


GOOD = columns(x=("FP64", [1, -2.5]), colour=("BYTES", ["red", None]), size=("INT32", [0, 1]))


# ---- Open Inference Protocol: server and model


def test_the_server_says_who_and_how_it_is(client: Client) -> None:
    status, reply = client.get("/v2")
    assert (status, reply["name"], reply["extensions"]) == (
        200,
        "covey-edge",
        ["binary_tensor_data", "classification", "parameters", "statistics", "model_repository"],
    )
    assert client.get("/v2/health/live") == (200, {"live": True, "ready": True})
    assert client.get("/v2/health/ready") == (200, {"live": True, "ready": True})
    assert client.get("/v2/models/late/ready") == (200, {"name": "late", "ready": True})
    assert client.get("/v2/models/late/versions/v2/ready")[0] == 200


def test_a_server_whose_model_loads_is_live_but_not_ready(tmp_path: pathlib.Path) -> None:
    loading = Client(fakes.serve(tmp_path, fakes.make_bundle(), load=False))
    assert loading.get("/v2/health/live") == (200, {"live": True, "ready": False})
    assert loading.get("/v2/health/ready") == (503, {"live": True, "ready": False})
    assert loading.get("/v2/models/late/ready") == (503, {"name": "late", "ready": False})
    with pytest.raises(NotReadyError):
        loading("POST", "/v1/predict", {"features": ROW})


def test_a_server_without_any_model_is_live_but_not_ready(tmp_path: pathlib.Path) -> None:
    empty = Client(fakes.serve(tmp_path, fakes.make_bundle()))
    empty.served.engine.close()
    assert empty.get("/v2/health/ready")[0] == 503
    assert "none yet; is the device in sync?" in empty.refused("/v1/predict", {"features": ROW}, 404)["error"]


def test_metadata_names_inputs_as_requests_send_them_and_outputs_as_replies_give_them(client: Client) -> None:
    _, said = client.get("/v2/models/late")
    assert (said["name"], said["versions"], said["platform"]) == ("late", ["v1", "v2"], "onnxruntime_onnx")
    assert said["inputs"] == [
        {"name": "x", "datatype": "FP64", "shape": [-1]},
        {"name": "colour", "datatype": "BYTES", "shape": [-1]},
        {"name": "size", "datatype": "FP64", "shape": [-1]},
    ]
    got = client.ok(INFER, {"inputs": GOOD})["outputs"]
    assert [(one["name"], one["datatype"]) for one in said["outputs"]] == [
        (one["name"], one["datatype"]) for one in got
    ]
    assert all(len(one["shape"]) == len(other["shape"]) for one, other in zip(said["outputs"], got, strict=True))


# ---- Open Inference Protocol: infer


def test_rows_sent_as_columns_are_answered_in_order(client: Client) -> None:
    reply = client.ok(INFER, {"id": "r-1", "inputs": GOOD})
    assert (reply["model_name"], reply["model_version"], reply["id"]) == ("late", "v1", "r-1")
    outputs = {one["name"]: one for one in reply["outputs"]}
    rows = [{"x": 1, "colour": "red", "size": 0}, {"x": -2.5, "colour": None, "size": 1}]
    wanted = [p for row in rows for p in fakes.expected(row, task="binary", slope=1.0, n_outputs=2)]
    assert outputs["probabilities"]["shape"] == [2, 2]
    assert outputs["probabilities"]["data"] == pytest.approx(wanted, abs=1e-6)
    assert outputs["label"] == {"name": "label", "datatype": "INT64", "shape": [2], "data": [1, 0]}
    assert outputs["source"]["data"] == ["onnx", "onnx"]
    assert outputs["arm"]["data"] == ["incumbent", "incumbent"]
    assert len(set(outputs["prediction_id"]["data"])) == 2


def test_a_reply_without_an_id_asked_for_has_none(client: Client) -> None:
    assert "id" not in client.ok(INFER, {"inputs": GOOD})


def test_a_version_in_the_path_is_checked_and_chooses_no_arm(client: Client) -> None:
    assert client.ok("/v2/models/late/versions/v2/infer", {"inputs": GOOD})["model_version"] == "v1"
    assert "Here are v1, v2" in client.refused("/v2/models/late/versions/v3/infer", {"inputs": GOOD}, 404)["error"]


def test_outputs_come_as_they_are_asked_for(client: Client) -> None:
    wanted = [{"name": "arm"}, {"name": "label", "parameters": {"shared_memory_region": "x"}}]
    reply = client.ok(INFER, {"inputs": GOOD, "outputs": wanted})
    assert [one["name"] for one in reply["outputs"]] == ["arm", "label"]
    said = client.refused(INFER, {"inputs": GOOD, "outputs": [{"name": "lable"}]})
    assert (said["field"], "Known are label, probabilities" in said["error"]) == ("outputs", True)


@pytest.mark.parametrize(("n", "n_given"), [(1, 1), (2, 2), (9, 2)])
def test_the_likeliest_classes_come_best_first(client: Client, n: int, n_given: int) -> None:
    wanted = [{"name": "probabilities", "parameters": {"classification": n}}, {"name": "label"}]
    best, label = client.ok(INFER, {"inputs": GOOD, "outputs": wanted})["outputs"]
    assert (best["datatype"], best["shape"]) == ("BYTES", [2, n_given])
    (plain,) = client.ok(INFER, {"inputs": GOOD, "outputs": [{"name": "probabilities"}]})["outputs"]
    rows = plain["data"][:2], plain["data"][2:]
    orders = [sorted(range(2), key=row.__getitem__, reverse=True) for row in rows]
    pairs = zip(rows, orders, strict=True)
    assert best["data"] == [f"{row[i]:f}:{i}:{i}" for row, order in pairs for i in order[:n]]
    assert label["data"] == [order[0] for order in orders]


@pytest.mark.parametrize(
    ("name", "n", "field"), [("label", 1, "outputs"), ("probabilities", 0, "outputs[0].parameters.classification")]
)
def test_classes_of_what_has_none_are_refused(client: Client, name: str, n: int, field: str) -> None:
    wanted = [{"name": name, "parameters": {"classification": n}}]
    assert client.refused(INFER, {"inputs": GOOD, "outputs": wanted})["field"] == field


@pytest.mark.parametrize(
    ("shape", "data"), [([2], [1, 2]), ([2, 1], [1, 2]), ([2, 1], [[1], [2]])], ids=["flat", "column", "nested"]
)
def test_a_column_may_come_flat_or_in_its_natural_shape(
    client: Client, shape: list[int], data: list[typing.Any]
) -> None:
    inputs = [*GOOD[1:], {"name": "x", "datatype": "FP64", "shape": shape, "data": data}]
    assert client.ok(INFER, {"inputs": inputs})["outputs"][0]["shape"] == [2]


@pytest.mark.parametrize(
    "datatype", ["INT8", "INT16", "INT32", "INT64", "UINT8", "UINT16", "UINT32", "UINT64", "FP32", "FP64"]
)
def test_numbers_of_every_datatype_are_read(client: Client, datatype: str) -> None:
    assert client.ok(INFER, {"inputs": columns(x=(datatype, [1]))})["outputs"][0]["shape"] == [1]


def tensor(**changes: typing.Any) -> Plain:
    return {"name": "x", "shape": [1], "datatype": "FP64", "data": [1]} | changes


@pytest.mark.parametrize(
    ("inputs", "field", "says"),
    [
        ([], "inputs", "there is no input"),
        ([tensor(shape=[2])], "inputs[0].shape", "do not fit"),
        ([tensor(shape=[])], "inputs[0].shape", "do not fit"),
        ([tensor(shape=[0], data=[])], "inputs[0].shape", "0 rows"),
        ([tensor(shape=[-1, -1])], "inputs[0].shape", "do not fit"),
        ([tensor(shape=[1, 2], data=[1, 2])], "inputs[0].shape", "do not fit"),
        ([tensor(shape=[2, 1], data=[[1], [2, 3]])], "inputs[0].data", "[2, 3] is not a list of 1"),
        ([tensor(shape=[2, 1], data=[[1], []])], "inputs[0].data", "is not a list of 1"),
        ([tensor(shape=[1, 1, 1], data=[1])], "inputs[0].shape", "do not fit"),
        ([tensor(datatype="INT8", data=[128])], "inputs[0].data", "128 is not INT8"),
        ([tensor(datatype="UINT64", data=[-1])], "inputs[0].data", "-1 is not UINT64"),
        ([tensor(shape=[1], data=[[1]])], "inputs[0].data", "is not FP64"),
        ([tensor(shape=[1 << 62, 1 << 62])], "inputs[0].shape", "do not fit"),
        ([tensor(shape=[MAX_ROWS + 1], data=[1] * (MAX_ROWS + 1))], "inputs[0].shape", "between 1 and 10,000"),
        ([tensor(), tensor(name="size", shape=[2], data=[1, 2])], "inputs[1].shape", "other inputs have 1"),
        ([tensor(), tensor()], "inputs[1].name", "twice"),
        ([tensor(datatype="FP16")], "inputs[0].datatype", "Send it as binary data."),
        ([tensor(datatype="BF16")], "inputs[0].datatype", "Use one of BOOL, BYTES"),
        ([tensor(datatype="fp64")], "inputs[0].datatype", "is not read here"),
        ([tensor(datatype="INT32", data=[1.5])], "inputs[0].data", "is not INT32"),
        ([tensor(datatype="INT32", data=[True])], "inputs[0].data", "is not INT32"),
        ([tensor(datatype="BOOL", data=[1])], "inputs[0].data", "is not BOOL"),
        ([tensor(datatype="BYTES", data=[1])], "inputs[0].data", "is not BYTES"),
        ([tensor(data=["1"])], "inputs[0].data", "is not FP64"),
        ([tensor(data=[{}])], "inputs[0].data", "is not FP64"),
        ([tensor(data=None)], "inputs[0].data", "expected `array`"),
        ([{"name": "x"}], "inputs[0]", "missing required field"),
        ([tensor(colour="red")], "inputs[0]", "unknown field `colour`"),
        ([tensor(name="y")], "y", "Known are colour, note, size, x"),
        ([tensor(data=[99])], "x", "outside -10..10"),
        ([tensor(shape=[2], data=[1, 99])], "rows[1].x", "outside -10..10"),
        ("x", "inputs", "expected `array`"),
    ],
)
def test_inputs_that_make_no_sense_are_refused_by_their_path(
    client: Client, inputs: object, field: str, says: str
) -> None:
    said = client.refused(INFER, {"inputs": inputs})
    assert said["field"] == field
    assert says in said["error"]


def test_parameters_that_nobody_knows_are_passed_over_and_known_ones_checked(client: Client) -> None:
    client.ok(INFER, {"inputs": GOOD, "parameters": {"priority": 7, "unit": "a"}})
    assert client.refused(INFER, {"inputs": GOOD, "parameters": {"unit": 7}})["field"] == "parameters.unit"
    assert client.refused(INFER, {"inputs": GOOD, "parameters": {"event_time": "noon"}})["field"] == "event_time"


def arm_of(client: Client, **more: object) -> str:
    (arm,) = set(client.ok(INFER, {"inputs": GOOD} | more)["outputs"][-1]["data"])
    return str(arm)


def test_all_rows_of_a_request_go_to_one_arm_and_requests_share_arms_as_asked(tmp_path: pathlib.Path) -> None:
    client = make(tmp_path)
    arms = [arm_of(client) for _ in range(200)]
    assert 60 < arms.count("candidate") < 140
    for more in ({"id": "r-7"}, {"parameters": {"unit": "u-7"}}):
        assert len({arm_of(client, **more) for _ in range(8)}) == 1


@pytest.mark.parametrize(("task", "name"), [("multiclass", "label"), ("regression", "value")])
def test_other_tasks_have_other_outputs(tmp_path: pathlib.Path, task: str, name: str) -> None:
    client = Client(fakes.serve(tmp_path, fakes.make_bundle(task=task)))
    (first, *_) = client.ok(INFER, {"inputs": GOOD})["outputs"]
    _, said = client.get("/v2/models/late")
    assert first["name"] == said["outputs"][0]["name"] == name
    assert first["datatype"] == said["outputs"][0]["datatype"] == {"label": "BYTES", "value": "FP32"}[name]
    assert first["data"][0] in ("bus", "tram", "walk") if task == "multiclass" else first["shape"] == [2, 1]


# ---- Covey's own routes


def test_one_row_is_answered_with_who_answered_and_how(client: Client) -> None:
    reply = client.ok("/v1/predict", {"features": ROW})
    assert (reply["model"], reply["label"]) == ("late", 1)
    assert sum(reply["probabilities"]) == pytest.approx(1)
    how = reply["parameters"]
    assert (how["arm"], how["version"], how["source"], len(how["prediction_id"])) == ("incumbent", "v1", "onnx", 50)


def test_many_rows_are_answered_in_order_each_with_its_own_id(client: Client) -> None:
    rows = [ROW | {"x": x} for x in (-9, 0, 9)]
    answers = client.ok("/v1/predict", {"model": "late", "rows": rows})["predictions"]
    scores = [answer["probabilities"][1] for answer in answers]
    assert scores == sorted(scores)
    assert len({answer["parameters"]["prediction_id"] for answer in answers}) == 3


def test_no_rows_are_answered_with_nothing(client: Client) -> None:
    assert client.ok("/v1/predict", {"rows": []}) == {"predictions": []}


def test_rows_without_a_unit_are_spread_over_the_arms(tmp_path: pathlib.Path) -> None:
    answers = make(tmp_path).ok("/v1/predict", {"rows": [ROW] * 200})["predictions"]
    arms = [answer["parameters"]["arm"] for answer in answers]
    assert 60 < arms.count("candidate") < 140


@pytest.mark.parametrize(
    ("body", "field", "says"),
    [
        (b"", "body", "expected `object`, got `null`"),
        (b"{", "body", "not JSON"),
        (b"\xff\xfe", "body", "not JSON"),
        (b"[" * 100_000, "body", "got `array`"),
        (b'{"features": {"x": "\\ud800"}}', "body", "not JSON"),
        (b'{"features": {"x": NaN}}', "body", "not JSON"),
        (b'{"features": {"x": 1e999}}', "x", "out of range"),
        (b'{"rows": [{"x": 1}, {"x": -1e999}]}', "rows[1].x", "out of range"),
        (b'{"features": {"x": %b}}' % (b"9" * 5000), "features[...]", "out of range"),
        (b'{"features": {"x": [1], "y": "%b"}}' % (b" " * 500_000), "features[...]", "got `array`"),
        ({"rows": [ROW, ROW | {"colour": {}}]}, "rows[1].colour", "got `object`"),
        ([], "body", "expected `object`, got `array`"),
        ({}, "features", "send either features (one row) or rows (many)"),
        ({"features": ROW, "rows": [ROW]}, "features", "send either"),
        ({"features": [1]}, "features", "expected `object | null`, got `array`"),
        ({"features": ROW | {"x": [1]}}, "x", "got `array`"),
        ({"rows": [ROW, 7]}, "rows[1]", "expected `object`, got `int`"),
        ({"rows": [ROW] * (MAX_ROWS + 1)}, "rows", "length <= 10000"),
        ({"features": ROW, "unit": 5}, "unit", "expected `str | null`"),
        ({"features": ROW, "feature": 5}, "body", "unknown field `feature`"),
        ({"features": ROW | {"colr": "red"}}, "colr", "Did you mean 'colour'?"),
        ({"features": ROW | {"x": "7"}}, "x", "'7' is not a number"),
        ({"features": ROW | {"x": 10**300}}, "x", "outside"),
        ({"features": {"colour": "red"}}, "x", "missing"),
        ({"rows": [ROW, {}]}, "rows[1].x", "missing"),
        ({"features": ROW, "event_time": "noon"}, "event_time", "is not a time"),
        ({"features": ROW, "event_time": -5}, "event_time", "between 1970 and 2100"),
        ({"features": ROW, "event_time": 10**400}, "event_time", "between 1970 and 2100"),
        ({"features": ROW, "event_time": True}, "event_time", "got `bool`"),
    ],
)
def test_a_request_that_makes_no_sense_is_refused_by_its_path(
    client: Client, body: object, field: str, says: str
) -> None:
    said = client.refused("/v1/predict", body)
    assert said["field"] == field
    assert says in said["error"]


def test_a_broken_model_is_told_as_such_and_may_be_asked_again(tmp_path: pathlib.Path) -> None:
    broken = fakes.serve(tmp_path, fakes.make_bundle(fault="nan"))
    reply = broken.api.handle("POST", "/v1/predict", json.dumps({"features": ROW | {"x": 6}}).encode())
    assert (reply.status, dict(reply.headers)) == (503, {"Retry-After": "1"})
    assert "nan" in json.loads(reply.body)["error"]


def test_a_row_that_nothing_here_can_answer_is_told_as_such_and_asking_again_is_not_advised(
    tmp_path: pathlib.Path,
) -> None:
    alone = fakes.make_bundle(answer_order="precomputed_only", table={0: (0.5, 0.5)}, with_model=False)
    reply = fakes.serve(tmp_path, alone).api.handle("POST", "/v1/predict", json.dumps({"features": ROW}).encode())
    assert (reply.status, reply.headers) == (503, ())
    assert json.loads(reply.body)["type"] == "urn:covey:error:no-answer"


@pytest.mark.parametrize(
    ("method", "path", "status", "field"),
    [
        ("GET", "/nowhere", 404, "path"), ("GET", "/v2/models/later", 404, "model"),
        ("GET", "/v2/models/late/versions/v9", 404, "version"), ("GET", "/v2/models/late/config", 404, "path"),
        ("GET", "/v1/predict", 400, "method"), ("POST", "/v2", 400, "method"), ("PUT", INFER, 400, "method"),
        ("GET", INFER, 400, "method"), ("POST", "/v2/models/late", 400, "method"),
        ("DELETE", "/v2/models/late", 400, "method"), ("GET", "//v2", 404, "path"),
        ("GET", "/v2/models/%00", 404, "model"), ("GET", "/v2/models/" + "x" * 5000, 404, "model"),
        ("GET", "/v2/models/%F0%28", 404, "model"), ("GET", "", 404, "path"),
    ],
)  # fmt: skip
def test_what_is_not_there_and_what_does_not_fit_is_said(
    client: Client, method: str, path: str, status: int, field: str
) -> None:
    seen, said = client(method, path)
    assert (seen, said["field"], said["status"]) == (status, field, status)
    assert said["type"].startswith("urn:covey:error:")
    assert len(said["error"]) < 400


def test_a_query_is_passed_over_and_a_name_may_be_escaped(client: Client) -> None:
    assert client.get("/v2?x=1")[0] == 200
    assert client.get("/v2/models/l%61te")[1]["name"] == "late"


def test_the_front_page_and_status_show_what_the_agent_says(client: Client) -> None:
    assert client.get("/v1/status") == client.get("/") == (200, {"device": fakes.DEVICE})


# ---- event time


def last(client: Client) -> Answered:
    record = client.served.records[-1]
    assert isinstance(record, Answered)
    return record


@pytest.mark.parametrize(
    ("said", "kept"),
    [
        (None, fakes.NOW_S), (fakes.NOW_S - 60, fakes.NOW_S - 60), (0, fakes.NOW_S - DAY_S),
        ("2013-06-01T00:00:00Z", fakes.NOW_S - DAY_S), (fakes.NOW_S + 1e6, fakes.NOW_S + 300),
        ("2023-11-14T22:13:20+00:00", fakes.NOW_S),
    ],
)  # fmt: skip
def test_outside_a_replay_event_time_is_kept_within_the_label_window(client: Client, said: object, kept: float) -> None:
    client.ok("/v1/predict", {"features": ROW, "event_time": said})
    assert last(client).event_s == int(kept)


def test_the_clock_can_be_set_in_a_replay_only(client: Client) -> None:
    said = client.refused("/v1/clock", {"event_time": "2013-06-01"}, 409)
    assert "during a replay only" in said["error"]


def test_in_a_replay_requests_say_the_time_and_the_clock_never_goes_back(tmp_path: pathlib.Path) -> None:
    client = Client(fakes.serve(tmp_path, fakes.make_bundle(), replay=True))
    client.ok("/v1/predict", {"features": ROW, "event_time": "2013-06-01T12:00:00Z"})
    assert last(client).event_s == 1_370_088_000
    assert client.ok("/v1/clock", {"event_time": "2013-06-02"}) == {"event_time_s": 1_370_131_200.0}
    assert client.ok("/v1/clock", {"event_time": "2013-06-01"}) == {"event_time_s": 1_370_131_200.0}
    client.ok("/v1/predict", {"features": ROW})
    assert last(client).event_s == 1_370_131_200
    for odd in (None, "noon", -1, 1e300):
        client.refused("/v1/clock", {"event_time": odd})
    assert client.refused("/v1/clock", {})["field"] == "body"


# ---- outcomes


def test_outcomes_are_taken_one_by_one_and_the_bad_ones_are_named(client: Client) -> None:
    good = client.ok("/v1/predict", {"features": ROW})["parameters"]["prediction_id"]
    items = [
        {"prediction_id": good, "label": 1},
        {"prediction_id": "odd", "label": 1},
        {"prediction_id": good, "label": 7},
    ]
    reply = client.ok("/v1/outcomes", {"outcomes": items})
    assert (reply["accepted"], [one["index"] for one in reply["rejected"]]) == (1, [1, 2])
    assert "is not a prediction id" in reply["rejected"][0]["error"]
    assert "is not a class" in reply["rejected"][1]["error"]
    assert isinstance(client.served.records[-1], OutcomeSeen)


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({}, "body"), ({"outcomes": {}}, "outcomes"), ({"outcomes": [{}]}, "outcomes[0]"),
        ({"outcomes": [{"prediction_id": 7, "label": 1}]}, "outcomes[0].prediction_id"),
        ({"outcomes": [{"prediction_id": "x", "label": []}]}, "outcomes[0].label"),
        ({"outcomes": [{"prediction_id": "x", "label": 1, "weight": 2}]}, "outcomes[0]"),
        ({"outcomes": [{"prediction_id": "x", "label": 1}] * (MAX_ROWS + 1)}, "outcomes"),
    ],
)  # fmt: skip
def test_outcomes_that_make_no_sense_are_refused_by_their_path(client: Client, body: object, field: str) -> None:
    assert client.refused("/v1/outcomes", body)["field"] == field


# ---- anything at all

anything: st.SearchStrategy[typing.Any] = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(allow_nan=False), st.text(max_size=8)),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)
shapes = st.fixed_dictionaries(
    {},
    optional={
        name: st.one_of(anything, st.just(good))
        for name, good in {
            "features": ROW, "rows": [ROW], "inputs": GOOD, "outputs": [], "outcomes": [], "unit": "u", "model": "late",
            "event_time": 5, "parameters": {}, "id": "i",
        }.items()
    },
)  # fmt: skip


@settings(deadline=None, max_examples=250)
@given(
    st.sampled_from(["GET", "POST", "HEAD", "PUT", ""]),
    st.sampled_from(["/v1/predict", INFER, "/v1/outcomes", "/v1/clock", "/v2/models/late", "/"]) | st.text(max_size=20),
    st.one_of(shapes, anything).map(lambda value: json.dumps(value).encode()) | st.binary(max_size=60),
)
def test_whatever_is_sent_the_reply_is_json_with_a_fitting_status(
    client: Client, method: str, path: str, body: bytes
) -> None:
    status, reply = client(method, path, body)
    assert status in (200, 400, 404, 409)
    if status != 200:
        assert set(reply) == {"type", "title", "status", "detail", "error", "field"}
        assert "internal" not in reply["error"]
