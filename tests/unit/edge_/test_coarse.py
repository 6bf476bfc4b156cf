"""The last answers before an error: the fallback table and the default, marked, counted, and no evidence of quality."""

from __future__ import annotations

import pathlib
import typing

import numpy as np
import pytest

from cloud.export import precompute
from edge_agent.predict import replies
from edge_agent.predict.loaded import COARSE, DEFAULT, ONNX, PRECOMPUTED, LoadedBundle
from edge_agent.records import INCUMBENT, Answered
from edge_agent.telemetry.fold import fold
from shared import bundle
from shared.bundle import parse_manifest
from shared.errors import DataError, ModelError, TrustError, WireError
from shared.features import Encoder
from shared.features.columns import encode_columns
from tests import fakes
from tests.unit.edge_.test_fold import Memory, answered, outcome, row, spec

NAMES = ("colour",)
RED = {"x": 1, "colour": "red", "size": 0}
SICK = RED | {"x": 6}  # the model of `fakes` with a fault fails at this
MEAN = (0.625, 0.375)
LAST = (0.5, 0.5)


def with_coarse(made: fakes.Bundle, names: typing.Sequence[str] = NAMES, listed: typing.Any = None) -> fakes.Bundle:
    """Put a fallback table into a bundle; its only answer is for red."""
    codes = encode_columns(fakes.FEATURES, {name: [RED[name]] for name in fakes.FEATURES.columns})
    table = precompute.build_coarse(
        Encoder(fakes.FEATURES),
        codes,
        np.array([MEAN]),
        names,
        n_keys=9,
        model_sha256=bundle.digest_of(made.files.get(bundle.MODEL_FILE, b"")),
    )
    return fakes.seal(made.manifest, made.files | {bundle.COARSE_FILE: table}, coarse=tuple(listed or names))


def opened(tmp_path: pathlib.Path, *, names: typing.Sequence[str] = NAMES, **changes: typing.Any) -> LoadedBundle:
    return fakes.unpack(tmp_path / "b", with_coarse(fakes.make_bundle(**changes), names))


@pytest.mark.parametrize("order", ["precomputed_first", "model_first"])
@pytest.mark.parametrize("fault", ["nan", "fails", "garbage"])
def test_where_the_model_fails_rows_that_share_the_key_get_the_coarse_answer(
    tmp_path: pathlib.Path, fault: fakes.Fault, order: str
) -> None:
    loaded = opened(tmp_path, fault=fault, answer_order=order, default=LAST)
    assert loaded.answer(SICK | {"size": 2}) == (MEAN, COARSE)
    assert loaded.answer(SICK | {"colour": "green"}) == (LAST, DEFAULT)


def test_what_the_model_or_the_table_knows_is_never_answered_coarsely(tmp_path: pathlib.Path) -> None:
    loaded = opened(tmp_path, table={0: (0.875, 0.125)})
    assert loaded.answer(dict(fakes.ROWS[0])) == ((0.875, 0.125), PRECOMPUTED)
    assert loaded.answer(RED)[1] in (ONNX, PRECOMPUTED)


def test_a_miss_without_a_model_is_answered_coarsely_then_with_an_error(tmp_path: pathlib.Path) -> None:
    loaded = opened(tmp_path, table={}, with_model=False, answer_order="precomputed_only")
    assert loaded.answer(RED | {"x": 3}) == (MEAN, COARSE)
    with pytest.raises(ModelError, match="no precomputed answer for this input"):
        loaded.answer(RED | {"colour": "green"})


def test_the_names_are_part_of_the_key(tmp_path: pathlib.Path) -> None:
    made = with_coarse(fakes.make_bundle(fault="fails", default=LAST), ("colour", "size"), listed=("size", "colour"))
    assert fakes.unpack(tmp_path / "b", made).answer(SICK) == (LAST, DEFAULT)


