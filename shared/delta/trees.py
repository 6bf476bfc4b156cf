"""Method `trees`: like `patch`, but on columns, and knowing that the weights of a growing forest all shrink alike.

A forest of 100 trees that gets 20 more divides every leaf's weight by 120 in place of 100: all of them change. Each is
foreseen as the old one times 5/6, and what is wrong with that, mostly nothing, is sent. The body::

    0     4       length of the first frame
    4     ..      frame: one entry for each run of the new file (how long, of which kind, how written)
    ..            frame with the old file's columns as prefix: columns with what is between them, mistakes
"""

from __future__ import annotations

import fractions
import itertools
import math
import statistics
import struct
import typing
from array import array

import msgspec

from shared import codec
from shared.delta import runs
from shared.delta.runs import NUMBER, Run
from shared.errors import WireError

LEVEL = 19
MAX_BYTES = 1 << 24  # trees of more are left to `patch`: taking them apart takes a device time
_SIZE = struct.Struct("<I")
_MAX_HEAD_BYTES = 1 << 18
_MAX_RUNS = 1024
_SAMPLE, _NEAR, _GOOD_SHARE = 1000, 4, 0.9
_MAX_DENOMINATOR = 10_000


class _Entry(msgspec.Struct, frozen=True, array_like=True):
    """How a run is written.

    Parameters
    ----------
    before, n : int
        Bytes before it, and how many items it has.
    ratio : float
        The first floats are the old ones, as many as there are, times this, plus mistakes; 0: they are not.
    """

    kind: int
    before: int
    n: int
    as_steps: bool
    ratio: float
    words: tuple[bytes, ...]


def encode(source: bytes, result: bytes) -> bytes | None:
    """Write the file's columns, compressed with the old ones as prefix; nothing if there are none in both files."""
    if max(len(source), len(result)) > MAX_BYTES:
        return None
    (old, _), (new, rest) = runs.parse(source), runs.parse(result)
    if not old or not new or len(new) > _MAX_RUNS:
        return None
    entries, parts, mistakes = [], [], []
    for was, run in itertools.zip_longest(old, new):
        if run is None:
            break
        ratio = _ratio(was, run)
        known = _foreseen(was, run.numbers, ratio) if ratio else array("I")
        mistakes.append(runs.folded(a - b for a, b in zip(run.numbers, known, strict=False)))
        as_steps = run.kind != runs.FLOATS and runs.steps_are_better(run.numbers)
        entries.append(_Entry(run.kind, len(run.before), len(run.numbers), as_steps, ratio, run.words))
        parts += [run.before, runs.column(run.kind, run.numbers[len(known) :], as_steps=as_steps)]
    head = codec.compress(codec.to_msgpack(entries), level=LEVEL)
    said = array("I", itertools.chain.from_iterable(mistakes))
    data = b"".join([*parts, rest, runs.column(runs.INTS, said)])
    prefix = _columns(old, entries)
    return b"".join([_SIZE.pack(len(head)), head, codec.compress(data, level=LEVEL, prefix=prefix)])


def decode(body: bytes, source: bytes, length: int) -> bytes:
    """Make the file from the old one's columns; WireError if the body does not fit it."""
    if len(body) < _SIZE.size or len(source) > MAX_BYTES or length > MAX_BYTES:
        raise WireError(f"{len(body):,} bytes for a file of {length:,}", field="delta")
    (at,) = _SIZE.unpack_from(body)
    entries = _entries(body[_SIZE.size : _SIZE.size + at], length)
    old, _ = runs.parse(source)
    prefix = _columns(old, entries)
    limit_bytes = 2 * length + _SIZE.size
    window = codec.window_log(len(prefix) + limit_bytes)
    data = codec.decompress(body[_SIZE.size + at :], limit_bytes=limit_bytes, window=window, prefix=prefix)
    return _rebuild(entries, old, data, length)


