"""Draw charts as SVG: colours are CSS classes, text stays text, and one drawing serves light, dark and print.

Places along the x axis are shares of the width, so that a chart grows with the page and its text does not: curves lie
in an inner drawing that is stretched, with strokes that are not.
"""

from __future__ import annotations

import datetime as dt
import math
import typing

import markupsafe

Markup = markupsafe.Markup
WIDE = 1000.0  # inner units over the whole width
_N_TICKS = 7


def points(pairs: typing.Iterable[tuple[float, float]]) -> str:
    """Write corners for a path.

    >>> points([(0, 1.25), (10, 2)])
    'M0,1.25 L10,2'
    """
    return "M" + " L".join(f"{x:.5g},{y:.4g}" for x, y in pairs)


def element(name: str, text: str = "", **attributes: object) -> Markup:
    """Make an element; everything is escaped, and ``class_`` is ``class``, ``text_anchor`` is ``text-anchor``.

    >>> str(element("text", "a < b", x="5%", class_="label"))
    '<text x="5%" class="label">a &lt; b</text>'
    """
    listed = Markup("").join(
        Markup(' {}="{}"').format(key.rstrip("_").replace("_", "-"), value) for key, value in attributes.items()
    )
    return Markup("<{0}{1}>{2}</{0}>").format(Markup(name), listed, text)


def group(name: str, parts: typing.Iterable[Markup], **attributes: object) -> Markup:
    """Make an element around others."""
    return element(name, Markup("").join(parts), **attributes)


def stretched(parts: typing.Iterable[Markup], height: float) -> Markup:
    """Make the inner drawing that is stretched to the width of the outer one."""
    return group(
        "svg", parts, viewBox=f"0 0 {WIDE:g} {height:g}", preserveAspectRatio="none", width="100%", height=f"{height:g}"
    )


def picture(parts: typing.Iterable[Markup], height: float, label: str, class_: str) -> Markup:
    """Make the outer drawing, with what it shows in words."""
    return group("svg", parts, class_=class_, role="img", aria_label=label, width="100%", height=f"{height:g}")


class Scale(typing.NamedTuple):
    """From values to places; `low` and `high` may stand for any two different places."""

    first: float
    last: float
    low: float
    high: float

    def __call__(self, value: float) -> float:
        """Return the place of a value.

        >>> Scale(0, 10, 100, 0)(2.5)
        75.0
        """
        width = self.last - self.first
        return self.low + (self.high - self.low) * ((value - self.first) / width if width else 0.5)


def ticks(low: float, high: float, n: int = _N_TICKS) -> list[float]:
    """Return round numbers between two values, about `n` of them.

    >>> ticks(-0.03, 0.08)
    [-0.02, 0.0, 0.02, 0.04, 0.06, 0.08]
    """
    raw = (high - low) / n
    power = 10.0 ** math.floor(math.log10(raw))
    step = power * next(size for size in (1, 2, 5, 10) if size * power >= raw * (1 - 1e-9))
    return [round(i * step, 12) + 0.0 for i in range(math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9) + 1)]


def ordinal(day: str) -> int:
    """Return a date as a number of days."""
    return dt.date.fromisoformat(day).toordinal()


def short(day: int) -> str:
    """Write such a number as a short date.

    >>> short(ordinal("2013-06-01"))
    '1 Jun'
    """
    date = dt.date.fromordinal(day)
    return f"{date.day} {date:%b}"


def day_labels(first: int, last: int, y: float, n: int) -> list[Markup]:
    """Write dates below an axis, the first and the last at its ends."""
    if last <= first:
        return [element("text", short(first), x="50%", y=f"{y:g}", text_anchor="middle", class_="tick")]
    n = min(n, last - first + 1)
    days = sorted({round(first + (last - first) * i / (n - 1)) for i in range(n)})
    place = Scale(first, last, 0.0, 100.0)
    anchor = {first: "start", last: "end"}
    return [
        element(
            "text",
            short(day),
            x=f"{place(day):.4g}%",
            y=f"{y:g}",
            text_anchor=anchor.get(day, "middle"),
            class_="tick" if day in anchor else "tick roomy",
        )
        for day in days
    ]


# ---- small ones


class Line(typing.NamedTuple):
    """A curve: the role of its version, and its points (place, value)."""

    role: str
    points: typing.Sequence[tuple[float, float]]


def sparkline(lines: typing.Sequence[Line], label: str) -> Markup:
    """Draw curves without axes, a dot at the newest end.

    Parameters
    ----------
    lines : sequence of Line
        Over one common range; those without points are left out.
    label : str
        What it shows, in words.
    """
    width, height, pad = 120.0, 36.0, 4.0
    lines = [line for line in lines if line.points]
    if not lines:
        return Markup("")
    xs = [x for line in lines for x, _ in line.points]
    ys = [y for line in lines for _, y in line.points]
    across = Scale(min(xs), max(xs), pad, width - pad)
    # A line that does not move is drawn in the middle, not at the bottom.
    up = Scale(min(ys), max(ys), height - pad, pad)
    parts = []
    for line in lines:
        places = [(across(x), up(y)) for x, y in line.points]
        parts.append(element("path", d=points(places), class_=f"line {line.role}"))
    x, y = places[-1]
    parts.append(element("circle", cx=f"{x:.4g}", cy=f"{y:.4g}", r=2.5, class_=f"dot {lines[-1].role}"))
    return group(
        "svg", parts, class_="spark", role="img", aria_label=label, viewBox=f"0 0 {width:g} {height:g}",
        width=f"{width:g}", height=f"{height:g}",
    )  # fmt: skip


class Part(typing.NamedTuple):
    """A part of a bar: its class, how much it is, and its name."""

    role: str
    amount: float
    name: str


def bar(parts: typing.Sequence[Part], label: str = "") -> Markup:
    """Draw shares of a whole as one bar; without any, an empty one."""
    whole = sum(part.amount for part in parts)
    drawn, x = [element("rect", x=0, y=0, width=100, height=8, class_="empty")], 0.0
    for part in parts:
        if part.amount <= 0:
            continue
        width = 100.0 * part.amount / whole
        drawn.append(element("rect", x=f"{x:.4g}", y=0, width=f"{width:.4g}", height=8, class_=f"fill {part.role}"))
        x += width
    said = label or ", ".join(f"{part.amount:,g} {part.name}" for part in parts if part.amount > 0) or "none"
    return group(
        "svg", drawn, class_="bar", role="img", aria_label=said, viewBox="0 0 100 8", preserveAspectRatio="none"
    )
