"""What all tables of ``covey.toml`` are made of."""

from __future__ import annotations

import typing

import msgspec

Positive = typing.Annotated[float, msgspec.Meta(gt=0)]
NotNegative = typing.Annotated[float, msgspec.Meta(ge=0)]
Ratio = typing.Annotated[float, msgspec.Meta(ge=0, le=1)]
Count = typing.Annotated[int, msgspec.Meta(ge=0)]
AtLeastOne = typing.Annotated[int, msgspec.Meta(ge=1)]
Params = dict[str, typing.Any]


class Table(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A table of ``covey.toml``: unknown keys fail."""
