"""Who gets what: salted, sticky assignment of units to arms, and prediction ids that describe themselves.

Assignment follows Kohavi, Tang and Xu, *Trustworthy Online Controlled Experiments* (2020), chapter 4: hash of unit
and a salt that is fresh for each experiment, so that the same units are not always the ones to try something new.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import struct
import typing

from shared.errors import DataError
from shared.versions import ModelVersion

BASIS_POINTS = 10_000
_FORMAT = 1
_BODY = struct.Struct("<BIHHBBIIf6s")
_MAC_BYTES = 8
_ID_CHARS = 50
NONCE_BYTES = 6


def share_of(salt: str, unit: str) -> int:
    """Place of a unit in 0..9999: uniform, and independent for different salts.

    >>> share_of("salt", "till-7")
    4841
    """
    key = salt.encode()
    if len(key) > hashlib.blake2b.MAX_KEY_SIZE:
        key = hashlib.blake2b(key).digest()
    digest = hashlib.blake2b(unit.encode(), digest_size=8, key=key).digest()
    return int.from_bytes(digest, "little") * BASIS_POINTS >> 64


def in_stage(salt: str, device: str, device_share_bp: int) -> bool:
    """Whether a device belongs to the first `device_share_bp` / 10,000 of the fleet; growing the share keeps it in."""
    return share_of(salt + "/stage", device) < device_share_bp


def pick_arm(salt: str, unit: str, candidate_share_bp: int) -> int:
    """0 for the incumbent, 1 for the candidate."""
    return int(share_of(salt, unit) < candidate_share_bp)


def model_tag(model: str) -> int:
    """Four bytes that stand for a model's name in a prediction id."""
    return int.from_bytes(hashlib.blake2b(model.encode(), digest_size=4).digest(), "little")


class PredictionId(typing.NamedTuple):
    """What a prediction id says.

    Parameters
    ----------
    model : int
        `model_tag` of the model's name.
    version : ModelVersion
        The version that answered.
    arm : int
        0 incumbent, 1 candidate.
    source : int
        Index into ``telemetry.SOURCES``.
    epoch : int
        The experiment's stage, 0 outside experiments.
    event_s : int
        Event time, seconds since 1970.
    score : float
        The answer's main number, float32.
    nonce : bytes
        Six bytes that make it unique on its device.
    """

    model: int
    version: ModelVersion
    arm: int
    source: int
    epoch: int
    event_s: int
    score: float
    nonce: bytes

    def seal(self, key: bytes) -> str:
        """Write the id; `key` is the device's own secret."""
        major, minor = self.version
        body = _BODY.pack(
            _FORMAT, self.model, major, minor, self.arm, self.source, self.epoch, self.event_s, self.score, self.nonce
        )
        return _write(body + _mac(key, body))


def open_prediction_id(text: str, key: bytes) -> PredictionId:
    """Read an id that this device made.

    Raises
    ------
    DataError
        It is not an id, or another device (or nobody) made it.
    """
    if len(text) > 2 * _ID_CHARS:
        raise DataError(f"{text!r:.60} is not a prediction id", field="prediction_id")
    try:
        raw = base64.urlsafe_b64decode(text.encode() + b"=" * (-len(text) % 4))
    except (ValueError, binascii.Error) as err:
        raise DataError(f"{text!r:.60} is not a prediction id", field="prediction_id") from err
    body, mac = raw[:-_MAC_BYTES], raw[-_MAC_BYTES:]
    # Written again it must be the same text: base64 passes over odd characters, and over spare bits of the last one.
    if len(raw) != _BODY.size + _MAC_BYTES or body[0] != _FORMAT or _write(raw) != text:
        raise DataError(f"{text!r:.60} is not a prediction id", field="prediction_id")
    if not hmac.compare_digest(mac, _mac(key, body)):
        raise DataError(
            f"{text!r:.60} was not made by this device", field="prediction_id", fix="Post outcomes where you predicted."
        )
    _, model, major, minor, *rest = _BODY.unpack(body)
    return PredictionId(model, ModelVersion(major, minor), *rest)


def _write(raw: bytes) -> str:
    return base64.urlsafe_b64encode(raw).decode().rstrip("=")


def _mac(key: bytes, body: bytes) -> bytes:
    return hashlib.blake2b(body, digest_size=_MAC_BYTES, key=key[:64]).digest()
