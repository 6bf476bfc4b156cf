"""Join tokens, nonces and device tokens as such; how they look over HTTP is in test_device_routes."""

from __future__ import annotations

import base64
import pathlib
import stat
import time

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given
from hypothesis import strategies as st

from cloud import enrol
from cloud.config import Project
from cloud.rollout import overview
from cloud.store.ingest import ingest
from cloud.store.store import Store
from shared import protocol
from shared.errors import AuthError, ConflictError, ForbiddenError, NotFoundError, UsageError
from shared.telemetry import Batch, DeviceStatus

KEY = "00" * 32


def new(project: Project, store: Store, *, region: str = "north", uses: int = 1) -> protocol.JoinToken:
    return enrol.new_join_token(project, store, region=region, uses=uses, lifetime_s=60, actor="ada")


def test_a_token_says_everything_a_device_needs_and_the_database_cannot_say_its_secret(
    empty: Project, empty_store: Store
) -> None:
    token = new(empty, empty_store)
    assert protocol.parse_join_token(f" {token}\n") == token
    assert token.secret not in "\n".join(map(str, empty_store.db.rows("select * from join_tokens")))
    (entry,) = empty_store.audit.all(1, "device token")
    assert (entry["actor"], entry["subject"]) == ("ada", token.token_id)
    assert token.secret not in str(entry)


@pytest.mark.parametrize(
    ("region", "uses", "lifetime_s", "field"),
    [("mars", 1, 60.0, "--region"), ("north", 0, 60.0, "--uses"), ("north", 1, 0.0, "--uses")],
)
def test_a_token_that_nobody_can_use_is_not_made(
    empty: Project, empty_store: Store, region: str, uses: int, lifetime_s: float, field: str
) -> None:
    before = empty_store.fleet.tokens()
    with pytest.raises(UsageError) as raised:
        enrol.new_join_token(empty, empty_store, region=region, uses=uses, lifetime_s=lifetime_s, actor="ada")
    assert raised.value.field == field
    assert empty_store.fleet.tokens() == before


def test_a_token_lets_in_as_many_devices_as_it_says_into_its_region(empty: Project, empty_store: Store) -> None:
    token = new(empty, empty_store, region="south", uses=2)
    for device, key in (("a", KEY), ("b", "0b" * 32)):
        assert empty_store.fleet.join(device, key, token.token_id, token.secret)["region"] == "south"
    with pytest.raises(AuthError, match="used up"):
        empty_store.fleet.join("c", "0c" * 32, token.token_id, token.secret)
    assert empty_store.fleet.join("a", KEY, token.token_id, token.secret)["device"] == "a"  # it was in already


def test_a_retired_devices_name_is_not_given_again(empty: Project, empty_store: Store) -> None:
    token = new(empty, empty_store, uses=3)
    empty_store.fleet.join("a", KEY, token.token_id, token.secret)
    empty_store.fleet.retire("a")
    with pytest.raises(ConflictError):
        empty_store.fleet.join("a", KEY, token.token_id, token.secret)
    assert empty_store.fleet.all() == []
    with pytest.raises(NotFoundError):
        empty_store.fleet.retire("nobody")


@pytest.mark.parametrize(
    ("status", "says"),
    [("pending", "waits for approval"), ("preauthorised", "was preauthorised"), ("rejected", "was rejected"),
     ("retired", "was retired")],
)  # fmt: skip
def test_nothing_is_taken_in_for_a_device_that_is_not_accepted_whichever_way_it_comes(
    empty_store: Store, status: str, says: str
) -> None:
    empty_store.fleet.preauthorise("a", KEY, "north")
    empty_store.db.connection.execute("update devices set status = ?", (status,))
    with pytest.raises(ForbiddenError, match=says):
        ingest(empty_store.db, Batch(device="a", spool="s", sequence=1, sent_s=1.0, status=DeviceStatus()), 60.0)
    assert empty_store.db.rows("select * from inbox") == []


def test_only_accepted_devices_count_as_the_fleet(empty: Project, empty_store: Store) -> None:
    token = enrol.new_join_token(empty, empty_store, region="north", uses=9, lifetime_s=60, actor="ada", approve=True)
    for name, action in (("a", "approve"), ("b", "reject"), ("c", "")):
        empty_store.fleet.join(name, f"0{name}" * 32, token.token_id, token.secret)
        if action:
            empty_store.fleet.change(name, action)
    assert [row["device"] for row in overview.devices(empty, empty_store)] == ["a"]
    assert overview.fleet(empty, empty_store)["devices"]["total"] == 1


def test_the_session_key_is_secret_and_made_once(tmp_path: pathlib.Path) -> None:
    enrol.create_session_key(tmp_path)
    path = tmp_path / "session.key"
    key = path.read_bytes()
    enrol.create_session_key(tmp_path)
    assert path.read_bytes() == key
    assert len(key) == 32
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def sign(key: Ed25519PrivateKey, device: str, nonce: str) -> protocol.SignInRequest:
    signature = key.sign(protocol.sign_in_message(device, nonce)).hex()
    return protocol.SignInRequest(nonce=nonce, signature=signature)


def public(key: Ed25519PrivateKey) -> str:
    return key.public_key().public_bytes(serialization.Encoding.Raw, serialization.PublicFormat.Raw).hex()


def test_who_holds_the_key_gets_a_token_that_says_who_it_is() -> None:
    sessions, key = enrol.Sessions(b"k" * 32), Ed25519PrivateKey.generate()
    reply = sessions.sign_in("a", public(key), sign(key, "a", sessions.new_nonce("a")))
    assert sessions.bearer_of(reply.token)[0] == "a"
    with pytest.raises(AuthError, match="not ours"):
        enrol.Sessions(b"x" * 32).bearer_of(reply.token)
    with pytest.raises(AuthError, match="signature"):
        sessions.sign_in("a", public(key), sign(Ed25519PrivateKey.generate(), "a", sessions.new_nonce("a")))
    with pytest.raises(ForbiddenError):
        sessions.sign_in("b", public(key), sign(key, "b", sessions.new_nonce("a")))


def test_a_signature_for_one_device_is_none_for_another() -> None:
    sessions, key = enrol.Sessions(b"k" * 32), Ed25519PrivateKey.generate()
    nonce = sessions.new_nonce("b")
    with pytest.raises(AuthError):
        sessions.sign_in("b", public(key), sign(key, "a", nonce))


@given(st.integers(0, 10_000), st.integers(1, 255))
def test_no_token_with_a_changed_byte_is_ours(place: int, change: int) -> None:
    sessions = enrol.Sessions(b"k" * 32)
    raw = bytearray(base64.urlsafe_b64decode(_padded(sessions._seal("token", "a", int(time.time()) + 60))))
    raw[place % len(raw)] ^= change
    with pytest.raises(AuthError):
        sessions.bearer_of(base64.urlsafe_b64encode(bytes(raw)).decode().rstrip("="))


@given(st.text(max_size=200))
def test_no_text_is_a_token(text: str) -> None:
    with pytest.raises(AuthError):
        enrol.Sessions(b"k" * 32).bearer_of(text)


def _padded(text: str) -> str:
    return text + "=" * (-len(text) % 4)
