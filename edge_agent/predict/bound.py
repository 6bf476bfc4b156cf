"""A model's input and output bound to memory once, so that a run copies one row in and one answer out, no more."""

from __future__ import annotations

import threading
import typing


class BoundRun:
    """Runs a loaded model on one row after the other; `None` says: ask it the plain way.

    Parameters
    ----------
    session : onnxruntime.InferenceSession
        The model.
    source, target : str
        Names of its input and of the output that is wanted; other outputs are not even worked out.
    width, n_outputs : int
        Number of float32 inputs, and of the outputs.
    """

    def __init__(self, session: typing.Any, source: str, target: str, width: int, n_outputs: int) -> None:  # noqa: ANN401
        import numpy as np

        rows = np.zeros((1, width), np.float32)
        self._out = np.full((1, n_outputs), np.nan, np.float32)
        self._arrays = rows, self._out  # the binding holds their addresses only
        binding = session.io_binding()
        for bind, name, array in ((binding.bind_input, source, rows), (binding.bind_output, target, self._out)):
            bind(name, "cpu", 0, np.float32, array.shape, array.ctypes.data)
        self._run, self._handle = session.run_with_iobinding, binding
        # What that method calls, without the call between, where it is as it was when this was written.
        inner, handle = getattr(session, "_sess", None), getattr(binding, "_iobinding", None)
        quick = getattr(inner, "run_with_iobinding", None)
        if quick is not None and handle is not None:
            self._run, self._handle = quick, handle
        self._input = memoryview(rows.data).cast("B")
        self._values = self._out.reshape(-1)
        self._free = threading.Lock()

    def __call__(self, vector: bytes) -> list[float] | None:
        """Answer a row; None while another thread is at it.

        Parameters
        ----------
        vector : bytes
            The row as float32 numbers.
        """
        if not self._free.acquire(blocking=False):
            return None
        try:
            self._input[:] = vector
            self._run(self._handle, None)
            answer: list[float] = self._values.tolist()
            return answer
        finally:
            self._free.release()
