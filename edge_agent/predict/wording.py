"""The reply of ``/v1/predict`` for one arm, with everything that is the same each time written beforehand."""

from __future__ import annotations

import msgspec

from edge_agent.records import ARM_NAMES
from shared.bundle import Manifest
from shared.telemetry import APPROXIMATE, SOURCES

_json = msgspec.json.Encoder().encode


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
        model = b'{"model":%b,' % _json(manifest.model)
        self._heads = [b'%b"label":%b,"probabilities":' % (model, _json(label)) for label in manifest.classes]
        if manifest.task == "regression":
            self._heads = [b'%b"value":' % model]
        said = b',"parameters":{"arm":%b,"version":%b,' % (_json(ARM_NAMES[arm]), _json(manifest.version))
        self._tails = [b'%b"source":%b,"prediction_id":"' % (said, _json(source)) for source in SOURCES]
        self._ends = [b'","approximate":true}}' if i in APPROXIMATE else b'"}}' for i in range(len(SOURCES))]

    def __call__(self, outputs: tuple[float, ...], source: int, prediction_id: str) -> bytes:
        """Write a reply's body.

        Parameters
        ----------
        outputs : tuple of float
            Finite.
        source : int
            Index into ``shared.telemetry.SOURCES``.
        """
        numbers: object = outputs
        if self._task == "binary":
            head = self._heads[outputs[1] >= self._threshold]
        elif self._task == "regression":
            head, numbers = self._heads[0], outputs[0]
        else:
            head = self._heads[max(range(len(outputs)), key=outputs.__getitem__)]
        return b"".join((head, _json(numbers), self._tails[source], prediction_id.encode(), self._ends[source]))
