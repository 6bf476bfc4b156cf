"""A device that never sees a network: models come on a stick, batches go back on it, receipts let them be forgotten."""

from __future__ import annotations

import contextlib
import json
import os
import pathlib
import typing

import msgspec
import pytest

from cloud.carried import export_repository, import_batches
from cloud.cli.main import main as cloud_main
from cloud.config import Project
from cloud.publish.repository import SignedRepository
from cloud.rollout import controller, plan
from cloud.store.store import Store
from edge_agent.cli import main
from edge_agent.config import Layout
from edge_agent.device_key import load_key, public_hex
from edge_agent.telemetry.outbox import Outbox
from shared import codec
from shared.bundle import File, digest_of, parse_manifest
from shared.carried import CarriedBatch, Receipt, batch_message
from shared.errors import NotFoundError
from shared.telemetry import MAX_BATCH_RAW_BYTES
from tests import fakes
from tests.unit.cloud_ import builders

ROW = ("colour=red", "price=15")


class Both(typing.NamedTuple):
    """A cloud, a device that knows it and can not reach it, and a stick."""

    project: Project
    store: Store
    layout: Layout
    stick: pathlib.Path

    def edge(self, *words: str) -> int:
        return main(["--store", str(self.layout.store), *words])

    def export(self) -> dict[str, int]:
        return export_repository(self.project, self.stick, ["north"])

    def sealed(self) -> int:
        with contextlib.closing(Outbox(self.layout.spool_db)) as box:
            return box.counts()["sealed"]

    def batches(self) -> list[pathlib.Path]:
        return sorted(self.stick.glob("*.batch"))

    def requests(self) -> int:
        return int(self.store.evidence.totals(fakes.DEVICE)["requests"])


@pytest.fixture
def both(tmp_path: pathlib.Path) -> typing.Iterator[Both]:
    project = builders.trained_project(tmp_path / "cloud")
    repository = SignedRepository(project.repository, project.keys)
    with builders.opened(project) as store:
        settings = project.settings
        plan.start(
            store,
            settings.rollout,
            settings.regions.order,
            model="sales",
            version="v1",
            why="first",
            actor="ada",
            event_day=0,
        )
        controller.tick(project, store, lambda files: repository.publish("channels", files))
        layout = fakes.join(tmp_path / "device", root=repository.root_bytes())
        store.fleet.add_token("token", "secret", fakes.REGION, uses=1, lifetime_s=3600)
        store.fleet.join(fakes.DEVICE, public_hex(load_key(layout.device_key)), "token", "secret")
        yield Both(project, store, layout, tmp_path / "stick")


def test_models_come_and_counts_go_by_hand_and_nothing_counts_twice(
    both: Both, capsys: pytest.CaptureFixture[str]
) -> None:
    both.export()
    assert both.edge("import", str(both.stick)) == 0
    assert "sales@v1" in capsys.readouterr().out
    for _ in range(3):
        assert both.edge("predict", *ROW) == 0
    assert both.edge("outbox", "export", str(both.stick)) == 0
    assert len(both.batches()) == both.sealed() == 1
    assert both.edge("predict", *ROW) == 0
    assert both.edge("outbox", "export", str(both.stick)) == 0
    assert len(both.batches()) == both.sealed() == 2
    taken = import_batches(both.project, both.store, both.stick)
    assert [(one.error, one.duplicate) for one in taken] == [("", False), ("", False)]
    assert both.requests() == 4
    again = import_batches(both.project, both.store, both.stick)
    assert [one.duplicate for one in again] == [True, True]
    assert both.requests() == 4
    capsys.readouterr()
    assert both.edge("import", str(both.stick), "--json") == 0
    assert json.loads(capsys.readouterr().out)["acknowledged"] == 2
    assert both.sealed() == 0


def test_without_a_receipt_nothing_is_forgotten(both: Both) -> None:
    both.export()
    both.edge("import", str(both.stick))
    both.edge("predict", *ROW)
    for _ in range(3):
        both.edge("outbox", "export", str(both.stick))
        assert both.edge("import", str(both.stick)) == 0
    assert both.sealed() == len(both.batches()) == 1


