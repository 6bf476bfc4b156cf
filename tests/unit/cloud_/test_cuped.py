"""Earlier days taken out of devices' sums: against least squares of scikit-learn, and what it may never change."""

from __future__ import annotations

import pathlib
import random
import secrets
import typing

import numpy as np
import pytest
from scipy import optimize
from sklearn.linear_model import LinearRegression

from cloud.analysis.cuped import LEAST_DEVICES, Cell, adjust
from cloud.analysis.difference import clustered_difference
from cloud.config import CanarySettings, RolloutSettings
from cloud.config.rollout import RolloutStep
from cloud.rollout import overview, plan
from cloud.rollout.by_device import strata_by_device
from cloud.rollout.measured import VALUES
from cloud.rollout.sums import strata_of
from shared.errors import CoveyError
from shared.summary import quantise
from tests.unit.cloud_.simulated import Fleet

Row = dict[str, typing.Any]


class Made(typing.NamedTuple):
    """Sums of devices, each on some days, and what each device did before."""

    cells: list[Cell]
    earlier: dict[str, float]
    n: np.ndarray
    y: np.ndarray
    x: np.ndarray
    arm: np.ndarray


def made(seed: int = 1, *, devices: int = 60, effect: float = -0.1, equal: bool = True, days: int = 1) -> Made:
    rng = np.random.default_rng(seed)
    arm = rng.permutation(devices) % 2
    x = rng.normal(0.5, 0.2, devices)
    n = np.full(devices, 50.0) if equal else rng.integers(10, 400, devices).astype(float)
    y = 0.3 + 0.8 * x + effect * arm + rng.normal(0.0, 0.05, devices)
    cells = [
        Cell(int(arm[i]), f"d{i}", day, n[i] / days, n[i] * y[i] / days, n[i] * (y[i] ** 2 + 0.1) / days)
        for i in range(devices)
        for day in range(days)
    ]
    return Made(cells, {f"d{i}": float(x[i]) for i in range(devices)}, n, y, x, arm)


def rows_of(cells: typing.Iterable[Cell]) -> list[Row]:
    return [{"region": "west", "epoch": 7} | cell._asdict() for cell in cells]


def difference(cells: typing.Sequence[Cell]) -> tuple[float, float]:
    """Candidate minus control, and its cluster-robust variance."""
    (stratum,) = strata_of(rows_of(cells), VALUES)
    spread = clustered_difference(stratum)
    assert spread is not None
    control, candidate = stratum.control, stratum.candidate
    return candidate.sum / candidate.n - control.sum / control.n, spread.variance


def regression(y: np.ndarray, *columns: np.ndarray) -> tuple[np.ndarray, float, np.ndarray]:
    """Least squares: coefficients, variance of the first if devices differ in spread (HC1), and what is left over."""
    inputs = np.column_stack(columns).astype(float)
    fitted = LinearRegression().fit(inputs, y)
    full = np.column_stack([np.ones(len(y)), inputs])
    rest = y - fitted.predict(inputs)
    bread = np.linalg.inv(full.T @ full)
    spread = bread @ (full.T * rest**2) @ full @ bread * len(y) / (len(y) - full.shape[1])
    return fitted.coef_, float(spread[1, 1]), rest


@pytest.mark.parametrize("seed", range(3))
def test_with_devices_alike_in_size_it_is_the_analysis_of_covariance(seed: int) -> None:
    data = made(seed)
    (arm, theta), robust, rest = regression(data.y, data.arm, data.x)
    found = adjust(data.cells, data.earlier)
    effect, variance = difference(found.cells)
    assert found.theta == pytest.approx(theta, rel=1e-9)
    assert effect == pytest.approx(arm, rel=1e-9)
    assert variance == pytest.approx(robust, rel=0.1)
    size = len(rest) / 2  # of an arm; theta takes one degree of freedom of those that both arms' means have left
    taken = (2 * size - 2) / (2 * size - 3)
    assert variance == pytest.approx(float(rest @ rest) / size**2 * size / (size - 1) * taken, rel=1e-9)


def test_with_some_devices_new_it_is_the_analysis_with_an_indicator() -> None:
    data = made(4)
    new = np.arange(60) < np.where(data.arm == 1, 30, 8)
    assert new[data.arm == 1].sum() > 2 * new[data.arm == 0].sum()
    y = data.y + 0.2 * new
    cells = [cell._replace(total=cell.n * y[i]) for i, cell in enumerate(data.cells)]
    earlier = {f"d{i}": float(data.x[i]) for i in range(60) if not new[i]}
    filled = np.where(new, data.x[~new].mean(), data.x)
    (arm, theta, _), *_ = regression(y, data.arm, filled, new.astype(float))
    found = adjust(cells, earlier)
    assert found.theta == pytest.approx(theta, rel=1e-9)
    assert difference(found.cells)[0] == pytest.approx(arm, rel=1e-9)
    assert found.known == pytest.approx(1 - new.mean())


