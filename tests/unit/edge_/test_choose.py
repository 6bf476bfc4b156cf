"""A device picks the form of a version that it can run, and takes the next one if that fails."""

from __future__ import annotations

import contextlib
import pathlib
import typing

import msgspec
import pytest

from edge_agent import costs
from edge_agent.config import UpdateSettings
from edge_agent.predict.loaded import LoadedBundle
from edge_agent.update.choose import Choice, choose
from edge_agent.update.install import Installer, Outcome
from edge_agent.update.state import State
from edge_agent.update.trust import Repository, Where
from shared.bundle import Budgets, Manifest, digest_of
from shared.channel import BundleRef, Channel, Experiment, ModelChannel, parse_channel
from shared.errors import ModelError, UnreachableError, WireError
from tests import fakes


def manifest(variant: str, memory_bytes: int = 1 << 30) -> Manifest:
    made = fakes.make_bundle("v1").manifest
    return msgspec.structs.replace(made, variant=variant, budgets=Budgets(memory_bytes=memory_bytes))


OFFERS = [("aa", manifest("standard", 900)), ("bb", manifest("small", 300)), ("cc", manifest("tiny", 100))]


@pytest.mark.parametrize(
    ("wanted", "memory_bytes", "refused", "sha256"),
    [
        ((), 0, [], "aa"),
        ((), 900, [], "aa"),
        ((), 899, [], "bb"),
        ((), 299, [], "cc"),
        (("tiny", "standard"), 0, [], "cc"),
        (("unheard-of", "small"), 0, [], "bb"),
        ((), 0, ["aa"], "bb"),
        ((), 0, ["aa", "bb"], "cc"),
        (("small", "tiny"), 200, [], "cc"),
        ((), 0, ["aa", "bb", "cc"], "aa"),
    ],
)
def test_a_device_takes_the_first_that_is_wanted_fits_and_works(
    wanted: tuple[str, ...], memory_bytes: int, refused: list[str], sha256: str
) -> None:
    known = {("late", "v1", one): "failed" for one in refused}
    assert choose(OFFERS, wanted=wanted, memory_bytes=memory_bytes, refused=known) == Choice(sha256)


@pytest.mark.parametrize(
    ("wanted", "memory_bytes", "says"),
    [
        ((), 99, "the smallest variant may take 100 bytes, this device gives 99"),
        (("standard",), 500, "the smallest variant may take 900 bytes, this device gives 500"),
        (("other",), 0, "offered are standard, small, tiny; this device wants other"),
    ],
)
def test_a_device_that_nothing_fits_says_why(wanted: tuple[str, ...], memory_bytes: int, says: str) -> None:
    assert choose(OFFERS, wanted=wanted, memory_bytes=memory_bytes, refused={}) == Choice("", says)


class Nobody:
    """No agent runs."""

    def active(self) -> str:
        raise UnreachableError("no agent runs")

    def activate(self, digest: str) -> None:
        raise UnreachableError(f"no agent runs to serve {digest}")


class Device:
    """A device, and a cloud that offers each version in three forms."""

    def __init__(self, folder: pathlib.Path) -> None:
        self.cloud = fakes.SignedRepository()
        self.layout = fakes.join(folder, root=self.cloud.root)
        self.fails: set[str] = set()
        self.tested: list[str] = []

    def publish(self, sequence: int, incumbent: str, candidate: str = "", trial: Experiment | None = None) -> None:
        for version in filter(None, (incumbent, candidate)):
            made = fakes.make_bundle(version, slope=float(version[1:]))
            for variant, memory_bytes in (("standard", 900), ("small", 300), ("tiny", 100)):
                form = msgspec.structs.replace(
                    made.manifest, variant=variant, budgets=Budgets(memory_bytes=memory_bytes)
                )
                self.cloud.publish_bundle(made._replace(manifest=form, data=form.to_bytes()))
        others = ("small", "tiny")
        entry = ModelChannel(
            model=fakes.MODEL,
            incumbent=BundleRef(version=incumbent, others=others),
            candidate=BundleRef(version=candidate, others=others) if candidate else None,
            experiment=trial,
        )
        self.cloud.publish_channel(sequence, models=(entry,))

    def update(self, **wants: typing.Any) -> Outcome:
        self.tested = []
        with contextlib.closing(State(self.layout.state_db)) as state:
            repository = Repository(self.layout.tuf, self.cloud.root, Where.below(fakes.URL), self.cloud.stream)
            return Installer(
                self.layout,
                self.layout.load_identity(),
                state=state,
                repository=repository,
                server=Nobody(),
                stream=self.cloud.stream,
                self_test=self._self_test,
                wants=UpdateSettings(**wants),
            ).bring_up_to_date()

    def _self_test(self, _folder: pathlib.Path, made: Manifest) -> None:
        self.tested.append(made.variant)
        if made.variant in self.fails:
            raise ModelError(f"{made.variant} answers 42")

    @property
    def runs(self) -> dict[str, str]:
        """Version to variant."""
        generations = fakes.generations_of(self.layout)
        return {version: made.variant for (_, version), made in generations.manifests(generations.running()).items()}


