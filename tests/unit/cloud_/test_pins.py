"""Pins: one device runs one version whatever is rolled out, and counts in no stage; which pins are refused."""

from __future__ import annotations

import json
import typing

import msgspec
import pytest

from cloud.cli.draw import rollout_lines
from cloud.cli.main import main
from cloud.rollout import course, overview, story
from cloud.store import pins as pins_module
from cloud.store.pins import Pins
from shared.channel import MAX_PINS, parse_channel
from shared.errors import ConflictError, CoveyError, LimitError, NotFoundError, WireError
from tests.unit.cloud_.simulated import MODEL, Fleet

Make = typing.Callable[..., Fleet]


def pin(fleet: Fleet, device: str, version: str) -> None:
    fleet.store.pins.set(device, MODEL, version, actor="ada", reason="its owner asked")


def test_a_pinned_device_is_named_in_its_regions_channel_alone_and_counts_in_no_stage(make_fleet: Make) -> None:
    fleet = make_fleet()
    fleet.install()
    pin(fleet, "west-0", "v1")
    number = fleet.start()
    fleet.tick()
    fleet.gain = 0.05
    fleet.days(4)
    named = {
        region: {d: ref.version for d, ref in one.models[0].pins.items()} for region, one in fleet.channels.items()
    }
    assert named == {"west": {"west-0": "v1"}, "mid": {}, "east": {}}
    counts = fleet.store.rollouts.verdicts(number)[-1]["inputs"]["devices"]
    assert (counts["total"], counts["verified"], counts["pinned"]) == (11, 11, 1)
    view = overview.rollout(fleet.project, fleet.store, number)
    assert any("pinned, and counted in no stage: west-0" in line for line in rollout_lines(view))
    fleet.until(lambda: fleet.row(number)["state"] == "promoted")
    fleet.days(2)
    runs = {device.name: device.models[MODEL].incumbent for device in fleet.devices}
    assert {name for name, version in runs.items() if version == "v1"} == {"west-0"}
    view = course.course(fleet.project, fleet.store, number)
    assert story.rollout_headline(view) == "v2 was promoted and answers everywhere; 1 device pinned"
    fleet.store.pins.unset("west-0", MODEL)
    fleet.days(2)
    assert {device.models[MODEL].incumbent for device in fleet.devices} == {"v2"}


def test_a_region_in_which_nobody_takes_part_holds_nothing_up(make_fleet: Make) -> None:
    fleet = make_fleet(n=1, rollout='max_days = 40\nguardrails = "watch"', min_devices=1)
    fleet.install()
    pin(fleet, "mid-0", "v1")
    number = fleet.start()
    fleet.gain = 0.05
    fleet.until(lambda: fleet.row(number)["state"] != "running")
    assert fleet.row(number)["state"] == "promoted", fleet.row(number)["outcome"]
    assert fleet.stages(number)["mid"]["why"] == "no device here takes part"


def test_a_region_whose_devices_are_all_offline_is_waited_for(make_fleet: Make) -> None:
    fleet = make_fleet(rollout='max_days = 40\nguardrails = "watch"')
    number = fleet.trial()
    fleet.gain = 0.05
    fleet.until(lambda: bool(fleet.stages(number)["west"]["opened_s"]))
    for device in fleet.devices:
        device.online = device.region != "mid"
    fleet.until(lambda: bool(fleet.stages(number)["mid"]["opened_s"]))
    fleet.days(6)
    assert "no device of the stage is online" in fleet.stages(number)["mid"]["why"]


def test_a_pinned_device_that_can_not_is_no_failure_of_the_rollout(make_fleet: Make) -> None:
    fleet = make_fleet(rollout="max_days = 40\nerror_min_executed = 1\nerror_ratio = 0.0")
    fleet.install()
    pin(fleet, "west-0", "v1")
    fleet.devices[0].installs = "hangs"
    number = fleet.start()
    fleet.gain = 0.05
    fleet.until(lambda: fleet.row(number)["state"] != "running")
    assert fleet.row(number)["state"] == "promoted", fleet.row(number)["outcome"]


def test_the_fleet_says_who_is_pinned(make_fleet: Make) -> None:
    fleet = make_fleet()
    fleet.install()
    pin(fleet, "mid-1", "v1")
    said = {"device": "mid-1", "region": "mid", "model": MODEL, "version": "v1", "reason": "its owner asked"}
    assert overview.fleet(fleet.project, fleet.store)["pins"] == [said]
    assert [row["device"] for row in overview.devices(fleet.project, fleet.store) if row["pins"] == {MODEL: "v1"}] == [
        "mid-1"
    ]


