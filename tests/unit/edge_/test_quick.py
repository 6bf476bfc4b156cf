"""The short way answers word for word what the long way answers, and takes only what it knows to be plain."""

from __future__ import annotations

import json
import pathlib
import socket
import typing

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edge_agent.predict import replies
from edge_agent.predict.active import Prediction
from edge_agent.predict.quick import PATH, Quick
from edge_agent.predict.routes import Head
from edge_agent.predict.wording import Wording
from edge_agent.records import CANDIDATE, Answered, Failed
from shared.errors import CoveyError
from shared.telemetry import SOURCES
from tests import fakes

ROW = {"x": 1, "colour": "red", "size": 0}
HEAD = "POST /v1/predict HTTP/1.1\r\nHost: here\r\nContent-Type: application/json\r\n"


def request(body: bytes, head: str = HEAD) -> bytes:
    return f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body


def plain(**asked: typing.Any) -> bytes:
    return request(json.dumps(asked).encode())


def quick_of(served: fakes.Served, *known: bytes) -> Quick:
    quick = Quick(served.engine, served.clock.now)
    for data in known:
        quick.learn(data, PATH, data.partition(b"\r\n\r\n")[2], Head())
    return quick


def answer(quick: Quick, data: bytes) -> typing.Any:
    """Answer a whole request by the short way; None if it is not known or not plain."""
    found = quick.find(data)
    if found is None:
        return None
    assert found == (PATH, data.partition(b"\r\n\r\n")[2], Head())
    return quick.answer(found[1])


def body_of(said: typing.Any) -> dict[str, typing.Any]:
    assert isinstance(said, tuple)
    head, _, body = said[0].partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 200 OK\r\n")
    assert f"Content-Length: {len(body)}".encode() in head
    return typing.cast("dict[str, typing.Any]", json.loads(body))


# ---- what it says


@pytest.mark.parametrize("task", ["binary", "multiclass", "regression"])
@pytest.mark.parametrize("arm", [0, 1])
def test_a_reply_says_what_is_described(tmp_path: pathlib.Path, task: str, arm: int) -> None:
    v1, v2 = fakes.make_bundle("v1", task=task), fakes.make_bundle("v2", task=task, slope=2.0)
    active = fakes.serve(tmp_path, v1, v2, fakes.trial(), load=False).engine.model(None)
    manifest = active.bundle(arm).manifest
    say = Wording(manifest, arm)

    @settings(deadline=None)
    @given(
        numbers=st.lists(st.floats(allow_nan=False, allow_infinity=False), min_size=3, max_size=3),
        source=st.integers(0, len(SOURCES) - 1),
    )
    def check(numbers: list[float], source: int) -> None:
        outputs = tuple(numbers[: manifest.n_outputs])
        made = Prediction(active, {}, (), arm, outputs, source, "an-id", b"", 0, 0.0, asked=arm)
        assert json.loads(say(outputs, source, "an-id")) == json.loads(replies.ok(replies.describe(made)).body)

    check()


def test_a_known_head_with_one_row_is_answered(tmp_path: pathlib.Path) -> None:
    served = fakes.serve(tmp_path, fakes.make_bundle())
    data = plain(features=ROW, unit="till")
    assert answer(quick_of(served), data) is None
    said = answer(quick_of(served, data), data)
    long = json.loads(served.api.handle("POST", "/v1/predict", data.partition(b"\r\n\r\n")[2]).body)
    short = body_of(said)
    assert short["parameters"].pop("prediction_id") != long["parameters"].pop("prediction_id")
    assert short == long


BODIES: dict[str, bytes] = {
    "nothing": b"",
    "broken JSON": b'{"features": {"x": 1',
    "no JSON at all": b"\xff\xfe{}",
    "deep": b"[" * 5000,
    "many rows": b'{"rows": [{"x": 1}]}',
    "neither": b"{}",
    "both": b'{"features": {}, "rows": []}',
    "another model": b'{"model": "later", "features": {"x": 1}}',
    "a field of no meaning": b'{"features": {"x": 1}, "fast": true}',
    "an event time": b'{"features": {"x": 1}, "event_time": 1700000000}',
    "a row that is a list": b'{"features": [1]}',
    "a value that is a list": b'{"features": {"x": [1]}}',
}


