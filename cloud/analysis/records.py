"""Records of the interface ``covey.decide/1``: what a decision is made from, and the decision.

Symbols, for one arm: device ``d`` reports ``n_d`` outcomes which add up to ``s_d``. Every number may be a float.
"""

from __future__ import annotations

import typing

import msgspec

Mode = typing.Literal["ab", "canary", "shadow", "interleave"]
Word = typing.Literal["continue", "promote", "rollback"]
Kind = typing.Literal["bernoulli", "continuous"]
Direction = typing.Literal["higher", "lower"]


class Days(msgspec.Struct, frozen=True):
    """Sums of one arm with calendar days as clusters.

    ``g`` days; ``nn``, ``ns`` and ``ss`` are the sums over days of ``n^2``, ``n s`` and ``s^2``.
    """

    g: float
    nn: float
    ns: float
    ss: float


class CrossDays(msgspec.Struct, frozen=True):
    """Sums over the days that have both arms: ``n0 n1``, ``n0 s1``, ``s0 n1`` and ``s0 s1``."""

    g: float
    nn: float
    ns: float
    sn: float
    ss: float


class Cross(msgspec.Struct, frozen=True):
    """Sums over the devices that have both arms: ``n0 n1``, ``n0 s1``, ``s0 n1`` and ``s0 s1``."""

    g: float
    nn: float
    ns: float
    sn: float
    ss: float
    days: CrossDays | None = None


class Arm(msgspec.Struct, frozen=True):
    """Cumulative sums of one arm.

    ``n`` outcomes, their ``sum`` and ``sumsq``; ``g`` devices with ``g_nn``, ``g_ns`` and ``g_ss`` the sums over
    devices of ``n_d^2``, ``n_d s_d`` and ``s_d^2``. ``assigned`` counts the inputs that were given to the arm.
    """

    n: float
    sum: float
    sumsq: float
    g: float
    g_nn: float
    g_ns: float
    g_ss: float
    assigned: float | None = None
    days: Days | None = None


class Pairs(Arm, frozen=True):
    """An arm over the differences ``good(candidate) - good(control)``, higher is better whatever the metric.

    For a bernoulli metric ``pos`` and ``neg`` count the inputs that only the candidate, only the control got right.
    """

    pos: float | None = None
    neg: float | None = None


class Stratum(msgspec.Struct, frozen=True):
    """Both arms in one region and stage, where the split between them was constant."""

    control: Arm
    candidate: Arm
    cross: Cross | None = None
    region: str | None = None


class Metric(msgspec.Struct, frozen=True):
    """What is measured, and which way is better."""

    kind: Kind
    direction: Direction


class Minimum(msgspec.Struct, frozen=True):
    """Least evidence: ``outcomes`` and ``devices`` (per arm) for a promotion, ``days`` for either verdict."""

    outcomes: float = 500.0
    devices: float = 20.0
    days: float = 0.0


class Assigned(msgspec.Struct, frozen=True):
    """Inputs given to each arm since the start, and the newest planned share of the candidate."""

    control: float
    candidate: float
    share: float | None = None


class Recent(msgspec.Struct, frozen=True):
    """Outcomes of one arm in the newest interval, and their sum."""

    n: float
    sum: float


class Last(msgspec.Struct, frozen=True):
    """The newest interval of both arms. No decision depends on it."""

    control: Recent
    candidate: Recent


class DecideInput(msgspec.Struct, frozen=True, kw_only=True):
    """Everything a decision depends on; see :mod:`cloud.analysis.decide` for how.

    ``lost_alike`` says how many outcomes that never came count as one, because those of a device, or of a person, get
    lost together; 1 if each is lost by itself. If it is not said, arms that share no devices may have lost whole ones.
    ``missing`` says whether outcomes may have stayed away because of the answer (``suspect``), so that a promotion
    counts all that may be missing as bad; or not (``alike``), so that it counts once it is certain to be no accident.
    ``tolerance``, of a continuous metric in strata: how much worse the candidate may be for certain and not be rolled
    back; below the margin, which only a promotion looks at.
    """

    schema: str
    mode: Mode
    alpha: float
    alpha_promote: float
    margin: float
    n_candidates: float
    metric: Metric
    strata: tuple[Stratum, ...]
    matured: tuple[Stratum, ...] | None = None
    pairs: Pairs | None = None
    minimum: Minimum | None = Minimum()
    assigned: Assigned | None = None
    lost_alike: float | None = None
    missing: typing.Literal["suspect", "alike"] = "suspect"
    tolerance: float = 0.0
    look: float | None = None
    max_looks: float | None = None
    last: Last | None = None

    def least(self) -> Minimum:
        """Return the minimums asked for, or the defaults."""
        return self.minimum or Minimum()


class Decision(msgspec.Struct, frozen=True):
    """The verdict, with everything that led to it.

    ``reasons`` are sentences for people; ``numbers`` are the statistics they speak of; ``regions`` has a word for
    each region that was named.
    """

    word: Word
    reasons: tuple[str, ...]
    numbers: dict[str, float]
    regions: dict[str, Word]

    def to_json(self) -> bytes:
        """Return the decision as one line of JSON."""
        return msgspec.json.encode(self)
