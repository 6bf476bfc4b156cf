"""Whether scores mean what they say: of all answers with a score of 0.7, seven in ten should be right."""

from __future__ import annotations

import typing

from shared.summary import N_SCORE_BINS


class Bin(typing.NamedTuple):
    """Answers whose scores are close to each other.

    Parameters
    ----------
    score : float
        Middle of the bin.
    n : int
        Outcomes.
    share : float
        Share of them with the label that the score speaks of.
    """

    score: float
    n: int
    share: float


class Calibration(typing.NamedTuple):
    """How far scores are from what happened.

    Parameters
    ----------
    n : int
        Outcomes.
    error : float
        Expected calibration error: the mean distance between score and share over all outcomes, in 0..1.
    bins : tuple of Bin
        The reliability table; bins without an outcome are left out.
    """

    n: int
    error: float
    bins: tuple[Bin, ...]


def calibration_of_bins(counts: typing.Sequence[int]) -> Calibration | None:
    """Calibration from the 40 score counts of a device or of many.

    Parameters
    ----------
    counts : sequence of int, length 40
        Of each of 20 bins of the score: outcomes with label 0, then those with label 1.

    Returns
    -------
    Calibration or None
        None without outcomes.

    Notes
    -----
    M. P. Naeini, G. F. Cooper and M. Hauskrecht, "Obtaining well calibrated probabilities using Bayesian binning",
    AAAI 2015, with bins of equal width. Devices send counts and no scores, so all scores of a bin count as its middle:
    the error is off by half a bin, 0.025, at most.

    Examples
    --------
    Of ten answers with a score of about 0.975, eight are right:

    >>> counts = [0] * 40
    >>> counts[19], counts[39] = 2, 8
    >>> found = calibration_of_bins(counts)
    >>> found.n, round(found.error, 3), found.bins
    (10, 0.175, (Bin(score=0.975, n=10, share=0.8),))
    """
    bins = tuple(
        Bin((place + 0.5) / N_SCORE_BINS, wrong + right, right / (wrong + right))
        for place, (wrong, right) in enumerate(zip(counts[:N_SCORE_BINS], counts[N_SCORE_BINS:], strict=True))
        if wrong + right
    )
    n = sum(one.n for one in bins)
    return Calibration(n, sum(one.n * abs(one.share - one.score) for one in bins) / n, bins) if n else None
