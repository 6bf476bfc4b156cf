"""Sums that devices send and the cloud adds up: whole numbers only, so that every order gives the same result."""

from __future__ import annotations

import math
import typing

SCALE = 1 << 20
LIMIT = 1000.0
N_SCORE_BINS = 20
N_LATENCY_BINS = 24
MEMORY, MEMORY_SCALE = "memory_bytes", float(1 << 24)  # a measure that devices take themselves, and its scale in bytes


def quantise(value: float) -> int:
    """Fixed-point number, 20 fractional bits, clipped to +-1000.

    Devices add these up; whole numbers add up to the same sum in every order, which floats do not.

    >>> quantise(0.5), quantise(-1e9) == -1000 * SCALE
    (524288, True)
    """
    return round(min(max(value, -LIMIT), LIMIT) * SCALE)


def square(quantised: int) -> int:
    """Fixed-point square of a quantised value.

    >>> restore(square(quantise(-3.0)))
    9.0
    """
    return (quantised * quantised) // SCALE


def restore(total: int) -> float:
    """Undo `quantise` on a sum.

    >>> restore(quantise(0.25) + quantise(0.5))
    0.75
    """
    return total / SCALE


def score_bin(score: float, label: float) -> int:
    """Index in the 40 score counts: 20 bins of the score for label 0, then 20 for any other label.

    >>> score_bin(0.99, 1), score_bin(0.0, 0)
    (39, 0)
    """
    place = min(max(int(score * N_SCORE_BINS), 0), N_SCORE_BINS - 1)
    return place + N_SCORE_BINS * (label != 0)


def latency_bin(seconds: float) -> int:
    """Bin of a latency: bin i ends at 2**i microseconds.

    >>> latency_bin(1e-6), latency_bin(100e-6)
    (0, 7)
    """
    micros = max(seconds * 1e6, 1.0)
    return min(math.ceil(math.log2(micros)), N_LATENCY_BINS - 1)


def latency_quantile(bins: typing.Sequence[int], q: float) -> float:
    """Upper edge, in seconds, of the bin that holds the q-quantile; 0 without data.

    >>> round(latency_quantile([0, 0, 1, 9], 0.5) * 1e6)
    8
    """
    target, seen = q * sum(bins), 0
    for i, count in enumerate(bins):
        seen += count
        if count and seen >= target:
            return float(1 << i) * 1e-6
    return 0.0


def auc_of_bins(bins: typing.Sequence[int]) -> float:
    """Area under the ROC curve from the 40 score counts; ties inside a bin count half (Mann-Whitney); NaN if undefined.

    >>> auc_of_bins([10] + [0] * 38 + [10])
    1.0
    """
    negatives, positives = bins[:N_SCORE_BINS], bins[N_SCORE_BINS:]
    total = sum(negatives) * sum(positives)
    below, wins = 0, 0.0
    for negative, positive in zip(negatives, positives, strict=True):
        wins += positive * (below + negative / 2)
        below += negative
    return wins / total if total else math.nan
