"""Put candidates in order, best first, by the model's main score; each one that is shown gets a prediction id."""

from __future__ import annotations

import os
import typing

import msgspec

from edge_agent.predict import replies
from edge_agent.predict.asking import Ask
from edge_agent.predict.engine import ActiveModel, Prediction
from edge_agent.predict.replies import MAX_ROWS, Response, Scalar
from shared.errors import DataError, UsageError

Id = str | int


class RankRequest(msgspec.Struct, forbid_unknown_fields=True):
    """``POST /v1/rank``.

    Parameters
    ----------
    candidates : list
        One row of features each.
    context : mapping
        Features that all candidates share; where a candidate has its own value, that one counts.
    ids : list, optional
        What the caller calls the candidates, in their order; given back with them.
    top_k : int, optional
        How many will be shown; all of them by default.
    unit : str, optional
        Who the list is for; the same unit stays in the same arm.
    """

    candidates: typing.Annotated[list[dict[str, Scalar]], msgspec.Meta(max_length=MAX_ROWS)]
    context: dict[str, Scalar] = {}
    ids: list[Id] | None = None
    top_k: typing.Annotated[int, msgspec.Meta(ge=1)] | None = None
    model: str | None = None
    unit: str | None = None
    event_time: replies.Time = None


decode = msgspec.json.Decoder(RankRequest).decode


def ask(active: ActiveModel, request: RankRequest, event_s: float) -> Ask | Response:
    """Read what is to be put in order.

    All candidates of a list are scored by one arm, since scores of two models can not be compared. Only what is shown
    is recorded as answered: nobody can have chosen what nobody saw.

    Raises
    ------
    DataError
        There are not as many ids as candidates, or an id is there twice.
    UsageError
        The model has no score to go by.
    """
    if active.incumbent.manifest.task == "multiclass":
        raise UsageError(
            f"{active.entry.model} tells several classes apart and has no one score to go by",
            field="model",
            fix="Rank with a model of two classes or of a number.",
        )
    ids = request.ids
    if ids is not None:
        _check_ids(ids, len(request.candidates))
    if not request.candidates:
        return replies.ok({"model": active.entry.model, "ranked": []})
    context = request.context
    rows = [{**context, **candidate} for candidate in request.candidates] if context else request.candidates

    def say(made: list[Prediction]) -> Response:
        order = sorted(range(len(made)), key=lambda i: made[i].score, reverse=True)[: request.top_k]
        shown = [made[i] for i in order]
        ranked = [_describe(i, None if ids is None else ids[i], made[i]) for i in order]
        return replies.ok({"model": active.entry.model, "ranked": ranked}, tuple(shown))

    unit = request.unit or (os.urandom(8).hex() if active.share_bp else None)
    return Ask(active, rows, unit, event_s, is_one_arm=True, say=say, rows_are="candidates")


def _check_ids(ids: list[Id], n: int) -> None:
    if len(ids) != n:
        raise DataError(f"{len(ids)} ids for {n} candidates", field="ids", fix="Send one for each, or none.")
    seen: set[Id] = set()
    for i, one in enumerate(ids):
        if one in seen:
            raise DataError(f"{one!r:.60} is there twice", field=f"ids[{i}]")
        seen.add(one)


def _describe(index: int, own_id: Id | None, made: Prediction) -> dict[str, object]:
    """Describe one place; it names its arm, since a list may one day be drawn from two."""
    said: dict[str, object] = {"index": index}
    if own_id is not None:
        said["id"] = own_id
    return said | {"score": made.score, **replies.parameters(made)}
