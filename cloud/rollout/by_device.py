"""Arms of whole devices: every answer of a device is its arm's, less what its own earlier days foretold. Pure."""

from __future__ import annotations

import collections
import typing

import msgspec

from cloud.analysis.cuped import Cell, adjust
from cloud.analysis.records import Stratum
from cloud.rollout.measured import VALUES
from cloud.rollout.sums import QUALITY, Row, strata_of
from shared.summary import restore

EARLIER_DAYS = 28  # before a region's first step, four of each day of the week


class Taken(typing.NamedTuple):
    """What was taken out in one region and stage; see `cloud.analysis.cuped.Adjusted`."""

    region: str
    epoch: int
    theta: float
    explained: float
    known: float


def strata_by_device(
    served: typing.Sequence[Row], earlier: typing.Sequence[Row]
) -> tuple[tuple[Stratum, ...], list[Taken]]:
    """Return both arms for each (region, epoch), and what was taken out there.

    A device to which the candidate was given is the candidate's, also with the answers that the incumbent gave in its
    place: which device those come from is not left to chance.

    Parameters
    ----------
    served : list of rows
        Mature sums of both arms' own answers.
    earlier : list of rows
        Sums of outcomes of the same devices before the region's first step, by (region, device).
    """
    means = {
        (row["region"], row["device"]): restore(row["metric_sum"]) / row["outcomes"]
        for row in earlier
        if row["outcomes"] > 0
    }
    groups: dict[tuple[str, int], list[Row]] = collections.defaultdict(list)
    for row in served:
        groups[row["region"], row["epoch"]].append(row)
    rows: list[Row] = []
    plain: list[Row] = []
    taken = []
    for (region, epoch), group in sorted(groups.items()):
        tried = {row["device"] for row in group if row["arm"]}
        if not tried:
            continue  # a shadow: the incumbent answers everywhere
        mine = [{**row, "arm": int(row["device"] in tried)} for row in group]
        plain += mine
        cells = [
            Cell(row["arm"], row["device"], row["day"], float(row["outcomes"]),
                 QUALITY.total(row), QUALITY.square(row))
            for row in mine
        ]  # fmt: skip
        found = adjust(cells, {device: mean for (where, device), mean in means.items() if where == region})
        taken.append(Taken(region, epoch, found.theta, found.explained, found.known))
        place = {"region": region, "epoch": epoch, "by_day": group[0].get("by_day", False)}
        rows += [place | cell._asdict() for cell in found.cells]
    # How many outcomes there should have been is what it was.
    strata = tuple(
        msgspec.structs.replace(
            one,
            control=msgspec.structs.replace(one.control, assigned=before.control.assigned),
            candidate=msgspec.structs.replace(one.candidate, assigned=before.candidate.assigned),
        )
        for one, before in zip(strata_of(rows, VALUES), strata_of(plain, QUALITY), strict=True)
    )
    return strata, taken