@pytest.fixture
def device(tmp_path: pathlib.Path) -> Device:
    return Device(tmp_path / "store")


def test_a_small_device_runs_a_small_form(device: Device) -> None:
    device.publish(1, "v1")
    assert device.update(memory_bytes=500).changed
    assert device.runs == {"v1": "small"}
    assert device.update(variants=("tiny",)).changed
    assert device.runs == {"v1": "tiny"}


def test_a_form_that_fails_here_gives_way_to_the_next_for_incumbent_and_candidate(device: Device) -> None:
    device.fails = {"standard"}
    device.publish(1, "v1", "v2", fakes.trial(epoch=1, device_share_bp=10_000))
    assert device.update().changed
    assert device.runs == {"v1": "small", "v2": "small"}
    assert sorted(device.tested) == ["small", "small", "standard", "standard"]
    assert not device.update().changed
    assert device.tested == []


def test_a_version_whose_forms_all_fail_is_refused(device: Device) -> None:
    device.publish(1, "v1")
    device.update()
    device.fails = {"standard", "small", "tiny"}
    device.publish(2, "v2")
    with pytest.raises(ModelError, match="tiny answers 42"):
        device.update()
    assert device.tested == ["standard", "small", "tiny"]
    assert device.runs == {"v1": "standard"}
    with pytest.raises(ModelError, match="failed here before"):
        device.update()


def test_a_device_that_no_form_of_a_candidate_fits_takes_no_part_and_of_an_incumbent_stays(device: Device) -> None:
    device.publish(1, "v1")
    device.update()
    made = fakes.trial(epoch=1, device_share_bp=10_000)
    device.publish(2, "v1", "v2", made)
    with pytest.raises(ModelError, match="late@v1: no variant of it fits this device"):
        device.update(memory_bytes=50)
    with contextlib.closing(State(device.layout.state_db)) as state:
        assert "this device gives 50" in next(iter(state.refused().values()))
    assert device.runs == {"v1": "standard"}
    assert device.update(memory_bytes=2000).changed, "whoever gives it more memory needs to do nothing else"
    assert device.runs == {"v1": "standard", "v2": "standard"}
    with contextlib.closing(State(device.layout.state_db)) as state:
        assert state.refused() == {}


def test_a_channel_names_its_forms_and_refuses_names_that_make_no_sense() -> None:
    ref = BundleRef(version="v1", others=("small",))
    entry = ModelChannel(model="m", incumbent=ref)
    says = Channel(region="north", sequence=1, models=(entry,))
    assert parse_channel(says.to_bytes()).n_bundles == 2
    bad = msgspec.structs.replace(entry, incumbent=msgspec.structs.replace(ref, others=("../x",)))
    with pytest.raises(WireError, match=r"models\[0\]\.variant"):
        parse_channel(msgspec.structs.replace(says, models=(bad,)).to_bytes())


# ---- budgets


@pytest.mark.parametrize(
    ("budgets", "says"),
    [
        (Budgets(), ""),
        (Budgets(predict_s=1e-9), "an answer takes .* s, 1e-09 s are allowed"),
        (Budgets(load_s=1e-9), "loading took .* s, 1e-09 s are allowed"),
        (Budgets(memory_bytes=1), "bytes of memory, 1 are allowed"),
    ],
)
def test_a_bundle_that_costs_more_than_its_budgets_fails_its_self_test(
    tmp_path: pathlib.Path, budgets: Budgets, says: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = fakes.make_bundle("v1")
    opened = fakes.unpack(tmp_path / "v1", made, load=False)
    bundle = LoadedBundle(opened.folder, msgspec.structs.replace(opened.manifest, budgets=budgets))
    grows = iter([1000, 3000])
    monkeypatch.setattr(costs, "peak_bytes", lambda: next(grows))
    if not says:
        assert costs.load_within_budgets(bundle) == len(fakes.ROWS)
    else:
        with pytest.raises(ModelError, match=says):
            costs.load_within_budgets(bundle)


def test_the_peak_of_memory_is_read_from_the_system() -> None:
    before = costs.peak_bytes()
    held = bytearray(64 << 20)
    held[::4096] = b"x" * len(held[::4096])
    assert costs.peak_bytes() >= before
    assert costs.peak_bytes() > 64 << 20
    assert digest_of(held[:1]) == digest_of(b"x")
