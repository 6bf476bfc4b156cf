"""The device API through Flask, fed with everything that is not a batch of this device: a clear refusal, no trace."""

from __future__ import annotations

import dataclasses
import hashlib
import pathlib
import time
import typing

import flask.testing
import msgspec
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cloud import enrol
from cloud.config import Project
from cloud.store.database import add_bins, pack_bins, sum_bins
from cloud.store.store import Store
from cloud.web.app import create_app
from shared import codec, protocol
from shared.summary import N_LATENCY_BINS
from shared.telemetry import MAX_BATCH_BYTES, MAX_BATCH_RAW_BYTES, Batch, DeviceStatus, ModelStatus, PairsRow, SumsRow

Plain = dict[str, typing.Any]
ROW = SumsRow(model="sales", version="v1", epoch=0, arm=0, served=True, day=20_000, requests=7, onnx=7)


@dataclasses.dataclass
class Line:
    """A device's line to the cloud."""

    project: Project
    store: Store
    client: flask.testing.FlaskClient
    key: Ed25519PrivateKey
    name: str = "till-1"
    token: str = ""

    @property
    def public_key(self) -> str:
        raw = self.key.public_key().public_bytes(serialization.Encoding.Raw, serialization.PublicFormat.Raw)
        return raw.hex()

    def join_token(self, **more: typing.Any) -> protocol.JoinToken:
        said = {"region": "north", "uses": 1, "lifetime_s": 60.0, "actor": "ada"} | more
        return enrol.new_join_token(self.project, self.store, **said)

    def join(self, token: protocol.JoinToken, **more: typing.Any) -> typing.Any:
        key = self.public_key if more.get("device", self.name) == self.name else "0d" * 32
        request = protocol.JoinRequest(token_id=token.token_id, secret=token.secret, device=self.name, public_key=key)
        return self.client.post(protocol.JOIN_PATH, data=codec.to_json(msgspec.structs.replace(request, **more)))

    def nonce(self, device: str = "") -> str:
        reply = self.client.post(protocol.NONCE_PATH.format(device=device or self.name))
        return str(reply.get_json()["nonce"])

    def sign_in(self, nonce: str = "", **more: typing.Any) -> typing.Any:
        nonce = nonce or self.nonce()
        signature = self.key.sign(protocol.sign_in_message(self.name, nonce)).hex()
        request = protocol.SignInRequest(nonce=nonce, signature=signature)
        data = codec.to_json(msgspec.structs.replace(request, **more))
        return self.client.post(protocol.SIGN_IN_PATH.format(device=self.name), data=data)

    def deliver(self, body: bytes, **headers: str) -> typing.Any:
        wanted = {"Authorization": f"Bearer {self.token}", "Content-Type": protocol.TELEMETRY_TYPE}
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        return self.client.post(protocol.TELEMETRY_PATH, data=body, headers=wanted | named)

    def batch(self, sequence: int = 0, **more: typing.Any) -> Batch:
        said: Plain = {"spool": "s", "sent_s": 1.0, "status": DeviceStatus(), "sums": (ROW,)}
        return Batch(**(said | {"device": self.name, "sequence": sequence} | more))

    def stored(self) -> list[Plain]:
        """Everything that a delivery can change."""
        tables = ("inbox", "sums", "pairs", "device_events", "devices", "join_tokens", "audit")
        return [{table: self.store.db.rows(f"select * from {table}")} for table in tables] + [
            {"revision": self.store.evidence.revision()}
        ]


def packed(batch: Batch) -> bytes:
    return codec.compress(codec.to_msgpack(batch))


@pytest.fixture
def line(empty: Project, empty_store: Store) -> Line:
    client = create_app(empty, empty_store).test_client()
    made = Line(empty, empty_store, client, Ed25519PrivateKey.generate())
    assert made.join(made.join_token()).status_code == 200
    made.token = made.sign_in().get_json()["token"]
    return made


