"""Simulated experiments with known truth, to try the decision rule on: each yields the inputs of its looks in order.

Randomness is handed in, so that a simulation can be repeated. Arrays are shaped (experiment, look, field).
"""

from __future__ import annotations

import typing

import msgspec
import numpy as np
import numpy.typing as npt

from cloud.analysis.records import Arm, Assigned, Cross, DecideInput, Metric, Mode, Pairs, Stratum

Array = npt.NDArray[np.float64]
Experiment = typing.Callable[[int], typing.Iterator[DecideInput]]
"""The inputs, look by look, of one of the experiments that were simulated together."""


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


def by_looks(asked: DecideInput, strata: list[tuple[Array, Array, Array | None]]) -> Experiment:
    """Turn sums, shaped (experiment, look, field), into one input a look."""

    def looks(e: int) -> typing.Iterator[DecideInput]:
        rows = [(a[e].tolist(), b[e].tolist(), None if c is None else c[e].tolist()) for a, b, c in strata]
        for look in range(len(rows[0][0])):
            found = (
                Stratum(Arm(*a[look]), Arm(*b[look]), None if c is None else Cross(*c[look]))
                for a, b, c in rows
                if a[look][0] > 0.0
            )
            yield msgspec.structs.replace(asked, strata=tuple(found))

    return looks


def alone(n: npt.ArrayLike, s: Array, sq: Array) -> Array:
    """Sums of an arm when every request comes from a device of its own."""
    counts = np.broadcast_to(np.asarray(n, float), s.shape)
    return np.stack([counts, s, sq, counts, counts, s, sq], -1)


def rates(
    rng: np.random.Generator,
    size: int,
    *,
    n: tuple[int, int],
    p: tuple[float, float],
    asked: DecideInput,
    looks: int = 200,
) -> Experiment:
    """Independent outcomes; p is the rate of what the metric counts."""
    seen = np.arange(1, looks + 1)
    sums = [np.cumsum(rng.binomial(k, q, (size, looks)), 1).astype(float) for k, q in zip(n, p, strict=True)]
    control, candidate = (alone(seen * k, s, s) for k, s in zip(n, sums, strict=True))
    return by_looks(asked, [(control, candidate, None)])


def latencies(
    rng: np.random.Generator,
    size: int,
    *,
    slower: float,
    asked: DecideInput,
    n: int = 50,
    sigma: float = 0.8,
    looks: int = 200,
) -> Experiment:
    """Log-normal latencies with mean 100 in the control."""
    arms = []
    for mean in (100.0, 100.0 * slower):
        x = rng.lognormal(np.log(mean) - sigma**2 / 2, sigma, (size, looks, n))
        arms.append(alone(np.arange(1, looks + 1) * n, np.cumsum(x.sum(2), 1), np.cumsum((x * x).sum(2), 1)))
    return by_looks(asked, [(arms[0], arms[1], None)])


def device_sums(n: Array, s: Array) -> Array:
    """Sums of an arm from counts by device, shaped (experiment, device)."""
    fields = [n.sum(1), s.sum(1), s.sum(1), (n > 0).sum(1), (n * n).sum(1), (n * s).sum(1), (s * s).sum(1)]
    return np.stack(fields, -1).astype(float)


def device_rates(rng: np.random.Generator, shape: tuple[int, int], p: float, icc: float) -> Array:
    """Rates of devices around p with an intra-class correlation."""
    scale = (1.0 - icc) / icc
    return rng.beta(p * scale, (1.0 - p) * scale, shape)


def clustered(
    rng: np.random.Generator,
    size: int,
    *,
    devices: int,
    p: tuple[float, float],
    icc: float,
    asked: DecideInput,
    share: float = 0.5,
    split: bool = True,
    skew: float = 0.0,
    looks: int = 200,
) -> Experiment:
    """200 requests a look over devices that differ; each device splits its requests, or holds one arm."""
    base = device_rates(rng, (size, devices), p[0], icc)
    weight = rng.lognormal(0.0, skew, (size, devices)) if skew else np.ones((size, devices))
    weight /= weight.sum(1, keepdims=True)
    own = np.arange(devices) < devices * share
    n0, s0, n1, s1 = (np.zeros((size, devices)) for _ in range(4))
    rows: list[list[Array]] = [[], [], []]
    for _ in range(looks):
        asked_for = rng.multinomial(200, weight)
        new = rng.binomial(asked_for, share) if split else asked_for * own
        old = asked_for - new
        n0, s0 = n0 + old, s0 + rng.binomial(old, base)
        n1, s1 = n1 + new, s1 + rng.binomial(new, base * p[1] / p[0])
        rows[0].append(device_sums(n0, s0))
        rows[1].append(device_sums(n1, s1))
        both = (n0 > 0) & (n1 > 0)
        products = [both, n0 * n1, n0 * s1, s0 * n1, s0 * s1]
        rows[2].append(np.stack([product.sum(1) for product in products], -1).astype(float))
    control, candidate, cross = (np.stack(row, 1) for row in rows)
    return by_looks(asked, [(control, candidate, cross if split else None)])


