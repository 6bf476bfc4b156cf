"""What the decision rule is tried on, and what is promised: scenarios of ``bench_decide.py``."""

from __future__ import annotations

import functools
import typing

import msgspec
import numpy as np

from cloud.analysis import simulate as sim
from cloud.analysis import simulate_devices as dev
from cloud.analysis.batch import Batch
from cloud.analysis.records import DecideInput, Metric, Minimum, Word

GOOD, BAD = Metric("bernoulli", "higher"), Metric("bernoulli", "lower")
FAST, SCORE = Metric("continuous", "lower"), Metric("continuous", "higher")
Simulator = typing.Callable[[np.random.Generator, int], Batch | list[Batch]]
Bar = tuple[Word, str, float]  # "at most" or "at least" a share of experiments, or "median" outcomes until the word
f = functools.partial


class Scenario(typing.NamedTuple):
    """What is simulated, bars by word, and of the experiments asked for, how many are enough."""

    name: str
    simulate: Simulator
    bars: tuple[Bar, ...]
    part: float = 1.0

    def batches(self, seed: list[int], size: int) -> list[Batch]:
        """Simulate experiments: one batch, or one for each candidate."""
        made = self.simulate(np.random.default_rng(seed), size)
        return [made] if isinstance(made, Batch) else made


def _asked() -> dict[str, DecideInput]:
    return {
        "good": sim.question(GOOD, 0.02),
        "canary": sim.question(GOOD, 0.02, "canary"),
        "shadow": sim.question(GOOD, 0.02, "shadow"),
        "errors": sim.question(BAD, 0.005),
        "slow": sim.question(FAST, 10.0),
        "losses": sim.question(SCORE, 0.2, "shadow"),
    }


def equal_models() -> list[Scenario]:
    """Nothing is wrong with the candidate."""
    q, same = _asked(), (0.9, 0.9)
    runs: dict[str, Simulator] = {
        "50/50": f(sim.rates, n=(100, 100), p=same, asked=q["good"]),
        "5 % canary": f(sim.rates, n=(1900, 100), p=same, asked=q["canary"]),
        "1 % canary, 10 a look": f(sim.rates, n=(990, 10), p=same, asked=q["canary"]),
        "rare errors, 5 % canary": f(sim.rates, n=(380, 20), p=(0.005, 0.005), asked=q["errors"]),
        "latency": f(sim.latencies, slower=1.0, asked=q["slow"]),
        "shadow": f(sim.paired, pos=0.045, neg=0.045, asked=q["shadow"]),
        "interleaved": f(sim.paired, pos=0.2, neg=0.2, asked=sim.question(GOOD, 0.02, "interleave")),
        "split in 24 devices": f(dev.clustered, devices=24, p=same, icc=0.1, asked=q["good"]),
        "10 v 10 devices": f(dev.clustered, devices=20, p=same, icc=0.1, split=False, asked=q["good"]),
        "100 v 100 devices, unequal": f(
            dev.clustered, devices=200, p=same, icc=0.1, split=False, skew=1.5, asked=q["good"]
        ),
        "ramp with drift": f(sim.ramp, worse=0.0, asked=q["good"]),
        "any of 4 candidates": f(sim.family, asked=sim.question(GOOD, 0.02, n_candidates=4)),
    }
    return [Scenario(f"equal: {name}", run, (("rollback", "at most", 0.05),)) for name, run in runs.items()]


def worse_by_the_margin() -> list[Scenario]:
    """The candidate is just bad enough not to be promoted."""
    q = _asked()
    runs: dict[str, tuple[Simulator, float]] = {
        "50/50": (f(sim.rates, n=(100, 100), p=(0.9, 0.88), asked=q["good"]), 0.01),
        "5 % canary": (f(sim.rates, n=(380, 20), p=(0.9, 0.88), asked=q["good"]), 0.01),
        "rare errors": (f(sim.rates, n=(100, 100), p=(0.005, 0.01), asked=q["errors"]), 0.01),
        "latency": (f(sim.latencies, slower=1.1, asked=q["slow"]), 0.01),
        "shadow": (f(sim.paired, pos=0.035, neg=0.055, asked=q["shadow"]), 0.01),
        "24 v 24 devices": (
            f(dev.clustered, devices=48, p=(0.9, 0.88), icc=0.02, split=False, asked=q["good"]),
            0.02,
        ),
        "ramp with drift": (f(sim.ramp, worse=0.02, asked=q["good"]), 0.015),
        "any of 4 candidates": (f(sim.family, worse=0.02, asked=sim.question(GOOD, 0.02, n_candidates=4)), 0.01),
    }
    return [
        Scenario(f"worse by the margin: {name}", run, (("promote", "at most", limit),))
        for name, (run, limit) in runs.items()
    ]


