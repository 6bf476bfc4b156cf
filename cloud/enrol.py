"""Join tokens, sign-in, device tokens and new keys: who may deliver."""

from __future__ import annotations

import base64
import hashlib
import hmac
import pathlib
import secrets
import threading
import time
import typing

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from cloud.config import Project
from cloud.publish.repository import SignedRepository
from cloud.store.blobs import write_file
from cloud.store.store import Store
from shared import protocol
from shared.errors import AuthError, ForbiddenError, UsageError
from shared.labels import Held, check_labels

_NONCE_LIFETIME_S = 60
_TOKEN_LIFETIME_S = 3600
_MARK_CHARACTERS = 16
_SECRET_MODE = 0o600
_SECRET_FILE = "session.key"  # noqa: S105 - a file name
Row = typing.Mapping[str, typing.Any]


def new_join_token(
    project: Project,
    store: Store,
    *,
    region: str,
    uses: int,
    lifetime_s: float,
    actor: str,
    approve: bool = False,
    labels: Held | None = None,
) -> protocol.JoinToken:
    """Make a token with which devices may join a region.

    Parameters
    ----------
    approve : bool
        Let each of them wait for a person's word.
    labels : mapping, optional
        What each of them is given.
    """
    check_region(project, region)
    given = dict(labels or {})
    check_labels(given, "--label")
    if uses < 1 or lifetime_s <= 0:
        raise UsageError("a token that nobody can use", field="--uses", fix="At least one use, and some time.")
    root = SignedRepository(project.repository, project.keys).root_bytes()
    token = protocol.JoinToken(secrets.token_hex(4), secrets.token_urlsafe(24), hashlib.sha256(root).hexdigest())
    with store.db.transaction():
        store.fleet.add_token(
            token.token_id, token.secret, region, uses=uses, lifetime_s=lifetime_s, approve=approve, labels=given
        )
        store.audit.add(
            "device token", token.token_id, actor=actor, region=region, uses=uses, approve=approve, labels=given
        )
    return token


def check_region(project: Project, region: str) -> None:
    """Raise UsageError unless the project has a region."""
    if region not in project.settings.regions.order:
        known = ", ".join(project.settings.regions.order)
        raise UsageError(f"no region {region!r:.60}", field="--region", fix=f"Known are: {known}.")


class PendingError(ForbiddenError):
    """The device waits for somebody to approve it."""

    code = "pending"
    retry = True


def check_standing(row: Row) -> None:
    """Refuse a device that has proved who it is and may not deliver.

    Raises
    ------
    PendingError
        It waits for approval.
    ForbiddenError
        It was rejected or retired.
    """
    device, status = row["device"], row["status"]
    if status == "pending":
        raise PendingError(f"{device!r} waits for approval", field="device", fix=f"covey device approve {device}")
    if status == "preauthorised":
        raise ForbiddenError(f"{device!r} is expected and has not joined", field="device", fix="Join first.")
    if status != "accepted":
        raise ForbiddenError(f"{device!r} was {status}", field="device")


def is_signed(public_key: str, signature: str, message: bytes) -> bool:
    """Whether the holder of a key has signed a message."""
    try:
        Ed25519PublicKey.from_public_bytes(bytes.fromhex(public_key)).verify(bytes.fromhex(signature), message)
    except InvalidSignature:
        return False
    return True


def mark_of(row: Row) -> str:
    """Return what a token of a device carries.

    It dies when the key changes, when a new one is asked for, and when the device's labels change: it signs in again
    with its next delivery, and hears of all that then.
    """
    given = "" if row["labels"] == "{}" else f"|{row['labels']}"
    said = f"{row['public_key']}|{row['rotate']}{given}"
    return hashlib.sha256(said.encode()).hexdigest()[:_MARK_CHARACTERS]


def rotate_key(store: Store, sessions: Sessions, device: str, asked: protocol.RotateKeyRequest) -> str:
    """Accept a device's new key in place of its old one; return the one that counts now.

    The request may be repeated with a fresh nonce, since its answer can get lost.

    Raises
    ------
    AuthError
        The nonce is old, spent or not ours, one of the two signatures is wrong, or the old key is not the device's.
    """
    sessions.check_nonce(device, asked.nonce)
    message = protocol.rotate_key_message(device, asked.nonce, asked.old_key, asked.new_key)
    for name in ("old", "new"):
        if not is_signed(getattr(asked, f"{name}_key"), getattr(asked, f"{name}_signature"), message):
            raise AuthError(f"not made with the {name} key", field=f"{name}_signature")
    if asked.old_key == asked.new_key:
        raise AuthError("the new key is the old one", field="new_key")
    sessions.spend_nonce(asked.nonce)
    with store.db.transaction():
        if store.fleet.rotate_key(device, asked.old_key, asked.new_key):
            store.audit.add("device new-key", device, actor=device, old=asked.old_key, new=asked.new_key)
    return asked.new_key


