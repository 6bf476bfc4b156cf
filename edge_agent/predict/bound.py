"""A model's input and output bound to memory once, so that a run copies one row in and one answer out, no more."""

from __future__ import annotations

import threading
import typing

Run = typing.Callable[[bytes], list[float] | None]


class BoundRun:
    """Runs a loaded model on one row after the other.

    Parameters
    ----------
    session : onnxruntime.InferenceSession
        The model.
    source, target : str
        Names of its input and of the output that is wanted; other outputs are not even worked out.
    width, n_outputs : int
        Number of float32 inputs, and of the outputs.

    Attributes
    ----------
    run : callable
        Takes a row as float32 numbers, returns the answer; None while another thread is at it.
    """

    def __init__(self, session: typing.Any, source: str, target: str, width: int, n_outputs: int) -> None:  # noqa: ANN401
        import numpy as np

        rows = np.zeros((1, width), np.float32)
        out = np.full((1, n_outputs), np.nan, np.float32)
        self._arrays = rows, out  # the binding holds their addresses only
        binding = session.io_binding()
        for bind, name, array in ((binding.bind_input, source, rows), (binding.bind_output, target, out)):
            bind(name, "cpu", 0, np.float32, array.shape, array.ctypes.data)
        self._free = threading.Lock()
        self.run = self._runner(session, binding)

    def _runner(self, session: typing.Any, binding: typing.Any) -> Run:  # noqa: ANN401 - untyped
        run, handle = session.run_with_iobinding, binding
        # What that method calls, without the call between, where it is as it was when this was written.
        inner, inner_handle = getattr(session, "_sess", None), getattr(binding, "_iobinding", None)
        quick = getattr(inner, "run_with_iobinding", None)
        if quick is not None and inner_handle is not None:
            run, handle = quick, inner_handle
        rows, out = self._arrays
        row, values = memoryview(rows.data).cast("B"), out.reshape(-1).tolist
        acquire, release = self._free.acquire, self._free.release

        def run_one(vector: bytes) -> list[float] | None:
            if not acquire(False):  # noqa: FBT003 - it is quicker by position
                return None
            try:
                row[:] = vector
                run(handle, None)
                return values()
            finally:
                release()

        return run_one