def test_the_stick_holds_one_regions_files_and_what_is_served_too(both: Both) -> None:
    said = both.export()
    names = {str(path.relative_to(both.stick)) for path in both.stick.rglob("*") if path.is_file()}
    assert said["files"] == len(names)
    assert "metadata/timestamp.json" in names
    assert len([name for name in names if name.startswith("targets/channels/")]) == 1
    assert all((both.project.repository / name).read_bytes() == (both.stick / name).read_bytes() for name in names)
    with pytest.raises(NotFoundError):
        export_repository(both.project, both.stick, ["nowhere"])


@pytest.mark.parametrize(
    "pattern", ["metadata/timestamp.json", "targets/channels/*", "targets/bundles/*/*/*", "blobs/*/*"]
)
@pytest.mark.parametrize("harm", ["flip", "cut", "remove"])
def test_a_spoilt_stick_changes_nothing_and_an_honest_one_still_works(both: Both, pattern: str, harm: str) -> None:
    both.export()
    manifest = parse_manifest(next(both.stick.glob("targets/bundles/*/*/*")).read_bytes())
    two_ways = {sha256 for file in manifest.files if file.deltas for sha256 in (file.sha256, *_deltas(file))}
    harmed = [path for path in both.stick.glob(pattern) if path.name not in two_ways]
    path = max(harmed, key=lambda path: path.stat().st_size)
    data = path.read_bytes()
    at = len(data) // 2
    path.write_bytes(
        {"flip": data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :], "cut": data[:at], "remove": b""}[harm]
    )
    if harm == "remove":
        path.unlink()
    assert both.edge("import", str(both.stick)) == 1
    assert not both.layout.current.exists()
    path.write_bytes(data)
    assert both.edge("import", str(both.stick)) == 0
    assert both.layout.current.exists()


def _deltas(file: File) -> set[str]:
    return {ref.sha256 for ref in file.deltas}


def test_a_file_that_is_spoilt_on_the_stick_comes_by_its_delta(both: Both) -> None:
    both.export()
    manifest = parse_manifest(next(both.stick.glob("targets/bundles/*/*/*")).read_bytes())
    spoilt = next(file for file in manifest.files if file.deltas)
    (both.stick / "blobs" / spoilt.sha256[:2] / spoilt.sha256).unlink()
    assert both.edge("import", str(both.stick)) == 0
    assert both.layout.current.exists()


def carried(both: Both) -> tuple[pathlib.Path, CarriedBatch]:
    both.export()
    both.edge("import", str(both.stick))
    both.edge("predict", *ROW)
    both.edge("outbox", "export", str(both.stick))
    (path,) = both.batches()
    return path, codec.from_msgpack(path.read_bytes(), CarriedBatch)


def test_a_batch_that_was_changed_on_the_way_is_named_and_the_others_are_taken_in(both: Both) -> None:
    path, honest = carried(both)
    data = path.read_bytes()
    spoilt = {"a": data[:-9], "b": b"", "c": b"\xc1garbage", "d": data[:99] + b"?" + data[100:], "e": bytes(8 << 20)}
    for name, bad in spoilt.items():
        path.with_name(f"{name}.batch").write_bytes(bad)
    renamed = codec.to_msgpack(
        CarriedBatch(**{f: getattr(honest, f) for f in honest.__struct_fields__} | {"sequence": 99})
    )
    path.with_name("f.batch").write_bytes(renamed)
    taken = {one.file: one for one in import_batches(both.project, both.store, both.stick)}
    assert {name for name, one in taken.items() if one.error} == {f"{name}.batch" for name in "abcdef"}
    assert "not signed by the device" in taken["f.batch"].error
    assert not taken[path.name].error
    assert both.requests() == 1


@pytest.mark.parametrize("spool", ["../../out", "a/b", "a\0b"])
def test_no_device_chooses_where_its_receipt_is_written(both: Both, spool: str) -> None:
    path, batch = carried(both)
    raw = msgspec.msgpack.decode(codec.decompress(batch.body, limit_bytes=MAX_BATCH_RAW_BYTES)) | {"spool": spool}
    body = codec.compress(msgspec.msgpack.encode(raw))
    signature = load_key(both.layout.device_key).sign(batch_message(batch.device, spool, batch.sequence, body)).hex()
    forged = msgspec.structs.replace(batch, spool=spool, body=body, signature=signature)
    path.with_name("a.batch").write_bytes(codec.to_msgpack(forged))
    taken = {one.file: one.error for one in import_batches(both.project, both.store, both.stick)}
    assert ("spool" in taken["a.batch"], taken[path.name]) == (True, "")
    written = {found.relative_to(both.stick).as_posix() for found in both.stick.parent.rglob("*.receipt.json")}
    assert written == {f"{batch.device}-{batch.spool}.receipt.json"}


