from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from cloud.analysis.cusum import first_alarm, log_e_of_interval, step


@pytest.mark.parametrize("rate", [0.005, 0.1, 0.6])
def test_an_interval_has_mean_one_while_all_is_well(rate: float) -> None:
    n = 50
    mean = math.fsum(stats.binom.pmf(k, n, rate) * math.exp(log_e_of_interval(n, k, rate)) for k in range(n + 1))

    assert mean == pytest.approx(1.0, rel=1e-9)


def test_false_alarms_are_as_rare_as_promised() -> None:
    rng = np.random.default_rng(7)
    rate, alarm_at, runs = 0.1, 20.0, []
    for _ in range(150):
        run = first_alarm((log_e_of_interval(30.0, k, rate) for k in rng.binomial(30, rate, 3000).tolist()), alarm_at)
        runs.append(3000 if run is None else run + 1)

    assert np.mean(runs) >= alarm_at


def test_a_model_that_starts_to_fail_is_found_in_days() -> None:
    rng = np.random.default_rng(8)
    calm, failing = rng.binomial(500, 0.1, 60).tolist(), rng.binomial(500, 0.15, 30).tolist()
    logs = [log_e_of_interval(500.0, k, 0.1) for k in (*calm, *failing)]
    alarm = first_alarm(logs)

    assert alarm is not None
    assert 60 <= alarm <= 65


def test_good_news_is_forgotten() -> None:
    level = 0.0
    for log_e in [-3.0] * 50:
        level = step(level, log_e)

    assert level == -3.0
    assert step(level, 2.0) == 2.0
