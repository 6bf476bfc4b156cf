"""Export a fitted estimator to ONNX with skl2onnx, and run the exported file with ONNX Runtime."""

from __future__ import annotations

import typing
import warnings

import numpy as np
import numpy.typing as npt
import onnxruntime as ort
from skl2onnx import convert_sklearn
from skl2onnx.common.data_types import FloatTensorType

from shared.errors import ModelError

TARGET_OPSET = {"": 18, "ai.onnx.ml": 3}
_CHUNK = 4096
_SHOWN = 300


def export(
    estimator: typing.Any,  # noqa: ANN401 - scikit-learn ships no types
    *,
    width: int,
    task: str,
    properties: typing.Mapping[str, str],
) -> bytes:
    """Export to ONNX: one float32 tensor in; class probabilities, or one value, out.

    Raises
    ------
    ModelError
        skl2onnx can not convert it.
    """
    options = {} if task == "regression" else {"zipmap": False}
    try:
        with warnings.catch_warnings():
            # The converter of histogram boosting hands booleans over as whole numbers; protobuf 7, which minds, is
            # excluded in pyproject.toml.
            warnings.simplefilter("ignore", DeprecationWarning)
            model = convert_sklearn(
                estimator,
                initial_types=[("inputs", FloatTensorType([None, width]))],
                target_opset=TARGET_OPSET,
                options=options,
            )
    except Exception as err:
        # Some messages of the converter hold the whole model.
        raise ModelError(
            f"{type(estimator).__name__} can not be exported: {str(err)[:_SHOWN]}",
            field="export",
            fix="Choose another estimator.",
        ) from err
    model.producer_name = "covey"
    for key, value in sorted(properties.items()):
        entry = model.metadata_props.add()
        entry.key, entry.value = f"covey.{key}", value
    data: bytes = model.SerializeToString(deterministic=True)
    return data


class Exported:
    """An exported model, as the devices run it.

    Parameters
    ----------
    data : bytes
        The ONNX file.
    task : str
        Decides which output is the answer.
    """

    def __init__(self, data: bytes, task: str) -> None:
        options = ort.SessionOptions()
        options.intra_op_num_threads = 1
        try:
            self._session = ort.InferenceSession(data, options, providers=["CPUExecutionProvider"])
        except Exception as err:
            raise ModelError(f"the exported model does not load: {str(err)[:_SHOWN]}", field="export") from err
        names = [output.name for output in self._session.get_outputs()]
        self._output = names[0] if task == "regression" else "probabilities"

    def answers(self, inputs: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        """Answer rows, shape (n, width); returns shape (n, n_outputs).

        Raises
        ------
        ModelError
            It loads, but does not run.
        """
        try:
            outs = [
                self._session.run([self._output], {"inputs": inputs[at : at + _CHUNK]})[0]
                for at in range(0, len(inputs), _CHUNK)
            ]
        except Exception as err:
            raise ModelError(f"the exported model does not run: {str(err)[:_SHOWN]}", field="export") from err
        out: npt.NDArray[np.float32] = np.concatenate(outs) if outs else np.empty((0, 1), np.float32)
        return out.reshape(len(inputs), -1)
