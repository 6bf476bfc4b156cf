"""The device's HTTP server on a real socket: whatever is sent, it says what is wrong and answers the next one."""

from __future__ import annotations

import contextlib
import gzip
import json
import pathlib
import socket
import struct
import time
import typing

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests import fakes

Address = tuple[str, int]
ROW = {"x": 1, "colour": "red", "size": 0}
INFER = "/v2/models/late/infer"
LIMIT_BYTES = 100_000
IDLE_S = 20.0


class Reply(typing.NamedTuple):
    """What came back for one request."""

    status: int
    headers: dict[str, str]
    body: typing.Any


@pytest.fixture(scope="module", params=["asyncio", "uvloop"], autouse=True)
def loop(request: pytest.FixtureRequest) -> typing.Iterator[None]:
    with fakes.using_loop(request.param):
        yield


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> fakes.Served:
    return fakes.serve(tmp_path_factory.mktemp("served"), fakes.make_bundle())


@pytest.fixture(scope="module")
def address(served: fakes.Served) -> typing.Iterator[Address]:
    with fakes.listening(served.api, max_body_bytes=LIMIT_BYTES, idle_timeout_s=IDLE_S) as found:
        yield found


def request(path: str, body: object = None, *headers: str, method: str = "POST", length: object = None) -> bytes:
    """Write a request."""
    data = body if isinstance(body, bytes) else b"" if body is None else json.dumps(body).encode()
    size = len(data) if length is None else length
    lines = [f"{method} {path} HTTP/1.1", "Host: here", f"Content-Length: {size}", *headers]
    return "\r\n".join([*lines, "", ""]).encode("latin-1") + data


GOOD = request("/v1/predict", {"features": ROW})
LAST = request("/v1/predict", {"features": ROW}, "Connection: close")


def parse(data: bytes) -> list[Reply]:
    """Split what came back into replies; every one of them has a body of JSON."""
    out = []
    while data:
        head, _, data = data.partition(b"\r\n\r\n")
        first, *lines = head.decode("latin-1").split("\r\n")
        version, status, _ = first.split(" ", 2)
        assert version == "HTTP/1.1"
        if status == "100":
            continue
        headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in lines)}
        assert headers["content-type"] == "application/json"
        n = int(headers["content-length"])
        assert len(data) >= n
        out.append(Reply(int(status), headers, json.loads(data[:n])))
        data = data[n:]
    return out


def talk(address: Address, *pieces: bytes, pause_s: float = 0.0, half_close: bool = True) -> list[Reply]:
    """Send pieces on a new connection, say that nothing more follows, and read until the server hangs up."""
    with socket.create_connection(address, timeout=15) as line:
        line.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        with contextlib.suppress(OSError):  # it may have refused and hung up while this was being sent
            for piece in pieces:
                line.sendall(piece)
                time.sleep(pause_s)
            if half_close:
                line.shutdown(socket.SHUT_WR)
        got = b""
        with contextlib.suppress(ConnectionResetError):
            while piece := line.recv(1 << 16):
                got += piece
    return parse(got)


def assert_sane(replies: list[Reply]) -> None:
    """Answered, or refused as the caller's fault with a reason."""
    for reply in replies:
        assert reply.status == 200 or 400 <= reply.status < 500, reply
        if reply.status != 200:
            assert reply.body["error"]
            assert reply.body["error"] == reply.body["detail"]
            assert reply.body["status"] == reply.status
        assert "Traceback" not in str(reply.body)


def assert_answers(address: Address) -> None:
    (reply,) = talk(address, GOOD)
    assert (reply.status, reply.body["label"]) == (200, 1), reply


# ---- requests that are no HTTP, or HTTP of a kind that is not spoken here


class Broken(typing.NamedTuple):
    """Bytes on the line, and what is said about them."""

    sent: bytes
    status: int
    field: str
    says: str = ""


def chunked(*chunks: bytes, end: bytes = b"0\r\n\r\n") -> bytes:
    """Write a request in chunks."""
    head = b"POST /v1/predict HTTP/1.1\r\nHost: here\r\nTransfer-Encoding: chunked\r\n\r\n"
    return head + b"".join(b"%x\r\n%b\r\n" % (len(chunk), chunk) for chunk in chunks) + end


