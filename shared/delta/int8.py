"""Method `int8`: each new weight is the old one plus a whole number from -127 to 127 times a power of two.

That is so only where the new model was *defined* so (`near`): the body then says one byte a weight, and the result is
exact all the same. Sums are made in double precision and rounded once to float32, which is the same on every machine.
"""

from __future__ import annotations

import array
import math
import struct
import sys
import typing

from shared.delta import blocks
from shared.errors import WireError

LEVEL = 19
LARGEST = 127
_SCALE = struct.Struct("<h")


def near(old: typing.Sequence[float], new: typing.Sequence[float]) -> list[float]:
    """Return float32 weights next to the new ones that lie whole steps away from the old ones.

    Parameters
    ----------
    old : sequence of float
        Weights that are float32 numbers already.
    new : sequence of float
        Where they shall go, each to within half a step; a step is 1/127 to 1/64 of the largest change.

    >>> near([1.0, 2.0], [1.5, 2.125])
    [1.5, 2.125]
    """
    exponent = _exponent(old, new)
    return list(_moved(old, _steps(old, new, exponent), exponent))


def encode(source: bytes, result: bytes) -> bytes | None:
    """Write the steps of all weights; nothing if some weight of the new file is not whole steps away."""
    found = blocks.find(source, result)
    said = []
    for block in found:
        old = _floats(source[block.source_at : block.source_at + block.length])
        new = _floats(result[block.at : block.at + block.length])
        if old is None or new is None:
            return None
        exponent = _exponent(old, new)
        steps = _steps(old, new, exponent)
        if _moved(old, steps, exponent).tobytes() != new.tobytes():
            return None
        said.append(_SCALE.pack(exponent) + array.array("b", steps).tobytes())
    return blocks.compress([blocks.head(result, found), *said], source, LEVEL) if found else None


def decode(body: bytes, source: bytes, length: int) -> bytes:
    """Make the file from the old one; WireError if the body does not fit it."""
    data = blocks.decompress(body, source, length)
    found, result, at = blocks.read_head(data, source, length)
    for block in found:
        old = _floats(source[block.source_at : block.source_at + block.length])
        said = data[at : at + _SCALE.size + block.length // blocks.WIDTH]
        if old is None or len(said) != _SCALE.size + len(old):
            raise WireError("its steps are not as many as its weights", field="delta")
        steps = array.array("b", said[_SCALE.size :])
        (exponent,) = _SCALE.unpack_from(said)
        result[block.at : block.at + block.length] = _little(_moved(old, steps, exponent)).tobytes()
        at += len(said)
    if at != len(data):
        raise WireError("bytes follow its steps", field="delta")
    return bytes(result)


def _exponent(old: typing.Sequence[float], new: typing.Sequence[float]) -> int:
    """Return the exponent of the smallest power of two of which 127 cover the largest change; 0 without one."""
    largest = max((abs(b - a) for a, b in zip(old, new, strict=True)), default=0.0)
    if not 0.0 < largest < math.inf:
        return 0
    # A step more than 127 would be rounded to is none: half a step of slack is what rounding leaves.
    return math.frexp(largest / (LARGEST + 0.5))[1]


def _steps(old: typing.Sequence[float], new: typing.Sequence[float], exponent: int) -> list[int]:
    def step(a: float, b: float) -> int:
        change = math.ldexp(b - a, -exponent)
        return max(-LARGEST, min(LARGEST, round(change))) if math.isfinite(change) else 0

    return [step(a, b) for a, b in zip(old, new, strict=True)]


def _moved(old: typing.Sequence[float], steps: typing.Iterable[int], exponent: int) -> array.array[float]:
    try:
        scale = math.ldexp(1.0, exponent)
    except OverflowError as err:
        raise WireError(f"steps of 2^{exponent} are too large", field="delta") from err
    return array.array("f", (a + step * scale for a, step in zip(old, steps, strict=True)))


def _floats(data: bytes) -> array.array[float] | None:
    """Return little-endian float32 numbers; None if the bytes are not whole ones."""
    return None if len(data) % blocks.WIDTH else _little(array.array("f", data))


def _little(numbers: array.array[float]) -> array.array[float]:
    """Turn numbers around on a machine that is big-endian."""
    if sys.byteorder == "big":
        numbers.byteswap()
    return numbers
