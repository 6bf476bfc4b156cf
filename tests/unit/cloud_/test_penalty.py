"""Devices that fail again and again are set aside, and what a version is to blame for is held against none."""

from __future__ import annotations

import functools
import sqlite3
import typing

import msgspec
import pytest

from cloud.cli.main import main
from cloud.config import RolloutSettings
from cloud.enrol import create_session_key
from cloud.rollout import overview, penalty, plan
from cloud.rollout.devices import Counts
from cloud.store import pins as pins_module
from cloud.web import app
from shared.clock import DAY_S, day_of, format_day
from shared.errors import LimitError
from shared.telemetry import ModelStatus
from tests.unit.cloud_.killing import Connection, Fuse, Killed
from tests.unit.cloud_.simulated import MODEL, ORDER, Device, Fleet

Make = typing.Callable[..., Fleet]
SETTINGS = 'max_days = 30\nguardrails = "watch"\n'
DAYS = "penalty_days = 6\n"


def sick(fleet: Fleet, *names: str, installs: str = "refuses") -> list[Device]:
    """Let devices refuse whatever they are asked to try."""
    found = [device for device in fleet.devices if device.name in names]
    for device in found:
        device.installs = installs
    assert len(found) == len(names)
    return found


def failed_before(fleet: Fleet, *names: str, n: int = 2) -> None:
    """Put failures of days gone by on record, at versions that work on others."""
    day = day_of(fleet.now_s)
    for name in names:
        for number in range(90, 90 + n):
            fleet.store.aside.fail(name, MODEL, f"v{number}", day=day, why="golden inputs differ", counts=True)
            fleet.store.aside.stand(MODEL, f"v{number}")


def ends(fleet: Fleet, number: int) -> str:
    """Return what becomes of a rollout."""
    fleet.until(lambda: fleet.row(number)["state"] != "running")
    return str(fleet.row(number)["state"])


def aside(fleet: Fleet) -> list[str]:
    return [row["device"] for row in fleet.store.aside.all()]


def pinned(fleet: Fleet, region: str = "west") -> dict[str, str]:
    return {device: ref.version for device, ref in fleet.channels[region].models[0].pins.items()}


def counts_of(fleet: Fleet, number: int) -> Counts:
    """Devices of the newest verdict."""
    return msgspec.convert(fleet.store.rollouts.verdicts(number)[-1]["inputs"]["devices"], Counts)


def actions(fleet: Fleet, action: str) -> list[tuple[str, str]]:
    return [(row["subject"], row["reason"]) for row in fleet.store.audit.all(200) if row["action"] == action]


# ---- a device that is ill


def test_a_device_that_fails_at_three_versions_is_set_aside_and_asked_again_later(make_fleet: Make) -> None:
    fleet = make_fleet(n=6, rollout=SETTINGS + DAYS)
    fleet.install()
    (west_0,) = sick(fleet, "west-0")
    for version in ("v2", "v3"):  # people give up on rollouts that wait for it
        number = fleet.start()
        fleet.days(2)
        assert counts_of(fleet, number).failed == 1
        assert fleet.order(number, "abort") == "done"
        assert [row["version"] for row in fleet.store.aside.held_against("west-0", 0)][-1] == version
        assert aside(fleet) == []
    number = fleet.start()
    fleet.days(2)
    assert (aside(fleet), pinned(fleet), pinned(fleet, "mid")) == (["west-0"], {"west-0": "v1"}, {})
    fleet.days(1)
    seen = counts_of(fleet, number)
    assert (seen.total, seen.online, seen.verified, seen.aside) == (17, 17, 17, 1)
    assert (seen.failed, seen.executed) == (1, 18)  # the version looks no better for it
    ((who, why),) = actions(fleet, "device set aside")
    assert who == "west-0"
    assert all(f"late@{version}: golden inputs differ" in why for version in ("v2", "v3", "v4"))
    assert fleet.order(number, "abort") == "done"
    number = fleet.start()
    fleet.days(2)
    assert west_0.models[MODEL].refused.keys() == {"v2", "v3", "v4"}  # it was not asked to try v5
    assert counts_of(fleet, number).failed == 0
    assert fleet.order(number, "abort") == "done"
    west_0.installs = "ok"
    fleet.until(lambda: aside(fleet) == [], most=6)
    assert actions(fleet, "device release") == [("west-0", "its time is over, and it is asked again")]
    number = fleet.start()
    fleet.days(3)
    assert (counts_of(fleet, number).verified, aside(fleet), pinned(fleet)) == (18, [], {})