@pytest.mark.parametrize("body", BODIES.values(), ids=BODIES)
def test_what_is_not_plain_goes_the_long_way(tmp_path: pathlib.Path, body: bytes) -> None:
    served = fakes.serve(tmp_path, fakes.make_bundle())
    data = request(body)
    assert answer(quick_of(served, data), data) is None
    assert served.records == []


WRONG: dict[str, dict[str, object]] = {
    "a value of another kind": ROW | {"x": "1"},
    "a value out of range": ROW | {"x": 99},
    "a misspelt column": ROW | {"sise": 1},
    "a value that is missing": {"colour": "red"},
}


@pytest.mark.parametrize("row", WRONG.values(), ids=WRONG)
def test_what_is_wrong_with_a_row_is_said_in_the_same_words(tmp_path: pathlib.Path, row: dict[str, object]) -> None:
    served = fakes.serve(tmp_path, fakes.make_bundle())
    data = plain(features=row)
    err = answer(quick_of(served, data), data)
    assert isinstance(err, CoveyError)
    assert served.api.failed(err) == served.api.handle("POST", "/v1/predict", data.partition(b"\r\n\r\n")[2])


def test_a_failure_of_the_model_counts_once(tmp_path: pathlib.Path) -> None:
    served = fakes.serve(tmp_path, fakes.make_bundle(fault="nan"))
    data = plain(features=ROW | {"x": 6})
    assert isinstance(answer(quick_of(served, data), data), CoveyError)
    assert [type(record) for record in served.records] == [Failed]


def test_while_the_model_loads_the_long_way_waits(tmp_path: pathlib.Path) -> None:
    served = fakes.serve(tmp_path, fakes.make_bundle(), load=False)
    data = plain(features=ROW)
    assert answer(quick_of(served, data), data) is None


def test_a_unit_is_in_the_same_arm_on_either_way(tmp_path: pathlib.Path) -> None:
    v1, v2 = fakes.make_bundle("v1"), fakes.make_bundle("v2", slope=2.0)
    served = fakes.serve(tmp_path, v1, v2, fakes.trial())
    for unit in map(str, range(10, 50)):
        data = plain(features=ROW, unit=unit)
        short = body_of(answer(quick_of(served, data), data))
        long = json.loads(served.api.handle("POST", "/v1/predict", data.partition(b"\r\n\r\n")[2]).body)
        assert short["parameters"]["arm"] == long["parameters"]["arm"]


# ---- what counts as one whole request


@pytest.mark.parametrize(
    "change", [lambda d: d[:-1], lambda d: d + b" ", lambda d: d + d, lambda d: d[1:], lambda _: b""]
)
def test_what_is_not_exactly_one_request_goes_the_long_way(
    tmp_path: pathlib.Path, change: typing.Callable[[bytes], bytes]
) -> None:
    served = fakes.serve(tmp_path, fakes.make_bundle())
    data = plain(features=ROW)
    assert answer(quick_of(served, data), change(data)) is None


def test_heads_that_differ_each_time_do_not_pile_up(tmp_path: pathlib.Path) -> None:
    served = fakes.serve(tmp_path, fakes.make_bundle())
    quick = quick_of(served, *(request(b"{}", f"{HEAD}Trace: {i}\r\n") for i in range(1000)))
    quick.learn(request(b"{}", HEAD + "Long: " + "x" * 5000 + "\r\n"), PATH, b"{}", Head())
    assert 0 < len(quick._heads) <= 128


def ask(line: socket.socket, data: bytes) -> tuple[int, dict[str, str], typing.Any]:
    line.sendall(data)
    got = b""
    while b"\r\n\r\n" not in got:
        got += line.recv(1 << 16)
    head, _, body = got.partition(b"\r\n\r\n")
    first, *lines = head.decode().split("\r\n")
    headers = dict(text.lower().split(": ", 1) for text in lines)
    while len(body) < int(headers["content-length"]):
        body += line.recv(1 << 16)
    return int(first.split()[1]), headers, json.loads(body)


