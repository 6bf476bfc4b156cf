"""Reads one line of ``covey.decide/1``: a record that can be decided on, or an error that names the field."""

from __future__ import annotations

import json
import math
import re

import msgspec

from cloud.analysis.records import Arm, Cross, CrossDays, DecideInput, Kind, Last, Pairs, Recent, Stratum
from shared.errors import WireError, WireVersionError

SCHEMA = "covey.decide/1"
_LARGEST = 1e40  # far above any count or sum of squares, far below where a product of two overflows
_SLACK = 1e-6  # sums added up in another order differ by rounding
_WHOLE = "record"
_PATH = re.compile(r" - at `\$\.?(?P<path>[^`]*)`$")
_NAME = re.compile(r"field `(?P<name>[^`]*)`")


class _Head(msgspec.Struct):
    schema: str


_HEAD = msgspec.json.Decoder(_Head)
_BODY = msgspec.json.Decoder(DecideInput)


def parse_line(line: str | bytes) -> DecideInput:
    """Read and check one record.

    Parameters
    ----------
    line : str or bytes
        One JSON object, UTF-8. Unknown fields are ignored.

    Returns
    -------
    DecideInput
        A record whose numbers are finite, in range and possible together.

    Raises
    ------
    WireError
        The line is not JSON, lacks a field, or has one of the wrong type or out of range; ``field`` says which.
    WireVersionError
        The schema is not ``covey.decide/1``.

    Examples
    --------
    >>> parse_line('{"schema": "covey.decide/1", "mode": "ab"}')
    Traceback (most recent call last):
    ...
    shared.errors.WireError: alpha: Object missing required field `alpha`. Send every field of covey.decide/1
    """
    try:
        raw = line.encode() if isinstance(line, str) else line
        if not raw.isascii():
            raw.decode()  # the decoder below does not look into fields that it ignores
        schema = _HEAD.decode(raw).schema
        if schema != SCHEMA:
            raise WireVersionError(f"unknown schema {schema[:80]!r}", field="schema", fix=f"Send {SCHEMA}")
        record = _BODY.decode(raw)
    except msgspec.ValidationError as err:
        raise _named(str(err)) from err
    except (msgspec.DecodeError, UnicodeError) as err:
        _name_literal(line)
        raise WireError(f"not a JSON object: {err}", field=_WHOLE, fix="Send one JSON object a line") from err
    except RecursionError as err:
        raise WireError("nested too deeply", field=_WHOLE, fix=f"Send a record of {SCHEMA}") from err
    _check(record)
    return record


def _name_literal(line: str | bytes) -> None:
    """Name the field that holds ``NaN`` or ``Infinity``, which many encoders write although JSON has no such words."""
    try:
        _check(msgspec.convert(json.loads(line), DecideInput))
    except msgspec.ValidationError as err:
        raise _named(str(err)) from err
    except (ValueError, RecursionError):
        return


def _named(message: str) -> WireError:
    """Turn a decoder's complaint into an error that names the field."""
    path = _PATH.search(message)
    field = path.group("path") if path else ""
    missing = _NAME.search(message) if "missing required field" in message else None
    if missing:
        field = f"{field}.{missing.group('name')}" if field else missing.group("name")
    said = message[: path.start()] if path else message
    return WireError(said, field=field or _WHOLE, fix=f"Send every field of {SCHEMA}")


def _refuse(field: str, value: float, rule: str) -> WireError:
    return WireError(f"{value!r} {rule}", field=field, fix="Correct the sums; nothing was decided")


def _check(record: DecideInput) -> None:
    """Refuse numbers that no experiment can produce."""
    for name in ("alpha", "alpha_promote"):
        level = getattr(record, name)
        if not 0.0 < level < 1.0:
            raise _refuse(name, level, "is not between 0 and 1")
    if not 1.0 / _LARGEST < record.margin < _LARGEST:
        raise _refuse("margin", record.margin, "is not a positive number of metric units")
    if not 1.0 <= record.n_candidates < _LARGEST or record.n_candidates % 1.0:
        raise _refuse("n_candidates", record.n_candidates, "is not a whole number of at least 1")
    _counts(record, "", ("look", "max_looks"))
    _check_allowances(record)
    _counts(record.least(), "minimum.", ("outcomes", "devices", "days"))
    if record.assigned is not None:
        _counts(record.assigned, "assigned.", ("control", "candidate", "share"))
        share = record.assigned.share
        if share is not None and share > 1.0:
            raise _refuse("assigned.share", share, "is more than 1")
    _check_sums(record)


def _check_sums(record: DecideInput) -> None:
    kind = record.metric.kind
    for i, stratum in enumerate(record.strata):
        _check_stratum(stratum, f"strata[{i}]", kind)
    for i, stratum in enumerate(record.matured or ()):
        _check_stratum(stratum, f"matured[{i}]", kind)
    if record.pairs is not None:
        _check_pairs(record.pairs, kind)
    if record.last is not None:
        _check_last(record.last, kind)


