"""Feature definitions: good ones are read whole, and each kind of bad one is refused with file, line, key and fix."""

from __future__ import annotations

import pytest

from shared import codec
from shared.errors import ConfigError, FeatureError, UsageError
from shared.features import Bucketed, Categorical, FeatureSet, Numeric, TimePart, load_feature_set

GOOD = """
name = "flights"
keep = ["tail"]
[[feature]]
name = "hour"
kind = "time"
source = "scheduled"
part = "hour"
cuts = [6, 8.5, 20]
[[feature]]
name = "carrier"
kind = "categorical"
missing = "category"
max_categories = 3
min_count = 2
[[feature]]
name = "visibility"
kind = "bucketed"
cuts = [5]
missing = "bucket"
encoding = "ordinal"
[[feature]]
name = "distance"
kind = "numeric"
min = 0
max = 5000
missing = -0.0
out_of_range = "clip"
"""


def feature(lines: str) -> str:
    return f'name = "f"\n[[feature]]\nname = "first"\nkind = "numeric"\nmin = 0\nmax = 1\n[[feature]]\n{lines}\n'


def test_a_good_definition_is_read_whole() -> None:
    found = load_feature_set(GOOD, "late.toml")
    assert found.columns == ("scheduled", "carrier", "visibility", "distance")
    assert found.keep == ("tail",)
    hour, carrier, visibility, distance = found.feature
    assert isinstance(hour, TimePart)
    assert hour.cuts == (6, 8.5, 20)
    assert isinstance(carrier, Categorical)
    assert (carrier.max_categories, carrier.min_count, carrier.n_codes) == (3, 2, 2)
    assert isinstance(visibility, Bucketed)
    assert (visibility.n_codes, visibility.width) == (3, 1)
    assert isinstance(distance, Numeric)
    assert distance.out_of_range == "clip"


def test_a_set_is_frozen_once_all_its_words_are_known() -> None:
    found = load_feature_set(GOOD, "late.toml")
    assert not found.is_frozen
    learned = found.learn({"carrier": ["UA", "UA", "AA", "AA", "B6"]})
    assert learned.is_frozen
    assert learned.width == 4 + 4 + 1 + 1


def test_learning_keeps_the_most_frequent_words_and_breaks_ties_by_alphabet() -> None:
    found = load_feature_set(GOOD, "late.toml")
    words = ["c"] * 3 + ["b"] * 4 + ["a"] * 3 + ["e"] * 2 + ["d"] + [""] * 9 + [None] * 9 + [float("nan")] * 9
    assert found.learn({"carrier": words}).feature[1] == Categorical(
        name="carrier", missing="category", max_categories=3, min_count=2, categories=("b", "a", "c")
    )


def test_learning_counts_only_what_a_request_can_say() -> None:
    found = load_feature_set(GOOD, "late.toml")
    learned = found.learn({"carrier": [1.5] * 9 + [True] * 9 + [7] * 2}).feature[1]
    assert isinstance(learned, Categorical)
    assert learned.categories == ("7",)


def test_learning_from_nothing_still_freezes_the_set() -> None:
    learned = load_feature_set(GOOD, "late.toml").learn({"carrier": []})
    assert learned.is_frozen
    assert learned.feature[1].n_codes == 3


def test_learning_leaves_words_alone_that_are_given() -> None:
    text = feature('name = "carrier"\nkind = "categorical"\ncategories = ["UA"]')
    found = load_feature_set(text, "late.toml")
    assert found.learn({"carrier": ["AA"] * 99}) == found


def test_a_learned_set_survives_its_way_over_the_wire() -> None:
    learned = load_feature_set(GOOD, "late.toml").learn({"carrier": ["ÄÖ", "ÄÖ", '"', '"']})
    again = codec.from_json(codec.to_json(learned), FeatureSet)
    assert (again, again.digest) == (learned, learned.digest)


def test_the_digest_depends_on_what_decides_the_encoding_and_on_nothing_else() -> None:
    found = load_feature_set(GOOD, "late.toml")
    assert load_feature_set(GOOD.replace('"tail"', '"nose"').replace('"flights"', '"f"'), "x").digest == found.digest
    for before, after in (("8.5", "8.6"), ('"ordinal"', '"onehot"'), ("5000", "5001"), ('"hour"', '"weekday"')):
        assert load_feature_set(GOOD.replace(before, after), "x").digest != found.digest, after


