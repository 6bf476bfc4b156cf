"""Join tokens, sign-in and device tokens: who may deliver."""

from __future__ import annotations

import base64
import hashlib
import hmac
import pathlib
import secrets
import time

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from cloud.config import Project
from cloud.publish.repository import SignedRepository
from cloud.store.blobs import write_file
from cloud.store.store import Store
from shared import protocol
from shared.errors import AuthError, ForbiddenError, UsageError

_NONCE_LIFETIME_S = 60
_TOKEN_LIFETIME_S = 3600
_SECRET_MODE = 0o600
_SECRET_FILE = "session.key"  # noqa: S105 - a file name


def new_join_token(
    project: Project, store: Store, *, region: str, uses: int, lifetime_s: float, actor: str
) -> protocol.JoinToken:
    """Make a token with which devices may join a region."""
    if region not in project.settings.regions.order:
        known = ", ".join(project.settings.regions.order)
        raise UsageError(f"no region {region!r:.60}", field="--region", fix=f"Known are: {known}.")
    if uses < 1 or lifetime_s <= 0:
        raise UsageError("a token that nobody can use", field="--uses", fix="At least one use, and some time.")
    root = SignedRepository(project.repository, project.keys).root_bytes()
    token = protocol.JoinToken(secrets.token_hex(4), secrets.token_urlsafe(24), hashlib.sha256(root).hexdigest())
    with store.db.transaction():
        store.fleet.add_token(token.token_id, token.secret, region, uses=uses, lifetime_s=lifetime_s)
        store.audit.add("device token", token.token_id, actor=actor, region=region, uses=uses)
    return token


def create_session_key(keys: pathlib.Path) -> None:
    """Make the secret behind nonces and device tokens, if there is none."""
    if not (keys / _SECRET_FILE).exists():
        write_file(keys / _SECRET_FILE, secrets.token_bytes(32), _SECRET_MODE)


class Sessions:
    """Nonces and device tokens; nothing is stored, so any server process can check them.

    Parameters
    ----------
    key : bytes
        The project's session secret.
    """

    def __init__(self, key: bytes) -> None:
        self._key = key

    @classmethod
    def of(cls, project: Project) -> Sessions:
        """Read the project's secret."""
        return cls((project.keys / _SECRET_FILE).read_bytes())

    def new_nonce(self, device: str) -> str:
        """Return a number for a device to sign."""
        return self._seal("nonce", device, int(time.time()) + _NONCE_LIFETIME_S)

    def sign_in(self, device: str, public_key: str, request: protocol.SignInRequest) -> protocol.SignInReply:
        """Check that a device holds its key, and return a token.

        Raises
        ------
        AuthError
            The nonce is old or not ours, or the signature is wrong.
        """
        self._open("nonce", request.nonce, device)
        key = Ed25519PublicKey.from_public_bytes(bytes.fromhex(public_key))
        try:
            key.verify(bytes.fromhex(request.signature), protocol.sign_in_message(device, request.nonce))
        except InvalidSignature as err:
            raise AuthError("the signature is not the device's", field="signature") from err
        token = self._seal("token", device, int(time.time()) + _TOKEN_LIFETIME_S)
        return protocol.SignInReply(token=token, expires_in_s=float(_TOKEN_LIFETIME_S))

    def device_of(self, token: str) -> str:
        """Return the device that a token speaks for.

        Raises
        ------
        AuthError
            It is not ours, or has expired.
        """
        return self._open("token", token)

    def _seal(self, kind: str, device: str, expires_s: int) -> str:
        body = f"{kind}|{device}|{expires_s}".encode()
        mac = hmac.new(self._key, body, hashlib.sha256).digest()
        return base64.urlsafe_b64encode(mac + body).decode().rstrip("=")

    def _open(self, kind: str, text: str, device: str = "") -> str:
        try:
            raw = base64.urlsafe_b64decode(text.encode() + b"=" * (-len(text) % 4))
            mac, body = raw[:32], raw[32:]
            seen_kind, seen_device, expires_s = body.decode().split("|")
            until = int(expires_s)
        except (ValueError, UnicodeError) as err:
            raise AuthError(f"this is not a {kind}", field=kind, fix="Sign in again.") from err
        if not hmac.compare_digest(mac, hmac.new(self._key, body, hashlib.sha256).digest()):
            raise AuthError(f"the {kind} is not ours", field=kind, fix="Sign in again.")
        if seen_kind != kind or until < time.time():
            raise AuthError(f"the {kind} has expired", field=kind, fix="Sign in again.")
        if device and seen_device != device:
            raise ForbiddenError(f"the {kind} is another device's", field=kind)
        return seen_device
