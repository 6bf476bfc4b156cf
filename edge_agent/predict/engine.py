"""Pick the arm, answer, and score the other arm after the reply; swap generations by one assignment."""

from __future__ import annotations

import os
import time
import typing

from edge_agent.generation import Generation, GenerationModel
from edge_agent.predict.apart import HOLDS_UP_S
from edge_agent.predict.loaded import ONNX, LoadedBundle, NotReadyError
from edge_agent.records import CANDIDATE, INCUMBENT, Answered, Failed, OutcomeSeen, Recorder
from shared import codec, experiment
from shared.errors import DataError, ModelError, NotFoundError, shown
from shared.features.encoder import check_columns
from shared.telemetry import APPROXIMATE
from shared.versions import parse_version

_NONCE_MODULUS = 1 << (8 * experiment.NONCE_BYTES)
Row = typing.Mapping[str, object]


class ActiveModel:
    """One model of the running generation, with its arms.

    Parameters
    ----------
    entry : GenerationModel
        What the channel said.
    bundles : mapping
        Version to the loaded bundle.
    device : str
        Decides whether this device takes part in the experiment.
    """

    def __init__(self, entry: GenerationModel, bundles: typing.Mapping[str, LoadedBundle], device: str) -> None:
        self.entry = entry
        self.incumbent = bundles[entry.incumbent]
        self.candidate = bundles[entry.candidate] if entry.candidate else None
        self.columns = frozenset[str]().union(*(bundle.encoder.columns for bundle in bundles.values()))
        trial = entry.experiment
        self.takes_part = bool(
            trial and self.candidate and experiment.in_stage(trial.salt, device, trial.device_share_bp)
        )
        self.epoch = trial.epoch if trial and self.takes_part else 0
        self.share_bp = trial.request_share_bp if trial and self.takes_part and trial.mode == "canary" else 0
        self.salt = trial.salt if trial else ""
        self.scores_other = bool(trial and self.takes_part and (trial.mode == "shadow" or trial.keep_pairs))
        self.tag = experiment.model_tag(entry.model)
        self.keeps_outputs = self.incumbent.manifest.task == "multiclass"

    def bundle(self, arm: int) -> LoadedBundle:
        """Return the bundle of an arm."""
        return self.candidate if arm == CANDIDATE and self.candidate else self.incumbent


class Prediction(typing.NamedTuple):
    """An answer, and what is needed to record it once the reply is out."""

    active: ActiveModel
    row: Row
    arm: int
    outputs: tuple[float, ...]
    source: int
    prediction_id: str
    nonce: bytes
    event_s: int
    latency_s: float
    fell_back: bool

    @property
    def bundle(self) -> LoadedBundle:
        """The bundle that answered."""
        return self.active.bundle(self.arm)

    @property
    def score(self) -> float:
        """The answer's main number: probability of the second class, or the value of a regression."""
        return main_score(self.outputs)


def main_score(outputs: tuple[float, ...]) -> float:
    """Probability of the second class for two classes, else the first output."""
    return outputs[1] if len(outputs) == 2 else outputs[0]  # noqa: PLR2004 - two classes


