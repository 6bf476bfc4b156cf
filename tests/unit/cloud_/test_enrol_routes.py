"""Who is let in, over HTTP: approval, one key at a time, stolen tokens, copied keys, and requests sent twice."""

from __future__ import annotations

import dataclasses
import time
import typing

import flask.testing
import msgspec
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cloud import enrol
from cloud.config import Project
from cloud.rollout.events import events
from cloud.store.store import Store
from cloud.web.app import create_app
from shared import codec, protocol
from shared.errors import ConflictError
from shared.telemetry import Batch, DeviceStatus, SumsRow
from tests.unit.cloud_.test_enrol import public

SHARED = "two-devices-use-this-key"
ROW = SumsRow(model="sales", version="v1", epoch=0, arm=0, served=True, day=20_000, requests=7, onnx=7)


@dataclasses.dataclass
class Machine:
    """A machine that speaks with the cloud as a device does."""

    cloud: Cloud
    name: str
    key: Ed25519PrivateKey
    token: str = ""
    spool: str = "s"

    def join(self, token: protocol.JoinToken, **more: str) -> typing.Any:
        said = {"token_id": token.token_id, "secret": token.secret, "device": self.name, "public_key": public(self.key)}
        return self.cloud.client.post(protocol.JOIN_PATH, json={"schema": "covey.join/1"} | said | more)

    def nonce(self) -> str:
        return str(self.cloud.client.post(protocol.NONCE_PATH.format(device=self.name)).get_json()["nonce"])

    def signed(self, key: Ed25519PrivateKey | None = None) -> bytes:
        nonce = self.nonce()
        signature = (key or self.key).sign(protocol.sign_in_message(self.name, nonce)).hex()
        return codec.to_json(protocol.SignInRequest(nonce=nonce, signature=signature))

    def sign_in(self, body: bytes | None = None) -> typing.Any:
        reply = self.cloud.client.post(protocol.SIGN_IN_PATH.format(device=self.name), data=body or self.signed())
        self.token = (reply.get_json() or {}).get("token", self.token)
        return reply

    def deliver(self, sequence: int, requests: int = 7) -> typing.Any:
        sums = (msgspec.structs.replace(ROW, requests=requests),)
        batch = Batch(
            device=self.name, spool=self.spool, sequence=sequence, sent_s=1.0, status=DeviceStatus(), sums=sums
        )
        headers = {"Authorization": f"Bearer {self.token}", "Content-Type": protocol.TELEMETRY_TYPE}
        body = codec.compress(codec.to_msgpack(batch))
        return self.cloud.client.post(protocol.TELEMETRY_PATH, data=body, headers=headers)

    def rotation(self, new: Ed25519PrivateKey, old: Ed25519PrivateKey | None = None) -> protocol.RotateKeyRequest:
        old, nonce = old or self.key, self.nonce()
        message = protocol.rotate_key_message(self.name, nonce, public(old), public(new))
        return protocol.RotateKeyRequest(
            nonce=nonce,
            old_key=public(old),
            new_key=public(new),
            old_signature=old.sign(message).hex(),
            new_signature=new.sign(message).hex(),
        )

    def rotate(self, request: protocol.RotateKeyRequest) -> typing.Any:
        path = protocol.ROTATE_KEY_PATH.format(device=self.name)
        return self.cloud.client.post(path, data=codec.to_json(request))

    def kinds(self) -> list[str]:
        return [event["kind"] for event in self.cloud.store.fleet.events(device=self.name)]


@dataclasses.dataclass
class Cloud:
    """A cloud, and machines that know its address."""

    project: Project
    store: Store
    client: flask.testing.FlaskClient

    def new_token(self, **more: typing.Any) -> protocol.JoinToken:
        said = {"region": "north", "uses": 1, "lifetime_s": 60.0, "actor": "ada"} | more
        return enrol.new_join_token(self.project, self.store, **said)

    def restart(self) -> None:
        """End the server and start it again, on the same project."""
        self.client = create_app(self.project, self.store).test_client()

    def machine(self, name: str, key: Ed25519PrivateKey | None = None) -> Machine:
        return Machine(self, name, key or Ed25519PrivateKey.generate())

    def device(self, name: str = "till-1") -> Machine:
        """A device that is in the fleet and signed in."""
        made = self.machine(name)
        assert made.join(self.new_token()).status_code == 200
        assert made.sign_in().status_code == 200
        return made


