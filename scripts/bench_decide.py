"""Shows what the decision rule does: simulated experiments with known truth, judged by ``cloud.analysis.decide``.

Run ``python scripts/bench_decide.py`` for 10,000 experiments a scenario, ``--quick`` for 240 and a rough answer.
"""

from __future__ import annotations

import argparse
import functools
import json
import math
import multiprocessing
import os
import platform
import sys
import time
import typing

import msgspec
import numpy as np

from cloud.analysis import simulate as sim
from cloud.analysis.decide import decide
from cloud.analysis.records import DecideInput, Metric, Word

GOOD, BAD, SLOW = Metric("bernoulli", "higher"), Metric("bernoulli", "lower"), Metric("continuous", "lower")
CHUNK = 50
Simulator = typing.Callable[[np.random.Generator, int], sim.Experiment]
Bar = tuple[Word, str, float]  # "at most" or "at least" a share of experiments, or "median" outcomes until the word


class Scenario(typing.NamedTuple):
    """What is simulated, the word that ends an experiment, and bars by word."""

    name: str
    simulate: Simulator
    word: Word
    bars: tuple[Bar, ...]


class Outcome(typing.NamedTuple):
    """Words that an experiment came to, and the candidate's outcomes when it ended."""

    words: frozenset[str]
    outcomes: float


def equal_models() -> list[Scenario]:
    """Nothing is wrong with the candidate."""
    f = functools.partial
    good, canary = sim.question(GOOD, 0.02), sim.question(GOOD, 0.02, "canary")
    same = (0.9, 0.9)
    runs: dict[str, Simulator] = {
        "50/50": f(sim.rates, n=(100, 100), p=same, asked=good),
        "5 % canary": f(sim.rates, n=(1900, 100), p=same, asked=canary),
        "1 % canary, 10 a look": f(sim.rates, n=(990, 10), p=same, asked=canary),
        "rare errors, 5 % canary": f(sim.rates, n=(380, 20), p=(0.005, 0.005), asked=sim.question(BAD, 0.005)),
        "latency": f(sim.latencies, slower=1.0, asked=sim.question(SLOW, 10.0)),
        "shadow": f(sim.paired, pos=0.045, neg=0.045, asked=sim.question(GOOD, 0.02, "shadow")),
        "interleaved": f(sim.paired, pos=0.2, neg=0.2, asked=sim.question(GOOD, 0.02, "interleave")),
        "split in 24 devices": f(sim.clustered, devices=24, p=same, icc=0.1, asked=good),
        "10 v 10 devices": f(sim.clustered, devices=20, p=same, icc=0.1, split=False, asked=good),
        "100 v 100, unequal": f(sim.clustered, devices=200, p=same, icc=0.1, split=False, skew=1.5, asked=good),
        "ramp with drift": f(sim.ramp, worse=0.0, asked=good),
        "any of 4 candidates": f(sim.family, asked=sim.question(GOOD, 0.02, n_candidates=4)),
    }
    return [Scenario(f"equal: {name}", run, "rollback", (("rollback", "at most", 0.05),)) for name, run in runs.items()]


def worse_by_the_margin() -> list[Scenario]:
    """The candidate is just bad enough not to be promoted."""
    f = functools.partial
    good = sim.question(GOOD, 0.02)
    runs: dict[str, tuple[Simulator, float]] = {
        "50/50": (f(sim.rates, n=(100, 100), p=(0.9, 0.88), asked=good), 0.01),
        "5 % canary": (f(sim.rates, n=(380, 20), p=(0.9, 0.88), asked=good), 0.01),
        "rare errors": (f(sim.rates, n=(100, 100), p=(0.005, 0.01), asked=sim.question(BAD, 0.005)), 0.01),
        "latency": (f(sim.latencies, slower=1.1, asked=sim.question(SLOW, 10.0)), 0.01),
        "shadow": (f(sim.paired, pos=0.035, neg=0.055, asked=sim.question(GOOD, 0.02, "shadow")), 0.01),
        "24 v 24 devices": (f(sim.clustered, devices=48, p=(0.9, 0.88), icc=0.02, split=False, asked=good), 0.02),
        "ramp with drift": (f(sim.ramp, worse=0.02, asked=good), 0.015),
    }
    return [
        Scenario(f"worse by the margin: {name}", run, "promote", (("promote", "at most", limit),))
        for name, (run, limit) in runs.items()
    ]


