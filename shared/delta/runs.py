"""Takes an ONNX file of trees apart into columns, and puts it together again.

A tree ensemble is a dozen long lists: thresholds, features, children, weights. Protobuf writes each item with a tag
byte in front. A run of such items becomes a column of numbers; everything between runs stays as it is. Nothing needs to
be known of the file but three tags, and what looks like a run and is none does no harm.
"""

from __future__ import annotations

import collections
import math
import operator
import re
import sys
import typing
from array import array

from shared.delta.planes import join, split
from shared.errors import WireError

FLOATS, INTS, WORDS = 0, 1, 2
MAX_WORDS, MAX_WORD_BYTES = 64, 16
NUMBER = 4  # bytes
_TAGS = {FLOATS: b"\x3d", INTS: b"\x40", WORDS: b"\x4a"}  # AttributeProto: floats, ints and strings, not packed
_SHORT = b"|".join(b"\\x%02x[\\x00-\\xff]{%d}" % (length, length) for length in range(MAX_WORD_BYTES + 1))
_ITEMS = {
    FLOATS: b"\x3d([\\x00-\\xff]{4})",
    INTS: b"\x40([\\x80-\\xff]{0,4}+[\\x00-\\x7f])",
    WORDS: b"\x4a(" + _SHORT + b")",
}
_ITEM = {kind: re.compile(item) for kind, item in _ITEMS.items()}
_RUN = re.compile(
    b"|".join(b"(?P<k%d>(?:%s){64,}+)" % (kind, item.replace(b"(", b"(?:")) for kind, item in _ITEMS.items())
)
_LARGEST, _SEVEN_BITS = (1 << 32) - 1, 0x7F


class Run(typing.NamedTuple):
    """Many items of one kind, one after the other.

    Parameters
    ----------
    kind : int
        `FLOATS`, `INTS` or `WORDS`.
    before : bytes
        What stands between the run before and this one.
    numbers : array
        Floats by their bits; whole numbers; or numbers of words.
    words : tuple of bytes
        The words, each with its length in front.
    """

    kind: int
    before: bytes
    numbers: array[int]
    words: tuple[bytes, ...] = ()


def parse(data: bytes) -> tuple[list[Run], bytes]:
    r"""Take a file apart; return its runs and what comes after the last.

    >>> runs, rest = parse(b"head" + b"\x40\x07" * 100 + b"tail")
    >>> runs[0].before, runs[0].numbers[:3].tolist(), rest
    (b'head', [7, 7, 7], b'tail')
    """
    runs, done = [], 0
    for match in _RUN.finditer(data):
        kind = int(typing.cast("str", match.lastgroup)[1:])
        items = _ITEM[kind].findall(match[0])
        made = _read(kind, items, data[done : match.start()])
        if made is not None and _written(made) == match[0]:
            runs.append(made)
            done = match.end()
    return runs, data[done:]


def build(runs: typing.Iterable[Run], rest: bytes, length: int) -> bytes:
    """Put a file together; WireError if it gets longer than it should."""
    parts, size = [], len(rest)
    for run in runs:
        size += len(run.before) + _size(run)
        if size > length:
            raise WireError("its columns make more than the file", field="delta")
        parts += [run.before, _written(run)]
    return b"".join([*parts, rest])


def column(kind: int, numbers: array[int], *, as_steps: bool = False) -> bytes:
    """Write numbers: floats as they are; others, or the step of each from the one before, in byte planes.

    >>> column(INTS, array("I", [5, 6, 5]), as_steps=True).hex(" ", 3)
    '0a0201 000000 000000 000000'
    """
    if kind == FLOATS:
        return _little(numbers)
    return split(_little(steps(numbers) if as_steps else numbers))


def read_column(kind: int, data: bytes, *, as_steps: bool = False) -> array[int]:
    """Undo `column`."""
    numbers = array("I", data if kind == FLOATS else join(data))
    if sys.byteorder == "big":
        numbers.byteswap()
    return unsteps(numbers) if as_steps and kind != FLOATS else numbers


