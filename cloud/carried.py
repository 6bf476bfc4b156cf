"""By hand, where there is no network: everything a device of some regions needs in a folder, and batches back."""

from __future__ import annotations

import pathlib
import shutil
import typing

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from cloud.config import Project
from cloud.publish.repository import SignedRepository
from cloud.store.blobs import write_file
from cloud.store.ingest import ingest
from cloud.store.store import Store
from shared import channel, codec
from shared.bundle import digest_of, parse_manifest, target_path
from shared.carried import (
    BATCH_SUFFIX,
    MAX_FILE_BYTES,
    RECEIPT_SUFFIX,
    CarriedBatch,
    Receipt,
    batch_message,
    receipt_message,
)
from shared.errors import AuthError, CoveyError, NotFoundError, WireError
from shared.telemetry import MAX_BATCH_RAW_BYTES, Batch


class Taken(typing.NamedTuple):
    """What came of a file that was carried in."""

    file: str
    device: str = ""
    sequence: int = -1
    duplicate: bool = False
    error: str = ""


def export_repository(project: Project, folder: pathlib.Path, regions: typing.Sequence[str]) -> dict[str, int]:
    """Copy what devices of some regions need: metadata, channels, and the bundles that the channels name.

    The folder is laid out as it would be served, so that a web server can hand it on as well.

    Returns
    -------
    dict
        Number of files and bytes.

    Raises
    ------
    NotFoundError
        A region has no channel yet.
    """
    repository = SignedRepository(project.repository, project.keys)
    wanted = [path for path in (project.repository / "metadata").iterdir() if path.suffix == ".json"]
    for region in regions:
        says = channel.parse_channel(repository.target("channels", channel.target_path(region)))
        wanted.append(_target_file(repository, "channels", channel.target_path(region)))
        for entry in says.models:
            for ref in entry.refs:
                for variant in ref.variants:
                    wanted += _bundle_files(repository, target_path(entry.model, ref.version, variant))
    # The timestamp last: a copy that is cut off shows what was there before, or nothing.
    ordered = sorted(set(wanted), key=lambda path: path.name == "timestamp.json")
    for path in ordered:
        target = folder / path.relative_to(project.repository)
        target.parent.mkdir(parents=True, exist_ok=True)
        if path.name == "timestamp.json" or not target.exists() or target.stat().st_size != path.stat().st_size:
            shutil.copyfile(path, target)
    return {"files": len(ordered), "bytes": sum(path.stat().st_size for path in ordered)}


def _bundle_files(repository: SignedRepository, signed: str) -> list[pathlib.Path]:
    """Where the manifest of a bundle, its files and its deltas lie."""
    found = [_target_file(repository, "bundles", signed)]
    for file in parse_manifest(repository.target("bundles", signed)).files:
        found += map(repository.blob_path, [file.sha256, *(ref.sha256 for ref in file.deltas)])
    return found


def _target_file(repository: SignedRepository, role: typing.Literal["bundles", "channels"], path: str) -> pathlib.Path:
    """Where the file of a signed target lies."""
    folder, _, name = path.rpartition("/")
    return repository.folder / "targets" / folder / f"{digest_of(repository.target(role, path))}.{name}"


def import_batches(project: Project, store: Store, folder: pathlib.Path) -> list[Taken]:
    """Take in every batch in a folder, and write a receipt for each device beside them.

    A file that is not what it should be is named and left where it is; the others are taken in all the same.

    Raises
    ------
    NotFoundError
        There is no batch.
    """
    files = sorted(folder.glob(f"*{BATCH_SUFFIX}"))
    if not files:
        raise NotFoundError(f"no batches in {folder}", fix="Carry what covey-edge outbox export has written.")
    taken = [_take(project, store, path) for path in files]
    fresh: dict[tuple[str, str], list[int]] = {}
    for path, one in zip(files, taken, strict=True):
        if not one.error:
            fresh.setdefault((one.device, _read(path).spool), []).append(one.sequence)
    repository = SignedRepository(project.repository, project.keys)
    for (device, spool), sequences in sorted(fresh.items()):
        signature = repository.sign("channels", receipt_message(device, spool, sequences))
        receipt = Receipt(device=device, spool=spool, sequences=tuple(sequences), signature=signature)
        write_file(folder / f"{device}-{spool}{RECEIPT_SUFFIX}", codec.to_json(receipt))
    return taken


def _read(path: pathlib.Path) -> CarriedBatch:
    if not path.is_file():  # to read a pipe would be to wait for ever
        raise WireError("no plain file", field="file")
    with path.open("rb") as file:
        data = file.read(MAX_FILE_BYTES + 1)
    return codec.from_msgpack(data, CarriedBatch, limit_bytes=MAX_FILE_BYTES)


def _take(project: Project, store: Store, path: pathlib.Path) -> Taken:
    try:
        carried = _read(path)
        _check_signature(store, carried)
        raw = codec.decompress(carried.body, limit_bytes=MAX_BATCH_RAW_BYTES)
        batch = codec.from_msgpack(raw, Batch, limit_bytes=MAX_BATCH_RAW_BYTES)
        said = (carried.device, carried.spool, carried.sequence)
        if (batch.device, batch.spool, batch.sequence) != said:
            raise WireError(f"{said} carries a batch of {batch.device}", field="body")
        is_fresh = ingest(store.db, batch, project.settings.serve.online_window_s, raw)
    except (CoveyError, OSError) as err:
        return Taken(path.name, error=str(err))
    return Taken(path.name, carried.device, carried.sequence, duplicate=not is_fresh)


def _check_signature(store: Store, carried: CarriedBatch) -> None:
    row = store.db.row("select public_key from devices where device = ?", (carried.device,))
    if row is None:
        raise NotFoundError(f"no device {carried.device!r}", field="device")
    key = Ed25519PublicKey.from_public_bytes(bytes.fromhex(row["public_key"]))
    message = batch_message(carried.device, carried.spool, carried.sequence, carried.body)
    try:
        key.verify(bytes.fromhex(carried.signature), message)
    except InvalidSignature as err:
        raise AuthError("not signed by the device", field="signature") from err
