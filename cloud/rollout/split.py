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


Beside = typing.Mapping[tuple[str, int], int]


class Others(typing.NamedTuple):
    """The other candidates that a rollout began with.

    Parameters
    ----------
    arms : sequence of int
        Theirs.
    dropped : mapping
        Arm to the event day on which it was dropped.
    says : mapping
        (device, arm) to whether the device says that it runs it; False where it refuses it.
    """

    arms: typing.Sequence[int] = ()
    dropped: typing.Mapping[int, int] = {}
    says: typing.Mapping[tuple[str, int], bool] = {}


def beside(rows: typing.Sequence[Row], others: Others) -> Beside:
    """Count the other candidates that had a share of a device's requests on a day.

    Parameters
    ----------
    rows : list of rows
        Sums of all arms' own answers in one stage.

    Returns
    -------
    mapping
        (device, day) to their number. Days of which nobody can say it are not in it: those on which a device may
        have changed from some arms to others, and those of devices without a word of an arm that they should have.
    """
    last: dict[tuple[str, int], int] = {}
    for row in rows:
        if row["requests"]:
            key = row["device"], row["arm"]
            last[key] = max(row["day"], last.get(key, row["day"]))
    counts = {}
    for device, day in {(row["device"], row["day"]) for row in rows}:
        shares = [
            _has_share(day, last.get((device, arm)), others.dropped.get(arm), others.says.get((device, arm)))
            for arm in others.arms
        ]
        if None not in shares:
            counts[device, day] = sum(map(bool, shares))
    return counts


def _has_share(day: int, last: int | None, dropped: int | None, says: bool | None) -> bool | None:
    """Whether an arm had its share of a device's requests on a day; None if nobody can say.

    Parameters
    ----------
    last : int or None
        Last day on which the device answered with it.
    dropped : int or None
        Day on which it was dropped.
    says : bool or None
        Whether the device says that it runs it; False where it refuses it.
    """
    is_gone = says is False or (dropped is not None and day > dropped)
    if is_gone:
        # It goes in the middle of a day, and some devices hear late.
        return None if says or (last is not None and last >= day) else False
    if dropped is not None:
        return True if last is not None and last > day else None
    return True if says or last is not None else None


def uneven_split(
    served: typing.Sequence[Row],
    plan: RolloutSettings,
    counts: Beside | None = None,
    runs: typing.Collection[str] | None = None,
) -> list[str]:
    """Say so if the arms' requests are not shared out as planned: then nothing that they say can be compared.

    Parameters
    ----------
    served : list of rows
        Mature sums of both arms' own answers in one stage.
    plan : RolloutSettings
        As it is for that stage; where requests are what is given to the arms.
    counts : mapping, optional
        How many other candidates had a share of a device's requests on a day, as `beside` returns it; none without.
    runs : collection of str, optional
        Devices that say they run the candidate; without, those that have answered with it.
    """
    groups: dict[int, list[Row]] = collections.defaultdict(list)
    for row in served:
        n = 0 if counts is None else counts.get((row["device"], row["day"]))
        if n is not None:
            groups[n].append(row)
    each = plan.canary.request_share
    said = []
    for n, rows in sorted(groups.items()):
        share = min(each / max(1 - n * each, each), 1.0)  # of what is left to the candidate and the incumbent
        said += _uneven(_of_those_that_try(_asked(rows), share, runs), share, plan.alpha_promote)
    return said


def _uneven(rows: typing.Sequence[Row], share: float, alpha: float) -> list[str]:
    said = []
    for stratum in strata_of(rows, _REQUESTS):
        n0, n1 = stratum.control.n, stratum.candidate.n
        enough = of_strata([stratum]).devices >= LEAST_DEVICES
        assigned = Assigned(n0, n1, share)
        if enough and log_e_split([stratum], assigned) >= math.log(1 / alpha):
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


def _of_those_that_try(rows: list[Row], share: float, runs: typing.Collection[str] | None) -> list[Row]:
    """Leave out devices of a control group, which have no candidate, and those that were asked too little to tell.

    Units stay in their arms, and a device may have none in the candidate's: it tries all the same.
    """
    total: dict[str, float] = collections.defaultdict(float)
    for row in rows:
        total[row["device"]] += row["asked"]
    tried = {row["device"] for row in rows if row["arm"] and row["asked"]} if runs is None else runs
    return [row for row in rows if row["device"] in tried and total[row["device"]] * share >= _ENOUGH]


def place_of(row: Row) -> tuple[typing.Any, ...]:
    """Return where and when a row's requests were answered, whichever arm did."""
    return row["region"], row["epoch"], row["device"], row["day"]
