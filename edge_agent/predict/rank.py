"""Put candidates in order, best first, by the model's main score; each one that is shown gets a prediction id.

Where there are no candidates, the items of the model's own catalogue are meant: see `listed`.

While two versions are compared by interleaving, a list is drawn from the orders of both.
"""

from __future__ import annotations

import os
import typing

import msgspec

from edge_agent.interleave import coins, team_draft
from edge_agent.predict import replies
from edge_agent.predict.asking import Ask, Draw
from edge_agent.predict.engine import ActiveModel, Engine, Prediction
from edge_agent.predict.replies import MAX_ROWS, Response, Scalar
from edge_agent.records import INCUMBENT, Visited
from shared.errors import DataError, UsageError
from shared.telemetry import APPROXIMATE

Id = str | int


class RankRequest(msgspec.Struct, forbid_unknown_fields=True):
    """``POST /v1/rank``.

    Parameters
    ----------
    candidates : list, optional
        One row of features each; the catalogue that came with the model by default.
    context : mapping
        Features that all candidates share; where a candidate has its own value, that one counts.
    ids : list, optional
        What the caller calls the candidates, in their order; given back with them.
    top_k : int, optional
        How many will be shown; all of them by default.
    unit : str, optional
        Who the list is for; the same unit stays in the same arm.
    exclude : list, optional
        Ids of items of the catalogue that are left out.
    """

    candidates: typing.Annotated[list[dict[str, Scalar]], msgspec.Meta(max_length=MAX_ROWS)] | None = None
    context: dict[str, Scalar] = {}
    ids: list[Id] | None = None
    top_k: typing.Annotated[int, msgspec.Meta(ge=1)] | None = None
    model: str | None = None
    unit: str | None = None
    event_time: replies.Time = None
    exclude: typing.Annotated[list[Id], msgspec.Meta(max_length=MAX_ROWS)] = []


decoder = msgspec.json.Decoder(RankRequest)


def ask(engine: Engine, active: ActiveModel, request: RankRequest, event_s: float) -> Ask | Response:
    """Read what is to be put in order.

    All candidates of a list are scored by one arm, since scores of two models can not be compared; or by two arms, and
    then a list is drawn from their two orders. Only what is shown is recorded as answered: nobody can have chosen what
    nobody saw.

    Raises
    ------
    DataError
        There are not as many ids as candidates, or an id is there twice; or candidates are to be left out.
    UsageError
        The model has no score to go by.
    """
    if active.incumbent.manifest.task == "multiclass":
        raise UsageError(
            f"{active.entry.model} tells several classes apart and has no one score to go by",
            field="model",
            fix="Rank with a model of two classes or of a number.",
        )
    ids, candidates = request.ids, request.candidates or []
    if request.exclude:
        raise DataError("only items of a catalogue are left out", field="exclude", fix="Do not send those candidates.")
    if ids is not None:
        _check_ids(ids, len(candidates))
    if not candidates:
        return replies.ok({"model": active.entry.model, "ranked": []})
    context = request.context
    rows = [{**context, **candidate} for candidate in candidates] if context else candidates

    def say(made: list[Prediction]) -> Response:
        shown = [(i, made[i]) for i in _order(made)[: request.top_k]]
        if active.judges_lists and not any(one.source in APPROXIMATE for _, one in shown):
            nonce = engine.new_nonce()
            arm = shown[0][1].arm
            engine.visited(visited(active, arm, nonce, [one for _, one in shown], active.bundle(arm).version))
            return _say(active, ids, shown, {"visit": nonce.hex()})
        return _say(active, ids, shown)

    unit = request.unit or (os.urandom(8).hex() if active.share_bp or active.draw_bp else None)
    drawn_arm = active.arm_of(unit) if unit and active.draw_bp else INCUMBENT

    def say_drawn(made: list[Prediction], rival: list[Prediction]) -> Response:
        nonce = engine.new_nonce()
        picked = team_draft(_order(made), _order(rival), coins(nonce.hex()), request.top_k)
        shown = [(item, (made, rival)[team][item]) for item, team in picked]
        engine.visited(visited(active, drawn_arm, nonce, [one for _, one in shown]))
        return _say(active, ids, shown, {"visit": nonce.hex()})

    draw = Draw(drawn_arm, say_drawn) if drawn_arm else None
    return Ask(active, rows, unit, event_s, is_one_arm=True, say=say, rows_are="candidates", draw=draw)


def _order(made: list[Prediction]) -> list[int]:
    """Places by score, best first; equals stay in the order in which they came, whoever scored them."""
    return sorted(range(len(made)), key=lambda i: made[i].score, reverse=True)


def visited(active: ActiveModel, arm: int, nonce: bytes, shown: list[Prediction], version: str = "") -> Visited:
    """Say what is shown in which places; it closes before an outcome of either arm would be late."""
    windows = [active.bundle(one).manifest.label_window_s for one in (INCUMBENT, arm)]
    event_s = shown[0].event_s
    items = tuple((one.nonce, one.arm) for one in shown)
    return Visited(active.entry.model, active.epoch, arm, event_s, event_s + min(windows), nonce, items, version)


def _say(
    active: ActiveModel,
    ids: list[Id] | None,
    shown: list[tuple[int, Prediction]],
    more: dict[str, object] | None = None,
) -> Response:
    ranked = [describe(i, None if ids is None else ids[i], one) for i, one in shown]
    said = {"model": active.entry.model} | (more or {}) | {"ranked": ranked}
    return replies.ok(said, tuple(one for _, one in shown))


def _check_ids(ids: list[Id], n: int) -> None:
    if len(ids) != n:
        raise DataError(f"{len(ids)} ids for {n} candidates", field="ids", fix="Send one for each, or none.")
    seen: set[Id] = set()
    for i, one in enumerate(ids):
        if one in seen:
            raise DataError(f"{one!r:.60} is there twice", field=f"ids[{i}]")
        seen.add(one)


def describe(index: int, own_id: Id | None, made: Prediction) -> dict[str, object]:
    """Describe one place; it names its arm, since a list may be drawn from two."""
    said: dict[str, object] = {"index": index}
    if own_id is not None:
        said["id"] = own_id
    return said | {"score": made.score, **replies.parameters(made)}
