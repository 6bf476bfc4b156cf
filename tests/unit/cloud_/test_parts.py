"""Data sets are immutable parts: nothing is stored on refusal, versions are hashes, a changed part is noticed."""

from __future__ import annotations

import hashlib
import pathlib
import subprocess
import sys
import typing

import numpy as np
import pyarrow.parquet as pq
import pytest

from cloud.config import Project
from cloud.data.parts import add_file, part_path, snapshot, to_parquet
from cloud.store.store import Store
from shared.errors import ConflictError, DataError, NotFoundError, TrustError
from tests.unit.cloud_ import builders

ROWS = builders.sales(2, 5)
LATER = builders.sales(2, 5, first_day=2, seed=2)


def stored(project: Project) -> list[str]:
    """Names of the files that hold rows."""
    return sorted(path.name for path in project.parts.glob("*"))


def test_a_part_is_a_file_named_by_its_hash_and_read_back_as_it_came(empty: Project, empty_store: Store) -> None:
    added = builders.add(empty, empty_store, ROWS)
    path = part_path(empty, added.sha256)
    assert hashlib.sha256(path.read_bytes()).hexdigest() == added.sha256
    read = snapshot(empty, empty_store, added.version)
    assert read.columns == builders.columns_of(sorted(ROWS, key=lambda row: str(row["at"])))
    assert (np.diff(read.event_s) >= 0).all()
    assert empty_store.audit.all(1)[0]["action"] == "data add"


def test_the_same_rows_give_the_same_bytes_and_another_order_of_columns_does_too() -> None:
    columns = typing.cast("dict[str, list[object]]", builders.columns_of(ROWS))
    event_s = np.arange(len(ROWS), dtype=float)
    assert to_parquet(columns, event_s) == to_parquet(dict(reversed(columns.items())), event_s)


@pytest.mark.parametrize("again", [ROWS, list(reversed(ROWS))], ids=["same", "other-order"])
def test_the_same_rows_twice_are_a_conflict_and_leave_everything_as_it_was(
    empty: Project, empty_store: Store, again: list[builders.Row]
) -> None:
    first = builders.add(empty, empty_store, ROWS)
    before = (stored(empty), list(empty_store.db.connection.iterdump()))
    with pytest.raises(ConflictError, match="were added to 'sales' before"):
        builders.add(empty, empty_store, again)
    assert (stored(empty), list(empty_store.db.connection.iterdump())) == before
    assert empty_store.datasets.latest("sales")["version"] == first.version


def test_nothing_is_stored_of_a_file_that_is_refused(empty: Project, empty_store: Store) -> None:
    before = list(empty_store.db.connection.iterdump())
    with pytest.raises(DataError):
        builders.add(empty, empty_store, [*ROWS, ROWS[0] | {"price": "dear"}])
    assert stored(empty) == []
    assert list(empty_store.db.connection.iterdump()) == before