@pytest.fixture
def cloud(empty: Project, empty_store: Store) -> Cloud:
    return Cloud(empty, empty_store, create_app(empty, empty_store).test_client())


def refused(reply: typing.Any, status: int, code: str, says: str = "") -> None:
    said = reply.get_json()
    assert (reply.status_code, said["type"]) == (status, f"urn:covey:error:{code}"), said
    assert says in said["detail"], said


# ---- approval


def test_with_a_token_that_asks_for_approval_a_device_waits_for_it(cloud: Cloud) -> None:
    till = cloud.machine("till-1")
    reply = till.join(cloud.new_token(approve=True))
    assert (reply.status_code, reply.get_json()["status"], reply.get_json()["region"]) == (202, "pending", "north")
    assert cloud.store.fleet.all() == []
    refused(till.sign_in(), 403, "pending", "covey device approve till-1")
    assert till.sign_in().headers["Retry-After"]
    assert till.join(cloud.new_token(approve=True)).status_code == 202
    cloud.store.fleet.change("till-1", "approve")
    assert till.sign_in().status_code == 200
    assert till.deliver(1).status_code == 200


def test_a_rejected_key_stays_out_and_its_name_is_free_for_another(cloud: Cloud) -> None:
    stranger, owner, token = cloud.machine("till-1"), cloud.machine("till-1"), cloud.new_token(approve=True, uses=2)
    assert stranger.join(token).status_code == 202
    refused(owner.join(token), 409, "conflict", "another key")
    cloud.store.fleet.change("till-1", "reject")
    refused(stranger.sign_in(), 403, "forbidden", "was rejected")
    refused(stranger.join(token), 403, "forbidden", "was rejected")
    assert owner.join(token).status_code == 202
    cloud.store.fleet.change("till-1", "approve", public(owner.key))
    assert owner.sign_in().status_code == 200
    refused(stranger.sign_in(), 401, "auth")


def test_who_cannot_prove_the_key_does_not_learn_whether_it_was_approved(cloud: Cloud) -> None:
    till = cloud.machine("till-1")
    till.join(cloud.new_token(approve=True))
    refused(till.sign_in(till.signed(Ed25519PrivateKey.generate())), 401, "auth", "not the device's")


def test_a_device_that_is_expected_joins_with_any_token_of_the_fleet_once_it_shows_its_key(cloud: Cloud) -> None:
    till, other = cloud.machine("till-1"), cloud.machine("till-1")
    cloud.store.fleet.preauthorise("till-1", public(till.key), "south")
    token = cloud.new_token(approve=True)
    assert cloud.machine("till-2").join(token).status_code == 202  # its only use
    refused(till.sign_in(), 403, "forbidden", "has not joined")
    refused(other.join(token), 409, "conflict", "another key")
    reply = till.join(token)
    assert (reply.status_code, reply.get_json()["region"], reply.get_json()["status"]) == (200, "south", "accepted")
    assert till.sign_in().status_code == 200


# ---- stolen tokens


def test_a_stolen_token_is_worth_no_more_than_its_uses_its_time_and_its_region(
    cloud: Cloud, monkeypatch: pytest.MonkeyPatch
) -> None:
    token = cloud.new_token(region="south", uses=2)
    for name in ("thief-1", "thief-2"):
        assert cloud.machine(name).join(token, region="north").get_json()["region"] == "south"
    refused(cloud.machine("thief-3").join(token), 401, "auth", "used up")
    fresh, now = cloud.new_token(uses=9), time.time()
    monkeypatch.setattr(time, "time", lambda: now + 61)
    refused(cloud.machine("thief-4").join(fresh), 401, "auth", "expired")
    assert [row["device"] for row in cloud.store.fleet.all()] == ["thief-1", "thief-2"]


