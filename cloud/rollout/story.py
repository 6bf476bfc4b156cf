"""Say in sentences how a fleet and a rollout stand, and what happens next. Pure: plain data in, words out."""

from __future__ import annotations

import datetime as dt
import typing

Row = typing.Mapping[str, typing.Any]
_LETTERS_OF_AN_ABBREVIATION = 3
_E = 2.718281828459045
_NOT_YET = "must be proven not to have got worse"


def place(region: str) -> str:
    """Return a region's name as people write it.

    >>> place("central"), place("usa"), place("us-east-1"), place("*")
    ('Central', 'USA', 'us-east-1', 'the whole fleet')
    """
    if region == "*":
        return "the whole fleet"
    if not (region.isalpha() and region.islower()):
        return region
    return region.upper() if len(region) <= _LETTERS_OF_AN_ABBREVIATION and region != "all" else region.capitalize()


def stage_title(stage: Row) -> str:
    """Return a stage's name as people write it.

    >>> stage_title({"kind": "canary", "region": "west", "wanted_devices": 20, "where": {"store": ["a", "b"]}})
    'West (20 devices with store a or b)'
    >>> stage_title({"kind": "shadow", "region": "*"}), stage_title({"kind": "canary", "region": "west"})
    ('Shadow', 'West')
    """
    name = stage["kind"].capitalize() if stage["region"] == "*" else place(stage["region"])
    some = _some(stage)
    return f"{name} ({some})" if some else name


def _some(stage: Row) -> str:
    """Say which devices of its region a stage takes; nothing if it takes all of them."""
    share, n = stage.get("device_share", 1.0), stage.get("wanted_devices", 0)
    many = devices_text(n) if n else f"{percent(share)} of devices" if share < 1 else ""
    which = " and ".join(f"{key} {' or '.join(values)}" for key, values in stage.get("where", {}).items())
    return f"{many} with {which}" if many and which else many or which


def devices_text(n: int) -> str:
    """Count devices.

    >>> devices_text(0), devices_text(1), devices_text(1234)
    ('no device', '1 device', '1,234 devices')
    """
    return "no device" if n == 0 else "1 device" if n == 1 else f"{n:,} devices"


def percent(ratio: float) -> str:
    """Write a share in percent, with a space that does not break.

    >>> percent(0.624).split()
    ['62', '%']
    """
    return f"{100 * ratio:.0f}\u00a0%"


def date(iso: str) -> str:
    """Write an ISO date as people do.

    >>> date("2013-06-01")
    '1 Jun 2013'
    """
    parsed = dt.date.fromisoformat(iso)
    return f"{parsed.day} {parsed:%b %Y}"


# ---- one rollout


def named(versions: typing.Sequence[str], last: str = "and") -> str:
    """List versions as people do.

    >>> named(["v2"]), named(["v2", "v3", "v4"]), named(["v2", "v3"], "or")
    ('v2', 'v2, v3 and v4', 'v2 or v3')
    """
    *others, final = versions
    return f"{', '.join(others)} {last} {final}" if others else final


def _are(view: Row, plural: str = "are", singular: str = "is") -> str:
    return f"{named(view['tried'])} {singular if len(view['tried']) == 1 else plural}"


def rollout_headline(view: Row) -> str:
    """Return the sentence that answers "is it all right?" for one rollout.

    Parameters
    ----------
    view : mapping
        What `course.course` returns.
    """
    if view["state"] == "running":
        said = _running(view) + (" (expedited, without a verdict on quality)" if view["expedited"] else "")
        return f"{said}; paused" if view["paused"] else said
    to, before = view["to"], view["from"] or "nothing"
    others = [one["version"] for one in view["candidates"] if one["version"] != to]
    if view["state"] == "promoted":
        answering = set(view["incumbents"].values())
        done = "was promoted" if view["from"] else "was installed"
        if answering == {to}:
            over = f"; it was better than {named(others)}" if others else ""
            pinned = f"; {devices_text(len(view['pinned']))} pinned" if view["pinned"] else ""
            return f"{to} {done} and answers everywhere{over}{pinned}"
        now = " and ".join(sorted(answering)) or "nothing"
        return f"{to} {done}; {now} answers now"
    if view["state"] == "undone":
        return f"{to} was undone; {before} answers again"
    word = "rolled back" if view["state"] == "rolled_back" else "aborted"
    it = "them" if others else "it"
    return f"{_are(view, 'were', 'was')} {word}{_where(view)}; {_exposed(view)} with {it}"