def test_what_is_no_plain_file_is_named_and_nobody_waits_for_it(both: Both) -> None:
    path, _ = carried(both)
    path.with_name("a.batch").mkdir()
    os.mkfifo(path.with_name("b.batch"))
    path.with_name("c.batch").symlink_to("/dev/zero")
    taken = {one.file: one.error for one in import_batches(both.project, both.store, both.stick)}
    assert taken == dict.fromkeys(("a.batch", "b.batch", "c.batch"), "file: no plain file") | {path.name: ""}


def test_a_carried_batch_is_known_again_by_the_bytes_that_its_device_wrote(both: Both) -> None:
    """A cloud that knows other fields than the device would write it otherwise, and refuse it when it comes again."""
    _, batch = carried(both)
    raw = codec.decompress(batch.body, limit_bytes=MAX_BATCH_RAW_BYTES)
    more = msgspec.msgpack.encode(msgspec.msgpack.decode(raw) | {"weather": "rain"})
    body = codec.compress(more)
    key = load_key(both.layout.device_key)
    signature = key.sign(batch_message(batch.device, batch.spool, batch.sequence, body)).hex()
    (path,) = both.batches()
    path.write_bytes(codec.to_msgpack(msgspec.structs.replace(batch, body=body, signature=signature)))
    assert [one.duplicate for _ in range(2) for one in import_batches(both.project, both.store, both.stick)] == [0, 1]
    (row,) = both.store.db.rows("select sha256 from inbox")
    assert row["sha256"] == digest_of(more)


def test_a_receipt_that_the_cloud_did_not_sign_makes_nobody_forget(
    both: Both, capsys: pytest.CaptureFixture[str]
) -> None:
    path, batch = carried(both)
    receipt = path.with_name(f"{batch.device}-{batch.spool}.receipt.json")
    for forged in (
        codec.to_json(
            Receipt(device=batch.device, spool=batch.spool, sequences=(batch.sequence,), signature="ab" * 64)
        ),
        b"{}",
        b"\xff",
    ):
        receipt.write_bytes(forged)
        assert both.edge("import", str(both.stick)) == 1
        assert both.sealed() == 1
    assert "Traceback" not in capsys.readouterr().err
    import_batches(both.project, both.store, both.stick)
    honest = codec.from_json(receipt.read_bytes(), Receipt)
    more = {f: getattr(honest, f) for f in honest.__struct_fields__} | {
        "sequences": (batch.sequence, batch.sequence + 1)
    }
    receipt.write_bytes(codec.to_json(Receipt(**more)))
    assert both.edge("import", str(both.stick)) == 1
    receipt.write_bytes(codec.to_json(honest))
    assert both.edge("import", str(both.stick)) == 0
    assert both.sealed() == 0


def test_a_folder_with_nothing_in_it_says_what_is_missing(both: Both, capsys: pytest.CaptureFixture[str]) -> None:
    both.stick.mkdir()
    with pytest.raises(NotFoundError, match="no batches in"):
        import_batches(both.project, both.store, both.stick)
    assert both.edge("import", str(both.stick)) == 1
    assert both.edge("import", str(both.stick / "nowhere")) == 5
    assert both.edge("outbox", "export") != 0
    assert "Traceback" not in capsys.readouterr().err


def test_a_folder_for_another_region_says_how_to_write_one_for_this(
    both: Both, capsys: pytest.CaptureFixture[str]
) -> None:
    export_repository(both.project, both.stick, ["south"])
    assert both.edge("import", str(both.stick)) == 1
    said = capsys.readouterr().err
    assert "north.json is not in the folder. Write it anew, for the region of this device: covey bundle export" in said
    assert "file://" not in said


def test_receipts_are_signed_with_the_key_that_counts_today(both: Both) -> None:
    _, batch = carried(both)
    assert (
        cloud_main(["--project", str(both.project.folder), "key", "rotate", "online", "--reason", "a test", "--yes"])
        == 0
    )
    both.export()
    import_batches(both.project, both.store, both.stick)
    assert both.edge("import", str(both.stick)) == 0
    assert both.sealed() == 0
    assert batch.sequence == 1
