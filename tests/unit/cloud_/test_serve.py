"""``covey serve`` takes a port that nobody has, on an address of this machine, and says so where it can not."""

from __future__ import annotations

import socket
import threading

import pytest

from cloud.cli.serve import find_address
from shared.errors import ConflictError, UsageError


def listener(*, shares: bool) -> socket.socket:
    """Somebody who listens on a port of its own; one that shares it is what another ``covey serve`` is."""
    held = socket.socket()
    held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    if shares:
        held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    held.bind(("127.0.0.1", 0))
    held.listen()
    return held


@pytest.mark.parametrize("shares", [False, True])
def test_a_port_that_somebody_serves_on_is_refused_even_if_it_would_be_shared(
    shares: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    with listener(shares=shares) as held:
        port = held.getsockname()[1]
        with pytest.raises(ConflictError, match=f"port {port} already.*--port"):
            find_address("127.0.0.1", port, wait_s=0.0)
    assert f"port {port} is taken" not in capsys.readouterr().err


def test_a_server_that_is_about_to_end_is_waited_for(capsys: pytest.CaptureFixture[str]) -> None:
    held = listener(shares=True)
    port = held.getsockname()[1]
    found: list[str] = []
    asking = threading.Thread(target=lambda: found.append(find_address("127.0.0.1", port, wait_s=600.0)))
    asking.start()
    said = ""
    while "is taken" not in said:  # it has looked, and waits
        said += capsys.readouterr().err
    held.close()
    asking.join()
    assert found == ["127.0.0.1"]
    assert said.count("is taken; waiting") == 1


def test_connections_of_a_server_that_ended_hold_no_port() -> None:
    with listener(shares=True) as held:
        place = held.getsockname()
        client = socket.create_connection(place)
        served, _ = held.accept()
        served.close()  # the side that closes first keeps the port in TIME_WAIT
        client.close()
    assert find_address("127.0.0.1", place[1], wait_s=0.0) == "127.0.0.1"


def test_a_name_of_this_machine_becomes_its_address() -> None:
    with listener(shares=False) as held:
        port = held.getsockname()[1]
    assert find_address("localhost", port, wait_s=0.0) == "127.0.0.1"


@pytest.mark.parametrize("host", ["203.0.113.7", "no host"])
def test_what_is_no_address_of_this_machine_is_refused_by_name(host: str) -> None:
    with pytest.raises(UsageError, match=f"--host: '{host}' is no address of this machine"):
        find_address(host, 18080, wait_s=0.0)
