"""The conversation between device and cloud outside the signed repository: join, sign in, deliver."""

from __future__ import annotations

import typing

import msgspec

from shared.codec import Record
from shared.errors import UsageError
from shared.labels import Labels
from shared.versions import DeviceName

JOIN_PATH = "/api/v1/devices/join"
NONCE_PATH = "/api/v1/devices/{device}/nonce"
SIGN_IN_PATH = "/api/v1/devices/{device}/token"
ROTATE_KEY_PATH = "/api/v1/devices/{device}/key"
TELEMETRY_PATH = "/api/v1/telemetry"
REPOSITORY_PATH = "/repo/"
TELEMETRY_TYPE = "application/vnd.covey.telemetry.v1+zstd"
MAX_JSON_BYTES = 1 << 16
_TOKEN_PREFIX = "covey-join"  # noqa: S105 - the prefix is public
_TOKEN_PARTS = 4

PublicKey = typing.Annotated[str, msgspec.Meta(pattern=r"^[0-9a-f]{64}\Z")]  # $ would let a line end through
Signature = typing.Annotated[str, msgspec.Meta(pattern=r"^[0-9a-f]{128}\Z")]
Name = DeviceName


class JoinToken(typing.NamedTuple):
    """What an operator hands to a device: a secret, and the hash of the root metadata it shall trust."""

    token_id: str
    secret: str
    root_sha256: str

    def __str__(self) -> str:
        return f"{_TOKEN_PREFIX}.{self.token_id}.{self.secret}.{self.root_sha256}"


def parse_join_token(text: str) -> JoinToken:
    """Read a join token.

    Raises
    ------
    UsageError
        It is not one.
    """
    parts = text.strip().split(".")
    if len(parts) != _TOKEN_PARTS or parts[0] != _TOKEN_PREFIX or not all(parts):
        raise UsageError("this is not a join token", field="--token", fix="Get one with: covey device token")
    return JoinToken(*parts[1:])


class JoinRequest(Record, frozen=True, kw_only=True):
    """A device asks to belong to a fleet; the key was made on the device and its private half never leaves it."""

    SCHEMA: typing.ClassVar[str] = "covey.join/1"
    token_id: typing.Annotated[str, msgspec.Meta(max_length=64)]
    secret: typing.Annotated[str, msgspec.Meta(max_length=128)]
    device: Name
    public_key: PublicKey


class JoinReply(Record, frozen=True, kw_only=True):
    """The fleet knows the device; `root` is the first root metadata, checked against the token's hash.

    Parameters
    ----------
    status : str
        ``accepted``, or ``pending`` (HTTP 202): somebody has to approve the device before it may deliver.
    labels : mapping
        What the fleet has given the device.
    """

    SCHEMA: typing.ClassVar[str] = "covey.joined/1"
    device: str
    region: str
    root: str
    status: typing.Literal["accepted", "pending"] = "accepted"
    labels: Labels = msgspec.field(default_factory=dict)


class NonceReply(Record, frozen=True, kw_only=True):
    """A number to sign, good for a short time."""

    SCHEMA: typing.ClassVar[str] = "covey.nonce/1"
    nonce: str


class SignInRequest(Record, frozen=True, kw_only=True):
    """The device proves that it holds its key."""

    SCHEMA: typing.ClassVar[str] = "covey.sign-in/1"
    nonce: typing.Annotated[str, msgspec.Meta(max_length=200)]
    signature: Signature


class SignInReply(Record, frozen=True, kw_only=True):
    """A bearer token for deliveries; `rotate_key` asks the device to make itself a new key.

    Parameters
    ----------
    labels : mapping or None
        What the fleet has given the device now; None from a cloud that knows of no labels.
    """

    SCHEMA: typing.ClassVar[str] = "covey.token/1"
    token: str
    expires_in_s: float
    rotate_key: bool = False
    labels: Labels | None = None


def sign_in_message(device: str, nonce: str) -> bytes:
    """Bytes that the device signs; the prefix keeps the signature from meaning anything elsewhere."""
    return b"covey sign-in v1\n" + device.encode() + b"\n" + nonce.encode()


class RotateKeyRequest(Record, frozen=True, kw_only=True):
    """The device proves that it holds its key and a new one; both sign the same message."""

    SCHEMA: typing.ClassVar[str] = "covey.rotate-key/1"
    nonce: typing.Annotated[str, msgspec.Meta(max_length=200)]
    old_key: PublicKey
    new_key: PublicKey
    old_signature: Signature
    new_signature: Signature


class RotateKeyReply(Record, frozen=True, kw_only=True):
    """The one key that is accepted from now on."""

    SCHEMA: typing.ClassVar[str] = "covey.rotated-key/1"
    public_key: PublicKey


def rotate_key_message(device: str, nonce: str, old_key: str, new_key: str) -> bytes:
    """Bytes that both keys sign; the prefix keeps the signatures from meaning anything elsewhere."""
    return f"covey rotate-key v1\n{device}\n{nonce}\n{old_key}\n{new_key}".encode()


class Problem(msgspec.Struct, frozen=True, kw_only=True):
    """An error over HTTP (RFC 9457), with the member ``error`` that Open Inference Protocol clients read."""

    type: str
    title: str
    status: int
    detail: str
    error: str
    field: str = ""


def problem(code: str, status: int, title: str, detail: str, field: str = "") -> Problem:
    """Make a problem record."""
    kind = f"urn:covey:error:{code}"
    return Problem(type=kind, title=title, status=status, detail=detail, error=detail, field=field)
