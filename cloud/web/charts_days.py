"""The two large charts over event days: who answered, and how much better the candidate is."""

from __future__ import annotations

import itertools
import typing

from cloud.web.charts import (
    WIDE,
    Markup,
    Scale,
    day_labels,
    element,
    ordinal,
    picture,
    points,
    stretched,
    ticks,
)

_CHAR = 7.4  # pixels of a letter, roughly
_TYPICAL_WIDTH = 900.0  # pixels of a wide chart, to tell whether two labels fit
_LABEL_SHARE = 0.12  # of the width: a version that answered for a shorter time is not named in the chart
_THICK_ENOUGH = (0.75, 0.3)  # of the answers
_HALF_BAND = 3.0  # margins that are always in sight on both sides


class Answered(typing.NamedTuple):
    """Who answered on a day: requests by version."""

    day: str
    versions: typing.Mapping[str, int]


def share_chart(
    days: typing.Sequence[Answered], roles: typing.Mapping[str, str], *, first: str, last: str, label: str
) -> Markup:
    """Draw the share of answers by version over event days, newer versions from below.

    Parameters
    ----------
    days : sequence of Answered
        In order; days without answers are left out.
    roles : mapping
        Version to role, from old to new.
    first, last : str
        The days that the axis spans: the same for every region.
    """
    height, foot = 124.0, 20.0
    across = Scale(ordinal(first), ordinal(last), 0.0, WIDE)
    days = [day for day in days if sum(day.versions.values())]
    seen = [version for version in reversed(list(roles)) if any(day.versions.get(version) for day in days)]
    parts, labels = [], []
    base = [0.0] * len(days)
    for version in seen:
        shares = [day.versions.get(version, 0) / sum(day.versions.values()) for day in days]
        top = [low + share for low, share in zip(base, shares, strict=True)]
        parts.append(_area(days, base, top, across, height, f"area {roles[version]}"))
        labels += _name_in(version, days, base, top, across, height)
        base = top
    ends = day_labels(ordinal(first), ordinal(last), height + foot - 4, 2)
    frame = element("line", x1="0", x2="100%", y1=f"{height:g}", y2=f"{height:g}", class_="axis")
    return picture([stretched(parts, height), *labels, frame, *ends], height + foot, label, "shares")


def _area(
    days: typing.Sequence[Answered],
    base: typing.Sequence[float],
    top: typing.Sequence[float],
    across: Scale,
    height: float,
    class_: str,
) -> Markup:
    """Draw one version's share; a single day is as wide as a day."""
    places = [across(ordinal(day.day)) for day in days]
    if len(places) == 1:
        places, base, top = [0.0, WIDE], [*base, *base], [*top, *top]
    upper = [(x, height * (1 - y)) for x, y in zip(places, top, strict=True)]
    lower = [(x, height * (1 - y)) for x, y in zip(places, base, strict=True)]
    return element("path", d=points([*upper, *lower[::-1]]) + "Z", class_=class_)


def _name_in(
    version: str,
    days: typing.Sequence[Answered],
    base: typing.Sequence[float],
    top: typing.Sequence[float],
    across: Scale,
    height: float,
) -> list[Markup]:
    """Write a version's name where it has most of the answers, or else a good part of them, for long enough."""
    for least in _THICK_ENOUGH:
        inside = [(i, low, high) for i, (low, high) in enumerate(zip(base, top, strict=True)) if high - low >= least]
        runs = itertools.groupby(enumerate(inside), key=lambda pair: pair[1][0] - pair[0])
        longest = max(([one for _, one in run] for _, run in runs), key=len, default=[])
        if not longest:
            continue
        first, last = (across(ordinal(days[one[0]].day)) for one in (longest[0], longest[-1]))
        if len(days) > 1 and last - first < _LABEL_SHARE * WIDE:
            continue
        x = (first + last) / 2 if len(days) > 1 else WIDE / 2
        y = height * (1 - (max(low for _, low, _ in longest) + min(high for *_, high in longest)) / 2) + 4
        place = {"x": f"{100 * x / WIDE:.4g}%", "y": f"{y:.4g}"}
        return [element("text", version, text_anchor="middle", class_="on-fill", **place)]
    return []


class Estimate(typing.NamedTuple):
    """How much better the candidate is, as far as was known on a day: higher is better."""

    day: str
    gain: float
    low: float
    high: float


class Mark(typing.NamedTuple):
    """Something that began on a day."""

    day: str
    name: str


