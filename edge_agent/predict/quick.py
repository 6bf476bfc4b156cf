"""The short way for what nearly all requests are: a head that has come before, and one row for ``/v1/predict``.

A head that the HTTP parser has read once means the same when the same bytes come again, and where a body of the length
it names follows, and nothing else, that is one whole request. Everything else goes the long way, which also explains
what is wrong with it; nothing is recorded before it is clear which way a request goes.
"""

from __future__ import annotations

import typing

import msgspec

from edge_agent.predict import wire
from edge_agent.predict.apart import SlowModelError
from edge_agent.predict.engine import Engine, Prediction
from edge_agent.predict.loaded import NotReadyError
from edge_agent.predict.replies import PredictRequest
from shared.errors import CoveyError, NotFoundError

if typing.TYPE_CHECKING:
    from edge_agent.predict.routes import Head

PATH = "/v1/predict"
_END = b"\r\n\r\n"
_MAX_HEADS, _MAX_HEAD_BYTES = 128, 2048
_NOT_JSON = (msgspec.DecodeError, UnicodeDecodeError, RecursionError, ValueError)
_decode = msgspec.json.Decoder(PredictRequest).decode


class Quick:
    """Answers plain requests.

    Parameters
    ----------
    engine : Engine
        Answers.
    now : callable
        Event time.
    """

    def __init__(self, engine: Engine, now: typing.Callable[[], float]) -> None:
        self._engine, self._now = engine, now
        self._heads: dict[bytes, tuple[int, str, Head]] = {}

    def learn(self, data: bytes, path: str, body: bytes, head: Head) -> None:
        """Remember the head of a request that the parser has read.

        Parameters
        ----------
        data : bytes
            All that came: one POST, on a connection that stays, whose body is as it came.
        path, body, head : str, bytes, Head
            What the parser found in it.
        """
        end = data.find(_END) + len(_END)
        if end < len(_END) or end > _MAX_HEAD_BYTES or data[end:] != body:
            return
        if len(self._heads) >= _MAX_HEADS:
            self._heads.clear()
        self._heads[data[:end]] = len(body), path, head

    def find(self, data: bytes) -> tuple[str, bytes, Head] | None:
        """Return path, body and headers of a whole request with a head that was learned; None says to go the long way.

        Parameters
        ----------
        data : bytes
            All that came, and nothing is left of what came before.
        """
        end = data.find(_END) + len(_END)
        known = self._heads.get(data[:end])
        if known is None or known[0] != len(data) - end:
            return None
        return known[1], data[end:], known[2]

    def answer(self, body: bytes) -> tuple[bytes, Prediction] | CoveyError | None:
        """Answer what was posted to `PATH`: the reply with what to record, or what is wrong; None is no answer."""
        try:
            asked = _decode(body)
        except _NOT_JSON:
            return None
        if asked.features is None or asked.rows is not None or asked.event_time is not None:
            return None
        engine = self._engine
        try:
            active = engine.model(asked.model)
            if active.share_bp and not asked.unit and not active.is_prompt:
                return None  # asked again it would draw again, and arms that are waited for would lose their share
            made = engine.predict(active, asked.features, unit=asked.unit, event_s=self._now())
        except (NotFoundError, NotReadyError, SlowModelError):
            return None
        except CoveyError as err:
            return err
        body = active.wordings[made.arm](made.outputs, made.source, made.prediction_id)
        return wire.OK % (len(body), body), made
