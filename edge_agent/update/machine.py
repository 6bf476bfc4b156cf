"""The update's states: which may follow which, and what a restart does in each. A table, and nothing that acts.

Two things go on in a device, each with its own position. The *update* belongs to the sync child: it looks, fetches,
checks and switches. The *trial* belongs to the serving process: it watches what has begun to answer, and keeps it or
takes it back. A position is stored before it is acted upon, so that a process that dies leaves behind what it was
about to do; what came of it (the outcome) is kept beside the position. After Mender's client, which works so.
"""

from __future__ import annotations

import typing

Track = typing.Literal["update", "trial"]
Position = typing.Literal[
    "idle",
    "check",
    "download",
    "verify",
    "stage",
    "self_test",
    "ready",
    "activate",
    "probation",
    "commit",
    "roll_back",
    "report",
]
Restart = typing.Literal["nothing", "begin_again", "watch_again", "commit", "roll_back"]


class Step(typing.NamedTuple):
    """One position.

    Parameters
    ----------
    means : str
        What is done there.
    then : tuple of str
        What may follow.
    restart : str
        What a process does that finds this position when it starts: ``nothing``; ``begin_again``, which is to look
        anew (nothing was switched, or `current` says to what); ``watch_again``, one boot less; end the ``commit``, or
        the ``roll_back``.
    """

    means: str
    then: tuple[Position, ...]
    restart: Restart


TABLES: typing.Final[dict[Track, dict[Position, Step]]] = {
    "update": {
        "idle": Step("nothing is under way", ("check", "report"), "nothing"),
        "check": Step(
            "metadata, channel and manifests are fetched and verified", ("idle", "download", "report"), "begin_again"
        ),
        "download": Step(
            "what is missing is fetched, each file up to its signed hash", ("verify", "idle", "report"), "begin_again"
        ),
        "verify": Step(
            "every file of a version that has not run here is read again",
            ("download", "stage", "report"),
            "begin_again",
        ),
        "stage": Step("the generation's folder is made", ("self_test", "idle", "report"), "begin_again"),
        "self_test": Step(
            "what is new is tried in a process of its own", ("download", "ready", "activate", "report"), "begin_again"
        ),
        "ready": Step("all is tested, and the owner does not want the switch yet", ("check", "report"), "begin_again"),
        "activate": Step("`current` is switched and the serving process told", ("report", "roll_back"), "begin_again"),
        "roll_back": Step("the serving process can not serve it: `current` goes back", ("report",), "roll_back"),
        "report": Step("done or refused, and the cloud has not heard of it yet", ("idle", "check"), "nothing"),
    },
    "trial": {
        "idle": Step("what runs is not on trial", ("probation", "roll_back"), "nothing"),
        "probation": Step(
            "the answers of a new generation are watched", ("probation", "commit", "roll_back", "idle"), "watch_again"
        ),
        "commit": Step("it has done well and is good from now on", ("idle", "probation"), "commit"),
        "roll_back": Step(
            "it goes: its new versions are refused and the last good generation answers",
            ("idle", "probation"),
            "roll_back",
        ),
    },
}
SWITCHED_NOTHING: typing.Final = frozenset[Position](("check", "download", "verify", "stage", "self_test"))
REST: typing.Final = frozenset[Position](("idle", "ready", "report"))
LOOP_STORES: typing.Final = 60
LOOP_PAUSE_S: typing.Final = 3600.0


def may_follow(track: Track, before: Position, after: Position) -> bool:
    """Whether a position may follow another one.

    >>> may_follow("update", "download", "verify"), may_follow("update", "download", "activate")
    (True, False)
    """
    return after in TABLES[track][before].then


def is_loop(n_stores: int) -> bool:
    """Whether so many positions in a row, stored without coming to rest, mean that an update never ends.

    A whole update stores eight; one that is cut off stores two to six, and counting goes on over restarts.
    """
    return n_stores > LOOP_STORES


def holds(until_s: float, now_s: float) -> bool:
    """Whether an update that never ended is still left alone.

    A clock that was set back does not make the pause longer than it was meant to be.

    >>> holds(1000.0, 400.0), holds(1000.0, 1001.0), holds(9e9, 400.0)
    (True, False, False)
    """
    return 0 < until_s - now_s <= LOOP_PAUSE_S
