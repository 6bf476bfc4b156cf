"""Gates before anything is signed: the answers actually served, on days that training has not seen."""

from __future__ import annotations

import math
import typing

import msgspec
import numpy as np
import numpy.typing as npt

from shared.clock import DAY_S
from shared.metrics import Metric

_MIN_DAYS = 2


class GateResult(msgspec.Struct, frozen=True, kw_only=True):
    """What a gate found.

    Parameters
    ----------
    name, passed, reason : str, bool, str
        Which gate, and the sentence for people.
    numbers : dict
        What it measured.
    """

    name: str
    passed: bool
    reason: str
    numbers: dict[str, float] = {}


def values(
    metric: Metric, outputs: npt.NDArray[np.float64], labels: npt.NDArray[typing.Any]
) -> npt.NDArray[np.float64]:
    """Value of the metric for each answer, shape (n,)."""
    return np.array([metric.score(row, label) for row, label in zip(outputs.tolist(), labels.tolist(), strict=True)])


def quality_gate(
    metric: Metric,
    candidate: npt.NDArray[np.float64],
    reference: npt.NDArray[np.float64],
    event_s: npt.NDArray[np.float64],
    *,
    name: str,
    worse_by: float,
    against: str,
) -> GateResult:
    """Compare the candidate with a reference on the same rows.

    Parameters
    ----------
    candidate, reference : array, shape (n,)
        Metric values.
    name : str
        Which gate this is.
    worse_by : float
        How much worse the candidate may be.
    against : str
        What the reference is, for the sentence.
    """
    if not len(candidate):
        return GateResult(name=name, passed=False, reason="there are no rows to compare on")
    gain = candidate - reference if metric.direction == "higher" else reference - candidate
    mean = float(np.mean(gain))
    low, high = day_interval(gain, event_s)
    passed = mean >= -worse_by
    word = "better" if mean >= 0 else "worse"
    reason = (
        f"{metric.name} on {len(gain):,} rows: {abs(mean):.4f} {word} than {against}"
        f" ({-high if word == 'worse' else low:+.4f} .. {-low if word == 'worse' else high:+.4f}),"
        f" allowed are {worse_by:g} worse"
    )
    numbers = {
        "rows": float(len(gain)),
        "candidate": float(np.mean(candidate)),
        "reference": float(np.mean(reference)),
        "gain": mean,
        "gain_low": low,
        "gain_high": high,
        "worse_by": worse_by,
    }
    return GateResult(name=name, passed=passed, reason=reason, numbers=numbers)


def day_interval(gain: npt.NDArray[np.float64], event_s: npt.NDArray[np.float64]) -> tuple[float, float]:
    """95 % interval of a mean with calendar days as clusters (a storm hits every row of its day at once).

    With fewer than two days the interval is unbounded.
    """
    days, index = np.unique((event_s // DAY_S).astype(np.int64), return_inverse=True)
    n, g = len(gain), len(days)
    if g < _MIN_DAYS:
        return -math.inf, math.inf
    residuals = np.bincount(index, gain - np.mean(gain))
    error = math.sqrt(g / (g - 1) * float(np.sum(residuals**2))) / n
    mean = float(np.mean(gain))
    return mean - 1.96 * error, mean + 1.96 * error


def constant_outputs(labels: npt.NDArray[typing.Any], n_classes: int, n: int) -> npt.NDArray[np.float64]:
    """Answers of the model that knows nothing: the base rate of each class, or the mean value, for `n` rows."""
    if not n_classes:
        return np.full((n, 1), float(np.mean(labels)))
    counts = np.bincount(labels.astype(np.int64), minlength=n_classes) + 1.0
    return np.tile(counts / counts.sum(), (n, 1))
