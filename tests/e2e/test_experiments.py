"""Experiments with real processes: planted differences are found, equal models are not harmed, whatever gets lost."""

from __future__ import annotations

import random
import typing

MakeWorld = typing.Callable[..., typing.Any]
World = typing.Any
SPLIT = "keep_pairs = false"
LISTS = 'mode = "interleave"'
FEW_THEN_MANY = "[rollout.region.north]\nrequest_share = 0.2\n[rollout.region.south]\nrequest_share = 0.8"


def begin(make_world: MakeWorld, **settings: typing.Any) -> World:
    """Return a world with v1 everywhere, on the morning of day 0."""
    world = make_world(**settings)
    world.start_cloud()
    world.start_devices()
    world.install_first()
    return world


def begin_in_the_old_world(make_world: MakeWorld, **settings: typing.Any) -> World:
    """Return a world that does not change: v1 is right about it, and so is whatever is trained on the same data."""
    world = begin(make_world, **settings)
    world.likes = ("red", "blue")
    return world


def roll_out_an_equal_model(world: World) -> int:
    """Train once more on the same data, and roll that out."""
    return int(world.roll_out(world.train(why="once more")))


def roll_out_a_better_model(world: World) -> int:
    """Train on the world as it is now, and roll that out."""
    world.add(world.new_world(), "new")
    return int(world.roll_out(world.train(why="the world has changed")))


def outcome(world: World, number: int) -> str:
    """Why a rollout ended."""
    return str(world.store.rollouts.get(number)["outcome"])


def regions_opened(world: World, number: int) -> list[str]:
    """Regions that have answered with the candidate, in order."""
    return [s["region"] for s in world.store.rollouts.stages(number) if s["kind"] == "canary" and s["opened_s"]]


def test_a_split_finds_a_model_whose_answers_drive_customers_away_which_no_shadow_can_see(
    make_world: MakeWorld,
) -> None:
    world = begin_in_the_old_world(make_world, canary=SPLIT)
    world.reacts = lambda sale, said: 1 - sale.sold if said["arm"] == "candidate" else sale.sold
    number = roll_out_an_equal_model(world)
    assert world.days_until_end(number, 15, 60) == "rolled_back"
    assert "log_loss" in outcome(world, number)
    assert (world.failed, world.stored()) == (0, world.sent())


def test_an_equal_model_is_not_harmed_though_regions_differ_by_twenty_points_and_in_their_shares(
    make_world: MakeWorld,
) -> None:
    world = begin_in_the_old_world(make_world, canary=f"{SPLIT}\n{FEW_THEN_MANY}")
    world.lifts = {"north": -0.1, "south": 0.1}
    number = roll_out_an_equal_model(world)
    for _ in range(12):
        world.day(60)
    assert world.state(number) in ("running", "promoted"), outcome(world, number)
    assert regions_opened(world, number) == ["north", "south"]
    assert (world.failed, world.stored()) == (0, world.sent())


def test_a_candidate_that_loses_most_of_its_bad_outcomes_looks_better_and_is_never_promoted(
    make_world: MakeWorld,
) -> None:
    world = begin_in_the_old_world(make_world, canary=SPLIT)
    dice = random.Random(3)

    def crashes(sale: typing.Any, said: typing.Mapping[str, typing.Any]) -> int | None:
        """Three in five of the candidate's wrong answers end in a crash of the application: nobody hears of them."""
        is_wrong = sale.colour != "green" and sale.sold != (sale.colour == "red")
        return None if said["arm"] == "candidate" and is_wrong and dice.random() < 0.6 else int(sale.sold)

    world.reacts = crashes
    number = roll_out_an_equal_model(world)
    for _ in range(20):
        world.day(120)
        assert world.state(number) in ("running", "rolled_back")
    assert "candidate" in world.arms
    assert world.stored() == world.sent()


