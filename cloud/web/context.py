"""What every request handler needs: the project, its store, and the session keys."""

from __future__ import annotations

import typing

import flask

from cloud.config import Project
from cloud.enrol import Sessions
from cloud.store.store import Store


class Context(typing.NamedTuple):
    """The application's own things."""

    project: Project
    store: Store
    sessions: Sessions


def context() -> Context:
    """Return what the running application was made with."""
    return Context(**flask.current_app.extensions["covey"])