def much_worse() -> list[Scenario]:
    """The candidate has to be found, soon, and must never be promoted."""
    q, worse = _asked(), (0.9, 0.85)
    runs: dict[str, tuple[Simulator, float]] = {
        ".90 -> .85, 50/50": (f(sim.rates, n=(100, 100), p=worse, asked=q["good"]), 800),
        ".90 -> .85, 5 % canary": (f(sim.rates, n=(1900, 100), p=worse, asked=q["good"]), 500),
        ".90 -> .85, 1 % canary, 10 a look": (f(sim.rates, n=(990, 10), p=worse, asked=q["good"]), 450),
        ".90 -> .85, shadow, 9 % disagree": (f(sim.paired, pos=0.02, neg=0.07, n=20, asked=q["shadow"]), 500),
        ".90 -> .80, 50/50": (f(sim.rates, n=(100, 100), p=(0.9, 0.8), asked=q["good"]), 400),
        "errors .5 % -> 2 %, 5 % canary": (f(sim.rates, n=(380, 20), p=(0.005, 0.02), asked=q["errors"]), 500),
        "latency +20 %": (f(sim.latencies, slower=1.2, asked=q["slow"]), 350),
    }
    never: Bar = ("promote", "at most", 0.0)
    return [
        Scenario(name, run, (("rollback", "median", limit), *((never,) if ".85" in name else ())))
        for name, (run, limit) in runs.items()
    ]


def split_devices() -> list[Scenario]:
    """Each device splits its requests: half of 1,800 requests is the candidate's."""
    found: tuple[Bar, ...] = (("rollback", "at least", 1.0), ("rollback", "median", 900), ("promote", "at most", 0.0))
    runs = {
        f".90 -> .85, split in {devices} devices, icc {icc}": f(
            dev.clustered, devices=devices, p=(0.9, 0.85), icc=icc, asked=sim.question(GOOD, 0.02), looks=100
        )
        for devices in (24, 200)
        for icc in (0.05, 0.2)
    }
    return [Scenario(name, run, found) for name, run in runs.items()]


def lost_and_late() -> list[Scenario]:
    """Failures do not come back, or come late; and what never fails can be promoted."""
    asked, never = sim.question(GOOD, 0.02), (("promote", "at most", 0.0),)
    lost: dict[str, functools.partial[Batch]] = {
        "failures lost": f(sim.lossy, crash=0.6, late=0, asked=asked),
        "failures late": f(sim.lossy, crash=0.0, late=20, asked=asked),
        "failures lost and late": f(sim.lossy, crash=0.6, late=20, asked=asked),
        "failures lost, all late": f(sim.lossy, crash=0.6, late=20, all_late=True, asked=asked),
    }
    rows = [
        Scenario(f".90 -> .85, {name}, {n[1]} of {sum(n)}", f(lossy, n=n), typing.cast("tuple[Bar, ...]", never))
        for name, lossy in lost.items()
        for n in ((100, 100), (1900, 100))
    ]
    no_failures = f(sim.rates, n=(100, 100), p=(0.0, 0.0), asked=sim.question(BAD, 0.005))
    return [*rows, Scenario("two models that never fail", no_failures, (("promote", "median", 2000),))]


def promised() -> list[Scenario]:
    """Everything that is promised."""
    return [*equal_models(), *worse_by_the_margin(), *much_worse(), *split_devices(), *lost_and_late()]


def more() -> list[Scenario]:
    """What nobody has asked for: other base rates, clusters, traffic and orders of arrival, by the same bars."""
    return [*more_equal(), *more_worse()]


def more_equal() -> list[Scenario]:
    """Nothing is wrong with the candidate, in unusual circumstances."""
    runs = _equal_by_requests() | _equal_by_devices()
    bars: tuple[Bar, ...] = (("rollback", "at most", 0.05),)
    return [Scenario(f"equal: {name}", run, bars, _part(name)) for name, run in runs.items()]


def _part(name: str) -> float:
    """Fewer experiments where each has thousands of looks."""
    return 0.1 if "look at every outcome" in name or name.endswith("000 looks") else 1.0


