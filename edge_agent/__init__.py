"""The device side of Covey: pulls signed models, answers locally and sends sums back when there is a network."""

from __future__ import annotations

import os
import typing

# ONNX Runtime reports to its maker, and keeps a database for that in the home folder, unless it is told not to before
# it is imported. What happens on a device is its owner's business.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")

if typing.TYPE_CHECKING:
    from edge_agent.predictor import Answer, Predictor, Ranked

__all__ = ["Answer", "Predictor", "Ranked"]


def __getattr__(name: str) -> object:
    """Import what is for applications when it is asked for: the agent itself has no use for it."""
    if name in __all__:
        from edge_agent import predictor

        return getattr(predictor, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
