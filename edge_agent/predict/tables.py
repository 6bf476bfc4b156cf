"""Open a bundle's tables of precomputed numbers in mapped files, and see that they are the bundle's own."""

from __future__ import annotations

import mmap
import pathlib
import typing

from shared.bundle import ITEMS_FILE, LISTS_FILE, MODEL_FILE, Manifest
from shared.errors import DataError, TrustError, WireError
from shared.features import Encoder
from shared.precomputed import PrecomputedTable

if typing.TYPE_CHECKING:
    from edge_agent.predict.lists import LoadedLists


def open_table(folder: pathlib.Path, manifest: Manifest, name: str, n_outputs: int) -> PrecomputedTable | None:
    """Open a table; nothing if the bundle has none of that name.

    Raises
    ------
    WireError, TrustError
        It is no table; or it belongs to other features, outputs or another model.
    """
    if manifest.file(name) is None:
        return None
    path = folder / name
    with path.open("rb") as file:
        # An empty file can not be mapped; the table then says that it is no table.
        data = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) if path.stat().st_size else b""
    table = PrecomputedTable(data)
    model = manifest.file(MODEL_FILE)
    if table.features_sha256 != manifest.features_sha256 or table.n_outputs != n_outputs:
        raise TrustError("the table belongs to other features or outputs", field=f"{manifest.model} {name}")
    if model and table.model_sha256 != model.sha256:
        raise TrustError("the table belongs to another model", field=f"{manifest.model} {name}")
    return table


def open_lists(folder: pathlib.Path, manifest: Manifest, encoder: Encoder) -> LoadedLists | None:
    """Open a bundle's ranked lists; nothing if it has none.

    Raises
    ------
    WireError, TrustError
        A file is damaged, or belongs to another bundle.
    """
    says = manifest.lists
    if says is None:
        return None
    from edge_agent.predict.lists import LoadedLists

    table = open_table(folder, manifest, LISTS_FILE, 2 * says.length)
    if table is None:
        raise WireError(f"{LISTS_FILE} is missing", field="manifest files")
    try:
        return LoadedLists(table, (folder / ITEMS_FILE).read_bytes(), says, encoder)
    except DataError as err:
        raise TrustError(err.message, field="manifest lists", fix=err.fix) from err
