"""Put a trained version's pieces together as a signed bundle."""

from __future__ import annotations

import typing

import msgspec

from cloud.config import Project
from cloud.publish.repository import SignedRepository
from cloud.publish.seal import SealedBundle, publish_bundle, seal
from cloud.store.store import Store
from shared import bundle, codec
from shared.bundle import Golden, Manifest
from shared.errors import ConflictError
from shared.features import FeatureSet


class Pieces(typing.NamedTuple):
    """Everything a bundle is made of."""

    draft: Manifest
    model: bytes
    features: FeatureSet
    table: bytes | None
    coarse: bytes | None
    golden: Golden
    card: dict[str, object]


def keep_pieces(store: Store, pieces: Pieces) -> dict[str, object]:
    """Store the pieces of a version; return what the registry remembers of them."""
    files = {
        bundle.MODEL_FILE: pieces.model,
        bundle.FEATURES_FILE: codec.to_json(pieces.features),
        bundle.GOLDEN_FILE: codec.to_json(pieces.golden),
        bundle.CARD_FILE: msgspec.json.encode(pieces.card, order="deterministic"),
    }
    if pieces.table is not None:
        files[bundle.TABLE_FILE] = pieces.table
    if pieces.coarse is not None:
        files[bundle.COARSE_FILE] = pieces.coarse
    return {
        "draft": msgspec.to_builtins(pieces.draft),
        "files": {name: store.blobs.put(data) for name, data in files.items()},
    }


def note_override(store: Store, kept: dict[str, typing.Any], reason: str) -> dict[str, object]:
    """Write on the card why a version was signed although a gate refused it."""
    card = msgspec.json.decode(store.blobs.get(kept["files"][bundle.CARD_FILE]))
    data = msgspec.json.encode(card | {"override": reason}, order="deterministic")
    return kept | {"files": kept["files"] | {bundle.CARD_FILE: store.blobs.put(data)}}


def build_bundle(project: Project, store: Store, model: str, version: str, *, actor: str) -> SealedBundle:
    """Seal and sign a version; doing it again gives the same bundle and changes nothing.

    Raises
    ------
    ConflictError
        The version did not pass its gates.
    """
    row = store.models.get(model, version)
    if row["status"] != "ready":
        raise ConflictError(f"{model}@{version} is {row['status']}", fix="Only what has passed its gates is signed.")
    kept = row["detail"]["pieces"]
    files = {name: store.blobs.get(sha256) for name, sha256 in kept["files"].items()}
    sealed = seal(msgspec.convert(kept["draft"], Manifest), files)
    publish_bundle(SignedRepository(project.repository, project.keys), sealed)
    if row["manifest_sha256"] != sealed.sha256:
        with store.db.transaction():
            store.models.set_manifest(model, version, sealed.sha256)
            store.audit.add("bundle build", f"{model}@{version}", actor=actor, manifest=sealed.sha256)
    return sealed
