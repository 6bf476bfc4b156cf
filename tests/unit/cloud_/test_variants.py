"""Variants of a version: an int8 network and a distilled student, judged against the standard, signed beside it."""

from __future__ import annotations

import pathlib
import typing

import msgspec
import numpy as np
import pytest
from click.testing import CliRunner
from sklearn.ensemble import RandomForestClassifier
from sklearn.linear_model import LinearRegression, LogisticRegression
from sklearn.naive_bayes import GaussianNB
from sklearn.neighbors import KNeighborsClassifier
from sklearn.neural_network import MLPClassifier

from cloud.cli.main import cli
from cloud.config import Project, load_project
from cloud.export import int8, onnx_file
from cloud.export.precompute import bind
from cloud.pipeline import build_bundle, override
from cloud.publish.repository import SignedRepository
from cloud.publish.seal import load_bundle, verify_bundle
from cloud.rollout.channels import bundle_ref
from cloud.store.store import Store
from cloud.training.fit import Rows
from cloud.training.student import distil
from shared import bundle
from shared.bundle import Golden
from shared.errors import ConfigError, GateError, ModelError
from shared.precomputed import PrecomputedTable, build
from tests.unit.cloud_ import builders

MLP = (
    'estimator = "sklearn.neural_network.MLPClassifier"\n'
    "params = { hidden_layer_sizes = [32, 16], max_iter = 30, random_state = 1 }"
)
INT8 = '[[models.sales.variant]]\nname = "small"\nkind = "int8"\nworse_by = 0.05\n'
STUDENT = (
    '[[models.sales.variant]]\nname = "tiny"\nkind = "student"\nestimator = "sklearn.linear_model.LogisticRegression"\n'
)


def project_with(folder: pathlib.Path, more: str, model: str = MLP) -> tuple[Project, Store]:
    project = builders.make_project(folder, model=model, more=more)
    store = Store(project)
    builders.add(project, store, builders.sales(30))
    return project, store


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> typing.Iterator[tuple[Project, Store]]:
    project, store = project_with(
        tmp_path_factory.mktemp("variants") / "shop", builders.EASY_GATES + "\n" + INT8 + STUDENT
    )
    builders.fit(project, store)
    yield project, store
    store.close()


def load(project: Project, variant: str) -> typing.Any:
    return load_bundle(SignedRepository(project.repository, project.keys), "sales", "v1", variant)


def test_each_variant_is_a_whole_signed_bundle_with_a_model_and_golden_rows_of_its_own(
    trained: tuple[Project, Store],
) -> None:
    project, store = trained
    standard = load(project, "standard")
    for name in ("small", "tiny"):
        sealed = load(project, name)
        assert verify_bundle(sealed)
        assert (sealed.manifest.variant, sealed.manifest.version) == (name, "v1")
        assert sealed.files[bundle.MODEL_FILE] != standard.files[bundle.MODEL_FILE]
        assert sealed.manifest.features_sha256 == standard.manifest.features_sha256
        golden = msgspec.json.decode(sealed.files[bundle.GOLDEN_FILE], type=Golden)
        assert len(golden.rows) == len(golden.outputs) > 10
        assert msgspec.json.decode(sealed.files[bundle.CARD_FILE])["variant"] == name
    assert bundle_ref(store, "sales", "v1").variants == ("standard", "small", "tiny")


def test_a_variant_answers_what_is_precomputed_as_the_standard_does(trained: tuple[Project, Store]) -> None:
    project, _ = trained
    tables = [PrecomputedTable(load(project, name).files[bundle.TABLE_FILE]) for name in ("standard", "small", "tiny")]
    assert len({table.model_sha256 for table in tables}) == 3
    first, *others = [dict(table.items()) for table in tables]
    assert len(first) > 3
    assert others == [first, first]


@pytest.mark.parametrize(("variant", "whose"), [("standard", "the"), ("tiny", "the standard variant's")])
def test_what_is_shown_of_a_variants_table_is_said_of_the_model_that_made_it(
    trained: tuple[Project, Store], variant: str, whose: str
) -> None:
    asked = ["--project", str(trained[0].folder), "bundle", "show", "v1", "--variant", variant]
    assert f" agree with {whose} ONNX model\n" in CliRunner().invoke(cli, asked, catch_exceptions=False).output


def test_signing_again_gives_the_same_variants(trained: tuple[Project, Store]) -> None:
    project, store = trained
    before = load(project, "small").data
    build_bundle(project, store, "sales", "v1", actor="ada")
    assert load(project, "small").data == before