def refused(reply: typing.Any, status: int, field: str, code: str = "") -> str:
    """Check that a reply is a clear refusal; return what it says."""
    said = reply.get_json()
    assert (reply.status_code, said["status"]) == (status, status), said
    assert reply.content_type == "application/problem+json"
    assert said["field"] == field, said
    assert said["type"] == f"urn:covey:error:{code}" or not code, said
    assert said["error"] == said["detail"]
    assert field in said["detail"] or not field
    assert "Traceback" not in reply.text
    return str(said["detail"])


# ---- what is right


def test_a_batch_is_taken_in_and_acknowledged_by_its_number(line: Line) -> None:
    reply = line.deliver(packed(line.batch(3)))
    assert reply.get_json() == {"schema": "covey.acknowledgement/1", "spool": "s", "sequence": 3, "duplicate": False}
    assert line.store.evidence.totals("till-1")["requests"] == 7


def test_the_same_batch_again_is_acknowledged_and_counts_once(line: Line) -> None:
    body = packed(line.batch())
    assert line.deliver(body).get_json()["duplicate"] is False
    before = line.store.evidence.revision()
    assert line.deliver(body).get_json()["duplicate"] is True
    assert line.store.evidence.totals("till-1")["requests"] == 7
    assert line.store.evidence.revision() == before


def test_another_batch_under_a_number_that_was_taken_is_refused_so_that_the_device_keeps_it(line: Line) -> None:
    line.deliver(packed(line.batch(5)))
    before = line.stored()
    other = line.batch(5, sums=(msgspec.structs.replace(ROW, requests=8),))
    assert "number 5 of spool 's'" in refused(line.deliver(packed(other)), 409, "sequence", "conflict")
    assert [kind["kind"] for kind in line.store.fleet.events()] == ["two-devices-use-this-key"]
    line.store.db.connection.execute("delete from device_events")
    assert line.stored() == before


def older(batch: Batch) -> bytes:
    """Write a batch as an older device does: without arms of pairs, further candidates, numbers, and what it can do."""
    said = msgspec.msgpack.decode(codec.to_msgpack(batch))
    del said["measures"], said["status"]["can"]
    said["pairs"] = [row[:-1] for row in said["pairs"]]
    for one in said["status"]["models"]:
        del one["also"]
    return msgspec.msgpack.encode(said)


@pytest.mark.parametrize("write", ["as the device did", "with the fields of today"])
def test_what_an_older_device_sends_again_after_the_cloud_was_updated_is_acknowledged(line: Line, write: str) -> None:
    """Its acknowledgement was lost, and the cloud before this one kept the hash of what it wrote out itself."""
    pair = PairsRow("sales", 1, 20_000, 1, -5, 25, 0, 1)
    batch = line.batch(pairs=(pair,), status=DeviceStatus(models=(ModelStatus(model="sales", incumbent="v1"),)))
    raw = older(batch)
    kept = raw if write == "as the device did" else codec.to_msgpack(batch)
    assert codec.from_msgpack(raw, Batch) == batch
    assert raw != codec.to_msgpack(batch)
    row = ("till-1", "s", 0, 1.0, hashlib.sha256(kept).hexdigest())
    line.store.db.connection.execute("insert into inbox values (?, ?, ?, ?, ?)", row)
    reply = line.deliver(codec.compress(raw))
    assert (reply.status_code, reply.get_json()["duplicate"]) == (200, True), reply.get_json()
    assert line.store.fleet.events() == []


def test_a_batch_is_known_again_by_the_bytes_that_came(line: Line) -> None:
    raw = older(line.batch())
    assert line.deliver(codec.compress(raw)).get_json()["duplicate"] is False
    (row,) = line.store.db.rows("select sha256 from inbox")
    assert row["sha256"] == hashlib.sha256(raw).hexdigest()


