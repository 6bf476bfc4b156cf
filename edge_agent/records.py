"""What serving hands to telemetry: one small record for each answer, failure and outcome."""

from __future__ import annotations

import typing

import msgspec

INCUMBENT, CANDIDATE = 0, 1
ARM_NAMES = ("incumbent", "candidate")


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
    other_version, other_outputs, other_source : str, tuple, int
        What the other arm would have said, where it was scored; an approximate answer has a source, and no outputs.
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
    other_version: str = ""
    other_outputs: tuple[float, ...] = ()
    other_source: int = 0


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


class Spec(msgspec.Struct, frozen=True, kw_only=True):
    """What must be known about a version to judge its answers, also after the version is gone from the device."""

    model: str
    version: str
    task: str
    metric: str
    metric_scale: float
    label_window_s: float


AnyRecord = Answered | Failed | OutcomeSeen
Recorder = typing.Callable[[AnyRecord], None]
