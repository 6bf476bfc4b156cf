"""Simulated experiments with known truth, to try the decision rule on: each makes a batch of all their looks.

Randomness is handed in, so that a simulation can be repeated. Arrays are shaped (experiment, look) unless said.
"""

from __future__ import annotations

import typing

import numpy as np
import numpy.typing as npt

from cloud.analysis.batch import (
    ArmSums,
    Array,
    AssignedSums,
    Batch,
    PairSums,
    StratumSums,
)
from cloud.analysis.records import DecideInput, Metric, Mode

LOOKS = 200


def question(metric: Metric, margin: float, mode: Mode = "ab", n_candidates: int = 1) -> DecideInput:
    """Ask with default settings."""
    return DecideInput(
        schema="covey.decide/1",
        mode=mode,
        alpha=0.05,
        alpha_promote=0.01,
        margin=margin,
        n_candidates=n_candidates,
        metric=metric,
        strata=(),
    )


def alone(n: npt.ArrayLike, s: Array, sq: Array) -> ArmSums:
    """Sums of an arm when every request comes from a device of its own."""
    counts = np.broadcast_to(np.asarray(n, float), s.shape)
    return ArmSums(counts, s, sq, counts, counts, s, sq)


def rates(
    rng: np.random.Generator,
    size: int,
    *,
    n: tuple[int, int],
    p: tuple[float, float],
    asked: DecideInput,
    looks: int = LOOKS,
) -> Batch:
    """Independent outcomes; p is the rate of what the metric counts."""
    seen = np.arange(1, looks + 1)
    sums = [np.cumsum(rng.binomial(k, q, (size, looks)), 1).astype(float) for k, q in zip(n, p, strict=True)]
    control, candidate = (alone(seen * k, s, s) for k, s in zip(n, sums, strict=True))
    return Batch(asked=asked, strata=(StratumSums(control, candidate),))


def latencies(
    rng: np.random.Generator,
    size: int,
    *,
    slower: float,
    asked: DecideInput,
    n: tuple[int, int] = (50, 50),
    sigma: float = 0.8,
    looks: int = LOOKS,
    log2: bool = False,
) -> Batch:
    """Log-normal latencies with mean 100 in the control; their logarithms to the base of 2 if `log2`."""
    arms = []
    for k, mean in zip(n, (100.0, 100.0 * slower), strict=True):
        x = rng.normal(np.log(mean) - sigma**2 / 2, sigma, (size, looks, k))
        x = x / np.log(2.0) if log2 else np.exp(x)
        arms.append(alone(np.arange(1, looks + 1) * k, np.cumsum(x.sum(2), 1), np.cumsum((x * x).sum(2), 1)))
    return Batch(asked=asked, strata=(StratumSums(arms[0], arms[1]),))


def ramp(
    rng: np.random.Generator,
    size: int,
    *,
    worse: float,
    asked: DecideInput,
    shares: typing.Sequence[float] = (0.01, 0.05, 0.25, 0.5),
    base: tuple[float, float] = (0.9, 0.75),
) -> Batch:
    """Ramp over stages of 50 looks of 200 requests each, while the base rate changes from one value to another."""
    looks = 50 * len(shares)
    rate = np.linspace(*base, looks)
    strata = []
    for stage, share in enumerate(shares):
        on = np.arange(looks) // 50 == stage
        arms = []
        for n, drop in ((round(200 * (1 - share)), 0.0), (round(200 * share), worse)):
            s = np.cumsum(rng.binomial(n, rate - drop, (size, looks)) * on, 1).astype(float)
            arms.append(alone(np.cumsum(on) * n, s, s))
        strata.append(StratumSums(arms[0], arms[1]))
    return Batch(asked=asked, strata=tuple(strata))


def regions(
    rng: np.random.Generator, size: int, *, n: dict[str, int], p: dict[str, tuple[float, float]], asked: DecideInput
) -> Batch:
    """Regions with traffic and rates of their own, side by side; n is by arm and look."""
    strata = []
    for name, k in n.items():
        arms = [np.cumsum(rng.binomial(k, q, (size, LOOKS)), 1).astype(float) for q in p[name]]
        control, candidate = (alone(np.arange(1, LOOKS + 1) * k, s, s) for s in arms)
        strata.append(StratumSums(control, candidate, region=name))
    return Batch(asked=asked, strata=tuple(strata))


