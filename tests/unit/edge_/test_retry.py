"""A device tries again soon, not all devices at once, never much later than its next poll, and never never."""

from __future__ import annotations

import doctest
import math
import random

from hypothesis import given
from hypothesis import strategies as st

from edge_agent.update import retry
from edge_agent.update.retry import BASE_S, FLOOR_S, next_pass_s

failures = st.one_of(st.integers(1, 60), st.integers(1, 10**9))
polls = st.floats(0.05, 7 * 86_400.0)
asked = st.one_of(st.just(0.0), st.floats(0.0, 86_400.0))
seeds = st.integers(0, 2**32)


def test_the_examples_hold() -> None:
    assert doctest.testmod(retry).failed == 0


@given(failures, polls, seeds)
def test_after_any_number_of_failures_it_comes_again_within_one_poll_interval(n: int, poll_s: float, seed: int) -> None:
    wait_s = next_pass_s(n, poll_s, 0.0, random.Random(seed).uniform)
    assert min(FLOOR_S, poll_s) <= wait_s <= poll_s


@given(failures, polls, seeds)
def test_the_bound_doubles_with_each_failure_and_what_is_drawn_lies_anywhere_below(
    n: int, poll_s: float, seed: int
) -> None:
    asked_for: list[tuple[float, float]] = []

    def uniform(low: float, high: float) -> float:
        asked_for.append((low, high))
        return random.Random(seed).uniform(low, high)

    next_pass_s(n, poll_s, 0.0, uniform)
    assert asked_for == [(0.0, min(poll_s, BASE_S * 2 ** min(n - 1, 40)))]


@given(st.integers(0, 10**9), polls, asked, seeds)
def test_what_a_server_asks_for_is_the_least_and_the_wait_is_always_a_number(
    n: int, poll_s: float, asked_s: float, seed: int
) -> None:
    wait_s = next_pass_s(n, poll_s, asked_s, random.Random(seed).uniform, 0.2)
    assert math.isfinite(wait_s)
    assert wait_s >= asked_s
    assert wait_s <= max(asked_s, FLOOR_S) + poll_s * 1.2


def test_devices_that_are_sent_away_together_come_back_apart() -> None:
    draw = random.Random(1).uniform
    waits = sorted(next_pass_s(1, 60.0, 30.0, draw) for _ in range(1000))
    assert waits[0] >= 30.0
    # Spread over as long as they were sent away for: no second of the thirty holds even a tenth of them.
    assert max(sum(int(wait) == second for wait in waits) for second in range(30, 60)) < 100


def test_after_a_pass_that_went_well_it_polls_as_the_channel_says() -> None:
    assert next_pass_s(0, 60.0, 0.0, random.Random(1).uniform) == 60.0
    spread = [next_pass_s(0, 60.0, 0.0, random.Random(i).uniform, 0.2) for i in range(50)]
    assert 60.0 <= min(spread) < max(spread) <= 72.0
