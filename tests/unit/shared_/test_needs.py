"""What a device must understand of a channel to take part in an experiment."""

from __future__ import annotations

import typing

import pytest

from shared.channel import CAN, BundleRef, Channel, Experiment, ModelChannel, needs


def model(name: str, *candidates: str, **trial: typing.Any) -> ModelChannel:
    """A model with v1 and candidates."""
    refs = [BundleRef(version=version) for version in candidates]
    said: dict[str, typing.Any] = {"mode": "canary", "epoch": 1, "salt": "salt" * 4}
    return ModelChannel(
        model=name,
        incumbent=BundleRef(version="v1"),
        candidate=refs[0] if refs else None,
        also=tuple(refs[1:]),
        experiment=Experiment(**said | trial) if refs else None,
    )


@pytest.mark.parametrize(
    ("own", "other", "wanted"),
    [
        (model("a"), model("b"), set()),
        (model("a", "v2"), model("b", "v2", "v3", control_share_bp=100), set()),
        (model("a", "v2", mode="interleave"), model("b"), {"interleave"}),
        (model("a"), model("b", "v2", mode="interleave"), {"interleave"}),
        (model("a", "v2", "v3"), model("b"), {"arms"}),
        (model("a", "v3", arms=(2,)), model("b"), {"arms"}),
        (model("a", "v2", control_share_bp=100), model("b"), {"control"}),
    ],
)
def test_a_mode_concerns_the_whole_channel_and_the_rest_its_own_model(
    own: ModelChannel, other: ModelChannel, wanted: set[str]
) -> None:
    found = needs(Channel(region="north", sequence=1, models=(own, other)), "a")
    assert found == wanted
    assert found <= set(CAN)