def test_a_newer_device_that_says_more_is_understood(line: Line) -> None:
    said = msgspec.msgpack.decode(codec.to_msgpack(line.batch()))
    said["status"]["mood"] = "fine"
    reply = line.deliver(codec.compress(msgspec.msgpack.encode(said | {"weather": "rain"})))
    assert reply.status_code == 200


# ---- bodies that are no batches


GARBAGE: dict[str, typing.Callable[[bytes], bytes]] = {
    "nothing": lambda _whole: b"",
    "text": lambda _whole: b"hello",
    "truncated": lambda whole: whole[:-3],
    "a byte": lambda whole: whole[:1],
    "more behind": lambda whole: whole + b"\0",
    "twice": lambda whole: whole + whole,
    "a bomb": lambda _whole: codec.compress(bytes(MAX_BATCH_RAW_BYTES + 1)),
}


@pytest.mark.parametrize("what", GARBAGE)
def test_what_is_not_one_whole_zstd_frame_of_bounded_size_is_refused(line: Line, what: str) -> None:
    before = line.stored()
    refused(line.deliver(GARBAGE[what](packed(line.batch()))), 400, "body", "wire")
    assert line.stored() == before


@pytest.mark.parametrize(
    ("raw", "field"),
    [
        (b"", "covey.telemetry/1"),
        (b"\xc1", "covey.telemetry/1"),
        (b"\x93" * 5000, "covey.telemetry/1"),
        (msgspec.msgpack.encode([1, 2]), "covey.telemetry/1"),
        (msgspec.msgpack.encode({"schema": 7}), "covey.telemetry/1 schema"),
        (msgspec.msgpack.encode({"schema": "covey.telemetry/1"}), "covey.telemetry/1"),
        (msgspec.msgpack.encode({"schema": "covey.join/1"}), "schema"),
        (msgspec.msgpack.encode({"schema": "covey.telemetry/1", "device": b"\xff"}), "covey.telemetry/1 device"),
    ],
)
def test_what_is_not_the_record_is_refused(line: Line, raw: bytes, field: str) -> None:
    refused(line.deliver(codec.compress(raw)), 400, field)


def test_another_major_version_is_refused_as_such(line: Line) -> None:
    raw = codec.to_msgpack(line.batch()).replace(b"covey.telemetry/1", b"covey.telemetry/2")
    assert "major 1, got '2'" in refused(line.deliver(codec.compress(raw)), 400, "schema", "wire-version")


HUGE = 1 << 63
WRONG: list[tuple[Plain, str]] = [
    ({"sequence": -1}, "sequence"),
    ({"sequence": "7"}, "sequence"),
    ({"sequence": HUGE}, "sequence"),
    ({"sequence": 1.5}, "sequence"),
    ({"device": ""}, "device"),
    ({"device": "d" * 65}, "device"),
    ({"spool": None}, "spool"),
    ({"sent_s": float("nan")}, "sent_s"),
    ({"sent_s": float("inf")}, "sent_s"),
    ({"status": 3}, "status"),
    ({"status": {"watermark_s": -1.0}}, "status.watermark_s"),
    ({"status": {"watermark_s": 1e300}}, "status.watermark_s"),
    ({"status": {"models": [{"model": ""}]}}, "status.models[0].model"),
    ({"status": {"models": [{"model": "m", "epoch": HUGE}]}}, "status.models[0].epoch"),
    ({"sums": [["m", "v1", 0, 0, True, -1]]}, "sums[0][5]"),
    ({"sums": [["m", "v1", 0, 0, 1, 1]]}, "sums[0][4]"),
    ({"sums": [["m", "v1", 0, 0, True, 1, HUGE]]}, "sums[0][6]"),
    ({"sums": [["m", "v1", 0, 0, True, 1, -1]]}, "sums[0][6]"),
    ({"sums": [["m"]]}, "sums[0]"),
    ({"sums": 5}, "sums"),
    ({"pairs": [["m", 1, 1, 1, 1 << 63, 1, 1, 1]]}, "pairs[0][4]"),
    ({"pairs": [["m", 1, 1, 1, 0, -1, 1, 1]]}, "pairs[0][5]"),
    ({"events": [{"at_s": 1.0, "kind": "k", "detail": "x" * 2001}]}, "events[0].detail"),
]


