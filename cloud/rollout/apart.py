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
    for names, why in (
        (view["pinned"], "pinned, and counted in no stage"),
        (view["aside"], "set aside, since they fail again and again"),
        (view["too_old"], "without the candidate, since their agents are too old for such a stage"),
    ):
        more = f" and {len(names) - _NAMED:,} more" if len(names) > _NAMED else ""
        said += [f"{why}: {', '.join(names[:_NAMED])}{more}"] if names else []
    return said
