"""Draw a rollout for a terminal."""

from __future__ import annotations

import typing

from cloud.rollout.apart import set_apart

Row = typing.Mapping[str, typing.Any]
_MARKS = {"PASS": "v", "HOLD": ">", "FAIL": "x", "WAITING": "."}


def rollout_lines(view: Row) -> list[str]:
    """Return the lines of ``covey rollout show``."""
    state = "paused" if view["paused"] and view["state"] == "running" else view["state"].replace("_", " ")
    tried = ", ".join(view["tried"])
    lines = [f"{view['model']}  {view['from'] or 'none'} -> {tried}   {state}   (rollout {view['id']})"]
    lines.append(f"  because {view['why']}")
    if state == "paused":
        lines.append(f"  paused by {view['paused_by'] or 'somebody'}. Go on: covey rollout resume {view['id']}")
    if view["expedited"]:
        lines.append("  expedited: guardrails and a person decide, there is no verdict on quality")
    width = max((len(stage["name"]) for stage in view["stages"]), default=0)
    for stage in view["stages"]:
        devices = stage["devices"]
        share = f"{devices['verified']}/{devices['online']}" if devices else ""
        gain = f"{stage['gain']:+.4f}" if stage["gain"] is not None else ""
        pairs = f"{stage['pairs']:,.0f} pairs" if stage["pairs"] else ""
        mark = _MARKS[stage["verdict"]]
        head = f"  {mark} {stage['name']:{width}}  {share:>9}  {pairs:>13}  {gain:>8}"
        lines.append(f"{head}  {stage['verdict']:7} {stage['why']}".rstrip())
    if len(view["candidates"]) > 1:
        lines += _candidates(view["candidates"])
    else:
        lines += [f"  promotion waits: {said}" for said in view["promotion"]["waits"]]
    if view["promotion"]["more_outcomes"]:
        more = view["promotion"]["more_outcomes"]
        lines.append(f"  about {more:,} more outcomes prove that it is not worse, if they go on like this")
    now: Row = next((stage for stage in view["stages"] if stage["verdict"] != "PASS"), {})
    if view["state"] == "running" and now.get("waits_for_approval"):
        lines.append(f"  {now['name']} waits for somebody's word: covey rollout approve {view['id']}")
    if view["state"] == "running" and view["expedited"] and not now:
        lines.append(f"  somebody has to promote it: covey rollout approve {view['id']} --reason TEXT")
    if view["waits_for"]:
        lines.append(f"  waits for {view['waits_for']}")
    lines += [f"  {said}" for said in [*set_apart(view), *view["beside"]["lines"]]]
    if view["outcome"]:
        lines.append(f"  {state}: {view['outcome']}")
    return lines


def _candidates(rows: typing.Sequence[Row]) -> list[str]:
    """One line for each of several candidates: its gain with the band around it, and why it is where it is."""
    width = max(len(row["version"]) for row in rows)
    lines = []
    for row in rows:
        gain = f"{row['gain']:+.4f} ({row['low']:+.4f} .. {row['high']:+.4f})" if row["gain"] is not None else "-"
        head = f"  arm {row['arm']}  {row['version']:{width}}  {row['state']:8}  {gain:28}"
        why = row["why"] if row["state"] == "running" else row["why"][:1]  # the rest is among the verdicts
        lines.append(f"{head}  {'; '.join(why)}".rstrip())
    return lines
