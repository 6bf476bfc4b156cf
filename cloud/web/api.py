"""The same data as the pages, as JSON."""

from __future__ import annotations

import flask

from cloud.rollout import overview
from cloud.web.context import context
from cloud.web.guard import local_only

blueprint = flask.Blueprint("api", __name__)


@blueprint.before_request
def _guard() -> None:
    # Whether the server answers is no secret, and what asks is often on another machine.
    if flask.request.endpoint != "api.health":
        local_only()


@blueprint.get("/api/v1/fleet")
def fleet() -> flask.Response:
    """Return the fleet."""
    here = context()
    return flask.jsonify(overview.fleet(here.project, here.store))


@blueprint.get("/api/v1/devices")
def devices() -> flask.Response:
    """Return all devices."""
    here = context()
    return flask.jsonify({"devices": overview.devices(here.project, here.store)})


@blueprint.get("/api/v1/rollouts")
def rollouts() -> flask.Response:
    """Return all rollouts, newest first."""
    store = context().store
    return flask.jsonify({"rollouts": [overview.brief(store, row) for row in store.rollouts.all()]})


@blueprint.get("/api/v1/rollouts/<int:number>")
def rollout(number: int) -> flask.Response:
    """Return one rollout."""
    here = context()
    return flask.jsonify(overview.rollout(here.project, here.store, number))


@blueprint.get("/healthz")
def health() -> flask.Response:
    """Say that the server answers."""
    return flask.jsonify({"ok": True})
