"""The device's side of the line: one requests session, join, sign in, make a new key, fetch and deliver."""

from __future__ import annotations

import contextlib
import email.utils
import time
import typing

import requests
import urllib3
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from edge_agent.device_key import KeyFile, public_hex
from shared import __version__, codec, protocol
from shared.errors import (
    AuthError,
    ConflictError,
    CoveyError,
    NotFoundError,
    TrustError,
    UnreachableError,
    UsageError,
    WireError,
    line_words,
)

R = typing.TypeVar("R", bound=codec.Record)
_CHUNK_BYTES = 256 << 10
_HOOK_TIMEOUT_S = 5.0
_LONGEST_WAIT_S = 86_400.0
_LEAST_BYTES_PER_S = 100
_SHOWN = 200
_FORBIDDEN, _LOCKED, _UNAVAILABLE = 403, 423, 503
_PARTIAL, _NO_SUCH_RANGE = 206, 416
_TOKEN_MARGIN_S = 30.0
_UNAUTHORIZED, _NOT_FOUND, _CONFLICT, _SERVER_ERROR, _OK, _WAITS = 401, 404, 409, 500, 200, 202
_PENDING = "urn:covey:error:pending"


class NotApprovedError(UnreachableError):
    """The cloud knows this device, and nobody has approved it yet."""

    code = "pending"
    http_status = 403
    exit_status = 4


