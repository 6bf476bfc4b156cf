"""What a feature set is: read from TOML, checked, and frozen once its categories are learned."""

from __future__ import annotations

import collections
import hashlib
import typing

import msgspec

from shared import codec, settings
from shared.errors import FeatureError, UsageError
from shared.features.coding import is_missing, word_of
from shared.features.kinds import AnyFeature, Categorical
from shared.versions import check_name

MAX_FEATURES = 500


class FeatureSet(codec.Record, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Features in the order in which they fill the model's input.

    Parameters
    ----------
    name : str
        Name of the set.
    feature : tuple of Feature
        At least one. TOML writes each as ``[[feature]]``.
    keep : tuple of str
        Raw columns that may be in the data though no feature reads them (yet).
    """

    SCHEMA: typing.ClassVar[str] = "covey.features/1"
    name: str
    feature: tuple[AnyFeature, ...]
    keep: tuple[str, ...] = ()

    @property
    def is_frozen(self) -> bool:
        """Whether every categorical feature knows its categories."""
        return all(f.categories for f in self.feature if isinstance(f, Categorical))

    @property
    def columns(self) -> tuple[str, ...]:
        """Raw columns the features read, each once, in order."""
        return tuple(dict.fromkeys(f.column for f in self.feature))

    @property
    def width(self) -> int:
        """Number of float32 inputs of the model."""
        return sum(f.width for f in self.feature)

    @property
    def digest(self) -> str:
        """SHA-256 (hex) of what decides the encoding; `keep` and the set's name do not."""
        return hashlib.sha256(codec.to_json(self.feature)).hexdigest()

    def check(self) -> None:
        """Raise FeatureError (field ``feature[i].key``) for the first thing that is wrong."""
        if not 1 <= len(self.feature) <= MAX_FEATURES:
            raise FeatureError(f"between 1 and {MAX_FEATURES} features, got {len(self.feature)}", field="feature")
        seen: set[str] = set()
        for i, feature in enumerate(self.feature):
            try:
                check_name(feature.name, f"feature[{i}].name")
            except UsageError as err:
                raise FeatureError(err.message, field=err.field, fix=err.fix) from err
            if feature.name in seen:
                raise FeatureError(f"{feature.name!r} is defined twice", field=f"feature[{i}].name", fix="Rename one.")
            seen.add(feature.name)
            message, key = feature.problem()
            if message:
                raise FeatureError(message, field=f"feature[{i}].{key}", fix=f"Mend feature {feature.name!r}.")

    def learn(self, columns: typing.Mapping[str, typing.Sequence[object]]) -> FeatureSet:
        """Freeze the set: fill in the categories that are still empty from the training data's raw columns."""
        learned = [
            msgspec.structs.replace(f, categories=_frequent(f, columns[f.column]))
            if isinstance(f, Categorical) and not f.categories
            else f
            for f in self.feature
        ]
        return msgspec.structs.replace(self, feature=tuple(learned))


def _frequent(feature: Categorical, values: typing.Sequence[object]) -> tuple[str, ...]:
    """Most frequent words first, ties in alphabetical order; a word nobody can send stands in if there are none."""
    counts = collections.Counter(word for value in values if not is_missing(value) and (word := word_of(value)))
    ranked = sorted(counts.items(), key=lambda item: (-item[1], item[0]))[: feature.max_categories]
    return tuple(word for word, n in ranked if n >= feature.min_count) or ("\x00none",)


def load_feature_set(text: str, source: str) -> FeatureSet:
    """Read a feature set from TOML.

    Raises
    ------
    ConfigError, FeatureError
        With the file, the line, the key and the fix.
    """
    data = settings.parse_toml(text, source)
    feature_set = settings.convert(data, FeatureSet, source=source, text=text, error=FeatureError)
    try:
        feature_set.check()
    except FeatureError as err:
        line = settings.locate(text, err.field)
        raise FeatureError(err.message, field=f"{source} line {line}: {err.field}", fix=err.fix) from err
    return feature_set