def much_worse() -> list[Scenario]:
    """The candidate has to be found, soon, and must never be promoted."""
    f = functools.partial
    good, bad = sim.question(GOOD, 0.02), sim.question(BAD, 0.005)
    shadow = sim.question(GOOD, 0.02, "shadow")
    runs: dict[str, tuple[Simulator, float]] = {
        ".90 -> .85, 50/50": (f(sim.rates, n=(100, 100), p=(0.9, 0.85), asked=good), 800),
        ".90 -> .85, 5 % canary": (f(sim.rates, n=(1900, 100), p=(0.9, 0.85), asked=good), 500),
        ".90 -> .85, 1 % canary, 10 a look": (f(sim.rates, n=(990, 10), p=(0.9, 0.85), asked=good), 450),
        ".90 -> .85, shadow, 9 % disagree": (f(sim.paired, pos=0.02, neg=0.07, n=20, asked=shadow), 500),
        ".90 -> .80, 50/50": (f(sim.rates, n=(100, 100), p=(0.9, 0.8), asked=good), 400),
        "errors .5 % -> 2 %, 5 % canary": (f(sim.rates, n=(380, 20), p=(0.005, 0.02), asked=bad), 500),
        "latency +20 %": (f(sim.latencies, slower=1.2, asked=sim.question(SLOW, 10.0)), 350),
    }
    never: Bar = ("promote", "at most", 0.0)
    rows = [
        Scenario(name, run, "rollback", (("rollback", "median", limit), *((never,) if ".85" in name else ())))
        for name, (run, limit) in runs.items()
    ]
    found: tuple[Bar, ...] = (("rollback", "at least", 1.0), ("rollback", "median", 900), never)
    for devices in (24, 200):
        for icc in (0.05, 0.2):
            run = f(sim.clustered, devices=devices, p=(0.9, 0.85), icc=icc, asked=good)
            rows.append(Scenario(f".90 -> .85, split in {devices} devices, icc {icc}", run, "rollback", found))
    lost: dict[str, functools.partial[sim.Experiment]] = {
        "failures lost": f(sim.lossy, crash=0.6, late=0, asked=good),
        "failures late": f(sim.lossy, crash=0.0, late=20, asked=good),
        "failures lost and late": f(sim.lossy, crash=0.6, late=20, asked=good),
        "failures lost, all late": f(sim.lossy, crash=0.6, late=20, all_late=True, asked=good),
    }
    for name, lossy in lost.items():
        for n in ((100, 100), (1900, 100)):
            run = f(lossy, n=n)
            rows.append(Scenario(f".90 -> .85, {name}, {n[1]} of {sum(n)}", run, "rollback", (never,)))
    no_failures = f(sim.rates, n=(100, 100), p=(0.0, 0.0), asked=bad)
    return [*rows, Scenario("two models that never fail", no_failures, "promote", (("promote", "median", 2000),))]


def scenarios() -> list[Scenario]:
    """Everything that is promised."""
    return [*equal_models(), *worse_by_the_margin(), *much_worse()]


def outcome(looks: typing.Iterator[DecideInput], word: Word) -> Outcome:
    """Decide at every look until the word falls."""
    words, n = set(), math.inf
    for record in looks:
        decision = decide(record)
        words.add(decision.word)
        if decision.word == word:
            n = decision.numbers["outcomes"]
            break
    return Outcome(frozenset(words), n)


def run_chunk(job: tuple[int, int, int]) -> list[Outcome]:
    """Simulate and judge some experiments of a scenario."""
    index, chunk, size = job
    scenario = scenarios()[index]
    experiment = scenario.simulate(np.random.default_rng([index, chunk]), size)
    return [outcome(experiment(e), scenario.word) for e in range(size)]


def judge(scenario: Scenario, outcomes: list[Outcome]) -> list[dict[str, typing.Any]]:
    """Compare outcomes with the bars of a scenario; shares may miss theirs by three standard errors."""
    bars = []
    for word, kind, limit in scenario.bars:
        share = sum(word in one.words for one in outcomes) / len(outcomes)
        slack = 3.0 * math.sqrt(limit * (1.0 - limit) / len(outcomes)) if kind == "at most" else 0.0
        value = float(np.median([one.outcomes for one in outcomes])) if kind == "median" else share
        ok = value >= limit if kind == "at least" else value <= limit + slack
        name = f"{scenario.name}: {word}, {kind}"
        bars.append({"name": name, "value": value, "limit": round(limit + slack, 5), "ok": ok})
    return bars


def main() -> int:
    """Run all scenarios and print what came out."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="240 experiments a scenario instead of 10,000")
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of a table")
    parser.add_argument("--experiments", type=int, default=0, help="experiments a scenario")
    parser.add_argument("--only", default="", help="only scenarios whose name contains this")
    args = parser.parse_args()
    size = args.experiments or (240 if args.quick else 10_000)
    rows, bars = [], []
    with multiprocessing.get_context("fork").Pool(os.cpu_count()) as pool:
        for index, scenario in enumerate(scenarios()):
            if args.only not in scenario.name:
                continue
            start = time.perf_counter()
            # A median is read off experiments that end soon, so there can be more of them.
            n = 5 * size if args.quick and any(kind == "median" for _, kind, _ in scenario.bars) else size
            jobs = [(index, first, min(CHUNK, n - first)) for first in range(0, n, CHUNK)]
            outcomes = [one for part in pool.imap(run_chunk, jobs) for one in part]
            found = judge(scenario, outcomes)
            bars += found
            rows.append({"name": scenario.name, "experiments": n, "seconds": time.perf_counter() - start})
            for bar in [] if args.json else found:
                print(
                    f"{'ok ' if bar['ok'] else 'MISSED'} {bar['name']:75s} {bar['value']:9.4g}  {bar['limit']:9.4g}",
                    flush=True,
                )
    versions = {"python": platform.python_version(), "numpy": np.__version__, "msgspec": msgspec.__version__}
    if args.json:
        print(json.dumps({"rows": rows, "bars": bars, "versions": versions}))
    return 0 if all(bar["ok"] for bar in bars) else 3


if __name__ == "__main__":
    sys.exit(main())
