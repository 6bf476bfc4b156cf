"""The labels that a device goes by: learnt when it joins and signs in, said with its status, and what they decide."""

from __future__ import annotations

import contextlib
import pathlib
import typing

import pytest

from edge_agent.config import DeviceSettings, Settings, UpdateSettings
from edge_agent.sync import Sync
from edge_agent.telemetry.forward import status_digest
from edge_agent.telemetry.spool import Spool
from edge_agent.update.desire import concerning, desired_generation
from edge_agent.update.state import State
from shared.channel import BundleRef, Channel, ModelChannel
from shared.errors import ConfigError
from shared.experiment import in_stage
from shared.labels import Group
from tests import fakes

MODEL = "late"
NAMES = [f"till-{i}" for i in range(300)]


def channel(*groups: Group, **trial: typing.Any) -> Channel:
    entry = ModelChannel(
        model=MODEL,
        incumbent=BundleRef(version="v1"),
        candidate=BundleRef(version="v2"),
        experiment=fakes.trial(**{"device_share_bp": 0, "groups": groups} | trial),
    )
    return Channel(region="north", sequence=5, models=(entry,))


def tries(says: Channel, device: str, **labels: str) -> bool:
    own = concerning(says, labels)
    (model,) = desired_generation(own, device, {}, lambda name, ref: f"{name}/{ref.version}").models
    return bool(model.candidate)


def test_a_device_takes_part_as_its_labels_say() -> None:
    says = channel(Group(where={"store": ("flagship",)}), Group(where={}, device_share_bp=2000))
    tenth = {name for name in NAMES if in_stage(fakes.SALT, name, 2000)}
    assert 30 < len(tenth) < 90
    assert {name for name in NAMES if tries(says, name)} == tenth
    assert {name for name in NAMES if tries(says, name, store="outlet")} == tenth
    assert all(tries(says, name, store="flagship") for name in NAMES)


def test_an_agent_that_knows_of_no_groups_takes_no_part() -> None:
    says = channel(Group(where={"store": ("flagship",)}), Group(device_share_bp=9999))
    (model,) = desired_generation(says, "till-1", {}, lambda name, ref: f"{name}/{ref.version}").models
    assert (model.candidate, model.experiment) == ("", None)


def test_a_step_for_more_devices_gives_those_that_are_in_it_nothing_new_to_install() -> None:
    digests = {
        desired_generation(
            concerning(says, {"store": "flagship"}), "till-1", {}, lambda name, ref: f"{name}/{ref.version}"
        ).digest
        for says in (
            channel(Group(where={"store": ("flagship",)})),
            channel(Group(where={"store": ("flagship",)}), Group(device_share_bp=5)),
            channel(device_share_bp=10_000),
        )
    }
    assert len(digests) == 1


def test_a_channel_without_groups_is_left_as_it_is() -> None:
    says = channel(device_share_bp=300, control_share_bp=200)
    assert concerning(says, {"store": "flagship"}) == says


# ---- what it goes by


@contextlib.contextmanager
def syncing(folder: pathlib.Path, settings: Settings) -> typing.Iterator[Sync]:
    cloud = fakes.SignedRepository()
    layout = fakes.join(folder, root=cloud.root)
    Spool(layout.spool_db, 1 << 20).close()
    with contextlib.closing(Sync(layout, layout.load_identity(), settings)) as made:
        yield made


def test_the_fleets_labels_count_over_the_owners_and_all_are_said_with_the_status(tmp_path: pathlib.Path) -> None:
    settings = Settings(
        device=DeviceSettings(labels={"store": "annex", "till": "7"}), update=UpdateSettings(variants=("int8",))
    )
    with syncing(tmp_path / "store", settings) as sync:
        before = sync.status()
        assert before.labels == {"class": "int8", "store": "annex", "till": "7"}
        sync.state.set_labels({"store": "flagship", "class": "kiosk"})
        now = sync.status()
        assert now.labels == {"class": "kiosk", "store": "flagship", "till": "7"}
        assert status_digest(now) != status_digest(before), "the cloud is told at once"
        sync.state.set_labels({})
        assert sync.status() == before


def test_what_the_fleet_has_given_outlives_a_restart(tmp_path: pathlib.Path) -> None:
    for given in ({"a": "1", "b": "2"}, {"b": "3"}):
        with contextlib.closing(State(tmp_path / "state.db")) as state:
            state.set_labels(given)
        with contextlib.closing(State(tmp_path / "state.db")) as state:
            assert state.labels() == given


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("Store = 'flagship'", "device.labels: 'Store' is not the name of a label"),
        ("store = 'main street'", "device.labels store: 'main street' is not a label's value"),
        ("store = 7", "expected `str`, got `int`"),
        ("store = ['a']", "expected `str`, got `array`"),
        ("\n".join(f"k{i} = 'x'" for i in range(17)), "17 labels, at most 16"),
    ],
)
def test_labels_that_are_none_stop_the_agent_and_name_the_file(tmp_path: pathlib.Path, text: str, says: str) -> None:
    layout = fakes.join(tmp_path)
    layout.settings.write_text(f"[device.labels]\n{text}\n")
    with pytest.raises(ConfigError) as refused:
        layout.load_settings({})
    assert says in str(refused.value)
    assert "edge.toml" in str(refused.value)


def test_labels_come_from_the_environment_too(tmp_path: pathlib.Path) -> None:
    layout = fakes.join(tmp_path)
    assert layout.load_settings({"COVEY_DEVICE__LABELS__STORE": "test"}).device.labels == {"store": "test"}
