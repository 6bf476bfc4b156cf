"""What is to be trained, and what came of it."""

from __future__ import annotations

import typing

import msgspec

from cloud.analysis.gates import GateResult
from cloud.export.precompute import TableReport
from cloud.publish.seal import SealedBundle


class Order(msgspec.Struct, frozen=True, kw_only=True):
    """What is to be trained.

    Parameters
    ----------
    model : str
        Its name in ``covey.toml``.
    parent : str
        Version to continue (stateful), or empty to train from scratch.
    features : str
        Path of another feature set; the model's own if empty.
    data : str
        Data set to train on; the model's own if empty. The gate always looks at the model's own, which is trusted.
    why, actor : str
        Why now, and who asked.
    """

    model: str
    parent: str = ""
    features: str = ""
    data: str = ""
    why: str = "asked for"
    actor: str = "unknown"

    @property
    def is_stateful(self) -> bool:
        """Whether an earlier version is continued."""
        return bool(self.parent)


class Trained(typing.NamedTuple):
    """A new version."""

    model: str
    version: str
    gates: list[GateResult]
    table: TableReport | None
    sealed: SealedBundle
    detail: dict[str, object]