def ramp(rng: np.random.Generator, size: int, *, worse: float, asked: DecideInput) -> Experiment:
    """Ramp over four shares, 50 looks of 200 requests each, while the base rate falls from .90 to .75."""
    base = np.linspace(0.9, 0.75, 200)
    strata: list[tuple[Array, Array, Array | None]] = []
    for stage, share in enumerate((0.01, 0.05, 0.25, 0.5)):
        on = np.arange(200) // 50 == stage
        arms = []
        for n, drop in ((round(200 * (1 - share)), 0.0), (round(200 * share), worse)):
            s = np.cumsum(rng.binomial(n, base - drop, (size, 200)) * on, 1).astype(float)
            arms.append(alone(np.cumsum(on) * n, s, s))
        strata.append((arms[0], arms[1], None))
    return by_looks(asked, strata)


def paired(
    rng: np.random.Generator, size: int, *, pos: float, neg: float, asked: DecideInput, n: int = 100, looks: int = 200
) -> Experiment:
    """Both models answer the same inputs."""
    counts = np.cumsum(rng.multinomial(n, [pos, neg, 1 - pos - neg], (size, looks)), 1).astype(float)
    up, down = counts[..., 0], counts[..., 1]
    sums = np.concatenate([alone(np.arange(1, looks + 1) * n, up - down, up + down), counts[..., :2]], -1)

    def inputs(e: int) -> typing.Iterator[DecideInput]:
        for seen, s, sq, g, nn, ns, ss, won, lost in sums[e].tolist():
            yield msgspec.structs.replace(asked, pairs=Pairs(seen, s, sq, g, nn, ns, ss, pos=won, neg=lost))

    return inputs


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
) -> Experiment:
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
    looks = 200
    good, bad = [], []
    for k, rate, lost in ((n[0], p[0], 0.0), (n[1], p[1], crash)):
        failures = rng.binomial(k, 1.0 - rate, (size, looks))
        good.append(_delayed(np.cumsum(k - failures, 1), late))
        bad.append(_delayed(np.cumsum(failures - rng.binomial(failures, lost), 1), late))

    def stratum(e: int, now: int, then: int) -> tuple[Stratum, ...]:
        first, second = (_plain_arm(good[i][e, now], bad[i][e, then]) for i in (0, 1))
        return (Stratum(first, second),)

    def inputs(e: int) -> typing.Iterator[DecideInput]:
        for look in range(looks):
            given = Assigned(n[0] * (look + 1.0), n[1] * (look + 1.0), n[1] / sum(n))
            old, new = look, look + late  # arrays start `late` looks before the first
            strata = stratum(e, old if all_late else new, old)
            matured = stratum(e, old, old) if look >= late else ()
            yield msgspec.structs.replace(asked, strata=strata, matured=matured if late else None, assigned=given)

    return inputs


def _delayed(counts: npt.NDArray[np.int64], late: int) -> Array:
    return np.concatenate([np.zeros((len(counts), late)), counts.astype(float)], 1)


def _plain_arm(good: float, bad: float) -> Arm:
    n = float(good + bad)
    return Arm(n, float(good), float(good), n, n, float(good), float(good))


def family(rng: np.random.Generator, size: int, *, asked: DecideInput) -> Experiment:
    """Four equal candidates against one control, one after the other in each look."""
    control, *others = (np.cumsum(rng.binomial(100, 0.9, (size, 200)), 1).astype(float) for _ in range(5))
    n = np.arange(1, 201) * 100
    runs = [by_looks(asked, [(alone(n, control, control), alone(n, other, other), None)]) for other in others]
    return lambda e: (one for look in zip(*(run(e) for run in runs), strict=True) for one in look)