def test_with_devices_of_any_size_no_other_theta_leaves_a_smaller_variance() -> None:
    data = made(5, equal=False)
    middle = float((data.n * data.x).sum() / data.n.sum())

    def variance(theta: float) -> float:
        less = [cell._replace(total=cell.total - theta * cell.n * (data.x[i] - middle)) for i, cell in
                enumerate(data.cells)]  # fmt: skip
        (stratum,) = strata_of(rows_of(less), VALUES)
        return sum(
            (arm.g_ss - 2 * arm.sum / arm.n * arm.g_ns + (arm.sum / arm.n) ** 2 * arm.g_nn) / arm.n**2
            for arm in (stratum.control, stratum.candidate)
        )

    best = optimize.minimize_scalar(variance, bracket=(0.0, 1.0), tol=1e-10)
    assert adjust(data.cells, data.earlier).theta == pytest.approx(best.x, rel=1e-5)


def test_it_adds_nothing_to_the_difference_whatever_chance_assigns() -> None:
    data = made(6, effect=0.0, equal=False)
    rng, found = np.random.default_rng(3), []
    for _ in range(300):
        arm = rng.permutation(60) % 2
        cells = [cell._replace(arm=int(arm[i])) for i, cell in enumerate(data.cells)]
        found.append(difference(adjust(cells, data.earlier).cells)[0])
    assert abs(np.mean(found)) < 4 * np.std(found) / np.sqrt(len(found))


def test_much_of_what_devices_differ_by_is_gone_and_days_are_kept_apart() -> None:
    data = made(7, days=3)
    found = adjust(data.cells, data.earlier)
    assert difference(found.cells)[1] < 0.2 * difference(data.cells)[1]
    assert found.explained > 0.8
    assert [(cell.device, cell.day, cell.n) for cell in found.cells] == [
        (cell.device, cell.day, cell.n) for cell in data.cells
    ]


def test_outcomes_of_one_device_differ_as_much_as_before() -> None:
    data = made(7, days=3)
    for before, after in zip(data.cells, adjust(data.cells, data.earlier).cells, strict=True):
        spread = [cell.square / cell.n - (cell.total / cell.n) ** 2 for cell in (before, after)]
        assert spread[1] == pytest.approx(spread[0], rel=0.05)


@pytest.mark.parametrize("devices", [2, 2 * LEAST_DEVICES - 2])
def test_few_devices_are_left_as_they_are(devices: int) -> None:
    data = made(8, devices=devices)
    assert adjust(data.cells, data.earlier).cells == tuple(data.cells)


def test_without_earlier_days_nothing_changes_and_useless_ones_take_nothing_out() -> None:
    data = made(9)
    assert adjust(data.cells, {}).cells == tuple(data.cells)
    assert adjust(data.cells, {"somebody else": 1.0}).cells == tuple(data.cells)
    same = adjust(data.cells, dict.fromkeys(data.earlier, 0.5))
    assert (same.theta, same.explained) == (pytest.approx(0.0), pytest.approx(0.0))
    assert difference(same.cells)[0] == pytest.approx(difference(data.cells)[0], rel=1e-9)


def test_the_order_of_cells_changes_no_bit() -> None:
    data = made(10, equal=False, days=2)
    shuffled = list(data.cells)
    random.Random(2).shuffle(shuffled)
    one, other = adjust(data.cells, data.earlier), adjust(shuffled, data.earlier)
    assert one.theta == other.theta
    assert sorted(one.cells) == sorted(other.cells)


def test_a_device_without_an_outcome_yet_is_no_device() -> None:
    data = made(11)
    assert adjust([*data.cells, Cell(1, "new", 1, 0.0, 0.0, 0.0)], data.earlier) == adjust(data.cells, data.earlier)


# ---- rows of a fleet


def served(device: str, arm: int, loss: float, n: int = 40, epoch: int = 7) -> Row:
    return {"region": "west", "epoch": epoch, "device": device, "arm": arm, "day": 3, "requests": n, "outcomes": n,
            "failed": 0, "fallback": 0,
            "metric_sum": n * quantise(loss), "metric_sumsq": n * quantise(loss * loss)}  # fmt: skip


def test_what_the_incumbent_answers_in_place_of_a_candidate_is_the_candidates_device() -> None:
    rows = [served(f"d{i}", i % 2, 0.5) for i in range(60)]
    rows += [served("d1", 0, 0.9, n=4)]
    rows += [served(f"d{i}", 0, 0.5, epoch=5) for i in range(60)]  # the shadow
    rows = [row | {"requests": row["requests"] + 5 * row["arm"]} for row in rows]  # five outcomes each never came
    ((stratum,), taken) = strata_by_device(rows, [])
    assert (stratum.control.assigned, stratum.candidate.assigned) == (1200.0, 1354.0)
    assert (stratum.control.g, stratum.candidate.g) == (30.0, 30.0)
    assert (stratum.control.n, stratum.candidate.n) == (1200.0, 1204.0)
    assert [(one.region, one.epoch, one.known) for one in taken] == [("west", 7, 0.0)]


