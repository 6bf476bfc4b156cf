"""The table of an update's states, the job that moves along it, and updates that never end."""

from __future__ import annotations

import contextlib
import pathlib
import re
import typing

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edge_agent.update import job as job_module
from edge_agent.update.job import Job, LoopError
from edge_agent.update.machine import LOOP_PAUSE_S, LOOP_STORES, REST, TABLES, Track
from edge_agent.update.state import State
from shared.errors import ConflictError
from tests import fakes

PAGE = pathlib.Path(__file__).parents[3] / "docs/explanation/update-states.md"
TRACKS: tuple[Track, ...] = ("update", "trial")


@pytest.fixture
def state(tmp_path: pathlib.Path) -> typing.Iterator[State]:
    with contextlib.closing(State(tmp_path / "state.db")) as made:
        yield made


# ---- the table


@pytest.mark.parametrize("track", TRACKS)
def test_every_position_is_reached_and_leads_to_rest(track: Track) -> None:
    table = TABLES[track]
    assert {then for step in table.values() for then in step.then} == set(table)
    for start in table:
        seen = {start}
        while more := {then for position in seen for then in table[position].then} - seen:
            seen |= more
        assert seen & REST, start


def test_what_has_switched_is_never_just_begun_again_without_a_look_at_current() -> None:
    """Only `activate` and `roll_back` switch; the first is safe to begin again, since `current` is the authority."""
    assert {name for name, step in TABLES["update"].items() if step.restart == "roll_back"} == {"roll_back"}
    assert {name for name, step in TABLES["trial"].items() if step.restart == name} == {"commit", "roll_back"}


def test_the_page_shows_the_table() -> None:
    shown = re.findall(r"^\| `(\w+)` \| (.*) \| (.*) \| (.*) \|$", PAGE.read_text(), re.MULTILINE)
    told = [
        (name, step.means, ", ".join(step.then), step.restart.replace("_", " "))
        for track in TRACKS
        for name, step in TABLES[track].items()
    ]
    assert shown == told
    assert f"After {LOOP_STORES}," in PAGE.read_text()


# ---- the job


@pytest.mark.parametrize("track", TRACKS)
def test_a_job_goes_only_where_the_table_leads_and_stays_where_it_was_otherwise(state: State, track: Track) -> None:
    table = TABLES[track]
    for start in table:
        for then in table:
            job = getattr(state, track)
            state._db.execute("update jobs set position = ?, n_stores = 0 where track = ?", (start, track))
            if then in table[start].then:
                job.move(then, "g")
                assert job.read().position == then
            else:
                with pytest.raises(ConflictError, match=f"{then} does not follow {start}"):
                    job.move(then, "g")
                assert job.read().position == start


@given(st.lists(st.sampled_from([*TABLES["update"], "killed"]), max_size=40))
@settings(deadline=None, max_examples=60)
def test_wherever_an_update_was_cut_off_the_next_one_begins(
    tmp_path_factory: pytest.TempPathFactory, steps: list[typing.Any]
) -> None:
    path = tmp_path_factory.mktemp("job") / "state.db"
    state = State(path)
    for step in steps:
        if step == "killed":
            state.close()
            state = State(path)
            state.update.begin()
            assert state.update.read().position == "check"
        else:
            with contextlib.suppress(ConflictError):
                state.update.move(step, "g")
    state.update.begin()
    state.update.end(told=True)
    assert (state.update.read().position, state.update.read().n_stores) == ("idle", 0)
    state.close()


def test_the_outcome_stays_while_the_position_moves_on(state: State) -> None:
    state.update.begin()
    state.update.end("model: it does not load")
    assert state.update.read().position == "report"
    state.update.begin()
    assert state.update.read().outcome == "model: it does not load"
    state.update.end("", told=True)
    assert (state.update.read().position, state.update.read().outcome) == ("idle", "")


def test_a_position_of_another_program_counts_as_none(state: State) -> None:
    state._db.execute("update jobs set position = 'dancing' where track = 'update'")
    assert state.update.restart() == "nothing"
    state.update.begin()
    assert state.update.read().position == "check"


# ---- loops


def cut_off(state: State, generation: str) -> int:
    """Begin updates that die while they download, until that is refused; return how many there were."""
    for n in range(LOOP_STORES):
        try:
            state.update.begin()
            state.update.check_loop(generation)
            state.update.move("download", generation)
        except LoopError:
            return n
    raise AssertionError("nothing stopped it")


def test_an_update_that_never_ends_is_left_alone_for_a_while_and_then_tried_again(
    state: State, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = fakes.Clock()
    monkeypatch.setattr(job_module.time, "time", clock)
    assert cut_off(state, "a") == LOOP_STORES // 2
    said = []
    for _ in range(2):
        state.update.begin()
        with pytest.raises(LoopError, match=r"generation a: 60 steps and no end, the last was") as refused:
            state.update.check_loop("a")
        said.append(str(refused.value))
        state.update.end(said[-1])
        clock.now_s += LOOP_PAUSE_S / 4
    assert said[0] == said[1]  # so that the cloud is told once
    clock.now_s += LOOP_PAUSE_S
    state.update.begin()
    state.update.check_loop("a")


@pytest.mark.parametrize("how", ["another generation", "somebody asks", "a clock that jumped back a year"])
def test_a_loop_holds_up_nothing_else(state: State, monkeypatch: pytest.MonkeyPatch, how: str) -> None:
    clock = fakes.Clock()
    monkeypatch.setattr(job_module.time, "time", clock)
    cut_off(state, "a")
    if how == "somebody asks":
        state.forget_refusals()
    elif how == "a clock that jumped back a year":
        clock.now_s -= 365 * 86_400
    state.update.begin()
    state.update.check_loop("b" if how == "another generation" else "a")
    state.update.move("download", "a")


def test_a_loop_before_anything_is_known_holds_up_the_look_itself(
    state: State, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = fakes.Clock()
    monkeypatch.setattr(job_module.time, "time", clock)
    for _ in range(LOOP_STORES):
        state.update.begin()
    with pytest.raises(LoopError, match=r"update: 60 steps and no end, the last was check"):
        state.update.begin()
    with pytest.raises(LoopError, match="covey-edge sync --retry"):
        state.update.begin()
    clock.now_s += LOOP_PAUSE_S + 1
    state.update.begin()


def test_updates_that_come_to_rest_never_add_up(state: State) -> None:
    for n in range(LOOP_STORES):
        state.update.begin()
        state.update.move("download", "a")
        state.update.end(told=n % 2 == 0)
    assert state.update.read().n_stores == 0


def test_trials_are_bounded_by_their_boots_and_not_by_steps(state: State) -> None:
    for _ in range(LOOP_STORES + 5):
        state.trial.move("probation", "a")
    assert isinstance(state.trial, Job)
    assert state.trial.read().position == "probation"
