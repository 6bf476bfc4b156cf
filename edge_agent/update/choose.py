"""Which form of a version this device takes: the first that its owner wants, that fits its memory, and works. Pure."""

from __future__ import annotations

import typing

from edge_agent.update.desire import Refused
from shared.bundle import Manifest


class Choice(typing.NamedTuple):
    """A form of a version by the hash of its manifest, or why there is none."""

    sha256: str
    reason: str = ""


def choose(
    offers: typing.Sequence[tuple[str, Manifest]],
    *,
    wanted: typing.Sequence[str],
    memory_bytes: int,
    refused: Refused,
) -> Choice:
    """Choose a variant.

    Parameters
    ----------
    offers : sequence of (str, Manifest)
        Hash and manifest of each variant, in the order of the channel.
    wanted : sequence of str
        The owner's order of variants; what is not named is not taken. Empty: as the channel says.
    memory_bytes : int
        A variant whose memory budget is larger is passed over; 0 is no limit.
    refused : mapping
        What has failed here before.

    Returns
    -------
    Choice
        If all that fits has failed before, the first of it: whoever looks it up finds out why.
    """
    by_name = {manifest.variant: (sha256, manifest) for sha256, manifest in offers}
    names = [name for name in wanted if name in by_name] if wanted else list(by_name)
    if not names:
        return Choice("", f"offered are {', '.join(by_name)}; this device wants {', '.join(wanted)}")
    fitting = [
        by_name[name] for name in names if not memory_bytes or by_name[name][1].budgets.memory_bytes <= memory_bytes
    ]
    if not fitting:
        least = min(by_name[name][1].budgets.memory_bytes for name in names)
        return Choice("", f"the smallest variant may take {least:,} bytes, this device gives {memory_bytes:,}")
    for sha256, manifest in fitting:
        if (manifest.model, manifest.version, sha256) not in refused:
            return Choice(sha256)
    return Choice(fitting[0][0])
