"""Put a trained version's pieces together as a signed bundle."""

from __future__ import annotations

import typing

import msgspec

from cloud.config import Project
from cloud.publish.deltas import Deltas, Made, make_deltas
from cloud.publish.repository import SignedRepository
from cloud.publish.seal import SealedBundle, publish_bundle, seal
from cloud.store.store import Store
from shared import bundle, codec
from shared.bundle import DeltaRef, Golden, Manifest
from shared.errors import ConflictError, NotFoundError
from shared.features import FeatureSet

_SOURCES = 3
Row = dict[str, typing.Any]


class Pieces(typing.NamedTuple):
    """Everything a bundle is made of."""

    draft: Manifest
    model: bytes
    features: FeatureSet
    table: bytes | None
    coarse: bytes | None
    lists: bytes | None
    items: bytes | None
    golden: Golden
    card: dict[str, object]


def files_of(pieces: Pieces) -> dict[str, bytes]:
    """Return the files of a bundle, by name."""
    files = {
        bundle.MODEL_FILE: pieces.model,
        bundle.FEATURES_FILE: codec.to_json(pieces.features),
        bundle.GOLDEN_FILE: codec.to_json(pieces.golden),
        bundle.CARD_FILE: msgspec.json.encode(pieces.card, order="deterministic"),
    }
    may_be = {
        bundle.TABLE_FILE: pieces.table,
        bundle.COARSE_FILE: pieces.coarse,
        bundle.LISTS_FILE: pieces.lists,
        bundle.ITEMS_FILE: pieces.items,
    }
    return files | {name: data for name, data in may_be.items() if data is not None}


def keep_pieces(store: Store, pieces: Pieces) -> dict[str, object]:
    """Store the pieces of a version; return what the registry remembers of them."""
    return {
        "draft": msgspec.to_builtins(pieces.draft),
        "files": {name: store.blobs.put(data) for name, data in files_of(pieces).items()},
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
    deltas = _deltas(store, row, files)
    sealed = seal(msgspec.convert(kept["draft"], Manifest), files, deltas)
    repository = SignedRepository(project.repository, project.keys)
    # The variants first: whoever may name the version may name them.
    for variant in row["detail"].get("variants", {}).values():
        small = {name: store.blobs.get(sha256) for name, sha256 in variant["files"].items()}
        publish_bundle(repository, seal(msgspec.convert(variant["draft"], Manifest), small))
    publish_bundle(repository, sealed)
    if row["manifest_sha256"] != sealed.sha256:
        with store.db.transaction():
            store.models.set_manifest(model, version, sealed.sha256)
            store.audit.add("bundle build", f"{model}@{version}", actor=actor, manifest=sealed.sha256)
    return sealed


def _deltas(store: Store, row: Row, files: typing.Mapping[str, bytes]) -> Deltas:
    """Return the deltas of a version: made once, before it is signed, and kept, so that it can be built again."""
    kept = row["detail"]["pieces"]
    if "deltas" not in kept and not row["manifest_sha256"]:
        made = make_deltas(files, [_files(store, earlier) for earlier in _sources(store, row)])
        for several in made.values():
            for one in several:
                store.blobs.put(one.data)
        kept["deltas"] = {name: msgspec.to_builtins([one.ref for one in several]) for name, several in made.items()}
        store.models.finish(row["model"], row["version"], "ready", row["detail"], features=row["features_sha256"])
    return {
        name: [Made(ref, store.blobs.get(ref.sha256)) for ref in msgspec.convert(refs, list[DeltaRef])]
        for name, refs in kept.get("deltas", {}).items()
    }


def _sources(store: Store, row: Row) -> list[Row]:
    """Return the versions that devices may have: those that answer somewhere, then the newest."""
    signed = [one for one in store.models.all(row["model"]) if one["manifest_sha256"] and one["status"] == "ready"]
    answering = set(store.models.incumbents(row["model"]).values())
    newest_first = [one for one in reversed(signed) if one["version"] != row["version"]]
    return sorted(newest_first, key=lambda one: one["version"] not in answering)[:_SOURCES]


def _files(store: Store, row: Row) -> dict[str, bytes]:
    """Return the files of an earlier version; one that is gone can be no source."""
    try:
        return {name: store.blobs.get(sha256) for name, sha256 in row["detail"]["pieces"]["files"].items()}
    except NotFoundError:
        return {}
