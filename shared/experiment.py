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

from shared.errors import DataError, shown
from shared.versions import ModelVersion

BASIS_POINTS = 10_000
_FORMAT = 1
_BODY = struct.Struct("<BIHHBBIIf6s")
_MAC_BYTES = 8
_ID_CHARS = 50
_URL_SAFE = bytes.maketrans(b"+/", b"-_")
NONCE_BYTES = 6


class Shares:
    """The places of many units under one salt: `share_of`, with the salt worked in once.

    Parameters
    ----------
    salt : str
        Another one shuffles all units anew.
    """

    def __init__(self, salt: str) -> None:
        key = salt.encode()
        if len(key) > hashlib.blake2b.MAX_KEY_SIZE:
            key = hashlib.blake2b(key).digest()
        self._copy = hashlib.blake2b(digest_size=8, key=key).copy

    def __call__(self, unit: str) -> int:
        """Place of a unit in 0..9999."""
        state = self._copy()
        state.update(unit.encode())
        return int.from_bytes(state.digest(), "little") * BASIS_POINTS >> 64


def share_of(salt: str, unit: str) -> int:
    """Place of a unit in 0..9999: uniform, and independent for different salts.

    >>> share_of("salt", "till-7")
    4841
    """
    return Shares(salt)(unit)


def place_in_stage(salt: str, device: str) -> int:
    """Place of a device in 0..9999, in the order in which stages take devices."""
    return share_of(salt + "/stage", device)


def in_stage(salt: str, device: str, device_share_bp: int) -> bool:
    """Whether a device belongs to the first `device_share_bp` / 10,000 of the fleet; growing the share keeps it in."""
    return place_in_stage(salt, device) < device_share_bp


def in_control(salt: str, device: str, control_share_bp: int) -> bool:
    """Whether a device belongs to the control group: the last `control_share_bp` / 10,000 in the order of the stage."""
    return place_in_stage(salt, device) >= BASIS_POINTS - control_share_bp


def arm_of(place: int, share_bp: int, arms: typing.Container[int]) -> int:
    """Arm of a unit by its place in 0..9999: arm 1 has the first `share_bp`, arm 2 the next, the incumbent the rest.

    An arm that has dropped out leaves its units to the incumbent, and nobody else moves.

    >>> [arm_of(place, 2000, {1, 3}) for place in (0, 1999, 2000, 4000, 9999)]
    [1, 1, 0, 3, 0]
    """
    arm = place // share_bp + 1 if share_bp else 0
    return arm if arm in arms else 0


def pick_arm(salt: str, unit: str, candidate_share_bp: int) -> int:
    """0 for the incumbent, 1 for the only candidate."""
    return arm_of(share_of(salt, unit), candidate_share_bp, (1,))


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
        said = self.arm, self.source, self.epoch, self.event_s, self.score, self.nonce
        return Sealer(key).writer(self.model, self.version)(*said)


Write = typing.Callable[[int, int, int, int, float, bytes], str]


class Sealer:
    """Writes prediction ids with the device's secret, worked in once.

    Parameters
    ----------
    key : bytes
        The device's own secret.
    """

    def __init__(self, key: bytes) -> None:
        self._copy = hashlib.blake2b(digest_size=_MAC_BYTES, key=key[:64]).copy

    def mac(self, body: bytes) -> bytes:
        """Return what only this device can write under a body."""
        state = self._copy()
        state.update(body)
        return state.digest()

    def writer(self, model: int, version: ModelVersion) -> Write:
        """Return what writes the ids of one version: (arm, source, epoch, event_s, score, nonce) to text.

        See `PredictionId` for what they are.
        """
        copy, pack, (major, minor) = self._copy, _BODY.pack, version

        def write(arm: int, source: int, epoch: int, event_s: int, score: float, nonce: bytes) -> str:
            body = pack(_FORMAT, model, major, minor, arm, source, epoch, event_s, score, nonce)
            state = copy()
            state.update(body)
            return _write(body + state.digest())

        return write


def open_prediction_id(text: object, key: bytes) -> PredictionId:
    """Read an id that this device made.

    Raises
    ------
    DataError
        It is not an id, or another device (or nobody) made it.
    """
    if not isinstance(text, str) or len(text) > 2 * _ID_CHARS:
        raise DataError(f"{shown(text)} is not a prediction id", field="prediction_id")
    try:
        raw = base64.urlsafe_b64decode(text.encode() + b"=" * (-len(text) % 4))
    except (ValueError, binascii.Error) as err:
        raise DataError(f"{text!r:.60} is not a prediction id", field="prediction_id") from err
    body, mac = raw[:-_MAC_BYTES], raw[-_MAC_BYTES:]
    # Written again it must be the same text: base64 passes over odd characters, and over spare bits of the last one.
    if len(raw) != _BODY.size + _MAC_BYTES or body[0] != _FORMAT or _write(raw) != text:
        raise DataError(f"{text!r:.60} is not a prediction id", field="prediction_id")
    if not hmac.compare_digest(mac, Sealer(key).mac(body)):
        raise DataError(
            f"{text!r:.60} was not made by this device", field="prediction_id", fix="Post outcomes where you predicted."
        )
    _, model, major, minor, *rest = _BODY.unpack(body)
    return PredictionId(model, ModelVersion(major, minor), *rest)


def _write(raw: bytes) -> str:
    return binascii.b2a_base64(raw, newline=False).translate(_URL_SAFE)[:_ID_CHARS].decode()
