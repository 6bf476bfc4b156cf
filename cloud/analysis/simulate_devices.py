"""Simulated experiments whose outcomes come in clusters: devices that differ, and days that all devices share.

As in :mod:`cloud.analysis.simulate`, each makes a batch of all looks, and randomness is handed in.
"""

from __future__ import annotations

import numpy as np

from cloud.analysis.batch import ArmSums, Array, AssignedSums, Batch, CrossSums, DaySums, PairSums, StratumSums
from cloud.analysis.records import DecideInput
from cloud.analysis.simulate import LOOKS


def device_sums(n: Array, s: Array) -> list[Array]:
    """Sums of an arm from counts by device, shaped (experiment, device)."""
    return [n.sum(1), s.sum(1), s.sum(1), (n > 0).sum(1), (n * n).sum(1), (n * s).sum(1), (s * s).sum(1)]


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
    traffic: float | None = None,
    split: bool = True,
    skew: float = 0.0,
    heavy: bool = False,
    joining: bool = False,
    requests: int = 200,
    looks: int = LOOKS,
) -> Batch:
    """Requests of devices that differ; each device splits its requests, or holds one arm.

    Parameters
    ----------
    devices : int
        Of both arms together.
    p : tuple of float
        Mean rates of control and candidate; a device's own rates have the same ratio.
    icc : float
        Intra-class correlation of the control's outcomes, above 0.
    share : float
        Of requests, or of devices unless `split`, that are the candidate's.
    traffic : float, optional
        Share of the requests that the candidate's devices have, unless `split`; if left out, all devices have as many.
    skew : float
        Standard deviation of the logarithm of the devices' traffic.
    heavy : bool
        Whether one device, any of them, has as much traffic as all others together.
    joining : bool
        Whether devices come one after the other, in both arms, instead of all at the start.
    """
    base = device_rates(rng, (size, devices), p[0], icc)
    weight = rng.lognormal(0.0, skew, (size, devices)) if skew else np.ones((size, devices))
    if heavy:
        weight[:, 0] = weight[:, 1:].sum(1)
        weight = rng.permuted(weight, axis=1)
    own = np.arange(devices) < round(devices * share)
    if traffic is not None:
        weight = weight * np.where(own, traffic / own.mean(), (1.0 - traffic) / (1.0 - own.mean()))
    comes = rng.permuted(np.tile(np.arange(devices), (size, 1)), axis=1) * (looks / devices if joining else 0.0)
    n0, s0, n1, s1 = (np.zeros((size, devices)) for _ in range(4))
    rows: tuple[list[Array], ...] = ([], [], [])
    for look in range(looks):
        here = weight * (comes <= look)
        asked_for = rng.multinomial(requests, here / here.sum(1, keepdims=True))
        new = rng.binomial(asked_for, share) if split else asked_for * own
        old = asked_for - new
        n0, s0 = n0 + old, s0 + rng.binomial(old, base)
        n1, s1 = n1 + new, s1 + rng.binomial(new, np.minimum(1.0, base * p[1] / p[0]))
        rows[0].append(np.stack(device_sums(n0, s0)))
        rows[1].append(np.stack(device_sums(n1, s1)))
        if split:
            both = (n0 > 0) & (n1 > 0)
            rows[2].append(np.stack([x.sum(1) for x in (both, n0 * n1, n0 * s1, s0 * n1, s0 * s1)]))
    control, candidate = (ArmSums(*np.stack(row, -1).astype(float)) for row in rows[:2])
    cross = CrossSums(*np.stack(rows[2], -1).astype(float)) if split else None
    return Batch(asked=asked, strata=(StratumSums(control, candidate, cross),))


def silent(
    rng: np.random.Generator,
    size: int,
    *,
    devices: int,
    off: float,
    crash: float,
    p: tuple[float, float],
    asked: DecideInput,
    requests: int = 10,
) -> Batch:
    """Devices that hold one arm each, of which some are given inputs and never report, whatever their arm.

    Parameters
    ----------
    devices : int
        Of both arms together.
    off : float
        Chance of a device never to report.
    crash : float
        Share of the candidate's failures that never come.
    requests : int
        Of a device, at each look.
    """
    own = np.arange(devices) < devices // 2
    rate = device_rates(rng, (size, devices), p[0], 0.05)
    rate = np.where(own, np.minimum(1.0, rate * p[1] / p[0]), rate)[:, None, :]
    shape = (size, LOOKS, devices)
    good = rng.binomial(requests, np.broadcast_to(rate, shape))
    bad = requests - good
    bad = bad - rng.binomial(bad, np.where(own, crash, 0.0))
    speaks = rng.random((size, 1, devices)) >= off
    n, s = (np.cumsum(x * speaks, 1).astype(float) for x in (good + bad, good))
    arms = []
    for mine in (~own, own):
        k, t = n[..., mine], s[..., mine]
        clusters = (k * k).sum(2), (k * t).sum(2), (t * t).sum(2)
        arms.append(ArmSums(k.sum(2), t.sum(2), t.sum(2), (k > 0).sum(2).astype(float), *clusters))
    given = np.broadcast_to(requests * devices / 2 * np.arange(1.0, LOOKS + 1.0), (size, LOOKS))
    return Batch(asked=asked, strata=(StratumSums(arms[0], arms[1]),), assigned=AssignedSums(given, given, 0.5))


def stormy_pairs(
    rng: np.random.Generator,
    size: int,
    *,
    days: int,
    drop: float,
    storm: float,
    asked: DecideInput,
    devices: int = 50,
    n: int = 20,
) -> Batch:
    """Pairs of devices that all have the same storms; a look is a day.

    Parameters
    ----------
    drop : float
        Share of inputs by which the candidate loses, in the mean over days.
    storm : float
        Standard deviation of that share between days.
    n : int
        Inputs of a device in a day.
    """
    shift = np.clip(-drop + storm * rng.standard_normal((size, days)), -0.1, 0.1)
    won = rng.binomial(n, np.repeat((0.1 + shift)[..., None] / 2, devices, -1))
    lost = rng.binomial(n, np.repeat((0.1 - shift)[..., None] / 2, devices, -1))
    by_day = (won - lost).sum(2).astype(float)
    s = np.cumsum(won - lost, 1).astype(float)
    g = np.arange(1, days + 1.0)[None, :] + np.zeros((size, 1))
    inputs, per_day = g * n, float(n * devices)
    total, up, down = s.sum(2), np.cumsum(won.sum(2), 1).astype(float), np.cumsum(lost.sum(2), 1).astype(float)
    dated = DaySums(g, g * per_day**2, per_day * total, np.cumsum(by_day * by_day, 1))
    count = np.full_like(g, devices)
    arm = ArmSums(g * per_day, total, up + down, count, inputs**2 * devices, inputs * total, (s * s).sum(2), dated)
    return Batch(asked=asked, pairs=PairSums(arm, up, down))
