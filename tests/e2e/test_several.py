"""Several candidates with real processes on loopback: the bad one is dropped, the good one goes on and is promoted."""

from __future__ import annotations

import typing

import pytest

from cloud.pipeline import override
from shared.channel import parse_channel
from shared.errors import GateError

World = typing.Any


def train_bad(world: World) -> str:
    """Train a version that is sure of the opposite, and override the gate that refuses it."""
    world.add([sale._replace(sold=int(sale.colour == "red")) for sale in world.new_world()], "vendor", dataset="vendor")
    with pytest.raises(GateError):
        world.train(data="vendor")
    version = str(world.store.models.all("sales")[-1]["version"])
    override(world.project, world.store, "sales", version, reason="a test", actor="test")
    return version


def test_of_two_candidates_the_bad_one_is_dropped_unseen_and_the_good_one_is_promoted(world: World) -> None:
    world.add(world.new_world(), "new")
    bad, good = train_bad(world), world.train(why="the world has changed")
    number = world.roll_out(bad, good, request_share=0.3)
    world.day()
    both = {device["candidates"]["sales"] for device in world.cloud.devices()}
    assert both == {f"{bad}, {good}"}
    for _ in range(20):
        if world.state(number) != "running":
            break
        world.day()
        if world.store.rollouts.get(number)["candidates"][0]["state"] == "dropped" and world.state(number) == "running":
            for row in world.store.rollouts.channels():
                (entry,) = parse_channel(row["body"]).models
                assert {arm: ref.version for arm, ref in entry.arms.items()} == {2: good}
    assert world.state(number) == "promoted"
    dropped, promoted = world.store.rollouts.get(number)["candidates"]
    assert (dropped["version"], dropped["state"], promoted["state"]) == (bad, "dropped", "promoted")
    assert dropped["why"].startswith("shadow: log_loss: roll back")
    assert set(world.versions) == {"v1", good}
    assert {device["versions"]["sales"] for device in world.cloud.devices()} == {good}
    assert world.failed == 0
    assert world.stored() == world.sent()
