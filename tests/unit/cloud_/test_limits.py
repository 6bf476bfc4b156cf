"""How fast devices may ask: buckets with a simulated clock, and what a device that asks too fast is told."""

from __future__ import annotations

import dataclasses
import typing

import flask.testing
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cloud.config import Project
from cloud.config.fleet import ServeSettings
from cloud.store.store import Store
from cloud.web import limits
from cloud.web.app import create_app
from cloud.web.limits import Buckets, Limits, TooFastError
from shared import protocol
from shared.errors import ConfigError
from tests.unit.cloud_ import builders

NONCE = protocol.NONCE_PATH.format(device="till-1")


@dataclasses.dataclass
class Clock:
    """Seconds that pass when a test says so."""

    seconds: float = 0.0

    def __call__(self) -> float:
        return self.seconds


@given(
    per_s=st.floats(0.01, 1000),
    burst=st.integers(1, 50),
    pauses=st.lists(st.floats(0, 20), min_size=1, max_size=60),
)
def test_never_more_than_a_burst_and_what_time_brings(per_s: float, burst: int, pauses: list[float]) -> None:
    clock = Clock()
    buckets, taken = Buckets(per_s, burst, clock), 0
    for pause in pauses:
        clock.seconds += pause
        wait_s = buckets.take("a")
        taken += wait_s == 0
        assert taken <= burst + clock.seconds * per_s + 1e-6
        if wait_s:
            clock.seconds += wait_s * (1 + 1e-9) + 1e-9
            assert buckets.take("a") == 0  # whoever waits as long as told is answered
            taken += 1


def test_who_is_refused_does_not_wait_longer_for_asking_again() -> None:
    clock = Clock()
    buckets = Buckets(1.0, 1, clock)
    assert [buckets.take("a") for _ in range(50)] == [0.0] + [1.0] * 49


def test_no_rate_is_no_limit() -> None:
    buckets = Buckets(0.0, 0, Clock())
    assert {buckets.take("a") for _ in range(1000)} == {0.0}
    assert len(buckets) == 0


