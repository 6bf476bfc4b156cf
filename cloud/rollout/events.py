"""The newest things that happened, as sentences: the audit log, and what devices had trouble with."""

from __future__ import annotations

import json
import typing

from cloud.store.store import Store
from shared.clock import format_time

Row = dict[str, typing.Any]
_LOOKED_AT = 400
_ROUTINE = frozenset({"activated", "committed"})
_TROUBLE = frozenset(
    {
        "update-refused",
        "delta-unused",
        "damaged",
        "model-broken",
        "records-dropped",
        "two-devices-use-this-key",
        "name-asked-for",
    }
)
_TONES = {
    "promoted": "good",
    "rolled back": "bad",
    "candidate dropped": "bad",
    "rollout given up": "bad",
    "gate overridden": "bad",
    "alarm": "bad",
    "device set aside": "bad",
    "rollout abort": "bad",
    "rollout undo": "bad",
}
_SAID = {
    "rollout superseded": "{subject} superseded",
    "rollout start": "Rollout of {subject} started",
    "alarm": "{subject} fails more often since its promotion",
    "promoted": "{subject} promoted",
    "rolled back": "{subject} rolled back",
    "candidate dropped": "{subject} dropped, the others go on",
    "candidate not chosen": "{subject} not chosen",
    "rollout given up": "{subject} given up",
    "trigger fired": "A trigger of {subject} fired",
    "model train": "{subject} trained",
    "bundle build": "{subject} signed",
    "gate overridden": "A gate overridden for {subject}",
    "data add": "Rows added to {subject}",
    "device token": "A join token made",
    "device approve": "{subject} approved",
    "device reject": "{subject} rejected",
    "device preauthorise": "{subject} is expected",
    "device rotate": "{subject} asked for a new key",
    "device new-key": "{subject} has a new key",
    "device retire": "{subject} retired",
    "device set aside": "{subject} set aside, as it fails again and again",
    "device release": "{subject} is asked again",
}


def events(store: Store, limit: int = 9) -> list[Row]:
    """Return the newest events, newest first; what happened several times stands once, with its number."""
    rows = [_of_audit(row) for row in store.audit.all(_LOOKED_AT)]
    rows += [_of_device(row) for row in store.fleet.events(_LOOKED_AT) if row["kind"] not in _ROUTINE]
    rows.sort(key=lambda row: row["at_s"], reverse=True)
    alike: dict[tuple[str, str], list[Row]] = {}
    for row in rows:
        alike.setdefault((row["said"], row["reason"]), []).append(row)
    return [
        run[0] | {"n": len(run), "at": format_time(run[0]["at_s"]), "since": format_time(run[-1]["at_s"])}
        for run in list(alike.values())[:limit]
    ]


def _of_audit(row: Row) -> Row:
    action, subject, detail = row["action"], row["subject"], json.loads(row["detail"])
    refused = str(detail.get("result", "done")).partition("not done: ")[2]
    if action == "stage opened":
        stage = detail.get("stage", "a stage")
        said = f"{stage[:1].upper()}{stage[1:]} opened in {subject}"
    else:
        said = _SAID.get(action, f"{action[:1].upper()}{action[1:]}: {{subject}}").replace("{subject}", subject)
    if refused:
        said = f"{said} was asked for, and not done: {refused}"
    tone = "" if refused else _TONES.get(action, "")
    return {"at_s": row["at_s"], "said": said, "actor": row["actor"], "reason": row["reason"], "tone": tone}


def _of_device(row: Row) -> Row:
    said = f"{row['device']}: {row['kind'].replace('-', ' ')}"
    tone = "bad" if row["kind"] in _TROUBLE else ""
    return {"at_s": row["at_s"], "said": said, "actor": row["device"], "reason": row["detail"], "tone": tone}
