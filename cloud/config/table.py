"""What all tables of ``covey.toml`` are made of."""

from __future__ import annotations

import typing

import msgspec

_LARGEST = 1e15  # so that infinity fails as not-a-number does: a limit that nothing can exceed would fail open
_MOST = 10**15  # every database holds it, and every float exactly
Number = typing.Annotated[float, msgspec.Meta(ge=-_LARGEST, le=_LARGEST)]
Positive = typing.Annotated[float, msgspec.Meta(gt=0, le=_LARGEST)]
NotNegative = typing.Annotated[float, msgspec.Meta(ge=0, le=_LARGEST)]
Seconds = typing.Annotated[float, msgspec.Meta(ge=0, le=1e9)]
Days = typing.Annotated[float, msgspec.Meta(gt=0, le=10_000)]
Ratio = typing.Annotated[float, msgspec.Meta(ge=0, le=1)]
Count = typing.Annotated[int, msgspec.Meta(ge=0, le=_MOST)]
AtLeastOne = typing.Annotated[int, msgspec.Meta(ge=1, le=_MOST)]
Params = dict[str, typing.Any]


class Table(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A table of ``covey.toml``: unknown keys fail."""
