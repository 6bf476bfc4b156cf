"""Answers and lists as a Python program is given them, which asks without HTTP."""

from __future__ import annotations

import typing

import msgspec

from edge_agent.predict import listed, rank
from edge_agent.predict.asking import begin, complete
from edge_agent.predict.engine import ActiveModel, Engine, Prediction
from edge_agent.predict.meters import Meters
from edge_agent.predict.replies import Response, label_index
from edge_agent.records import ARM_NAMES
from shared.errors import DataError, shown
from shared.telemetry import APPROXIMATE, SOURCES


class Answer(msgspec.Struct, frozen=True, gc=False):
    """An answer, as ``POST /v1/predict`` gives it."""

    made: Prediction

    @property
    def outputs(self) -> tuple[float, ...]:
        """Probabilities in the order of the model's classes; of a regression the value."""
        return self.made.outputs

    @property
    def prediction_id(self) -> str:
        """Names the answer when its outcome is known."""
        return self.made.prediction_id

    @property
    def label(self) -> str | int | bool | None:
        """The class that is answered; None of a regression."""
        classes = self.made.bundle.manifest.classes
        return classes[label_index(self.made)] if classes else None

    @property
    def value(self) -> float:
        """Probability of the second of two classes, value of a regression, else the first class' probability."""
        return self.made.score

    @property
    def version(self) -> str:
        """The version that answered."""
        return self.made.bundle.version

    @property
    def arm(self) -> str:
        """Who that was: ``incumbent``, ``candidate``, or a further candidate, ``candidate-2`` and so on."""
        return ARM_NAMES[self.made.arm]

    @property
    def source(self) -> str:
        """Where the answer came from: ``precomputed``, ``onnx``, ``coarse`` or ``default``."""
        return SOURCES[self.made.source]

    @property
    def is_approximate(self) -> bool:
        """Whether it is a coarser answer than the model's, which judges nobody."""
        return self.made.source in APPROXIMATE

    def __repr__(self) -> str:
        return f"Answer(outputs={self.outputs}, version={self.version!r}, arm={self.arm!r}, source={self.source!r})"


class Ranked(msgspec.Struct, frozen=True, gc=False):
    """A place of a list.

    Parameters
    ----------
    index : int
        Which of the candidates it is, or which item of the catalogue.
    id : str or int, optional
        What the caller, or the catalogue, calls it.
    answer : Answer
        What the model says of it; its prediction id takes the outcome.
    """

    index: int
    id: str | int | None
    answer: Answer


def request_of(fields: typing.Mapping[str, object]) -> rank.RankRequest:
    """Read what is to be ranked.

    Raises
    ------
    DataError
        A field is unknown or of the wrong kind.
    """
    said = {name: value for name, value in fields.items() if value is not None}
    try:
        return msgspec.convert(said, rank.RankRequest)
    except msgspec.ValidationError as err:
        message, _, path = str(err).partition(" - at `$")
        raise DataError(message[:1].lower() + message[1:], field=path.rstrip("`").lstrip(".") or "rank") from err
    except (AttributeError, TypeError, ValueError) as err:  # what only looks like a mapping; text that is none
        for name, value in said.items() if len(said) > 1 else ():
            request_of({name: value})
        raise DataError(f"{shown(next(iter(said.values())))} can not be read", field=next(iter(said))) from err


def rank_here(
    engine: Engine, active: ActiveModel, request: rank.RankRequest, event_s: float, meters: Meters
) -> list[Ranked]:
    """Answer to the end, slow models in place; nothing is recorded yet but what failed.

    Raises
    ------
    NotReadyError
        Try again when the model is loaded.
    CoveyError
        What the request or the model are guilty of.
    """
    try:
        if request.candidates is None:
            begun = begin(engine, listed.ask(engine, active, request, event_s, meters))
        else:
            asked = rank.ask(engine, active, request, event_s)
            begun = asked if isinstance(asked, Response) else begin(engine, asked)
        reply = begun if isinstance(begun, Response) else complete(begun)
    except UnicodeEncodeError as err:
        raise DataError(f"{shown(err.object)} is not UTF-8 text", field="ids", fix="Call them something else.") from err
    places = msgspec.json.decode(reply.body)["ranked"]
    return [
        Ranked(place["index"], place.get("id"), Answer(made)) for place, made in zip(places, reply.after, strict=True)
    ]
