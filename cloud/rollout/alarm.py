"""After a promotion nothing stands beside the model any more: watch its failures by day, and go back if they rise."""

from __future__ import annotations

import collections
import math
import typing

from cloud.analysis.cusum import ALARM_AT, log_e_of_interval, step
from cloud.analysis.ratio import clustered_spread
from cloud.config import Project
from cloud.rollout.sums import by, faults_of, squares
from cloud.store.store import Store

Row = typing.Mapping[str, typing.Any]
_ACTOR = "controller"
_SMOOTHED_BAD, _SMOOTHED_N = 2.0, 4.0  # after Agresti and Coull: a lucky week is not a rate of 0


class Level(typing.NamedTuple):
    """How far the evidence has come.

    Parameters
    ----------
    log_level : float
        Natural logarithm of the e-detector; an alarm at ``ln 1000``.
    day : int
        The last whole event day that it knows; 0 before the first.
    bad, n : float
        Failed or slow answers, and all, since the promotion.
    rate : float
        Share of bad answers that would still be fine.
    """

    log_level: float
    day: int
    bad: float
    n: float
    rate: float

    @property
    def is_alarm(self) -> bool:
        """Whether it is time to go back."""
        return self.log_level >= math.log(ALARM_AT)


def level(rows: typing.Sequence[Row], rate: float) -> Level:
    """Add the days up, each as its own interval.

    A day on which devices resemble each other counts as fewer answers: its counts are divided by the design effect.

    Parameters
    ----------
    rows : list of rows
        Sums of the promoted version by (device, day), whole event days only.
    rate : float
        Share of bad answers that is still fine, in (0, 1).

    Notes
    -----
    The e-detector of Shin, Ramdas and Rinaldo (2023): while nothing gets worse, 1,000 days pass on average before an
    alarm, at least.
    """
    days = collections.defaultdict(list)
    for row in rows:
        days[row["day"]].append(row)
    log_level = 0.0
    for _, of_day in sorted(days.items()):
        n, bad = float(sum(row["requests"] for row in of_day)), sum(map(faults_of, of_day))
        effect = design_effect(of_day)
        log_level = step(log_level, log_e_of_interval(n / effect, bad / effect, rate))
    total = float(sum(row["requests"] for row in rows))
    return Level(log_level, max(days, default=0), sum(map(faults_of, rows)), total, rate)


def design_effect(rows: typing.Sequence[Row]) -> float:
    """How many answers of a day count as one, since those of a device resemble each other; at least 1."""
    n, bad = float(sum(row["requests"] for row in rows)), sum(map(faults_of, rows))
    spread = clustered_spread(n, bad, *squares(by(rows, "device", "requests", faults_of))) if n else None
    rate = (bad + _SMOOTHED_BAD) / (n + _SMOOTHED_N)
    return max(1.0, spread.variance / (rate * (1 - rate) / n)) if spread and spread.df > 0 else 1.0


def fine_rate(rows: typing.Sequence[Row], margin: float) -> float:
    """Share of bad answers that is still fine: the incumbent's during the rollout, and the margin on top."""
    control = [row for row in rows if row["arm"] == 0]
    bad, n = sum(map(faults_of, control)), sum(row["requests"] for row in control)
    return min(float(bad + _SMOOTHED_BAD) / float(n + _SMOOTHED_N) + margin, 0.5)


def level_of(store: Store, rollout: Row, event_day: int) -> Level:
    """Return how far the evidence against a promoted version has come; only whole event days count."""
    epochs = [stage["id"] for stage in store.rollouts.stages(rollout["id"]) if stage["opened_s"]]
    rate = fine_rate(store.evidence.faults(rollout["model"], epochs), rollout["plan"]["request_error_margin"])
    rows = store.evidence.faults_of_version(
        rollout["model"], rollout["to_version"], from_day=rollout["ended_day"] + 1, before_day=event_day
    )
    return level(rows, rate)


def watch(project: Project, store: Store, event_day: int) -> list[str]:
    """Look at every promotion that can still be undone; order the undo where the plan says so. Return what happened."""
    happened = []
    for rollout in store.rollouts.promoted():
        policy = rollout["plan"].get("alarm", "undo")
        watched = policy != "off" and rollout["from_version"] and rollout["model"] in project.settings.models
        in_time = event_day - rollout["ended_day"] <= rollout["plan"]["undo_window_days"]
        answers = set(store.models.incumbents(rollout["model"]).values()) == {rollout["to_version"]}
        if not (watched and in_time and answers):
            continue
        seen = level_of(store, rollout, event_day)
        if not seen.is_alarm:
            continue
        if _is_new(store, "told", rollout):
            happened.append(_tell(store, rollout, policy, seen))
        # While another rollout runs nothing can be undone; once it has ended, this still can.
        if policy == "undo" and not store.rollouts.running(rollout["model"]) and _is_new(store, "alarm", rollout):
            _undo(store, rollout, seen)
    return happened


def _is_new(store: Store, what: str, rollout: Row) -> bool:
    return not store.get_meta(f"{what} {rollout['id']}")


def _why(seen: Level) -> str:
    return f"{seen.bad:,.0f} of {seen.n:,.0f} answers since the promotion failed or were slow; {seen.rate:.2%} are fine"


def _tell(store: Store, rollout: Row, policy: str, seen: Level) -> str:
    with store.db.transaction():
        store.set_meta(f"told {rollout['id']}", _why(seen))
        store.audit.add("alarm", f"{rollout['model']}@{rollout['to_version']}", actor=_ACTOR, reason=_why(seen))
    done = "it is undone as soon as no other rollout runs" if policy == "undo" else "nobody but you undoes it"
    return f"rollout {rollout['id']}: alarm after the promotion: {_why(seen)}; {done}"


def _undo(store: Store, rollout: Row, seen: Level) -> None:
    with store.db.transaction():
        store.set_meta(f"alarm {rollout['id']}", _why(seen))
        store.rollouts.order(rollout["id"], "undo", actor=_ACTOR, reason=_why(seen))