def test_a_name_that_no_feature_has_is_refused_with_the_nearest(tmp_path: pathlib.Path) -> None:
    made = with_coarse(fakes.make_bundle(), listed=("color",))
    with pytest.raises(DataError, match=r"no feature is called 'color'\. Did you mean 'colour'"):
        fakes.unpack(tmp_path / "b", made)


def test_a_fallback_table_of_another_model_is_refused(tmp_path: pathlib.Path) -> None:
    made, other = with_coarse(fakes.make_bundle()), with_coarse(fakes.make_bundle(slope=2.0))
    files = made.files | {bundle.COARSE_FILE: other.files[bundle.COARSE_FILE]}
    with pytest.raises(TrustError, match="the table belongs to another model"):
        fakes.unpack(tmp_path / "b", fakes.seal(made.manifest, files))


def test_a_manifest_names_the_features_exactly_if_there_is_a_fallback_table() -> None:
    made = with_coarse(fakes.make_bundle())
    assert parse_manifest(made.manifest.to_bytes()).coarse == NAMES
    for odd in (fakes.seal(made.manifest, made.files, coarse=()), fakes.make_bundle(coarse=("colour",))):
        with pytest.raises(WireError, match=r"coarse\.bin"):
            parse_manifest(odd.manifest.to_bytes())


# ---- told, counted, and left out


def test_the_reply_says_that_the_answer_is_approximate(tmp_path: pathlib.Path) -> None:
    served = fakes.serve(tmp_path, with_coarse(fakes.make_bundle(fault="fails")))
    active = served.engine.model(None)
    made = served.engine.predict(active, SICK, unit=None, event_s=fakes.NOW_S)
    said = replies.parameters(made)
    assert (said["source"], said["approximate"]) == ("coarse", True)
    sound = fakes.serve(tmp_path / "sound", fakes.make_bundle())
    made = sound.engine.predict(sound.engine.model(None), SICK, unit=None, event_s=fakes.NOW_S)
    assert "approximate" not in replies.parameters(made)


@pytest.mark.parametrize("sick", ["incumbent", "candidate"])
def test_an_approximate_answer_is_a_fault_of_its_arm_and_makes_no_pair(tmp_path: pathlib.Path, sick: str) -> None:
    v1, v2 = fakes.make_bundle("v1"), fakes.make_bundle("v2", slope=2.0)
    bad = with_coarse(fakes.make_bundle("v1" if sick == "incumbent" else "v2", fault="fails"))
    served = fakes.serve(tmp_path, *((bad, v2) if sick == "incumbent" else (v1, bad)), fakes.trial("shadow"))
    active = served.engine.model(None)
    made = served.engine.predict(active, SICK, unit=None, event_s=fakes.NOW_S)
    served.engine.finish(made)
    served.engine.outcome(made.prediction_id, 1, now_s=fakes.NOW_S + 60)
    memory = Memory(spec("v1"), spec("v2"))
    found = fold(served.records, memory)
    counts = {key[1]: sums.counts for key, sums in found.sums.items()}
    good, ill = ("v2", "v1") if sick == "incumbent" else ("v1", "v2")
    assert (counts[ill]["requests"], counts[ill]["fallback"], counts[ill]["failed"]) == (1, 1, 0)
    assert (counts[good]["requests"], counts[good]["fallback"]) == (1, 0)
    assert counts[ill]["outcomes"] == 0
    assert not found.pairs
    assert counts[good]["outcomes"] == (0 if sick == "incumbent" else 1)
    assert found.n_approximate == (1 if sick == "incumbent" else 0)


@pytest.mark.parametrize(("source", "judged"), [(0, 1), (1, 1), (2, 0), (3, 0)])
def test_the_outcome_of_an_approximate_answer_is_counted_once_and_judges_nobody(source: int, judged: int) -> None:
    first: Answered = answered(source=source)
    truth = outcome(first, source=source)
    found = fold([first, truth, truth], Memory(spec()))
    assert (found.n_approximate, found.n_duplicates, found.n_unknown) == (1 - judged, 1, 0)
    assert row(found, arm=INCUMBENT).counts["outcomes"] == judged
