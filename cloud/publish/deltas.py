"""Make deltas of a bundle's files from the files of earlier versions, where they are worth it."""

from __future__ import annotations

import types
import typing

from shared import bundle, delta
from shared.bundle import DeltaRef

SMALLEST_BYTES = 1024
WORTH_RATIO = 0.9
USUAL_MEMORY_BYTES = 128 << 20
"""What a device has for a delta, unless its settings say otherwise."""
_WITHOUT_SOURCE = "zstd"


class Made(typing.NamedTuple):
    """A delta as a manifest lists it, and its bytes."""

    ref: DeltaRef
    data: bytes


Deltas = typing.Mapping[str, typing.Sequence[Made]]
NO_DELTAS: Deltas = types.MappingProxyType({})


def make_deltas(files: typing.Mapping[str, bytes], earlier: typing.Sequence[typing.Mapping[str, bytes]]) -> Deltas:
    """Make the deltas of a bundle.

    A compressed file is listed if it is at most nine tenths of the file, a delta if it is at most nine tenths of that;
    nothing is made for files of less than a kilobyte. Of several methods the one with the smallest delta is taken that
    devices have the memory for.

    Parameters
    ----------
    files : mapping
        File name to content.
    earlier : sequence of mapping
        The same of earlier versions, from each of which a delta is tried.

    Returns
    -------
    mapping
        File name to its deltas, the best known source first.
    """
    return {
        name: made
        for name, data in sorted(files.items())
        if len(data) >= SMALLEST_BYTES
        if (made := _of_file(data, [version[name] for version in earlier if name in version]))
    }


def _of_file(data: bytes, sources: list[bytes]) -> list[Made]:
    whole = delta.encode(_WITHOUT_SOURCE, b"", data)
    found = []
    limit = WORTH_RATIO * len(data)
    if whole is not None and len(whole) <= limit:
        found.append(_made(whole, _WITHOUT_SOURCE, b""))
        limit = WORTH_RATIO * len(whole)
    for source in dict.fromkeys(sources):
        tried = [(method, delta.encode(method, source, data)) for method in delta.METHODS if method != _WITHOUT_SOURCE]
        good = [(method, made) for method, made in tried if made is not None and len(made) <= limit]
        if good and source != data:  # who has the very file needs no delta
            needs = {method: delta.memory_bytes(method, len(source), len(data)) for method, _ in good}
            method, made = min(good, key=lambda one: (needs[one[0]] > USUAL_MEMORY_BYTES, len(one[1])))
            found.append(_made(made, method, source))
    return found


def _made(data: bytes, method: str, source: bytes) -> Made:
    sha256 = bundle.digest_of(source) if source else ""
    return Made(DeltaRef(method=method, source=sha256, sha256=bundle.digest_of(data), length=len(data)), data)
