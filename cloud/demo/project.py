"""The demonstration's project: ``covey.toml`` and two feature sets."""

from __future__ import annotations

from cloud.config import CONFIG_FILE

MODEL = "flight-delay"
FEATURES_V2 = "features/flight-delay-v2.toml"

_CONFIG = """\
[project]
name = "flights"

[serve]
port = {port}
online_window_s = {online_window_s}
tick_interval_s = 0.04

[regions]
order = ["west", "central", "middle", "east"]

[devices]
poll_interval_s = 5
poll_jitter_ratio = 0.2
heartbeat_s = 4
probation_s = 0.3
replay = true                   # event times come from the flights, not from the clock on the wall

[rollout]
install_timeout_s = 120
min_devices = 20

[rollout.shadow]
min_days = 7
min_outcomes = 1600

[rollout.canary]
request_share = 0.5
min_days = 3
min_outcomes = 300

[models.flight-delay]
features = "features/flight-delay.toml"
label = "late"
time = "scheduled"
key = ["flight"]
classes = [0, 1]
metric = "log_loss"
margin = 0.02
holdout_days = 7
label_window_days = 0.5        # all but 20 of 76,201 outcomes are known after twelve hours
estimator = "sklearn.neural_network.MLPClassifier"
params = {{ hidden_layer_sizes = [16], learning_rate_init = 0.002, batch_size = 128, max_iter = 10 }}
seed = {seed}

[models.flight-delay.finetune]
epochs = 2
replay_ratio = 1.0
batch_size = 128

[models.flight-delay.precompute]
budget_bytes = 131072

[[models.flight-delay.trigger]]
name = "excess-loss"
kind = "performance"
metric = "excess_log_loss"
window_days = 14
above = 0.05
min_outcomes = 500
cooldown_days = 60
action = "finetune"
"""

_FEATURES = """\
name = "flight-delay{suffix}"
{keep}
[[feature]]
kind = "time"
name = "hour"
source = "scheduled"
part = "hour"
cuts = [6, 8, 10, 12, 14, 15, 16, 17, 18, 19, 20]

[[feature]]
kind = "categorical"
name = "carrier"

[[feature]]
kind = "categorical"
name = "origin"
categories = ["EWR", "JFK", "LGA"]

[[feature]]
kind = "categorical"
name = "region"
categories = ["west", "central", "middle", "east"]

[[feature]]
kind = "bucketed"
name = "rain"
source = "precip"
cuts = [0.005]
min = 0
missing = "bucket"

[[feature]]
kind = "bucketed"
name = "poor-visibility"
source = "visib"
cuts = [5]
min = 0
missing = "bucket"

[[feature]]
kind = "time"
name = "weekend"
source = "scheduled"
part = "weekend"
"""

_ORIGIN_STATE = """
[[feature]]
kind = "bucketed"
name = "origin-delay"                  # how late this origin's flights of the last two hours are
source = "origin_delay"
cuts = [0, 4, 10, 20, 40]
missing = "bucket"
"""


def files(*, port: int, seed: int, online_window_s: float) -> dict[str, str]:
    """Return the project's files by path."""
    plain = _FEATURES.format(suffix="", keep='keep = ["origin_delay"]\n')
    return {
        CONFIG_FILE: _CONFIG.format(port=port, seed=seed, online_window_s=online_window_s),
        "features/flight-delay.toml": plain,
        FEATURES_V2: _FEATURES.format(suffix="-v2", keep="") + _ORIGIN_STATE,
    }
