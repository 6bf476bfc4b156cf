"""Run an ONNX model with ONNX Runtime, one row at a time, on one thread."""

from __future__ import annotations

import contextlib
import functools
import os
import typing
from math import isfinite

from edge_agent.predict.bound import BoundRun
from shared.bundle import Manifest
from shared.errors import ModelError

# The smallest model: y = Identity(x) of one float32, operators of version 13.
_IDENTITY = bytes.fromhex(
    "080712003a370a100a017812017922084964656e746974791201675a0f0a0178120a0a08080112040a020801620f0a017912"
    "0a0a08080112040a02080142040a00100d"
)
_ROWS_AT_ONCE = 512


class Runtime:
    """A loaded model.

    Parameters
    ----------
    model : bytes
        The ONNX file's content; never a path, so that it can not pull in other files.
    manifest : Manifest
        Says how many outputs there must be.
    width : int
        Number of float32 inputs.

    Attributes
    ----------
    run : callable
        Answers one row of `width` float32 numbers, as bytes; the quick way for who asks again and again, any thread
        may. Raises ModelError if the model failed, or an output is not finite.
    rows_at_once : int
        How many rows one run of `run_apart` may have.

    Raises
    ------
    ModelError
        The model does not load or has other inputs or outputs than the manifest says.
    """

    def __init__(self, model: bytes, manifest: Manifest, width: int) -> None:
        import numpy as np
        import onnxruntime as ort

        self._frombuffer, self._float32 = np.frombuffer, np.float32
        self._new_limits = ort.RunOptions
        options = ort.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        options.log_severity_level = 4
        try:
            self._session = ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])
        except Exception as err:
            raise ModelError(f"does not load: {err}", field=f"{manifest.model}@{manifest.version}") from err
        self._n_outputs = manifest.n_outputs
        self._input, self._output = self._names(manifest, width)
        self._run = self._session.run
        self._shape = (1, width)
        self.rows_at_once = 1 if self._session.get_inputs()[0].shape[0] == 1 else _ROWS_AT_ONCE
        self._bound: BoundRun | None = None
        self._is_bound = False
        self.run: typing.Callable[[bytes], tuple[float, ...]] = self._first_run

    def _bind(self, vector: bytes, outputs: tuple[float, ...]) -> None:
        """Bind input and output for the runs to come, if that gives for this row what a plain run gave."""
        self._is_bound = True  # one try
        try:
            bound = BoundRun(self._session, self._input, self._output, self._shape[1], self._n_outputs)
            if bound.run(vector) == list(outputs):
                self._bound, self.run = bound, self._bound_run(bound)
        except Exception:  # noqa: BLE001 - whatever it is, the plain way works: it just did
            return

    def _names(self, manifest: Manifest, width: int) -> tuple[str, str]:
        inputs, outputs = self._session.get_inputs(), self._session.get_outputs()
        where = f"{manifest.model}@{manifest.version}"
        if len(inputs) != 1 or inputs[0].type != "tensor(float)" or inputs[0].shape[-1] != width:
            seen = [(one.name, one.type, one.shape) for one in inputs]
            raise ModelError(f"needs one float tensor of width {width}, has {seen}", field=where)
        wanted = outputs[0].name if manifest.task == "regression" else "probabilities"
        if wanted not in [one.name for one in outputs]:
            raise ModelError(f"has no output {wanted!r}", field=where)
        return inputs[0].name, wanted

    def _first_run(self, vector: bytes) -> tuple[float, ...]:
        """Answer a row the plain way, and see whether the quick way is open for the next ones."""
        plain = self.run_apart(vector, None)
        if not self._is_bound:
            self._bind(vector, plain)
        return plain

    def _bound_run(self, bound: BoundRun) -> typing.Callable[[bytes], tuple[float, ...]]:
        """Return what answers by a bound run: as many numbers as there are outputs, or nothing at all."""
        run_bound, run_apart = bound.run, self.run_apart

        def run(vector: bytes) -> tuple[float, ...]:
            try:
                outputs = run_bound(vector)
            except Exception as err:
                raise ModelError(f"failed: {err}", field="model") from err
            if outputs is None:
                return run_apart(vector, None)
            # float32 numbers can not add up to more than a float64 holds, so their sum is finite if they all are.
            if not isfinite(sum(outputs)):
                raise ModelError(f"gave {tuple(outputs)!r:.80}", field="model")
            return tuple(outputs)

        return run

    def new_limits(self) -> typing.Any:  # noqa: ANN401 - a type of ONNX Runtime's
        """Return what `run_apart` can be stopped with, from another thread: set its ``terminate``."""
        return self._new_limits()

    def run_apart(self, vector: bytes, limits: typing.Any) -> tuple[float, ...]:  # noqa: ANN401
        """Answer a row in any thread, several at once, or up to `rows_at_once` rows; like `run` otherwise.

        Parameters
        ----------
        vector : bytes
            `width` float32 numbers, row after row. Nobody may change it meanwhile.
        limits : RunOptions, optional
            From `new_limits`.

        Returns
        -------
        tuple of float
            The outputs of the first row, then those of the next.
        """
        try:
            rows = self._frombuffer(vector, self._float32).reshape(-1, self._shape[1])
            out = self._run([self._output], {self._input: rows}, limits)[0]
            outputs: tuple[float, ...] = tuple(out.ravel().tolist())
            is_sound = 0 < len(outputs) == self._n_outputs * len(rows) and isfinite(sum(outputs))
        except Exception as err:
            raise ModelError(f"failed: {err}", field="model") from err
        if not is_sound:
            raise ModelError(f"gave {outputs!r:.80}", field="model")
        return outputs


RuntimeFactory = typing.Callable[[bytes, Manifest, int], Runtime]


@functools.cache
def _begin() -> None:
    """Open a session once: the first one of a process takes nine megabytes that have nothing to do with its model."""
    import onnxruntime as ort

    with contextlib.suppress(Exception):  # what the runtime has against it, it says of the model that comes next
        ort.InferenceSession(_IDENTITY, providers=["CPUExecutionProvider"])


def resident_bytes() -> int:
    """Memory of this process with the runtime at work in it, which no model is charged for; 0 if nobody can say."""
    _begin()
    try:
        with open("/proc/self/statm", encoding="ascii") as file:  # noqa: PTH123 - a file of the system's
            return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except OSError:
        return 0