def create_session_key(keys: pathlib.Path) -> None:
    """Make the secret behind nonces and device tokens, if there is none."""
    if not (keys / _SECRET_FILE).exists():
        write_file(keys / _SECRET_FILE, secrets.token_bytes(32), _SECRET_MODE)


class Sessions:
    """Nonces and device tokens; only spent nonces are remembered, by this process, for the minute they are good.

    Nonces are sealed with a secret of this process. So those of a process that has ended are good no more, and what it
    remembered of them may be lost; a device that was about to use one asks for another. Tokens outlive a restart.

    Parameters
    ----------
    key : bytes
        The project's session secret.
    """

    def __init__(self, key: bytes) -> None:
        self._keys = {"token": key, "nonce": secrets.token_bytes(32)}
        self._spent: dict[str, float] = {}
        self._lock = threading.Lock()

    @classmethod
    def of(cls, project: Project) -> Sessions:
        """Read the project's secret."""
        return cls((project.keys / _SECRET_FILE).read_bytes())

    def new_nonce(self, device: str) -> str:
        """Return a number for a device to sign."""
        return self._seal("nonce", device, int(time.time()) + _NONCE_LIFETIME_S, secrets.token_hex(8))

    def check_nonce(self, device: str, nonce: str) -> None:
        """Raise AuthError unless a nonce was made here for this device, less than a minute ago."""
        self._open("nonce", nonce, device)

    def spend_nonce(self, nonce: str) -> None:
        """Let a nonce be good for nothing more.

        Raises
        ------
        AuthError
            It was spent before: somebody sends again what a device has sent.
        """
        now = time.time()
        with self._lock:
            if nonce in self._spent:
                raise AuthError("the nonce was used before", field="nonce", fix="Sign in again.")
            while self._spent and next(iter(self._spent.values())) <= now:  # they stand in the order of their time
                self._spent.pop(next(iter(self._spent)))
            self._spent[nonce] = now + _NONCE_LIFETIME_S + 1

    def sign_in(
        self, device: str, public_key: str, request: protocol.SignInRequest, mark: str = ""
    ) -> protocol.SignInReply:
        """Check that a device holds its key, and return a token that carries a mark.

        Raises
        ------
        AuthError
            The nonce is old, spent or not ours, or the signature is wrong.
        """
        self.check_nonce(device, request.nonce)
        if not is_signed(public_key, request.signature, protocol.sign_in_message(device, request.nonce)):
            raise AuthError("the signature is not the device's", field="signature")
        self.spend_nonce(request.nonce)
        token = self._seal("token", device, int(time.time()) + _TOKEN_LIFETIME_S, mark)
        return protocol.SignInReply(token=token, expires_in_s=float(_TOKEN_LIFETIME_S))

    def bearer_of(self, token: str) -> tuple[str, str]:
        """Return the device that a token speaks for, and the token's mark.

        Raises
        ------
        AuthError
            It is not ours, or has expired.
        """
        return self._open("token", token)

    def _seal(self, kind: str, device: str, expires_s: int, mark: str = "") -> str:
        body = f"{kind}|{device}|{expires_s}|{mark}".encode()
        mac = hmac.new(self._keys[kind], body, hashlib.sha256).digest()
        return base64.urlsafe_b64encode(mac + body).decode().rstrip("=")

    def _open(self, kind: str, text: str, device: str = "") -> tuple[str, str]:
        try:
            raw = base64.urlsafe_b64decode(text.encode() + b"=" * (-len(text) % 4))
            mac, body = raw[:32], raw[32:]
            seen_kind, seen_device, expires_s, mark = body.decode().split("|")
            until = int(expires_s)
        except (ValueError, UnicodeError) as err:
            raise AuthError(f"this is not a {kind}", field=kind, fix="Sign in again.") from err
        if not hmac.compare_digest(mac, hmac.new(self._keys[kind], body, hashlib.sha256).digest()):
            raise AuthError(f"the {kind} is not ours", field=kind, fix="Sign in again.")
        if seen_kind != kind or until < time.time():
            raise AuthError(f"the {kind} has expired", field=kind, fix="Sign in again.")
        if device and seen_device != device:
            raise ForbiddenError(f"the {kind} is another device's", field=kind)
        return seen_device, mark