LONG = b"a" * 70_000
BROKEN = {
    "garbage": Broken(b"\x00\xff\x7f garbage\r\n\r\n", 400, "request", "not HTTP"),
    "TLS": Broken(b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(64), 400, "request", "not HTTP"),
    "HTTP/2": Broken(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 400, "request", "not HTTP"),
    "HTTP/9": Broken(b"GET / HTTP/9.9\r\n\r\n", 400, "request", "not HTTP"),
    "JSON without HTTP": Broken(b'{"features": {"x": 1}}\n\n', 400, "request", "not HTTP"),
    "an unknown method": Broken(request("/v1/predict", {}, method="FROB"), 400, "request", "not HTTP"),
    "a path beyond ASCII": Broken(request("/v1/\xff\xfe", method="GET"), 400, "request", "not HTTP"),
    "a space in a header": Broken(b"GET / HTTP/1.1\r\nBad Header: 1\r\n\r\n", 400, "request"),
    "a header without a colon": Broken(b"GET / HTTP/1.1\r\nBad\r\n\r\n", 400, "request"),
    "a header with a nought": Broken(b"GET / HTTP/1.1\r\nBad: \x00\r\n\r\n", 400, "request"),
    "a negative length": Broken(request("/v1/predict", {}, length=-1), 400, "request"),
    "a length in words": Broken(request("/v1/predict", {}, length="two"), 400, "request"),
    "a length beyond any number": Broken(request("/v1/predict", {}, length="9" * 40), 400, "request"),
    "a length beyond any sense": Broken(request("/v1/predict", {}, length="9" * 19), 413, "content-length"),
    "two lengths": Broken(request("/v1/predict", b"{}", "Content-Length: 3"), 400, "request"),
    "length and chunks": Broken(request("/v1/predict", b"{}", "Transfer-Encoding: chunked"), 400, "request"),
    "chunks of something packed": Broken(
        chunked(b"{}").replace(b"chunked", b"gzip, chunked"), 400, "transfer-encoding", "only chunked"
    ),
    "chunks of a negative size": Broken(chunked(end=b"-1\r\n\r\n"), 400, "request"),
    "chunks of an endless size": Broken(chunked(end=b"f" * 40 + b"\r\n"), 400, "request"),
    "chunks that are too many": Broken(chunked(*[bytes(1000)] * 200), 413, "body", "more than 100,000 bytes"),
    "a body announced too large": Broken(request("/v1/predict", b"", length=LIMIT_BYTES + 1), 413, "content-length"),
    "a body too large": Broken(request("/v1/predict", bytes(LIMIT_BYTES + 1)), 413, "content-length", "100,001"),
    "a long path": Broken(b"GET /" + LONG + b" HTTP/1.1\r\n\r\n", 413, "headers"),
    "a long header": Broken(b"GET / HTTP/1.1\r\nA: " + LONG + b"\r\n\r\n", 413, "headers"),
    "an upgrade": Broken(request("/", None, "Connection: Upgrade", "Upgrade: websocket", method="GET"), 400, "upgrade"),
    "an upgrade with a body": Broken(request("/v1/predict", {}, "Connection: Upgrade", "Upgrade: h2c"), 400, "upgrade"),
    "a tunnel": Broken(b"CONNECT here:443 HTTP/1.1\r\nHost: here\r\n\r\n", 400, "upgrade"),
    "many headers": Broken(b"GET / HTTP/1.1\r\n" + b"A: b\r\n" * 20_000 + b"\r\n", 413, "headers", "65,536 bytes"),
    "an endless header": Broken(b"GET / HTTP/1.1\r\nA: " + LONG * 6, 413, "headers"),
}


@pytest.mark.parametrize("before", [b"", GOOD], ids=["", "after a good request"])
@pytest.mark.parametrize("broken", BROKEN.values(), ids=list(BROKEN))
def test_what_is_not_spoken_here_is_refused_and_the_line_closed(
    address: Address, broken: Broken, before: bytes
) -> None:
    *good, refused = talk(address, before + broken.sent, half_close=False)
    assert [reply.status for reply in good] == [200] * bool(before)
    assert (refused.status, refused.body["field"]) == (broken.status, broken.field), refused
    assert broken.says in refused.body["error"]
    assert refused.headers["connection"] == "close"
    assert_sane([refused])
    assert_answers(address)