def _check_allowances(record: DecideInput) -> None:
    _counts(record, "", ("lost_alike", "tolerance"))
    if record.lost_alike is not None and record.lost_alike < 1.0:
        raise _refuse("lost_alike", record.lost_alike, "is less than 1")
    if record.tolerance >= record.margin:
        raise _refuse("tolerance", record.tolerance, f"is not below the margin, {record.margin!r}")


def _counts(holder: object, prefix: str, names: tuple[str, ...], *, signed: bool = False) -> None:
    for name in names:
        value = getattr(holder, name)
        if value is None:
            continue
        if not math.isfinite(value) or abs(value) > _LARGEST:
            raise _refuse(prefix + name, value, "is not a number of a possible size")
        if value < 0.0 and not signed:
            raise _refuse(prefix + name, value, "is negative")


def _check_last(last: Last, kind: Kind) -> None:
    signed = kind == "continuous"
    for name, recent in (("control", last.control), ("candidate", last.candidate)):
        _counts(recent, f"last.{name}.", ("n",))
        _counts(recent, f"last.{name}.", ("sum",), signed=signed)
        if not signed:
            _check_rate(recent, f"last.{name}.sum")


def _check_rate(arm: Arm | Recent, at: str) -> None:
    if arm.sum > arm.n * (1.0 + _SLACK):
        raise _refuse(at, arm.sum, f"is more than n = {arm.n!r} of a bernoulli metric")


def _check_stratum(stratum: Stratum, at: str, kind: Kind) -> None:
    signed = kind == "continuous"
    for name, arm in (("control", stratum.control), ("candidate", stratum.candidate)):
        _counts(arm, f"{at}.{name}.", ("n", "sum"), signed=signed)
        if not signed:
            _check_rate(arm, f"{at}.{name}.sum")
        _check_arm(arm, f"{at}.{name}", signed=signed)
    if stratum.cross is not None:
        _check_cross(stratum.cross, f"{at}.cross", signed=signed)
        if stratum.cross.days is not None:
            _check_cross(stratum.cross.days, f"{at}.cross.days", signed=signed)


def _check_cross(cross: Cross | CrossDays, at: str, *, signed: bool) -> None:
    _counts(cross, f"{at}.", ("g", "nn"))
    _counts(cross, f"{at}.", ("ns", "sn", "ss"), signed=signed)


def _check_arm(arm: Arm, at: str, *, signed: bool) -> None:
    _counts(arm, f"{at}.", ("n", "sumsq", "g", "g_nn", "g_ss", "assigned"))
    _counts(arm, f"{at}.", ("sum", "g_ns"), signed=signed)
    _check_clusters(arm, (arm.g, arm.g_nn, arm.g_ss), f"{at}.", ("g", "g_nn", "g_ss"))
    if arm.days is not None:
        days = arm.days
        _counts(days, f"{at}.days.", ("g", "nn", "ss"))
        _counts(days, f"{at}.days.", ("ns",), signed=signed)
        _check_clusters(arm, (days.g, days.nn, days.ss), f"{at}.days.", ("g", "nn", "ss"))


def _check_clusters(arm: Arm, sums: tuple[float, float, float], at: str, names: tuple[str, str, str]) -> None:
    """Refuse cluster sums that break Cauchy's inequality: no split of ``n`` and ``sum`` over ``g`` has them."""
    g, nn, ss = sums
    if g > arm.n * (1.0 + _SLACK):
        raise _refuse(at + names[0], g, f"is more than n = {arm.n!r}: every cluster has an outcome")
    if arm.n > 0.0 and g < 1.0:
        raise _refuse(at + names[0], g, f"is less than 1 although n = {arm.n!r}")
    if nn * g * (1.0 + _SLACK) + _SLACK < arm.n * arm.n:
        raise _refuse(at + names[1], nn, f"is less than n^2 / g, which no {g!r} clusters can have")
    if ss * g * (1.0 + _SLACK) + _SLACK < arm.sum * arm.sum:
        raise _refuse(at + names[2], ss, f"is less than sum^2 / g, which no {g!r} clusters can have")


def _check_pairs(pairs: Pairs, kind: Kind) -> None:
    _counts(pairs, "pairs.", ("n", "pos", "neg"))
    _counts(pairs, "pairs.", ("sum",), signed=True)
    if kind == "bernoulli":
        limit = pairs.n * (1.0 + _SLACK)
        if pairs.pos is None or pairs.neg is None:
            name = "pos" if pairs.pos is None else "neg"
            raise WireError("missing for a bernoulli metric", field=f"pairs.{name}", fix="Count the disagreements")
        if pairs.pos + pairs.neg > limit:
            raise _refuse("pairs.pos", pairs.pos, f"and neg = {pairs.neg!r} are more than n = {pairs.n!r}")
        if abs(pairs.sum) > limit:
            raise _refuse("pairs.sum", pairs.sum, f"is more than n = {pairs.n!r} of a bernoulli metric")
    _check_arm(pairs, "pairs", signed=True)