def test_a_crash_between_file_and_row_leaves_the_data_set_as_it_was_and_the_file_can_be_added_again(
    empty: Project, empty_store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    def crash(*_: object, **__: object) -> typing.NoReturn:
        raise OSError("power cut")

    with monkeypatch.context() as patched:
        patched.setattr(empty_store.audit, "add", crash)
        with pytest.raises(OSError, match="power cut"):
            builders.add(empty, empty_store, ROWS)
    with pytest.raises(NotFoundError):
        empty_store.datasets.latest("sales")
    assert builders.add(empty, empty_store, ROWS).report["rows"] == len(ROWS)


def test_a_version_names_its_parts_in_their_order(tmp_path: pathlib.Path) -> None:
    versions = []
    for name, files in (("ab", (ROWS, LATER)), ("ba", (LATER, ROWS))):
        project = builders.make_project(tmp_path / name)
        with builders.opened(project) as store:
            versions += [builders.add(project, store, rows).version for rows in files]
    assert len(set(versions)) == 4


def test_older_versions_stay_what_they_were(empty: Project, empty_store: Store) -> None:
    first = builders.add(empty, empty_store, ROWS)
    second = builders.add(empty, empty_store, LATER)
    assert len(snapshot(empty, empty_store, first.version)) == len(ROWS)
    assert len(snapshot(empty, empty_store, second.version)) == len(ROWS) + len(LATER)
    assert empty_store.datasets.latest("sales")["version"] == second.version


def test_rows_of_all_parts_come_in_the_order_of_time(empty: Project, empty_store: Store) -> None:
    builders.add(empty, empty_store, LATER)
    version = builders.add(empty, empty_store, ROWS).version
    read = snapshot(empty, empty_store, version)
    assert (np.diff(read.event_s) >= 0).all()
    assert read.columns["at"] == sorted(str(row["at"]) for row in ROWS + LATER)


def test_a_part_that_changed_on_disk_is_noticed(empty: Project, empty_store: Store) -> None:
    added = builders.add(empty, empty_store, ROWS)
    path = part_path(empty, added.sha256)
    table = pq.read_table(path)
    pq.write_table(table.slice(1), path)
    with pytest.raises(TrustError, match="has changed on disk"):
        snapshot(empty, empty_store, added.version)


KEYED = 'key = ["id"]'


@pytest.fixture
def keyed(tmp_path: pathlib.Path) -> Project:
    return builders.make_project(tmp_path / "keyed", more=KEYED)


def with_ids(rows: list[builders.Row], first: int) -> list[builders.Row]:
    """Rows with a key each."""
    return [row | {"id": first + i} for i, row in enumerate(rows)]


def test_a_row_whose_key_was_added_before_is_an_error_also_in_another_file(keyed: Project) -> None:
    with builders.opened(keyed) as store:
        builders.add(keyed, store, with_ids(ROWS, 1))
        with pytest.raises(DataError, match="row 1: id: a row with this key was added before"):
            builders.add(keyed, store, with_ids(LATER, len(ROWS)))
        overlapping = builders.add(keyed, store, with_ids(LATER, len(ROWS)), max_bad_ratio=0.1)
        assert overlapping.report["rejected"] == 1
        assert overlapping.report["rows"] == len(LATER) - 1


def test_a_key_counts_as_the_same_whether_it_came_as_text_or_as_a_number(keyed: Project) -> None:
    with builders.opened(keyed) as store:
        builders.add(keyed, store, with_ids(ROWS, 1))
        columns = builders.columns_of(with_ids(LATER, 1))
        with pytest.raises(DataError, match="added before"):
            builders.add(keyed, store, builders.parquet_bytes(columns))


WITH_NOTE = builders.FEATURES.replace('name = "sales"\n', 'name = "sales"\nkeep = ["weight"]\n', 1)
READS_NOTE = builders.FEATURES + '[[feature]]\nkind = "bucketed"\nname = "weight"\ncuts = [1, 2]\nmissing = "bucket"\n'


def weighed(rows: list[builders.Row]) -> list[builders.Row]:
    """Rows with a column that nothing reads yet."""
    return [row | {"weight": 0.5 + i % 3 if i % 5 else None} for i, row in enumerate(rows)]


@pytest.fixture
def keeping(tmp_path: pathlib.Path) -> Project:
    return builders.make_project(tmp_path / "keeping", features=WITH_NOTE, more=builders.EASY_GATES)


def test_a_kept_column_can_be_learned_from_by_a_feature_set_that_reads_it(keeping: Project) -> None:
    builders.write(keeping, "features/v2.toml", READS_NOTE)
    with builders.opened(keeping) as store:
        builders.add(keeping, store, weighed(builders.sales()))
        builders.fit(keeping, store)
        trained = builders.fit(keeping, store, features="features/v2.toml")
        assert trained.version == "v2"
        assert "weight" in trained.sealed.files["features.json"].decode()


@pytest.mark.parametrize("second", ["csv", "parquet"])
def test_parts_of_which_one_kept_a_column_as_text_and_one_read_it_as_a_number_are_read_together(
    keeping: Project, second: str
) -> None:
    with builders.opened(keeping) as store:
        builders.add(keeping, store, weighed(builders.sales()))
        project = builders.write(keeping, "features/sales.toml", READS_NOTE)
        more = weighed(builders.sales(20, first_day=20))
        data = builders.csv_bytes(more) if second == "csv" else builders.parquet_bytes(builders.columns_of(more))
        builders.add(project, store, data)
        assert builders.fit(project, store).version == "v1"


def test_a_version_that_reads_a_kept_column_can_be_fine_tuned_and_judged_against(keeping: Project) -> None:
    builders.write(keeping, "features/v2.toml", READS_NOTE)
    with builders.opened(keeping) as store:
        builders.add(keeping, store, weighed(builders.sales()))
        builders.fit(keeping, store, features="features/v2.toml")
        for region in builders.REGIONS:
            store.models.set_incumbent("sales", region, "v1")
        builders.add(keeping, store, weighed(builders.sales(20, first_day=20)))
        assert builders.fit(keeping, store, parent="v1").version == "v1.1"
        assert builders.fit(keeping, store).version == "v2"


def test_a_column_that_only_later_parts_have_is_missing_in_earlier_rows(keeping: Project) -> None:
    with builders.opened(keeping) as store:
        builders.add(keeping, store, ROWS)
        version = builders.add(keeping, store, weighed(LATER)).version
        read = snapshot(keeping, store, version)
        assert read.columns["weight"][: len(ROWS)] == [None] * len(ROWS)


def test_a_feature_set_that_reads_a_column_the_data_lacks_is_refused_by_name(keeping: Project) -> None:
    builders.write(keeping, "features/v2.toml", READS_NOTE)
    with builders.opened(keeping) as store:
        builders.add(keeping, store, builders.sales())
        with pytest.raises(DataError, match="the data has no column 'weight'"):
            builders.fit(keeping, store, features="features/v2.toml")


def test_the_name_of_the_file_is_kept_with_the_part(empty: Project, empty_store: Store, tmp_path: pathlib.Path) -> None:
    path = tmp_path / "march.csv"
    path.write_bytes(builders.csv_bytes(ROWS))
    _, model = empty.model(None)
    add_file(
        empty, empty_store, path, model=model, dataset="sales", features=empty.feature_set(model.features), actor="ada"
    )
    (part,) = empty_store.datasets.parts("sales")
    assert part["source"] == "march.csv"
    assert part["rows"] == len(ROWS)


@pytest.mark.parametrize("name", ["", "%", "_", "0000", "sales' or 1=1 --"])
def test_a_data_version_that_is_not_there_is_not_found(empty: Project, empty_store: Store, name: str) -> None:
    builders.add(empty, empty_store, ROWS)
    with pytest.raises(NotFoundError):
        empty_store.datasets.version(name)


def test_a_data_version_is_found_by_its_beginning(empty: Project, empty_store: Store) -> None:
    version = builders.add(empty, empty_store, ROWS).version
    assert empty_store.datasets.version(version[:5])["version"] == version


READ = """
import os, sys, pathlib
import cloud.data.parts
from cloud.config import load_project
from cloud.store.store import Store

project = load_project(pathlib.Path(sys.argv[1]))
store = Store(project)
before = len(os.listdir("/proc/self/task"))
rows = cloud.data.parts.snapshot(project, store, sys.argv[2])
print(len(rows), len(os.listdir("/proc/self/task")) - before)
"""


def test_parts_are_read_without_a_thread_that_could_outlive_the_interpreter(empty: Project, empty_store: Store) -> None:
    """Arrow's own threads let go of what they read later: a command that ended just then was aborted (status -6)."""
    version = builders.add(empty, empty_store, ROWS).version
    command = [sys.executable, "-c", READ, str(empty.folder), version]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
    assert (done.stderr, done.stdout.split()) == ("", [str(len(ROWS)), "0"])