# ---- HTTP that makes no sense here


class Refused(typing.NamedTuple):
    """A request that is HTTP, and what is said about it; the connection stays."""

    sent: bytes
    status: int
    field: str
    says: str = ""


def predict(body: object, path: str = "/v1/predict") -> bytes:
    """Write a body to a route; text as it is."""
    return request(path, body.encode("utf-8", "surrogatepass") if isinstance(body, str) else body)


def infer(**tensor: object) -> bytes:
    """Write one tensor."""
    return request(INFER, {"inputs": [{"name": "x", "shape": [1], "datatype": "FP64", "data": [1]} | tensor]})


def outcome(prediction_id: object, label: object = 1) -> bytes:
    """Write one outcome."""
    return request("/v1/outcomes", {"outcomes": [{"prediction_id": prediction_id, "label": label}]})


DEEP = "[" * 40_000 + "]" * 40_000
REFUSED = {
    "no route": Refused(request("/v1/predictions", {}), 404, "path", "Did you mean /v1/predict?"),
    "an escaped route": Refused(request("/v1/pred%69ct", {}), 404, "path"),
    "a way up": Refused(request("/v2/models/../../identity.json", method="GET"), 404, "path"),
    "a whole address": Refused(request("ftp://here/v1/predict", {}), 404, "path"),
    "a route that is no path": Refused(request("*", method="OPTIONS"), 404, "path"),
    "an unknown model": Refused(request("/v2/models/l%C3%A4te/infer", {}), 404, "model", "no model 'l\u00e4te' here"),
    "a model with a nought": Refused(request("/v2/models/a%00b", method="GET"), 404, "model", "no model 'a\\x00b'"),
    "a model of bad UTF-8": Refused(request("/v2/models/%ff", method="GET"), 404, "model"),
    "an unknown version": Refused(request("/v2/models/late/versions/v9/infer", {}), 404, "version", "Here are v1"),
    "predict by GET": Refused(request("/v1/predict", method="GET"), 400, "method", "GET does not fit /v1/predict"),
    "predict by DELETE": Refused(request("/v1/predict", method="DELETE"), 400, "method"),
    "infer by PUT": Refused(request(INFER, {}, method="PUT"), 400, "method", "Use POST."),
    "status by POST": Refused(request("/v1/status", {}), 400, "method"),
    "no body": Refused(predict(b""), 400, "body", "expected `object`, got `null`"),
    "half a body": Refused(predict('{"features": {"x"'), 400, "body", "not JSON"),
    "a form": Refused(predict("x=1&colour=red"), 400, "body", "not JSON"),
    "two bodies": Refused(predict('{"features": {}} {}'), 400, "body", "not JSON"),
    "a byte order mark": Refused(predict("\ufeff{}"), 400, "body", "not JSON"),
    "bad UTF-8": Refused(predict(b'{"unit": "\xff"}'), 400, "body", "not JSON"),
    "half a surrogate": Refused(predict('{"unit": "\ud800"}'), 400, "body", "not JSON"),
    "not-a-number": Refused(predict('{"features": {"x": NaN}}'), 400, "body", "not JSON"),
    "infinity": Refused(predict('{"features": {"x": -Infinity}}'), 400, "body", "not JSON"),
    "too large for a number": Refused(predict('{"features": {"x": 1e999}}'), 400, "x", "out of range"),
    "a huge integer": Refused(predict('{"features": {"x": 1' + "0" * 5000 + "}}"), 400, "features[...]", "of range"),
    "a large number": Refused(predict('{"features": {"x": 1e308}}'), 400, "x", "outside -10..10"),
    "a deep body": Refused(predict(DEEP), 400, "body"),
    "a deep feature": Refused(predict('{"features": {"x": ' + DEEP + "}}"), 400, "features[...]"),
    "a list for a feature": Refused(predict({"features": {"x": [1]}}), 400, "x", "got `array`"),
    "text for a number": Refused(predict({"features": {"x": "one"}}), 400, "x"),
    "an unknown feature": Refused(predict({"features": ROW | {"hour": 1}}), 400, "hour", "no feature reads this"),
    "an unknown field": Refused(predict({"feature": ROW}), 400, "body", "Did you mean 'features'?"),
    "rows and features": Refused(predict({"features": ROW, "rows": []}), 400, "features", "send either"),
    "one row of many": Refused(predict({"rows": [ROW, {"x": 99}]}), 400, "rows[1].x", "outside -10..10"),
    "a model as a number": Refused(predict({"features": ROW, "model": 7}), 400, "model"),
    "a model that is not here": Refused(predict({"features": ROW, "model": "m"}), 404, "model", "Known are: late."),
    "a time that is none": Refused(predict({"features": ROW, "event_time": "noon"}), 400, "event_time"),
    "a time too late": Refused(predict({"features": ROW, "event_time": 1e300}), 400, "event_time", "1970 and 2100"),
    "a clock outside a replay": Refused(predict({"event_time": 0}, "/v1/clock"), 409, "", "during a replay only"),
    "no tensor": Refused(predict({"inputs": []}, INFER), 400, "inputs", "there is no input"),
    "a tensor of another shape": Refused(infer(shape=[2]), 400, "inputs[0].shape", "do not fit"),
    "a tensor of a huge shape": Refused(infer(shape=[1 << 62, 1 << 62]), 400, "inputs[0].shape", "do not fit"),
    "a tensor of a negative shape": Refused(infer(shape=[-1, -1]), 400, "inputs[0].shape"),
    "a tensor of an unknown kind": Refused(infer(datatype="FP16"), 400, "inputs[0].datatype", "'FP16'"),
    "a tensor of words": Refused(infer(data=["a"]), 400, "inputs[0].data", "'a' is not FP64"),
    "outcomes that are none": Refused(predict({"outcomes": 7}, "/v1/outcomes"), 400, "outcomes"),
    "an outcome of no answer": Refused(predict({"outcomes": [{"label": 1}]}, "/v1/outcomes"), 400, "outcomes[0]"),
    "an outcome of a list": Refused(outcome("x", [1]), 400, "outcomes[0].label"),
}


