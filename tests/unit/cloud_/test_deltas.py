"""Deltas of a bundle: listed where they are worth it, made once, and each makes the file that was signed."""

from __future__ import annotations

import copy
import io
import itertools
import json
import pathlib
import random

import joblib
import numpy as np
import pytest
from click.testing import CliRunner
from sklearn.linear_model import SGDClassifier
from sklearn.neural_network import MLPClassifier

from cloud.carried import export_repository
from cloud.cli.main import cli
from cloud.config import Project
from cloud.export.onnx_file import Exported
from cloud.pipeline import build_bundle, bundling
from cloud.publish.deltas import NO_DELTAS, make_deltas
from cloud.publish.repository import SignedRepository
from cloud.publish.seal import SealedBundle, load_bundle, verify_bundle
from cloud.store.store import Store
from cloud.training import int8_steps
from shared import bundle, codec, delta
from shared.bundle import Golden, digest_of
from shared.channel import BundleRef, Channel, ModelChannel
from shared.errors import ConfigError, NotFoundError, TrustError
from shared.features import Encoder, FeatureSet
from shared.precomputed import PrecomputedTable
from tests.unit.cloud_ import builders

NETWORK = """\
estimator = "sklearn.neural_network.MLPClassifier"
params = { hidden_layer_sizes = [48, 48], max_iter = 5 }
"""


@pytest.fixture
def network(tmp_path: pathlib.Path) -> Project:
    """A project of a small network, which is large enough for deltas."""
    return builders.make_project(tmp_path / "shop", model=NETWORK, more=builders.EASY_GATES)


def trained(project: Project, store: Store, *parents: str, after: int = 0) -> list[SealedBundle]:
    """Add rows and train, once for each parent."""
    made = []
    for i, parent in enumerate(parents, after):
        builders.add(project, store, builders.sales(20, first_day=20 * i, seed=i + 1))
        made.append(builders.fit(project, store, parent=parent).sealed)
    return made


def repository(project: Project) -> SignedRepository:
    return SignedRepository(project.repository, project.keys)


def test_each_delta_of_a_second_version_makes_the_signed_file_from_the_first(network: Project) -> None:
    with builders.opened(network) as store:
        first, second = trained(network, store, "", "v1")
    served = {digest_of(data): data for data in first.files.values()}
    model = second.manifest.file(bundle.MODEL_FILE)
    assert model is not None
    assert {ref.source for ref in model.deltas} - {""} == {first.manifest.file(bundle.MODEL_FILE).sha256}  # type: ignore[union-attr]
    n = 0
    for file in second.manifest.files:
        for ref in file.deltas:
            made = repository(network).blob_path(ref.sha256).read_bytes()
            assert (digest_of(made), len(made)) == (ref.sha256, ref.length)
            whole = delta.apply(made, served[ref.source] if ref.source else b"", limit_bytes=file.length)
            assert digest_of(whole) == file.sha256
            n += 1
        assert repository(network).blob_path(file.sha256).read_bytes() == second.files[file.name]
    assert n >= 1


def test_a_version_is_built_again_to_the_same_bytes_whatever_came_after_it(network: Project) -> None:
    with builders.opened(network) as store:
        sealed = {one.manifest.version: one for one in trained(network, store, "", "v1", "", "v1.1")}
        for version, before in sealed.items():
            again = build_bundle(network, store, builders.MODEL, version, actor="ada")
            assert (again.data, again.deltas) == (before.data, before.deltas)
            assert load_bundle(repository(network), builders.MODEL, version).data == before.data