def refused(fleet: Fleet, device: str, version: str) -> CoveyError:
    with pytest.raises(CoveyError) as error:
        pin(fleet, device, version)
    return error.value


def test_what_can_not_be_pinned_is_refused(make_fleet: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    fleet = make_fleet()
    assert isinstance(refused(fleet, "west-0", fleet.version()), ConflictError)  # nothing runs yet
    fleet.install()
    assert isinstance(refused(fleet, "nobody", "v1"), NotFoundError)
    assert isinstance(refused(fleet, "west-0", "v99"), NotFoundError)
    fleet.store.models.set_manifest(MODEL, "v1", "")
    assert "not signed" in str(refused(fleet, "west-0", "v1"))
    fleet.store.models.set_manifest(MODEL, "v1", "ab" * 32)
    fleet.store.fleet.retire("west-1")
    assert "is retired" in str(refused(fleet, "west-1", "v1"))
    monkeypatch.setattr(pins_module, "MAX_PINS", 2)
    pin(fleet, "west-2", "v1")
    pin(fleet, "west-3", "v1")
    assert isinstance(refused(fleet, "west-0", "v1"), LimitError)
    pin(fleet, "west-3", "v2")  # in place of its own
    pin(fleet, "mid-0", "v1")
    with pytest.raises(NotFoundError, match="is not pinned"):
        Pins(fleet.store.db).unset("west-0", MODEL)


def test_a_channel_with_a_thousand_pins_is_read_and_one_with_an_odd_name_is_not(make_fleet: Make) -> None:
    fleet = make_fleet()
    fleet.install()
    pin(fleet, "west-0", "v1")
    fleet.tick()
    channel = fleet.channels["west"]
    (entry,), ref = channel.models, channel.models[0].pins["west-0"]

    def with_pins(names: typing.Iterable[str]) -> bytes:
        changed = msgspec.structs.replace(entry, pins=dict.fromkeys(names, ref))
        return msgspec.structs.replace(channel, models=(changed,)).to_bytes()

    names = [f"till-{i:058d}" for i in range(MAX_PINS)]
    assert len(parse_channel(with_pins(names)).models[0].pins) == MAX_PINS
    for bad in ([*names, "one-more"], ["../etc"], [""], ["a" * 64], ["x\n"]):
        with pytest.raises(WireError, match="pins"):
            parse_channel(with_pins(bad))


def test_a_pin_is_said_with_its_reason_and_is_in_the_audit_log(
    make_fleet: Make, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    fleet = make_fleet()
    fleet.install()
    monkeypatch.chdir(fleet.project.folder)

    def run(*words: str) -> tuple[int, str]:
        status = main(["device", *words])
        said = capsys.readouterr()
        return status, said.out + said.err

    assert "needs a reason" in run("pin", "west-0", MODEL, "v1")[1]
    dry = run("pin", "west-0", MODEL, "v1", "--reason", "a jury", "--dry-run")
    assert dry == (0, "would pin west-0 (west) to late@v1\n")
    assert fleet.store.pins.of_device("west-0") == []
    assert run("pin", "west-0", MODEL, "@incumbent", "--reason", "a jury", "--json") == (
        0, '{"device": "west-0", "model": "late", "version": "v1"}\n',
    )  # fmt: skip
    status, said = run("show", "west-0")
    assert (status, "pinned to late@v1 by" in said, said.count("a jury")) == (0, True, 1)
    assert json.loads(run("show", "west-0", "--json")[1])["pins"][0]["reason"] == "a jury"
    assert run("unpin", "west-0", MODEL, "--dry-run") == (0, "would unpin west-0 from v1\n")
    assert run("unpin", "west-0", MODEL, "--reason", "the jury is done")[0] == 0
    assert run("unpin", "west-0", MODEL)[0] != 0
    log = [(row["action"], row["subject"], row["reason"]) for row in fleet.store.audit.all(2)]
    assert log == [("device unpin", "west-0", "the jury is done"), ("device pin", "west-0", "a jury")]


def test_the_audit_log_says_which_stage_opened_and_what_was_refused(
    make_fleet: Make, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    fleet = make_fleet()
    number = fleet.trial()
    fleet.order(number, "approve")
    monkeypatch.chdir(fleet.project.folder)
    assert main(["audit"]) == 0
    lines = [line.split("  ", 2)[2].strip() for line in capsys.readouterr().out.splitlines()]
    assert f"stage opened      rollout {number}: shadow" in lines
    assert f"rollout approve   rollout {number}  a test (not done: no stage waits for approval)" in lines