def test_int8_is_smaller_and_close_and_only_for_networks() -> None:
    rng = np.random.default_rng(0)
    rows = rng.normal(size=(2000, 20)).astype(np.float32)
    labels = (rows[:, 0] + rows[:, 1] ** 2 > 1).astype(int)
    with pytest.warns(match="converged"):
        network = MLPClassifier((96, 64), max_iter=5, random_state=0).fit(rows, labels)
    file = onnx_file.export(network, width=20, task="binary", properties={"model": "m"})
    small = int8.quantise(file)
    assert len(small) < 0.5 * len(file)
    assert int8.quantise(file) == small
    answers, fewer = (onnx_file.Exported(data, "binary").answers(rows) for data in (file, small))
    assert 0 < np.abs(answers - fewer).max() < 0.1
    forest = RandomForestClassifier(5, random_state=0).fit(rows, labels)
    with pytest.raises(ModelError, match="no dense layer to quantise"):
        int8.quantise(onnx_file.export(forest, width=20, task="binary", properties={}))


def test_a_student_learns_what_the_teacher_says_and_not_the_labels() -> None:
    rng = np.random.default_rng(0)
    rows = rng.normal(size=(4000, 3)).astype(np.float32)
    p = 1 / (1 + np.exp(-rows[:, 0]))
    said = np.stack([1 - p, p], axis=1)
    wrong = Rows(rows, (rows[:, 1] > 0).astype(int))
    student = distil(LogisticRegression(C=1e6), wrong, said)
    assert np.allclose(student.coef_, [[1, 0, 0]], atol=0.02)
    three = np.stack([p * 0.2, p * 0.8, 1 - p], axis=1)
    forest = distil(RandomForestClassifier(20, min_samples_leaf=100, random_state=0), wrong, three)
    assert np.abs(forest.predict_proba(rows) - three).mean() < 0.02
    line = distil(LinearRegression(), Rows(rows, np.zeros(4000)), (2 * rows[:, :1]).astype(np.float32))
    assert np.allclose(line.coef_, [2, 0, 0], atol=1e-4)
    assert distil(GaussianNB(), wrong, said).class_count_.sum() == pytest.approx(4000, rel=0.01)
    with pytest.raises(ConfigError, match="KNeighborsClassifier takes no weights"):
        distil(KNeighborsClassifier(), wrong, said)


def test_a_variant_that_is_worse_or_too_large_holds_up_the_version_until_somebody_says_why(
    tmp_path: pathlib.Path,
) -> None:
    blind = STUDENT.replace('LogisticRegression"', 'LogisticRegression"\nparams = { C = 1e-9 }\nworse_by = 0.001')
    limits = "budgets = { size_bytes = 100 }\nprecompute = { budget_bytes = 0 }\n"
    project, store = project_with(tmp_path / "shop", builders.EASY_GATES + "\n" + limits + blind)
    with pytest.raises(
        GateError, match=r"size: [\d,]+ bytes, allowed are 100; tiny: log_loss .* worse than the standard"
    ):
        builders.fit(project, store)
    row = store.models.get("sales", "v1")
    assert row["status"] == "refused"
    override(project, store, "sales", "v1", reason="a test", actor="ada")
    assert msgspec.json.decode(load(project, "tiny").files[bundle.CARD_FILE])["override"] == "a test"
    store.close()


def test_budgets_reach_the_manifest(tmp_path: pathlib.Path) -> None:
    more = (
        builders.EASY_GATES + "\nbudgets = { memory_bytes = 50000000, load_s = 3.0, predict_s = 0.05 }\n" + STUDENT
    ) + "budgets = { memory_bytes = 9000000 }\n"
    project, store = project_with(tmp_path / "shop", more, model=builders.SGD)
    builders.fit(project, store)
    assert load(project, "standard").manifest.budgets == bundle.Budgets(
        memory_bytes=50_000_000, load_s=3.0, predict_s=0.05
    )
    assert load(project, "tiny").manifest.budgets.memory_bytes == 9_000_000
    store.close()


@pytest.mark.parametrize(
    ("variants", "says"),
    [
        (INT8 + INT8, "'small' is taken"),
        (INT8.replace("small", "standard"), "'standard' is taken"),
        (INT8 + 'estimator = "x.Y"\n', "do not go together"),
        (STUDENT.replace("student", "int8"), "do not go together"),
        (INT8.replace("small", "Small"), r"variant\[0\]\.name"),
        (INT8.replace("int8", "ort"), "Invalid enum value 'ort'|'ort'"),
        ('answer_order = "precomputed_only"\n' + INT8, "never ask the model"),
    ],
)
def test_a_variant_that_makes_no_sense_is_refused_when_the_project_is_read(
    tmp_path: pathlib.Path, variants: str, says: str
) -> None:
    project = builders.make_project(tmp_path / "shop", model=MLP)
    (project.folder / "covey.toml").write_text(builders.config(model=MLP, more=variants))
    with pytest.raises(ConfigError, match=says):
        load_project(project.folder)


def test_a_table_that_is_bound_to_another_model_differs_in_that_alone() -> None:
    table = build({bytes(16): [0.5, 0.5]}, n_outputs=2, features_sha256="ab" * 32, model_sha256="cd" * 32)
    other = bind(table, "ef" * 32)
    assert (PrecomputedTable(other).model_sha256, PrecomputedTable(other).features_sha256) == ("ef" * 32, "ab" * 32)
    assert bind(other, "cd" * 32) == table