@pytest.mark.parametrize(("change", "field"), WRONG, ids=[f"{field}-{i}" for i, (_, field) in enumerate(WRONG)])
def test_a_wrong_value_is_refused_by_its_path_and_leaves_no_trace(line: Line, change: Plain, field: str) -> None:
    before = line.stored()
    said = msgspec.msgpack.decode(codec.to_msgpack(line.batch())) | change
    refused(line.deliver(codec.compress(msgspec.msgpack.encode(said))), 400, f"covey.telemetry/1 {field}", "wire")
    assert line.stored() == before


def test_bins_of_another_number_are_refused(line: Line) -> None:
    row = msgspec.msgpack.decode(codec.to_msgpack(ROW))
    row[-1] = [0] * (N_LATENCY_BINS + 1)
    said = msgspec.msgpack.decode(codec.to_msgpack(line.batch())) | {"sums": [row]}
    refused(line.deliver(codec.compress(msgspec.msgpack.encode(said))), 400, "covey.telemetry/1 sums[0][18]")


def test_a_status_that_is_too_large_to_keep_is_refused(line: Line) -> None:
    before = line.stored()
    refused(line.deliver(packed(line.batch(status=DeviceStatus(agent="x" * 300_000)))), 400, "status")
    assert line.stored() == before


@pytest.mark.parametrize("streamed", [False, True])
def test_a_body_larger_than_any_batch_is_refused_however_it_comes(line: Line, streamed: bool) -> None:
    body = bytes(MAX_BATCH_BYTES + 1)
    if streamed:
        headers = {"Authorization": f"Bearer {line.token}", "Content-Type": protocol.TELEMETRY_TYPE}
        reply = line.client.post(
            protocol.TELEMETRY_PATH,
            data=body,
            headers=headers | {"Transfer-Encoding": "chunked"},
            environ_overrides={"CONTENT_LENGTH": "", "wsgi.input_terminated": True},
        )
        assert reply.status_code in (400, 413), reply.text
    else:
        refused(line.deliver(body), 413, "body", "too-large")


def test_the_largest_values_that_are_read_can_be_added_up_for_ever(line: Line) -> None:
    """Nonsense of one device must not keep the others' sums from being read."""
    top = msgspec.structs.replace(
        ROW, requests=1 << 53, metric_sum=1 << 62, metric_sumsq=1 << 53, latency_bins=(1 << 53,) * N_LATENCY_BINS
    )
    other = msgspec.structs.replace(top, version="v2")
    pair = PairsRow("sales", 1, 20_000, 1 << 53, 1 << 62, 1 << 53, 1 << 53, 0)
    evidence = line.store.evidence
    for sequence in range(5):
        assert line.deliver(packed(line.batch(sequence, sums=(top, other), pairs=(pair,)))).status_code == 200
        assert evidence.totals()["metric_sum"] > 1 << 62
        assert evidence.by_day("sales", from_day=0, before_day=1 << 31)
        assert evidence.served("sales", [0], before_day=1 << 31)
        assert evidence.faults("sales", [0])
        assert evidence.pairs("sales", [1], before_day=1 << 31)[0]["sum"] >= 1 << 62