def _running(view: Row) -> str:
    opened = [stage for stage in view["stages"] if stage["verdict"] != "WAITING"]
    if not opened:
        return f"{_are(view)} about to start"
    stage = opened[-1]
    if stage["kind"] == "shadow":
        verified = devices_text(stage["devices"].get("verified", 0))
        return f"{_are(view)} in shadow on {verified}; {view['from']} answers everywhere"
    if stage["kind"] == "install":
        done = sum(stage["verdict"] == "PASS" for stage in view["stages"])
        return f"{view['to']} is being installed: {done} of {len(view['stages'])} regions done"
    if all(stage["verdict"] == "PASS" for stage in view["stages"]):
        waits = "somebody has to promote it" if view["expedited"] else "the evidence for promotion is still growing"
        return f"{_are(view)} in every region; {waits}"
    some = _some(stage)
    here = f"{place(stage['region'])}, on {some.replace('of devices', 'of its devices')}"
    return f"{_are(view)} in {here if some else f'{stage_title(stage)}, {_share(stage)}'}"


def _share(stage: Row) -> str:
    """Say how many devices of a stage have verified it."""
    devices = stage["devices"]
    if not devices:
        return "which has just opened"
    online = devices.get("online", 0)
    return f"{percent(devices.get('verified', 0) / online)} of devices" if online else "no device online"


def _where(view: Row) -> str:
    failed = [stage for stage in view["stages"] if stage["verdict"] == "FAIL"]
    opened = [stage for stage in view["stages"] if stage["verdict"] != "WAITING"]
    if not opened:
        return " before it began"
    stage = (failed or opened)[-1]
    return " in shadow" if stage["kind"] == "shadow" else f" in {stage_title(stage)}"


def _exposed(view: Row) -> str:
    n = view["exposed"]
    return "no device answered" if n == 0 else f"{devices_text(n)} had answered"


def rollouts_headline(rows: typing.Sequence[Row]) -> str:
    """Count rollouts by how they ended.

    >>> rollouts_headline([{"state": "running"}, {"state": "promoted"}, {"state": "rolled_back"}])
    '3 rollouts: 1 running, 1 promoted, 1 rolled back'
    """
    if not rows:
        return "No rollout was started yet"
    states = ("running", "promoted", "rolled_back", "aborted", "undone")
    counts = {state: sum(row["state"] == state for row in rows) for state in states}
    said = ", ".join(f"{n} {state.replace('_', ' ')}" for state, n in counts.items() if n)
    return f"{len(rows)} rollout{'s' if len(rows) > 1 else ''}: {said}"


def next_steps(view: Row) -> list[str]:
    """Say what happens next, and what it waits for."""
    if view["state"] != "running":
        return _after(view)
    if view["paused"]:
        by = f" by {view['paused_by']}" if view["paused_by"] else ""
        return [
            f"It is paused{by}. No further stage opens, and a bad verdict still rolls back.",
            f"Go on: covey rollout resume {view['id']}",
        ]
    stages, progress = view["stages"], view["progress"]
    waiting = [stage for stage in stages if stage["verdict"] == "WAITING"]
    if not progress:
        return _between(view, waiting)
    then = f"{stage_title(waiting[0])} opens" if waiting else "the whole of the evidence decides on promotion"
    now = next(stage for stage in stages if stage["name"] == progress["stage"])
    need = _needs(progress, view["plan"])
    held = [f"For now it waits: {now['why']}."] if now["why"] else []
    return [f"{stage_title(now)} passes when {need}; then {then}.", *held, *_always(view)]


def _between(view: Row, waiting: typing.Sequence[Row]) -> list[str]:
    """Say what the next stage waits for, or the promotion, when every stage so far has passed."""
    if waiting and waiting[0]["waits_for_approval"]:
        return [f"{stage_title(waiting[0])} waits for somebody's word: covey rollout approve {view['id']}"]
    if waiting and view["waits_for"]:
        return [f"{stage_title(waiting[0])} waits for {view['waits_for']}."]
    if waiting:
        return [f"{stage_title(waiting[0])} opens when the worker looks next."]
    timed = [f"For now it waits for {view['waits_for']}."] if view["waits_for"] else []
    return [*(_approval(view) if view["expedited"] else [_promotion(view)]), *timed]


