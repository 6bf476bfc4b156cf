"""Team draft: fair, complete, nothing twice, and every item credited to the team that picked it."""

from __future__ import annotations

import collections
import itertools
import typing

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_agent.interleave import CANDIDATE, INCUMBENT, coins, preference, team_draft

Orders = tuple[list[int], list[int]]


@st.composite
def orders(draw: st.DrawFn) -> Orders:
    """Two orders of the same items."""
    items = list(range(draw(st.integers(0, 12))))
    return draw(st.permutations(items)), draw(st.permutations(items))


def all_tosses(n: int) -> typing.Iterator[tuple[int, ...]]:
    return itertools.product((0, 1), repeat=n)


@given(orders(), st.integers(1, 15), st.text(max_size=12))
def test_a_list_is_complete_and_shows_nothing_twice(both: Orders, n: int, visit: str) -> None:
    drawn = team_draft(*both, coins(visit), n)
    items = [item for item, _ in drawn]
    assert len(items) == len(set(items)) == min(n, len(both[0]))
    assert set(items) <= set(both[0])
    assert len(team_draft(*both, coins(visit))) == len(both[0])


@given(orders(), st.integers(1, 15), st.text(max_size=12))
def test_each_item_is_the_best_that_its_team_could_still_pick(both: Orders, n: int, visit: str) -> None:
    taken: set[int] = set()
    for item, team in team_draft(*both, coins(visit), n):
        assert item == next(one for one in both[team] if one not in taken)
        taken.add(item)


@given(orders(), st.integers(1, 15), st.text(max_size=12))
def test_after_each_round_both_teams_have_as_many(both: Orders, n: int, visit: str) -> None:
    teams = [team for _, team in team_draft(*both, coins(visit), n)]
    for i in range(0, len(teams) - 1, 2):
        assert {teams[i], teams[i + 1]} == {INCUMBENT, CANDIDATE}


@given(orders(), st.integers(1, 15), st.text(max_size=12))
def test_a_longer_list_begins_like_a_shorter_one(both: Orders, n: int, visit: str) -> None:
    whole = team_draft(*both, coins(visit))
    assert team_draft(*both, coins(visit), n) == whole[:n]


@given(orders(), st.lists(st.integers(0, 1), min_size=6, max_size=6))
def test_exchanged_rankers_with_exchanged_coins_draw_the_same_list_for_exchanged_teams(
    both: Orders, tosses: list[int]
) -> None:
    drawn = team_draft(*both, iter(tosses))
    mirrored = team_draft(both[1], both[0], iter([1 - toss for toss in tosses]))
    assert [(item, 1 - team) for item, team in mirrored] == [(item, team) for item, team in drawn]


@pytest.mark.parametrize("n", range(1, 8))
def test_of_equal_rankers_each_has_every_place_in_half_of_all_tosses(n: int) -> None:
    order = list(range(n))
    n_rounds = (n + 1) // 2
    by_place: collections.Counter[int] = collections.Counter()
    for tosses in all_tosses(n_rounds):
        drawn = team_draft(order, order, iter(tosses))
        assert [item for item, _ in drawn] == order
        by_place.update(place for place, (_, team) in enumerate(drawn) if team == CANDIDATE)
    assert [by_place[place] for place in range(n)] == [2**n_rounds // 2] * n


def test_of_equal_rankers_neither_is_preferred_wherever_visitors_click() -> None:
    """Exactly, over all tosses: whatever one place gets in clicks, both teams have it as often."""
    for clicked in itertools.chain.from_iterable(itertools.combinations(range(5), k) for k in range(4)):
        total = 0
        for tosses in all_tosses(3):
            teams = [team for _, team in team_draft(range(5), range(5), iter(tosses))]
            clicks = collections.Counter(teams[place] for place in clicked)
            total += preference(clicks[INCUMBENT], clicks[CANDIDATE])
        assert total == 0


def test_a_better_ranker_is_preferred_by_who_clicks_what_is_relevant() -> None:
    relevant, better, worse = {3}, [3, 1, 2, 0], [0, 1, 2, 3]
    said = []
    for tosses in all_tosses(2):
        drawn = team_draft(worse, better, iter(tosses))
        teams = [team for item, team in drawn[:2] if item in relevant]
        said.append(preference(teams.count(INCUMBENT), teams.count(CANDIDATE)))
    assert said == [1, 1, 1, 1]


def test_coins_of_a_visit_are_always_the_same_and_fair() -> None:
    again = [list(itertools.islice(coins("0123456789ab"), 1000)) for _ in range(2)]
    assert again[0] == again[1] != list(itertools.islice(coins("0123456789ac"), 1000))
    heads = sum(next(coins(f"{i:012x}")) for i in range(4000))
    assert abs(heads - 2000) < 160  # five standard deviations
    assert abs(sum(again[0]) - 500) < 80