def test_one_more_failure_sets_a_device_aside_again(make_fleet: Make) -> None:
    fleet = make_fleet(n=6, rollout=SETTINGS + DAYS)
    fleet.install()
    failed_before(fleet, "west-0", n=3)
    sick(fleet, "west-0")
    number = fleet.start()
    fleet.days(2)
    assert aside(fleet) == ["west-0"]
    fleet.order(number, "abort")
    fleet.until(lambda: aside(fleet) == [])
    fleet.start()
    fleet.days(2)
    assert aside(fleet) == ["west-0"]


def test_a_slow_line_sets_nobody_aside_again(make_fleet: Make) -> None:
    fleet = make_fleet(n=6, rollout=SETTINGS)
    fleet.install()
    failed_before(fleet, "west-0", n=3)
    sick(fleet, "west-0", installs="hangs")
    number = fleet.start()
    fleet.days(5)
    assert (counts_of(fleet, number).timed_out, aside(fleet)) == (1, [])


def test_a_step_of_so_many_devices_takes_none_that_is_set_aside(make_fleet: Make) -> None:
    steps = "[[rollout.canary.step]]\ndevices = 5\nmin_days = 1\n[[rollout.canary.step]]\ndevice_share = 1.0\n"
    fleet = make_fleet(n=6, rollout=SETTINGS, canary=steps)
    fleet.install()
    failed_before(fleet, "west-0")
    sick(fleet, "west-0")
    number = fleet.start()
    fleet.gain = 0.05
    fleet.until(lambda: bool(fleet.store.rollouts.stages(number)[1]["opened_s"]))
    assert aside(fleet) == ["west-0"]
    assert "5 of 5 devices take part" in [why for _, why in actions(fleet, "stage opened")]


def test_whoever_is_set_aside_has_neither_fallen_silent_nor_gone(make_fleet: Make) -> None:
    step = '[[rollout.canary.step]]\nwhere = { store = ["a"] }\n[[rollout.canary.step]]\ndevice_share = 1.0\n'
    fleet = make_fleet(n=6, rollout=SETTINGS, canary=step)
    fleet.install()
    for device in fleet.devices:
        device.labels = {"store": "a"}
    fleet.days()
    failed_before(fleet, "west-0")
    number = fleet.start()
    fleet.gain = 0.05
    fleet.until(lambda: bool(fleet.store.rollouts.stages(number)[1]["opened_s"]))

    def seen(what: str) -> list[dict[str, typing.Any]]:
        fleet.days()
        found = [one["inputs"].get(what, []) for one in fleet.store.rollouts.verdicts(number)][-1]
        return [one for one in found if one["region"].startswith("west")]

    assert [(one["then"], one["now"]) for one in seen("online") if "opened" in one["since"]] == [(6, 6)]
    (device,) = sick(fleet, "west-0")
    device.models.clear()
    fleet.days(2)
    assert aside(fleet) == ["west-0"]
    assert [(one["then"], one["now"]) for one in seen("online") if "opened" in one["since"]] == [(6, 6)]
    assert [one["tried"] + one["others"] for one in seen("heard")] == [5]


def test_failures_of_long_ago_do_not_count(make_fleet: Make) -> None:
    fleet = make_fleet(n=6, rollout=SETTINGS + "penalty_window_days = 5\n")
    fleet.install()
    failed_before(fleet, "west-0")
    fleet.days(6)
    sick(fleet, "west-0")
    fleet.start()
    fleet.days(3)
    assert aside(fleet) == []


def test_three_sick_devices_of_sixty_hold_nothing_up_once_they_are_set_aside(make_fleet: Make) -> None:
    names = ("west-3", "west-7", "west-12")

    def life(penalty_failures: int, *, is_sick: bool, days: int) -> tuple[list[tuple[str, str]], Fleet]:
        fleet = make_fleet(n=20, rollout=SETTINGS + f"penalty_failures = {penalty_failures}\n")
        fleet.install()
        failed_before(fleet, *names)
        if is_sick:
            sick(fleet, *names)
        number = fleet.start()
        fleet.gain = 0.05
        words = []
        for _ in range(days):
            fleet.days()
            stages = fleet.store.rollouts.stages(number)
            words.append([(stage["region"], stage["verdict"]) for stage in stages if stage["opened_s"]][-1])
        return words, fleet

    healthy, _ = life(3, is_sick=False, days=10)
    held, without = life(0, is_sick=True, days=10)
    helped, fleet = life(3, is_sick=True, days=10)
    assert helped == healthy
    assert [region for region, _ in helped][-1] == "mid"
    assert held[-1] == ("west", "HOLD")
    assert (aside(without), aside(fleet)) == ([], sorted(names))


