"""Answer with the best items for a context, out of the catalogue that came with the model.

Who has them says `found`. Each item that is shown gets a prediction id, as a candidate does that the caller sent. While
two versions are compared by interleaving, a list is drawn from the lists of both.
"""

from __future__ import annotations

import os
import typing

from edge_agent.interleave import coins, team_draft
from edge_agent.predict import rank, replies
from edge_agent.predict.asking import Answering, Asking
from edge_agent.predict.engine import ActiveModel, Engine, Prediction
from edge_agent.predict.found import Found, Question, Row, found_by, in_context, rival_of
from edge_agent.predict.lists import LoadedLists, Placed
from edge_agent.predict.meters import Meters
from edge_agent.predict.replies import MAX_ROWS, Response
from edge_agent.records import INCUMBENT
from shared.errors import DataError, UsageError
from shared.features.encoder import check_columns
from shared.lists import ItemId
from shared.telemetry import APPROXIMATE


def ask(engine: Engine, active: ActiveModel, request: rank.RankRequest, event_s: float, meters: Meters) -> Asking:
    """Read what a list is wanted for.

    Raises
    ------
    DataError
        The context has a column that nobody reads, or that is an item's; or ids are there without candidates.
    UsageError
        No lists were made for this model.
    """
    lists = active.incumbent.lists
    if lists is None:
        raise UsageError(
            f"no lists were made for {active.entry.model}",
            field="candidates",
            fix="Send candidates, or have lists made: [models.NAME.lists] in covey.toml.",
        )
    if request.ids is not None:
        raise DataError("ids name candidates, and there are none", field="ids", fix="Send candidates with them.")
    _check_context(active, lists, request.context)
    question = Question(engine, active, request.context, frozenset(request.exclude), event_s, meters)
    unit = request.unit or (os.urandom(8).hex() if active.share_bp or active.draw_bp else None)
    answering = _answering(question, unit, request.top_k)
    return Asking(answering, lists.says.n_items if lists.says.n_items <= MAX_ROWS else 1)


def _check_context(active: ActiveModel, lists: LoadedLists, context: Row) -> None:
    own = sorted(context.keys() & lists.own)
    if own:
        raise DataError(
            "it is an item's own, and comes from the catalogue",
            field=f"context.{own[0]:.60}",
            fix="Leave it out, or send candidates.",
        )
    try:
        check_columns(context, active.columns)
    except DataError as err:
        raise in_context(err) from err


def _answering(question: Question, unit: str | None, top_k: int | None) -> Answering:
    active = question.active
    drawn = active.arm_of(unit) if unit and active.draw_bp else INCUMBENT
    asked = active.arm_of(unit) if unit and active.share_bp else INCUMBENT
    found = yield from found_by(question, asked)
    rival = (yield from rival_of(question, drawn)) if drawn else None
    if rival is not None and found.source not in APPROXIMATE:
        return _say_drawn(question, found, rival, drawn, top_k)
    shown = [(item, _shown(question, found, item)) for item in found.items[:top_k]]
    more: dict[str, object] = {}
    if active.judges_lists and shown and found.source not in APPROXIMATE:
        nonce = question.engine.new_nonce()
        made = [one for _, one in shown]
        question.engine.visited(rank.visited(active, found.arm, nonce, made, active.bundle(found.arm).version))
        more["visit"] = nonce.hex()
    return _say(active, [(found, item, one) for item, one in shown], more)


def _say_drawn(question: Question, found: Found, rival: Found, arm: int, top_k: int | None) -> Response:
    """Draw one list from two, item by item as the business calls them: the same place is not the same item in both.

    Of two lists no more can be drawn than the shorter one has, and up to there it is drawn as from the whole orders.
    """
    sides = found, rival
    numbers: dict[ItemId, int] = {}
    orders = [[numbers.setdefault(name, len(numbers)) for name in side.ids] for side in sides]
    n = min(len(found.items), len(rival.items), len(found.items) if top_k is None else top_k)
    nonce = question.engine.new_nonce()
    places = [{number: i for i, number in enumerate(order)} for order in orders]
    drawn = []
    for number, team in team_draft(orders[0], orders[1], coins(nonce.hex()), n):
        item = sides[team].items[places[team][number]]
        drawn.append((sides[team], item, _shown(question, sides[team], item)))
    if not drawn:
        return _say(question.active, [], {})
    question.engine.visited(rank.visited(question.active, arm, nonce, [one for _, _, one in drawn]))
    return _say(question.active, drawn, {"visit": nonce.hex()})


def _say(
    active: ActiveModel, shown: list[tuple[Found, Placed, Prediction]], more: typing.Mapping[str, object]
) -> Response:
    ranked = [rank.describe(item[0], found.lists.ids[item[0]], one) for found, item, one in shown]
    return replies.ok({"model": active.entry.model, **more, "ranked": ranked}, tuple(one for _, _, one in shown))


def _shown(question: Question, found: Found, item: Placed) -> Prediction:
    """Return an item of a list as an answer, which outcomes can join and other arms can score."""
    active, arm, (place, score) = question.active, found.arm, item
    nonce, at_s = question.engine.new_nonce(), int(question.event_s)
    written = active.write_id[arm](arm, found.source, active.epoch, at_s, score, nonce)
    outputs = (score,) if active.bundle(arm).manifest.task == "regression" else (1.0 - score, score)
    row = question.context
    if active.scores_other and not active.one_encoding:
        row = {**_of_others(active, found, place), **found.lists.row(place), **row}
    codes = found.lists.codes(found.codes, place)
    return Prediction(
        active, row, codes, arm, outputs, found.source, written, nonce, at_s, found.latency_s, found.asked
    )


def _of_others(active: ActiveModel, found: Found, place: int) -> dict[str, object]:
    """Return what other arms know of an item: they may read columns that the answering arm's catalogue lacks."""
    values: dict[str, object] = {}
    for lists in (bundle.lists for bundle in active.arms.values()):
        other = lists.places.get(found.lists.ids[place]) if lists else None
        if lists is not None and other is not None:
            values |= lists.row(other)
    return values