def test_counts_that_are_full_stay_full() -> None:
    assert sum_bins([add_bins(pack_bins([(1 << 63) - 2]), pack_bins([9]))]) == [(1 << 63) - 1]


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_no_flipped_byte_is_a_fault_of_the_server(line: Line, data: st.DataObject) -> None:
    raw = bytearray(codec.to_msgpack(line.batch()))
    for _ in range(data.draw(st.integers(1, 4))):
        raw[data.draw(st.integers(0, len(raw) - 1))] = data.draw(st.integers(0, 255))
    reply = line.deliver(codec.compress(bytes(raw)))
    assert reply.status_code in (200, 400, 403, 409), reply.text


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(body=st.binary(max_size=300), path=st.sampled_from(["join", "till-1/nonce", "till-1/token"]))
def test_no_bytes_are_a_fault_of_the_server(line: Line, body: bytes, path: str) -> None:
    reply = line.client.post(f"/api/v1/devices/{path}", data=body)
    assert reply.status_code in ((200,) if path.endswith("nonce") else (400,)), reply.text


# ---- who delivers


def test_a_batch_in_another_devices_name_is_refused(line: Line) -> None:
    before = line.stored()
    assert "'till-1' delivers for 'till-2'" in refused(
        line.deliver(packed(line.batch(device="till-2"))), 403, "device", "forbidden"
    )
    assert line.stored() == before


@pytest.mark.parametrize(
    ("header", "field"),
    [("", "Authorization"), ("Bearer", "Authorization"), ("Basic eA==", "Authorization"), ("Bearer x", "token"),
     ("Bearer " + "A" * 90, "token"), ("Bearer \u00e4\u00f6", "token"), ("Bearer " + "A" * 20_000, "token")],
)  # fmt: skip
def test_without_a_token_of_ours_nothing_is_read(line: Line, header: str, field: str) -> None:
    before = line.stored()
    refused(line.deliver(packed(line.batch()), Authorization=header), 401, field, "auth")
    assert line.stored() == before


def test_a_token_is_good_for_an_hour(line: Line, monkeypatch: pytest.MonkeyPatch) -> None:
    now = time.time()
    monkeypatch.setattr(time, "time", lambda: now + 3590)
    assert line.deliver(packed(line.batch())).status_code == 200
    monkeypatch.setattr(time, "time", lambda: now + 3610)
    assert "expired" in refused(line.deliver(packed(line.batch(1))), 401, "token", "auth")


def test_a_retired_device_is_refused_although_its_token_is_good(line: Line) -> None:
    line.store.fleet.retire("till-1")
    before = line.stored()
    refused(line.deliver(packed(line.batch())), 403, "device", "forbidden")
    refused(line.sign_in(), 403, "device", "forbidden")
    assert line.stored() == before


def test_a_device_that_is_not_known_any_more_is_told_to_join(line: Line) -> None:
    line.store.db.connection.execute("delete from devices")
    assert "Join again." in refused(line.deliver(packed(line.batch())), 404, "device", "not-found")


@pytest.mark.parametrize("kind", ["application/json", "", "text/plain; charset=utf-8"])
def test_another_kind_of_body_is_refused(line: Line, kind: str) -> None:
    refused(line.deliver(packed(line.batch()), Content_Type=kind), 400, "Content-Type", "wire")


@pytest.mark.parametrize("path", [protocol.JOIN_PATH, protocol.TELEMETRY_PATH, "/api/v1/devices/x/nonce"])
def test_devices_post_and_nothing_else(line: Line, path: str) -> None:
    reply = line.client.get(path, headers={"Accept": "application/json"})
    assert reply.status_code == 405
    assert "POST" in reply.headers["Allow"]


# ---- join and sign in


def test_a_join_token_is_used_up_and_says_so(line: Line) -> None:
    token = line.join_token()
    assert line.join(token, device="till-2").status_code == 200
    before = line.stored()
    assert "used up" in refused(line.join(token, device="till-3"), 401, "", "auth")
    assert line.stored() == before


def test_a_join_that_was_cut_off_may_be_repeated_with_the_same_key_only(line: Line) -> None:
    token = line.join_token()
    first = line.join(token, device="till-2").get_json()
    assert line.join(token, device="till-2").get_json() == first
    assert hashlib.sha256(first["root"].encode()).hexdigest() == token.root_sha256
    assert "another key" in refused(line.join(token, device="till-2", public_key="ab" * 32), 409, "", "conflict")


