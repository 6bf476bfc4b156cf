"""What a device tells the cloud: batches of sums and events, and what it is running. Never a raw input."""

from __future__ import annotations

import typing

import msgspec

from shared.codec import Record
from shared.labels import SaidLabels
from shared.summary import N_LATENCY_BINS, N_SCORE_BINS

SOURCES = ("precomputed", "onnx", "coarse", "default")
APPROXIMATE = frozenset(map(SOURCES.index, ("coarse", "default")))  # answers that say nothing about a model's quality
MAX_BATCH_BYTES = 4 << 20
MAX_BATCH_RAW_BYTES = 64 << 20
MAX_ROWS = 50_000

Count = typing.Annotated[int, msgspec.Meta(ge=0, le=1 << 53)]
Total = typing.Annotated[int, msgspec.Meta(ge=-(1 << 62), le=1 << 62)]
Squares = typing.Annotated[int, msgspec.Meta(ge=0, le=1 << 62)]
Moment = typing.Annotated[float, msgspec.Meta(ge=0, le=1e12)]  # not-a-number is refused too
Scale = typing.Annotated[float, msgspec.Meta(ge=1e-12, le=1e12)]
Small = typing.Annotated[int, msgspec.Meta(ge=0, le=(1 << 32) - 1)]
Word = typing.Annotated[str, msgspec.Meta(min_length=1, max_length=64)]
Text = typing.Annotated[str, msgspec.Meta(max_length=2000)]
ScoreBins = typing.Annotated[tuple[Count, ...], msgspec.Meta(min_length=2 * N_SCORE_BINS, max_length=2 * N_SCORE_BINS)]
LatencyBins = typing.Annotated[tuple[Count, ...], msgspec.Meta(min_length=N_LATENCY_BINS, max_length=N_LATENCY_BINS)]


class SumsRow(msgspec.Struct, frozen=True, array_like=True):
    """Increments for one (model, version, epoch, arm, served or only scored, event day).

    `metric_sum`, `metric_sumsq` and `excess_sum` are fixed-point (`shared.summary.quantise`).
    """

    model: Word
    version: Word
    epoch: Small
    arm: Small
    served: bool
    day: Small
    requests: Count = 0
    precomputed: Count = 0
    onnx: Count = 0
    fallback: Count = 0
    failed: Count = 0
    timed_out: Count = 0
    outcomes: Count = 0
    metric_sum: Total = 0
    metric_sumsq: Squares = 0
    excess_sum: Total = 0
    positives: Count = 0
    score_bins: ScoreBins = (0,) * (2 * N_SCORE_BINS)
    latency_bins: LatencyBins = (0,) * N_LATENCY_BINS


class PairsRow(msgspec.Struct, frozen=True, array_like=True):
    """Increments of d = good(candidate) - good(incumbent) on the same inputs, for one (model, epoch, day, arm).

    Where lists are interleaved, one list is one input.
    """

    model: Word
    epoch: Small
    day: Small
    n: Count
    sum: Total
    sumsq: Squares
    pos: Count
    neg: Count
    arm: Small = 1


class MeasuresRow(msgspec.Struct, frozen=True, array_like=True):
    """Increments of one number for one (model, version, epoch, arm, served, day, name, scale).

    Numbers are what an application posts with an outcome (``Manifest.numbers``), and what the device measures itself
    (``shared.summary.MEMORY``). `sum` and `sumsq` are fixed-point, in units of `scale`; with the scale in the key,
    sums under another one are never added to them.
    """

    model: Word
    version: Word
    epoch: Small
    arm: Small
    served: bool
    day: Small
    name: Word
    scale: Scale
    n: Count
    sum: Total
    sumsq: Squares


class Event(msgspec.Struct, frozen=True):
    """Something that happened on the device, for people to read."""

    at_s: Moment
    kind: Word
    detail: Text = ""


class ModelStatus(msgspec.Struct, frozen=True, kw_only=True):
    """What a device runs of one model: the incumbent, the candidate, and further candidates (`also`).

    Parameters
    ----------
    refused : mapping
        Version that it does not run to why.
    unfit : tuple of str
        Those of them of which no form fits its memory or its owner's will; it has not tried them. Not sent if none.
    """

    model: Word
    incumbent: str = ""
    candidate: str = ""
    also: typing.Annotated[tuple[Word, ...], msgspec.Meta(max_length=16)] = ()
    epoch: Small = 0
    refused: dict[str, str] = {}
    unfit: tuple[Word, ...] | msgspec.UnsetType = msgspec.UNSET


class DeviceStatus(msgspec.Struct, frozen=True, kw_only=True):
    """What a device is doing, as of the batch that carries it.

    Parameters
    ----------
    generation, state : str
        Digest of what runs, and ``trial`` or ``good``: good means that the golden inputs were reproduced by the
        serving process and probation ended.
    watermark_s : float
        Event time before which the device has folded everything into sums.
    channel_sequence : int
        The newest channel it has acted upon.
    stale_s : float
        How long its metadata has been expired; 0 while fresh.
    waits : str
        Why a generation that lies ready is not switched to yet; its owner or an application said "not now".
    can : tuple of str
        What this agent understands of experiments (`shared.channel.CAN`); an agent that knows of none says none.
    labels : mapping
        Those that it goes by, its class among them.
    """

    generation: str = ""
    state: str = ""
    watermark_s: Moment = 0.0
    channel_sequence: Count = 0
    agent: str = ""
    models: tuple[ModelStatus, ...] = ()
    spool_bytes: Count = 0
    dropped_events: Count = 0
    stale_s: Moment = 0.0
    waits: Text = ""
    can: typing.Annotated[tuple[Word, ...], msgspec.Meta(max_length=64)] = ()
    labels: SaidLabels = {}


class Batch(Record, frozen=True, kw_only=True):
    """One delivery; (device, spool, sequence) makes it count once."""

    SCHEMA: typing.ClassVar[str] = "covey.telemetry/1"
    device: Word
    spool: Word
    sequence: Count
    sent_s: Moment
    status: DeviceStatus
    sums: typing.Annotated[tuple[SumsRow, ...], msgspec.Meta(max_length=MAX_ROWS)] = ()
    pairs: typing.Annotated[tuple[PairsRow, ...], msgspec.Meta(max_length=MAX_ROWS)] = ()
    events: typing.Annotated[tuple[Event, ...], msgspec.Meta(max_length=MAX_ROWS)] = ()
    measures: typing.Annotated[tuple[MeasuresRow, ...], msgspec.Meta(max_length=MAX_ROWS)] = ()


class Acknowledgement(Record, frozen=True, kw_only=True):
    """The cloud has the batch in its database (`duplicate`: it already had it)."""

    SCHEMA: typing.ClassVar[str] = "covey.acknowledgement/1"
    spool: str
    sequence: int
    duplicate: bool = False
