"""Model versions: ``v1`` and ``v2`` are trained from scratch (stateless), ``v1.1`` continues ``v1`` (stateful)."""

from __future__ import annotations

import re
import typing

import msgspec

from shared.errors import UsageError

_VERSION = re.compile(r"v([1-9]\d{0,4})(?:\.([1-9]\d{0,4}))?", re.ASCII)
_NAME = re.compile(r"[a-z][a-z0-9]*(?:[._-][a-z0-9]+)*")
_MAX_NAME = 63
DeviceName = typing.Annotated[str, msgspec.Meta(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,62}\Z")]
_MAX_PART = 65535


class ModelVersion(typing.NamedTuple):
    """One version; orders as the field does: v1 < v1.1 < v1.2 < v2."""

    major: int
    minor: int = 0

    def __str__(self) -> str:
        return f"v{self.major}.{self.minor}" if self.minor else f"v{self.major}"

    @property
    def is_stateful(self) -> bool:
        """Whether this version continues an earlier one."""
        return self.minor > 0


def parse_version(text: str) -> ModelVersion:
    """Read a version.

    Raises
    ------
    UsageError
        The text is not ``v<major>`` or ``v<major>.<minor>``.

    >>> str(parse_version("v1.12"))
    'v1.12'
    """
    match = _VERSION.fullmatch(text)
    if not match or int(match[1]) > _MAX_PART or int(match[2] or 0) > _MAX_PART:
        raise UsageError(f"{text[:40]!r} is not a version", field="version", fix="Write it like v1 or v1.1.")
    return ModelVersion(int(match[1]), int(match[2] or 0))


def next_stateless(taken: typing.Iterable[ModelVersion]) -> ModelVersion:
    """Next version trained from scratch; a number once taken is never used again.

    >>> str(next_stateless([ModelVersion(1), ModelVersion(1, 1)]))
    'v2'
    """
    return ModelVersion(1 + max((version.major for version in taken), default=0))


def next_stateful(base: ModelVersion, taken: typing.Iterable[ModelVersion]) -> ModelVersion:
    """Next version that continues `base`.

    >>> str(next_stateful(ModelVersion(1), [ModelVersion(1), ModelVersion(1, 1)]))
    'v1.2'
    """
    minors = [version.minor for version in taken if version.major == base.major]
    return ModelVersion(base.major, 1 + max(minors, default=0))


def check_name(text: str, field: str) -> str:
    """Return `text` if it is a name: lower-case words joined by ``-``, ``_`` or ``.``, at most 63 characters.

    Names become paths and URLs, so nothing else is let through.
    """
    if len(text) > _MAX_NAME or not _NAME.fullmatch(text):
        raise UsageError(
            f"{text[:80]!r} is not a name",
            field=field,
            fix="Use lower-case letters, digits and single - _ or . inside.",
        )
    return text


def check_device_name(text: str, field: str) -> str:
    """Return `text` if a device can have this name.

    Raises
    ------
    UsageError
        It can not.

    >>> check_device_name("Till-7.berlin", "--name")
    'Till-7.berlin'
    """
    try:
        return msgspec.convert(text, DeviceName)
    except msgspec.ValidationError as err:
        fix = "Letters, digits, . _ and -; a letter or a digit first; at most 63."
        raise UsageError(f"{text!r:.80} is no name of a device", field=field, fix=fix) from err
