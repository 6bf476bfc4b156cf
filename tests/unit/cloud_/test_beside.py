"""What is shown beside quality: calibration against scikit-learn, and memory and numbers from a fleet's sums."""

from __future__ import annotations

import pathlib
import time
import typing

import numpy as np
import pytest
from sklearn.calibration import calibration_curve

from cloud.analysis.calibration import calibration_of_bins
from cloud.cli.draw import rollout_lines
from cloud.rollout import overview
from cloud.store.ingest import ingest
from shared.clock import day_of
from shared.summary import MEMORY, MEMORY_SCALE, quantise, score_bin, square
from shared.telemetry import Batch, DeviceStatus, MeasuresRow, SumsRow
from tests.unit.cloud_.simulated import MODEL, Fleet

Row = dict[str, typing.Any]
MB = 1_000_000.0


def counts_of(scores: np.ndarray, labels: np.ndarray) -> list[int]:
    counts = [0] * 40
    for score, label in zip(scores.tolist(), labels.tolist(), strict=True):
        counts[score_bin(score, label)] += 1
    return counts


@pytest.mark.parametrize("skew", [0.5, 1.0, 3.0])
def test_the_reliability_table_is_that_of_scikit_learn(skew: float) -> None:
    rng = np.random.default_rng(7)
    scores = rng.beta(skew, 2.0, size=3000)
    labels = (rng.random(3000) < scores**1.5).astype(np.int64)
    shares, means = calibration_curve(labels, scores, n_bins=20, strategy="uniform")
    found = calibration_of_bins(counts_of(scores, labels))
    assert found is not None
    assert [one.share for one in found.bins] == pytest.approx(shares.tolist())
    assert np.abs(np.array([one.score for one in found.bins]) - means).max() <= 0.025
    exact = sum(one.n * abs(share - mean) for one, share, mean in zip(found.bins, shares, means, strict=True)) / 3000
    assert abs(found.error - exact) <= 0.025


def test_scores_in_the_middle_of_their_bins_give_the_error_exactly() -> None:
    scores = np.repeat((np.arange(20) + 0.5) / 20, 40)
    labels = (np.tile(np.arange(40), 20) < 40 * np.repeat((np.arange(20) + 0.5) / 20, 40)).astype(np.int64)
    shares, means = calibration_curve(labels, scores, n_bins=20, strategy="uniform")
    found = calibration_of_bins(counts_of(scores, labels))
    assert found is not None
    assert found.error == pytest.approx(float(np.abs(shares - means).mean()), abs=1e-12)


def test_without_outcomes_there_is_no_calibration() -> None:
    assert calibration_of_bins([0] * 40) is None


# ---- in a rollout


