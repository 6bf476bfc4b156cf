"""How good one answer was, given its outcome: the same arithmetic on the device, in the gates and in the rollout."""

from __future__ import annotations

import math
import typing

from shared.errors import UsageError

FLOOR = 1e-6
Task = typing.Literal["binary", "multiclass", "regression"]


class Metric(typing.NamedTuple):
    """A metric of single answers.

    Parameters
    ----------
    kind : str
        ``bernoulli`` (0 or 1 for each answer) or ``continuous``.
    direction : str
        Whether ``higher`` or ``lower`` is better.
    tasks : tuple of str
        Where it makes sense.
    score : callable
        (outputs, label) to the value; outputs are class probabilities, or one number for a regression.
    of_lists : bool
        It judges whole lists, and no single answer; see `ndcg`.
    """

    name: str
    kind: typing.Literal["bernoulli", "continuous"]
    direction: typing.Literal["higher", "lower"]
    tasks: tuple[Task, ...]
    score: typing.Callable[[typing.Sequence[float], float], float]
    of_lists: bool = False

    def gain(self, candidate: float, incumbent: float) -> float:
        """How much better the candidate's value is; positive is better in either direction."""
        return candidate - incumbent if self.direction == "higher" else incumbent - candidate


def _log_loss(outputs: typing.Sequence[float], label: float) -> float:
    return -math.log(max(outputs[int(label)], FLOOR))


def _brier(outputs: typing.Sequence[float], label: float) -> float:
    return sum((p - (i == int(label))) ** 2 for i, p in enumerate(outputs))


def _accuracy(outputs: typing.Sequence[float], label: float) -> float:
    return float(max(range(len(outputs)), key=outputs.__getitem__) == int(label))


def _absolute_error(outputs: typing.Sequence[float], label: float) -> float:
    return abs(outputs[0] - label)


def _squared_error(outputs: typing.Sequence[float], label: float) -> float:
    error = outputs[0] - label
    return error * error  # ** would raise where this is infinite


def ndcg(gains: typing.Sequence[float]) -> float:
    """Return the normalised discounted cumulative gain of a list: 1 where what gained most stood first.

    Järvelin and Kekäläinen, *Cumulated gain-based evaluation of IR techniques*, 2002, with the discount
    1 / log2(place + 1). A list without any gain is 0.

    Parameters
    ----------
    gains : sequence of float
        What each item was worth, from the first place on; less than nought is nought.

    >>> [round(ndcg(gains), 4) for gains in ([3, 2, 0], [0, 1, 0], [0, 0])]
    [1.0, 0.6309, 0.0]
    """
    worth = [max(gain, 0.0) for gain in gains]
    most = max(worth, default=0.0)
    if not most:
        return 0.0
    parts = [gain / most for gain in worth]  # so that no sum is infinite
    best = _discounted(sorted(parts, reverse=True))
    return _discounted(parts) / best


def _discounted(gains: typing.Sequence[float]) -> float:
    return sum(gain / math.log2(place + 2) for place, gain in enumerate(gains))


def _of_one_item(_outputs: typing.Sequence[float], label: float) -> float:
    return ndcg([label])


_CLASSES: tuple[Task, ...] = ("binary", "multiclass")
METRICS: dict[str, Metric] = {
    metric.name: metric
    for metric in (
        Metric("log_loss", "continuous", "lower", _CLASSES, _log_loss),
        Metric("brier", "continuous", "lower", _CLASSES, _brier),
        Metric("accuracy", "bernoulli", "higher", _CLASSES, _accuracy),
        Metric("absolute_error", "continuous", "lower", ("regression",), _absolute_error),
        Metric("squared_error", "continuous", "lower", ("regression",), _squared_error),
        Metric("ndcg", "continuous", "higher", ("binary", "regression"), _of_one_item, of_lists=True),
    )
}


def get_metric(name: str, task: str) -> Metric:
    """Look a metric up.

    Raises
    ------
    UsageError
        Unknown, or not for this task.
    """
    fitting = sorted(metric.name for metric in METRICS.values() if task in metric.tasks)
    if name not in fitting:
        raise UsageError(
            f"{name!r} is not a metric of the task {task!r}", field="metric", fix=f"Use {', '.join(fitting)}."
        )
    return METRICS[name]


def usual_metric(task: str) -> str:
    """Return the name of the metric by which single answers of a task are judged where nothing else is said."""
    return "squared_error" if task == "regression" else "log_loss"


def expected_log_loss(outputs: typing.Sequence[float]) -> float:
    """Log loss that the answer itself expects: its entropy, in nats.

    The mean of (log loss - entropy), the *excess log loss*, is zero for a calibrated model however hard the inputs
    are, so that it rises when the model is wrong and not merely when the days are difficult.

    >>> round(expected_log_loss((0.5, 0.5)), 4)
    0.6931
    """
    return -sum(p * math.log(max(p, FLOOR)) for p in outputs if p > 0)