UNLIKE = {
    "the last request": HEAD + "Connection: close\r\n",
    "one that waits for leave": HEAD + "Expect: 100-continue\r\n",
    "packed": HEAD + "Content-Encoding: gzip\r\n",
    "another method": HEAD.replace("POST", "PUT"),
    "another path": HEAD.replace("predict", "rank"),
    "an old protocol": HEAD.replace("HTTP/1.1", "HTTP/1.0"),
}


@pytest.mark.parametrize("head", UNLIKE.values(), ids=UNLIKE)
def test_only_plain_heads_are_learned(tmp_path: pathlib.Path, head: str) -> None:
    served = fakes.serve(tmp_path, fakes.make_bundle())
    body = json.dumps({"features": ROW}).encode()
    with fakes.listening(served.api) as address:
        for _ in range(2):
            with socket.create_connection(address, timeout=15) as line:
                line.sendall(request(body, head))
                assert line.recv(1 << 16)
                line.shutdown(socket.SHUT_WR)
                while line.recv(1 << 16):
                    pass
        with socket.create_connection(address, timeout=15) as line:
            assert ask(line, request(body))[0] == 200
    assert {type(record) for record in served.records} <= {Answered}


def test_on_a_line_both_ways_give_one_reply_each_in_order_and_one_record(tmp_path: pathlib.Path) -> None:
    v1, v2 = fakes.make_bundle("v1"), fakes.make_bundle("v2", slope=2.0)
    served = fakes.serve(tmp_path, v1, v2, fakes.trial("shadow"))
    bodies = [json.dumps({"features": ROW | {"x": i / 10}}).encode() for i in range(40)]
    expected = [fakes.expected(ROW | {"x": i / 10}, task="binary", slope=1.0, n_outputs=2) for i in range(40)]
    ids = set()
    with fakes.listening(served.api) as address, socket.create_connection(address, timeout=15) as line:
        for i, (body, outputs) in enumerate(zip(bodies, expected, strict=True)):
            data = request(body, HEAD if i % 3 else f"{HEAD}Number: {i}\r\n")
            if i % 7 == 0:  # in two pieces
                line.sendall(data[:60])
            status, _, said = ask(line, data[60:] if i % 7 == 0 else data)
            assert (status, said["probabilities"]) == (200, pytest.approx(outputs, abs=1e-6))
            ids.add(said["parameters"]["prediction_id"])
        line.sendall(b"".join(map(request, bodies)))
        got = b""
        while got.count(b"prediction_id") < 40:
            got += line.recv(1 << 16)
    assert len(ids) == 40
    fakes.wait_for(lambda: len(served.records) == 80)
    assert all(isinstance(one, Answered) and [o.version for o in one.others] == ["v2"] for one in served.records)
    assert CANDIDATE not in {one.arm for one in served.records if isinstance(one, Answered)}


def test_a_candidate_that_is_waited_for_keeps_its_share_and_leaves_nothing_behind(tmp_path: pathlib.Path) -> None:
    v1, v2 = fakes.make_bundle("v1"), fakes.make_bundle("v2", slope=2.0)
    served = fakes.serve(tmp_path, v1, v2, fakes.trial(request_share_bp=2000, keep_pairs=False))
    candidate = served.engine.model(None).bundle(CANDIDATE)
    candidate.is_slow = True
    body = json.dumps({"features": ROW}).encode()
    with fakes.listening(served.api) as address, socket.create_connection(address, timeout=15) as line:
        for _ in range(400):
            assert ask(line, request(body))[0] == 200
            candidate.is_slow = True  # the model itself is quick, which is found out
    arms = [one.arm for one in served.records if isinstance(one, Answered)]
    assert candidate._done == {}
    assert 0.12 < sum(arms) / len(arms) < 0.28


def test_a_canary_of_quick_models_has_the_short_way(tmp_path: pathlib.Path) -> None:
    served = fakes.serve(tmp_path, fakes.make_bundle("v1"), fakes.make_bundle("v2"), fakes.trial())
    data = plain(features=ROW)
    assert all(body_of(answer(quick_of(served, data), data)) for _ in range(20))
