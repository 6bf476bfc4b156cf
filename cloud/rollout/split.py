"""Whether both arms have reported the requests that they were given: what dies before it reports leaves a gap. Pure."""

from __future__ import annotations

import collections
import math
import typing

from cloud.analysis.minimums import of_strata
from cloud.analysis.missing import log_e_split
from cloud.analysis.records import Assigned
from cloud.config import RolloutSettings
from cloud.rollout.sums import Measure, Row, strata_of

LEAST_DEVICES = 20  # with fewer, requests of the same few units look like requests that are missing
_ENOUGH = 10  # of the candidate's: whoever should have so many has one at least
_REQUESTS = Measure("asked", lambda _row: 0.0, lambda _row: 0.0)


def uneven_split(served: typing.Sequence[Row], plan: RolloutSettings) -> list[str]:
    """Say so if the arms' requests are not shared out as planned: then nothing that they say can be compared.

    Parameters
    ----------
    served : list of rows
        Mature sums of both arms' own answers in one stage.
    plan : RolloutSettings
        As it is for that stage; where requests are what is given to the arms.
    """
    share = plan.canary.request_share
    rows = _of_those_that_try(_asked(served), share)
    said = []
    for stratum in strata_of(rows, _REQUESTS):
        n0, n1 = stratum.control.n, stratum.candidate.n
        enough = of_strata([stratum]).devices >= LEAST_DEVICES
        assigned = Assigned(n0, n1, share)
        if enough and log_e_split([stratum], assigned) >= math.log(1 / plan.alpha_promote):
            said.append(
                f"{n1:,.0f} of {n0 + n1:,.0f} requests in {stratum.region} are the candidate's,"
                f" {share:.1%} were planned: some were never reported"
            )
    return said


def _asked(served: typing.Sequence[Row]) -> list[Row]:
    """Count each request for the arm that was to answer it: the incumbent's answer after a failure is no other one.

    Rows of one candidate among several say what failed elsewhere.
    """
    failed: dict[tuple[typing.Any, ...], int] = collections.Counter()
    for row in served:
        if row["arm"]:
            failed[place_of(row)] += row["failed"]
    return [{**row, "asked": row["requests"] if row["arm"] else _given(row, failed[place_of(row)])} for row in served]


def _given(row: Row, failed: int) -> int:
    return int(max(0, row["requests"] - failed - row.get("failed_elsewhere", 0)))


def _of_those_that_try(rows: typing.Sequence[Row], share: float) -> list[Row]:
    """Leave out devices of a control group, which have no candidate, and those that were asked too little to tell."""
    total: dict[str, float] = collections.defaultdict(float)
    for row in rows:
        total[row["device"]] += row["asked"]
    tried = {row["device"] for row in rows if row["arm"] and row["asked"]}
    return [row for row in rows if row["device"] in tried and total[row["device"]] * share >= _ENOUGH]


def place_of(row: Row) -> tuple[typing.Any, ...]:
    """Return where and when a row's requests were answered, whichever arm did."""
    return row["region"], row["epoch"], row["device"], row["day"]
