"""Store checked rows as immutable Parquet parts, and read snapshots of them back."""

from __future__ import annotations

import dataclasses
import hashlib
import io
import pathlib
import typing

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from cloud.config import ModelSettings, Project
from cloud.data.check import EVENT_COLUMN, Key, check_table, key_of
from cloud.data.read import Columns, read_parquet, read_table
from cloud.store.blobs import write_file
from cloud.store.store import Store
from shared.errors import TrustError
from shared.features import FeatureSet


class Added(typing.NamedTuple):
    """What `add_file` did."""

    dataset: str
    version: str
    sha256: str
    report: dict[str, object]


@dataclasses.dataclass(frozen=True, eq=False)
class Snapshot:
    """Rows of a data version, in the order of time.

    Parameters
    ----------
    columns : dict
        Raw column to values.
    event_s : array, shape (n,)
        Event times.
    version : str
        The data version.
    """

    columns: Columns
    event_s: npt.NDArray[np.float64]
    version: str

    def __len__(self) -> int:
        """Return the number of rows."""
        return len(self.event_s)

    def where(self, mask: npt.NDArray[np.bool_]) -> Snapshot:
        """Rows of a mask."""
        picked = np.flatnonzero(mask)
        columns: Columns = {name: [values[i] for i in picked] for name, values in self.columns.items()}
        return Snapshot(columns, self.event_s[picked], self.version)


def add_file(
    project: Project,
    store: Store,
    path: pathlib.Path,
    *,
    model: ModelSettings,
    dataset: str,
    features: FeatureSet,
    max_bad_ratio: float = 0.0,
    actor: str,
) -> Added:
    """Check a file and append it to a data set.

    Raises
    ------
    DataError, ConflictError
        Nothing is stored then.
    """
    known = known_keys(project, store, dataset, model)
    checked = check_table(read_table(path), features, model, max_bad_ratio=max_bad_ratio, known=known)
    data = to_parquet(checked.columns, checked.event_s)
    sha256 = hashlib.sha256(data).hexdigest()
    # The file first, then the row that names it: a crash between leaves a file that nobody reads.
    write_file(part_path(project, sha256), data)
    with store.db.transaction():
        version = store.datasets.add_part(
            dataset,
            sha256,
            rows=len(checked.event_s),
            size=len(data),
            span=(float(checked.event_s[0]), float(checked.event_s[-1])) if len(checked.event_s) else (0.0, 0.0),
            source=path.name,
            report=checked.report,
        )
        store.audit.add("data add", dataset, actor=actor, file=path.name, version=version, rows=len(checked.event_s))
    return Added(dataset, version, sha256, checked.report)


def known_keys(project: Project, store: Store, dataset: str, model: ModelSettings) -> set[Key]:
    """Return the keys of all rows of a data set."""
    keys: set[Key] = set()
    for part in store.datasets.parts(dataset) if model.key else ():
        table = read_parquet(part_path(project, part["sha256"]))
        if set(model.key) <= set(table.column_names):
            keys.update(map(key_of, zip(*(table[name].to_pylist() for name in model.key), strict=True)))
    return keys


def part_path(project: Project, sha256: str) -> pathlib.Path:
    """Path of a part."""
    return project.parts / f"{sha256}.parquet"


def to_parquet(columns: Columns, event_s: npt.NDArray[np.float64]) -> bytes:
    """Write columns as Parquet; the same rows give the same bytes."""
    arrays = {name: _array(values) for name, values in sorted(columns.items())}
    arrays[EVENT_COLUMN] = pa.array(event_s, pa.float64())
    out = io.BytesIO()
    pq.write_table(pa.table(arrays), out, compression="zstd", store_schema=False)
    return out.getvalue()


def _array(values: list[object]) -> pa.Array:
    try:
        return pa.array(values)
    except (pa.ArrowInvalid, pa.ArrowTypeError):
        return pa.array([None if value is None else str(value) for value in values])


def snapshot(project: Project, store: Store, version: str) -> Snapshot:
    """Read a data version.

    Raises
    ------
    TrustError
        A part has changed on disk.
    """
    parts = [_read_part(project, part["sha256"]) for part in store.datasets.parts_of(version)]
    event_s = np.concatenate([times for times, _ in parts])
    order = np.argsort(event_s, kind="stable")
    columns: Columns = {}
    # A column may be text in one part, numbers in another and absent from a third: Arrow can not join these.
    for name in dict.fromkeys(name for _, held in parts for name in held):
        values = [value for times, held in parts for value in held.get(name, [None] * len(times))]
        columns[name] = [values[i] for i in order]
    return Snapshot(columns, event_s[order], store.datasets.version(version)["version"])


def _read_part(project: Project, sha256: str) -> tuple[npt.NDArray[np.float64], Columns]:
    """Return the event times and the columns of a part."""
    data = part_path(project, sha256).read_bytes()
    if hashlib.sha256(data).hexdigest() != sha256:
        raise TrustError(f"the part {sha256[:12]} has changed on disk", fix="Restore it from a backup.")
    table = read_parquet(data)
    columns = {name: table[name].to_pylist() for name in table.column_names if name != EVENT_COLUMN}
    return table[EVENT_COLUMN].to_numpy(), columns