def test_a_canary_on_pairs_finds_what_nobody_asked_about_before_it_opened(make_world: MakeWorld) -> None:
    world = begin(make_world, margin=0.1)
    world.likes, world.seen = ("red", "blue"), ("green",)  # a colour about which old world and new one agree
    number = roll_out_a_better_model(world)
    for _ in range(8):
        world.day()
        if regions_opened(world, number):
            break
    assert regions_opened(world, number) == ["north"]
    world.seen = ("red", "green", "blue")  # and now the world is the old one again, where the candidate is wrong
    assert world.days_until_end(number, 15, 60) == "rolled_back"
    assert "log_loss" in outcome(world, number)
    assert world.arms["candidate"] > 0
    assert (world.failed, world.stored()) == (0, world.sent())


def test_labels_that_come_three_days_late_are_waited_for(make_world: MakeWorld) -> None:
    world = begin(make_world, label_window_days=4)
    world.late_days = 3
    number = roll_out_a_better_model(world)
    for _ in range(5):
        world.day()
    assert world.stages(number)[0] == ("shadow", "*", "HOLD")
    assert world.days_until_end(number, 20) == "promoted"
    assert world.store.rollouts.get(number)["ended_day"] - world.store.rollouts.get(number)["created_day"] >= 11
    assert (world.failed, world.stored()) == (0, world.sent())


def test_a_device_that_is_offline_all_the_while_holds_nothing_up_and_catches_up_in_one_step(
    make_world: MakeWorld,
) -> None:
    world = begin(make_world, alpha_promote=0.1)  # three devices prove little
    world.offline = {"n2"}
    world.line.cut()
    number = roll_out_a_better_model(world)
    assert world.days_until_end(number, 35) == "promoted"
    epochs = [stage["id"] for stage in world.store.rollouts.stages(number)]
    assert "n2" not in {row["device"] for row in world.store.evidence.pairs("sales", epochs, before_day=10**6)}
    assert world.fleet.devices[1].status()["models"]["sales"]["incumbent"] == "v1"
    world.line.mend()
    world.offline = set()
    world.day()
    assert {d["versions"]["sales"] for d in world.cloud.devices()} == {world.store.rollouts.get(number)["to_version"]}
    assert (world.failed, world.stored()) == (0, world.sent())


def test_lists_drawn_from_two_versions_promote_the_one_that_people_take_from(make_world: MakeWorld) -> None:
    world = begin(make_world, canary=LISTS, alpha_promote=0.1)
    world.lists = True
    number = roll_out_a_better_model(world)
    assert world.days_until_end(number, 30, 60) == "promoted"
    assert "lists" in outcome(world, number)
    assert (world.failed, world.stored()) == (0, world.sent())


def test_lists_drawn_from_two_equal_versions_harm_neither(make_world: MakeWorld) -> None:
    world = begin_in_the_old_world(make_world, canary=LISTS)
    world.lists = True
    number = roll_out_an_equal_model(world)
    for _ in range(10):
        world.day(60)
    assert world.state(number) in ("running", "promoted"), outcome(world, number)
    assert regions_opened(world, number)[0] == "north"
    assert world.arms["candidate"] > 0
    assert (world.failed, world.stored()) == (0, world.sent())


def test_two_candidates_equal_to_the_incumbent_are_both_unharmed_on_pairs(make_world: MakeWorld) -> None:
    world = begin_in_the_old_world(make_world)
    number = int(world.roll_out(world.train(why="once more"), world.train(why="and again"), request_share=0.25))
    for _ in range(8):
        world.day()
        if world.state(number) != "running":
            break
    assert world.state(number) in ("running", "promoted"), outcome(world, number)
    assert "rolled back" not in {row["action"] for row in world.store.audit.all(100)}
    dropped = [one["why"] for one in world.store.rollouts.get(number)["candidates"] if one["state"] == "dropped"]
    assert not [why for why in dropped if "roll back" in why]
    assert (world.failed, world.stored()) == (0, world.sent())
