"""Say which devices a running rollout leaves out on purpose. Pure: plain data in, words out."""

from __future__ import annotations

import typing

Row = typing.Mapping[str, typing.Any]
_NAMED = 5


def set_apart(view: Row) -> list[str]:
    """Say which devices a running rollout leaves out on purpose.

    Parameters
    ----------
    view : mapping
        What `overview.rollout` returns.
    """
    if view["state"] != "running":
        return []
    said = []
    if view["control"]:
        shares = ", ".join(f"{share:.0%} of {region}" for region, share in view["control"].items())
        said.append(f"control group, without the candidate until it is promoted: {shares}")
    if view["pinned"]:
        named, more = view["pinned"][:_NAMED], len(view["pinned"]) - _NAMED
        said.append(f"pinned, and counted in no stage: {', '.join(named)}{f' and {more:,} more' if more > 0 else ''}")
    return said
