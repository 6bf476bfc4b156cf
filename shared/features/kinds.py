"""The kinds of features: a number, a bucketed number, a word, a part of a time."""

from __future__ import annotations

import collections
import itertools
import math
import typing

import msgspec

from shared import codec

Encoding = typing.Literal["onehot", "ordinal"]
OutOfRange = typing.Literal["error", "clip"]
MAX_CODES = 10_000


class Feature(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag_field="kind"):
    """What all kinds share.

    Parameters
    ----------
    name : str
        The feature's name.
    source : str
        The raw column or request field it reads; its own name if empty.
    """

    name: str
    source: str = ""

    @property
    def column(self) -> str:
        """The raw column that this feature reads."""
        return self.source or self.name

    @property
    def n_codes(self) -> int:
        """How many codes there are; 0 for a number that is passed on as it is."""
        return 0

    @property
    def is_onehot(self) -> bool:
        """Whether each code gets an input of its own."""
        return False

    @property
    def width(self) -> int:
        """How many inputs of the model this feature fills."""
        return self.n_codes if self.is_onehot else 1

    def problem(self) -> tuple[str, str]:
        """Return (message, key) for the first thing that is wrong with the definition, or two empty strings."""
        return "", ""


class Numeric(Feature, frozen=True, kw_only=True, forbid_unknown_fields=True, tag="numeric"):
    """A number handed to the model as float32.

    Parameters
    ----------
    min, max : float
        The range that makes sense.
    missing : float, optional
        Stands in for a missing value; without it a missing value is an error.
    out_of_range : str
        ``error`` refuses the row, ``clip`` takes the nearest value of the range.
    """

    min: float
    max: float
    missing: float | None = None
    out_of_range: OutOfRange = "error"

    def problem(self) -> tuple[str, str]:
        """See `Feature.problem`."""
        if not (math.isfinite(self.min) and math.isfinite(self.max) and self.min < self.max):
            return f"min = {self.min} must be below max = {self.max}, both finite", "min"
        for key, bound in (("min", self.min), ("max", self.max)):
            if abs(bound) > codec.MAX_FLOAT32:
                return f"{key} = {bound:g} does not fit into a float32", key
        if self.missing is not None and not self.min <= self.missing <= self.max:
            return f"missing = {self.missing} is outside min..max", "missing"
        return "", ""


class Bucketed(Feature, frozen=True, kw_only=True, forbid_unknown_fields=True, tag="bucketed"):
    """A number cut into buckets; bucket i holds cuts[i-1] <= x < cuts[i].

    Parameters
    ----------
    cuts : tuple of float
        Increasing edges; n cuts make n + 1 buckets.
    min, max : float, optional
        The range that makes sense; outside it, `out_of_range` holds.
    missing : str
        ``bucket`` gives missing values a bucket of their own (the last), ``error`` refuses the row.
    encoding : str
        ``onehot``: an input for each bucket. ``ordinal``: the bucket's number as one input.
    """

    cuts: tuple[float, ...]
    min: float | None = None
    max: float | None = None
    missing: typing.Literal["bucket", "error"] = "error"
    out_of_range: OutOfRange = "error"
    encoding: Encoding = "onehot"

    @property
    def n_codes(self) -> int:
        """Buckets, and one for missing values if they have one."""
        return len(self.cuts) + 1 + (self.missing == "bucket")

    @property
    def is_onehot(self) -> bool:
        """See `Feature.is_onehot`."""
        return self.encoding == "onehot"

    def problem(self) -> tuple[str, str]:
        """See `Feature.problem`."""
        wrong = _cuts_problem(self.cuts)
        if wrong:
            return wrong, "cuts"
        for key, bound in (("min", self.min), ("max", self.max)):
            if bound is not None and not math.isfinite(bound):
                return f"{key} = {bound} must be a finite number", key
        if self.min is not None and self.max is not None and not self.min < self.max:
            return f"min = {self.min} must be below max = {self.max}", "min"
        return "", ""


class Categorical(Feature, frozen=True, kw_only=True, forbid_unknown_fields=True, tag="categorical"):
    """A word. Words that are not in `categories` fold into one code, *other*.

    Parameters
    ----------
    categories : tuple of str
        The known words; learned from the training data when empty.
    max_categories, min_count : int
        When learning: keep the most frequent words, at most so many, each seen at least so often.
    missing : str
        ``other`` folds missing values too, ``category`` gives them a code of their own, ``error`` refuses the row.
    """

    categories: tuple[str, ...] = ()
    max_categories: int = 50
    min_count: int = 20
    missing: typing.Literal["other", "category", "error"] = "other"
    encoding: Encoding = "onehot"

    @property
    def n_codes(self) -> int:
        """Known words, *other*, and one for missing values if they have one."""
        return len(self.categories) + 1 + (self.missing == "category")

    @property
    def is_onehot(self) -> bool:
        """See `Feature.is_onehot`."""
        return self.encoding == "onehot"

    def problem(self) -> tuple[str, str]:
        """See `Feature.problem`."""
        repeated = [word for word, n in collections.Counter(self.categories).items() if n > 1]
        if repeated:
            return f"{repeated[0]!r} stands twice in categories", "categories"
        if "" in self.categories:
            return "an empty word stands for a missing value and can not be a category", "categories"
        if not 1 <= self.max_categories <= MAX_CODES or len(self.categories) > MAX_CODES:
            return (
                f"between 1 and {MAX_CODES:,} categories, got max_categories = {self.max_categories}",
                "max_categories",
            )
        if self.min_count < 1:
            return f"min_count = {self.min_count} must be at least 1", "min_count"
        return "", ""


class TimePart(Feature, frozen=True, kw_only=True, forbid_unknown_fields=True, tag="time"):
    """A part of a time, read as written: 17:30-04:00 is hour 17, whatever the offset.

    Parameters
    ----------
    part : str
        ``hour`` 0..23, ``minute_of_day`` 0..1439, ``weekday`` 0 (Monday)..6, ``weekend`` 0..1, ``month`` 1..12,
        ``day_of_year`` 1..366.
    cuts : tuple of float
        Cut the part into buckets as `Bucketed` does; without cuts every value is a bucket.
    """

    part: typing.Literal["hour", "minute_of_day", "weekday", "weekend", "month", "day_of_year"]
    cuts: tuple[float, ...] = ()
    encoding: Encoding = "onehot"

    @property
    def n_codes(self) -> int:
        """Buckets, or values of the part."""
        sizes = {"hour": 24, "minute_of_day": 1440, "weekday": 7, "weekend": 2, "month": 13, "day_of_year": 367}
        return len(self.cuts) + 1 if self.cuts else sizes[self.part]

    @property
    def is_onehot(self) -> bool:
        """See `Feature.is_onehot`."""
        return self.encoding == "onehot"

    def problem(self) -> tuple[str, str]:
        """See `Feature.problem`."""
        return (_cuts_problem(self.cuts), "cuts") if self.cuts else ("", "")


def _cuts_problem(cuts: tuple[float, ...]) -> str:
    if not cuts or len(cuts) > MAX_CODES:
        return f"between 1 and {MAX_CODES:,} cuts, got {len(cuts)}"
    if not all(math.isfinite(cut) for cut in cuts):
        return "cuts must be finite numbers"
    for low, high in itertools.pairwise(cuts):
        if not low < high:
            return f"cuts must increase, but {high:g} follows {low:g}"
    return ""


AnyFeature = Numeric | Bucketed | Categorical | TimePart
