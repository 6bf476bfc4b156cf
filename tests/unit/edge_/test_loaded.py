"""One bundle: which of table, model and default answers, in each order and in each state of the model."""

from __future__ import annotations

import pathlib
import typing

import pytest

from edge_agent.predict.loaded import DEFAULT, ONNX, PRECOMPUTED, LoadedBundle, NotReadyError
from shared import bundle, codec, precomputed
from shared.errors import DataError, ModelError, TrustError, WireError
from tests import fakes

HIT, MISS = dict(fakes.ROWS[0]), dict(fakes.ROWS[1])
STORED, FALLBACK = (0.875, 0.125), (0.75, 0.25)
NAN = {"x": 6}


def open_bundle(tmp_path: pathlib.Path, *, load: bool = True, **changes: typing.Any) -> LoadedBundle:
    settings: dict[str, typing.Any] = {"table": {0: STORED}} | changes
    return fakes.unpack(tmp_path / "bundle", fakes.make_bundle(**settings), load=load)


def model_says(row: typing.Mapping[str, object]) -> tuple[float, ...]:
    return fakes.expected(row, task="binary", slope=1.0, n_outputs=2)


def test_the_table_comes_first_and_the_model_answers_what_it_does_not_know(tmp_path: pathlib.Path) -> None:
    loaded = open_bundle(tmp_path)
    assert loaded.answer(HIT) == (STORED, PRECOMPUTED)
    outputs, source = loaded.answer(MISS)
    assert (outputs, source) == (pytest.approx(model_says(MISS), abs=1e-6), ONNX)


def test_the_model_comes_first_where_the_bundle_says_so(tmp_path: pathlib.Path) -> None:
    loaded = open_bundle(tmp_path, answer_order="model_first")
    outputs, source = loaded.answer(HIT)
    assert (outputs, source) == (pytest.approx(model_says(HIT), abs=1e-6), ONNX)


@pytest.mark.parametrize(("fault", "row"), [("nan", NAN), ("fails", NAN), ("garbage", HIT)])
def test_a_model_that_fails_leaves_the_answer_to_the_table(
    tmp_path: pathlib.Path, fault: fakes.Fault, row: dict[str, object]
) -> None:
    encoder = fakes.Encoder(fakes.FEATURES)
    made = fakes.make_bundle(fault=fault, answer_order="model_first", default=FALLBACK)
    table = precomputed.build(
        {encoder.key(encoder.encode(row)): STORED},
        n_outputs=2,
        features_sha256=fakes.FEATURES.digest,
        model_sha256=bundle.digest_of(made.files[bundle.MODEL_FILE]),
    )
    loaded = fakes.unpack(tmp_path / "bundle", fakes.seal(made.manifest, made.files | {bundle.TABLE_FILE: table}))
    assert loaded.answer(row) == (STORED, PRECOMPUTED)
    assert loaded.answer(row | {"colour": "green"}) == (FALLBACK, DEFAULT)


@pytest.mark.parametrize("order", ["precomputed_first", "model_first"])
@pytest.mark.parametrize(("fault", "says"), [("nan", "gave"), ("fails", "failed"), ("garbage", "does not load")])
def test_a_model_that_fails_without_table_or_default_is_a_clear_error(
    tmp_path: pathlib.Path, order: str, fault: fakes.Fault, says: str
) -> None:
    loaded = open_bundle(tmp_path, fault=fault, answer_order=order, table=None)
    with pytest.raises(ModelError, match=says) as caught:
        loaded.answer(NAN)
    assert caught.value.field == "late@v1"
    assert bool(loaded.error) == (fault == "garbage")


@pytest.mark.parametrize("order", ["precomputed_first", "model_first"])
def test_a_model_that_fails_at_a_row_is_asked_once(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch, order: str
) -> None:
    loaded = open_bundle(tmp_path, fault="nan", answer_order=order, table=None, default=FALLBACK)
    assert loaded._runtime
    honest, runs = loaded._runtime.run, list[bytes]()

    def run(vector: bytes) -> tuple[float, ...]:
        runs.append(vector)
        return honest(vector)

    monkeypatch.setattr(loaded._runtime, "run", run)
    assert loaded.answer(NAN) == (FALLBACK, DEFAULT)
    assert len(runs) == 1


