"""Many experiments side by side: the sums of ``covey.decide/1`` as arrays, shaped (experiment, look)."""

from __future__ import annotations

import typing

import msgspec
import numpy as np
import numpy.typing as npt

from cloud.analysis.records import Arm, Assigned, Cross, CrossDays, Days, DecideInput, Pairs, Stratum

Array = npt.NDArray[np.float64]
Mask = npt.NDArray[np.bool_]
Part = typing.TypeVar("Part", bound=tuple[typing.Any, ...])


class DaySums(typing.NamedTuple):
    """Arrays of :class:`cloud.analysis.records.Days`."""

    g: Array
    nn: Array
    ns: Array
    ss: Array


class CrossDaySums(typing.NamedTuple):
    """Arrays of :class:`cloud.analysis.records.CrossDays`."""

    g: Array
    nn: Array
    ns: Array
    sn: Array
    ss: Array


class CrossSums(typing.NamedTuple):
    """Arrays of :class:`cloud.analysis.records.Cross`."""

    g: Array
    nn: Array
    ns: Array
    sn: Array
    ss: Array
    days: CrossDaySums | None = None


class ArmSums(typing.NamedTuple):
    """Arrays of :class:`cloud.analysis.records.Arm`; arms do not carry inputs of their own."""

    n: Array
    sum: Array
    sumsq: Array
    g: Array
    g_nn: Array
    g_ns: Array
    g_ss: Array
    days: DaySums | None = None


class PairSums(typing.NamedTuple):
    """An arm of arrays over differences, and how many were won and lost."""

    arm: ArmSums
    pos: Array
    neg: Array


class StratumSums(typing.NamedTuple):
    """Arrays of :class:`cloud.analysis.records.Stratum`; a stratum that has not begun is all zeros."""

    control: ArmSums
    candidate: ArmSums
    cross: CrossSums | None = None
    region: str | None = None


class AssignedSums(typing.NamedTuple):
    """Inputs given to each arm, and the planned share of the candidate."""

    control: Array
    candidate: Array
    share: float | None = None


class Batch(msgspec.Struct, frozen=True, kw_only=True):
    """Experiments that ask the same question.

    ``asked`` has the settings, and no sums. All arrays have one shape, (experiment, look), and are cumulative along
    looks.
    """

    asked: DecideInput
    strata: tuple[StratumSums, ...] = ()
    matured: tuple[StratumSums, ...] | None = None
    pairs: PairSums | None = None
    assigned: AssignedSums | None = None

    @property
    def shape(self) -> tuple[int, ...]:
        """Experiments and looks."""
        return (self.strata[0].candidate if self.pairs is None else self.pairs.arm).n.shape

    def record(self, experiment: int, look: int) -> DecideInput:
        """Return what one experiment asks at one look.

        Parameters
        ----------
        experiment, look : int
            Positions in the arrays.

        Returns
        -------
        DecideInput
            As :func:`cloud.analysis.wire.parse_line` would have read it.

        Examples
        --------
        >>> from cloud.analysis.simulate import question, rates
        >>> from cloud.analysis.records import Metric
        >>> asked = question(Metric("bernoulli", "higher"), 0.02)
        >>> batch = rates(np.random.default_rng(1), 3, n=(100, 50), p=(0.9, 0.9), asked=asked, looks=4)
        >>> batch.shape, batch.record(2, 3).strata[0].candidate.n
        ((3, 4), 200.0)
        """
        at = (experiment, look)
        pairs, given = self.pairs, self.assigned
        return msgspec.structs.replace(
            self.asked,
            strata=tuple(_stratum(one, at) for one in self.strata),
            matured=None if self.matured is None else tuple(_stratum(one, at) for one in self.matured),
            pairs=None if pairs is None else _pairs(pairs, at),
            assigned=given and Assigned(float(given.control[at]), float(given.candidate[at]), given.share),
        )


def add_up(arrays: typing.Iterable[Array]) -> Array:
    """Add arrays of one shape, of which there is at least one.

    Examples
    --------
    >>> add_up([np.arange(3.0), np.ones(3)]).tolist()
    [1.0, 2.0, 3.0]
    """
    found: Array = np.sum(list(arrays), axis=0)
    return found


def pick(part: Part, key: typing.Any) -> Part:  # noqa: ANN401 -- whatever indexes an array
    """Index all arrays of a record of arrays, however deep.

    Parameters
    ----------
    part : tuple
        One of the records of this module.
    key : int, slice or tuple
        What to take of each array.

    Returns
    -------
    tuple
        Of the same type.

    Examples
    --------
    >>> pick(DaySums(*np.arange(8.0).reshape(4, 2)), 1).nn
    np.float64(3.0)
    """
    values = [pick(value, key) if isinstance(value, tuple) else _at(value, key) for value in part]
    return type(part)(*values)


def _at(value: typing.Any, key: typing.Any) -> typing.Any:  # noqa: ANN401 -- an array, or what stands beside arrays
    return value[key] if isinstance(value, np.ndarray) else value


def _floats(arrays: typing.Iterable[Array], at: tuple[int, int]) -> list[float]:
    return [float(array[at]) for array in arrays]


def _arm(arm: ArmSums, at: tuple[int, int]) -> Arm:
    days = None if arm.days is None else Days(*_floats(arm.days, at))
    n, total, sumsq, g, nn, ns, ss = _floats((arm.n, arm.sum, arm.sumsq, arm.g, arm.g_nn, arm.g_ns, arm.g_ss), at)
    return Arm(n, total, sumsq, g, nn, ns, ss, days=days)


def _pairs(pairs: PairSums, at: tuple[int, int]) -> Pairs:
    arm = _arm(pairs.arm, at)
    pos, neg = _floats((pairs.pos, pairs.neg), at)
    return Pairs(arm.n, arm.sum, arm.sumsq, arm.g, arm.g_nn, arm.g_ns, arm.g_ss, days=arm.days, pos=pos, neg=neg)


def _stratum(stratum: StratumSums, at: tuple[int, int]) -> Stratum:
    cross = stratum.cross
    both = None
    if cross is not None:
        days = None if cross.days is None else CrossDays(*_floats(cross.days, at))
        g, nn, ns, sn, ss = _floats((cross.g, cross.nn, cross.ns, cross.sn, cross.ss), at)
        both = Cross(g, nn, ns, sn, ss, days)
    return Stratum(_arm(stratum.control, at), _arm(stratum.candidate, at), both, stratum.region)
