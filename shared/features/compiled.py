"""Code written for one feature set: a raw row to codes, and codes to the model's input, without a call a feature.

It takes the short way for what is plainly right: a number in its range, a word. Whatever else it meets (text for a
number, nothing where something must be, a value out of range) it hands to the coders of `coding`, who alone decide.
"""

from __future__ import annotations

import bisect
import math
import struct
import sys
import typing

from shared.features.coding import make_coder
from shared.features.definition import FeatureSet
from shared.features.kinds import Bucketed, Categorical, Feature, Numeric

Codes = tuple[float, ...]
Row = typing.Mapping[str, object]
_ONE = struct.pack("<f", 1.0)
_FEW_CODES = 64
_SMALLEST_NORMAL = 1.2e-38  # nearer to zero a float32 may be rounded to nought and keep its sign
_LARGEST = sys.float_info.max


def compile_coder(feature_set: FeatureSet) -> typing.Callable[[Row], Codes]:
    """Write the function that codes a raw row.

    It refuses what the coders of each feature refuse, in the same words, and gives the same codes; only numbers are not
    rounded to float32 yet, which packing them does.
    """
    coders = [(feature.column, make_coder(feature)) for feature in feature_set.feature]

    def slowly(row: Row) -> Codes:
        return tuple([code(row.get(column)) for column, code in coders])

    names: dict[str, typing.Any] = {"slowly": slowly, "number": _number, "bisect": bisect.bisect_right}
    lines = ["get = row.get"]
    for i, feature in enumerate(feature_set.feature):
        lines += [f"x = get({feature.column!r})", *_steps(feature, i, names), f"x{i} = x"]
    lines.append(f"return ({''.join(f'x{i}, ' for i in range(len(coders)))})")
    return _written("row", lines, names)


def _written(
    argument: str, lines: list[str], names: dict[str, typing.Any]
) -> typing.Callable[[typing.Any], typing.Any]:
    text = "\n    ".join([f"def written({argument}):", *lines])
    # All text is from here but the columns' names, which stand in it as Python writes a text.
    exec(text, names)  # noqa: S102
    function: typing.Callable[[typing.Any], typing.Any] = names["written"]
    return function


def _number(value: object, missing: float) -> float:
    """Return a whole number as a float, what stands for a missing one, or not-a-number for anything else."""
    if isinstance(value, int) and not isinstance(value, bool):
        try:
            return float(value)
        except OverflowError:
            return math.nan
    return missing if value is None else math.nan


def _steps(feature: Feature, i: int, names: dict[str, typing.Any]) -> list[str]:
    """Lines that turn the raw value ``x`` into its code, or leave the function."""
    coder = names[f"coder{i}"] = make_coder(feature)
    if isinstance(feature, Categorical):
        known: dict[str, float] = {word: n for n, word in enumerate(feature.categories)}
        known[""] = -1 if feature.missing == "error" else coder("")
        names |= {f"known{i}": known.get, f"other{i}": len(feature.categories)}
        lines = [f"x = known{i}(x, other{i}) if x.__class__ is str else coder{i}(x)"]
        return [*lines, "if x < 0: return slowly(row)"] if feature.missing == "error" else lines
    if not isinstance(feature, Numeric | Bucketed):
        return [f"x = coder{i}(x)"]
    names[f"low{i}"] = -_LARGEST if feature.min is None else feature.min
    names[f"high{i}"] = _LARGEST if feature.max is None else feature.max
    fits = f"low{i} <= x <= high{i}"
    if isinstance(feature, Numeric):
        names[f"missing{i}"] = math.nan if feature.missing is None else feature.missing
        lines = [f"if x.__class__ is not float: x = number(x, missing{i})", f"if not {fits}: return slowly(row)"]
        tiny = [f"if -{_SMALLEST_NORMAL} < x < 0.0: return slowly(row)"] if feature.min < 0 else []
        return [*lines, *tiny, "x += 0.0"]
    names |= {f"cuts{i}": feature.cuts, "nan": math.nan}
    return [
        "if x.__class__ is not float: x = number(x, nan)",
        f"x = bisect(cuts{i}, x) if {fits} else coder{i}(get({feature.column!r}))",
    ]


def compile_packer(feature_set: FeatureSet) -> typing.Callable[[Codes], bytes]:
    """Write the function that packs codes into the model's input: `width` float32 numbers, little-endian."""
    names: dict[str, typing.Any] = {}
    form, values = "<", []
    for i, feature in enumerate(feature_set.feature):
        n, size = feature.n_codes, 4 * feature.n_codes
        if not feature.is_onehot:
            form += "f"
            values.append(f"x{i}")
            continue
        form += f"{size}s"
        # A one in the middle of zeros: the input of each code is a window of it.
        middle = names[f"middle{i}"] = bytes(size - 4) + _ONE + bytes(size - 4)
        values.append(f"middle{i}[{size - 4} - 4 * x{i} : {2 * size - 4} - 4 * x{i}]")
        if n <= _FEW_CODES:
            names[f"blocks{i}"] = [middle[size - 4 - 4 * code : 2 * size - 4 - 4 * code] for code in range(n)]
            values[-1] = f"blocks{i}[x{i}]"
    names["pack"] = struct.Struct(form).pack
    taken = "".join(f"x{i}, " for i in range(len(feature_set.feature)))
    return _written("codes", [f"{taken}= codes", f"return pack({', '.join(values)})"], names)
