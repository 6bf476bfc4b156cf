"""The pages' charts: from a page's plain data to a drawing, and to what it shows in words."""

from __future__ import annotations

import typing

from cloud.rollout.story import stage_title
from cloud.web import formats
from cloud.web.charts import Line, Markup, Part, bar, ordinal, sparkline
from cloud.web.charts_days import Answered, Estimate, Mark, band_chart, share_chart

Row = typing.Mapping[str, typing.Any]
_SMOOTH_DAYS = 7
_WORDS = {"verified": "good", "failed": "bad", "timed out": "bad", "waiting": "wait", "offline": "off"}


def spark(history: Row, column: str, label: str) -> Markup:
    """Draw one number of the fleet by event day."""
    points = [(float(ordinal(day["day"])), float(day[column])) for day in history["days"] if day[column] is not None]
    return sparkline([Line("plain", points)], f"{label}, {_span(history)}")


def quality_spark(history: Row) -> Markup:
    """Draw the metric of each version by event day, as a mean over seven days."""
    lines = [Line(tones(history["roles"])[one["version"]], _smooth(one["days"])) for one in history["quality"]]
    names = ", ".join(one["version"] for one in history["quality"])
    return sparkline(
        lines, f"{formats.words(history['metric']['name'])} by version ({names}), seven-day mean, {_span(history)}"
    )


def _span(history: Row) -> str:
    return f"from {formats.day(history['from_day'])} to {formats.day(history['to_day'])}"


def _smooth(days: typing.Sequence[Row]) -> list[tuple[float, float]]:
    points = []
    for i, day in enumerate(days):
        last = ordinal(day["day"])
        window = [one for one in days[: i + 1] if last - ordinal(one["day"]) < _SMOOTH_DAYS and one["n"]]
        n = sum(one["n"] for one in window)
        if n:
            points.append((float(last), sum(one["n"] * one["value"] for one in window) / n))
    return points


def shares(history: Row, region: Row) -> Markup:
    """Draw who answered in a region, by version and event day."""
    newest = region["share"][-1]["versions"] if region["share"] else {}
    whole = sum(newest.values())
    said = ", ".join(f"{version} {formats.percent(n / whole, 0)}" for version, n in newest.items()) if whole else "none"
    return share_chart(
        [Answered(day["day"], day["versions"]) for day in region["share"]],
        tones(history["roles"]),
        first=history["from_day"],
        last=history["to_day"],
        label=f"Share of answers by version in {region['region']}, {_span(history)}; on the last day: {said}",
    )


def tones(roles: typing.Mapping[str, str]) -> dict[str, str]:
    """Return the class of each version: all but the newest of the older ones are paler.

    >>> tones({"v1": "older", "v1.1": "older", "v2": "incumbent"})
    {'v1': 'older elder', 'v1.1': 'older', 'v2': 'incumbent'}
    """
    older = [version for version, role in roles.items() if role == "older"]
    return {version: f"{role} elder" if version in older[:-1] else role for version, role in roles.items()}


def named(history: Row) -> list[tuple[str, str]]:
    """Return the versions that answered, each with its class."""
    answered = {name for region in history["regions"] for day in region["share"] for name in day["versions"]}
    return [(version, tone) for version, tone in tones(history["roles"]).items() if version in answered]


def versions_bar(counts: typing.Mapping[str, int], roles: typing.Mapping[str, str]) -> Markup:
    """Draw on how many devices each version is the incumbent; some may run nothing yet."""
    tone = {"": "none"} | dict(roles)
    return bar([Part(tone.get(name, "older"), n, f"on {name or 'nothing'}") for name, n in counts.items()])


def device_states(devices: typing.Mapping[str, int]) -> dict[str, int]:
    """Count the devices of a stage by what they are doing.

    >>> device_states({"total": 6, "online": 5, "verified": 3, "failed": 1, "timed_out": 0})
    {'verified': 3, 'failed': 1, 'timed out': 0, 'waiting': 1, 'offline': 1}
    """
    online, verified = devices.get("online", 0), devices.get("verified", 0)
    failed, timed_out = devices.get("failed", 0), devices.get("timed_out", 0)
    return {
        "verified": verified,
        "failed": failed,
        "timed out": timed_out,
        "waiting": max(0, online - verified - failed - timed_out),
        "offline": max(0, devices.get("total", 0) - online),
    }


def devices_bar(devices: typing.Mapping[str, int]) -> Markup:
    """Draw the devices of a stage by what they are doing."""
    return bar([Part(_WORDS[word], n, word) for word, n in device_states(devices).items()])


def band(view: Row) -> Markup:
    """Draw how much better the candidate is, by event day."""
    kind, newest = view["measure"]["kind"], view["band"][-1]

    def write(value: float) -> str:
        return formats.change(value, kind)

    lead = view["leader"]["version"]
    label = (
        f"{lead} against {view['from']}, {formats.words(view['measure']['name'])}, above 0 is better:"
        f" {write(newest['gain'])} on {formats.day(newest['day'])}, band from {write(newest['low'])} to"
        f" {write(newest['high'])}; the limit is {write(-view['margin'])}"
    )
    return band_chart(
        [Estimate(one["day"], one["gain"], one["low"], one["high"]) for one in view["band"]],
        [Mark(stage["opened_day"], stage_title(stage)) for stage in view["stages"] if stage["opened_day"]],
        margin=view["margin"],
        role=view["roles"].get(lead, "candidate"),
        write=write,
        label=label,
    )