class Link:
    """A session with one cloud.

    Parameters
    ----------
    url : str
        The cloud's address.
    device : str
        The device's name; empty before it has joined.
    key : KeyFile or Ed25519PrivateKey, optional
        The device's own key. One that is not a file can not be replaced.
    timeout_s : float
        For connecting, and between two pieces of an answer.
    beat : callable
        Is called when something goes over the line.
    """

    def __init__(
        self,
        url: str,
        device: str = "",
        key: KeyFile | Ed25519PrivateKey | None = None,
        timeout_s: float = 30.0,
        beat: typing.Callable[[], None] = lambda: None,
    ) -> None:
        if not url.startswith(("http://", "https://")):
            raise UsageError(f"{url[:100]!r} is not an address", field="URL", fix="It begins with http:// or https://.")
        self.url = url.rstrip("/")
        self.device, self._key, self._timeout_s, self._beat = device, key, timeout_s, beat
        self._session = _session(self.url)
        self._token, self._token_until = "", 0.0
        self.labels: dict[str, str] | None = None  # what the cloud has given this device, as of its last sign-in
        self.retry_after_s = 0.0  # what the cloud has asked for since somebody set this to 0

    def stream(self, url: str) -> typing.Iterator[bytes]:
        """Fetch a file in pieces.

        Raises
        ------
        UnreachableError, NotFoundError
            No network, or no such file.
        """
        for _, piece in self.tail(url, 0):
            yield piece

    def tail(self, url: str, at: int) -> typing.Iterator[tuple[int, bytes]]:
        """Fetch what a file has from a byte on, in pieces, each with its position.

        A server that knows no ranges (RFC 9110, 14), or has no such one, sends the file from its beginning.

        Raises
        ------
        UnreachableError, NotFoundError
            No network, or no such file.
        """
        # A range of a file that was packed on the way is not a range of the file.
        headers = {"Range": f"bytes={at}-", "Accept-Encoding": "identity"} if at else {}
        try:
            with self._session.get(
                url, headers=headers, stream=True, timeout=self._timeout_s, allow_redirects=False
            ) as response:
                begins = self._begins(response, at)
                if begins is not None:
                    for piece in self._pieces(response):
                        yield begins, piece
                        begins += len(piece)
                    return
        except (requests.RequestException, urllib3.exceptions.HTTPError) as err:
            raise UnreachableError(f"{url}: {line_words(err)}") from err
        yield from self.tail(url, 0)

    def _begins(self, response: requests.Response, at: int) -> int | None:
        """Return the position of an answer's first byte; None if the file must be asked for from its beginning."""
        status, headers = response.status_code, response.headers
        if status in (_FORBIDDEN, _NOT_FOUND):  # some stores say 403 of what they have not
            # Read to its end, so that the next request goes over the same line: each poll asks for a root that is not.
            response.raw.read1(_CHUNK_BYTES)
            raise NotFoundError(f"{response.url} is not there")
        if status == _OK:
            return 0
        if at and status == _NO_SUCH_RANGE:
            return None
        if at and status == _PARTIAL:
            is_it = headers.get("Content-Range", "").startswith(f"bytes {at}-")
            return at if is_it and headers.get("Content-Encoding", "identity") == "identity" else None
        self.retry_after_s = max(self.retry_after_s, retry_after_s(headers, time.time()))
        raise UnreachableError(f"{response.url} answered {status}")

    def _pieces(self, response: requests.Response) -> typing.Iterator[bytes]:
        """Read what there is, as it comes; a line that drips is given up."""
        began_s, n_bytes = time.monotonic(), 0
        while piece := response.raw.read1(_CHUNK_BYTES, decode_content=True):
            self._beat()
            yield piece
            n_bytes += len(piece)
            took_s = time.monotonic() - began_s
            if took_s > self._timeout_s and n_bytes < took_s * _LEAST_BYTES_PER_S:
                raise UnreachableError(f"{response.url}: {n_bytes:,} bytes in {took_s:.0f} s is too slow")

    def objection(self, url: str) -> str:
        """Ask an application on this machine whether it minds a switch; return why, or nothing.

        One that is not there, or answers anything but "conflict", "locked" or "unavailable", does not object.
        """
        said = b""
        try:
            with requests.get(url, timeout=_HOOK_TIMEOUT_S, allow_redirects=False, stream=True) as response:
                if response.status_code not in (_CONFLICT, _LOCKED, _UNAVAILABLE):
                    return ""
                with contextlib.suppress(urllib3.exceptions.HTTPError):  # the status has said it
                    said = response.raw.read1(_CHUNK_BYTES)
        except requests.RequestException:
            return ""
        return said.decode(errors="replace").strip()[:_SHOWN] or f"the application answered {response.status_code}"

    def _post(self, path: str, body: bytes, headers: dict[str, str]) -> bytes:
        url = self.url + path
        self._beat()
        try:
            response = self._session.post(
                url, data=body, headers=headers, timeout=self._timeout_s, allow_redirects=False
            )
        except requests.RequestException as err:
            raise UnreachableError(f"{url}: {line_words(err)}") from err
        if response.status_code in (_OK, _WAITS):
            return response.content
        self.retry_after_s = max(self.retry_after_s, retry_after_s(response.headers, time.time()))
        raise _error_of(response)

    def exchange(self, path: str, record: codec.Record, reply: type[R]) -> R:
        """Post one record as JSON, read one."""
        body = self._post(path, codec.to_json(record), {"Content-Type": "application/json"})
        return codec.from_json(body, reply, limit_bytes=protocol.MAX_JSON_BYTES * 16)

    def sign_in(self) -> str:
        """Prove who this device is and return a token; a token that is still good is used again.

        A new key that the cloud asks for, or that was begun and not finished, is made first.
        """
        if time.monotonic() < self._token_until:
            return self._token
        if isinstance(self._key, KeyFile) and self._key.is_rotating:
            with contextlib.suppress(NotFoundError):  # an older cloud replaces no keys: there the old one counts
                self.rotate_key(self._key)
        reply = self._sign_in()
        if reply.rotate_key and isinstance(self._key, KeyFile):
            self.rotate_key(self._key)
            reply = self._sign_in()
        self._token, self._token_until = reply.token, time.monotonic() + reply.expires_in_s - _TOKEN_MARGIN_S
        return self._token

    def _sign_in(self) -> protocol.SignInReply:
        if self._key is None:
            raise AuthError("this device has no key", fix="Join a fleet: covey-edge join")
        key, nonce = self._key.load() if isinstance(self._key, KeyFile) else self._key, self._nonce()
        signature = key.sign(protocol.sign_in_message(self.device, nonce)).hex()
        reply = self.exchange(
            protocol.SIGN_IN_PATH.format(device=self.device),
            protocol.SignInRequest(nonce=nonce, signature=signature),
            protocol.SignInReply,
        )
        self.labels = reply.labels
        return reply

    def _nonce(self) -> str:
        path = protocol.NONCE_PATH.format(device=self.device)
        return self.exchange(path, protocol.NonceReply(nonce=""), protocol.NonceReply).nonce

    def rotate_key(self, keys: KeyFile) -> str:
        """Replace the device's key, or finish what was begun; return the public half of the new one.

        Raises
        ------
        AuthError, UnreachableError
            The cloud refuses, or can not be asked: the old key stays, and so does the new one, to be tried again.
        """
        old, new, nonce = keys.load(), keys.begin(), self._nonce()
        message = protocol.rotate_key_message(self.device, nonce, public_hex(old), public_hex(new))
        request = protocol.RotateKeyRequest(
            nonce=nonce,
            old_key=public_hex(old),
            new_key=public_hex(new),
            old_signature=old.sign(message).hex(),
            new_signature=new.sign(message).hex(),
        )
        path = protocol.ROTATE_KEY_PATH.format(device=self.device)
        reply = self.exchange(path, request, protocol.RotateKeyReply)
        if reply.public_key != public_hex(new):
            raise TrustError("the cloud acknowledges a key that is not this device's", field="public_key")
        keys.finish()
        self._token_until = 0.0
        return reply.public_key

    def deliver(self, body: bytes) -> bytes:
        """Deliver one batch; signs in again once if the token is no longer good."""
        for attempt in (1, 2):
            headers = {"Content-Type": protocol.TELEMETRY_TYPE, "Authorization": f"Bearer {self.sign_in()}"}
            try:
                return self._post(protocol.TELEMETRY_PATH, body, headers)
            except AuthError:
                self._token_until = 0.0
                if attempt == 2:  # noqa: PLR2004 - the second and last
                    raise
        raise AssertionError

    def close(self) -> None:
        """Close connections."""
        self._session.close()


