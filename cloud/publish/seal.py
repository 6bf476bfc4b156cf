"""Seal a bundle: put its files together, write the manifest that names them all, sign it."""

from __future__ import annotations

import typing

import msgspec

from cloud.publish.deltas import NO_DELTAS, Deltas
from cloud.publish.repository import SignedRepository
from shared import bundle, codec
from shared.bundle import File, Golden, Manifest
from shared.errors import ConflictError, NotFoundError, TrustError
from shared.features import FeatureSet
from shared.lists import Split, check_lists, read_items
from shared.precomputed import PrecomputedTable


class SealedBundle(typing.NamedTuple):
    """A manifest, the files it names, and the deltas it lists, by hash."""

    manifest: Manifest
    data: bytes
    files: dict[str, bytes]
    deltas: typing.Mapping[str, bytes]

    @property
    def sha256(self) -> str:
        """Hash of the manifest."""
        return bundle.digest_of(self.data)

    @property
    def size_bytes(self) -> int:
        """Size of all files."""
        return sum(map(len, self.files.values()))


def seal(draft: Manifest, files: typing.Mapping[str, bytes], deltas: Deltas = NO_DELTAS) -> SealedBundle:
    """Write the manifest that names all files.

    Parameters
    ----------
    draft : Manifest
        Everything but the files.
    files : mapping
        File name to content.
    deltas : mapping
        File name to its deltas, each as the manifest lists it and as bytes.
    """
    listed = tuple(
        File(
            name=name,
            sha256=bundle.digest_of(data),
            length=len(data),
            deltas=tuple(made.ref for made in deltas.get(name, ())),
        )
        for name, data in sorted(files.items())
    )
    manifest = msgspec.structs.replace(draft, files=listed)
    data = manifest.to_bytes()
    bundle.parse_manifest(data)
    made_of = {made.ref.sha256: made.data for several in deltas.values() for made in several}
    return SealedBundle(manifest, data, dict(files), made_of)


def publish_bundle(repository: SignedRepository, sealed: SealedBundle) -> None:
    """Sign a bundle and put it where devices fetch it; a version that was signed never changes.

    Raises
    ------
    ConflictError
        Another bundle has this name already.
    """
    path = sealed.manifest.target_path
    try:
        if repository.target("bundles", path) != sealed.data:
            raise ConflictError(f"{path} was signed before, with other content", fix="Train a new version.")
    except NotFoundError:
        for file in sealed.manifest.files:
            repository.add_blob(sealed.files[file.name], file.sha256)
            for ref in file.deltas:
                repository.add_blob(sealed.deltas[ref.sha256], ref.sha256)
        repository.publish("bundles", {path: sealed.data})


def load_bundle(repository: SignedRepository, model: str, version: str, variant: str = "standard") -> SealedBundle:
    """Read a signed bundle with all its files and deltas."""
    data = repository.target("bundles", bundle.target_path(model, version, variant))
    manifest = bundle.parse_manifest(data)
    files, deltas = dict[str, bytes](), dict[str, bytes]()
    for file in manifest.files:
        try:
            files[file.name] = repository.blob_path(file.sha256).read_bytes()
            deltas |= {ref.sha256: repository.blob_path(ref.sha256).read_bytes() for ref in file.deltas}
        except FileNotFoundError as err:
            raise NotFoundError(f"{file.name} of {model}@{version} is not there", fix="Restore it.") from err
    return SealedBundle(manifest, data, files, deltas)


def verify_bundle(sealed: SealedBundle) -> list[str]:
    """Check every file against the manifest, and the parts against each other; return what was checked.

    Raises
    ------
    TrustError, WireError
        What does not fit.
    """
    checked = []
    manifest = sealed.manifest
    for file in manifest.files:
        data = sealed.files[file.name]
        if len(data) != file.length or bundle.digest_of(data) != file.sha256:
            raise TrustError(f"{file.name} is not what was signed", field=f"{manifest.model}@{manifest.version}")
        checked.append(f"{file.name}: {file.length:,} bytes, {file.sha256[:12]}")
        for ref in file.deltas:
            made = sealed.deltas[ref.sha256]
            if len(made) != ref.length or bundle.digest_of(made) != ref.sha256:
                raise TrustError(f"a delta of {file.name} is not what was signed", field=ref.sha256[:12])
    features = codec.from_json(sealed.files[bundle.FEATURES_FILE], FeatureSet, limit_bytes=64 << 20)
    if features.digest != manifest.features_sha256:
        raise TrustError("the feature set is not the one of the manifest", field=bundle.FEATURES_FILE)
    for name in (bundle.TABLE_FILE, bundle.COARSE_FILE):
        if name in sealed.files:
            table = _table(sealed, name)
            table.check()
            checked.append(f"{name}: {table.n_keys:,} keys in order")
    checked += _verify_lists(sealed, features)
    golden = codec.from_json(sealed.files[bundle.GOLDEN_FILE], Golden, limit_bytes=64 << 20)
    checked.append(f"golden rows: {len(golden.rows)}")
    return checked


def _table(sealed: SealedBundle, name: str) -> PrecomputedTable:
    """Open a table; it must belong to the bundle's features and model."""
    table, model = PrecomputedTable(sealed.files[name]), sealed.manifest.file(bundle.MODEL_FILE)
    of_others = table.features_sha256 != sealed.manifest.features_sha256
    if of_others or (model and table.model_sha256 != model.sha256):
        raise TrustError("the table belongs to another model", field=name)
    return table


def _verify_lists(sealed: SealedBundle, features: FeatureSet) -> list[str]:
    lists = sealed.manifest.lists
    if lists is None:
        return []
    table = _table(sealed, bundle.LISTS_FILE)
    check_lists(table, lists, Split(features, lists.item, lists.columns).anyway)
    read_items(sealed.files[bundle.ITEMS_FILE], lists)
    return [f"{bundle.LISTS_FILE}: {table.n_keys:,} lists of {lists.length} out of {lists.n_items:,} items"]
