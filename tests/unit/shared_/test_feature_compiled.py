"""The code that is written for a feature set: the same keys and inputs, and the same refusals, as coder by coder."""

from __future__ import annotations

import datetime as dt
import typing

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from shared.errors import DataError
from shared.features import Bucketed, Categorical, Encoder, FeatureSet, Numeric, TimePart
from shared.features.columns import expand

WORDS = ("red", "green", "with ' and \" and \\", "\x00none")
numbers = st.one_of(
    st.floats(), st.integers(), st.sampled_from([0, -0.0, 1e-60, -1e-60, -1e-45, 5e-324, 10**400, 2**63])
)
values = st.one_of(
    numbers,
    st.sampled_from([None, "", True, False, "red", "mauve", "7", 7, [], {}, np.float32(0.5), np.str_("red")]),
    st.sampled_from(["2013-06-01T17:30:00-04:00", "2013-06-01", "no time", dt.datetime(2013, 6, 1, 23, 59)]),  # noqa: DTZ001
    st.text(max_size=4),
)
bounds = st.sampled_from([-3.4e38, -10.0, -1.0, 0.0, 0.25]), st.sampled_from([0.5, 1.0, 10.0, 3.4e38])
out_of_range = st.sampled_from(["error", "clip"])
encodings = st.sampled_from(["onehot", "ordinal"])
names = st.sampled_from(["x", "y", 'a column\'s "name"\n'])


def kinds(name: str) -> st.SearchStrategy[typing.Any]:
    """Any feature that reads one of three columns."""
    common = {"name": st.just(name), "source": names}
    cuts = st.sampled_from([(0.0,), (-1.0, 0.0, 2.5), tuple(float(n) for n in range(100))])
    return st.one_of(
        st.builds(Numeric, **common, min=bounds[0], max=bounds[1], missing=st.none(), out_of_range=out_of_range),
        st.builds(Numeric, **common, min=st.just(-5.0), max=st.just(5.0), missing=st.sampled_from([0.1, -0.0, -5.0])),
        st.builds(
            Bucketed,
            **common,
            cuts=cuts,
            min=st.one_of(st.none(), bounds[0]),
            max=st.one_of(st.none(), bounds[1]),
            missing=st.sampled_from(["bucket", "error"]),
            out_of_range=out_of_range,
            encoding=encodings,
        ),
        st.builds(
            Categorical,
            **common,
            categories=st.sampled_from([WORDS, tuple(map(str, range(90)))]),
            missing=st.sampled_from(["other", "category", "error"]),
            encoding=encodings,
        ),
        st.builds(
            TimePart, **common, part=st.sampled_from(["hour", "weekend"]), cuts=st.sampled_from([(), (6.0, 12.0)])
        ),
    )


@settings(deadline=None, max_examples=400)
@given(data=st.data(), row=st.dictionaries(names, values, max_size=3))
@example(data=None, row={"x": -1e-60}).via("rounds to a nought with a sign")
def test_keys_inputs_and_refusals_are_those_of_the_coders(data: typing.Any, row: dict[str, object]) -> None:
    features = [Numeric(name="f0", source="x", min=-1.0, max=1.0)]
    if data:
        features = [data.draw(kinds(f"f{i}")) for i in range(data.draw(st.integers(1, 4)))]
    encoder = Encoder(FeatureSet(name="any", feature=tuple(features)))
    try:
        codes, refusal = encoder.encode(row), ""
    except DataError as err:
        codes, refusal = (), str(err)
    if refusal:
        with pytest.raises(DataError) as caught:
            encoder.code(row)
        assert str(caught.value) == refusal
        return
    quick = encoder.code(row)
    assert encoder.key(quick) == encoder.key(codes)
    inputs = expand(encoder.feature_set, np.array([codes])).tobytes()
    assert encoder.packed(quick) == encoder.packed(codes) == inputs
    assert encoder.coarse_key(["f0"])(quick) == encoder.coarse_key(["f0"])(codes)


def test_what_is_plain_is_not_handed_on(monkeypatch: pytest.MonkeyPatch) -> None:
    """Else it would be right, and slow."""
    features = (
        Numeric(name="x", min=-1.0, max=1.0, missing=0.5),
        Bucketed(name="y", cuts=(1.0, 2.0)),
        Categorical(name="z", categories=WORDS, missing="error"),
    )

    def refuse(*_: object) -> typing.NoReturn:
        raise AssertionError

    monkeypatch.setattr("shared.features.compiled.make_coder", lambda _: refuse)
    encoder = Encoder(FeatureSet(name="any", feature=features))
    assert encoder.code({"x": 0.25, "y": 7, "z": "red"}) == (0.25, 2, 0)
    assert encoder.code({"y": 0.0, "z": "mauve"}) == (0.5, 0, 4)
    with pytest.raises(AssertionError):
        encoder.code({"x": 2.0, "y": 0.0, "z": "red"})
