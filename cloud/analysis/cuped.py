"""Sums of devices less what their own earlier days foretold, so that arms of whole devices can be told apart sooner."""

from __future__ import annotations

import typing

import numpy as np

LEAST_DEVICES = 20
Vector = np.ndarray[tuple[int], np.dtype[np.float64]]
Matrix = np.ndarray[tuple[int, int], np.dtype[np.float64]]


class Cell(typing.NamedTuple):
    """Outcomes of one device on one day: how many, their sum, and their sum of squares; `arm` 1 is the candidate's."""

    arm: int
    device: str
    day: int
    n: float
    total: float
    square: float


class Adjusted(typing.NamedTuple):
    """Cells that can be compared as they could before, and what was taken out of them.

    Parameters
    ----------
    theta : float
        How much of a device's earlier difference from the others is expected again; 0 where nothing was taken out.
    explained : float
        Share of the differences between devices that is gone, in 0..1.
    known : float
        Share of the devices that have an earlier period.
    """

    cells: tuple[Cell, ...]
    theta: float
    explained: float
    known: float


def adjust(cells: typing.Sequence[Cell], earlier: typing.Mapping[str, float]) -> Adjusted:
    """Take out of each device's sums what its mean before the experiment foretold.

    Parameters
    ----------
    cells : sequence of Cell
        One experiment, whose devices were assigned to arms at random, each to one of them.
    earlier : mapping
        Device to its mean before the experiment: of the same metric, or of anything that the arms could not change.

    Returns
    -------
    Adjusted
        With fewer than `LEAST_DEVICES` in either arm, or without any earlier period, the cells as they are.

    Notes
    -----
    CUPED: A. Deng, Y. Xu, R. Kohavi and T. Walker, "Improving the sensitivity of online controlled experiments by
    utilizing pre-experiment data", WSDM 2013, for a ratio of sums with devices as clusters. A device d with n outcomes
    that add up to s loses n theta (x - mean of x), where x is its earlier mean and the mean of x is that of both arms
    together, weighed by outcomes. Since x is older than the assignment, that has the same expectation in both arms:
    whatever theta is, their difference stays what it was in the mean. Theta is the one that makes the cluster-robust
    variance of the difference smallest: least squares over the devices of both arms, each around its own arm's mean.

    A device without an earlier period gets the mean of x; and a second covariate says that it had none, so that new
    devices may differ from old ones. What devices still differ by is enlarged by the degrees of freedom that this
    takes.

    Examples
    --------
    Each device does as well as before, and half of them lose 0.1 to the candidate:

    >>> means = {f"d{i}": 0.5 + 0.01 * (i % 7) for i in range(48)}
    >>> cells = [Cell(i % 2, f"d{i}", 1, 10.0, 10 * x - i % 2, 0.0) for i, x in enumerate(means.values())]
    >>> found = adjust(cells, means)
    >>> round(found.theta, 6), round(found.explained, 6), found.known
    (1.0, 1.0, 1.0)
    >>> sorted({(cell.arm, round(cell.total / cell.n, 3)) for cell in found.cells})
    [(0, 0.529), (1, 0.429)]
    """
    cells = [cell for cell in cells if cell.n > 0.0]
    n, total, arm, places = _by_device(cells)
    x = np.array([earlier.get(device, np.nan) for device in places])
    has = np.isfinite(x)
    arms = [arm == one for one in (0, 1)]
    known = float(has.mean()) if len(x) else 0.0
    if min(int(of.sum()) for of in arms) < LEAST_DEVICES or not np.any(has):
        return Adjusted(tuple(cells), 0.0, 0.0, known)
    covariates = _covariates(x, has, n)
    # Weighed as the arms weigh in the variance of the difference of their means.
    left, right = np.empty_like(total), np.empty_like(covariates)
    for of in arms:
        size = n[of].sum()
        left[of] = (total[of] - n[of] * total[of].sum() / size) / size
        mean = (n[of, None] * covariates[of]).sum(axis=0) / size
        right[of] = n[of, None] * (covariates[of] - mean) / size
    theta = np.linalg.lstsq(right, left, rcond=None)[0]
    rest = left - right @ theta
    before = float(left @ left)
    explained = 1.0 - float(rest @ rest) / before if before > 0.0 else 0.0
    lost = dict(zip(places, (covariates @ theta).tolist(), strict=True))
    free = len(n) - len(arms)
    widen = float(np.sqrt(free / (free - len(theta))))
    return Adjusted(_less(cells, lost, widen), float(theta[0]), max(0.0, explained), known)


def _by_device(cells: typing.Sequence[Cell]) -> tuple[Vector, Vector, Vector, dict[str, int]]:
    """Outcomes, sums and arms of devices, and the place of each, in an order that is always the same."""
    places = {device: i for i, device in enumerate(sorted({cell.device for cell in cells}))}
    n, total, arm = np.zeros(len(places)), np.zeros(len(places)), np.zeros(len(places))
    for cell in sorted(cells):
        place = places[cell.device]
        n[place] += cell.n
        total[place] += cell.total
        arm[place] = cell.arm
    return n, total, arm, places


def _covariates(x: Vector, has: np.ndarray[tuple[int], np.dtype[np.bool_]], n: Vector) -> Matrix:
    """Return the earlier mean and, if some devices have none, whether a device has none; both around their mean."""
    middle = float((n * np.where(has, x, 0.0)).sum() / max((n * has).sum(), 1e-300))
    columns = [np.where(has, x - middle, 0.0)]
    if not np.all(has):
        columns.append(~has - float((n * ~has).sum() / n.sum()))
    return np.column_stack(columns)


def _less(cells: typing.Sequence[Cell], lost: typing.Mapping[str, float], widen: float) -> tuple[Cell, ...]:
    """Take the same off each outcome of a device, and enlarge what is left of the differences around the arm's mean."""
    taken = [
        cell._replace(
            total=cell.total - lost[cell.device] * cell.n,
            square=cell.square - 2.0 * lost[cell.device] * cell.total + lost[cell.device] ** 2 * cell.n,
        )
        for cell in cells
    ]
    means = {}
    for arm in (0, 1):
        mine = sorted(cell for cell in taken if cell.arm == arm)
        means[arm] = sum(cell.total for cell in mine) / sum(cell.n for cell in mine)
    return tuple(
        cell._replace(total=means[cell.arm] * cell.n + widen * (cell.total - means[cell.arm] * cell.n))
        for cell in taken
    )
