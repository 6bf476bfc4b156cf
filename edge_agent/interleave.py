"""Interleaving: one list drawn from two rankers in turn, so that each visitor compares them by where they click.

Team draft, after Radlinski, Kurup and Joachims, *How does clickthrough data reflect retrieval quality?*, CIKM 2008,
section 3.2: as two captains pick their teams, the rankers take turns; in each round a coin says who goes first, and
whoever's turn it is picks the best item of its own order that nobody has picked yet. A click counts for the ranker that
picked the item. One list is one comparison, whatever was clicked in it.
"""

from __future__ import annotations

import hashlib
import typing

INCUMBENT, CANDIDATE = 0, 1
_BLOCK_BYTES = 64


class Picked(typing.NamedTuple):
    """An item of a drawn list, and the team that picked it: 0 the incumbent's, 1 the candidate's."""

    item: int
    team: int


def coins(visit: str) -> typing.Iterator[int]:
    """Coins of a visit, without end: its name decides them all, so that anybody can toss them again.

    Bit after bit of BLAKE2b over the name and the number of the block, the lowest bit of each byte first.

    Parameters
    ----------
    visit : str
        The visit's id, as the reply to ``/v1/rank`` has it.

    >>> from itertools import islice
    >>> list(islice(coins("0123456789ab"), 12))
    [1, 0, 0, 0, 0, 0, 0, 1, 1, 1, 1, 1]
    """
    block = 0
    while True:
        name = f"{visit}/{block}".encode()
        for byte in hashlib.blake2b(name, digest_size=_BLOCK_BYTES).digest():
            for bit in range(8):
                yield byte >> bit & 1
        block += 1


def team_draft(
    incumbent: typing.Sequence[int],
    candidate: typing.Sequence[int],
    tosses: typing.Iterator[int],
    n: int | None = None,
) -> list[Picked]:
    """Draw one list from two orders of the same items.

    Parameters
    ----------
    incumbent, candidate : sequence of int
        The items in the order of each ranker, best first. Equals are in whatever order the ranker has them.
    tosses : iterator of int
        A coin for each round: 1 lets the candidate go first. See `coins`.
    n : int, optional
        How many are shown; all by default.

    >>> team_draft([1, 2, 3, 4], [3, 1, 2, 4], iter([1, 0]))
    [Picked(item=3, team=1), Picked(item=1, team=0), Picked(item=2, team=0), Picked(item=4, team=1)]
    """
    wanted = len(incumbent) if n is None else min(n, len(incumbent))
    taken: set[int] = set()
    rests = iter(incumbent), iter(candidate)
    drawn: list[Picked] = []
    first = 0
    while len(drawn) < wanted:
        begins_round = len(drawn) % 2 == 0
        first = next(tosses) if begins_round else first
        team = first if begins_round else 1 - first
        item = next(item for item in rests[team] if item not in taken)
        taken.add(item)
        drawn.append(Picked(item, team))
    return drawn


def preference(clicks_incumbent: int, clicks_candidate: int) -> int:
    """What a visit says: 1 for the candidate, -1 for the incumbent, 0 where both have as many clicks, or none.

    >>> [preference(*clicks) for clicks in ((0, 0), (0, 1), (3, 1), (2, 2))]
    [0, 1, -1, 0]
    """
    return (clicks_candidate > clicks_incumbent) - (clicks_candidate < clicks_incumbent)
