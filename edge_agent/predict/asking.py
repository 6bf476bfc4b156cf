"""One question of one or many rows: answered row by row, with pauses where others would have to wait."""

from __future__ import annotations

import time
import typing

from edge_agent.predict.apart import SlowModelError, SlowRun
from edge_agent.predict.engine import ActiveModel, Engine, Prediction, Row
from edge_agent.predict.loaded import NotReadyError
from edge_agent.predict.replies import Response
from edge_agent.records import INCUMBENT
from shared.errors import DataError, LimitError
from shared.telemetry import APPROXIMATE

TURN_ROWS = 32
Pause = SlowRun | NotReadyError | None
Answering = typing.Generator[Pause, None, Response]
Finishing = typing.Generator[SlowRun | None, None, None]


class Draw(typing.NamedTuple):
    """How a list is drawn from two rankers.

    Parameters
    ----------
    arm : int
        The candidate that is drawn with the incumbent.
    say : callable
        Turns the incumbent's answers and the candidate's into a reply.
    """

    arm: int
    say: typing.Callable[[list[Prediction], list[Prediction]], Response]


class Ask(typing.NamedTuple):
    """What a request asks.

    Parameters
    ----------
    unit : str, optional
        Who or what it is for; without one each row is its own.
    is_one_arm : bool
        All rows are answered by one arm. Where the candidate fails at a row, the incumbent answers them all.
    say : callable
        Turns the answers into a reply.
    rows_are : str
        What the request calls its rows, for messages; nothing if there is one that needs no name.
    draw : Draw, optional
        The incumbent and a candidate both answer all rows. Where the candidate fails, `say` has the incumbent's.
    """

    active: ActiveModel
    rows: typing.Sequence[Row]
    unit: str | None
    event_s: float
    is_one_arm: bool
    say: typing.Callable[[list[Prediction]], Response]
    rows_are: str
    draw: Draw | None = None


class Asking(typing.NamedTuple):
    """A question that has a way of its own to be answered, and how many rows it may hold on to."""

    answering: Answering
    n_rows: int


class Paused(typing.NamedTuple):
    """A question that is not answered yet, what it waits for, and how many rows it has."""

    answering: Answering
    pause: Pause
    n_rows: int


def begin(engine: Engine, ask: Ask | Asking) -> Response | Paused:
    """Answer as far as it goes without a pause.

    Raises
    ------
    CoveyError
        What the rows or the model are guilty of.
    """
    if isinstance(ask, Asking):
        return _first(ask.answering, ask.n_rows)
    if len(ask.rows) == 1 and ask.draw is None:
        ask = ask._replace(unit=ask.active.unit_of(ask.unit))
        made: Prediction | None = None
        try:
            made = engine.predict(ask.active, ask.rows[0], unit=ask.unit, event_s=ask.event_s)
        except (SlowModelError, NotReadyError):
            pass  # asked again below, with a pause; nothing was recorded
        except DataError as err:
            raise _in_row(ask, 0, err) from err
        if made is not None:
            return ask.say([made])
    return _first(_answering(engine, ask), len(ask.rows))


def _first(answering: Answering, n_rows: int) -> Response | Paused:
    try:
        return Paused(answering, next(answering), n_rows)
    except StopIteration as stop:
        return typing.cast("Response", stop.value)


def complete(paused: Paused) -> Response:
    """Answer to the end right here: slow models run in place.

    Raises
    ------
    NotReadyError
        A model is still loading.
    CoveyError
        What the rows or the model are guilty of.
    """
    answering, pause, _ = paused
    while True:
        if isinstance(pause, NotReadyError):
            raise pause
        if pause is not None:
            pause.run()
        try:
            pause = next(answering)
        except StopIteration as stop:
            return typing.cast("Response", stop.value)


def _answering(engine: Engine, ask: Ask) -> Answering:
    if ask.draw is not None:
        return (yield from _drawing(engine, ask, ask.draw))
    made = yield from _answers(engine, ask)
    if ask.is_one_arm and any(one.arm != made[0].arm for one in made):
        made = yield from _answers(engine, ask, is_substitute=True)
    return ask.say(made)


def _drawing(engine: Engine, ask: Ask, draw: Draw) -> Answering:
    """Ask the incumbent and the candidate; a list with an approximate answer in it compares nobody."""
    made = yield from _answers(engine, ask, arm=INCUMBENT)
    rival = yield from _answers(engine, ask, arm=draw.arm)
    if any(one.arm == draw.arm and one.source in APPROXIMATE for one in rival):
        engine.note_failed(ask.active, draw.arm, ask.event_s)
    elif all(one.arm == draw.arm for one in rival) and not any(one.source in APPROXIMATE for one in made):
        return draw.say(made, rival)
    return ask.say(made)


def _answers(
    engine: Engine, ask: Ask, *, arm: int | None = None, is_substitute: bool = False
) -> typing.Generator[Pause, None, list[Prediction]]:
    """Answer all rows; where an arm is named, up to the first row at which it fails."""
    made: list[Prediction] = []
    for i, row in enumerate(ask.rows):
        if i and i % TURN_ROWS == 0:
            yield None
        since_s, stands_in = time.perf_counter(), is_substitute
        unit = ask.active.unit_of(ask.unit)  # before the first try, so that a slow arm keeps its share
        answer: Prediction | None = None
        while answer is None:
            try:
                answer = engine.predict(
                    ask.active,
                    row,
                    unit=unit,
                    event_s=ask.event_s,
                    since_s=since_s,
                    arm=arm,
                    is_substitute=stands_in,
                )
            except (SlowModelError, NotReadyError) as wait:
                if wait.failed_arm and not stands_in:
                    engine.note_failed(ask.active, wait.failed_arm, ask.event_s)
                    stands_in = True
                if isinstance(wait, NotReadyError):
                    yield wait
                else:
                    yield wait.run
                    wait.run.offer()
            except DataError as err:
                raise _in_row(ask, i, err) from err
        made.append(answer)
        if answer.arm != answer.asked and arm is not None:
            break
    return made


def _in_row(ask: Ask, i: int, err: DataError) -> DataError:
    """Say in which row it is."""
    where = f"{ask.rows_are}[{i}].{err.field}" if ask.rows_are else err.field
    return DataError(err.message, field=where, fix=err.fix)


def finishing(engine: Engine, answers: typing.Sequence[Prediction]) -> Finishing:
    """Score other arms and record answers, with pauses; a `LimitError` thrown in leaves a slow arm out."""
    waiting = engine.waiting
    waiting.update((answer.nonce, answer) for answer in answers)
    try:
        for i, answer in enumerate(answers):
            if i and i % TURN_ROWS == 0:
                yield None
            while answer.nonce in waiting:  # else its outcome came meanwhile, and it was recorded before that
                try:
                    engine.finish(answer)
                except SlowModelError as slow:
                    yield from _score_apart(engine, answer, slow.run)
    finally:
        for answer in answers:
            engine.forget(answer)


def _score_apart(engine: Engine, answer: Prediction, run: SlowRun) -> Finishing:
    try:
        yield run
    except LimitError:
        if answer.nonce in engine.waiting:
            engine.finish(answer, score_other=False)
        return
    if answer.nonce in engine.waiting:
        run.offer()