def test_a_model_that_fails_for_one_row_answers_the_others(tmp_path: pathlib.Path) -> None:
    loaded = open_bundle(tmp_path, fault="nan", table=None, default=FALLBACK)
    assert loaded.answer(NAN) == (FALLBACK, DEFAULT)
    assert loaded.answer(MISS)[1] == ONNX


def test_a_table_alone_answers_what_it_knows_and_says_clearly_what_it_does_not(tmp_path: pathlib.Path) -> None:
    loaded = open_bundle(tmp_path, answer_order="precomputed_only", with_model=False)
    assert loaded.is_loaded.is_set()
    assert loaded.answer(HIT) == (STORED, PRECOMPUTED)
    with pytest.raises(ModelError, match="no precomputed answer for this input, and no default") as caught:
        loaded.answer(MISS)
    assert "Ship the model or set a default" in caught.value.fix


def test_a_table_alone_falls_back_to_the_default(tmp_path: pathlib.Path) -> None:
    loaded = open_bundle(tmp_path, answer_order="precomputed_only", with_model=False, default=FALLBACK)
    assert loaded.answer(MISS) == (FALLBACK, DEFAULT)


@pytest.mark.parametrize("order", ["precomputed_first", "model_first"])
def test_while_the_model_loads_the_table_answers_and_the_rest_waits(tmp_path: pathlib.Path, order: str) -> None:
    loaded = open_bundle(tmp_path, load=False, answer_order=order)
    assert loaded.answer(HIT) == (STORED, PRECOMPUTED)
    with pytest.raises(NotReadyError):
        loaded.answer(MISS)
    loaded.load_model()
    assert loaded.answer(MISS)[1] == ONNX


def test_a_default_is_not_given_while_the_model_that_knows_better_loads(tmp_path: pathlib.Path) -> None:
    loaded = open_bundle(tmp_path, load=False, default=FALLBACK)
    with pytest.raises(NotReadyError):
        loaded.answer(MISS)


@pytest.mark.parametrize("row", [{"x": 11}, {"x": None}, {}, {"x": "7"}, {"x": 1, "size": "big"}])
def test_a_row_that_makes_no_sense_is_refused_before_anything_is_asked(
    tmp_path: pathlib.Path, row: dict[str, object]
) -> None:
    with pytest.raises(DataError):
        open_bundle(tmp_path, default=FALLBACK).answer(row)


@pytest.mark.parametrize("task", ["binary", "multiclass", "regression"])
def test_a_sound_bundle_reproduces_its_golden_rows_in_every_way(tmp_path: pathlib.Path, task: str) -> None:
    loaded = open_bundle(tmp_path, task=task, table=None)
    assert loaded.check_golden() == len(fakes.ROWS)
    loaded.check_encoding()


def test_a_table_alone_reproduces_its_golden_rows(tmp_path: pathlib.Path) -> None:
    table = {i: model_says(row) for i, row in enumerate(fakes.ROWS)}
    loaded = open_bundle(tmp_path, answer_order="precomputed_only", with_model=False, table=table)
    assert loaded.check_golden() == len(fakes.ROWS)


def golden(rows: tuple[typing.Any, ...], outputs: tuple[tuple[float, ...], ...]) -> dict[str, bytes]:
    return {bundle.GOLDEN_FILE: codec.to_json(bundle.Golden(rows=rows, outputs=outputs))}


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"fault": "wrong"}, "golden row 2: expected"),
        ({"fault": "garbage"}, "does not load"),
        ({"answer_order": "precomputed_only", "with_model": False}, "golden row 2: expected .* got None"),
    ],
)
def test_a_bundle_that_does_not_reproduce_its_golden_rows_is_refused(
    tmp_path: pathlib.Path, changes: dict[str, typing.Any], says: str
) -> None:
    with pytest.raises(ModelError, match=says):
        open_bundle(tmp_path, **changes).check_golden()


@pytest.mark.parametrize(
    ("rows", "outputs", "says"),
    [
        ((), (), "there are no golden rows"),
        (fakes.ROWS, ((0.5, 0.5),), "3 golden rows, 1 outputs"),
        (fakes.ROWS[:1], ((0.5, 0.25, 0.25),), "golden row 1"),
        (({"x": 99},), ((0.5, 0.5),), "golden row 1 is refused: x: 99 is outside"),
    ],
)
def test_golden_rows_that_prove_nothing_are_refused(
    tmp_path: pathlib.Path, rows: tuple[typing.Any, ...], outputs: tuple[tuple[float, ...], ...], says: str
) -> None:
    made = fakes.make_bundle()
    loaded = fakes.unpack(tmp_path / "b", fakes.seal(made.manifest, made.files | golden(rows, outputs)))
    with pytest.raises(ModelError, match=says):
        loaded.check_golden()


