"""The channel: one signed file for a region that says which bundles run there, in which arms, and how to behave."""

from __future__ import annotations

import typing

import msgspec

from shared import codec
from shared.errors import UsageError, WireError
from shared.experiment import BASIS_POINTS
from shared.labels import Group
from shared.versions import DeviceName, check_name, parse_version

MAX_CHANNEL_BYTES = 1 << 20
MAX_CANDIDATES = 8
MAX_ARM = 15
MAX_PINS = 1000
MAX_GROUPS = 32
BasisPoints = typing.Annotated[int, msgspec.Meta(ge=0, le=BASIS_POINTS)]
Arm = typing.Annotated[int, msgspec.Meta(ge=1, le=MAX_ARM)]
Seconds = typing.Annotated[float, msgspec.Meta(ge=0, le=1e9)]
Share = typing.Annotated[float, msgspec.Meta(ge=0, le=1)]
Mode = typing.Literal["shadow", "canary", "interleave"]
INTERLEAVES, SEVERAL_ARMS, CONTROL_GROUP, LABELS = "interleave", "arms", "control", "labels"
CAN: typing.Final = (INTERLEAVES, SEVERAL_ARMS, CONTROL_GROUP, LABELS)


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
        ``shadow``: scored after the reply, never answers. ``canary``: answers its share of requests. ``interleave``:
        lists are drawn from the candidate and the incumbent in turn; other requests are the incumbent's.
    epoch : int
        Number of this stage in this region; evidence is kept by epoch.
    salt : str
        Fresh for each rollout.
    request_share_bp : int
        Share of requests that each candidate answers, or of lists it takes part in, in basis points.
    device_share_bp : int
        Share of the region's devices that take part; each device works out by hash whether it does.
    keep_pairs : bool
        Score the other arms too, after the reply, so that all are judged on the same inputs.
    arms : tuple of int
        Number of each candidate's arm, in the order of the candidates; empty for 1, 2, … An arm keeps its number
        when another candidate drops out, so that every unit stays in its own.
    control_share_bp : int
        Share of the region's devices that are a control group: no candidate ever runs on them, and what they answer
        counts for the incumbent in this stage.
    groups : tuple of Group
        Where not all devices of the region are alike: who takes part, in place of `device_share_bp`, which is 0 then,
        so that an agent that knows of no labels takes no part. A device is of each group that its labels fit; one
        share is enough. None of the shares reaches into the control group.
    """

    mode: Mode
    epoch: typing.Annotated[int, msgspec.Meta(ge=1, le=(1 << 32) - 1)]
    salt: typing.Annotated[str, msgspec.Meta(min_length=8, max_length=64)]
    request_share_bp: BasisPoints = 0
    device_share_bp: BasisPoints = BASIS_POINTS
    keep_pairs: bool = True
    arms: typing.Annotated[tuple[Arm, ...], msgspec.Meta(max_length=MAX_CANDIDATES)] = ()
    control_share_bp: BasisPoints = 0
    groups: typing.Annotated[tuple[Group, ...], msgspec.Meta(max_length=MAX_GROUPS)] = ()


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
    """What runs of one model.

    Parameters
    ----------
    candidate, also : BundleRef, tuple of BundleRef
        What is tried; several at once are compared with the same incumbent.
    pins : mapping
        Device to the version that it runs alone, whatever is tried elsewhere.
    """

    model: str
    incumbent: BundleRef
    candidate: BundleRef | None = None
    also: typing.Annotated[tuple[BundleRef, ...], msgspec.Meta(max_length=MAX_CANDIDATES - 1)] = ()
    experiment: Experiment | None = None
    guard: Guard = Guard()
    pins: typing.Annotated[dict[DeviceName, BundleRef], msgspec.Meta(max_length=MAX_PINS)] = {}

    @property
    def candidates(self) -> tuple[BundleRef, ...]:
        """Everything that is tried."""
        return (self.candidate, *self.also) if self.candidate else self.also

    @property
    def arms(self) -> dict[int, BundleRef]:
        """Candidates by the number of their arm; the incumbent's is 0."""
        numbers = self.experiment.arms if self.experiment else ()
        return dict(zip(numbers or range(1, MAX_CANDIDATES + 1), self.candidates, strict=False))

    @property
    def refs(self) -> tuple[BundleRef, ...]:
        """Everything that runs somewhere in the region."""
        return (self.incumbent, *self.candidates, *self.pins.values())


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
        return sum(len(ref.variants) for entry in self.models for ref in entry.refs)

    def to_bytes(self) -> bytes:
        """Write the channel."""
        return codec.to_json(self)


def target_path(region: str) -> str:
    """Path of a region's channel among the signed targets."""
    return f"channels/{region}.json"


def needs(says: Channel, model: str) -> frozenset[str]:
    """What a device must understand of a channel to take part in a model's experiment; a part of `CAN`.

    A mode that an agent does not know makes the whole channel unreadable to it, whichever model it is of.
    """
    trials = {entry.model: entry for entry in says.models if entry.experiment}
    found = {INTERLEAVES for one in trials.values() if one.experiment and one.experiment.mode == "interleave"}
    own = trials.get(model)
    if own and own.experiment:
        found |= {SEVERAL_ARMS} if own.also or own.experiment.arms else set()
        found |= {CONTROL_GROUP} if own.experiment.control_share_bp else set()
        found |= {LABELS} if own.experiment.groups else set()
    return frozenset(found)


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
            for ref in entry.refs:
                parse_version(ref.version)
                for variant in ref.variants:
                    check_name(variant, f"models[{i}].variant")
    except UsageError as err:
        raise WireError(err.message, field=f"channel {err.field}", fix=err.fix) from err
    names = [entry.model for entry in channel.models]
    if len(set(names)) != len(names):
        raise WireError("a model stands twice in the channel", field="channel models")
    for i, entry in enumerate(channel.models):
        _check_arms(entry, f"channel models[{i}]")
    return channel


def _check_arms(entry: ModelChannel, field: str) -> None:
    trial = entry.experiment
    if (entry.candidate is None) != (trial is None) or (entry.also and entry.candidate is None):
        raise WireError("candidate and experiment go together", field=field)
    if trial is None:
        return
    if trial.arms and (len(trial.arms) != len(entry.candidates) or len(set(trial.arms)) != len(trial.arms)):
        raise WireError(
            f"{len(entry.candidates)} candidates have the arms {list(trial.arms)}", field=f"{field}.experiment.arms"
        )
    # A device keeps one folder and one arm for each version.
    versions = [entry.incumbent.version]
    for ref in entry.candidates:
        if ref.version in versions and (ref != entry.incumbent or len(entry.candidates) > 1):
            same = "the incumbent" if ref.version == entry.incumbent.version else "a candidate twice"
            raise WireError(f"{ref.version} is {same}", field=f"{field}.candidate")
        versions.append(ref.version)
    if trial.groups and trial.device_share_bp:
        raise WireError("where there are groups, nobody takes part without", field=f"{field}.experiment.groups")
    if max(entry.arms) * trial.request_share_bp > BASIS_POINTS:
        raise WireError("the arms have more than all requests", field=f"{field}.experiment.request_share_bp")