def test_a_stolen_token_takes_nobodys_name_and_the_attempt_is_seen(cloud: Cloud) -> None:
    till, token = cloud.device(), cloud.new_token(uses=9)
    for _ in range(3):
        refused(cloud.machine("till-1").join(token, public_key="ab" * 32), 409, "conflict", "another key")
    assert till.kinds() == ["name-asked-for"]  # once, however often
    assert cloud.store.fleet.tokens()[0]["uses_left"] == 9
    assert till.deliver(1).status_code == 200
    assert any("till-1: name asked for" in event["said"] for event in events(cloud.store))


def test_without_a_good_token_nobody_can_fill_the_events(cloud: Cloud) -> None:
    till = cloud.device()
    refused(cloud.machine("till-1").join(cloud.new_token(), secret="guess"), 401, "auth")
    till.sign_in(till.signed(Ed25519PrivateKey.generate()))
    assert till.kinds() == []


def test_a_retired_device_delivers_nothing_with_the_token_it_has(cloud: Cloud) -> None:
    till = cloud.device()
    cloud.store.fleet.retire("till-1")
    refused(till.deliver(1), 403, "forbidden", "was retired")
    refused(till.sign_in(), 403, "forbidden", "was retired")
    refused(till.join(cloud.new_token()), 409, "conflict", "was retired")
    refused(till.rotate(till.rotation(Ed25519PrivateKey.generate())), 401, "auth")


# ---- requests that are sent again


def test_a_sign_in_that_somebody_has_recorded_is_good_once(cloud: Cloud) -> None:
    till = cloud.device()
    body = till.signed()
    assert till.sign_in(body).status_code == 200
    refused(till.sign_in(body), 401, "auth", "used before")
    assert till.sign_in().status_code == 200


def test_a_sign_in_that_somebody_has_recorded_is_good_for_nothing_after_a_restart(cloud: Cloud) -> None:
    till = cloud.device()
    spent, unused = till.signed(), till.signed()
    assert till.sign_in(spent).status_code == 200
    cloud.restart()
    for body in (spent, unused):
        refused(till.sign_in(body), 401, "auth", "the nonce is not ours")
    assert till.deliver(1).status_code == 200  # the token of before goes on
    assert till.sign_in().status_code == 200


def test_a_nonce_that_was_refused_can_still_be_used_by_its_device(cloud: Cloud) -> None:
    till = cloud.device()
    body = till.signed()
    wrong = msgspec.json.encode(msgspec.json.decode(body) | {"signature": "00" * 64})
    refused(till.sign_in(wrong), 401, "auth")
    assert till.sign_in(body).status_code == 200


def test_spent_nonces_are_forgotten_with_their_minute(monkeypatch: pytest.MonkeyPatch) -> None:
    sessions, now = enrol.Sessions(b"k" * 32), time.time()
    for i in range(100):
        monkeypatch.setattr(time, "time", lambda i=i: now + 10.0 * i)
        sessions.spend_nonce(sessions.new_nonce("a"))
    assert len(sessions._spent) < 10


# ---- copied keys


def test_two_machines_with_one_store_are_seen_and_the_first_ones_counts_stay(cloud: Cloud) -> None:
    till = cloud.device()
    assert till.deliver(1).status_code == 200
    copy = cloud.machine("till-1", till.key)
    copy.sign_in()
    refused(copy.deliver(1, requests=1000), 409, "conflict", "number 1")
    assert till.kinds() == [SHARED]
    assert till.deliver(2).status_code == 200
    assert cloud.store.evidence.totals("till-1")["requests"] == 14
    (event,) = [event for event in events(cloud.store) if "two devices use this key" in event["said"]]
    assert (event["tone"], event["actor"]) == ("bad", "till-1")


def test_a_copy_with_a_spool_of_its_own_is_seen_when_the_two_take_turns(cloud: Cloud) -> None:
    till = cloud.device()
    copy = cloud.machine("till-1", till.key)
    copy.spool = "other"
    copy.sign_in()
    till.deliver(1)
    copy.deliver(1)
    assert till.kinds() == []  # it may have lost its spool and made a new one
    till.deliver(2)
    assert till.kinds() == [SHARED]
    for sequence in (3, 4, 5):
        assert till.deliver(sequence).status_code == copy.deliver(sequence).status_code == 200
    assert set(till.kinds()) == {SHARED}
    assert len(till.kinds()) == 2  # seen from both sides, once an hour
    assert cloud.store.evidence.totals("till-1")["requests"] == 7 * 9


