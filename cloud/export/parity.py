"""The parity gate: the exported file must say what the trained model says, also for inputs that training never saw."""

from __future__ import annotations

import typing

import numpy as np
import numpy.typing as npt

from cloud.analysis.gates import GateResult
from cloud.config import GateSettings
from cloud.export.onnx_file import Exported
from shared.features import FeatureSet, Numeric
from shared.features.columns import expand

Answerer = typing.Callable[[npt.NDArray[np.float32]], npt.NDArray[typing.Any]]


def probe_codes(features: FeatureSet, codes: npt.NDArray[np.float64], n: int, seed: int) -> npt.NDArray[np.float64]:
    """Rows to compare on, shape (n, n_features): half real, half drawn code by code, missing and other included."""
    rng = np.random.default_rng(seed)
    real = codes[rng.integers(0, len(codes), n - n // 2)]
    drawn = np.empty((n // 2, len(features.feature)))
    for i, feature in enumerate(features.feature):
        if isinstance(feature, Numeric):
            drawn[:, i] = rng.uniform(feature.min, feature.max, len(drawn)).astype(np.float32)
        else:
            drawn[:, i] = rng.integers(0, feature.n_codes, len(drawn))
    return np.concatenate([real, drawn])


def parity_gate(
    trained: Answerer,
    exported: Exported,
    features: FeatureSet,
    codes: npt.NDArray[np.float64],
    *,
    task: str,
    threshold: float,
    settings: GateSettings,
    seed: int,
) -> GateResult:
    """Compare trained and exported model row by row.

    Parameters
    ----------
    trained : callable
        Model inputs, shape (n, width), to the trained model's own answers, shape (n, n_outputs).
    codes : array, shape (n, n_features)
        Real rows to draw from.
    """
    inputs = expand(features, probe_codes(features, codes, settings.parity_rows, seed))
    expected, shipped = np.asarray(trained(inputs), np.float64), exported.answers(inputs).astype(np.float64)
    if expected.shape != shipped.shape:
        reason = f"the exported model gives {shipped.shape[1]} outputs, the trained one {expected.shape[1]}"
        return GateResult(name="parity", passed=False, reason=reason)
    scale = np.maximum(1.0, np.abs(expected)) if task == "regression" else 1.0
    off = np.max(np.abs(expected - shipped) / scale, axis=1)
    differs = off > settings.parity_tolerance
    if task == "binary":
        # Within the tolerance of the threshold either label is right.
        far = np.abs(expected[:, 1] - threshold) > settings.parity_tolerance
        differs |= far & ((expected[:, 1] >= threshold) != (shipped[:, 1] >= threshold))
    elif task == "multiclass":
        top = np.sort(expected, axis=1)
        clear = top[:, -1] - top[:, -2] > settings.parity_tolerance
        differs |= clear & (expected.argmax(axis=1) != shipped.argmax(axis=1))
    ratio = float(np.mean(differs))
    passed = ratio <= settings.parity_mismatch_ratio
    reason = (
        f"{int(differs.sum()):,} of {len(inputs):,} rows differ by more than {settings.parity_tolerance:g}"
        f" (largest difference {float(off.max()):.2g}), allowed is a share of {settings.parity_mismatch_ratio:g}"
    )
    numbers = {"rows": float(len(inputs)), "mismatch_ratio": ratio, "largest": float(off.max())}
    return GateResult(name="parity", passed=passed, reason=reason, numbers=numbers)