def _rebuild(entries: list[_Entry], old: list[Run], data: bytes, length: int) -> bytes:
    known = [
        _foreseen(was, range(entry.n), entry.ratio) if entry.ratio else array("I")
        for was, entry in itertools.zip_longest(old, entries)
        if entry is not None
    ]
    n_mistakes = NUMBER * sum(map(len, known))
    said = sum(entry.before + NUMBER * (entry.n - len(one)) for entry, one in zip(entries, known, strict=True))
    if said + n_mistakes > len(data):
        raise WireError(f"{said + n_mistakes:,} bytes of columns in {len(data):,}", field="delta")
    mistakes = iter(runs.unfolded(runs.read_column(runs.INTS, data[len(data) - n_mistakes :])))
    made, at = [], 0
    for entry, foreseen in zip(entries, known, strict=True):
        before, at = data[at : at + entry.before], at + entry.before
        n_bytes = NUMBER * (entry.n - len(foreseen))
        numbers = array("I", [(number + next(mistakes)) & 0xFFFFFFFF for number in foreseen])
        numbers += runs.read_column(entry.kind, data[at : at + n_bytes], as_steps=entry.as_steps)
        made.append(Run(entry.kind, before, numbers, entry.words))
        at += n_bytes
    return runs.build(made, data[at : len(data) - n_mistakes], length)


def _entries(frame: bytes, length: int) -> list[_Entry]:
    data = codec.decompress(frame, limit_bytes=_MAX_HEAD_BYTES, window=codec.window_log(_MAX_HEAD_BYTES))
    try:
        entries = msgspec.msgpack.decode(data, type=list[_Entry])
    except msgspec.DecodeError as err:
        raise WireError(f"its runs can not be read: {err}", field="delta") from err
    for entry in entries:
        sound = (
            entry.kind in (runs.FLOATS, runs.INTS, runs.WORDS)
            and 0 <= entry.before <= length
            and 0 <= entry.n <= length
        )
        if not sound or not math.isfinite(entry.ratio) or (entry.ratio and entry.kind != runs.FLOATS):
            raise WireError(f"no run is like this: {entry!r:.80}", field="delta")
    return entries


def _columns(old: list[Run], entries: list[_Entry]) -> bytes:
    """Return what matches are looked for in: the old file's columns, written as the new ones are."""
    parts = []
    for run, entry in itertools.zip_longest(old, entries):
        if run is not None:
            as_steps = entry is not None and entry.as_steps and entry.kind == run.kind
            parts += [run.before, runs.column(run.kind, run.numbers, as_steps=as_steps)]
    return b"".join(parts)


def _ratio(was: Run | None, run: Run) -> float:
    """Return what most floats were multiplied by; 0 if there is no such number, or if it is one."""
    if was is None or was.kind != runs.FLOATS or run.kind != runs.FLOATS:
        return 0.0
    n = min(len(was.numbers), len(run.numbers))
    pairs = zip(_floats(was.numbers[:n]), _floats(run.numbers[:n]), strict=True)
    found = [b / a for a, b in pairs if a and math.isfinite(a) and math.isfinite(b)][:_SAMPLE]
    if not found:
        return 0.0
    middle = statistics.median(found)
    exact = float(fractions.Fraction(middle).limit_denominator(_MAX_DENOMINATOR))
    ratio = exact if math.isclose(exact, middle, rel_tol=1e-6) else middle
    if ratio == 1.0 or not ratio:
        return 0.0
    mistakes = map(int.__sub__, run.numbers, _foreseen(was, run.numbers, ratio))
    return ratio if sum(abs(one) <= _NEAR for one in mistakes) >= _GOOD_SHARE * n else 0.0


def _foreseen(was: Run | None, like: typing.Sequence[int], ratio: float) -> array[int]:
    """Return the bits of the old floats times a ratio, as many as there are in both."""
    if was is None or was.kind != runs.FLOATS:
        raise WireError("floats are foreseen from none", field="delta")
    scaled = array("f", [number * ratio for number in _floats(was.numbers[: len(like)])])
    return array("I", scaled.tobytes())


def _floats(bits: array[int]) -> array[float]:
    return array("f", bits.tobytes())