def test_a_device_whose_spool_was_lost_is_not_taken_for_two(cloud: Cloud) -> None:
    till = cloud.device()
    for spool in ("a", "b", "c"):
        till.spool = spool
        for sequence in (1, 2, 2):
            assert till.deliver(sequence).status_code == 200
    assert till.kinds() == []


def test_a_copied_key_gets_no_other_name_and_the_attempt_is_seen_at_the_first(cloud: Cloud) -> None:
    till, token = cloud.device(), cloud.new_token()
    refused(cloud.machine("till-2", till.key).join(token), 409, "conflict", "this key is that of 'till-1'")
    assert till.kinds() == [SHARED]
    assert "'till-2'" in cloud.store.fleet.events()[0]["detail"]
    assert cloud.store.fleet.find("till-2") is None
    assert cloud.machine("till-2").join(token).status_code == 200  # with a key of its own, and a use of the token left
    with pytest.raises(ConflictError, match="'till-1', which is accepted"):
        cloud.store.fleet.preauthorise("till-3", public(till.key), "north")
    cloud.store.fleet.retire("till-1")
    refused(cloud.machine("till-4", till.key).join(cloud.new_token()), 409, "conflict", "which is retired")


def test_a_device_that_was_rejected_may_ask_again_under_the_right_name(cloud: Cloud) -> None:
    wrong = cloud.machine("tlil-1")
    assert wrong.join(cloud.new_token(approve=True)).status_code == 202
    cloud.store.fleet.change("tlil-1", "reject")
    assert cloud.machine("till-1", wrong.key).join(cloud.new_token()).status_code == 200


def test_a_device_can_not_take_over_another_ones_key(cloud: Cloud) -> None:
    """It holds a copy of the other's key, so it can sign with both."""
    till, other = cloud.device(), cloud.device("till-2")
    refused(other.rotate(other.rotation(till.key)), 409, "conflict", "this key is that of 'till-1'")
    assert other.sign_in().status_code == 200


# ---- a new key


def test_a_device_replaces_its_key_and_exactly_one_key_counts_at_any_time(cloud: Cloud) -> None:
    till, new = cloud.device(), Ed25519PrivateKey.generate()
    request = till.rotation(new)
    assert till.rotate(request).get_json() == {"schema": "covey.rotated-key/1", "public_key": public(new)}
    refused(till.deliver(1), 401, "auth", "before a new key")  # a token of the old key is good no more
    refused(till.sign_in(), 401, "auth", "not the device's")
    old, till.key = till.key, new
    assert till.sign_in().status_code == 200
    assert till.deliver(1).status_code == 200
    (entry,) = cloud.store.audit.all(1, "device new-key")
    assert (entry["actor"], entry["subject"], public(old) in entry["detail"]) == ("till-1", "till-1", True)


def test_a_rotation_whose_answer_was_lost_is_repeated_and_done_once(cloud: Cloud) -> None:
    till, new = cloud.device(), Ed25519PrivateKey.generate()
    assert till.rotate(till.rotation(new)).status_code == 200
    assert till.rotate(till.rotation(new)).get_json()["public_key"] == public(new)
    assert len(cloud.store.audit.all(9, "device new-key")) == 1


def test_a_rotation_that_somebody_has_recorded_changes_nothing(cloud: Cloud) -> None:
    till, second, third = cloud.device(), Ed25519PrivateKey.generate(), Ed25519PrivateKey.generate()
    recorded = till.rotation(second)
    assert till.rotate(recorded).status_code == 200
    refused(till.rotate(recorded), 401, "auth", "used before")
    assert till.rotate(till.rotation(third, second)).status_code == 200
    refused(till.rotate(till.rotation(second)), 401, "auth", "not the device's")  # the first key, long replaced
    assert cloud.store.fleet.get("till-1")["public_key"] == public(third)


