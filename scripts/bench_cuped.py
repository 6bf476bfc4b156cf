"""Whole devices as arms, with and without their earlier days: how often a drop is found, and how often wrongly."""

from __future__ import annotations

import argparse
import typing

import numpy as np
from scipy import special

from cloud.analysis.cuped import Cell, adjust
from cloud.analysis.decide import decide
from cloud.analysis.records import Arm, DecideInput, Metric, Minimum, Stratum, Word

DEVICES, EARLIER, LOOKS, A_LOOK = 100, 280, 40, 10
ICC, BASE, MARGIN = 0.1, 0.90, 0.02
WORSE = {"equal": 0.90, "worse by the margin": 0.88, "worse by five points": 0.85}
Array = np.ndarray[typing.Any, np.dtype[typing.Any]]


class World(typing.NamedTuple):
    """How devices are.

    Parameters
    ----------
    lasting : float
        Correlation of a device's rate with its rate before (of their normal scores).
    unknown : float
        Share of the devices that have no earlier period.
    """

    lasting: float
    unknown: float = 0.0


WORLDS = {
    "devices stay as they were": World(1.0),
    "and a fifth of them are new": World(1.0, 0.2),
    "correlation with earlier rates .9": World(0.9),
    "correlation .7": World(0.7),
    "correlation 0": World(0.0),
}


def experiment(rng: np.random.Generator, world: World, rate: float) -> tuple[Array, Array, dict[str, float]]:
    """One experiment: arm of each device, cumulative good outcomes by (look, device), and earlier means."""
    before = rng.standard_normal(DEVICES)
    now = world.lasting * before + np.sqrt(1.0 - world.lasting**2) * rng.standard_normal(DEVICES)
    scale = (1.0 - ICC) / ICC
    rates = [special.betaincinv(BASE * scale, (1.0 - BASE) * scale, special.ndtr(z)) for z in (before, now)]
    arm = rng.permutation(DEVICES) % 2
    own = np.where(arm == 1, rates[1] * rate / BASE, rates[1])
    good = rng.binomial(A_LOOK, own, (LOOKS, DEVICES)).cumsum(axis=0)
    known = rng.random(DEVICES) >= world.unknown
    means = rng.binomial(EARLIER, rates[0]) / EARLIER
    return arm, good, {f"d{i}": float(mean) for i, mean in enumerate(means) if known[i]}


def arm_of(cells: typing.Sequence[Cell]) -> Arm:
    """Sums of one arm that has a cell for each device."""
    n, s = (np.array([getattr(cell, name) for cell in cells]) for name in ("n", "total"))
    square = sum(cell.square for cell in cells)
    return Arm(float(n.sum()), float(s.sum()), square, float(len(n)), float(n @ n), float(n @ s), float(s @ s))


def word_of(cells: typing.Sequence[Cell], kind: typing.Literal["bernoulli", "continuous"]) -> Word:
    """Ask the rule."""
    control, candidate = (arm_of([cell for cell in cells if cell.arm == arm]) for arm in (0, 1))
    asked = DecideInput(
        schema="covey.decide/1",
        mode="canary",
        alpha=0.05,
        alpha_promote=0.01,
        margin=MARGIN,
        n_candidates=1,
        metric=Metric(kind=kind, direction="higher"),
        strata=(Stratum(control, candidate),),
        minimum=Minimum(devices=20.0),
    )
    return decide(asked).word


def ends(rng: np.random.Generator, world: World, rate: float) -> tuple[Word, Word]:
    """First word that is no ``continue``, looking LOOKS times: without and with earlier days."""
    arm, good, earlier = experiment(rng, world, rate)
    found: list[Word] = ["continue", "continue"]
    for look in range(LOOKS):
        n = float(A_LOOK * (look + 1))
        cells = [Cell(int(arm[i]), f"d{i}", 0, n, float(good[look, i]), float(good[look, i])) for i in range(DEVICES)]
        if found[0] == "continue":
            found[0] = word_of(cells, "bernoulli")
        if found[1] == "continue":
            found[1] = word_of(adjust(cells, earlier).cells, "continuous")
    return found[0], found[1]


def shares(world: World, rate: float, runs: int, seed: int) -> dict[str, tuple[float, float]]:
    """Share of experiments that were rolled back and promoted: without and with earlier days."""
    rng = np.random.default_rng(seed)
    words = [ends(rng, world, rate) for _ in range(runs)]
    return {
        word: (sum(pair[0] == word for pair in words) / runs, sum(pair[1] == word for pair in words) / runs)
        for word in ("rollback", "promote")
    }


def main() -> None:
    """Run."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=1000, help="experiments of each kind")
    runs = parser.parse_args().runs
    print(f"{DEVICES // 2} v {DEVICES // 2} devices, {LOOKS} looks of {A_LOOK} requests a device, {runs} experiments")
    print("| devices | candidate | rolled back without, with | promoted without, with |\n|---|---|---|---|")
    for name, world in WORLDS.items():
        for kind, rate in WORSE.items():
            found = shares(world, rate, runs, seed=1)
            said = [f"{without:.1%}, {using:.1%}" for without, using in found.values()]
            print(f"| {name} | {kind} | {' | '.join(said)} |", flush=True)


if __name__ == "__main__":
    main()