@pytest.mark.parametrize(
    ("lines", "line", "key", "says", "fix"),
    [
        ('name = "x"\nkind = "numeric"\nmin = 0', 7, "feature[1].max", "'max' is missing", "Add it"),
        ('name = "x"\nkind = "numeric"\nmin = 0\nmaxx = 1', 11, "feature[1].maxx", "unknown key", "mean 'max'"),
        ('name = "x"\nkind = "numeric"\nmin = 2\nmax = 1', 10, "feature[1].min", "must be below", "'x'"),
        ('name = "x"\nkind = "numeric"\nmin = nan\nmax = 1', 10, "feature[1].min", "finite", "'x'"),
        ('name = "x"\nkind = "numeric"\nmin = 0\nmax = inf', 10, "feature[1].min", "finite", "'x'"),
        ('name = "x"\nkind = "numeric"\nmin = 0\nmax = 1e39', 11, "feature[1].max", "float32", "'x'"),
        ('name = "x"\nkind = "numeric"\nmin = -1e39\nmax = 1', 10, "feature[1].min", "float32", "'x'"),
        ('name = "x"\nkind = "numeric"\nmin = 0\nmax = 1\nmissing = 7', 12, "feature[1].missing", "outside", "'x'"),
        ('name = "x"\nkind = "numeric"\nmin = 0\nmax = 1\nmissing = nan', 12, "feature[1].missing", "outside", "'x'"),
        ('name = "x"\nkind = "numeric"\nmin = "0"\nmax = 1', 10, "feature[1].min", "got `str`", "Change"),
        ('name = "x"\nkind = "numeric"\nmin = true\nmax = 1', 10, "feature[1].min", "got `bool`", "Change"),
        ('name = "x"\nkind = "number"', 9, "feature[1].kind", "'number'", "Change"),
        ('name = "x"', 7, "feature[1].kind", "'kind' is missing", "Add it"),
        ('kind = "bucketed"\ncuts = [1]', 7, "feature[1].name", "'name' is missing", "Add it"),
        ('name = "X"\nkind = "bucketed"\ncuts = [1]', 8, "feature[1].name", "is not a name", "lower-case"),
        ('name = "first"\nkind = "bucketed"\ncuts = [1]', 8, "feature[1].name", "defined twice", "Rename"),
        ('name = "x"\nkind = "bucketed"\ncuts = []', 10, "feature[1].cuts", "got 0", "'x'"),
        ('name = "x"\nkind = "bucketed"\ncuts = [1, 1]', 10, "feature[1].cuts", "1 follows 1", "'x'"),
        ('name = "x"\nkind = "bucketed"\ncuts = [1, nan]', 10, "feature[1].cuts", "finite", "'x'"),
        ('name = "x"\nkind = "bucketed"\ncuts = [1]\nmin = nan', 11, "feature[1].min", "finite", "'x'"),
        ('name = "x"\nkind = "bucketed"\ncuts = [1]\nmax = nan', 11, "feature[1].max", "finite", "'x'"),
        ('name = "x"\nkind = "bucketed"\ncuts = [1]\nmin = 3\nmax = 3', 11, "feature[1].min", "must be below", "'x'"),
        ('name = "x"\nkind = "bucketed"\ncuts = [1]\nmissing = 3', 11, "feature[1].missing", "`int`", "Change"),
        ('name = "x"\nkind = "categorical"\ncategories = ["a", "a"]', 10, "feature[1].categories", "twice", "'x'"),
        ('name = "x"\nkind = "categorical"\ncategories = [""]', 10, "feature[1].categories", "empty word", "'x'"),
        ('name = "x"\nkind = "categorical"\nmax_categories = 0', 10, "feature[1].max_categories", "got", "'x'"),
        ('name = "x"\nkind = "categorical"\nmin_count = 0', 10, "feature[1].min_count", "at least 1", "'x'"),
        ('name = "x"\nkind = "categorical"\nmissing = "drop"', 10, "feature[1].missing", "'drop'", "Change"),
        ('name = "x"\nkind = "time"\npart = "second"', 10, "feature[1].part", "'second'", "Change"),
        ('name = "x"\nkind = "time"\npart = "hour"\ncuts = [9, 8]', 11, "feature[1].cuts", "8 follows 9", "'x'"),
    ],
)
def test_a_bad_definition_is_refused_with_file_line_key_and_fix(
    lines: str, line: int, key: str, says: str, fix: str
) -> None:
    with pytest.raises(UsageError) as caught:
        load_feature_set(feature(lines), "late.toml")
    assert caught.value.field == f"late.toml line {line}: {key}"
    assert says in caught.value.message
    assert fix in caught.value.fix
    assert isinstance(caught.value, FeatureError)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("name = ", "at end of document"),
        ("[[feature]\n", "not valid TOML"),
        ("a = " + "[" * 5000 + "]" * 5000, "not valid TOML"),
        ('name = "a"\nname = "b"\n', "line 2"),
    ],
)
def test_text_that_is_not_toml_is_refused_with_its_line(text: str, says: str) -> None:
    with pytest.raises(ConfigError, match=says) as caught:
        load_feature_set(text, "late.toml")
    assert caught.value.field == "late.toml"


def test_a_set_without_features_and_one_with_too_many_are_refused() -> None:
    with pytest.raises(FeatureError, match="between 1 and 500 features, got 0"):
        load_feature_set('name = "f"\nfeature = []\n', "late.toml")
    many = "".join(f'[[feature]]\nname = "f{i}"\nkind = "bucketed"\ncuts = [1]\n' for i in range(501))
    with pytest.raises(FeatureError, match="got 501"):
        load_feature_set(f'name = "f"\n{many}', "late.toml")