def steps(numbers: typing.Sequence[int]) -> array[int]:
    """Distance of each number from the one before, small ones of either sign as small numbers."""
    return array("I", folded(map(operator.sub, numbers, [0, *numbers[:-1]])))


def unsteps(numbers: typing.Sequence[int]) -> array[int]:
    """Undo `steps`."""
    out, last = array("I", bytes(NUMBER * len(numbers))), 0
    for i, step in enumerate(unfolded(numbers)):
        out[i] = last = (last + step) & _LARGEST
    return out


def folded(differences: typing.Iterable[int]) -> list[int]:
    """Write differences, modulo 2^32, as 0, -1, 1, -2, 2, ...

    >>> folded([0, -1, 1, -2]), unfolded([0, 1, 2, 3])
    ([0, 1, 2, 3], [0, -1, 1, -2])
    """
    half = 1 << 31
    signed = [((d + half) & _LARGEST) - half for d in differences]
    return [(d << 1) ^ (d >> 31) for d in signed]


def unfolded(numbers: typing.Iterable[int]) -> list[int]:
    """Undo `folded`, modulo 2^32."""
    return [(n >> 1) ^ -(n & 1) for n in numbers]


def steps_are_better(numbers: array[int]) -> bool:
    """Whether steps vary less than the numbers do."""
    return 1.1 * _entropy(steps(numbers)) < _entropy(numbers)


def _entropy(numbers: array[int]) -> float:
    n = len(numbers)
    return -sum(count / n * math.log2(count / n) for count in collections.Counter(numbers).values())


def _read(kind: int, items: list[bytes], before: bytes) -> Run | None:
    if kind == FLOATS:
        numbers = array("I", b"".join(items))
        if sys.byteorder == "big":
            numbers.byteswap()
        return Run(kind, before, numbers)
    if kind == WORDS:
        words = tuple(sorted(set(items)))
        places = {word: i for i, word in enumerate(words)}
        return (
            Run(kind, before, array("I", [places[item] for item in items]), words) if len(words) <= MAX_WORDS else None
        )
    values = {item: _value(item) for item in set(items)}
    return Run(kind, before, array("I", [values[item] for item in items])) if max(values.values()) <= _LARGEST else None


def _written(run: Run) -> bytes:
    tag = _TAGS[run.kind]
    if run.kind == FLOATS:
        data, out = _little(run.numbers), bytearray((1 + NUMBER) * len(run.numbers))
        out[:: 1 + NUMBER] = tag * len(run.numbers)
        for i in range(NUMBER):
            out[1 + i :: 1 + NUMBER] = data[i::NUMBER]
        return bytes(out)
    if run.kind == WORDS:
        items = {i: tag + word for i, word in enumerate(run.words)}
    else:
        items = {number: tag + _varint(number) for number in set(run.numbers)}
    return b"".join([items[number] for number in run.numbers])


def _size(run: Run) -> int:
    if run.kind == FLOATS:
        return (1 + NUMBER) * len(run.numbers)
    counts = collections.Counter(run.numbers)
    if run.kind == WORDS:
        if max(counts, default=0) >= len(run.words):
            raise WireError("a word that is not there", field="delta")
        return sum(n * (1 + len(run.words[i])) for i, n in counts.items())
    return sum(n * (1 + len(_varint(number))) for number, n in counts.items())


def _value(varint: bytes) -> int:
    return sum((byte & _SEVEN_BITS) << 7 * i for i, byte in enumerate(varint))


def _varint(number: int) -> bytes:
    out = bytearray()
    while number > _SEVEN_BITS:
        out.append(number & _SEVEN_BITS | 0x80)
        number >>= 7
    out.append(number)
    return bytes(out)


def _little(numbers: array[int]) -> bytes:
    if sys.byteorder == "big":
        numbers = array("I", numbers)
        numbers.byteswap()
    return numbers.tobytes()
