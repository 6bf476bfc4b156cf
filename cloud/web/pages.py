"""The pages for people: Fleet and Rollout."""

from __future__ import annotations

import flask

blueprint = flask.Blueprint("pages", __name__)
