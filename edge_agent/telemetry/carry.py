"""Batches that leave by hand: written to a folder, signed; forgotten when a receipt of the cloud comes back."""

from __future__ import annotations

import json
import pathlib
import time
import typing

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from edge_agent.files import write_atomic
from edge_agent.telemetry.forward import seal_pending
from edge_agent.telemetry.outbox import Outbox
from shared import codec
from shared.carried import BATCH_SUFFIX, RECEIPT_SUFFIX, CarriedBatch, Receipt, batch_message, receipt_message
from shared.errors import TrustError
from shared.telemetry import DeviceStatus

_ROLE = "channels"  # signed with the online key, as receipts are


def export_batches(
    outbox: Outbox, device: str, status: typing.Callable[[], DeviceStatus], key: Ed25519PrivateKey, folder: pathlib.Path
) -> list[pathlib.Path]:
    """Seal what waits, and write every batch that the cloud has not acknowledged; nothing is forgotten by that."""
    folder.mkdir(parents=True, exist_ok=True)
    seal_pending(outbox, device, status, now_s=time.time)
    written = []
    for sequence, body in outbox.all_sealed():
        signature = key.sign(batch_message(device, outbox.spool_id, sequence, body)).hex()
        batch = CarriedBatch(device=device, spool=outbox.spool_id, sequence=sequence, body=body, signature=signature)
        path = folder / f"{device}-{outbox.spool_id}-{sequence:08}{BATCH_SUFFIX}"
        write_atomic(path, codec.to_msgpack(batch))
        written.append(path)
    return written


def take_receipts(outbox: Outbox, device: str, targets: pathlib.Path, folder: pathlib.Path) -> int:
    """Forget the batches for which a folder holds a receipt; return how many.

    Parameters
    ----------
    targets : Path
        The trusted ``targets.json``: it says with which keys the cloud signs.

    Raises
    ------
    TrustError, WireError
        A receipt for this device is not signed by the cloud, or is no receipt.
    """
    gone = 0
    for path in sorted(folder.glob(f"{device}-{outbox.spool_id}{RECEIPT_SUFFIX}")):
        receipt = codec.from_json(path.read_bytes(), Receipt)
        if (receipt.device, receipt.spool) != (device, outbox.spool_id):
            raise TrustError(f"it is for {receipt.device} and spool {receipt.spool}", field=path.name)
        message = receipt_message(receipt.device, receipt.spool, receipt.sequences)
        if not any(_is_signed(key, receipt.signature, message) for key in _keys(targets)):
            raise TrustError("not signed by the cloud", field=path.name)
        for sequence in receipt.sequences:
            gone += outbox.acknowledge(sequence)
    return gone


def _keys(targets: pathlib.Path) -> list[str]:
    try:
        said = json.loads(targets.read_bytes())["signed"]["delegations"]
        named = next(role["keyids"] for role in said["roles"] if role["name"] == _ROLE)
        return [said["keys"][keyid]["keyval"]["public"] for keyid in named]
    except (OSError, ValueError, KeyError, TypeError, StopIteration) as err:
        raise TrustError("nothing here says with which key the cloud signs", field="targets.json") from err


def _is_signed(public: str, signature: str, message: bytes) -> bool:
    try:
        Ed25519PublicKey.from_public_bytes(bytes.fromhex(public)).verify(bytes.fromhex(signature), message)
    except (InvalidSignature, ValueError):
        return False
    return True