def _equal_by_requests() -> dict[str, Simulator]:
    q, same = _asked(), (0.9, 0.9)
    log2 = sim.question(FAST, float(np.log2(1.1)))
    return {
        **{
            f"rate {p}, 50/50": f(sim.rates, n=(100, 100), p=(p, p), asked=q["good"])
            for p in (0.3, 0.5, 0.96, 0.969, 0.971, 0.98, 0.995)
        },
        **{
            f"rate {p}, 5 % canary": f(sim.rates, n=(190, 10), p=(p, p), asked=q["canary"])
            for p in (0.5, 0.96, 0.971, 0.995)
        },
        "candidate has 90 %": f(sim.rates, n=(20, 180), p=same, asked=q["good"]),
        "a look at every outcome": f(sim.rates, n=(1, 1), p=same, asked=q["good"], looks=2000),
        "5,000 looks": f(sim.rates, n=(20, 20), p=same, asked=q["good"], looks=5000),
        "margin .1": f(sim.rates, n=(20, 20), p=same, asked=sim.question(GOOD, 0.1)),
        "margin .002": f(sim.rates, n=(100, 100), p=same, asked=sim.question(GOOD, 0.002)),
        "latency, sigma 1.5": f(sim.latencies, slower=1.0, sigma=1.5, asked=q["slow"]),
        "latency, 5 % canary": f(sim.latencies, slower=1.0, n=(190, 10), asked=q["slow"]),
        "latency, candidate has 90 %": f(sim.latencies, slower=1.0, n=(10, 90), asked=q["slow"]),
        "latency, log2": f(sim.latencies, slower=1.0, log2=True, asked=log2),
        "shadow, 1 % disagree": f(sim.paired, pos=0.005, neg=0.005, asked=q["shadow"]),
        "pairs of losses, large gains are rare": f(sim.differences, worse=0.0, shape=0.5, asked=q["losses"]),
        "pairs of losses, large losses are rare": f(sim.differences, worse=0.0, shape=-0.5, asked=q["losses"]),
        "shadow, 2,000 looks": f(sim.paired, pos=0.045, neg=0.045, n=10, asked=q["shadow"], looks=2000),
        "steep ramp": f(sim.ramp, worse=0.0, asked=q["good"], shares=(0.005, 0.5), base=(0.95, 0.6)),
        "four regions": f(
            sim.regions,
            n={"a": 50, "b": 30, "c": 15, "d": 5},
            p=dict.fromkeys("abcd", same),
            asked=q["good"],
        ),
        "any of 10 candidates": f(sim.family, asked=sim.question(GOOD, 0.02, n_candidates=10), n_candidates=10),
    }


def _equal_by_devices() -> dict[str, Simulator]:
    q, same = _asked(), (0.9, 0.9)
    clustered = f(dev.clustered, p=same, split=False, asked=q["good"])
    busy = f(clustered, devices=224, share=200 / 224, traffic=0.5, looks=100)
    days = sim.question(GOOD, 0.02, "shadow")
    return {
        **{f"{k} v {k} devices": f(clustered, devices=2 * k, icc=0.1) for k in (2, 3, 5)},
        **{f"{k} v {k} devices, icc .002": f(clustered, devices=2 * k, icc=0.002) for k in (2, 3, 5, 10)},
        "20 v 20 devices": f(clustered, devices=40, icc=0.1),
        "3 v 57 devices": f(clustered, devices=60, icc=0.1, share=0.05),
        "1 v 39 devices": f(clustered, devices=40, icc=0.1, share=0.025),
        "24 v 200 devices, half of the traffic each": f(busy, icc=0.3),
        "rare errors of 24 v 200 devices, half of the traffic each": f(
            busy, icc=0.1, p=(0.005, 0.005), asked=q["errors"]
        ),
        "20 v 20 devices, icc .3": f(clustered, devices=40, icc=0.3),
        "20 v 20 devices, very unequal": f(clustered, devices=40, icc=0.1, skew=2.5),
        "20 v 20 devices, one has half of the traffic": f(clustered, devices=40, icc=0.1, heavy=True),
        "split in 24, one has half of the traffic": f(clustered, devices=24, icc=0.2, split=True, heavy=True),
        "20 v 20 devices that join": f(clustered, devices=40, icc=0.1, joining=True),
        "50 v 50 devices, 10 % are off": f(dev.silent, devices=100, off=0.1, crash=0.0, p=same, asked=q["good"]),
        "10 v 10 devices, 2,000 looks": f(clustered, devices=20, icc=0.1, looks=2000),
        "split in 5 devices": f(clustered, devices=5, icc=0.1, split=True),
        "split in 24, very unequal": f(clustered, devices=24, icc=0.2, split=True, skew=2.5),
        "split in 24 that join, 10 %": f(clustered, devices=24, icc=0.2, split=True, joining=True, share=0.1),
        "rare errors of few devices": f(
            dev.clustered, devices=40, p=(0.005, 0.005), icc=0.1, split=False, asked=q["errors"]
        ),
        "rare errors, split in 24": f(dev.clustered, devices=24, p=(0.01, 0.01), icc=0.1, asked=q["errors"]),
        "shadow, storms, 60 days": f(dev.stormy_pairs, days=60, drop=0.0, storm=0.02, asked=_after_days(days, 7)),
    }