def test_nobody_makes_a_new_key_for_a_device_without_both_keys(cloud: Cloud) -> None:
    till, new, stranger = cloud.device(), Ed25519PrivateKey.generate(), Ed25519PrivateKey.generate()
    other = cloud.device("till-2")
    good = till.rotation(new)
    for changed, says in (
        ({"old_signature": "00" * 64}, "old_signature"),
        ({"new_signature": "00" * 64}, "new_signature"),
        ({"new_key": public(stranger)}, "signature"),
        ({"nonce": other.nonce()}, "nonce"),
        ({"nonce": "guess"}, "nonce"),
        ({"nonce": till.token[:200]}, "nonce"),
    ):
        assert till.rotate(msgspec.structs.replace(good, **changed)).status_code in (401, 403)
        assert says in till.rotate(msgspec.structs.replace(good, **changed)).get_json()["detail"]
    refused(till.rotate(till.rotation(new, stranger)), 401, "auth", "not the device's")
    refused(till.rotate(till.rotation(till.key)), 401, "auth", "is the old one")
    refused(other.rotate(good), 403, "forbidden", "another device's")
    refused(cloud.machine("nobody").rotate(cloud.machine("nobody").rotation(new)), 401, "auth")
    assert cloud.store.fleet.get("till-1")["public_key"] == public(till.key)
    assert till.rotate(good).status_code == 200


def test_who_signs_in_with_a_key_that_was_replaced_is_seen(cloud: Cloud) -> None:
    till, new = cloud.device(), Ed25519PrivateKey.generate()
    thief = cloud.machine("till-1", till.key)
    till.rotate(till.rotation(new))
    refused(thief.sign_in(), 401, "auth")
    assert till.kinds() == [SHARED]
    assert "was replaced" in cloud.store.fleet.events()[0]["detail"]


def test_a_demand_for_a_new_key_is_heard_at_the_next_delivery(cloud: Cloud) -> None:
    till, new = cloud.device(), Ed25519PrivateKey.generate()
    assert till.sign_in().get_json()["rotate_key"] is False
    cloud.store.fleet.change("till-1", "rotate")
    refused(till.deliver(1), 401, "auth", "asked for")  # so that it signs in, and hears of it
    assert till.sign_in().get_json()["rotate_key"] is True
    assert till.deliver(1).status_code == 200  # one that can not, goes on delivering
    till.rotate(till.rotation(new))
    till.key = new
    assert till.sign_in().get_json()["rotate_key"] is False


# ---- garbage


@pytest.mark.parametrize(
    ("change", "field"),
    [({"old_key": "x"}, "old_key"), ({"new_key": "AB" * 32}, "new_key"), ({"nonce": "n" * 201}, "nonce"),
     ({"new_signature": "ab"}, "new_signature"), ({"old_signature": 7}, "old_signature"), ({"nonce": None}, "nonce"),
     ({"schema": "covey.rotate-key/2"}, "schema"), ({"schema": "covey.join/1"}, "schema")],
)  # fmt: skip
def test_a_rotation_that_makes_no_sense_is_refused_by_its_field(
    cloud: Cloud, change: dict[str, object], field: str
) -> None:
    said = msgspec.json.decode(codec.to_json(cloud.device().rotation(Ed25519PrivateKey.generate()))) | change
    reply = cloud.client.post("/api/v1/devices/till-1/key", json=said)
    assert (reply.status_code, field in reply.get_json()["field"]) == (400, True), reply.text


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(body=st.binary(max_size=300), name=st.sampled_from(["till-1", "nobody", "%00", "a|b"]))
def test_no_bytes_are_a_fault_of_the_server(cloud: Cloud, body: bytes, name: str) -> None:
    assert cloud.client.post(f"/api/v1/devices/{name}/key", data=body).status_code == 400


def test_a_body_larger_than_any_is_refused(cloud: Cloud) -> None:
    reply = cloud.client.post("/api/v1/devices/till-1/key", data=b" " * (protocol.MAX_JSON_BYTES + 1))
    refused(reply, 413, "too-large")
    assert cloud.client.get("/api/v1/devices/till-1/key", headers={"Accept": "*/*"}).status_code == 405
