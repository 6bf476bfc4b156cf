"""Labels of devices, ``store = flagship``; and selectors, which say the devices with which labels are meant. Pure."""

from __future__ import annotations

import re
import typing

import msgspec

from shared.errors import UsageError
from shared.experiment import BASIS_POINTS

MAX_LABELS = 16
MAX_SAID = 2 * MAX_LABELS + 1  # by the fleet, by the device's owner, and its class
CLASS, USUAL_CLASS = "class", "standard"
_KEY = r"[a-z][a-z0-9]*(?:[._-][a-z0-9]+)*"
_VALUE = r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}"
_MAX_KEY, _MAX_WHERE, _MAX_VALUES = 63, 8, 64

Key = typing.Annotated[str, msgspec.Meta(pattern=rf"^{_KEY}\Z", max_length=_MAX_KEY)]
Value = typing.Annotated[str, msgspec.Meta(pattern=rf"^{_VALUE}\Z")]
Labels = typing.Annotated[dict[Key, Value], msgspec.Meta(max_length=MAX_LABELS)]
SaidLabels = typing.Annotated[dict[Key, Value], msgspec.Meta(max_length=MAX_SAID)]
Values = typing.Annotated[tuple[Value, ...], msgspec.Meta(min_length=1, max_length=_MAX_VALUES)]
Selector = typing.Annotated[dict[Key, Values], msgspec.Meta(max_length=_MAX_WHERE)]
Where = typing.Mapping[str, typing.Sequence[str]]
Held = typing.Mapping[str, str]


class Group(msgspec.Struct, frozen=True, kw_only=True):
    """Devices that a stage takes: those that a selector means, up to a share of them.

    Parameters
    ----------
    where : mapping
        Label to the values of which a device has one; a device has to fit all labels. Empty means every device.
    device_share_bp : int
        Which part of these, in basis points; each device works out by hash whether it belongs to it.
    """

    where: Selector = {}
    device_share_bp: typing.Annotated[int, msgspec.Meta(ge=0, le=BASIS_POINTS)] = BASIS_POINTS


def check_labels(labels: Held, field: str) -> None:
    """Refuse labels that are none.

    Raises
    ------
    UsageError
        Names the label.
    """
    if len(labels) > MAX_LABELS:
        raise UsageError(f"{len(labels)} labels, at most {MAX_LABELS} are kept", field=field, fix="Leave some out.")
    for key, value in labels.items():
        _check_key(key, field)
        _check_value(value, f"{field} {key}")


def check_where(where: Where, field: str) -> None:
    """Refuse a selector that means nobody, or that can not be read.

    Raises
    ------
    UsageError
        Names the label.
    """
    if len(where) > _MAX_WHERE:
        raise UsageError(f"{len(where)} labels, at most {_MAX_WHERE} are read", field=field, fix="Leave some out.")
    for key, values in where.items():
        _check_key(key, field)
        if len(values) > _MAX_VALUES:
            what = f"{len(values)} values, at most {_MAX_VALUES} are read"
            raise UsageError(what, field=f"{field}.{key}", fix="Give these devices a label of their own.")
        if not values:
            raise UsageError("an empty list means nobody", field=f"{field}.{key}", fix="Name a value, or leave it out.")
        for value in values:
            _check_value(value, f"{field}.{key}")


def _check_key(key: str, field: str) -> None:
    if len(key) > _MAX_KEY or not re.fullmatch(_KEY, key):
        raise UsageError(
            f"{key[:80]!r} is not the name of a label",
            field=field,
            fix="Use lower-case letters, digits and single - _ or . inside; at most 63.",
        )


def _check_value(value: str, field: str) -> None:
    if not re.fullmatch(_VALUE, value):
        raise UsageError(
            f"{value[:80]!r} is not a label's value",
            field=field,
            fix="Letters, digits, . _ and -; at most 63, the first a letter or a digit.",
        )


def parse_labels(texts: typing.Iterable[str], field: str) -> dict[str, str]:
    """Read labels as people write them.

    Raises
    ------
    UsageError
        One of them is not ``KEY=VALUE``, or a key stands twice.

    >>> parse_labels(["store=flagship", "floor=2"], "--label")
    {'store': 'flagship', 'floor': '2'}
    """
    labels: dict[str, str] = {}
    for text in texts:
        key, equals, value = text.partition("=")
        if not equals:
            raise UsageError(f"{text[:80]!r} is not KEY=VALUE", field=field, fix="Such as: store=flagship")
        if key in labels:
            raise UsageError(f"{key[:80]!r} is named twice", field=field, fix="A device has one value of each label.")
        labels[key] = value
    check_labels(labels, field)
    return labels


def in_force(owners: Held, fleets: Held, variants: typing.Sequence[str] = ()) -> dict[str, str]:
    """Return the labels that a device goes by: its owner's, and over them those that the fleet has given it.

    Parameters
    ----------
    variants : sequence of str
        Forms of a model that the device takes: where nobody says its class, it is the first of them.

    >>> in_force({"store": "annex", "till": "old"}, {"store": "flagship"}, ["int8", "standard"])
    {'class': 'int8', 'store': 'flagship', 'till': 'old'}
    """
    first = variants[0] if variants and re.fullmatch(_VALUE, variants[0]) else USUAL_CLASS
    return {CLASS: first, **owners, **fleets}


def matches(where: Where, labels: Held) -> bool:
    """Whether a selector means a device with these labels.

    >>> matches({"store": ["flagship", "test"]}, {"store": "test"}), matches({"store": ["test"]}, {}), matches({}, {})
    (True, False, True)
    """
    return all(labels.get(key) in values for key, values in where.items())


def covers(wide: Where, narrow: Where) -> bool:
    """Whether each device that `narrow` means is meant by `wide` too.

    >>> covers({}, {"a": ["x"]}), covers({"a": ["x", "y"]}, {"a": ["x"], "b": ["z"]}), covers({"a": ["x"]}, {})
    (True, True, False)
    """
    return all(key in narrow and set(narrow[key]) <= set(values) for key, values in wide.items())


def without_needless(groups: typing.Iterable[Group]) -> tuple[Group, ...]:
    """Leave out each group whose devices all belong to another one."""
    kept: list[Group] = []
    for one in groups:
        if any(_includes(other, one) for other in kept):
            continue
        kept = [other for other in kept if not _includes(one, other)]
        kept.append(one)
    return tuple(kept)


def _includes(one: Group, other: Group) -> bool:
    return one.device_share_bp >= other.device_share_bp and covers(one.where, other.where)


def share_of(groups: typing.Iterable[Group], labels: Held) -> int | None:
    """Return the share of devices like this one that take part, in basis points; None if no group means them.

    >>> both = [Group(where={"store": ("test",)}), Group(device_share_bp=1000)]
    >>> share_of(both, {"store": "test"}), share_of(both, {}), share_of(both[:1], {})
    (10000, 1000, None)
    """
    most: int | None = None
    for one in groups:  # asked of each device at each look of the controller
        if (most is None or one.device_share_bp > most) and (not one.where or matches(one.where, labels)):
            most = one.device_share_bp
    return most


def written(where: Where) -> str:
    """Write a selector for people.

    >>> written({"store": ["flagship", "test"], "class": ["int8"]})
    'store=flagship|test class=int8'
    """
    return " ".join(f"{key}={'|'.join(values)}" for key, values in where.items())