def _after_days(asked: DecideInput, days: int) -> DecideInput:
    return msgspec.structs.replace(asked, minimum=Minimum(days=days))


def more_worse() -> list[Scenario]:
    """The candidate is worse by the margin, in unusual circumstances; a promotion is allowed in 1 % or 2 %."""
    q = _asked()
    good = q["good"]
    runs: dict[str, tuple[Simulator, float]] = {
        **{
            f"rate {p}, 50/50": (f(sim.rates, n=(100, 100), p=(p, p - 0.02), asked=good), 0.01)
            for p in (0.3, 0.5, 0.969, 0.98, 0.995)
        },
        **{
            f"rate {p}, 5 % canary": (f(sim.rates, n=(190, 10), p=(p, p - 0.02), asked=good), 0.01)
            for p in (0.5, 0.97, 0.995)
        },
        "candidate has 90 %": (f(sim.rates, n=(20, 180), p=(0.9, 0.88), asked=good), 0.01),
        "a look at every outcome": (f(sim.rates, n=(1, 1), p=(0.9, 0.88), asked=good, looks=4000), 0.01),
        "margin .1": (f(sim.rates, n=(20, 20), p=(0.9, 0.8), asked=sim.question(GOOD, 0.1)), 0.01),
        "split in 24 devices": (f(dev.clustered, devices=24, p=(0.9, 0.88), icc=0.1, asked=good), 0.02),
        "split in 24, very unequal": (
            f(dev.clustered, devices=24, p=(0.9, 0.88), icc=0.1, skew=2.5, asked=good),
            0.02,
        ),
        "split in 24, one has half of the traffic": (
            f(dev.clustered, devices=24, p=(0.9, 0.88), icc=0.1, heavy=True, asked=good),
            0.02,
        ),
        "20 v 20 devices that join": (
            f(dev.clustered, devices=40, p=(0.9, 0.88), icc=0.1, split=False, joining=True, asked=good),
            0.02,
        ),
        "rare errors of few devices": (
            f(dev.clustered, devices=48, p=(0.005, 0.01), icc=0.1, split=False, asked=q["errors"]),
            0.02,
        ),
        "latency, 5 % canary": (f(sim.latencies, slower=1.1, n=(190, 10), asked=q["slow"]), 0.01),
        "latency, candidate has 90 %": (f(sim.latencies, slower=1.1, n=(10, 90), asked=q["slow"]), 0.01),
        "latency, sigma 1.5": (f(sim.latencies, slower=1.1, sigma=1.5, asked=q["slow"]), 0.01),
        "shadow, 3 % disagree": (f(sim.paired, pos=0.005, neg=0.025, asked=q["shadow"]), 0.01),
        "shadow, only losses": (f(sim.paired, pos=0.0, neg=0.02, asked=q["shadow"]), 0.01),
        "pairs of losses, large gains are rare": (f(sim.differences, worse=0.2, shape=0.5, asked=q["losses"]), 0.01),
        "pairs of losses, large losses are rare": (f(sim.differences, worse=0.2, shape=-0.5, asked=q["losses"]), 0.01),
        "shadow, storms, 60 days": (
            f(dev.stormy_pairs, days=60, drop=0.02, storm=0.02, asked=_after_days(q["shadow"], 7)),
            0.02,
        ),
    }
    rows = [
        Scenario(f"worse by the margin: {name}", run, (("promote", "at most", limit),), _part(name))
        for name, (run, limit) in runs.items()
    ]
    lossy = f(dev.silent, devices=100, off=0.1, crash=0.6, p=(0.9, 0.85), asked=good)
    name = ".90 -> .85, failures lost, 50 v 50 devices, 10 % are off"
    return [*rows, Scenario(name, lossy, (("promote", "at most", 0.01),)), _small_region(good)]


def _small_region(asked: DecideInput) -> Scenario:
    """A candidate that is better in three regions and much worse in a fourth with a twentieth of the traffic."""
    rates = dict.fromkeys("abc", (0.9, 0.92)) | {"d": (0.9, 0.8)}
    run = f(sim.regions, n={"a": 50, "b": 30, "c": 15, "d": 5}, p=rates, asked=asked)
    return Scenario("better in three regions, .90 -> .80 in a small one", run, (("promote", "at most", 0.1),))
