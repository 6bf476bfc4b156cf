"""The device's HTTP routes, without any socket: method, path, body and a few headers in, reply out.

What stands behind a route that many devices are never asked for is imported when it is.
"""

from __future__ import annotations

import typing

import msgspec

from edge_agent.predict import encodings, replies
from edge_agent.predict.asking import Ask, Asking, Paused, begin, complete
from edge_agent.predict.clock import EventClock
from edge_agent.predict.engine import ActiveModel, Engine, Prediction
from edge_agent.predict.loaded import NotReadyError
from edge_agent.predict.meters import Meters
from edge_agent.predict.replies import PLAIN, Response
from shared.clock import parse_time
from shared.errors import CoveyError, DataError, NotFoundError, UsageError, nearest

__all__ = ["Api", "EventClock", "Head", "documented"]

_FIXED = {
    "/v1/predict": "POST",
    "/v1/rank": "POST",
    "/v1/outcomes": "POST",
    "/v1/clock": "POST",
    "/": "GET",
    "/v1/status": "GET",
    "/metrics": "GET",
    "/v2": "GET",
    "/v2/health/live": "GET",
    "/v2/health/ready": "GET",
    "/v2/models/stats": "GET",
    "/v2/repository/index": "POST",
}
_OF_A_MODEL = {"": "GET", "ready": "GET", "stats": "GET", "infer": "POST"}
_OF_THE_REPOSITORY = ("load", "unload")
_MODELS, _REPOSITORY, _VERSIONS = "/v2/models/", "/v2/repository/models/", "versions"
_MAX_BODY_BYTES = 4 << 20


class Head(typing.NamedTuple):
    """Headers that say how to read a body, and how to write one."""

    header_length: bytes | None = None
    encoding: bytes = b""
    accepts: bytes = b""


_NO_HEAD = Head()
_predict_decoder = msgspec.json.Decoder(replies.PredictRequest)