def test_a_version_that_was_signed_before_there_were_deltas_is_built_again_as_it_was(
    network: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    with builders.opened(network) as store:
        monkeypatch.setattr(bundling, "_deltas", lambda *_: NO_DELTAS)
        (first,) = trained(network, store, "")
        monkeypatch.undo()
        assert b"deltas" not in first.data
        assert build_bundle(network, store, builders.MODEL, "v1", actor="ada").data == first.data
        (second,) = trained(network, store, "v1", after=1)
        assert second.deltas


def test_sources_are_what_answers_somewhere_and_the_newest_at_most_three(network: Project) -> None:
    with builders.opened(network) as store:
        sealed = trained(network, store, "", "v1", "v1.1", "v1.2")
        for region in builders.REGIONS:
            store.models.set_incumbent(builders.MODEL, region, "v1")
        (last,) = trained(network, store, "v1.3", after=4)
    names = {one.manifest.file(bundle.MODEL_FILE).sha256: one.manifest.version for one in sealed}  # type: ignore[union-attr]
    deltas = last.manifest.file(bundle.MODEL_FILE).deltas  # type: ignore[union-attr]
    assert [names[ref.source] for ref in deltas if ref.source] == ["v1", "v1.3", "v1.2"]


def test_a_source_whose_files_are_gone_is_left_out_and_the_version_is_signed(network: Project) -> None:
    with builders.opened(network) as store:
        (first,) = trained(network, store, "")
        store.blobs.path(digest_of(first.files[bundle.GOLDEN_FILE])).unlink()
        (second,) = trained(network, store, "v1", after=1)
    assert not [ref for file in second.manifest.files for ref in file.deltas if ref.source]


def test_what_is_not_worth_it_is_not_listed() -> None:
    rng = random.Random(1)
    noise, other, words = rng.randbytes(5000), rng.randbytes(5000), b"words that come again " * 300
    made = make_deltas(
        {"noise": noise, "words": words, "small": b"a" * 1000, "same": other, "grown": noise + b"more"},
        [
            {"noise": other, "same": other, "words": rng.randbytes(100), "grown": noise, "small": b"a" * 999},
            {"words": words + b"!", "grown": noise},
        ],
    )
    listed = {name: [one.ref.method for one in several] for name, several in made.items()}
    assert listed == {"words": ["zstd"], "grown": ["patch"]}


def test_a_spoilt_or_a_missing_delta_is_found_by_verify(network: Project) -> None:
    with builders.opened(network) as store:
        second = trained(network, store, "", "v1")[-1]
    assert verify_bundle(load_bundle(repository(network), builders.MODEL, "v1.1"))
    path = repository(network).blob_path(next(iter(second.deltas)))
    path.write_bytes(b"spoilt")
    with pytest.raises(TrustError, match=r"a delta of .* is not what was signed"):
        verify_bundle(load_bundle(repository(network), builders.MODEL, "v1.1"))
    path.unlink()
    with pytest.raises(NotFoundError):
        load_bundle(repository(network), builders.MODEL, "v1.1")


def test_a_copy_of_the_repository_for_a_region_has_the_deltas(network: Project, tmp_path: pathlib.Path) -> None:
    with builders.opened(network) as store:
        second = trained(network, store, "", "v1")[-1]
    entry = ModelChannel(model=builders.MODEL, incumbent=BundleRef(version="v1.1"))
    says = Channel(region="north", sequence=1, models=(entry,))
    repository(network).publish("channels", {says.target_path: says.to_bytes()})
    export_repository(network, tmp_path / "stick", ["north"])
    copied = {path.name for path in (tmp_path / "stick" / "blobs").rglob("*") if path.is_file()}
    assert copied == {digest_of(data) for data in second.files.values()} | set(second.deltas)


def test_bundle_show_says_what_a_file_weighs_for_whom(network: Project) -> None:
    with builders.opened(network) as store:
        second = trained(network, store, "", "v1")[-1]
    done = CliRunner().invoke(cli, ["--project", str(network.folder), "bundle", "show", "v1.1"], catch_exceptions=False)
    (ref,) = [ref for ref in second.manifest.file(bundle.MODEL_FILE).deltas if ref.source]  # type: ignore[union-attr]
    assert f"{ref.method:14} {ref.length:>10,} bytes  from v1\n" in done.output
    done = CliRunner().invoke(cli, ["--project", str(network.folder), "bundle", "show", "v1.1", "--json"])
    listed = {file["name"]: file.get("deltas", []) for file in json.loads(done.output)["files"]}
    assert [one["sha256"] for one in listed[bundle.MODEL_FILE]] == [
        one.sha256
        for one in second.manifest.file(bundle.MODEL_FILE).deltas  # type: ignore[union-attr]
    ]


# ---- networks that are defined in steps


@pytest.fixture
def stepped(tmp_path: pathlib.Path) -> Project:
    return builders.make_project(tmp_path / "steps", model=NETWORK + 'publish_delta = "int8"', more=builders.EASY_GATES)


def test_a_network_defined_in_steps_is_sent_as_int8_exactly(stepped: Project) -> None:
    with builders.opened(stepped) as store:
        sealed = trained(stepped, store, "", "v1", "v1.1")
        detail = store.models.get(builders.MODEL, "v1.1")["detail"]
    for before, after in itertools.pairwise(sealed):
        old, new = before.files[bundle.MODEL_FILE], after.files[bundle.MODEL_FILE]
        listed = {ref.source: ref for ref in after.manifest.file(bundle.MODEL_FILE).deltas}  # type: ignore[union-attr]
        ref = listed[digest_of(old)]
        assert (ref.method, old != new) == ("int8", True)
        assert ref.length < 0.4 * listed[""].length
        assert delta.apply(after.deltas[ref.sha256], old, limit_bytes=len(new)) == new
    assert detail["parameters"]["publish_delta"] == "int8"


def test_gates_golden_rows_and_table_are_those_of_the_model_in_steps(stepped: Project) -> None:
    with builders.opened(stepped) as store:
        made = trained(stepped, store, "", "v1")[-1]
        row = store.models.get(builders.MODEL, "v1.1")
        kept = joblib.load(io.BytesIO(store.blobs.get(row["detail"]["estimator"])))
        parity = next(gate for gate in row["detail"]["gates"] if gate["name"] == "parity")
    exported = Exported(made.files[bundle.MODEL_FILE], "binary")
    features = codec.from_json(made.files[bundle.FEATURES_FILE], FeatureSet)
    encoder = Encoder(features)
    golden = codec.from_json(made.files[bundle.GOLDEN_FILE], Golden)
    codes = [encoder.encode(one) for one in golden.rows]
    inputs = np.array([encoder.vector(code) for code in codes], np.float32)
    assert parity["passed"]
    assert np.allclose(exported.answers(inputs), golden.outputs, atol=1e-6)
    assert np.allclose(kept.predict_proba(inputs), golden.outputs, atol=1e-6)
    table = PrecomputedTable(made.files[bundle.TABLE_FILE])
    found = {i: answer for i, code in enumerate(codes) if (answer := table.get(encoder.key(code)))}
    assert found
    assert all(np.allclose(answer, golden.outputs[i], atol=1e-6) for i, answer in found.items())


def test_steps_move_each_weight_at_most_half_a_step_and_need_a_network() -> None:
    inputs = np.random.default_rng(0).normal(size=(200, 6)).astype(np.float32)
    labels = (inputs[:, 0] > 0).astype(int)
    base = MLPClassifier((8,), random_state=0).partial_fit(inputs, labels, classes=[0, 1])
    tuned = copy.deepcopy(base).partial_fit(inputs, labels)
    stepped = int8_steps.as_steps(base, copy.deepcopy(tuned))
    parts = [[*one.coefs_, *one.intercepts_] for one in (base, tuned, stepped)]
    for old, free, bound in zip(*parts, strict=True):
        assert np.abs(bound - free).max() <= np.abs(free - old).max() / 127 + 1e-6
    with pytest.raises(ConfigError, match="SGDClassifier has no weights to send as int8"):
        int8_steps.as_steps(SGDClassifier(), SGDClassifier())


def test_steps_of_an_estimator_that_has_none_are_refused_when_the_settings_are_read(stepped: Project) -> None:
    text = builders.config(model=builders.SGD, more='publish_delta = "int8"')
    with pytest.raises(ConfigError, match=r"models\.sales\.publish_delta: 'sklearn.*SGDClassifier' has no weights"):
        builders.write(stepped, "covey.toml", text)