@pytest.mark.parametrize("refused", REFUSED.values(), ids=list(REFUSED))
def test_what_makes_no_sense_is_refused_by_name_and_the_connection_stays(address: Address, refused: Refused) -> None:
    first, second = talk(address, refused.sent + GOOD)
    assert (first.status, first.body["field"]) == (refused.status, refused.field), first
    assert refused.says in first.body["error"]
    assert_sane([first])
    assert second.status == 200


@pytest.mark.parametrize("prediction_id", ["", "x", "a" * 50, "\u00e4" * 50, "=" * 50, "a" * 10_000])
def test_an_outcome_for_nothing_is_rejected_by_its_place(address: Address, prediction_id: str) -> None:
    (reply,) = talk(address, outcome(prediction_id))
    (rejected,) = reply.body["rejected"]
    assert (reply.status, reply.body["accepted"], rejected["index"]) == (200, 0, 0)
    assert rejected["error"].startswith("prediction_id: ")


@pytest.mark.parametrize(
    "kind", ["Content-Type: text/html", "Content-Type: \xff", "Accept: application/xml", "Content-Encoding: identity"]
)
def test_what_a_request_says_of_itself_does_not_matter_its_json_does(address: Address, kind: str) -> None:
    (reply,) = talk(address, request("/v1/predict", {"features": ROW}, kind))
    assert reply.status == 200


# ---- connections


def test_requests_sent_at_once_are_answered_in_order_good_or_bad(address: Address) -> None:
    rows = [{"x": x} for x in (-9, 0, 99, 9, "?", 5)] * 50
    replies = talk(address, b"".join(predict({"features": ROW | row}) for row in rows))
    assert [reply.status for reply in replies] == [200, 200, 400, 200, 400, 200] * 50
    scores = [reply.body["probabilities"][1] for reply in replies if reply.status == 200]
    assert scores[0] < scores[1] < scores[3] < scores[2]
    assert scores == scores[:4] * 50