@pytest.fixture
def fleet(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> typing.Iterator[Fleet]:
    made = Fleet(tmp_path / "p", monkeypatch)
    text = (tmp_path / "p/covey.toml").read_text()
    (tmp_path / "p/covey.toml").write_text(f"{text}[models.late.numbers.revenue]\nmargin = 0.5\nscale = 10.0\n")
    from cloud.config import load_project

    made.project = load_project(tmp_path / "p")
    yield made
    made.store.close()


def deliver(fleet: Fleet, epoch: int, *, device: str = "west-0") -> None:
    """One batch: 30 answers of each arm two days ago, ten with revenue; memory of both; scores of both."""
    day = day_of(time.time()) - 2
    sums, measures = [], []
    for arm, version in ((0, "v1"), (1, "v2")):
        bins = [0] * 40
        bins[19], bins[39] = 2 + 8 * arm, 18 - 8 * arm
        key: Row = {"model": MODEL, "version": version, "epoch": epoch, "arm": arm, "served": True, "day": day}
        sums.append(SumsRow(**key, requests=30, onnx=30, outcomes=20, score_bins=tuple(bins)))
        value = quantise((5.0 - arm) / 10.0)
        measures.append(MeasuresRow(**key, name="revenue", scale=10.0, n=10, sum=10 * value, sumsq=10 * square(value)))
        size = quantise((40 + 20 * arm) * MB / MEMORY_SCALE)
        measures.append(MeasuresRow(**key, name=MEMORY, scale=MEMORY_SCALE, n=1, sum=size, sumsq=square(size)))
    batch = Batch(device=device, spool="more", sequence=1, sent_s=0.0, status=DeviceStatus(),
                  sums=tuple(sums), measures=tuple(measures))  # fmt: skip
    assert ingest(fleet.store.db, batch, 1e9)


def test_a_rollout_shows_calibration_memory_and_numbers_of_both_versions(fleet: Fleet) -> None:
    number = fleet.trial(days=4)
    deliver(fleet, fleet.stages(number)["*"]["id"])
    said = overview.rollout(fleet.project, fleet.store, number)["beside"]
    errors = {version: (one["outcomes"], round(one["error"], 3)) for version, one in said["calibration"].items()}
    assert errors == {"v1": (20, 0.075), "v2": (20, 0.475)}
    assert said["calibration"]["v2"]["bins"] == [{"score": 0.975, "n": 20, "share": 0.5}]
    assert {version: (one["devices"], one["mean_bytes"]) for version, one in said["memory"].items()} == {
        "v1": (1, pytest.approx(40 * MB, abs=20)), "v2": (1, pytest.approx(60 * MB, abs=20)),
    }  # fmt: skip
    means = said["numbers"]["revenue"]["versions"]
    assert means["v2"]["mean"] == pytest.approx(10 * 4.0 / means["v2"]["n"], rel=1e-4)
    lines = "\n".join(rollout_lines(overview.rollout(fleet.project, fleet.store, number)))
    assert "calibration error: v1 0.075 of 20, v2 0.475 of 20" in lines
    assert "memory: v1 40.0 MB, v2 60.0 MB" in lines
    assert "revenue, mean: v1 " in lines


def test_memory_over_the_budget_of_the_bundle_is_said(fleet: Fleet) -> None:
    number = fleet.trial(days=4)
    row = fleet.store.models.get(MODEL, "v2")
    detail = {"pieces": {"draft": {"budgets": {"memory_bytes": 50_000_000}}}}
    fleet.store.models.finish(MODEL, "v2", "ready", detail, features=row["features_sha256"])
    deliver(fleet, fleet.stages(number)["*"]["id"])
    said = overview.rollout(fleet.project, fleet.store, number)["beside"]
    assert said["memory"]["v2"]["budget_bytes"] == 50_000_000
    assert "memory: v1 40.0 MB, v2 60.0 MB, over its budget of 50 MB on a device" in said["lines"]


def test_a_rollout_of_which_nothing_was_measured_says_nothing(fleet: Fleet) -> None:
    number = fleet.trial()
    said = overview.rollout(fleet.project, fleet.store, number)["beside"]
    assert said["memory"] == {}
    assert said["numbers"]["revenue"]["versions"] == {}
    assert set(said["calibration"].values()) == {None}


def sell(fleet: Fleet, epoch: int, sequence: int, *, candidate: float) -> None:
    """What customers of both arms spent yesterday, on every device of the west."""
    day = day_of(time.time()) - 1
    for i, device in enumerate(one for one in fleet.devices if one.region == "west"):
        rows = []
        for arm, spent in ((0, 5.0), (1, candidate)):
            value = quantise(spent * (1 + 0.02 * i) / 10.0)
            rows.append(
                MeasuresRow(model=MODEL, version=f"v{arm + 1}", epoch=epoch, arm=arm, served=True, day=day,
                            name="revenue", scale=10.0, n=20, sum=20 * value, sumsq=20 * square(value))
            )  # fmt: skip
        batch = Batch(device=device.name, spool="sales", sequence=sequence, sent_s=0.0, status=DeviceStatus(),
                      measures=tuple(rows))  # fmt: skip
        assert ingest(fleet.store.db, batch, 1e9)


@pytest.mark.parametrize(("candidate", "fails"), [(1.0, True), (5.0, False)])
def test_a_candidate_that_sells_less_is_rolled_back_by_the_controller(
    fleet: Fleet, candidate: float, fails: bool
) -> None:
    fleet.gain = 0.1  # by its metric it is better
    number = fleet.trial()
    fleet.until(lambda: bool(fleet.stages(number)["west"]["opened_s"]))
    epoch = fleet.stages(number)["west"]["id"]
    for i in range(8):
        fleet.days()
        if fleet.row(number)["state"] != "running":
            break
        sell(fleet, epoch, i + 1, candidate=candidate)
    row = fleet.row(number)
    assert (row["state"] == "rolled_back") == fails, row["outcome"]
    assert ("number revenue: roll back" in row["outcome"]) == fails
