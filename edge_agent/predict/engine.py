"""Pick the arm, answer, and score the other arms after the reply; swap generations by one assignment."""

from __future__ import annotations

import itertools
import operator
import os
import time
import typing

from edge_agent.generation import Generation
from edge_agent.predict.active import ActiveModel, Prediction, Row, main_score
from edge_agent.predict.apart import HOLDS_UP_S, SlowModelError
from edge_agent.predict.labels import NO_LABEL, label_of
from edge_agent.predict.loaded import ONNX, PRECOMPUTED, NotReadyError
from edge_agent.predict.numbers import checked
from edge_agent.predict.parity import Parity
from edge_agent.records import INCUMBENT, Answered, Failed, NumbersSeen, OutcomeSeen, Recorder, Scored, Visited
from shared import experiment
from shared.errors import DataError, ModelError, NotFoundError, shown
from shared.features.compiled import Codes
from shared.features.encoder import check_columns
from shared.telemetry import APPROXIMATE

__all__ = ["ActiveModel", "Engine", "Prediction", "Row", "main_score"]
_outputs_of = operator.attrgetter("outputs")
_clock, _NONCE_BYTES = time.perf_counter, experiment.NONCE_BYTES
_NONCE_MASK = (1 << (8 * experiment.NONCE_BYTES)) - 1
_Answered = tuple[int, Codes, tuple[float, ...], int]


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
        self._sealer = experiment.Sealer(id_key)
        self._models: dict[str, ActiveModel] = {}
        self._only: ActiveModel | None = None  # where there is a single one
        self._tags: dict[int, str] = {}
        # A step of it is one call into C, so that several threads may ask at once.
        self._next_nonce = itertools.count(int.from_bytes(os.urandom(experiment.NONCE_BYTES), "big")).__next__
        self.parity = Parity()
        # Answers that are given and not recorded yet, while a slow arm is scored, by nonce.
        self.waiting: dict[bytes, Prediction] = {}
        self._scored: dict[bytes, dict[int, Scored | None]] = {}
        self.generation = ""
        self.replay = False

    def activate(self, generation: Generation, models: typing.Mapping[str, ActiveModel]) -> None:
        """Swap to a generation that is loaded; requests before see the old one, requests after see the new one."""
        for active in models.values():
            active.prepare(self._sealer)
        self._models = dict(models)
        self._only = next(iter(models.values())) if len(models) == 1 else None
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
        if name is None and self._only is not None:
            return self._only
        active = self._models.get(name) if isinstance(name, str) else None
        if active is None:
            known = ", ".join(sorted(self._models)) or "none yet; is the device in sync?"
            raise NotFoundError(f"no model {shown(name)} here", field="model", fix=f"Known are: {known}.")
        return active

    def predict(
        self,
        active: ActiveModel,
        row: Row,
        *,
        unit: str | None,
        event_s: float,
        since_s: float = 0.0,
        arm: int | None = None,
        is_substitute: bool = False,
    ) -> Prediction:
        """Answer one row; call `finish` with the result once the reply is out.

        Parameters
        ----------
        unit : str, optional
            Who or what the answer is for; the same unit stays in the same arm. Each request is its own by default.
        since_s : float
            When it was asked for first (``time.perf_counter``), if this is not the first try.
        arm : int, optional
            Who is asked, in place of the arm that the unit picks.
        is_substitute : bool
            The incumbent is to answer in place of that arm, which failed at another row of the request.

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
        start = since_s or _clock()
        try:
            is_known = row.keys() <= active.columns
        except AttributeError as err:
            raise DataError(f"{shown(row)} is no row", field="row", fix="Send features by name, {...}.") from err
        if not is_known:
            check_columns(row, active.columns)
        nonce = (self._next_nonce() & _NONCE_MASK).to_bytes(_NONCE_BYTES, "big")
        asked = arm
        if asked is None:
            asked = active.arm_of(unit or nonce.hex()) if active.share_bp else INCUMBENT
        at_s = int(event_s)
        arm = INCUMBENT if is_substitute else asked
        bundle = active.by_arm[arm]
        try:
            codes = bundle.code(row)
            outputs, source = bundle.answer_codes(codes)
        except (ModelError, DataError) as err:
            arm, codes, outputs, source = self._answer_instead(active, arm, row, at_s, err)
        score = outputs[len(outputs) == 2]  # noqa: PLR2004 - two classes: see main_score
        prediction_id = active.write_id[arm](arm, source, active.epoch, at_s, score, nonce)
        return Prediction(active, row, codes, arm, outputs, source, prediction_id, nonce, at_s, _clock() - start, asked)

    def new_nonce(self) -> bytes:
        """Bytes that this device has not used yet."""
        return (self._next_nonce() & _NONCE_MASK).to_bytes(experiment.NONCE_BYTES, "big")

    def visited(self, visit: Visited) -> None:
        """Record that a list is shown which was drawn from two arms."""
        self._record(visit)

    def _answer_instead(
        self, active: ActiveModel, arm: int, row: Row, event_s: int, failure: ModelError | DataError
    ) -> _Answered:
        """Count an arm that has failed; the incumbent answers in a candidate's place.

        Where the incumbent must be waited for, nothing is counted yet: whoever waits asks again with `is_substitute`.
        """
        if isinstance(failure, NotReadyError):
            raise failure
        if arm == INCUMBENT:
            if isinstance(failure, ModelError):
                self._record(self._failed(active, arm, event_s, served=True))
            raise failure
        try:
            codes = active.incumbent.code(row)
            answer = active.incumbent.answer_codes(codes)
        except (NotReadyError, SlowModelError) as wait:
            wait.failed_arm = arm
            raise
        except (ModelError, DataError) as err:
            if not (isinstance(err, DataError) and isinstance(failure, DataError)):  # a row that is wrong blames nobody
                self.note_failed(active, arm, event_s)
            raise
        self.note_failed(active, arm, event_s)
        return INCUMBENT, codes, *answer

    def note_failed(self, active: ActiveModel, arm: int, event_s: float) -> None:
        """Count a candidate that could not answer."""
        self._record(self._failed(active, arm, int(event_s), served=True))

    def _failed(self, active: ActiveModel, arm: int, event_s: int, *, served: bool) -> Failed:
        return Failed(active.entry.model, active.bundle(arm).version, active.epoch, arm, served, event_s)

    def finish(self, prediction: Prediction, *, score_other: bool = True) -> None:
        """Score the other arms where the experiment asks for it, and record the answer.

        Parameters
        ----------
        score_other : bool
            Otherwise arms that are not scored yet are left out.

        Raises
        ------
        SlowModelError
            Scoring another arm takes a long run: see there. The answer is not recorded yet.
        """
        active, arm, source = prediction.active, prediction.arm, prediction.source
        outputs, latency_s = prediction.outputs, prediction.latency_s
        others = self._score_others(prediction, score_rest=score_other) if active.scores_other else ()
        if self.waiting or self._scored:
            self.forget(prediction)
        if source == PRECOMPUTED:
            self.parity.look(active.by_arm[arm], prediction.codes, outputs)
        if latency_s > HOLDS_UP_S and source == ONNX:
            active.by_arm[arm].took_long(time.monotonic())
        model, version, epoch, budget_s = active.told[arm]
        latency_us, is_slow = int(latency_s * 1e6), latency_s > budget_s
        event_s, nonce = prediction.event_s, prediction.nonce
        keeps = active.keeps_outputs or (bool(others) and any(map(_outputs_of, others)))
        self._record(
            Answered(model, version, epoch, arm, source, event_s, latency_us, is_slow, nonce, outputs, keeps, others)
        )

    def forget(self, prediction: Prediction) -> None:
        """Forget an answer that was kept until it is recorded."""
        self.waiting.pop(prediction.nonce, None)
        self._scored.pop(prediction.nonce, None)

    def _score_others(self, prediction: Prediction, *, score_rest: bool) -> tuple[Scored, ...]:
        """Ask the arms that have not been asked; what was learned stays while one of them takes a long run."""
        beside = prediction.active.beside
        if score_rest and len(beside) == 2 and prediction.asked == prediction.arm:  # noqa: PLR2004 - nothing to keep
            one = self._score_other(prediction, beside[prediction.arm])
            return (one,) if one else ()
        scored = self._scored.get(prediction.nonce, {})
        if score_rest:
            not_these = prediction.arm, prediction.asked
            for arm in prediction.active.arms:
                if arm not in not_these and arm not in scored:
                    try:
                        scored[arm] = self._score_other(prediction, arm)
                    except SlowModelError:
                        self._scored[prediction.nonce] = scored
                        raise
        return tuple(filter(None, scored.values()))

    def _score_other(self, prediction: Prediction, arm: int) -> Scored | None:
        """Ask another arm; nothing if it failed or still loads."""
        active = prediction.active
        other = active.bundle(arm)
        try:
            codes = prediction.codes if active.one_encoding else other.code(prediction.row)
            outputs, source = other.answer_codes(codes)
        except NotReadyError:
            return None  # it has not failed
        except (ModelError, DataError):
            self._record(self._failed(active, arm, prediction.event_s, served=False))
            return None
        return Scored(arm, other.version, () if source in APPROXIMATE else outputs, source)

    def outcome(
        self,
        prediction_id: str,
        label: object = NO_LABEL,
        *,
        now_s: float,
        numbers: typing.Mapping[str, object] | None = None,
    ) -> None:
        """Record the truth about an earlier answer, or numbers, or both, which arrived at the event time `now_s`.

        Raises
        ------
        DataError
            The id is not one of this device's, the label is not one of the model's, or a number is none or unknown.
        """
        if numbers is not None and not isinstance(numbers, typing.Mapping):
            raise DataError(f"{shown(numbers)} is not numbers by name", field="numbers")
        said = experiment.open_prediction_id(prediction_id, self._id_key)
        name = self._tags.get(said.model)
        if name is None:
            raise DataError("the answer came from a model that this device no longer knows", field="prediction_id")
        about = name, str(said.version), said.epoch, said.arm, said.event_s, said.nonce
        seen: list[OutcomeSeen | NumbersSeen] = []
        if label is not NO_LABEL or not numbers:
            seen.append(
                OutcomeSeen(
                    *about, said.score, label_of(label, self.model(name).incumbent.manifest), int(now_s), said.source
                )
            )
        if numbers:
            known = (bundle.manifest for bundle in self.model(name).arms.values())
            seen.append(NumbersSeen(*about, int(now_s), checked(numbers, known)))
        answer = self.waiting.get(said.nonce)
        if answer is not None:  # its own record must come first; nobody waits for the other arm any more
            self.finish(answer, score_other=False)
        for one in seen:
            self._record(one)

    def close(self) -> None:
        """Forget all models."""
        self._models, self._only = {}, None