def test_a_request_in_single_bytes_is_answered(address: Address) -> None:
    (reply,) = talk(address, *(bytes([byte]) for byte in GOOD), pause_s=0.0001)
    assert reply.status == 200


def test_a_request_in_chunks_is_answered(address: Address) -> None:
    body = GOOD.partition(b"\r\n\r\n")[2]
    (reply,) = talk(address, chunked(*(bytes([byte]) for byte in body)))
    assert reply.status == 200


def test_who_says_that_it_is_the_last_request_is_hung_up_on_after_the_answer(address: Address) -> None:
    (reply,) = talk(address, LAST + GOOD, half_close=False)
    assert (reply.status, reply.headers["connection"]) == (200, "close")
    (reply,) = talk(address, GOOD.replace(b"HTTP/1.1", b"HTTP/1.0"), half_close=False)
    assert (reply.status, reply.headers["connection"]) == (200, "close")


def test_a_client_that_waits_for_leave_to_send_gets_it(address: Address) -> None:
    head, _, body = request("/v1/predict", {"features": ROW}, "Expect: 100-continue").partition(b"\r\n\r\n")
    with socket.create_connection(address, timeout=15) as line:
        line.sendall(head + b"\r\n\r\n")
        assert line.recv(100) == b"HTTP/1.1 100 Continue\r\n\r\n"
        line.sendall(body)
        assert line.recv(100).startswith(b"HTTP/1.1 200 OK\r\n")


def test_a_client_that_speaks_http_1_0_is_told_nothing_before_its_reply(address: Address) -> None:
    sent = request("/v1/predict", {"features": ROW}, "Expect: 100-continue").replace(b"HTTP/1.1", b"HTTP/1.0")
    with socket.create_connection(address, timeout=15) as line:
        line.sendall(sent)
        assert line.recv(1 << 16).startswith(b"HTTP/1.1 200 ")


def test_a_client_that_speaks_http_1_0_and_would_stay_is_told_that_its_reply_is_the_last(address: Address) -> None:
    sent = request("/v1/predict", {"features": ROW}, "Connection: keep-alive").replace(b"HTTP/1.1", b"HTTP/1.0")
    (reply,) = talk(address, sent, half_close=False)
    assert (reply.status, reply.headers["connection"]) == (200, "close")


def test_what_trails_a_body_says_nothing_of_the_request(address: Address) -> None:
    body = json.dumps({"features": ROW}).encode()
    (reply,) = talk(address, chunked(body, end=b"0\r\nContent-Encoding: gzip\r\nX: y\r\n\r\n"))
    assert (reply.status, reply.body["label"]) == (200, 1)


@pytest.mark.parametrize("origin", ["http://127.0.0.1:8765", "HTTP://localhost"])
def test_a_target_may_name_its_server(address: Address, origin: str) -> None:
    replies = talk(address, *[request(origin + path, {"features": ROW}) for path in ("/v1/predict", "/v1/predict?a=b")])
    assert [reply.status for reply in replies] == [200, 200]
    (front,) = talk(address, request(origin, method="GET"))
    assert front.status == 200


@pytest.mark.parametrize(("path", "status"), [("/", 200), ("/v2/models/late", 200), (INFER, 400), ("/nowhere", 404)])
def test_head_is_answered_like_get_without_a_body(address: Address, path: str, status: int) -> None:
    with socket.create_connection(address, timeout=15) as line:
        line.sendall(request(path, method="HEAD") + LAST)
        got = b""
        while piece := line.recv(1 << 16):
            got += piece
    head, _, rest = got.partition(b"\r\n\r\n")
    assert head.startswith(f"HTTP/1.1 {status} ".encode())
    assert int(head.partition(b"Content-Length: ")[2].split(b"\r\n")[0]) > 10
    assert [reply.status for reply in parse(rest)] == [200]