def _session(url: str) -> requests.Session:
    """Open a session with one host: the environment says once whether there is a proxy, and whom to trust."""
    made = requests.Session()
    made.headers["User-Agent"] = f"covey-edge/{__version__}"
    found = made.merge_environment_settings(url, {}, None, None, None)
    made.proxies, made.verify = found["proxies"], found["verify"] if found["verify"] is not None else True
    made.trust_env = False  # asked at each request, it would take a third of its time
    return made


def retry_after_s(headers: typing.Mapping[str, str], now_s: float) -> float:
    """Return how long a server asks to be left alone (RFC 9110, 10.2.3), a day at most; 0 if it does not ask.

    >>> retry_after_s({"Retry-After": "120"}, 0.0)
    120.0
    >>> retry_after_s({"Retry-After": "Thu, 01 Jan 1970 00:01:00 GMT"}, 30.0)
    30.0
    """
    said = headers.get("Retry-After", "").strip()
    try:
        wait_s = float(said) if said.isdecimal() else email.utils.parsedate_to_datetime(said).timestamp() - now_s
    except (ValueError, TypeError, OverflowError, IndexError):
        return 0.0
    return min(max(wait_s, 0.0), _LONGEST_WAIT_S)


def _error_of(response: requests.Response) -> CoveyError:
    """Turn an error reply into the exception that fits it."""
    try:
        said = response.json()
        detail = str(said["detail"])
        kind = str(said.get("type", ""))
    except (ValueError, KeyError, TypeError, AttributeError):
        detail, kind = f"{response.url} answered {response.status_code}", ""
    if kind == _PENDING:
        return NotApprovedError(detail)
    kinds = {_UNAUTHORIZED: AuthError, 403: AuthError, _NOT_FOUND: NotFoundError, _CONFLICT: ConflictError}
    if response.status_code in kinds:
        return kinds[response.status_code](detail)
    if response.status_code >= _SERVER_ERROR or response.status_code == 429:  # noqa: PLR2004 - too many requests
        return UnreachableError(detail)
    return WireError(detail, field=f"HTTP {response.status_code}")
