"""One bundle, ready to answer: encoder, precomputed table, model, and the order in which they are asked."""

from __future__ import annotations

import functools
import math
import pathlib
import threading
import typing

from edge_agent.predict.apart import SLOW_S, Outcome, SlowModelError, SlowRun, fastest_s
from edge_agent.predict.runtime import Runtime, resident_bytes
from edge_agent.predict.tables import open_lists, open_table
from shared import codec
from shared.bundle import COARSE_FILE, FEATURES_FILE, GOLDEN_FILE, MODEL_FILE, TABLE_FILE, Golden, Manifest
from shared.errors import DataError, ModelError, TrustError
from shared.features import Encoder, FeatureSet
from shared.features.compiled import Codes
from shared.telemetry import SOURCES

PRECOMPUTED, ONNX, COARSE, DEFAULT = range(len(SOURCES))
Answer = tuple[tuple[float, ...], int]
_QUICK_RUNS = 5
_LONG_ANSWERS, _LONG_WINDOW_S = 3, 10.0


class NotReadyError(ModelError):
    """The model is still loading; the answer is not in the table."""

    code = "loading"
    failed_arm = 0  # the candidate in whose place the incumbent is asked
    bundle: LoadedBundle | None = None


class NoAnswerError(ModelError):
    """The table does not know the row, and nothing else is there to answer it."""

    code = "no-answer"
    retry = False


