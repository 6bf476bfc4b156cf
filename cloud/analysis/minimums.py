"""How much was seen: outcomes, devices and days, never more than strata that may overlap can prove."""

from __future__ import annotations

import math
import typing

from cloud.analysis.contrast import has_data
from cloud.analysis.records import Pairs, Stratum


class Amount(typing.NamedTuple):
    """Candidate outcomes, devices of the arm that has fewer, and calendar days."""

    outcomes: float
    devices: float
    days: float


def by_region(strata: typing.Iterable[Stratum]) -> dict[str | None, list[Stratum]]:
    """Group strata by the name of their region, in the order of the names; None holds those without."""
    groups: dict[str | None, list[Stratum]] = {}
    for stratum in sorted(strata, key=lambda stratum: (stratum.region is not None, stratum.region or "")):
        groups.setdefault(stratum.region, []).append(stratum)
    return groups


def of_strata(strata: typing.Sequence[Stratum]) -> Amount:
    """Count what strata hold.

    Parameters
    ----------
    strata : sequence of Stratum
        Stages of one region hold the same devices one after the other; regions hold different devices at one time.

    Returns
    -------
    Amount
        Lower bounds: devices of a region as in its largest stage; days of consecutive stages less the ones that two
        stages may share, of the region that has most.

    Examples
    --------
    >>> from cloud.analysis.records import Arm, Days
    >>> arm = Arm(90.0, 80.0, 80.0, 9.0, 900.0, 800.0, 720.0, days=Days(3.0, 2700.0, 2400.0, 2150.0))
    >>> of_strata([Stratum(arm, arm, region=name) for name in ("east", "east", "west")])
    Amount(outcomes=270.0, devices=18.0, days=5.0)
    """
    control = candidate = days = 0.0
    for stages in by_region(stratum for stratum in strata if has_data(stratum)).values():
        control += max(stage.control.g for stage in stages)
        candidate += max(stage.candidate.g for stage in stages)
        dated = [_days(stage) for stage in stages if _days(stage) > 0.0]
        days = max(days, math.fsum(dated) - max(0, len(dated) - 1))
    return Amount(math.fsum(stratum.candidate.n for stratum in strata), min(control, candidate), days)


def _days(stratum: Stratum) -> float:
    control, candidate = stratum.control.days, stratum.candidate.days
    return 0.0 if control is None or candidate is None else min(control.g, candidate.g)


def of_pairs(pairs: Pairs) -> Amount:
    """Count what pairs hold.

    Examples
    --------
    >>> of_pairs(Pairs(90.0, 1.0, 5.0, 9.0, 900.0, 10.0, 5.0))
    Amount(outcomes=90.0, devices=9.0, days=0.0)
    """
    return Amount(pairs.n, pairs.g, 0.0 if pairs.days is None else pairs.days.g)