def paired(
    rng: np.random.Generator,
    size: int,
    *,
    pos: float,
    neg: float,
    asked: DecideInput,
    n: int = 100,
    looks: int = LOOKS,
) -> Batch:
    """Both models answer the same inputs; pos and neg are shares that only the candidate, only the control gets."""
    counts = np.cumsum(rng.multinomial(n, [pos, neg, 1 - pos - neg], (size, looks)), 1).astype(float)
    up, down = counts[..., 0], counts[..., 1]
    arm = alone(np.arange(1, looks + 1) * n, up - down, up + down)
    return Batch(asked=asked, pairs=PairSums(arm, up, down))


def differences(
    rng: np.random.Generator, size: int, *, worse: float, shape: float, asked: DecideInput, n: int = 50
) -> Batch:
    """Pairs of a continuous metric with standard deviation 1, whose few large differences are mostly on one side.

    Parameters
    ----------
    shape : float
        Of a gamma distribution, whose skewness is 2 over its root: large gains are rare and small losses frequent.
        Below 0 it is the other way round.
    """
    x = rng.gamma(abs(shape), 1.0, (size, LOOKS, n)) - abs(shape)
    x = np.sign(shape) * x / np.sqrt(abs(shape)) - worse
    seen = np.arange(1, LOOKS + 1) * n
    arm = alone(seen, np.cumsum(x.sum(2), 1), np.cumsum((x * x).sum(2), 1))
    nothing = np.zeros((size, LOOKS))
    return Batch(asked=asked, pairs=PairSums(arm, nothing, nothing))


def lossy(
    rng: np.random.Generator,
    size: int,
    *,
    crash: float,
    late: int,
    n: tuple[int, int],
    asked: DecideInput,
    all_late: bool = False,
    p: tuple[float, float] = (0.9, 0.85),
) -> Batch:
    """Outcomes that get lost and that come late.

    Parameters
    ----------
    crash : float
        Share of the candidate's failures that are never reported.
    late : int
        Looks after which failures are reported, or all outcomes if `all_late`.
    n, p : tuple
        Inputs a look and rate of successes, of control and candidate.
    """
    good, bad, given = [], [], []
    for k, rate, lost in ((n[0], p[0], 0.0), (n[1], p[1], crash)):
        failures = rng.binomial(k, 1.0 - rate, (size, LOOKS))
        good.append(np.cumsum(k - failures, 1).astype(float))
        bad.append(np.cumsum(failures - rng.binomial(failures, lost), 1).astype(float))
        given.append(np.broadcast_to(k * np.arange(1.0, LOOKS + 1.0), (size, LOOKS)))

    def stratum(good_after: int, bad_after: int) -> StratumSums:
        seen = [(_delayed(up, good_after), _delayed(down, bad_after)) for up, down in zip(good, bad, strict=True)]
        first, second = (alone(up + down, up, up) for up, down in seen)
        return StratumSums(first, second)

    return Batch(
        asked=asked,
        strata=(stratum(late if all_late else 0, late),),
        matured=(stratum(late, late),) if late else None,
        assigned=AssignedSums(given[0], given[1], n[1] / sum(n)),
    )


def _delayed(counts: Array, late: int) -> Array:
    return np.concatenate([np.zeros((len(counts), late)), counts[:, : counts.shape[1] - late]], 1)


def family(
    rng: np.random.Generator, size: int, *, asked: DecideInput, n_candidates: int = 4, worse: float = 0.0
) -> list[Batch]:
    """Candidates that are equal, or all a little worse, against one control: a batch for each candidate."""
    control, *others = (
        np.cumsum(rng.binomial(100, p, (size, LOOKS)), 1).astype(float) for p in (0.9, *[0.9 - worse] * n_candidates)
    )
    n = np.arange(1, LOOKS + 1) * 100
    arms = [alone(n, s, s) for s in (control, *others)]
    return [Batch(asked=asked, strata=(StratumSums(arms[0], arm),)) for arm in arms[1:]]