def test_files_that_belong_to_something_else_are_refused(tmp_path: pathlib.Path) -> None:
    made = fakes.make_bundle(table={0: STORED})
    other_features = fakes.msgspec.structs.replace(fakes.FEATURES, feature=fakes.FEATURES.feature[:2])
    other_model = fakes.make_bundle(table={0: STORED}, slope=2.0)
    for i, (file, data, says) in enumerate(
        (
            (bundle.FEATURES_FILE, codec.to_json(other_features), "the feature set is not the one of the manifest"),
            (bundle.TABLE_FILE, other_model.files[bundle.TABLE_FILE], "the table belongs to another model"),
            (
                bundle.TABLE_FILE,
                made.files[bundle.TABLE_FILE][:40] + b"?" + made.files[bundle.TABLE_FILE][41:],
                "features",
            ),
        )
    ):
        with pytest.raises(TrustError, match=says):
            fakes.unpack(tmp_path / str(i), fakes.seal(made.manifest, made.files | {file: data}))


def test_a_table_with_another_number_of_outputs_is_refused(tmp_path: pathlib.Path) -> None:
    made = fakes.make_bundle()
    table = precomputed.build(
        {bytes(16): (0.5,)},
        n_outputs=1,
        features_sha256=fakes.FEATURES.digest,
        model_sha256=bundle.digest_of(made.files[bundle.MODEL_FILE]),
    )
    with pytest.raises(TrustError, match="the table"):
        fakes.unpack(tmp_path / "b", fakes.seal(made.manifest, made.files | {bundle.TABLE_FILE: table}))


@pytest.mark.parametrize(
    ("file", "data"),
    [
        (bundle.FEATURES_FILE, b""),
        (bundle.FEATURES_FILE, b'{"schema":"covey.features/2"}'),
        (bundle.TABLE_FILE, b""),
        (bundle.TABLE_FILE, b"COVEYPC1"),
    ],
)
def test_garbage_files_are_refused(tmp_path: pathlib.Path, file: str, data: bytes) -> None:
    made = fakes.make_bundle()
    with pytest.raises(WireError):
        fakes.unpack(tmp_path / "b", fakes.seal(made.manifest, made.files | {file: data}))


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"task": "multiclass", "classes": ("a", "b"), "n_outputs": 2}, "golden row 1"),
        ({"task": "regression", "metric": "squared_error", "classes": (), "n_outputs": 1}, "gave"),
    ],
)
def test_a_model_with_other_outputs_than_its_manifest_says_never_answers(
    tmp_path: pathlib.Path, changes: dict[str, typing.Any], says: str
) -> None:
    made = fakes.make_bundle(task="multiclass" if changes["task"] == "regression" else "regression")
    loaded = fakes.unpack(tmp_path / "b", fakes.seal(made.manifest, made.files, **changes))
    with pytest.raises(ModelError, match=f"{says}|has no output 'probabilities'"):
        loaded.check_golden()


def test_a_model_of_another_width_does_not_load(tmp_path: pathlib.Path) -> None:
    made = fakes.make_bundle()
    narrow = fakes.onnx_model("binary", 1.0, 2, 3, "")
    loaded = fakes.unpack(tmp_path / "b", fakes.seal(made.manifest, made.files | {bundle.MODEL_FILE: narrow}))
    assert "needs one float tensor of width 9" in loaded.error
    with pytest.raises(ModelError, match="width 9"):
        loaded.answer(MISS)


def test_a_model_file_that_is_gone_is_an_error_of_the_model(tmp_path: pathlib.Path) -> None:
    loaded = open_bundle(tmp_path, load=False)
    (loaded.folder / bundle.MODEL_FILE).unlink()
    loaded.load_model()
    assert loaded.answer(HIT) == (STORED, PRECOMPUTED)
    with pytest.raises(ModelError, match=r"model\.onnx"):
        loaded.answer(MISS)