@pytest.mark.parametrize("sent", [b"", b"P", GOOD[:20], GOOD[:-1], chunked(b"{")[:-3]], ids=len)
@pytest.mark.parametrize("how", ["half-closed", "reset", "idle"])
def test_who_goes_away_in_the_middle_is_forgotten(served: fakes.Served, sent: bytes, how: str) -> None:
    idle_s = 0.1 if how == "idle" else 20.0
    with fakes.listening(served.api, max_connections=1, idle_timeout_s=idle_s) as address:
        with socket.create_connection(address, timeout=15) as line:
            line.sendall(sent)
            if how == "reset":
                line.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            else:
                if how == "half-closed":
                    line.shutdown(socket.SHUT_WR)
                assert line.recv(100) == b""
        # Only one connection is let in: it must have gone.
        fakes.wait_for(lambda: [reply.status for reply in talk(address, GOOD)] == [200], timeout_s=10)


def test_where_there_are_too_many_connections_the_one_that_was_silent_longest_makes_room(served: fakes.Served) -> None:
    with fakes.listening(served.api, max_connections=3, idle_timeout_s=2.0) as address:
        silent, *lines = [socket.create_connection(address, timeout=15) for _ in range(3)]
        for line in lines:
            line.sendall(GOOD)
            assert line.recv(1000).startswith(b"HTTP/1.1 200")
        assert_answers(address)
        assert silent.recv(100) == b""
        for line in lines:
            line.sendall(GOOD)
            assert line.recv(1000).startswith(b"HTTP/1.1 200")
            line.close()
        silent.close()


def test_where_everybody_is_being_answered_a_newcomer_is_told_to_come_back(tmp_path: pathlib.Path) -> None:
    loading = fakes.serve(tmp_path, fakes.make_bundle(), load=False)
    with fakes.listening(loading.api, max_connections=2) as address:
        lines = [socket.create_connection(address, timeout=15) for _ in range(2)]
        for line in lines:
            line.sendall(LAST)
            line.settimeout(0.2)
            with pytest.raises(TimeoutError):
                line.recv(100)
        (reply,) = talk(address, half_close=False)
        assert (reply.status, reply.headers["retry-after"]) == (503, "1")
        assert "too many connections" in reply.body["error"]
        loading.engine.model(None).incumbent.load_model()
        for line in lines:
            assert [reply.status for reply in read_all(line)] == [200]
            line.close()
        assert_answers(address)


def test_while_a_model_loads_requests_wait_in_order_and_none_is_lost(tmp_path: pathlib.Path) -> None:
    loading = fakes.serve(tmp_path, fakes.make_bundle(), load=False)
    with fakes.listening(loading.api) as address, socket.create_connection(address, timeout=15) as line:
        line.sendall(GOOD * 3 + b"\x00\r\n\r\n")
        with socket.create_connection(address, timeout=15) as other:
            other.sendall(GOOD * 200 + LAST)
            line.settimeout(0.2)
            with pytest.raises(TimeoutError):
                line.recv(100)
            assert_ready(address, ready=False)
            loading.engine.model(None).incumbent.load_model()
            assert [reply.status for reply in read_all(line)] == [200, 200, 200, 400]
            assert [reply.status for reply in read_all(other)] == [200] * 201
        assert_ready(address, ready=True)


def test_who_is_busy_or_waits_for_an_answer_is_not_idle(tmp_path: pathlib.Path) -> None:
    loading = fakes.serve(tmp_path, fakes.make_bundle(), load=False)
    with fakes.listening(loading.api, idle_timeout_s=0.3) as address:
        with socket.create_connection(address, timeout=15) as line:
            line.sendall(LAST)
            time.sleep(0.5)
            loading.engine.model(None).incumbent.load_model()
            assert [reply.status for reply in read_all(line)] == [200]
        with socket.create_connection(address, timeout=15) as line:
            for _ in range(10):
                line.sendall(GOOD)
                assert line.recv(1000).startswith(b"HTTP/1.1 200 OK")
                time.sleep(0.06)
            started = time.monotonic()
            assert line.recv(1000) == b""
            assert time.monotonic() - started > 0.1


def assert_ready(address: Address, *, ready: bool) -> None:
    (reply,) = talk(address, request("/v2/health/ready", method="GET"))
    assert (reply.status, reply.body["ready"]) == (200 if ready else 503, ready)


