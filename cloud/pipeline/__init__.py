"""From data to a signed version."""

from cloud.pipeline.bundling import build_bundle
from cloud.pipeline.order import Order, Trained
from cloud.pipeline.train import override, train

__all__ = ["Order", "Trained", "build_bundle", "override", "train"]
