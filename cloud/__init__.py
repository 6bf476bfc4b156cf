"""The cloud side of Covey: data, training, precomputed answers, signing, rollouts and the fleet's evidence."""

import os

# ONNX Runtime reports to its maker unless it is told not to before it is imported.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
