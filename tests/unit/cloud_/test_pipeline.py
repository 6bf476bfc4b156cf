"""From data to a signed version: numbers that are never used twice, gates that hold, and a record of everything."""

from __future__ import annotations

import io
import json
import pathlib
import sys
import typing

import joblib
import msgspec
import numpy as np
import pytest

from cloud.config import Project
from cloud.export.onnx_file import Exported
from cloud.pipeline import build_bundle, override, prepare
from cloud.pipeline.order import Order
from cloud.publish.repository import SignedRepository
from cloud.publish.seal import load_bundle, verify_bundle
from cloud.store.store import Store
from shared import bundle, codec
from shared.bundle import Golden
from shared.errors import ConfigError, ConflictError, CoveyError, DataError, GateError, NotFoundError, UsageError
from shared.features import Encoder, FeatureSet
from shared.precomputed import PrecomputedTable
from tests.unit.cloud_ import builders

LATER = builders.sales(20, first_day=20, seed=3)


def versions(store: Store) -> list[tuple[str, str]]:
    """Version and status of all, in the order in which they were taken."""
    rows = sorted(store.models.all("sales"), key=lambda row: row["created_s"])
    return [(row["version"], row["status"]) for row in rows]


def lead(store: Store, version: str) -> None:
    """Make a version the incumbent everywhere."""
    for region in builders.REGIONS:
        store.models.set_incumbent("sales", region, version)


# ---- numbers


def test_versions_from_scratch_and_continued_are_numbered_as_the_field_does(project: Project, store: Store) -> None:
    easy = builders.write(project, "covey.toml", builders.config(more=builders.EASY_GATES))
    made = []
    for first_day, parents in [(20, ("v1", "")), (40, ("v1.1", "v2", ""))]:
        builders.add(easy, store, builders.sales(20, first_day=first_day, seed=first_day))
        made += [builders.fit(easy, store, parent=parent).version for parent in parents]
    assert made == ["v1.1", "v2", "v1.2", "v2.1", "v3"]
    assert [store.models.get("sales", v)["kind"] for v in made] == [
        "stateful", "stateless", "stateful", "stateful", "stateless",
    ]  # fmt: skip


def test_a_number_is_used_up_by_a_failure_and_never_given_again(project: Project, store: Store) -> None:
    broken = builders.config(model=builders.SGD.replace("log_loss", "nonsense"))
    with pytest.raises(CoveyError):
        builders.fit(builders.write(project, "covey.toml", broken), store)
    with pytest.raises(DataError, match="no rows are newer than v1's"):
        builders.fit(builders.write(project, "covey.toml", builders.config()), store, parent="v1", data="")
    assert versions(store) == [("v1", "ready"), ("v2", "failed"), ("v1.1", "failed")]
    assert "loss" in store.models.get("sales", "v2")["detail"]["error"]
    again = builders.write(project, "covey.toml", builders.config(more=builders.EASY_GATES))
    assert builders.fit(again, store).version == "v3"


def test_a_parent_or_data_that_is_not_there_uses_no_number_up(project: Project, store: Store) -> None:
    with pytest.raises(NotFoundError, match=r"no version 'v7' of sales\. Known are: v1"):
        builders.fit(project, store, parent="v7")
    with pytest.raises(NotFoundError, match="the data set 'vendor' is empty"):
        builders.fit(project, store, data="vendor")
    assert versions(store) == [("v1", "ready")]


