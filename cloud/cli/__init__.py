"""``covey``: the cloud's command line."""

from cloud.cli.main import main

__all__ = ["main"]