class Engine:
    """Everything that can answer on this device.

    Parameters
    ----------
    device : str
        The device's name.
    id_key : bytes
        Secret for prediction ids.
    record : callable
        Takes each record; called off the reply path.
    """

    def __init__(self, device: str, id_key: bytes, record: Recorder) -> None:
        self.device, self._id_key, self._record = device, id_key, record
        self._models: dict[str, ActiveModel] = {}
        self._tags: dict[int, str] = {}
        self._nonce = int.from_bytes(os.urandom(experiment.NONCE_BYTES), "little")
        self.generation = ""
        self.replay = False

    def activate(self, generation: Generation, models: typing.Mapping[str, ActiveModel]) -> None:
        """Swap to a generation that is loaded; requests before see the old one, requests after see the new one."""
        self._models = dict(models)
        self._tags |= {active.tag: name for name, active in models.items()}
        self.generation = generation.digest
        self.replay = generation.replay

    @property
    def models(self) -> typing.Mapping[str, ActiveModel]:
        """The models that run, by name."""
        return self._models

    def model(self, name: str | None) -> ActiveModel:
        """Look a model up; with a single model the name may be left out.

        Raises
        ------
        NotFoundError
            No such model, or several and no name.
        """
        if name is None and len(self._models) == 1:
            return next(iter(self._models.values()))
        active = self._models.get(name or "")
        if active is None:
            known = ", ".join(sorted(self._models)) or "none yet; is the device in sync?"
            raise NotFoundError(f"no model {name!r:.80} here", field="model", fix=f"Known are: {known}.")
        return active

    def predict(
        self,
        active: ActiveModel,
        row: Row,
        *,
        unit: str | None,
        event_s: float,
        since_s: float = 0.0,
        is_substitute: bool = False,
    ) -> Prediction:
        """Answer one row; call `finish` with the result once the reply is out.

        Parameters
        ----------
        unit : str, optional
            Who or what the answer is for; the same unit stays in the same arm. Each request is its own by default.
        since_s : float
            When it was asked for first (``time.perf_counter``), if this is not the first try.
        is_substitute : bool
            The incumbent is to answer in place of the candidate, which failed at another row of the request.

        Raises
        ------
        DataError
            The row is wrong.
        NotReadyError
            Try again when the model is loaded.
        ModelError
            No arm could answer.
        SlowModelError
            The answer takes a long run: see there.
        """
        start = since_s or time.perf_counter()
        check_columns(row, active.columns)
        self._nonce = (self._nonce + 1) % _NONCE_MODULUS
        nonce = self._nonce.to_bytes(experiment.NONCE_BYTES, "little")
        arm = experiment.pick_arm(active.salt, unit or nonce.hex(), active.share_bp) if active.share_bp else INCUMBENT
        asked = arm
        if is_substitute:
            asked, arm = CANDIDATE, INCUMBENT
        arm, (outputs, source) = self._answer(active, arm, row, int(event_s))
        version = active.bundle(arm).version
        prediction_id = experiment.PredictionId(
            active.tag, parse_version(version), arm, source, active.epoch, int(event_s), main_score(outputs), nonce
        ).seal(self._id_key)
        latency_s = time.perf_counter() - start
        return Prediction(
            active, row, arm, outputs, source, prediction_id, nonce, int(event_s), latency_s, arm != asked
        )

    def _answer(
        self, active: ActiveModel, arm: int, row: Row, event_s: int
    ) -> tuple[int, tuple[tuple[float, ...], int]]:
        """Answer from the arm; a candidate that fails is counted and the incumbent answers in its place."""
        try:
            return arm, active.bundle(arm).answer(row)
        except NotReadyError:
            raise
        except (ModelError, DataError) as err:
            if arm == INCUMBENT and isinstance(err, DataError):
                raise
            self._record(self._failed(active, arm, event_s, served=True))
            if arm == INCUMBENT:
                raise
        return INCUMBENT, active.incumbent.answer(row)

    def _failed(self, active: ActiveModel, arm: int, event_s: int, *, served: bool) -> Failed:
        return Failed(active.entry.model, active.bundle(arm).version, active.epoch, arm, served, event_s)

    def finish(self, prediction: Prediction, *, score_other: bool = True) -> None:
        """Score the other arm where the experiment asks for it, and record the answer.

        Raises
        ------
        SlowModelError
            Scoring the other arm takes a long run: see there. Nothing was recorded yet.
        """
        active, bundle = prediction.active, prediction.bundle
        other_version, other_outputs, other_source = self._score_other(prediction) if score_other else ("", (), 0)
        if prediction.latency_s > HOLDS_UP_S and prediction.source == ONNX:
            bundle.took_long(time.monotonic())
        self._record(
            Answered(
                active.entry.model,
                bundle.version,
                active.epoch,
                prediction.arm,
                prediction.source,
                prediction.event_s,
                int(prediction.latency_s * 1e6),
                prediction.latency_s > bundle.manifest.budgets.predict_s,
                prediction.nonce,
                prediction.outputs,
                active.keeps_outputs or bool(other_outputs),
                other_version,
                other_outputs,
                other_source,
            )
        )

    def _score_other(self, prediction: Prediction) -> tuple[str, tuple[float, ...], int]:
        """Ask the other arm: version (empty if it was not asked or failed), outputs, source."""
        active = prediction.active
        if not active.scores_other or prediction.fell_back:
            return "", (), 0
        arm = INCUMBENT if prediction.arm == CANDIDATE else CANDIDATE
        other = active.bundle(arm)
        try:
            outputs, source = other.answer(prediction.row)
        except NotReadyError:
            return "", (), 0  # it has not failed
        except (ModelError, DataError):
            self._record(self._failed(active, arm, prediction.event_s, served=False))
            return "", (), 0
        return other.version, () if source in APPROXIMATE else outputs, source

    def outcome(self, prediction_id: str, label: object, *, now_s: float) -> None:
        """Record the truth about an earlier answer, which arrived at the event time `now_s`.

        Raises
        ------
        DataError
            The id is not one of this device's, or the label is not one of the model's.
        """
        said = experiment.open_prediction_id(prediction_id, self._id_key)
        name = self._tags.get(said.model)
        if name is None:
            raise DataError("the answer came from a model that this device no longer knows", field="prediction_id")
        self._record(
            OutcomeSeen(
                name,
                str(said.version),
                said.epoch,
                said.arm,
                said.event_s,
                said.nonce,
                said.score,
                self._label(name, label),
                int(now_s),
                said.source,
            )
        )

    def _label(self, model: str, label: object) -> float:
        manifest = self.model(model).incumbent.manifest
        if manifest.task == "regression":
            if isinstance(label, bool) or not isinstance(label, int | float) or not abs(label) <= codec.MAX_FLOAT32:
                raise DataError(f"{shown(label)} is not a number", field="label", fix="Send the true value.")
            return float(label)
        for i, known in enumerate(manifest.classes):
            if label == known:
                return float(i)
        raise DataError(
            f"{shown(label)} is not a class", field="label", fix=f"Classes are {list(manifest.classes)!r:.200}."
        )

    def close(self) -> None:
        """Forget all models."""
        self._models = {}
