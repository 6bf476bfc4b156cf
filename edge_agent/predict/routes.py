"""The device's HTTP routes, without any socket: method, path and body in, reply out."""

from __future__ import annotations

import functools
import re
import time
import typing
import urllib.parse

import msgspec

from edge_agent.predict import infer, replies
from edge_agent.predict.apart import in_place
from edge_agent.predict.engine import ActiveModel, Engine, Prediction
from edge_agent.predict.replies import Response
from shared import __version__
from shared.clock import clamp_event_time, parse_time
from shared.errors import ConflictError, CoveyError, DataError, NotFoundError, UsageError

_MODEL = re.compile(r"/v2/models/([^/]+)(?:/versions/([^/]+))?(/ready|/infer)?")
_POSTS = ("/v1/predict", "/v1/outcomes", "/v1/clock")
_GETS = ("/", "/v1/status", "/v2", "/v2/health/live", "/v2/health/ready")
EXTENSIONS: list[str] = []


class EventClock:
    """The time at which things happen out there: now, or in a replay what the signed channel lets requests say."""

    def __init__(self, wall: typing.Callable[[], float] = time.time) -> None:
        self._wall = wall
        self._replayed_s = 0.0
        self.replay = False

    def now(self) -> float:
        """Event time, seconds since 1970."""
        return self._replayed_s if self.replay else self._wall()

    def advance(self, event_s: float) -> None:
        """Move on in a replay; never back.

        Raises
        ------
        ConflictError
            The channel does not say that this is a replay.
        """
        if not self.replay:
            raise ConflictError("the clock can be set during a replay only", fix="Set replay = true in covey.toml.")
        self._replayed_s = max(self._replayed_s, event_s)

    def of_request(self, said: str | float | None, label_window_s: float) -> float:
        """Event time of a request: what it says, kept within reason outside a replay."""
        if said is None:
            return self.now()
        event_s = parse_time(said)
        return event_s if self.replay else clamp_event_time(event_s, self._wall(), label_window_s)


class Api:
    """The routes.

    Parameters
    ----------
    engine : Engine
        Answers.
    clock : EventClock
        Knows the event time.
    status : callable
        Returns what ``GET /v1/status`` shows.
    """

    def __init__(self, engine: Engine, clock: EventClock, status: typing.Callable[[], dict[str, object]]) -> None:
        self.engine, self.clock, self._status = engine, clock, status

    def handle(self, method: str, path: str, body: bytes) -> Response:
        """Answer one request; errors become replies, except `NotReadyError`, which asks to be called again.

        Raises
        ------
        NotReadyError
            A model is still loading.
        """
        try:
            return self._route(method, path, body)
        except infer.NotReadyError:
            raise
        except CoveyError as err:
            return replies.failed(err)

    def _route(self, method: str, path: str, body: bytes) -> Response:
        path = path.split("?", 1)[0]
        if method == "POST" and path in _POSTS:
            return {"/v1/predict": self._predict, "/v1/outcomes": self._outcomes, "/v1/clock": self._clock}[path](body)
        if method == "GET" and path in _GETS:
            return self._get(path)
        match = _MODEL.fullmatch(path)
        if match:
            model, version, verb = (urllib.parse.unquote(part or "") for part in match.groups())
            return self._model(method, model, version, verb, body)
        if path in (*_POSTS, *_GETS):
            raise UsageError(
                f"{method[:20]} does not fit {path}", field="method", fix="See the reference of the device's API."
            )
        raise NotFoundError(f"no route {path[:100]!r}", field="path")

    def _get(self, path: str) -> Response:
        if path == "/v2":
            return replies.ok({"name": "covey-edge", "version": __version__, "extensions": EXTENSIONS})
        if path == "/v2/health/live":
            return replies.ok({"live": True, "ready": self._is_ready()})
        if path == "/v2/health/ready":
            ready = self._is_ready()
            body = msgspec.json.encode({"live": True, "ready": ready})
            return Response(200 if ready else 503, body)
        return replies.ok(self._status())

    def _is_ready(self) -> bool:
        return bool(self.engine.models) and all(
            active.incumbent.is_loaded.is_set() for active in self.engine.models.values()
        )

    def _predict(self, body: bytes) -> Response:
        request = replies.read(body, replies.PredictRequest)
        if (request.features is None) == (request.rows is None):
            raise DataError("send either features (one row) or rows (many)", field="features")
        active = self.engine.model(request.model)
        rows = [request.features or {}] if request.rows is None else request.rows
        made = self.answer(active, rows, request.unit, request.event_time)
        if request.rows is None:
            return replies.ok(replies.describe(made[0]), tuple(made))
        return replies.ok({"predictions": [replies.describe(one) for one in made]}, tuple(made))

    def answer(
        self,
        active: ActiveModel,
        rows: typing.Sequence[typing.Mapping[str, object]],
        unit: str | None,
        said: replies.Time,
    ) -> list[Prediction]:
        """Answer rows; an error names the row if there are several."""
        event_s = self.clock.of_request(said, active.incumbent.manifest.label_window_s)
        made: list[Prediction] = []
        for i, row in enumerate(rows):
            try:
                ask = functools.partial(self.engine.predict, active, row, unit=unit, event_s=event_s)
                made.append(in_place(ask))
            except DataError as err:
                where = f"rows[{i}].{err.field}" if len(rows) > 1 else err.field
                raise DataError(err.message, field=where, fix=err.fix) from err
        return made

    def _outcomes(self, body: bytes) -> Response:
        request = replies.read(body, replies.OutcomesRequest)
        rejected: list[dict[str, object]] = []
        for i, item in enumerate(request.outcomes):
            try:
                self.engine.outcome(item.prediction_id, item.label, now_s=self.clock.now())
            except (DataError, NotFoundError) as err:
                rejected.append({"index": i, "error": str(err)})
        return replies.ok({"accepted": len(request.outcomes) - len(rejected), "rejected": rejected})

    def _clock(self, body: bytes) -> Response:
        self.clock.advance(parse_time(replies.read(body, replies.ClockRequest).event_time))
        return replies.ok({"event_time_s": self.clock.now()})

    def _model(self, method: str, model: str, version: str, verb: str, body: bytes) -> Response:
        active = self.engine.model(model)
        known = active.entry.versions
        if version and version not in known:
            raise NotFoundError(
                f"no version {version[:40]!r} of {model}", field="version", fix=f"Here are {', '.join(known)}."
            )
        if verb == "/infer":
            if method != "POST":
                raise UsageError(f"{method[:20]} does not fit infer", field="method", fix="Use POST.")
            return infer.infer(self, active, version, body)
        if method != "GET":
            raise UsageError(f"{method[:20]} does not fit a model", field="method", fix="Use GET.")
        if verb == "/ready":
            loaded = active.incumbent.is_loaded.is_set()
            return Response(200 if loaded else 503, msgspec.json.encode({"name": model, "ready": loaded}))
        return replies.ok(infer.metadata(active))