# ---- whose fault it is


def test_a_bad_release_sets_nobody_aside_however_often_it_comes(make_fleet: Make) -> None:
    fleet = make_fleet(n=6, rollout=SETTINGS)
    fleet.install()
    for _ in range(4):
        for device in fleet.devices:
            device.installs = "refuses"
        assert ends(fleet, fleet.start()) == "rolled_back"
        assert aside(fleet) == []
        assert [fleet.store.aside.failures(device.name) for device in fleet.devices] == [[]] * 18


def test_a_bad_release_is_caught_as_before_where_every_device_has_failed_twice_already(make_fleet: Make) -> None:
    fleet = make_fleet(n=6, rollout=SETTINGS)
    fleet.install()
    failed_before(fleet, *(device.name for device in fleet.devices))
    for device in fleet.devices[::2]:
        device.installs = "refuses"
    number = fleet.start()
    fleet.until(lambda: fleet.row(number)["state"] == "rolled_back")
    assert "9 devices failed" in fleet.row(number)["outcome"]
    assert aside(fleet) == []


def test_while_nobody_knows_whether_a_version_works_it_is_held_against_nobody(make_fleet: Make) -> None:
    fleet = make_fleet(n=6, rollout=SETTINGS + "error_min_executed = 19\n")  # so the gate can say nothing yet
    fleet.install()
    names = [device.name for device in fleet.devices[::6]]
    failed_before(fleet, *names)
    sick(fleet, *names)
    number = fleet.start()
    fleet.days(3)
    assert counts_of(fleet, number).failed == 3
    assert [row["stands"] for row in fleet.store.aside.failed_at(MODEL, "v2").values()] == [0, 0, 0]
    assert aside(fleet) == []


def test_whoever_is_set_aside_for_a_version_that_is_rolled_back_is_let_out(make_fleet: Make) -> None:
    fleet = make_fleet(n=6, rollout=SETTINGS)
    fleet.install()
    failed_before(fleet, "west-0")
    failed_before(fleet, "mid-0", n=3)
    sick(fleet, "west-0", "mid-0")
    number = fleet.start()
    fleet.days(2)
    assert aside(fleet) == ["mid-0", "west-0"]
    fleet.gain = -0.9
    fleet.until(lambda: fleet.row(number)["state"] == "rolled_back")
    assert aside(fleet) == ["mid-0"]  # it had failed three times without that version
    assert actions(fleet, "device release") == [("west-0", "late@v2 went back: that was not the device's fault")]
    assert len(fleet.store.aside.failures("west-0")) == 2


def test_setting_devices_aside_makes_no_version_look_better(make_fleet: Make) -> None:
    fleet = make_fleet(n=6, rollout=SETTINGS)
    fleet.install()
    failed_before(fleet, "west-0", "mid-0", "east-0")
    sick(fleet, "west-0", "mid-0", "east-0")
    number = fleet.start()
    fleet.days(3)
    assert aside(fleet) == ["east-0", "mid-0", "west-0"]
    assert counts_of(fleet, number).error_ratio == pytest.approx(3 / 18)
    sick(fleet, "west-1")  # one more is too many
    fleet.devices[1].models.clear()
    fleet.until(lambda: fleet.row(number)["state"] == "rolled_back", most=3)
    assert "4 devices failed and 0 timed out of 18" in fleet.row(number)["outcome"]
    assert aside(fleet) == []


def test_a_version_that_a_device_runs_after_all_is_taken_off_its_record(make_fleet: Make) -> None:
    fleet = make_fleet(n=6, rollout=SETTINGS)
    fleet.install()
    (device,) = sick(fleet, "west-0")
    fleet.start()
    fleet.days(2)
    assert [row["version"] for row in fleet.store.aside.failures("west-0")] == ["v2"]
    device.installs = "ok"
    device.models.clear()  # it was told to try again
    fleet.days(2)
    assert fleet.store.aside.failures("west-0") == []


