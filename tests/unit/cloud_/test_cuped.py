"""Earlier days taken out of devices' sums: against least squares of scikit-learn, and what it may never change."""

from __future__ import annotations

import random
import typing

import numpy as np
import pytest
from scipy import optimize
from sklearn.linear_model import LinearRegression

from cloud.analysis.cuped import LEAST_DEVICES, Cell, adjust
from cloud.analysis.difference import clustered_difference
from cloud.rollout.by_device import strata_by_device
from cloud.rollout.measured import VALUES
from cloud.rollout.sums import strata_of
from shared.summary import quantise

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


def regression(y: np.ndarray, *columns: np.ndarray) -> tuple[np.ndarray, float]:
    """Least squares: coefficients, and the variance of the first one that holds if devices differ in spread (HC1)."""
    inputs = np.column_stack(columns).astype(float)
    fitted = LinearRegression().fit(inputs, y)
    full = np.column_stack([np.ones(len(y)), inputs])
    rest = y - fitted.predict(inputs)
    bread = np.linalg.inv(full.T @ full)
    spread = bread @ (full.T * rest**2) @ full @ bread * len(y) / (len(y) - full.shape[1])
    return fitted.coef_, float(spread[1, 1])


@pytest.mark.parametrize("seed", range(3))
def test_with_devices_alike_in_size_it_is_the_analysis_of_covariance(seed: int) -> None:
    data = made(seed)
    (arm, theta), robust = regression(data.y, data.arm, data.x)
    found = adjust(data.cells, data.earlier)
    effect, variance = difference(found.cells)
    assert found.theta == pytest.approx(theta, rel=1e-9)
    assert effect == pytest.approx(arm, rel=1e-9)
    assert variance == pytest.approx(robust, rel=0.1)


def test_with_some_devices_new_it_is_the_analysis_with_an_indicator() -> None:
    data = made(4)
    new = np.arange(60) % 5 == 0
    y = data.y + 0.2 * new
    cells = [cell._replace(total=cell.n * y[i]) for i, cell in enumerate(data.cells)]
    earlier = {f"d{i}": float(data.x[i]) for i in range(60) if not new[i]}
    filled = np.where(new, data.x[~new].mean(), data.x)
    (arm, theta, _), _ = regression(y, data.arm, filled, new.astype(float))
    found = adjust(cells, earlier)
    assert found.theta == pytest.approx(theta, rel=1e-9)
    assert difference(found.cells)[0] == pytest.approx(arm, rel=1e-9)
    assert found.known == 0.8


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
    ((stratum,), taken) = strata_by_device(rows, [])
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