def test_an_expired_or_unknown_join_token_lets_nobody_in(line: Line, monkeypatch: pytest.MonkeyPatch) -> None:
    token, before = line.join_token(), line.store.fleet.all()
    refused(line.join(token, device="till-2", secret="guess"), 401, "", "auth")
    refused(line.join(token, device="till-2", token_id="guess"), 401, "", "auth")
    now = time.time()
    monkeypatch.setattr(time, "time", lambda: now + 61)
    assert "expired" in refused(line.join(token, device="till-2"), 401, "", "auth")
    assert line.store.fleet.all() == before


@pytest.mark.parametrize(
    ("change", "field"),
    [({"device": "../etc"}, "device"), ({"device": "a\n"}, "device"), ({"device": "d" * 64}, "device"),
     ({"public_key": "AB" * 32}, "public_key"), ({"public_key": "ab"}, "public_key"), ({"secret": 5}, "secret"),
     ({"secret": "s" * 129}, "secret"), ({"token_id": None}, "token_id")],
)  # fmt: skip
def test_a_join_that_makes_no_sense_is_refused_by_its_field(line: Line, change: Plain, field: str) -> None:
    token = line.join_token()
    said = {"schema": "covey.join/1", "token_id": token.token_id, "secret": token.secret, "device": "till-2",
            "public_key": line.public_key} | change  # fmt: skip
    refused(line.client.post(protocol.JOIN_PATH, json=said), 400, f"covey.join/1 {field}", "wire")


def test_a_join_larger_than_any_is_refused(line: Line) -> None:
    refused(line.client.post(protocol.JOIN_PATH, data=b" " * (protocol.MAX_JSON_BYTES + 1)), 413, "body", "too-large")


@pytest.mark.parametrize("name", ["nobody", "a|b|c", "%00", "%ff%fe", "x" * 3000])
def test_a_nonce_tells_nobody_which_devices_exist(line: Line, name: str) -> None:
    reply = line.client.post(f"/api/v1/devices/{name}/nonce")
    assert (reply.status_code, list(reply.get_json())) == (200, ["schema", "nonce"])
    refused(line.client.post(f"/api/v1/devices/{name}/token", data=_sign_in("00" * 64)), 401, "signature", "auth")


def _sign_in(signature: str) -> bytes:
    return codec.to_json(protocol.SignInRequest(nonce="n", signature=signature))


def test_a_sign_in_needs_the_devices_key_and_a_fresh_nonce_of_its_own(
    line: Line, monkeypatch: pytest.MonkeyPatch
) -> None:
    refused(line.sign_in(signature="00" * 64), 401, "signature", "auth")
    refused(line.sign_in(line.nonce("till-9")), 403, "nonce", "forbidden")
    refused(line.sign_in("guess"), 401, "nonce", "auth")
    refused(line.sign_in(line.token), 401, "nonce", "auth")  # a token is no nonce
    nonce, now = line.nonce(), time.time()
    assert line.sign_in(nonce).status_code == 200
    monkeypatch.setattr(time, "time", lambda: now + 62)
    assert "expired" in refused(line.sign_in(nonce), 401, "nonce", "auth")


def test_a_nonce_is_no_token(line: Line) -> None:
    line.token = line.nonce()
    refused(line.deliver(packed(line.batch())), 401, "token", "auth")


def test_another_projects_token_is_not_ours(line: Line, tmp_path: pathlib.Path) -> None:
    enrol.create_session_key(tmp_path)
    sessions = enrol.Sessions((tmp_path / "session.key").read_bytes())
    line.token = sessions._seal("token", "till-1", int(time.time()) + 60)
    refused(line.deliver(packed(line.batch())), 401, "token", "auth")