def test_a_crowd_of_addresses_does_not_fill_the_memory_nor_free_who_asked_too_fast(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(limits, "_MAX_KEYS", 100)
    clock = Clock()
    buckets = Buckets(1.0, 10, clock)
    for _ in range(10):
        assert buckets.take("fast") == 0
    for i in range(1000):
        assert buckets.take(f"one of many {i}") == 0
        assert len(buckets) <= 100
    assert buckets.take("fast") > 0
    clock.seconds = 60
    for i in range(101):
        buckets.take(f"later {i}")
    assert len(buckets) == 101 - 1 or len(buckets) <= 100


def run(seconds: float, devices: int, every_s: float, ask: typing.Callable[[int], None], clock: Clock) -> None:
    """Let devices ask, one after the other, for a time."""
    end = clock.seconds + seconds
    while clock.seconds < end:
        for i in range(devices):
            ask(i)
        clock.seconds += every_s


def test_the_demos_devices_are_never_hindered() -> None:
    clock = Clock()
    given_limits = Limits(ServeSettings(), clock)

    def ask(i: int) -> None:
        given_limits.request("127.0.0.1")
        given_limits.sign_in("127.0.0.1", f"n{i}")
        given_limits.delivery(f"n{i}")

    for i in range(24):
        given_limits.request("127.0.0.1")
        given_limits.join("127.0.0.1")
        ask(i)
    run(120, 24, 0.25, ask, clock)


def test_a_thousand_devices_behind_one_address_come_back_at_once() -> None:
    clock = Clock()
    given_limits = Limits(ServeSettings(), clock)

    def ask(i: int) -> None:
        for _ in range(2):  # a nonce, a token
            given_limits.request("10.0.0.1")
            given_limits.sign_in("10.0.0.1", f"d{i}")
        for _ in range(3):
            given_limits.request("10.0.0.1")
            given_limits.delivery(f"d{i}")

    for _ in range(1000):  # all join in the same moment
        given_limits.request("10.0.0.1")
        given_limits.join("10.0.0.1")
    run(90, 1000, 15, ask, clock)


def test_who_guesses_is_slowed_down_alone() -> None:
    clock = Clock()
    given_limits = Limits(ServeSettings(), clock)
    for _ in range(1200):
        given_limits.join("10.0.0.9")
    with pytest.raises(TooFastError, match="20 a second"):
        given_limits.join("10.0.0.9")
    given_limits.join("10.0.0.8")
    for _ in range(1200):
        given_limits.sign_in("10.0.0.9", "till-1")
    with pytest.raises(TooFastError, match="device 'till-1'"):
        given_limits.sign_in("10.0.0.9", "till-1")
    given_limits.sign_in("10.0.0.8", "till-1")  # the device itself is not kept out
    clock.seconds += 1
    for _ in range(20):
        given_limits.join("10.0.0.9")
    with pytest.raises(TooFastError):
        given_limits.join("10.0.0.9")


def test_addresses_of_one_ipv6_network_are_one_source() -> None:
    given_limits = Limits(ServeSettings(join_limit_per_s=1.0, limit_burst_s=2.0), Clock())
    given_limits.join("2001:db8::1")
    given_limits.join("2001:db8::2")
    with pytest.raises(TooFastError):
        given_limits.join("2001:db8::ffff:3")
    given_limits.join("2001:db8:0:1::1")


# ---- over HTTP


class Served(typing.NamedTuple):
    """A cloud with small limits and a clock of its own."""

    client: flask.testing.FlaskClient
    clock: Clock


@pytest.fixture
def served(empty: Project, empty_store: Store) -> Served:
    app, clock = create_app(empty, empty_store), Clock()
    serve = ServeSettings(address_limit_per_s=4, join_limit_per_s=0.1, device_limit_per_s=2, limit_burst_s=10)
    app.extensions["covey-limits"] = Limits(serve, clock)
    return Served(app.test_client(), clock)


def too_fast(reply: typing.Any, field: str, wait_s: int) -> None:
    said = reply.get_json()
    assert (reply.status_code, said["status"], said["type"]) == (429, 429, "urn:covey:error:too-fast")
    assert (reply.headers["Retry-After"], said["field"]) == (str(wait_s), field)
    assert f"Wait {wait_s} s." in said["detail"]


def test_a_device_that_asks_too_fast_is_told_when_to_come_again(served: Served) -> None:
    assert [served.client.post(NONCE).status_code for _ in range(20)] == [200] * 20
    too_fast(served.client.post(NONCE), "device 'till-1'", 1)
    assert served.client.post(NONCE.replace("till-1", "till-2")).status_code == 200
    served.clock.seconds = 1.0
    assert [served.client.post(NONCE).status_code for _ in range(3)] == [200, 200, 429]


def test_joins_have_a_limit_of_their_own(served: Served) -> None:
    assert served.client.post(protocol.JOIN_PATH, data=b"{}").status_code == 400
    too_fast(served.client.post(protocol.JOIN_PATH, data=b"{}"), "address 127.0.0.1", 10)
    elsewhere = {"REMOTE_ADDR": "10.9.8.7"}
    assert served.client.post(protocol.JOIN_PATH, data=b"{}", environ_overrides=elsewhere).status_code == 400


@pytest.mark.parametrize("path", ["join", "x/nonce", "x/token", "x/key"])
def test_an_address_has_one_limit_for_everything(served: Served, path: str) -> None:
    for i in range(40):
        assert served.client.post(NONCE.replace("till-1", f"d{i}")).status_code == 200
    too_fast(served.client.post(f"/api/v1/devices/{path}"), "address 127.0.0.1", 1)
    too_fast(served.client.post(protocol.TELEMETRY_PATH), "address 127.0.0.1", 1)
    assert served.client.get("/healthz").status_code == 200  # pages and files are not counted
    assert served.client.get("/api/v1/fleet").status_code == 200


@pytest.mark.parametrize(
    ("key", "value"),
    [("address_limit_per_s", "-1.0"), ("join_limit_per_s", "nan"), ("device_limit_per_s", '"many"'),
     ("limit_burst_s", "0.0"), ("limit_burst_s", "inf"), ("adress_limit_per_s", "1.0")],
)  # fmt: skip
def test_a_limit_that_makes_no_sense_is_refused_by_its_key(tmp_path: typing.Any, key: str, value: str) -> None:
    with pytest.raises(ConfigError, match=key.rsplit("_", maxsplit=1)[-1]):
        builders.make_project(tmp_path / "shop", serve=f"{key} = {value}")
