"""What is carried by hand between device and cloud: a batch signed by the device, a receipt signed by the cloud."""

from __future__ import annotations

import hashlib
import typing

import msgspec

from shared.codec import Record
from shared.protocol import Name, Signature
from shared.telemetry import MAX_BATCH_BYTES

BATCH_SUFFIX = ".batch"
RECEIPT_SUFFIX = ".receipt.json"
MAX_FILE_BYTES = MAX_BATCH_BYTES + (1 << 12)
Spool = typing.Annotated[str, msgspec.Meta(pattern=r"^[A-Za-z0-9][A-Za-z0-9_-]{0,63}\Z")]  # files are called after it
Number = typing.Annotated[int, msgspec.Meta(ge=0, le=1 << 53)]


class CarriedBatch(Record, frozen=True, kw_only=True):
    """A sealed batch on its way, signed with the device's key: nobody else can deliver in its name."""

    SCHEMA: typing.ClassVar[str] = "covey.carried-batch/1"
    device: Name
    spool: Spool
    sequence: Number
    body: bytes
    signature: Signature


class Receipt(Record, frozen=True, kw_only=True):
    """The cloud has these batches, signed with its online key: nobody else can make a device forget."""

    SCHEMA: typing.ClassVar[str] = "covey.receipt/1"
    device: Name
    spool: Spool
    sequences: typing.Annotated[tuple[Number, ...], msgspec.Meta(max_length=100_000)]
    signature: Signature


def batch_message(device: str, spool: str, sequence: int, body: bytes) -> bytes:
    """Return what the device signs."""
    return f"covey.carried-batch/1\n{device}\n{spool}\n{sequence}\n{hashlib.sha256(body).hexdigest()}".encode()


def receipt_message(device: str, spool: str, sequences: typing.Sequence[int]) -> bytes:
    """Return what the cloud signs.

    >>> receipt_message("till-1", "5p", (1, 2)).decode().split()
    ['covey.receipt/1', 'till-1', '5p', '1,2']
    """
    return f"covey.receipt/1\n{device}\n{spool}\n{','.join(map(str, sequences))}".encode()
