"""The channel: one signed file for a region that says which bundles run there, in which arms, and how to behave."""

from __future__ import annotations

import typing

import msgspec

from shared import codec
from shared.errors import UsageError, WireError
from shared.experiment import BASIS_POINTS
from shared.versions import check_name, parse_version

MAX_CHANNEL_BYTES = 1 << 20
BasisPoints = typing.Annotated[int, msgspec.Meta(ge=0, le=BASIS_POINTS)]
Seconds = typing.Annotated[float, msgspec.Meta(ge=0, le=1e9)]
Share = typing.Annotated[float, msgspec.Meta(ge=0, le=1)]
Mode = typing.Literal["shadow", "canary"]


class BundleRef(msgspec.Struct, frozen=True, kw_only=True):
    """A signed bundle by name; its manifest is found and verified under the role that signs bundles.

    Parameters
    ----------
    others : tuple of str
        Variants of the same version that a device may take instead, where the first does not fit it.
    """

    version: str
    variant: str = "standard"
    others: typing.Annotated[tuple[str, ...], msgspec.Meta(max_length=16)] = ()

    @property
    def variants(self) -> tuple[str, ...]:
        """All forms in which the version may be had, the usual one first."""
        return (self.variant, *self.others)


class Experiment(msgspec.Struct, frozen=True, kw_only=True):
    """How the candidate is tried.

    Parameters
    ----------
    mode : str
        ``shadow``: scored after the reply, never answers. ``canary``: answers its share of requests.
    epoch : int
        Number of this stage in this region; evidence is kept by epoch.
    salt : str
        Fresh for each rollout.
    request_share_bp : int
        Share of requests the candidate answers, in basis points (canary).
    device_share_bp : int
        Share of the region's devices that take part; each device works out by hash whether it does.
    keep_pairs : bool
        Score the other arm too, after the reply, so that both are judged on the same inputs.
    """

    mode: Mode
    epoch: typing.Annotated[int, msgspec.Meta(ge=1, le=(1 << 32) - 1)]
    salt: typing.Annotated[str, msgspec.Meta(min_length=8, max_length=64)]
    request_share_bp: BasisPoints = 0
    device_share_bp: BasisPoints = BASIS_POINTS
    keep_pairs: bool = True


class Guard(msgspec.Struct, frozen=True, kw_only=True):
    """When a device leaves a new generation by itself during probation, with or without a network.

    Each limit counts once `min_requests` were answered (for disagreement: once so many were scored by both arms).

    Parameters
    ----------
    failed_ratio : float
        Share of answers that failed.
    slow_ratio : float
        Share of answers that took longer than the model's budget.
    disagree_ratio : float
        Share of inputs for which the two arms decide differently: another class; or, in a regression, more than the
        scale of the metric apart. 1 is never.
    """

    failed_ratio: Share = 0.2
    min_requests: typing.Annotated[int, msgspec.Meta(ge=1)] = 20
    slow_ratio: Share = 0.5
    disagree_ratio: Share = 1.0


class ModelChannel(msgspec.Struct, frozen=True, kw_only=True):
    """What runs of one model."""

    model: str
    incumbent: BundleRef
    candidate: BundleRef | None = None
    experiment: Experiment | None = None
    guard: Guard = Guard()


class Channel(codec.Record, frozen=True, kw_only=True):
    """The same file for every device of a region.

    Parameters
    ----------
    sequence : int
        Grows with every change; a device never goes back.
    replay : bool
        Event times are taken from requests as they are (a replay of old data).
    """

    SCHEMA: typing.ClassVar[str] = "covey.channel/1"
    region: str
    sequence: typing.Annotated[int, msgspec.Meta(ge=1, le=1 << 53)]
    models: tuple[ModelChannel, ...] = ()
    poll_interval_s: typing.Annotated[float, msgspec.Meta(ge=0.05, le=7 * 86_400)] = 60.0
    poll_jitter_ratio: typing.Annotated[float, msgspec.Meta(ge=0, le=1)] = 0.2
    heartbeat_s: Seconds = 300.0
    probation_s: Seconds = 60.0
    replay: bool = False

    @property
    def target_path(self) -> str:
        """Path of the channel among the signed targets."""
        return target_path(self.region)

    @property
    def n_bundles(self) -> int:
        """How many bundles it names, variants counted."""
        refs = [ref for entry in self.models for ref in (entry.incumbent, entry.candidate) if ref]
        return sum(len(ref.variants) for ref in refs)

    def to_bytes(self) -> bytes:
        """Write the channel."""
        return codec.to_json(self)


def target_path(region: str) -> str:
    """Path of a region's channel among the signed targets."""
    return f"channels/{region}.json"


def parse_channel(data: bytes) -> Channel:
    """Read a channel and check that it makes sense.

    Raises
    ------
    WireError
        The message names the field.
    """
    channel = codec.from_json(data, Channel, limit_bytes=MAX_CHANNEL_BYTES)
    try:
        check_name(channel.region, "region")
        for i, entry in enumerate(channel.models):
            check_name(entry.model, f"models[{i}].model")
            for ref in filter(None, (entry.incumbent, entry.candidate)):
                parse_version(ref.version)
                for variant in ref.variants:
                    check_name(variant, f"models[{i}].variant")
    except UsageError as err:
        raise WireError(err.message, field=f"channel {err.field}", fix=err.fix) from err
    names = [entry.model for entry in channel.models]
    if len(set(names)) != len(names):
        raise WireError("a model stands twice in the channel", field="channel models")
    for i, entry in enumerate(channel.models):
        if (entry.candidate is None) != (entry.experiment is None):
            raise WireError("candidate and experiment go together", field=f"channel models[{i}]")
        # A device keeps one folder and one arm for each version.
        if (
            entry.candidate
            and entry.candidate != entry.incumbent
            and entry.candidate.version == entry.incumbent.version
        ):
            raise WireError(f"{entry.candidate.version} is the incumbent", field=f"channel models[{i}].candidate")
    return channel
