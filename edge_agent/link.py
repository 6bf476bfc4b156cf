"""The device's side of the line: one requests session, join, sign in, fetch and deliver."""

from __future__ import annotations

import email.utils
import pathlib
import time
import typing

import requests
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from shared import __version__, codec, protocol
from shared.errors import AuthError, ConflictError, CoveyError, NotFoundError, UnreachableError, UsageError, WireError

R = typing.TypeVar("R", bound=codec.Record)
_CHUNK_BYTES = 256 << 10
_HOOK_TIMEOUT_S = 5.0
_LONGEST_WAIT_S = 86_400.0
_SHOWN = 200
_LOCKED, _UNAVAILABLE = 423, 503
_TOKEN_MARGIN_S = 30.0
_UNAUTHORIZED, _NOT_FOUND, _CONFLICT, _SERVER_ERROR, _OK, _PARTIAL = 401, 404, 409, 500, 200, 206


class Link:
    """A session with one cloud.

    Parameters
    ----------
    url : str
        The cloud's address.
    device : str
        The device's name; empty before it has joined.
    key : Ed25519PrivateKey, optional
        The device's own key.
    timeout_s : float
        For connecting, and between two pieces of an answer.
    """

    def __init__(
        self, url: str, device: str = "", key: Ed25519PrivateKey | None = None, timeout_s: float = 30.0
    ) -> None:
        if not url.startswith(("http://", "https://")):
            raise UsageError(f"{url[:100]!r} is not an address", field="URL", fix="It begins with http:// or https://.")
        self.url = url.rstrip("/")
        self.device, self._key, self._timeout_s = device, key, timeout_s
        self._session = requests.Session()
        self._session.headers["User-Agent"] = f"covey-edge/{__version__}"
        self._token, self._token_until = "", 0.0
        self.retry_after_s = 0.0  # what the cloud has asked for since somebody set this to 0

    def stream(self, url: str) -> typing.Iterator[bytes]:
        """Fetch a file in pieces.

        Raises
        ------
        UnreachableError, NotFoundError
            No network, or no such file.
        """
        try:
            with self._session.get(url, stream=True, timeout=self._timeout_s, allow_redirects=False) as response:
                if response.status_code == _NOT_FOUND:
                    raise NotFoundError(f"{url} is not there")
                if response.status_code != _OK:
                    self.retry_after_s = max(self.retry_after_s, retry_after_s(response.headers, time.time()))
                    raise UnreachableError(f"{url} answered {response.status_code}")
                yield from response.iter_content(_CHUNK_BYTES)
        except requests.RequestException as err:
            raise UnreachableError(f"{url}: {err}") from err

    def objection(self, url: str) -> str:
        """Ask an application on this machine whether it minds a switch; return why, or nothing.

        One that is not there, or answers anything but "conflict", "locked" or "unavailable", does not object.
        """
        try:
            response = requests.get(url, timeout=_HOOK_TIMEOUT_S, allow_redirects=False)
        except requests.RequestException:
            return ""
        if response.status_code not in (_CONFLICT, _LOCKED, _UNAVAILABLE):
            return ""
        return response.text.strip()[:_SHOWN] or f"the application answered {response.status_code}"

    def _post(self, path: str, body: bytes, headers: dict[str, str]) -> bytes:
        url = self.url + path
        try:
            response = self._session.post(
                url, data=body, headers=headers, timeout=self._timeout_s, allow_redirects=False
            )
        except requests.RequestException as err:
            raise UnreachableError(f"{url}: {err}") from err
        if response.status_code == _OK:
            return response.content
        self.retry_after_s = max(self.retry_after_s, retry_after_s(response.headers, time.time()))
        raise _error_of(response)

    def exchange(self, path: str, record: codec.Record, reply: type[R]) -> R:
        """Post one record as JSON, read one."""
        body = self._post(path, codec.to_json(record), {"Content-Type": "application/json"})
        return codec.from_json(body, reply, limit_bytes=protocol.MAX_JSON_BYTES * 16)

    def sign_in(self) -> str:
        """Prove who this device is and return a token; a token that is still good is used again."""
        if time.monotonic() < self._token_until:
            return self._token
        if self._key is None:
            raise AuthError("this device has no key", fix="Join a fleet: covey-edge join")
        nonce = self.exchange(
            protocol.NONCE_PATH.format(device=self.device), protocol.NonceReply(nonce=""), protocol.NonceReply
        )
        signature = self._key.sign(protocol.sign_in_message(self.device, nonce.nonce)).hex()
        reply = self.exchange(
            protocol.SIGN_IN_PATH.format(device=self.device),
            protocol.SignInRequest(nonce=nonce.nonce, signature=signature),
            protocol.SignInReply,
        )
        self._token, self._token_until = reply.token, time.monotonic() + reply.expires_in_s - _TOKEN_MARGIN_S
        return self._token

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
        detail = str(response.json()["detail"])
    except (ValueError, KeyError, TypeError):
        detail = f"{response.url} answered {response.status_code}"
    kinds = {_UNAUTHORIZED: AuthError, 403: AuthError, _NOT_FOUND: NotFoundError, _CONFLICT: ConflictError}
    if response.status_code in kinds:
        return kinds[response.status_code](detail)
    if response.status_code >= _SERVER_ERROR or response.status_code == 429:  # noqa: PLR2004 - too many requests
        return UnreachableError(detail)
    return WireError(detail, field=f"HTTP {response.status_code}")


def new_key() -> Ed25519PrivateKey:
    """Make a device key; its private half stays on the device."""
    return Ed25519PrivateKey.generate()


def key_bytes(key: Ed25519PrivateKey) -> bytes:
    """Return the key as PEM."""
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


def public_hex(key: Ed25519PrivateKey) -> str:
    """Return the public half, hex."""
    return key.public_key().public_bytes(serialization.Encoding.Raw, serialization.PublicFormat.Raw).hex()


def load_key(path: pathlib.Path) -> Ed25519PrivateKey:
    """Read the device's key.

    Raises
    ------
    UsageError
        The file is not such a key.
    """
    try:
        key = serialization.load_pem_private_key(path.read_bytes(), None)
    except (OSError, ValueError, TypeError) as err:
        raise UsageError(f"can not be read as a key: {err}", field=str(path), fix="Join the fleet again.") from err
    if not isinstance(key, Ed25519PrivateKey):
        raise UsageError("not an Ed25519 key", field=str(path), fix="Join the fleet again.")
    return key