def band_chart(
    estimates: typing.Sequence[Estimate],
    marks: typing.Sequence[Mark],
    *,
    margin: float,
    role: str,
    write: typing.Callable[[float], str],
    label: str,
) -> Markup:
    """Draw an estimate with its band over event days, against the line that it must stay above.

    Parameters
    ----------
    estimates : sequence of Estimate
        In order, at least one.
    marks : sequence of Mark
        Openings of stages.
    margin : float
        How much worse the candidate may be; the limit is drawn at minus that.
    write : callable
        Writes a difference.
    """
    head, plot, foot = 26.0, 230.0, 24.0
    days = [ordinal(mark.day) for mark in marks] + [ordinal(one.day) for one in estimates]
    across = Scale(min(days), max(days), 0.0, WIDE)
    low, high = _range(estimates, margin)
    up = Scale(low, high, head + plot, head)
    inside = _band(estimates, across, up, role)
    newest = estimates[-1]
    x, y = across(ordinal(newest.day)) / WIDE * 100, up(min(max(newest.gain, low), high))
    limit = up(-margin)
    # Two words at the right end never lie on each other.
    end = y if abs(y - limit) > 18 else limit - 18 if y <= limit else limit + 18  # noqa: PLR2004
    parts = [
        *_grid(low, high, up, write),
        *_stages(marks, across, head, plot),
        stretched(inside, head + plot + foot),
        element("line", x1="0", x2="100%", y1=f"{limit:.4g}", y2=f"{limit:.4g}", class_="limit"),
        element("text", f"limit {write(-margin)}", x="100%", dx=8, y=f"{limit + 4:.4g}", class_="limit-word"),
        element("circle", cx=f"{x:.4g}%", cy=f"{y:.4g}", r=4, class_=f"dot {role}"),
        element("text", write(newest.gain), x="100%", dx=8, y=f"{end + 4:.4g}", class_="end"),
        *day_labels(min(days), max(days), head + plot + foot - 6, 6),
    ]
    return picture(parts, head + plot + foot, label, "band")


def _range(estimates: typing.Sequence[Estimate], margin: float) -> tuple[float, float]:
    """What is in sight: every estimate and the limit, the newest band whole, and older ones as far as they fit."""
    newest = estimates[-1]
    gains = [one.gain for one in estimates]
    low = min(-2 * margin, min(gains) - margin, max(newest.low, min(gains) - _HALF_BAND * margin) - 0.3 * margin)
    high = max(1.5 * margin, max(gains) + margin, min(newest.high, max(gains) + _HALF_BAND * margin) + 0.3 * margin)
    return low, high


def _band(estimates: typing.Sequence[Estimate], across: Scale, up: Scale, role: str) -> list[Markup]:
    def inside(value: float) -> float:
        return up(min(max(value, up.first), up.last))

    places = [across(ordinal(one.day)) for one in estimates]
    upper = [(x, inside(one.high)) for x, one in zip(places, estimates, strict=True)]
    lower = [(x, inside(one.low)) for x, one in zip(places, estimates, strict=True)]
    line = [(x, inside(one.gain)) for x, one in zip(places, estimates, strict=True)]
    return [
        element("path", d=points([*upper, *lower[::-1]]) + "Z", class_=f"band-area {role}"),
        element("path", d=points(line), class_=f"line {role}"),
    ]


def _grid(low: float, high: float, up: Scale, write: typing.Callable[[float], str]) -> list[Markup]:
    parts = []
    for value in ticks(low, high):
        y = up(value)
        class_ = "zero" if value == 0 else "grid"
        said = "0" if value == 0 else write(value)
        parts.append(element("line", x1="0", x2="100%", y1=f"{y:.4g}", y2=f"{y:.4g}", class_=class_))
        parts.append(element("text", said, x="0", dx=-8, y=f"{y + 4:.4g}", text_anchor="end", class_="tick"))
    return parts


def _stages(marks: typing.Sequence[Mark], across: Scale, head: float, plot: float) -> list[Markup]:
    """Draw where stages opened; a name that would lie on the one before it is left out."""
    parts, free = [], 0.0
    for mark in marks:
        x = across(ordinal(mark.day)) / WIDE
        parts.append(
            element("line", x1=f"{100 * x:.4g}%", x2=f"{100 * x:.4g}%", y1="4", y2=f"{head + plot:g}", class_="stage")
        )
        if x * _TYPICAL_WIDTH < free or x > 1 - len(mark.name) * _CHAR / _TYPICAL_WIDTH:
            continue
        parts.append(element("text", mark.name, x=f"{100 * x:.4g}%", dx=6, y="14", class_="tick roomy"))
        free = x * _TYPICAL_WIDTH + len(mark.name) * _CHAR + 12
    return parts
