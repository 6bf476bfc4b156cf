"""The statuses that a device can have, and what a person may do to it in each."""

from __future__ import annotations

import typing

Status = typing.Literal["preauthorised", "pending", "accepted", "rejected", "retired"]
STATUSES: tuple[Status, ...] = typing.get_args(Status)


class Change(typing.NamedTuple):
    """What a person may do to a device: in which statuses, what becomes of it, and what to do in the others."""

    before: tuple[Status, ...]
    after: Status
    fix: str


CHANGES: dict[str, Change] = {
    "approve": Change(("pending", "rejected"), "accepted", "Only one that asked to join can be approved."),
    "reject": Change(("pending", "preauthorised"), "rejected", "One that is in the fleet is taken out with: retire."),
    "retire": Change(("accepted",), "retired", "One that is not in the fleet is kept out with: reject."),
    "rotate": Change(("accepted",), "accepted", "Only one that is in the fleet can be asked for a new key."),
}