def test_each_region_has_its_own_earlier_days() -> None:
    rng = random.Random(4)
    rows, earlier = [], []
    for region, slope in (("west", 1.0), ("east", 0.5)):
        for i in range(60):
            before = rng.gauss(0.5, 0.2)
            rows.append(served(f"d{i}", i % 2, 0.3 + slope * before + rng.gauss(0, 0.01)) | {"region": region})
            earlier.append({"region": region, "device": f"d{i}", "outcomes": 10, "metric_sum": 10 * quantise(before)})
    _, taken = strata_by_device(rows, earlier)
    assert {one.region: round(one.theta, 1) for one in taken} == {"west": 1.0, "east": 0.5}
    assert all(one.explained > 0.9 for one in taken)


# ---- in a rollout

BY_DEVICE = 'unit = "device"\ndevice_share = 0.5'


def fleet_of(folder: pathlib.Path, monkeypatch: pytest.MonkeyPatch, devices: int = 60) -> Fleet:
    """A fleet whose west has so many devices, which differ ten times as much as the candidate does."""
    fleet = Fleet(folder, monkeypatch, n=1, canary=BY_DEVICE, rollout='max_days = 40\nguardrails = "watch"')
    fleet.devices += [fleet.join("west", i) for i in range(1, devices)]
    fleet.differ, fleet.requests = 0.5, 40
    return fleet


def test_devices_that_take_part_answer_all_with_the_candidate_beside_as_many_that_never_do(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fleet = fleet_of(tmp_path, monkeypatch, devices=2)
    number = fleet.trial()
    shadow = fleet.channels["west"].models[0].experiment
    assert shadow is not None
    assert (shadow.mode, shadow.control_share_bp) == ("shadow", 0)
    fleet.until(lambda: bool(fleet.stages(number)["west"]["opened_s"]))
    trial = fleet.channels["west"].models[0].experiment
    assert trial is not None
    assert (trial.request_share_bp, trial.device_share_bp, trial.control_share_bp) == (10_000, 5000, 5000)
    assert not trial.keep_pairs
    fleet.store.close()


@pytest.mark.parametrize(("gain", "verdict"), [(-0.06, "FAIL"), (0.06, "PASS")])
def test_what_devices_did_before_tells_a_small_difference_from_theirs(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch, gain: float, verdict: str
) -> None:
    monkeypatch.setattr(secrets, "token_hex", lambda _n: "0123456789abcdef" * 2)  # on two days chance decides much
    fleet = fleet_of(tmp_path, monkeypatch)
    number = fleet.trial()
    fleet.served_gain = gain
    fleet.until(lambda: fleet.stages(number)["west"]["verdict"] in ("PASS", "FAIL"), most=12)
    assert fleet.stages(number)["west"]["verdict"] == verdict
    last = fleet.store.rollouts.verdicts(number)[-1]["inputs"]
    (stratum,) = last["decide"]["strata"]
    assert last["decision"]["numbers"]["difference"] == pytest.approx(gain, abs=0.02)
    assert last["decide"]["metric"]["kind"] == "continuous"
    assert last["decide"]["minimum"]["devices"] == LEAST_DEVICES
    assert min(stratum["control"]["g"], stratum["candidate"]["g"]) >= LEAST_DEVICES
    (taken,) = last["earlier"]
    assert (taken["region"], taken["known"]) == ("west", 1.0)
    assert taken["explained"] > 0.99
    assert "explain 100% of how they differ in west" in "\n".join(
        overview.rollout(fleet.project, fleet.store, number)["beside"]["lines"]
    )
    assert last["decision"]["numbers"]["standard_error"] < 0.01  # of 60 devices that differ by 0.5 it would be 0.13
    fleet.store.close()


@pytest.mark.parametrize(
    ("change", "also", "field"),
    [
        ({"device_share": 1.0}, 1, "rollout.canary.device_share"),
        ({"device_share": 0.5, "mode": "interleave"}, 1, "rollout.canary.unit"),
        ({"device_share": 0.5, "step": (RolloutStep(device_share=0.3), RolloutStep(device_share=0.6))}, 1,
         "rollout.canary.device_share"),
        ({"device_share": 0.5}, 2, "--also"),
    ],
)  # fmt: skip
def test_a_plan_that_leaves_no_devices_to_compare_with_is_refused(change: Row, also: int, field: str) -> None:
    settings = RolloutSettings(canary=CanarySettings(unit="device", request_share=0.3, **change))
    with pytest.raises(CoveyError) as caught:
        plan.stages_of(["west"], is_first=False, settings=settings, n_candidates=also)
    assert caught.value.field == field


def test_steps_of_a_plan_by_device_end_with_half_of_them() -> None:
    steps = (RolloutStep(device_share=0.1), RolloutStep(device_share=0.5))
    settings = RolloutSettings(canary=CanarySettings(unit="device", step=steps))
    assert [stage.kind for stage in plan.stages_of(["west"], is_first=False, settings=settings)] == [
        "shadow", "canary", "canary",
    ]  # fmt: skip
