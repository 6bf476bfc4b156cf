"""How fast devices may ask: a token bucket for each source address, and for each device."""

from __future__ import annotations

import ipaddress
import math
import threading
import time
import typing

from cloud.config.fleet import ServeSettings
from shared.errors import LimitError

_MAX_KEYS = 50_000
_IPV6_PREFIX = 64


class TooFastError(LimitError):
    """Too many requests of one address or one device.

    Parameters
    ----------
    wait_s : int
        After so long the same request is answered.
    """

    code = "too-fast"

    def __init__(self, message: str, *, field: str, wait_s: int) -> None:
        super().__init__(message, field=field, fix=f"Wait {wait_s} s.")
        self.wait_s = wait_s


class Buckets:
    """Token buckets of one size, one a key. What is kept is when each would be full again: one number.

    Parameters
    ----------
    per_s : float
        Tokens that come back each second; 0 is without a limit.
    burst : float
        Tokens in a full bucket, one at least.
    clock : callable
        Seconds that never go back.

    Examples
    --------
    >>> seconds = [0.0]
    >>> buckets = Buckets(2.0, 3, clock=lambda: seconds[0])
    >>> [buckets.take("a") for _ in range(4)], buckets.take("b")
    ([0.0, 0.0, 0.0, 0.5], 0.0)
    >>> seconds[0] = 0.5
    >>> buckets.take("a"), buckets.take("a")
    (0.0, 0.5)
    """

    def __init__(self, per_s: float, burst: float, clock: typing.Callable[[], float] = time.monotonic) -> None:
        self.per_s = per_s
        self._room_s = (max(burst, 1.0) - 1.0) / per_s if per_s else 0.0
        self._clock = clock
        self._full_s: dict[str, float] = {}
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self._full_s)

    def take(self, key: str) -> float:
        """Take a token; return 0, or how long to wait for the next one. Who is refused takes none."""
        if not self.per_s:
            return 0.0
        with self._lock:
            now = self._clock()
            full_s = max(self._full_s.get(key, now), now)
            wait_s = full_s - now - self._room_s
            if wait_s > 0:
                return wait_s
            self._full_s[key] = full_s + 1 / self.per_s
            if len(self._full_s) > _MAX_KEYS:
                self._make_room(now)
            return 0.0

    def _make_room(self, now: float) -> None:
        """Forget buckets that are full, and the half that fills soonest if there are still too many."""
        used = sorted((full_s, key) for key, full_s in self._full_s.items() if full_s > now)
        keep = used[len(used) // 2 :] if len(used) > _MAX_KEYS // 2 else used
        self._full_s = {key: full_s for full_s, key in keep}


class Limits:
    """The limits of one server.

    Parameters
    ----------
    serve : ServeSettings
        ``[serve]``.
    clock : callable
        Seconds that never go back.
    """

    def __init__(self, serve: ServeSettings, clock: typing.Callable[[], float] = time.monotonic) -> None:
        def buckets(per_s: float) -> Buckets:
            return Buckets(per_s, per_s * serve.limit_burst_s, clock)

        self._addresses, self._joins = buckets(serve.address_limit_per_s), buckets(serve.join_limit_per_s)
        self._sign_ins, self._deliveries = buckets(serve.device_limit_per_s), buckets(serve.device_limit_per_s)

    def request(self, address: str) -> None:
        """Count a request of any kind.

        Raises
        ------
        TooFastError
            Too many came from this address; so do the others raise.
        """
        _take(self._addresses, network_of(address), "requests", f"address {network_of(address)}")

    def join(self, address: str) -> None:
        """Count an attempt to join."""
        _take(self._joins, network_of(address), "attempts to join", f"address {network_of(address)}")

    def sign_in(self, address: str, device: str) -> None:
        """Count a step of a sign-in; by address too, so that nobody can keep a device of another address out."""
        _take(self._sign_ins, f"{network_of(address)} {device[:64]}", "sign-ins", f"device {device[:64]!r}")

    def delivery(self, device: str) -> None:
        """Count a delivery of a device that has proved who it is."""
        _take(self._deliveries, device, "deliveries", f"device {device!r}")


def _take(buckets: Buckets, key: str, what: str, who: str) -> None:
    wait_s = buckets.take(key)
    if wait_s > 0:
        message = f"too many {what}; {buckets.per_s:g} a second are answered in the long run"
        raise TooFastError(message, field=who, wait_s=math.ceil(wait_s))


def network_of(address: str) -> str:
    """Return what counts as one source: an IPv4 address, or the /64 that an IPv6 address is from.

    >>> [network_of(a) for a in ("10.1.2.3", "::ffff:10.1.2.3", "2001:db8:1:2:3:4:5:6", "", "here")]
    ['10.1.2.3', '10.1.2.3', '2001:db8:1:2::/64', 'unknown', 'unknown']
    """
    try:
        parsed = ipaddress.ip_address(address)
    except ValueError:
        return "unknown"
    if isinstance(parsed, ipaddress.IPv4Address):
        return str(parsed)
    if parsed.ipv4_mapped:
        return str(parsed.ipv4_mapped)
    return str(ipaddress.ip_network((int(parsed), _IPV6_PREFIX), strict=False))
