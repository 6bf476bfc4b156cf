"""Work out, from the channel alone, what this device should run. Pure."""

from __future__ import annotations

import typing

import msgspec

from edge_agent.generation import Generation, GenerationModel
from shared import experiment
from shared.channel import BundleRef, Channel, ModelChannel
from shared.errors import ModelError, TrustError
from shared.labels import Held, share_of

Refused = typing.Mapping[tuple[str, str, str], str]
Choose = typing.Callable[[str, BundleRef], str]


def check_channel(channel: Channel, region: str, floor: int) -> None:
    """Raise TrustError if a signed channel is not for this device or is older than one it has acted upon."""
    if channel.region != region:
        raise TrustError(f"the channel is for {channel.region!r}, this device is in {region!r}", field="channel region")
    if channel.sequence < floor:
        raise TrustError(
            f"sequence {channel.sequence} after {floor} was seen: a rollback attack", field="channel sequence"
        )


def concerning(channel: Channel, labels: Held) -> Channel:
    """Return the channel as it concerns a device with these labels: with the share of devices like it, of no groups."""
    return msgspec.structs.replace(channel, models=tuple(_concerning(entry, labels) for entry in channel.models))


def _concerning(entry: ModelChannel, labels: Held) -> ModelChannel:
    trial = entry.experiment
    if trial is None or not trial.groups:
        return entry
    own = msgspec.structs.replace(trial, device_share_bp=share_of(trial.groups, labels) or 0, groups=())
    return msgspec.structs.replace(entry, experiment=own)


def is_control(entry: ModelChannel, device: str) -> bool:
    """Whether this device belongs to the control group of the model's experiment."""
    trial = entry.experiment
    return trial is not None and experiment.in_control(trial.salt, device, trial.control_share_bp)


def wants_candidate(entry: ModelChannel, device: str) -> bool:
    """Whether this device tries candidates of the model's experiment."""
    trial = entry.experiment
    if trial is None or device in entry.pins or is_control(entry, device):
        return False
    return experiment.in_stage(trial.salt, device, trial.device_share_bp)


def refs_for(entry: ModelChannel, device: str) -> tuple[BundleRef, ...]:
    """Return what this device may be asked to run of a model, each once."""
    pin = entry.pins.get(device)
    return (pin,) if pin else tuple(dict.fromkeys((entry.incumbent, *entry.candidates)))


def desired_generation(channel: Channel, device: str, refused: Refused, chosen: Choose) -> Generation:
    """Return the generation that fits the channel.

    Parameters
    ----------
    refused : mapping
        Versions that failed here, by (model, version, manifest hash): a refused candidate is left out, and the others
        keep their arms.
    chosen : callable
        Hash of the signed manifest of the form in which this device takes a version; empty if none fits.

    Raises
    ------
    ModelError
        No form of an incumbent, or of the version that this device is pinned to, fits this device.
    """
    models = tuple(_desired(entry, device, refused, chosen) for entry in channel.models)
    return Generation(region=channel.region, models=models, probation_s=channel.probation_s, replay=channel.replay)


def _desired(entry: ModelChannel, device: str, refused: Refused, chosen: Choose) -> GenerationModel:
    ref = entry.pins.get(device) or entry.incumbent
    sha256 = chosen(entry.model, ref)
    if not sha256:
        raise ModelError(
            "no variant of it fits this device",
            field=f"{entry.model}@{ref.version}",
            fix="See covey-edge versions for why; [update] variants and memory_bytes decide.",
        )
    arms = _arms(entry, device, refused, chosen)
    trial = entry.experiment
    if trial and arms and len(arms) < len(entry.candidates):
        trial = msgspec.structs.replace(trial, arms=tuple(arms))
    if trial:
        # Whether this device takes part is settled: a stage that only grows gives it nothing new to install.
        trial = msgspec.structs.replace(trial, device_share_bp=experiment.BASIS_POINTS, control_share_bp=0)
    stays = arms or (is_control(entry, device) and device not in entry.pins)
    (candidate, candidate_sha256), *also = arms.values() if arms else [("", "")]
    return GenerationModel(
        model=entry.model,
        incumbent=ref.version,
        incumbent_sha256=sha256,
        candidate=candidate,
        candidate_sha256=candidate_sha256,
        also=tuple(also),
        experiment=trial if stays else None,
        guard=entry.guard,
    )


def _arms(entry: ModelChannel, device: str, refused: Refused, chosen: Choose) -> dict[int, tuple[str, str]]:
    """Arm to version and manifest hash of each candidate that this device tries."""
    if not wants_candidate(entry, device):
        return {}
    forms = {arm: (ref.version, chosen(entry.model, ref)) for arm, ref in entry.arms.items()}
    return {
        arm: (version, sha256)
        for arm, (version, sha256) in forms.items()
        if sha256 and (entry.model, version, sha256) not in refused
    }