def documented() -> set[str]:
    """Return every route as the reference heads its section."""
    model = f"{_MODELS}{{model}}"
    routes = {f"{method} {path}" for path, method in _FIXED.items()}
    routes |= {f"{method} {model}/{verb}".rstrip("/") for verb, method in _OF_A_MODEL.items()}
    return routes | {f"POST {_REPOSITORY}{{model}}/{verb}" for verb in _OF_THE_REPOSITORY}


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
    meters : Meters
        What was answered so far.
    gauges : callable
        Returns further numbers for ``GET /metrics``, by name; a server adds its own.
    max_body_bytes : int
        A compressed body is unpacked so far and no further.
    """

    def __init__(
        self,
        engine: Engine,
        clock: EventClock,
        status: typing.Callable[[], dict[str, object]],
        *,
        meters: Meters | None = None,
        gauges: typing.Callable[[], dict[str, float]] = dict,
        max_body_bytes: int = _MAX_BODY_BYTES,
    ) -> None:
        self.engine, self.clock, self._status = engine, clock, status
        self.meters = meters or Meters()
        self.gauges, self._max_body_bytes = [gauges], max_body_bytes
        self._handlers: dict[str, typing.Callable[[bytes], Ask | Asking | Response]] = {
            "/v1/predict": self._predict,
            "/v1/rank": self._rank,
            "/v1/outcomes": self._outcomes,
            "/v1/clock": self._clock,
            "/": self._say_status,
            "/v1/status": self._say_status,
            "/metrics": self._say_metrics,
            "/v2": self._say_server,
            "/v2/health/live": lambda _body: replies.ok(self._health()),
            "/v2/health/ready": self._say_ready,
            "/v2/models/stats": self._say_statistics,
            "/v2/repository/index": self._say_index,
        }

    def handle(self, method: str, path: str, body: bytes, head: Head = _NO_HEAD) -> Response:
        """Answer one request to the end, slow models in place; errors become replies.

        Raises
        ------
        NotReadyError
            A model is still loading.
        """
        said = self.start(method, path, body, head)
        if isinstance(said, Response):
            return said
        try:
            return complete(said)
        except NotReadyError:
            raise
        except CoveyError as err:
            return self.failed(err)

    def start(self, method: str, path: str, body: bytes, head: Head = _NO_HEAD) -> Response | Paused:
        """Answer one request as far as it goes without waiting; errors become replies."""
        try:
            if head.encoding:
                body = encodings.unpacked(body, head.encoding, self._max_body_bytes)
            said = self._route(method, path, body, head)
            return said if type(said) is Response else begin(self.engine, typing.cast("Ask | Asking", said))
        except CoveyError as err:
            return self.failed(err)

    def failed(self, err: CoveyError) -> Response:
        """Reply with an error, and count it."""
        self.meters.errors[err.code] += 1
        return replies.failed(err)

    def _route(self, method: str, path: str, body: bytes, head: Head) -> Ask | Asking | Response:
        wanted = _FIXED.get(path)
        if wanted is None:
            path = path.partition("?")[0]
            wanted = _FIXED.get(path)
        if wanted is None:
            return self._route_model(method, path, body, head)
        _need(method, wanted, path)
        return self._handlers[path](body)

    def _route_model(self, method: str, path: str, body: bytes, head: Head) -> Ask | Asking | Response:
        """Answer what is below a model's name, which may be percent-encoded."""
        from edge_agent.predict import metadata

        if path.startswith(_MODELS):
            name, *rest = path[len(_MODELS) :].split("/")
            version = ""
            if len(rest) > 1 and rest[0] == _VERSIONS and rest[1]:
                version, rest = _unquoted(rest[1]), rest[2:]
            verb = rest[0] if rest else ""
            wanted = _OF_A_MODEL.get(verb)
            if name and wanted and len(rest) < 2 and (verb or not rest):  # noqa: PLR2004 - one verb at the most
                active = self.engine.model(_unquoted(name))
                bundle = metadata.bundle_of(active, version)
                _need(method, wanted, verb or "a model")
                if verb == "infer":
                    from edge_agent.predict import infer

                    return infer.ask(active, body, head.header_length, self.clock.of_request)
                if verb == "ready":
                    ready = metadata.is_ready(bundle)
                    return replies.ok({"name": active.entry.model, "ready": ready}, status=200 if ready else 503)
                if verb == "stats":
                    of = metadata.statistics(self.meters, self.engine, active.entry.model, version)
                    return replies.ok(of)
                return replies.ok(metadata.model(active))
        elif path.startswith(_REPOSITORY):
            name, _, verb = path[len(_REPOSITORY) :].partition("/")
            if name and verb in _OF_THE_REPOSITORY:
                _need(method, "POST", verb)
                metadata.refuse_change(_unquoted(name), verb)
        near = nearest(path[:100], _FIXED)
        raise NotFoundError(f"no route {path[:100]!r}", field="path", fix=f"Did you mean {near}?" if near else "")

    def _health(self) -> dict[str, object]:
        """Liveness and readiness in one, since clients look for either in either reply."""
        from edge_agent.predict import metadata

        return {"live": True, "ready": metadata.is_all_ready(self.engine)}

    def _say_ready(self, _body: bytes) -> Response:
        health = self._health()
        return replies.ok(health, status=200 if health["ready"] else 503)

    def _say_status(self, _body: bytes) -> Response:
        return replies.ok(self._status())

    def _say_server(self, _body: bytes) -> Response:
        from edge_agent.predict import metadata

        return replies.ok(metadata.server())

    def _say_statistics(self, _body: bytes) -> Response:
        from edge_agent.predict import metadata

        return replies.ok(metadata.statistics(self.meters, self.engine))

    def _say_index(self, body: bytes) -> Response:
        from edge_agent.predict import metadata

        return metadata.index(self.engine, body)

    def _say_metrics(self, _body: bytes) -> Response:
        from edge_agent.predict import metrics

        numbers = {name: value for more in self.gauges for name, value in more().items()}
        text = metrics.render(metrics.gather(self.meters, self.engine, self._status(), numbers))
        return Response(200, text.encode(), kind=PLAIN)

    def _predict(self, body: bytes) -> Ask | Asking | Response:
        request = replies.read_with(_predict_decoder, body)
        if (request.features is None) == (request.rows is None):
            raise DataError("send either features (one row) or rows (many)", field="features")
        active = self.engine.model(request.model)
        event_s = self._event_s(active, request.event_time)
        if request.rows is None:
            return Ask(active, [request.features or {}], request.unit, event_s, False, _say_one, "")  # noqa: FBT003
        if not request.rows:
            return _say_many([])
        return Ask(active, request.rows, request.unit, event_s, is_one_arm=False, say=_say_many, rows_are="rows")

    def _rank(self, body: bytes) -> Ask | Asking | Response:
        from edge_agent.predict import listed, rank

        request = replies.read_with(rank.decoder, body)
        active = self.engine.model(request.model)
        event_s = self._event_s(active, request.event_time)
        if request.candidates is None:
            return listed.ask(self.engine, active, request, event_s, self.meters)
        return rank.ask(self.engine, active, request, event_s)

    def _event_s(self, active: ActiveModel, said: replies.Time) -> float:
        return self.clock.of_request(said, active.incumbent.manifest.label_window_s)

    def _outcomes(self, body: bytes) -> Response:
        request = replies.read(body, replies.OutcomesRequest)
        rejected: list[dict[str, object]] = []
        for i, item in enumerate(request.outcomes):
            try:
                now_s = self.clock.now()
                self.engine.outcome(item.prediction_id, item.label, now_s=now_s, numbers=item.numbers)
            except (DataError, NotFoundError) as err:
                rejected.append({"index": i, "error": str(err)})
        return replies.ok({"accepted": len(request.outcomes) - len(rejected), "rejected": rejected})

    def _clock(self, body: bytes) -> Response:
        self.clock.advance(parse_time(replies.read(body, replies.ClockRequest).event_time))
        return replies.ok({"event_time_s": self.clock.now()})


def _say_one(made: list[Prediction]) -> Response:
    return replies.ok(replies.describe(made[0]), tuple(made))


def _say_many(made: list[Prediction]) -> Response:
    return replies.ok({"predictions": [replies.describe(one) for one in made]}, tuple(made))


def _unquoted(text: str) -> str:
    if "%" not in text:
        return text
    from urllib.parse import unquote

    return unquote(text)


def _need(method: str, wanted: str, what: str) -> None:
    if method != wanted and (method, wanted) != ("HEAD", "GET"):
        raise UsageError(f"{method[:20]} does not fit {what[:100]}", field="method", fix=f"Use {wanted}.")