def _approval(view: Row) -> list[str]:
    days = view["plan"]["expedite"]["expires_days"]
    return [
        f"Every stage has passed. Somebody promotes it: covey rollout approve {view['id']} --reason TEXT",
        f"Without that, every device goes back to {view['from']} {days} days after it was started.",
    ]


def _needs(progress: Row, plan: Row) -> str:
    verified = f"{percent(plan['verified_share'])} of its online devices have verified the version"
    if progress["kind"] == "install":
        return verified
    if plan.get("expedited"):
        return verified + (", and its guardrails are proven" if plan["guardrails"] == "prove" else "")
    wanted = "1 day" if progress["min_days"] == 1 else f"{progress['min_days']} days"
    days = f"{wanted} ({progress['days']} so far)"
    outcomes = f"{progress['min_outcomes']:,} {progress['counts']} ({progress['outcomes']:,} so far) are in"
    return f"{days} and {outcomes}, and {verified}"


def _promotion(view: Row) -> str:
    newest = view["band"][-1] if view["band"] else None
    have = f"{_E ** min(newest['log_e_not_worse'], 600.0):,.3g}" if newest else "none yet"
    # A chance of error is shared by all candidates that the rollout began with.
    need = len(view["candidates"]) / view["plan"]["alpha_promote"]
    who = view["tried"][0]
    if len(view["tried"]) > 1:
        leads = view["leader"]["version"]
        who = f"Whichever of {named(view['tried'], 'or')} gains most, now {leads},"
    return (
        f"Every stage has passed. {who} is promoted when the evidence that it is not worse by"
        f" {view['margin']:g} reaches {need:g}; it is {have} now.{_more(view)}"
    )


def _more(view: Row) -> str:
    more = view["promotion"]["more_outcomes"]
    harm = [said.partition(" (")[0] for said in view["promotion"]["waits"] if "harmless" in said]
    said = f" If it goes on like this, about {more:,} more outcomes will do." if more else ""
    return said + "".join(f" It also waits for {one.rpartition(':')[0]}, which {_NOT_YET}." for one in harm)


def _always(view: Row) -> list[str]:
    if not view["from"]:
        return []
    several = len(view["tried"]) > 1
    back = "it is dropped, and the others go on" if several else f"every device goes back to {view['from']} by itself"
    end = f"Without a verdict after {view['plan']['max_days']} days it is aborted."
    if view["expedited"]:
        days = view["plan"]["expedite"]["expires_days"]
        end = f"Without a promotion every device goes back by itself {days} days after it was started."
    return [f"If {named(view['tried'], 'or')} proves worse at any look, {back}.", end]


def _after(view: Row) -> list[str]:
    to, before = view["to"], view["from"]
    if view["state"] == "promoted" and before and set(view["incumbents"].values()) == {to}:
        until = f"until event day {date(view['undo_until'])}" if view["undo_until"] else "for now"
        return [f"One order goes back to {before}, which is still on every device, {until}."]
    if view["state"] == "promoted":
        return ["Nothing: this rollout is over."]
    back = f"every device went back to {before}" if before else "no version was left where it ran"
    return [f"Nothing more by itself: {back}. {_are(view)} not offered again unless somebody starts a new rollout."]


# ---- the fleet


def fleet_headline(view: Row, newest: Row | None) -> str:
    """Return the sentence that answers "is it all right?" for the fleet.

    Parameters
    ----------
    view : mapping
        What `overview.fleet` returns.
    newest : mapping, optional
        The rollout that is running, or else the newest.
    """
    total, online = view["devices"]["total"], view["devices"]["online"]
    silent = f"; {devices_text(total - online)} of {total:,} silent" if 0 < online < total else ""
    if total and not online:
        silent = "; no device is online"
    if newest is None and not total:
        return "Nothing runs yet: no device has joined"
    if newest is None:
        return f"{devices_text(total).capitalize()} joined; no model is on them yet"
    if newest["state"] == "promoted" and set(newest["incumbents"].values()) == {newest["to"]}:
        return f"{newest['to']} answers everywhere{silent}"
    return rollout_headline(newest) + silent
