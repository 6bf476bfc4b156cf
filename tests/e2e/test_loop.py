"""The loop with real processes on loopback: install, shadow, canary, promotion, undo, and a bad model stopped."""

from __future__ import annotations

import typing

World = typing.Any


def test_a_better_model_goes_through_shadow_and_each_region_in_order_and_is_promoted(world: World) -> None:
    world.add(world.new_world(), "new")
    version = world.train(why="the world has changed")
    number = world.roll_out(version)
    opened: list[tuple[str, str]] = []
    for _ in range(20):
        world.day()
        for stage in world.store.rollouts.stages(number):
            if stage["opened_s"] and (stage["kind"], stage["region"]) not in opened:
                opened.append((stage["kind"], stage["region"]))
        if world.state(number) != "running":
            break
    assert world.state(number) == "promoted"
    assert opened == [("shadow", "*"), ("canary", "north"), ("canary", "south")]
    assert [verdict for _, _, verdict in world.stages(number)] == ["PASS", "PASS", "PASS"]
    assert {d["versions"]["sales"] for d in world.cloud.devices()} == {version}
    assert world.failed == 0
    assert world.stored() == world.sent()
    assert world.arms["candidate"] > 0


def test_no_later_region_serves_the_candidate_before_its_turn(world: World) -> None:
    world.add(world.new_world(), "new")
    number = world.roll_out(world.train())
    for _ in range(12):
        world.day()
        stages = world.store.rollouts.stages(number)
        for stage in stages:
            if stage["kind"] != "canary":
                continue
            region_rows = [
                row
                for row in world.store.evidence.served("sales", [s["id"] for s in stages], before_day=10**6)
                if row["region"] == stage["region"] and row["arm"] == 1
            ]
            if not stage["opened_s"]:
                assert region_rows == []
        if stages[-1]["opened_s"]:
            break
    assert stages[1]["passed_s"] <= stages[2]["opened_s"]


def test_a_bad_model_forced_past_the_gate_is_stopped_in_shadow_and_never_answers(world: World) -> None:
    world.add(world.new_world(), "new")
    good = world.roll_out(world.train())
    for _ in range(20):
        world.day()
        if world.state(good) != "running":
            break
    assert world.state(good) == "promoted"
    before = dict(world.arms)
    worse = [sale._replace(sold=1 - sale.sold) for sale in world.new_world()]
    world.add(worse, "vendor", dataset="vendor")
    refused = _train_refused(world, data="vendor")
    number = world.roll_out(refused)
    for _ in range(12):
        world.day()
        if world.state(number) != "running":
            break
    assert world.state(number) == "rolled_back"
    assert world.stages(number)[0] == ("shadow", "*", "FAIL")
    epochs = [stage["id"] for stage in world.store.rollouts.stages(number)]
    assert world.store.evidence.devices_that_answered("sales", epochs, 1) == 0
    assert world.arms.get("candidate") == before.get("candidate")
    assert world.stored() == world.sent()


def _train_refused(world: World, **order: str) -> str:
    """Train a model that the gate refuses, and override it as an operator would."""
    from cloud.pipeline import override
    from shared.errors import GateError

    try:
        world.train(**order)
    except GateError:
        version = world.store.models.all("sales")[-1]["version"]
        override(world.project, world.store, "sales", version, reason="a test", actor="test")
        return str(version)
    raise AssertionError("the gate let it pass")


def test_undo_is_one_order_and_downloads_nothing(world: World) -> None:
    world.add(world.new_world(), "new")
    number = world.roll_out(world.train())
    for _ in range(20):
        world.day()
        if world.state(number) != "running":
            break
    blobs = {d.name: sorted(p.name for p in (d.folder / "blobs").iterdir()) for d in world.fleet.devices}
    # Whatever a device still needed would now be missing.
    for path in (world.project.repository / "blobs").rglob("*"):
        if path.is_file():
            path.unlink()
    world.store.rollouts.order(number, "undo", actor="test", reason="second thoughts")
    world.settle_until(lambda: {d["versions"]["sales"] for d in world.cloud.devices()} == {"v1"})
    assert world.state(number) == "undone"
    assert all(d["state"] == "good" for d in world.cloud.devices())
    for device in world.fleet.devices:
        assert {p.name for p in (device.folder / "blobs").iterdir()} <= set(blobs[device.name])
    world.day()
    assert world.stored() == world.sent()
