"""Steps for some devices and by number, with real agents: who has the candidate is who the plan says."""

from __future__ import annotations

import typing

import pytest

STEPS = """
[[rollout.canary.step]]
where = { store = ["flagship", "test"] }
min_days = 1
min_outcomes = 10
[[rollout.canary.step]]
devices = 4
min_days = 1
min_outcomes = 10
[[rollout.canary.step]]
device_share = 1.0
min_days = 1
min_outcomes = 10
"""


def test_first_those_with_the_labels_then_as_many_as_it_says_then_everybody(
    make_world: typing.Callable[..., typing.Any], world_module: typing.Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = [f"n{i}" for i in range(1, 6)]
    monkeypatch.setattr(world_module, "NAMES", dict.fromkeys(names, "north"))
    world = make_world(canary=STEPS)
    (world.folder / "n3").mkdir()
    (world.folder / "n3" / "edge.toml").write_text('[device]\nlabels = { store = "test", class = "kiosk" }\n')
    world.start_cloud()
    world.start_devices()
    world.store.fleet.label("n5", {"store": "flagship"})
    world.install_first()
    said = {row["device"]: row["report"]["labels"] for row in world.store.fleet.all()}
    assert said == {name: {"class": "standard"} for name in names} | {
        "n3": {"class": "kiosk", "store": "test"},
        "n5": {"class": "standard", "store": "flagship"},
    }
    world.add(world.new_world(), "new")
    number = world.roll_out(world.train(why="new"))
    seen: dict[int, set[str]] = {}
    for _ in range(16):
        world.day(20)
        if len(seen) == 3 or world.state(number) != "running":
            break
        opened = [one for one in world.store.rollouts.stages(number) if one["opened_s"] and one["kind"] == "canary"]
        if opened and opened[-1]["region"] == "north":
            tried = {
                row["device"]
                for row in world.store.fleet.all()
                if any(one["epoch"] == opened[-1]["id"] and one["candidate"] for one in row["report"]["models"])
            }
            seen.setdefault(opened[-1]["position"], tried)
    first, second, last = (seen[position] for position in sorted(seen))
    assert first == {"n3", "n5"}
    assert first < second
    assert len(second) == 4
    assert last == set(names)
    assert world.failed == 0
