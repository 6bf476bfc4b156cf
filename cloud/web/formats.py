"""Write numbers, days and times as the pages show them."""

from __future__ import annotations

import datetime as dt

import markupsafe

NOTHING = "\u2013"  # a dash, for what is not known
_MINUS = "\u2212"
_MS = 1e-3
_LARGE = 10


def day(text: str) -> str:
    """Write an ISO date short.

    >>> day("2013-06-01"), day("") == NOTHING
    ('1 Jun', True)
    """
    if not text:
        return NOTHING
    date = dt.date.fromisoformat(text[:10])
    return f"{date.day} {date:%b}"


def long_day(text: str) -> str:
    """Write an ISO date with its year.

    >>> long_day("2013-06-01T12:00:00Z")
    '1 Jun 2013'
    """
    return f"{day(text)} {text[:4]}" if text else NOTHING


def moment(text: str) -> markupsafe.Markup:
    """Write an ISO time as a `time` element: day and minute, UTC.

    >>> str(moment("2013-06-01T12:05:00Z"))
    '<time datetime="2013-06-01T12:05:00Z">1 Jun 12:05</time>'
    """
    return markupsafe.Markup('<time datetime="{}">{} {}</time>').format(text, day(text), text[11:16])


def percent(ratio: float | None, digits: int = 1) -> str:
    """Write a share in percent.

    >>> percent(0.97483).split(), percent(None) == NOTHING
    (['97.5', '%'], True)
    """
    return NOTHING if ratio is None else f"{100 * ratio:.{digits}f}\u00a0%"


def count(number: float | None) -> str:
    """Write a whole number.

    >>> count(16331.0)
    '16,331'
    """
    return NOTHING if number is None else f"{number:,.0f}"


def duration(seconds: float | None) -> str:
    """Write a short time in milliseconds or seconds.

    >>> duration(0.000512), duration(0.033), duration(2.1)
    ('0.51 ms', '33 ms', '2.1 s')
    """
    if seconds is None:
        return NOTHING
    if seconds >= 1:
        return f"{seconds:.1f} s"
    millis = seconds / _MS
    return f"{millis:.0f} ms" if millis >= 10 else f"{millis:.1f} ms" if millis >= 1 else f"{millis:.2f} ms"  # noqa: PLR2004


def value(number: float | None, kind: str) -> str:
    """Write a metric: rates in percent, others as they are.

    >>> value(0.4956, "continuous"), value(0.913, "bernoulli").split()
    ('0.496', ['91.3', '%'])
    """
    if number is None:
        return NOTHING
    if kind == "bernoulli":
        return percent(number)
    return f"{number:.3f}" if abs(number) < _LARGE else f"{number:,.3g}"


def change(number: float | None, kind: str) -> str:
    """Write a difference with its sign: of rates in points, others as they are.

    >>> change(0.049, "continuous"), change(0.0267, "bernoulli"), change(-0.1, "continuous")[1:]
    ('+0.049', '+2.7 pt', '0.100')
    """
    if number is None:
        return NOTHING
    sign = _MINUS if number < 0 else "+"
    size = abs(number)
    if kind == "bernoulli":
        return f"{sign}{100 * size:.1f} pt"
    return f"{sign}{size:.3f}" if size < _LARGE else f"{sign}{size:.3g}"


def words(name: str) -> str:
    """Write a name of the code as words.

    >>> words("log_loss")
    'log loss'
    """
    return name.replace("_", " ")


FILTERS = {
    "day": day,
    "long_day": long_day,
    "moment": moment,
    "percent": percent,
    "count": count,
    "duration": duration,
    "value": value,
    "change": change,
    "words": words,
}
