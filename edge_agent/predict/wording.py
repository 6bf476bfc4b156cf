"""The reply of ``/v1/predict`` for one arm, with everything that is the same each time written beforehand."""

from __future__ import annotations

import typing

import msgspec

from edge_agent.records import ARM_NAMES
from shared.bundle import Manifest
from shared.telemetry import APPROXIMATE, SOURCES


class Wording:
    """Writes what ``replies.describe`` says, as JSON.

    Parameters
    ----------
    manifest : Manifest
        The version that answers.
    arm : int
        Which arm it is.
    """

    def __init__(self, manifest: Manifest, arm: int) -> None:
        self._task, self._threshold = manifest.task, manifest.threshold
        model = f'{{"model":{_json(manifest.model)},'
        self._heads = [f'{model}"label":{_json(label)},"probabilities":[' for label in manifest.classes]
        close = "]"
        if manifest.task == "regression":
            self._heads, close = [f'{model}"value":'], ""
        self._tails = [
            f'{close},"parameters":{{"arm":{_json(ARM_NAMES[arm])},"version":{_json(manifest.version)},'
            f'"source":{_json(source)},"prediction_id":"'
            for source in SOURCES
        ]
        self._ends = ['","approximate":true}}' if i in APPROXIMATE else '"}}' for i in range(len(SOURCES))]

    def __call__(self, outputs: tuple[float, ...], source: int, prediction_id: str) -> bytes:
        """Write a reply's body.

        Parameters
        ----------
        outputs : tuple of float
            Finite.
        source : int
            Index into ``shared.telemetry.SOURCES``.
        """
        if self._task == "binary":
            p, q = outputs
            said = f"{self._heads[q >= self._threshold]}{p!r},{q!r}"
        elif self._task == "regression":
            said = f"{self._heads[0]}{outputs[0]!r}"
        else:
            head = self._heads[max(range(len(outputs)), key=outputs.__getitem__)]
            said = head + ",".join(map(repr, outputs))
        return f"{said}{self._tails[source]}{prediction_id}{self._ends[source]}".encode()


def _json(value: typing.Any) -> str:  # noqa: ANN401 - a name or a label
    return msgspec.json.encode(value).decode()