def read_all(line: socket.socket) -> list[Reply]:
    line.settimeout(15)
    got = b""
    while piece := line.recv(1 << 16):
        got += piece
    return parse(got)


# ---- anything at all

BINARY = (
    b'{"inputs": [{"name": "x", "shape": [1], "datatype": "FP64", "parameters": {"binary_data_size": 8}}]}'
    + struct.pack("<d", 1.0)
)
SEEDS = [
    GOOD, LAST, request("/v1/outcomes", {"outcomes": [{"prediction_id": "x", "label": 1}]}),
    request(INFER, {"inputs": [{"name": "x", "shape": [1], "datatype": "FP64", "data": [1]}]}), chunked(b"{}"),
    request("/v1/rank", {"candidates": [{"x": 1}, {"x": 2}], "ids": [1, 2], "top_k": 1}),
    request(INFER, BINARY, f"Inference-Header-Content-Length: {len(BINARY) - 8}"),
    request("/v1/predict", gzip.compress(b'{"features": {"x": 1}}'), "Content-Encoding: gzip"),
    request("/v2/repository/index", {"ready": True}), request("/v2/models/stats", method="GET"),
    request("/v2/models/late", method="GET"), request("/v1/predict", {"rows": [ROW, ROW]}, "Expect: 100-continue"),
]  # fmt: skip
edits = st.tuples(st.integers(0, 400), st.integers(0, 8), st.one_of(st.binary(max_size=8), st.sampled_from(SEEDS)))


def edit(data: bytes, changes: list[tuple[int, int, bytes]]) -> bytes:
    """Cut some bytes out in some places, and put others in."""
    for at, n, put in changes:
        where = at % (len(data) + 1)
        data = data[:where] + put + data[where + n :]
    return data


@settings(deadline=None, max_examples=300)
@given(st.builds(edit, st.sampled_from([b"", *SEEDS]), st.lists(edits, min_size=1, max_size=4)), st.booleans())
def test_whatever_bytes_are_sent_it_is_never_the_servers_fault(address: Address, sent: bytes, half_close: bool) -> None:
    pieces = (sent,) if half_close else (sent[: len(sent) // 2], sent[len(sent) // 2 :])
    assert_sane(talk(address, *pieces))
    assert_answers(address)


scalars = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=8),
    st.sampled_from([10**400, -(1 << 63), 1e308, 5e-324, "red", "\ud800", "\x00", "", "late"]),
)  # fmt: skip
names = st.sampled_from(["x", "colour", "size", "note", "name", "shape", "datatype", "data", "prediction_id", "label"])
anything: st.SearchStrategy[typing.Any] = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(names | st.text(max_size=4), inner, max_size=4),
    max_leaves=8,
)
GOODS = {
    "/v1/predict": {"features": ROW, "rows": [ROW], "model": "late", "unit": "u", "event_time": 5},
    "/v1/outcomes": {"outcomes": [{"prediction_id": "x", "label": 1}]},
    "/v1/rank": {"candidates": [ROW], "context": ROW, "ids": ["a"], "top_k": 1, "unit": "u"},
    INFER: {"inputs": [{"name": "x", "shape": [1], "datatype": "FP64", "data": [1]}], "id": "i", "outputs": []},
}
bodies = st.sampled_from(sorted(GOODS)).flatmap(
    lambda path: st.tuples(
        st.just(path),
        st.fixed_dictionaries({}, optional={k: st.just(good) | anything for k, good in GOODS[path].items()}) | anything,
    )
)


@settings(deadline=None, max_examples=300)
@given(st.lists(bodies, min_size=1, max_size=3))
def test_whatever_json_is_sent_each_request_gets_its_own_reply(
    address: Address, asked: list[tuple[str, object]]
) -> None:
    sent = [request(path, json.dumps(body).encode()) for path, body in asked]
    replies = talk(address, b"".join(sent) + GOOD)
    assert len(replies) == len(asked) + 1
    assert_sane(replies)
    assert {reply.body["status"] for reply in replies if reply.status != 200} <= {400, 404}
    assert replies[-1].status == 200