class LoadedBundle:
    """A version that can answer.

    Parameters
    ----------
    folder : Path
        The version's folder in a generation.
    manifest : Manifest
        Already verified.

    Raises
    ------
    WireError, TrustError
        A file is not what the manifest says.
    """

    def __init__(self, folder: pathlib.Path, manifest: Manifest) -> None:
        self.manifest = manifest
        self.version = manifest.version
        self.folder = folder
        feature_set = codec.from_json((folder / FEATURES_FILE).read_bytes(), FeatureSet, limit_bytes=64 << 20)
        if feature_set.digest != manifest.features_sha256:
            raise TrustError(
                "the feature set is not the one of the manifest", field=f"{manifest.model} {FEATURES_FILE}"
            )
        self.encoder = Encoder(feature_set)
        self.table = open_table(folder, manifest, TABLE_FILE, manifest.n_outputs)
        self.coarse = open_table(folder, manifest, COARSE_FILE, manifest.n_outputs)
        self.lists = open_lists(folder, manifest, self.encoder)
        self._coarse_key = self.encoder.coarse_key(manifest.coarse)
        self._runtime: Runtime | None = None
        self._error = ""
        self.is_loaded = threading.Event()
        self.is_slow = self.is_parked = self.is_wanted = False
        self.size_bytes = 0
        self._done: dict[bytes, Outcome] = {}
        self._n_quick = 0
        self._long_s: list[float] = []
        best = {
            "precomputed_first": (self._from_table, self._from_model),
            "model_first": (self._from_model, self._from_table),
            "precomputed_only": (self._from_table,),
        }[manifest.answer_order]
        # What every answer needs, at hand.
        self.code, self._key, self._packed = self.encoder.code, self.encoder.key, self.encoder.packed
        self._find_first = self.table.get if self.table and manifest.answer_order != "model_first" else None
        self._ask = (*best, self._from_coarse, self._from_default)
        self._ask_but_the_model = tuple(ask for ask in self._ask if ask != self._from_model)

    def admit_model(self) -> None:
        """Look into the model's file before a runtime does.

        Raises
        ------
        ModelError
            It holds what the device does not run.
        """
        from shared.admission import check_model

        if self.manifest.file(MODEL_FILE):
            data = (self.folder / MODEL_FILE).read_bytes()
            check_model(data, width=self.encoder.width, listed=self.manifest.operators)

    def load_model(self) -> None:
        """Load the model; slow, so call it in a thread. A failure is kept and told by `answer`."""
        try:
            if self.manifest.file(MODEL_FILE) and self.manifest.answer_order != "precomputed_only":
                before = resident_bytes()
                runtime = Runtime((self.folder / MODEL_FILE).read_bytes(), self.manifest, self.encoder.width)
                self.is_slow = fastest_s(runtime.run, self.encoder.width) > SLOW_S
                self.size_bytes = max(resident_bytes() - before, (self.folder / MODEL_FILE).stat().st_size)
                self._runtime = runtime  # last: from here on it answers
        except (ModelError, OSError) as err:
            self._error = str(err)
        finally:
            self.is_parked = self.is_wanted = False
            self.is_loaded.set()

    def park(self) -> None:
        """Give the model's memory to others; `load_model` brings it back."""
        self.is_parked, self._runtime = True, None
        self.is_loaded.clear()

    @property
    def error(self) -> str:
        """Why the model could not load; empty if it did or is still loading."""
        return self._error

    def answer(self, row: typing.Mapping[str, object]) -> Answer:
        """Answer a row of raw values: (outputs, source).

        Raises
        ------
        DataError
            The row is wrong.
        NotReadyError
            The model is still loading and the table does not know the row.
        ModelError
            Nothing could answer.
        SlowModelError
            The answer takes a long run: see there.
        """
        return self.answer_codes(self.encoder.code(row))

    def answer_codes(self, codes: Codes) -> Answer:
        """Answer a row that is coded (`Encoder.code`), as `answer` does."""
        if self._find_first is not None:
            found = self._find_first(self._key(codes))
            if found is not None:
                return found, PRECOMPUTED
        runtime = self._runtime
        if runtime is not None and not self.is_slow and not self._done:
            try:
                return runtime.run(self._packed(codes)), ONNX
            except ModelError as err:
                return self._answer_slowly(codes, err)
        return self._answer_slowly(codes)

    def _answer_slowly(self, codes: Codes, failure: ModelError | None = None) -> Answer:
        """Ask one after the other; a model that has failed at this row is not asked twice."""
        for ask in self._ask_but_the_model if failure else self._ask:
            try:
                answer = ask(codes)
            except NotReadyError:
                answer = self._from_table(codes)
                if answer is None:
                    raise
            except ModelError as err:
                failure = err
                continue
            if answer is not None:
                return answer
        where = f"{self.manifest.model}@{self.version}"
        if failure is not None:
            raise ModelError(failure.message, field=where) from failure
        raise NoAnswerError(
            "no precomputed answer for this input, and no default", field=where, fix="Ship the model or set a default."
        )

    def ask_model(self, codes: Codes) -> tuple[float, ...] | None:
        """Ask the model alone, to compare; None if it is not there, is slow, or fails."""
        runtime = self._runtime
        if runtime is None or self.is_slow:
            return None
        try:
            return runtime.run(self.encoder.packed(codes))
        except ModelError:
            return None

    def _from_table(self, codes: Codes) -> Answer | None:
        found = self.table.get(self.encoder.key(codes)) if self.table else None
        return None if found is None else (found, PRECOMPUTED)

    def _from_model(self, codes: Codes) -> Answer | None:
        runtime = self.need_runtime()
        if self.is_slow or self._done:
            return self._from_run_apart(runtime, codes)
        return runtime.run(self.encoder.packed(codes)), ONNX

    def need_runtime(self) -> Runtime:
        """Return the loaded model.

        Raises
        ------
        NotReadyError, ModelError
            It is still loading; there is none, or it did not load.
        """
        if self._runtime is None:
            if not self.is_loaded.is_set():
                wait = NotReadyError("the model is still loading", fix="Try again in a second.")
                wait.bundle = self
                raise wait
            raise ModelError(self._error or "there is no model in the bundle")
        return self._runtime

    def _from_run_apart(self, runtime: Runtime, codes: Codes) -> Answer:
        key = self.encoder.key(codes)
        outcome = self._done.pop(key, None)
        if outcome is None:
            raise SlowModelError(SlowRun(runtime, self.encoder.packed(codes), functools.partial(self._keep, key)))
        if isinstance(outcome, ModelError):
            raise outcome
        return outcome, ONNX

    def _keep(self, key: bytes, outcome: Outcome, took_s: float) -> None:
        """Keep the outcome of a run apart until it is asked for; a model that turns out to be quick is slow no more."""
        self._done[key] = outcome
        was_quick = took_s < SLOW_S / 2 and not isinstance(outcome, ModelError)
        self._n_quick = self._n_quick + 1 if was_quick else 0
        if self._n_quick >= _QUICK_RUNS:
            self.is_slow, self._n_quick = False, 0

    def took_long(self, now_s: float) -> None:
        """Count an answer that held others up; one may be the machine's fault, some in a row are the model's."""
        self._long_s = [at for at in self._long_s if at > now_s - _LONG_WINDOW_S] + [now_s]
        if len(self._long_s) >= _LONG_ANSWERS:
            self.is_slow, self._n_quick, self._long_s = True, 0, []

    def _from_coarse(self, codes: Codes) -> Answer | None:
        found = self.coarse.get(self._coarse_key(codes)) if self.coarse else None
        return None if found is None else (found, COARSE)

    def _from_default(self, _codes: Codes) -> Answer | None:
        return (self.manifest.default, DEFAULT) if self.manifest.default else None

    def check_golden(self) -> int:
        """Reproduce the signed golden outputs; return how many rows there were.

        Raises
        ------
        ModelError
            An output differs by more than the tolerance; or there is nothing to reproduce.
        """
        golden = codec.from_json((self.folder / GOLDEN_FILE).read_bytes(), Golden, limit_bytes=64 << 20)
        n_rows, n_outputs = len(golden.rows), len(golden.outputs)
        if not n_rows or n_rows != n_outputs:
            what = f"{n_rows} golden rows, {n_outputs} outputs" if n_rows else "there are no golden rows"
            raise ModelError(what, field=self.version)
        for i, (row, expected) in enumerate(zip(golden.rows, golden.outputs, strict=True)):
            try:
                got = self._golden_answer(self.encoder.encode(row))
            except DataError as err:
                raise ModelError(f"golden row {i + 1} is refused: {err}", field=self.version) from err
            if got is None or not _is_close(got, expected, golden.tolerance):
                raise ModelError(f"golden row {i + 1}: expected {expected}, got {got}", field=self.version)
        return n_rows

    def check_encoding(self) -> None:
        """Encode the golden rows as training does, many at once, and one by one: on this device too they must agree.

        Raises
        ------
        ModelError
            They do not.
        """
        from shared.features import columns

        golden = codec.from_json((self.folder / GOLDEN_FILE).read_bytes(), Golden, limit_bytes=64 << 20)
        features = self.encoder.feature_set
        raw = {name: [row.get(name) for row in golden.rows] for name in features.columns}
        codes = columns.encode_columns(features, raw)
        inputs = columns.expand(features, codes)
        for i, row in enumerate(golden.rows):
            one = self.encoder.encode(row)
            if tuple(codes[i].tolist()) != one or inputs[i].tolist() != self.encoder.vector(one).tolist():
                raise ModelError(f"golden row {i + 1} is encoded in two ways", field=self.version)

    def _golden_answer(self, codes: Codes) -> tuple[float, ...] | None:
        if self.manifest.answer_order == "precomputed_only":
            return self.table.get(self.encoder.key(codes)) if self.table else None
        return self.need_runtime().run(self.encoder.packed(codes))


def _is_close(got: tuple[float, ...], expected: tuple[float, ...], tolerance: float) -> bool:
    return len(got) == len(expected) and all(
        math.isclose(a, b, abs_tol=tolerance, rel_tol=0) for a, b in zip(got, expected, strict=True)
    )
