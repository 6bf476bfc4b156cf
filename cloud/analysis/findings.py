"""What was found out on the way from sums to a word."""

from __future__ import annotations

import typing

from cloud.analysis.evidence import Evidence
from cloud.analysis.minimums import Amount
from cloud.analysis.missing import Missing


class Findings(typing.NamedTuple):
    """Everything that a word rests on.

    Evidence and limits are logarithms of e-values. ``worse`` counts what is missing only where that is no accident;
    ``fine`` counts it always. ``bad_regions`` are those in which the candidate is worse,
    ``doubtful_regions`` those in which it rather is than not, ``unknown_regions`` those of which too little is known.
    """

    worse: Evidence
    fine: Evidence
    need_worse: float
    need_fine: float
    amount: Amount
    missing: Missing
    split: float
    bad_regions: tuple[str, ...]
    doubtful_regions: tuple[str, ...]
    unknown_regions: tuple[str, ...] = ()
