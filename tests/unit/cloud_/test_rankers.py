"""Rankers compared by lists drawn as devices draw them, of which few are clicked, under the real controller."""

from __future__ import annotations

import random
import typing

import pytest

from edge_agent.interleave import coins, preference, team_draft
from tests.unit.cloud_.simulated import Fleet

Make = typing.Callable[..., Fleet]
CANARY = 'mode = "interleave"\nrequest_share = 0.4\npreference_margin = 0.15'
N_ITEMS, N_SHOWN, LOOKS_ON = 8, 4, 0.6
INCUMBENT_ERROR = 0.5


class Visits:
    """Visitors look down a list, lose patience, and now and then take what is worth it to them.

    Parameters
    ----------
    errors : mapping
        Version to the standard deviation of its error about an item's worth, which is standard normal.
    taken : float
        How likely an item of the mean worth is taken by who looks at it.
    """

    def __init__(self, seed: int, errors: typing.Mapping[str, float], taken: float) -> None:
        self._rng, self._errors, self._taken = random.Random(seed), errors, taken
        self.n = self.clicked = 0

    def __call__(self, version: str) -> int:
        """What one visitor prefers, as the device would report it."""
        rng = self._rng
        worth = [rng.gauss(0, 1) for _ in range(N_ITEMS)]
        orders = [
            sorted(range(N_ITEMS), key=[one + rng.gauss(0, error) for one in worth].__getitem__, reverse=True)
            for error in (INCUMBENT_ERROR, self._errors[version])
        ]
        clicks = [0, 0]
        for item, team in team_draft(orders[0], orders[1], coins(f"{self.n}"), N_SHOWN):
            clicks[team] += rng.random() < self._taken * 2 ** worth[item]
            if rng.random() > LOOKS_ON:
                break
        self.n += 1
        self.clicked += sum(clicks) > 0
        return preference(*clicks)


def tried(make_fleet: Make, seed: int, error: float) -> tuple[Fleet, int]:
    """A candidate with some error, tried until the rollout ends or for thirty days of lists; one in ten is clicked."""
    fleet = make_fleet(n=2, canary=CANARY, rollout='max_days = 60\nguardrails = "watch"')
    number = fleet.trial()
    fleet.preferred = visits = Visits(seed, {"v2": error}, 0.02)
    fleet.until(lambda: fleet.answering() == ["west"])
    for _ in range(30):
        if fleet.row(number)["state"] == "running":
            fleet.days()
    assert visits.clicked < visits.n / 8
    return fleet, number


@pytest.mark.parametrize("seed", range(3))
def test_a_ranker_that_is_as_good_comes_to_no_harm(make_fleet: Make, seed: int) -> None:
    fleet, number = tried(make_fleet, seed, INCUMBENT_ERROR)
    assert fleet.row(number)["state"] in ("running", "promoted")
    assert fleet.stages(number)["west"]["passed_s"]


def test_a_better_ranker_is_promoted(make_fleet: Make) -> None:
    fleet, number = tried(make_fleet, 1, 0.1)
    assert fleet.row(number)["state"] == "promoted", fleet.row(number)["outcome"]


def test_a_ranker_that_guesses_is_rolled_back(make_fleet: Make) -> None:
    fleet, number = tried(make_fleet, 1, 100.0)
    assert fleet.row(number)["state"] == "rolled_back"
    assert fleet.row(number)["outcome"].startswith("canary west: preference: of ")
