"""What serving hands to telemetry: one small record for each answer, failure and outcome."""

from __future__ import annotations

import typing

import msgspec

from shared.channel import MAX_ARM

INCUMBENT, CANDIDATE = 0, 1
ARM_NAMES = ("incumbent", "candidate", *(f"candidate-{arm}" for arm in range(2, MAX_ARM + 1)))


class Scored(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """What another arm would have answered.

    Parameters
    ----------
    outputs : tuple of float
        None of an approximate answer, which has a source alone.
    """

    arm: int
    version: str
    outputs: tuple[float, ...]
    source: int = 0


class Answered(msgspec.Struct, frozen=True, array_like=True, tag="a"):
    """A request was answered.

    Parameters
    ----------
    source : int
        Index into ``shared.telemetry.SOURCES``.
    slow : bool
        The answer took longer than the model's budget.
    keep : bool
        The outputs do not fit into the prediction id and must wait for the outcome.
    others : tuple of Scored
        What the other arms would have said, those that were scored.
    """

    model: str
    version: str
    epoch: int
    arm: int
    source: int
    event_s: int
    latency_us: int
    slow: bool
    nonce: bytes
    outputs: tuple[float, ...]
    keep: bool = False
    others: tuple[Scored, ...] = ()


class Failed(msgspec.Struct, frozen=True, array_like=True, tag="f"):
    """An arm could not answer (`served`) or could not be scored."""

    model: str
    version: str
    epoch: int
    arm: int
    served: bool
    event_s: int


class OutcomeSeen(msgspec.Struct, frozen=True, array_like=True, tag="o"):
    """The truth about an earlier answer arrived.

    Parameters
    ----------
    event_s, seen_s : int
        Event time of the answer, and when its outcome arrived.
    source : int
        Where the answer came from.
    """

    model: str
    version: str
    epoch: int
    arm: int
    event_s: int
    nonce: bytes
    score: float
    label: float
    seen_s: int
    source: int = 0


class NumbersSeen(msgspec.Struct, frozen=True, array_like=True, tag="n"):
    """Numbers about an earlier answer arrived, each with its name and scale; otherwise like `OutcomeSeen`."""

    model: str
    version: str
    epoch: int
    arm: int
    event_s: int
    nonce: bytes
    seen_s: int
    numbers: tuple[tuple[str, float, float], ...]


class MemorySeen(msgspec.Struct, frozen=True, array_like=True, tag="m"):
    """How much memory a loaded version takes."""

    model: str
    version: str
    epoch: int
    arm: int
    event_s: int
    size_bytes: int


class Visited(msgspec.Struct, frozen=True, array_like=True, tag="v"):
    """A list was shown that is judged as a whole: drawn from the incumbent and a candidate, or of one version.

    Parameters
    ----------
    arm : int
        The candidate's; or of who answered.
    version : str
        Who answered, of a list of one version whose metric judges lists; else empty.
    event_s, closes_s : int, float
        Event time, and until when outcomes count.
    nonce : bytes
        The visit's own.
    shown : tuple of (bytes, int)
        Nonce of each answer, from the first place on, and the arm that picked it.
    """

    model: str
    epoch: int
    arm: int
    event_s: int
    closes_s: float
    nonce: bytes
    shown: tuple[tuple[bytes, int], ...]
    version: str = ""


class Spec(msgspec.Struct, frozen=True, kw_only=True):
    """What must be known about a version to judge its answers, also after the version is gone from the device."""

    model: str
    version: str
    task: str
    metric: str
    metric_scale: float
    label_window_s: float


AnyRecord = Answered | Failed | OutcomeSeen | NumbersSeen | MemorySeen | Visited
Recorder = typing.Callable[[AnyRecord], None]
