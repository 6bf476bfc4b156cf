"""Work out, from the channel alone, what this device should run. Pure."""

from __future__ import annotations

import typing

from edge_agent.generation import Generation, GenerationModel
from shared import experiment
from shared.channel import BundleRef, Channel, ModelChannel
from shared.errors import ModelError, TrustError

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


def wants_candidate(entry: ModelChannel, device: str) -> bool:
    """Whether this device takes part in the model's experiment."""
    trial = entry.experiment
    return bool(trial and entry.candidate and experiment.in_stage(trial.salt, device, trial.device_share_bp))


def desired_generation(channel: Channel, device: str, refused: Refused, chosen: Choose) -> Generation:
    """Return the generation that fits the channel.

    Parameters
    ----------
    refused : mapping
        Versions that failed here, by (model, version, manifest hash): a refused candidate is left out.
    chosen : callable
        Hash of the signed manifest of the form in which this device takes a version; empty if none fits.

    Raises
    ------
    ModelError
        No form of an incumbent fits this device.
    """
    models = []
    for entry in channel.models:
        incumbent = chosen(entry.model, entry.incumbent)
        if not incumbent:
            raise ModelError(
                "no variant of it fits this device",
                field=f"{entry.model}@{entry.incumbent.version}",
                fix="See covey-edge versions for why; [update] variants and memory_bytes decide.",
            )
        candidate = ""
        if entry.candidate and wants_candidate(entry, device):
            candidate = chosen(entry.model, entry.candidate)
        if entry.candidate and (entry.model, entry.candidate.version, candidate) in refused:
            candidate = ""
        models.append(
            GenerationModel(
                model=entry.model,
                incumbent=entry.incumbent.version,
                incumbent_sha256=incumbent,
                candidate=entry.candidate.version if entry.candidate and candidate else "",
                candidate_sha256=candidate,
                experiment=entry.experiment if candidate else None,
                guard=entry.guard,
            )
        )
    return Generation(
        region=channel.region, models=tuple(models), probation_s=channel.probation_s, replay=channel.replay
    )