@pytest.mark.parametrize(
    ("installs", "trouble", "counts"),
    [("refuses", "", 1), ("hangs", "storage: no space left on device", 1), ("hangs", "", 0), ("trial", "", 0)],
)
def test_what_counts_is_a_failure_of_the_devices_own(
    make_fleet: Make, installs: str, trouble: str, counts: int
) -> None:
    fleet = make_fleet(n=6, rollout=SETTINGS)
    fleet.install()
    (device,) = sick(fleet, "west-0", installs=installs)
    device.trouble = trouble
    failed_before(fleet, "west-0")
    fleet.start()
    fleet.days(5)  # it may take two days, and is heard from once a day
    (row,) = [row for row in fleet.store.aside.failures("west-0") if row["version"] == "v2"]
    assert (row["counts"], row["stands"]) == (counts, 1)
    assert aside(fleet) == ["west-0"] * counts


def test_a_version_of_which_no_form_fits_is_no_failure(make_fleet: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    fleet = make_fleet(n=6, rollout=SETTINGS)
    fleet.install()
    sick(fleet, "west-0")
    failed_before(fleet, "west-0")
    obey = fleet.obey

    def too_small(device: Device, entry: typing.Any) -> ModelStatus:
        said = obey(device, entry)
        return msgspec.structs.replace(said, unfit=tuple(said.refused))

    monkeypatch.setattr(fleet, "obey", too_small)
    number = fleet.start()
    fleet.days(3)
    assert (counts_of(fleet, number).failed, aside(fleet)) == (1, [])


def test_whoever_is_off_or_pinned_fails_at_nothing(make_fleet: Make) -> None:
    fleet = make_fleet(n=6, rollout=SETTINGS)
    fleet.install()
    off, held = fleet.devices[0], fleet.devices[1]
    off.online, held.installs = False, "refuses"
    fleet.store.pins.set(held.name, MODEL, "v1", actor="ada", reason="a test")
    fleet.start()
    fleet.days(5)
    assert fleet.store.aside.failures(off.name) == fleet.store.aside.failures(held.name) == []


# ---- limits


def test_of_a_region_no_more_are_set_aside_than_a_stage_may_fail_on(make_fleet: Make) -> None:
    fleet = make_fleet(n=10, rollout=SETTINGS)
    fleet.install()
    names = [f"west-{i}" for i in range(5)]
    failed_before(fleet, *names)
    sick(fleet, *names)
    fleet.start()
    fleet.days(4)
    assert len(aside(fleet)) == 2


def test_pins_and_devices_that_are_set_aside_fit_into_a_channel_together(
    make_fleet: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    fleet = make_fleet(n=6, rollout=SETTINGS)
    fleet.install()
    monkeypatch.setattr(pins_module, "MAX_PINS", 2)
    monkeypatch.setattr(penalty, "MAX_PINS", 2)
    for name in ("west-1", "west-2", "mid-1"):
        fleet.store.pins.set(name, MODEL, "v1", actor="ada", reason="a test")
    failed_before(fleet, "west-0")
    sick(fleet, "west-0")
    fleet.start()
    fleet.days(2)
    assert aside(fleet) == []
    fleet.store.pins.unset("west-2", MODEL)
    fleet.tick()
    assert aside(fleet) == ["west-0"]
    with pytest.raises(LimitError, match="set aside"):
        fleet.store.pins.set("west-2", MODEL, "v1", actor="ada", reason="a test")
    fleet.store.pins.set("west-0", MODEL, "v2", actor="ada", reason="a pin goes before")
    fleet.tick()
    assert pinned(fleet) == {"west-0": "v2", "west-1": "v1"}


@pytest.mark.parametrize("setting", ["penalty_failures = 1", "penalty_days = 0", "penalty_window_days = 99999"])
def test_a_setting_that_makes_no_sense_is_refused(make_fleet: Make, setting: str) -> None:
    with pytest.raises(Exception, match="penalty_") as error:
        make_fleet(rollout=f"{SETTINGS}{setting}\n")
    assert "line" in str(error.value)


def test_a_device_that_says_it_runs_what_nobody_knows_keeps_what_its_region_runs(make_fleet: Make) -> None:
    fleet = make_fleet(n=6, rollout=SETTINGS)
    fleet.install()
    failed_before(fleet, "west-0")
    liar = fleet.devices[0]
    liar.models[MODEL] = ModelStatus(model=MODEL, incumbent="v777", refused={"v2": "x"})
    fleet.store.db.connection.execute(
        "update devices set report = json_set(report, '$.models[0].incumbent', 'v777') where device = 'west-0'"
    )
    failed_before(fleet, "west-0", n=3)
    with fleet.store.db.transaction():
        penalty._judge(fleet.store, "west-0", RolloutSettings(), day_of(fleet.now_s))
    assert fleet.store.aside.all()[0]["kept"] == {}
    fleet.tick()
    assert pinned(fleet) == {"west-0": "v1"}
    unsigned = fleet.version()
    fleet.store.models.set_manifest(MODEL, unsigned, "")
    report = fleet.store.fleet.get("west-0")["report"]
    report["models"][0]["incumbent"] = unsigned
    assert penalty._kept(fleet.store, {"report": report}) == {}


# ---- what reaches it all the same


def set_aside(fleet: Fleet, name: str = "west-0") -> Device:
    """Set a device aside by the rollout of v2, and let that be promoted."""
    failed_before(fleet, name)
    (device,) = sick(fleet, name)
    number = fleet.start()
    fleet.gain = 0.05
    assert ends(fleet, number) == "promoted"
    device.installs = "ok"
    fleet.days(2)
    assert (aside(fleet), device.models[MODEL].incumbent) == ([name], "v1")
    return device


def test_an_undo_reaches_a_device_that_is_set_aside(make_fleet: Make) -> None:
    fleet = make_fleet(n=6, rollout=SETTINGS)
    fleet.install()
    device = set_aside(fleet, "west-0")
    other = next(one for one in fleet.devices if one.name == "mid-1")
    failed_before(fleet, other.name, n=3)
    with fleet.store.db.transaction():
        penalty._judge(fleet.store, other.name, RolloutSettings(), day_of(fleet.now_s))
    fleet.days(2)
    assert (pinned(fleet, "mid"), other.models[MODEL].incumbent) == ({"mid-1": "v2"}, "v2")
    number = fleet.store.rollouts.all()[0]["id"]
    assert fleet.order(number, "undo") == "done"
    fleet.days()
    assert (pinned(fleet, "mid"), other.models[MODEL].incumbent) == ({"mid-1": "v1"}, "v1")
    assert device.models[MODEL].incumbent == "v1"
    assert aside(fleet) == ["mid-1"]  # the other one was set aside for what was undone


def test_what_can_not_wait_reaches_it_once_it_is_promoted(make_fleet: Make) -> None:
    fleet = make_fleet(n=6, rollout=f"{SETTINGS}[rollout.expedite]\nexpires_days = 20\n")
    fleet.install()
    device = set_aside(fleet)
    settings = msgspec.structs.replace(fleet.project.settings.rollout, expedited=True)
    number = plan.start(
        fleet.store, settings, ORDER, model=MODEL, version=fleet.version(), why="a hole", actor="ada",
        event_day=day_of(fleet.now_s),
    )  # fmt: skip
    fleet.days(2)
    assert device.models[MODEL].candidate == ""
    fleet.until(lambda: all(stage["passed_s"] for stage in fleet.store.rollouts.stages(number)))
    fleet.order(number, "approve")
    assert ends(fleet, number) == "promoted"
    fleet.days(2)
    assert (device.models[MODEL].incumbent, aside(fleet)) == ("v3", ["west-0"])


# ---- the controller


def test_a_controller_that_is_killed_while_it_sets_a_device_aside_does_so_once(
    make_fleet: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Connection, "fuse", Fuse(0))
    monkeypatch.setattr(sqlite3, "connect", functools.partial(sqlite3.connect, factory=Connection))
    fleet = make_fleet(n=6, rollout=SETTINGS)
    fleet.install()
    failed_before(fleet, "west-0")
    sick(fleet, "west-0")
    fleet.start()
    fleet.days(1)
    fleet.now_s += 2 * DAY_S
    for device in fleet.devices:
        fleet.deliver(device)
    writes = 0
    while True:
        writes += 1
        Connection.fuse = Fuse(writes)
        try:
            fleet.tick()
            break
        except Killed:
            fleet.store.close()
            (row,) = fleet.store.db.rows("select count(*) as n from audit where action = 'device set aside'")
            assert len(aside(fleet)) == row["n"] <= 1
        finally:
            Connection.fuse = Fuse(0)
    assert writes > 5
    fleet.tick()
    assert (aside(fleet), pinned(fleet)) == (["west-0"], {"west-0": "v1"})
    assert len(actions(fleet, "device set aside")) == 1
    assert [row["version"] for row in fleet.store.aside.failures("west-0")] == ["v90", "v91", "v2"]


def test_nobody_else_has_more_time_since_a_device_was_set_aside_but_who_is_let_out_has(make_fleet: Make) -> None:
    fleet = make_fleet(n=6, rollout=SETTINGS)
    fleet.install()
    failed_before(fleet, "west-0")
    sick(fleet, "west-0")
    fleet.start()
    fleet.days(1)
    told = {row["region"]: row["told_s"] for row in fleet.store.rollouts.channels()}
    fleet.days(1)
    assert pinned(fleet) == {"west-0": "v1"}
    assert {row["region"]: row["told_s"] for row in fleet.store.rollouts.channels()} == told
    fleet.store.aside.let_out("west-0")
    fleet.store.aside.strike(MODEL, "v2")
    fleet.devices[0].models.clear()
    fleet.devices[0].installs = "ok"
    fleet.now_s += 60
    fleet.deliver(fleet.devices[0])
    fleet.tick()
    assert pinned(fleet) == {}
    assert {row["region"]: row["told_s"] for row in fleet.store.rollouts.channels()} == told | {"west": fleet.now_s}


def test_a_look_at_a_fleet_in_which_nobody_fails_writes_nothing_of_it(make_fleet: Make) -> None:
    fleet = make_fleet(n=6, rollout=SETTINGS)
    number = fleet.trial(days=3)
    seen: list[str] = []
    fleet.store.db.connection.set_trace_callback(seen.append)
    fleet.tick()
    fleet.store.db.connection.set_trace_callback(None)
    own = [sql for sql in seen if "failures" in sql or " aside" in sql]
    assert own
    assert all(sql.startswith("select") for sql in own)
    asked = [f"explain query plan {sql}" for sql in own if "failures" in sql]
    plans = [row["detail"] for sql in asked for row in fleet.store.db.rows(sql)]
    assert plans
    assert all("SEARCH" in said for said in plans), plans
    assert counts_of(fleet, number).aside == 0


# ---- what people see and do


def test_who_is_set_aside_is_shown_with_the_reason_and_can_be_let_out(
    make_fleet: Make, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    fleet = make_fleet(n=6, rollout=SETTINGS)
    fleet.install()
    failed_before(fleet, "west-0")
    sick(fleet, "west-0", "mid-0")
    number = fleet.start()
    fleet.days(2)
    monkeypatch.chdir(fleet.project.folder)

    def run(*words: str) -> str:
        status = main([*words])
        said = capsys.readouterr()
        return f"{status}: {said.out}{said.err}"

    until = format_day(day_of(float(fleet.store.get_meta("event_s"))) + 30)
    said = run("device", "show", "west-0")
    assert f"set aside until {until}, since it fails again and again\n" in said
    assert all(f"  failed at late@{version} on " in said for version in ("v2", "v90", "v91"))
    assert "set aside" not in run("device", "show", "mid-0")
    assert "good, set aside" in run("device", "list")
    assert f"west-0 (west) is set aside until {until}" in run("status")
    assert "set aside, since they fail again and again: west-0" in run("rollout", "show", str(number))
    view = overview.fleet(fleet.project, fleet.store)
    assert [(one["device"], one["region"], one["until_day"]) for one in view["aside"]] == [("west-0", "west", until)]
    shown = {row["device"]: row["aside"] for row in overview.devices(fleet.project, fleet.store)}
    assert [name for name, one in shown.items() if one] == ["west-0"]
    assert "late@v2: golden inputs differ" in shown["west-0"]["why"]
    create_session_key(fleet.project.keys)
    page = app.create_app(fleet.project).test_client().get("/").text
    assert f">west-0</span> until {until}" in page
    assert "west-0 set aside, as it fails again and again" in page

    assert run("device", "release", "mid-0").startswith("5: ")
    assert "would let west-0 take part again" in run("device", "release", "west-0", "--dry-run")
    assert aside(fleet) == ["west-0"]
    assert run("device", "release", "west-0", "--reason", "a new card").startswith("0: west-0 takes part again")
    assert (aside(fleet), fleet.store.aside.failures("west-0")) == ([], [])
    assert actions(fleet, "device release") == [("west-0", "a new card")]
    fleet.days(2)
    assert (aside(fleet), pinned(fleet)) == ([], {})  # one failure, at what it refuses still
