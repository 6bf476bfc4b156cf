"""Rules that others use, with their usual settings, on the same simulated experiments: for ``bench_decide.py``.

Each looks at the sums of requests, since none of them knows about devices or strata, and takes each look for one
interval of its own. An experiment is over at the first word.
"""

from __future__ import annotations

import typing

import numpy as np
from scipy import stats

from cloud.analysis.batch import ArmSums, Array, Batch, Mask, add_up

FLAGGER_FAILED_CHECKS, FLAGGER_STEPS = 5, 10
ARGO_CHECKS, ARGO_FAILURE_LIMIT = 10, 0
KAYENTA_CONFIDENCE, KAYENTA_TOLERANCE, KAYENTA_INTERVAL, KAYENTA_INTERVALS = 0.98, 0.25, 60, 3


class Words(typing.NamedTuple):
    """Whether a rule would roll back or promote at a look, shaped (experiment, look); the first word counts."""

    rollback: Mask
    promote: Mask


class Pooled(typing.NamedTuple):
    """Requests of both arms, cumulative, oriented so that higher is better."""

    n0: Array
    s0: Array
    v0: Array
    n1: Array
    s1: Array
    v1: Array
    margin: float


Rule = typing.Callable[[Pooled], Words]


def pool(batch: Batch) -> Pooled:
    """Add strata up, as a query over all requests does."""
    sign = 1.0 if batch.asked.metric.direction == "higher" else -1.0
    control = _arm([stratum.control for stratum in batch.strata], sign)
    return Pooled(*control, *_arm([stratum.candidate for stratum in batch.strata], sign), batch.asked.margin)


def _arm(parts: list[ArmSums], sign: float) -> tuple[Array, Array, Array]:
    n, s, sq = (add_up(getattr(part, name) for part in parts) for name in ("n", "sum", "sumsq"))
    return n, sign * s, np.maximum(0.0, sq / n - (s / n) ** 2) / n


def _z(seen: Pooled) -> Array:
    error = np.sqrt(seen.v0 + seen.v1)
    return np.where(error > 0.0, (seen.s1 / seen.n1 - seen.s0 / seen.n0) / error, 0.0)


def z_at_each_look(seen: Pooled, alpha: float = 0.05) -> Words:
    """Test for a difference whenever there is something new; promote what was never found worse until the end."""
    last = np.arange(seen.n0.shape[1]) == seen.n0.shape[1] - 1
    worse = _z(seen) < stats.norm.ppf(alpha)
    return Words(worse, ~worse & last)


def fixed_horizon(seen: Pooled, alpha: float = 0.05) -> Words:
    """Test for a difference once, at the end, and promote whatever is not worse."""
    last = np.arange(seen.n0.shape[1]) == seen.n0.shape[1] - 1
    worse = _z(seen) < stats.norm.ppf(alpha)
    return Words(worse & last, ~worse & last)


def _passes(seen: Pooled) -> Mask:
    """Whether the candidate's mean in an interval is within the margin of what the incumbent was known to have."""
    quarter = seen.n0.shape[1] // 4
    known = float(f"{seen.s0[:, quarter].mean() / seen.n0[:, quarter].mean():.2g}")  # as a person would write it
    n, s = (np.diff(x, prepend=0.0, axis=1) for x in (seen.n1, seen.s1))
    passes: Mask = s >= n * (known - seen.margin) - 1e-6
    return passes


def failed_checks(seen: Pooled) -> Words:
    """Count failed checks, and promote after so many that passed.

    Flagger: ``threshold: 5``, ``maxWeight: 50``, ``stepWeight: 5``, as in docs.flagger.app/usage/how-it-works. The
    traffic is that of the scenario at all steps.
    """
    passed = np.cumsum(_passes(seen), axis=1)
    failed = np.arange(1, passed.shape[1] + 1) - passed
    return Words(failed >= FLAGGER_FAILED_CHECKS, passed >= FLAGGER_STEPS)


def first_failure(seen: Pooled) -> Words:
    """Abort at the first failed check, promote after ten that passed.

    Argo Rollouts: an analysis with ``count: 10``, and ``failureLimit: 0``, which is the default, as in
    argo-rollouts.readthedocs.io/en/stable/features/analysis.
    """
    failed = np.cumsum(~_passes(seen), axis=1) > ARGO_FAILURE_LIMIT
    return Words(failed, ~failed & (np.arange(1, failed.shape[1] + 1) >= ARGO_CHECKS))


def mann_whitney(seen: Pooled) -> Words:
    """Judge the series of interval means three times, after 60 intervals each; a failed judgement ends the canary.

    Kayenta: the interval of the Hodges-Lehmann shift at a confidence of .98 has to be worse than a quarter of the
    shift itself, as in kayenta-judge, ``MannWhitneyClassifier``.
    """
    rollback, promote = (np.zeros(seen.n0.shape, bool) for _ in range(2))
    series = []
    for n, s in ((seen.n0, seen.s0), (seen.n1, seen.s1)):
        fresh = [np.diff(x, prepend=0.0, axis=1) for x in (n, s)]
        series.append(np.where(fresh[0] > 0.0, fresh[1] / fresh[0], 0.0))
    for turn in range(1, KAYENTA_INTERVALS + 1):
        last = turn * KAYENTA_INTERVAL
        if last > seen.n0.shape[1]:
            break
        estimate, _, upper = _shift(series[0][:, :last], series[1][:, :last])
        rollback[:, last - 1] = upper < -KAYENTA_TOLERANCE * np.abs(estimate)
        promote[:, last - 1] = turn == KAYENTA_INTERVALS
    return Words(rollback, promote)


def _shift(control: Array, candidate: Array) -> tuple[Array, Array, Array]:
    """Hodges-Lehmann estimate and its interval, shaped (experiment,), from series shaped (experiment, interval)."""
    k = control.shape[1]
    apart = (candidate[:, :, None] - control[:, None, :]).reshape(len(control), -1)
    half = stats.norm.isf((1.0 - KAYENTA_CONFIDENCE) / 2.0) * np.sqrt(k * k * (2 * k + 1) / 12.0)
    low, high = max(0, int(k * k / 2.0 - half)), min(k * k - 1, int(k * k / 2.0 + half))
    ordered = np.partition(apart, (low, k * k // 2, high), axis=1)
    return ordered[:, k * k // 2], ordered[:, low], ordered[:, high]


RIVALS: dict[str, Rule] = {
    "z at each look": z_at_each_look,
    "fixed horizon": fixed_horizon,
    "failed checks (Flagger-like)": failed_checks,
    "first failure (Argo-like)": first_failure,
    "Mann-Whitney (Kayenta-like)": mann_whitney,
}