def test_a_process_that_dies_in_training_leaves_the_number_taken(
    project: Project, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    def killed(*_: object, **__: object) -> typing.NoReturn:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(sys.modules["cloud.pipeline.train"], "prepare", killed)
        with pytest.raises(KeyboardInterrupt):
            builders.fit(project, store)
    assert versions(store) == [("v1", "ready"), ("v2", "failed")]
    assert builders.fit(project, store).version == "v3"


def test_what_has_no_partial_fit_can_not_be_continued_and_the_registry_says_why(tmp_path: pathlib.Path) -> None:
    model = (
        'estimator = "sklearn.ensemble.HistGradientBoostingClassifier"\nparams = { max_iter = 3, warm_start = true }'
    )
    project = builders.make_project(tmp_path / "p", model=model, more=builders.EASY_GATES)
    with builders.opened(project) as store:
        builders.add(project, store, builders.sales())
        builders.fit(project, store)
        builders.add(project, store, LATER)
        with pytest.raises(ConfigError, match="has no partial_fit"):
            builders.fit(project, store, parent="v1")
        assert "has no partial_fit" in store.models.get("sales", "v1.1")["detail"]["error"]


# ---- what is learned from, what is judged on


def test_everything_in_the_hold_out_is_later_than_everything_that_was_learned_from(
    project: Project, store: Store
) -> None:
    repository = SignedRepository(project.repository, project.keys)
    _, model = project.model(None)
    work = prepare.prepare(project, store, repository, Order(model="sales"), model)
    assert work.train.event_s.max() < work.holdout.rows.event_s.min()
    assert work.holdout.rows.event_s.max() - work.holdout.rows.event_s.min() <= model.holdout_days * 86_400
    assert len(work.train) + len(work.holdout) == 400
    assert work.anchors.rows.event_s.max() <= work.train.event_s.max()


def test_data_that_is_all_hold_out_is_refused(empty: Project, empty_store: Store) -> None:
    builders.add(empty, empty_store, builders.sales(3))
    with pytest.raises(DataError, match="all rows are within the hold-out of 3 days"):
        builders.fit(empty, empty_store)


def test_continuing_learns_new_rows_and_replays_old_ones(project: Project, store: Store) -> None:
    builders.add(project, store, LATER)
    said: list[str] = []
    from cloud.pipeline import train

    easy = builders.write(project, "covey.toml", builders.config(more=builders.EASY_GATES))
    train(easy, store, Order(model="sales", parent="v1"), said.append)
    # v1 ends before the hold-out of its own time: those three days are new to it, and so are 17 of the later 20.
    assert "400 new rows, 340 old ones to replay from" in said


# ---- gates


def test_a_model_that_is_judged_by_its_lists_goes_through_gates_of_single_rows(project: Project, store: Store) -> None:
    ranks = builders.write(project, "covey.toml", builders.config(more='metric = "ndcg"\n' + builders.EASY_GATES))
    made = builders.fit(ranks, store)
    assert made.sealed.manifest.metric == "ndcg"
    assert [gate.reason.partition(" on ")[0] for gate in made.gates if gate.name == "quality"] == ["log_loss"]


def shuffled(rows: list[builders.Row]) -> list[builders.Row]:
    """Rows whose labels say the opposite."""
    return [row | {"sold": 1 - int(str(row["sold"]))} for row in rows]


def test_a_model_of_wrong_labels_is_refused_and_what_was_measured_is_kept(project: Project, store: Store) -> None:
    lead(store, "v1")
    builders.add(project, store, shuffled(builders.sales()), dataset="vendor")
    with pytest.raises(GateError, match=r"quality: log_loss on 60 rows: .* worse than v1") as caught:
        builders.fit(project, store, data="vendor")
    assert caught.value.exit_status == 3
    assert "covey model override v2 --reason" in str(caught.value)
    row = store.models.get("sales", "v2")
    assert row["status"] == "refused"
    failed = {gate["name"] for gate in row["detail"]["gates"] if not gate["passed"]}
    assert failed == {"quality", "forgetting"}
    assert store.audit.all(1)[0]["action"] == "gate refused"
    with pytest.raises(NotFoundError):
        load_bundle(SignedRepository(project.repository, project.keys), "sales", "v2")
    with pytest.raises(ConflictError, match="is refused"):
        build_bundle(project, store, "sales", "v2", actor="ada")


def test_a_model_that_only_knows_the_newest_days_is_refused_by_the_forgetting_gate(
    project: Project, store: Store
) -> None:
    lead(store, "v1")
    builders.add(project, store, builders.sales(5, first_day=20, liked="blue"))
    learns_hard = builders.config(more="finetune = { epochs = 30, replay_ratio = 0.0 }")
    with pytest.raises(GateError, match="forgetting: ") as caught:
        builders.fit(builders.write(project, "covey.toml", learns_hard), store, parent="v1")
    assert "quality: " not in str(caught.value)


def test_the_first_version_must_know_more_than_the_base_rate(empty: Project, empty_store: Store) -> None:
    rows = builders.sales()
    builders.add(empty, empty_store, rows[:340] + shuffled(rows[340:]))
    with pytest.raises(GateError, match="worse than always answering the base rate"):
        builders.fit(empty, empty_store)


def test_classes_that_are_not_the_incumbents_are_refused_and_the_version_ends(project: Project, store: Store) -> None:
    lead(store, "v1")
    turned = builders.write(project, "covey.toml", builders.config(more="classes = [1, 0]"))
    with pytest.raises(GateError, match=r"the classes \[1, 0\] are not those of v1, \[0, 1\]"):
        builders.fit(turned, store)
    assert versions(store)[-1] == ("v2", "failed")


def test_an_override_signs_a_refused_version_and_the_reason_stays_on_card_and_in_the_audit_log(
    project: Project, store: Store
) -> None:
    lead(store, "v1")
    builders.add(project, store, shuffled(builders.sales()), dataset="vendor")
    with pytest.raises(GateError):
        builders.fit(project, store, data="vendor")
    with pytest.raises(UsageError, match="a gate is overridden for a reason"):
        override(project, store, "sales", "v2", reason="  ", actor="ada")
    sealed = override(project, store, "sales", "v2", reason="a drill", actor="ada")
    assert msgspec.json.decode(sealed.files[bundle.CARD_FILE])["override"] == "a drill"
    assert store.models.get("sales", "v2")["status"] == "ready"
    entry = next(row for row in store.audit.all() if row["action"] == "gate overridden")
    assert (entry["reason"], entry["actor"]) == ("a drill", "ada")
    assert "worse than v1" in entry["detail"]
    verify_bundle(load_bundle(SignedRepository(project.repository, project.keys), "sales", "v2"))
    with pytest.raises(ConflictError, match="no gate refused it"):
        override(project, store, "sales", "v2", reason="again", actor="ada")


def test_a_version_that_could_not_be_signed_can_be_signed_later(project: Project, store: Store) -> None:
    key = project.keys / "bundles.pem"
    away = key.rename(project.keys / "elsewhere")
    with pytest.raises(NotFoundError, match="the key of bundles is not here"):
        builders.fit(project, store)
    assert versions(store)[-1] == ("v2", "ready")
    away.rename(key)
    sealed = build_bundle(project, store, "sales", "v2", actor="ada")
    assert store.models.get("sales", "v2")["manifest_sha256"] == sealed.sha256


# ---- what is signed


def test_building_a_bundle_again_gives_the_same_bytes_and_changes_nothing(project: Project, store: Store) -> None:
    first = build_bundle(project, store, "sales", "v1", actor="ada")
    before = list(store.db.connection.iterdump())
    signed = {path.name: path.read_bytes() for path in (project.repository / "metadata").iterdir()}
    second = build_bundle(project, store, "sales", "v1", actor="bob")
    assert (second.data, second.files) == (first.data, first.files)
    assert list(store.db.connection.iterdump()) == before
    assert {path.name: path.read_bytes() for path in (project.repository / "metadata").iterdir()} == signed


def test_a_signed_version_never_changes(project: Project, store: Store) -> None:
    row = store.models.get("sales", "v1")
    kept = row["detail"]["pieces"]
    changed = row["detail"] | {"pieces": kept | {"draft": kept["draft"] | {"threshold": 0.1}}}
    store.models.finish("sales", "v1", "ready", changed)
    with pytest.raises(ConflictError, match="was signed before, with other content"):
        build_bundle(project, store, "sales", "v1", actor="mallory")


def golden_of(project: Project, version: str = "v1") -> tuple[Golden, FeatureSet, Exported]:
    """What a device gets of a version."""
    sealed = load_bundle(SignedRepository(project.repository, project.keys), "sales", version)
    golden = codec.from_json(sealed.files[bundle.GOLDEN_FILE], Golden)
    features = codec.from_json(sealed.files[bundle.FEATURES_FILE], FeatureSet)
    return golden, features, Exported(sealed.files[bundle.MODEL_FILE], sealed.manifest.task)


def reproduces(golden: Golden, features: FeatureSet, model: Exported) -> bool:
    """Whether the golden rows give the golden outputs, encoded one by one as a device does it."""
    encoder = Encoder(features)
    inputs = np.array([encoder.vector(encoder.encode(row)) for row in golden.rows], np.float32)
    return np.allclose(model.answers(inputs), np.array(golden.outputs), atol=golden.tolerance, rtol=0)


def test_golden_rows_give_the_golden_outputs_on_a_device(project: Project) -> None:
    golden, features, model = golden_of(project)
    assert len(golden.rows) == 32
    assert reproduces(golden, features, model)
    off = msgspec.structs.replace(golden, outputs=tuple((p + 1e-3, q) for p, q in golden.outputs))
    assert not reproduces(off, features, model)


_KINDS = """\
name = "sales"
[[feature]]
kind = "categorical"
name = "shelf"
[[feature]]
kind = "categorical"
name = "colour"
[[feature]]
kind = "numeric"
name = "price"
min = 0
max = 100
missing = 0
[[feature]]
kind = "time"
name = "hour"
source = "at"
part = "hour"
[[feature]]
kind = "bucketed"
name = "fresh"
cuts = [0.5]
"""


@pytest.mark.parametrize("kind", ["csv", "parquet"])
def test_golden_rows_survive_whole_numbers_as_words_booleans_and_times(tmp_path: pathlib.Path, kind: str) -> None:
    project = builders.make_project(
        tmp_path / "p", features=_KINDS, more=f"{builders.EASY_GATES}\nprecompute = {{ budget_bytes = 0 }}"
    )
    rows = [row | {"shelf": 100 + i % 7, "fresh": i % 2 == 0} for i, row in enumerate(builders.sales())]
    data = builders.csv_bytes(rows) if kind == "csv" else builders.parquet_bytes(builders.columns_of(rows))
    with builders.opened(project) as store:
        builders.add(project, store, data)
        made = builders.fit(project, store)
    assert bundle.TABLE_FILE not in made.sealed.files
    assert reproduces(*golden_of(project))


def test_a_fallback_table_holds_the_mean_answer_of_the_rows_that_share_a_key(tmp_path: pathlib.Path) -> None:
    more = f'{builders.EASY_GATES}\nprecompute = {{ coarse = ["colour"] }}'
    project = builders.make_project(tmp_path / "p", more=more)
    with builders.opened(project) as store:
        builders.add(project, store, builders.sales())
        made = builders.fit(project, store).sealed
    assert made.manifest.coarse == ("colour",)
    assert f"{bundle.COARSE_FILE}: 3 keys in order" in verify_bundle(made)
    _, features, model = golden_of(project)
    encoder, table = Encoder(features), PrecomputedTable(made.files[bundle.COARSE_FILE])
    rows = [row for row in builders.sales()[:340] if row["colour"] == "red"]
    codes = [encoder.encode({name: row[name] for name in ("colour", "price")}) for row in rows]
    inputs = np.array([encoder.vector(one) for one in codes], np.float32)
    stored = table.get(encoder.coarse_key(["colour"])(codes[0]))
    assert stored == pytest.approx(model.answers(inputs).mean(axis=0).tolist(), abs=1e-6)


def test_a_fallback_key_of_a_feature_that_is_not_there_is_refused_before_any_work(tmp_path: pathlib.Path) -> None:
    project = builders.make_project(tmp_path / "p", more='precompute = { coarse = ["color"] }')
    with builders.opened(project) as store:
        builders.add(project, store, builders.sales())
        with pytest.raises(DataError, match="Did you mean 'colour'"):
            builders.fit(project, store)


def test_everything_about_how_a_version_came_to_be_is_kept(project: Project, store: Store) -> None:
    row = store.models.get("sales", "v1")
    detail = row["detail"]
    assert row["why"] == detail["why"] == "the first"
    assert row["data_version"] == detail["data"]["version"] == store.datasets.latest("sales")["version"]
    assert detail["data"]["set"] == "sales"
    assert detail["rows"] == {"train": 340, "holdout": 60}
    assert detail["parameters"]["estimator"] == "sklearn.linear_model.SGDClassifier"
    assert detail["parameters"]["params"] == {"loss": "log_loss"}
    assert {"covey", "python", "numpy", "scikit-learn", "skl2onnx", "onnx", "onnxruntime"} == set(detail["libraries"])
    assert detail["actor"] == "ada"
    assert detail["trained_from_s"] < detail["trained_to_s"]
    fitted = joblib.load(io.BytesIO(store.blobs.get(detail["estimator"])))
    assert type(fitted).__name__ == "SGDClassifier"
    sealed = load_bundle(SignedRepository(project.repository, project.keys), "sales", "v1")
    assert row["manifest_sha256"] == sealed.sha256
    assert row["features_sha256"] == sealed.manifest.features_sha256
    assert sealed.manifest.lineage.kind == "stateless"
    card = json.loads(sealed.files[bundle.CARD_FILE])
    assert card["gates"] == detail["gates"]
    assert card["why"] == "the first"


def test_the_lineage_of_a_continued_version_names_its_parent(project: Project, store: Store) -> None:
    builders.add(project, store, LATER)
    easy = builders.write(project, "covey.toml", builders.config(more=builders.EASY_GATES))
    made = builders.fit(easy, store, parent="v1", why="new days")
    lineage = made.sealed.manifest.lineage
    assert (lineage.kind, lineage.parent) == ("stateful", "v1")
    assert lineage.data_version == store.datasets.latest("sales")["version"]
    assert made.sealed.manifest.features_sha256 == store.models.get("sales", "v1")["features_sha256"]


@pytest.mark.parametrize(
    ("file", "part"),
    [(bundle.MODEL_FILE, "model.onnx"), (bundle.TABLE_FILE, "precomputed.bin"), (bundle.CARD_FILE, "card.json")],
)
def test_a_file_of_a_bundle_that_was_changed_is_named(project: Project, file: str, part: str) -> None:
    repository = SignedRepository(project.repository, project.keys)
    listed = load_bundle(repository, "sales", "v1").manifest.file(file)
    assert listed is not None
    path = repository.blob_path(listed.sha256)
    path.write_bytes(path.read_bytes()[:-1] + b"\0")
    with pytest.raises(CoveyError, match=f"{part} is not what was signed"):
        verify_bundle(load_bundle(repository, "sales", "v1"))
    path.unlink()
    with pytest.raises(NotFoundError, match=part):
        load_bundle(repository, "sales", "v1")
