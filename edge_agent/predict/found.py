"""Find the list of a context: one that was made beforehand, else the catalogue scored here, else the one over all.

The catalogue is scored by the model, if it is small enough for that. The list over all contexts is marked as
approximate and judges nobody. The answer order of the bundle decides who comes first, as it does for a row.
"""

from __future__ import annotations

import heapq
import time
import typing

from edge_agent.predict.apart import Outcome, SlowRun
from edge_agent.predict.asking import Pause
from edge_agent.predict.engine import ActiveModel, Engine
from edge_agent.predict.lists import LoadedLists, Placed
from edge_agent.predict.loaded import COARSE, ONNX, PRECOMPUTED, LoadedBundle, NotReadyError
from edge_agent.predict.meters import Meters
from edge_agent.predict.replies import MAX_ROWS
from edge_agent.predict.runtime import Runtime
from edge_agent.records import INCUMBENT
from shared.errors import DataError, ModelError
from shared.features.compiled import Codes
from shared.lists import ItemId
from shared.telemetry import APPROXIMATE

FIRST_ROWS = 4
TURN_S, SLOW_TURN_S = 0.003, 0.1  # others have their turn after so long; beside a thread they have it all the time
MOST_S = 2.0
Row = typing.Mapping[str, object]
T = typing.TypeVar("T")
Steps = typing.Generator[Pause, None, T]


class Found(typing.NamedTuple):
    """A list of one arm.

    Parameters
    ----------
    arm, asked : int
        Who gave it, and whose turn it was.
    codes : tuple of float
        Of the context.
    latency_s : float
        Time that the list took for each item that was looked at.
    """

    arm: int
    asked: int
    lists: LoadedLists
    codes: Codes
    source: int
    items: list[Placed]
    latency_s: float

    @property
    def ids(self) -> list[ItemId]:
        """What the business calls the items."""
        return [self.lists.ids[place] for place, _ in self.items]


class Question(typing.NamedTuple):
    """What is asked, of whom, and who is told."""

    engine: Engine
    active: ActiveModel
    context: Row
    exclude: frozenset[ItemId]
    event_s: float
    meters: Meters


def in_context(err: DataError) -> DataError:
    """Say of an error that the context has it."""
    return DataError(err.message, field=f"context.{err.field}", fix=err.fix)


def found_by(question: Question, asked: int) -> Steps[Found]:
    """Ask an arm; a candidate that fails is counted, and the incumbent answers in its place."""
    engine, active, event_s = question.engine, question.active, question.event_s
    try:
        return (yield from _of_arm(question, asked, asked))
    except NotReadyError:
        raise
    except (ModelError, DataError) as err:
        if asked == INCUMBENT:
            if isinstance(err, ModelError):
                engine.note_failed(active, asked, event_s)
            raise
        failure = err
    try:
        found = yield from _of_arm(question, INCUMBENT, asked)
    except (ModelError, DataError) as err:
        if not (isinstance(err, DataError) and isinstance(failure, DataError)):  # a wrong context blames nobody
            engine.note_failed(active, asked, event_s)
        raise
    engine.note_failed(active, asked, event_s)
    return found


def rival_of(question: Question, arm: int) -> Steps[Found | None]:
    """Ask the candidate that a list is drawn with; nothing where it fails, which is counted."""
    try:
        found = yield from _of_arm(question, arm, arm)
    except NotReadyError:
        raise
    except (ModelError, DataError):
        found = None
    if found is None or found.source in APPROXIMATE:
        question.engine.note_failed(question.active, arm, question.event_s)
        return None
    return found


def _of_arm(question: Question, arm: int, asked: int) -> Steps[Found]:
    bundle, started_s = question.active.bundle(arm), time.perf_counter()
    lists = bundle.lists
    if lists is None:
        raise ModelError("it brings no lists", field=f"{bundle.manifest.model}@{bundle.version}")
    try:
        codes = lists.code(question.context)
    except DataError as err:
        raise in_context(err) from err
    items, source, n_scored, ran_s = yield from _items(bundle, lists, codes, question.exclude)
    question.meters.take_list(bundle.manifest.model, bundle.version, source)
    took_s = ran_s if source == ONNX else time.perf_counter() - started_s
    return Found(arm, asked, lists, codes, source, items, took_s / max(n_scored, 1))


def _items(
    bundle: LoadedBundle, lists: LoadedLists, codes: Codes, exclude: frozenset[ItemId]
) -> Steps[tuple[list[Placed], int, int, float]]:
    """Return a list's items, where they come from, how many were looked at, and the seconds that a model took."""
    order = bundle.manifest.answer_order
    found = lists.find(codes) if order != "model_first" else None
    asks_model = order != "precomputed_only" and lists.says.n_items <= MAX_ROWS
    while found is None and asks_model:
        try:
            scores, ran_s = yield from _scores(bundle, lists, codes)
        except NotReadyError as wait:
            found = lists.find(codes)
            if found is None:
                yield wait
        except ModelError:
            break
        else:
            kept = (i for i in range(len(scores)) if lists.ids[i] not in exclude) if exclude else range(len(scores))
            best = heapq.nlargest(lists.says.length, kept, key=scores.__getitem__)  # equals stay as they are
            return [(i, scores[i]) for i in best], ONNX, len(scores), ran_s
    if found is None and order == "model_first":
        found = lists.find(codes)
    items, source = (lists.anyway(), COARSE) if found is None else (found, PRECOMPUTED)
    if exclude:
        items = [item for item in items if lists.ids[item[0]] not in exclude]
    return items, source, lists.says.length, 0.0


def _scores(bundle: LoadedBundle, lists: LoadedLists, codes: Codes) -> Steps[tuple[list[float], float]]:
    """Have the model score the catalogue, some items at a time; a slow one does it in a thread."""
    runtime = bundle.need_runtime()
    scores: list[float] = []
    ran_s, worked_s, n_items = 0.0, 0.0, lists.says.n_items
    while len(scores) < n_items:
        if scores:
            yield None
        turn_s = SLOW_TURN_S if bundle.is_slow else TURN_S
        n = max(1, int(turn_s / lists.item_s)) if lists.item_s else FIRST_ROWS
        n = min(n, runtime.rows_at_once, n_items - len(scores))
        started_s, cpu_s = time.perf_counter(), time.thread_time()
        vectors = lists.inputs(codes, len(scores), len(scores) + n)
        if bundle.is_slow:
            outputs, took_s = yield from _run_apart(runtime, vectors)
            lists.item_s = took_s / n
        else:
            outputs = runtime.run_apart(vectors, None)
            took_s = time.perf_counter() - started_s
            lists.item_s = (time.thread_time() - cpu_s) / n  # on a busy machine others work meanwhile
        scores += outputs[bundle.manifest.n_outputs - 1 :: bundle.manifest.n_outputs]
        ran_s, worked_s = ran_s + took_s, worked_s + n * lists.item_s
        if worked_s > MOST_S and len(scores) < n_items:
            raise ModelError(f"{len(scores):,} of {n_items:,} items took {worked_s:.1f} s", field="model")
    return scores, ran_s


def _run_apart(runtime: Runtime, vectors: bytes) -> Steps[tuple[tuple[float, ...], float]]:
    kept: list[tuple[Outcome, float]] = []
    run = SlowRun(runtime, vectors, lambda outcome, took_s: kept.append((outcome, took_s)))
    yield run
    run.offer()
    outcome, took_s = kept[0]
    if isinstance(outcome, ModelError):
        raise outcome
    return outcome, took_s
